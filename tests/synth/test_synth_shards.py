"""A run in shards: the bytes of one engine's run, nothing asked twice, whatever is killed."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from endpoint import Endpoint
from pydantic import ValidationError
from scripted import ScriptedEngine, speak

from pipeline import storage
from pipeline.build import run_synthesize
from pipeline.config import BuildConfig
from pipeline.manifest import Result
from synth.config import SynthConfig
from synth.engines import Request
from synth.errors import SynthError
from synth.processes import places
from synth.shards import Asked, Shard, Tell, Work, cut, synthesize_shard
from synth.stage import synthesize_stage

ROOT = Path(__file__).parents[2]
EXAMPLES = str(ROOT / "examples" / "scenarios" / "*.yaml")
SAMPLES = 24
FILES = ("records-00000.parquet", "tokens-smollm2-00000.parquet", "rejects-00000.parquet", "coverage.md")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(reply=speak) as running:
        yield running


def settings(url: str, concurrency: int = 4, **more: Any) -> dict[str, Any]:
    engine = {"kind": "openai", "url": url, "concurrency": concurrency, "retries": 1, "backoff": 0.05, "timeout": 10.0}
    given = {"generator": "concurrent", "samples": SAMPLES, "model": "m", "engine": engine, "batch_size": 4}
    return {**given, "scenarios": [EXAMPLES], **more}


def config(url: str, **more: Any) -> SynthConfig:
    return SynthConfig.model_validate(settings(url, **more))


def scripted(**more: Any) -> SynthConfig:
    given = {"generator": "concurrent", "scenarios": [EXAMPLES], "samples": SAMPLES, "engine": {"dtype": "float32"}}
    return SynthConfig.model_validate(given | more)


def said(request: Request) -> str:
    return speak({"messages": [{"role": m.role, "content": m.content} for m in request.messages]})


def files(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in FILES}


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def answers(path: Path) -> int:
    with closing(sqlite3.connect(path)) as look:
        return int(look.execute("SELECT count(*) FROM answers").fetchone()[0])


def repeated(endpoint: Endpoint) -> int:
    """Answers that were given more than once."""
    return endpoint.answered.total() - len(endpoint.answered)


def in_this_process(shards: Sequence[Shard], directory: Path, work: Work, tell: Tell) -> Iterator[Asked]:
    """As a flow would: what goes there and back is pickled, and the last shard comes first."""
    for shard in reversed(shards):
        given, where, what = pickle.loads(pickle.dumps((shard, directory, work)))
        yield pickle.loads(pickle.dumps(synthesize_shard(given, where, what, tell)))


def test_three_processes_write_what_one_engine_writes_and_ask_every_request_once(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    one = synthesize_stage(config(endpoint.url), tmp_path / "one")
    asked = endpoint.seen
    assert asked == len(endpoint.answered)
    endpoint.delay = 0.05
    three = synthesize_stage(config(endpoint.url, shards=3), tmp_path / "three")
    assert endpoint.seen == 2 * asked
    assert set(endpoint.answered.values()) == {2}, "once in each of the two runs"
    assert endpoint.most > 4, "more than one engine was asked at a time"
    assert files(tmp_path / "three") == files(tmp_path / "one")
    assert three.manifest.outputs == one.manifest.outputs
    assert three.manifest.fingerprint == one.manifest.fingerprint
    assert three.manifest.config == one.manifest.config
    timed = {"seconds", "engine_seconds", "tokens_per_second"}
    assert {k: v for k, v in three.manifest.counters.items() if k not in timed} == {
        k: v for k, v in one.manifest.counters.items() if k not in timed
    }
    assert three.manifest.notes["engine"] == one.manifest.notes["engine"]
    assert names(tmp_path / "three") == names(tmp_path / "one"), "the shards' own stores are gone"
    assert answers(tmp_path / "three" / "answers.sqlite") == answers(tmp_path / "one" / "answers.sqlite") == asked
    assert synthesize_stage(config(endpoint.url, shards=2), tmp_path / "one").skipped, "shards change no record"
    assert endpoint.seen == 2 * asked


def test_a_near_copy_in_another_shard_is_a_duplicate(endpoint: Endpoint, tmp_path: Path) -> None:
    def same(body: dict[str, Any]) -> str:
        """Says the same in every dialogue."""
        stream = re.findall(r"You are the stream (\w+)", body["messages"][0]["content"])
        return speak({"messages": [{"content": f"{stream} {len(body['messages'])}"}]})

    endpoint.reply = same
    given = {"scenarios": [str(ROOT / "examples" / "scenarios" / "turn-taking.yaml")]}
    one = synthesize_stage(config(endpoint.url, **given), tmp_path / "one")
    three = synthesize_stage(config(endpoint.url, **given, shards=3), tmp_path / "three", run_shards=in_this_process)
    assert files(tmp_path / "three") == files(tmp_path / "one")
    assert three.manifest.notes["diversity"] == one.manifest.notes["diversity"]
    rejects = pq.read_table(tmp_path / "three" / "rejects-00000.parquet").to_pylist()
    copies = [
        (row["index"], int(named[1]))
        for row in rejects
        if row["code"] == "duplicate" and (named := re.search(r"like dialogue (\d+)", row["message"]))
    ]
    assert any(index * 3 // SAMPLES != like * 3 // SAMPLES for index, like in copies)


@pytest.mark.parametrize("shards", [1, 3, SAMPLES + 1])
def test_one_engine_that_is_there_may_be_asked_in_shards(tmp_path: Path, shards: int) -> None:
    plain, engine = ScriptedEngine(said), ScriptedEngine(said)
    synthesize_stage(scripted(), tmp_path / "plain", engine=plain)
    result = synthesize_stage(scripted(shards=shards), tmp_path / "shards", engine=engine)
    assert files(tmp_path / "shards") == files(tmp_path / "plain")
    assert sorted(map(str, engine.requests)) == sorted(map(str, plain.requests))
    assert result.manifest.counters["new_tokens"] == 5 * len(plain.requests)


def test_the_judge_is_asked_in_the_shards_too(endpoint: Endpoint, tmp_path: Path) -> None:
    def verdict(body: dict[str, Any]) -> str:
        remarks = {"fluency_remark": "words", "consistency_remark": "words"}
        score = 2 if "river" in body["messages"][-1]["content"] else 5
        return json.dumps({"acausal": [], "fluency": score, "consistency": 5, **remarks})

    with Endpoint(reply=verdict) as critic:
        judge = {"model": "critic", "engine": {"kind": "openai", "url": critic.url}}
        one = synthesize_stage(config(endpoint.url, judge=judge), tmp_path / "one")
        written, judged = endpoint.seen, critic.seen
        three = synthesize_stage(
            config(endpoint.url, judge=judge, shards=3), tmp_path / "three", run_shards=in_this_process
        )
        assert (endpoint.seen, critic.seen) == (2 * written, 2 * judged)
    assert one.manifest.counters["reject_reasons"]["judged_fluency"]
    assert files(tmp_path / "three") == files(tmp_path / "one")
    assert three.manifest.notes["judge"] == one.manifest.notes["judge"]
    assert names(tmp_path / "three") == names(tmp_path / "one")


def test_conversations_are_read_once_for_all_shards(endpoint: Endpoint, tmp_path: Path) -> None:
    source = tmp_path / "chats.jsonl"
    lines = [
        [{"role": "user", "content": f"Tell me of bird {n}"}, {"role": "assistant", "content": "It sings."}]
        for n in range(9)
    ]
    source.write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines))
    given = {"conversations": [str(source)]}
    synthesize_stage(config(endpoint.url, **given), tmp_path / "one")

    def elsewhere(*given: Any) -> Iterator[Asked]:
        source.rename(tmp_path / "moved")  # no other machine needs to see it
        yield from in_this_process(*given)

    synthesize_stage(config(endpoint.url, **given, shards=2), tmp_path / "two", run_shards=elsewhere)
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert not (tmp_path / "two" / ".material").exists()


def test_what_was_refused_is_not_asked_again_by_the_pass_that_writes(endpoint: Endpoint, tmp_path: Path) -> None:
    synthesize_stage(config(endpoint.url), tmp_path / "whole")
    asked, seeds = endpoint.seen, [body["seed"] for body in endpoint.bodies]
    refused = {"status": 400, "body": '{"error": {"message": "maximum context length is 128 tokens"}}', "times": None}
    endpoint.fail(seed=seeds[0], **refused)
    first = synthesize_stage(config(endpoint.url, shards=3), tmp_path / "out", run_shards=in_this_process)
    assert first.manifest.counters["reject_reasons"]["refused"] == first.manifest.notes["resumable"] == 1
    assert [body["seed"] for body in endpoint.bodies[asked:]].count(seeds[0]) == 1
    endpoint.faults.clear()
    before = endpoint.seen
    again = synthesize_stage(config(endpoint.url, shards=3), tmp_path / "out", run_shards=in_this_process)
    assert (again.skipped, again.manifest.notes["resumable"]) == (False, 0)
    assert 0 < endpoint.seen - before < asked / 4, "of the one dialogue only"
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_an_answer_that_no_shard_brought_is_asked_for_at_the_end(endpoint: Endpoint, tmp_path: Path) -> None:
    def losing(shards: Sequence[Shard], directory: Path, work: Work, tell: Tell) -> Iterator[Asked]:
        for asked in in_this_process(shards, directory, work, tell):
            if asked.number == 1:
                (directory / shards[1].store).unlink()
            yield asked

    synthesize_stage(config(endpoint.url), tmp_path / "one")
    asked = endpoint.seen
    synthesize_stage(config(endpoint.url, shards=3), tmp_path / "three", run_shards=losing)
    assert asked < endpoint.seen - asked < 1.6 * asked
    assert files(tmp_path / "three") == files(tmp_path / "one")
    seen = endpoint.seen
    (tmp_path / "three" / "manifest.json").unlink()
    result = synthesize_stage(config(endpoint.url, shards=2), tmp_path / "three")
    assert (endpoint.seen, result.manifest.counters["new_tokens"]) == (seen, 0)


def test_another_number_of_shards_goes_on_where_the_run_was_broken_off(endpoint: Endpoint, tmp_path: Path) -> None:
    synthesize_stage(config(endpoint.url), tmp_path / "whole")
    asked = endpoint.seen
    endpoint.answered.clear()
    gone = endpoint.fail(status=401, times=None, after=asked // 2)
    for shards in (3, 1, 5):
        given = config(endpoint.url, concurrency=1, shards=shards)  # nothing is in flight when it is refused
        with pytest.raises(SynthError, match="401"):
            synthesize_stage(given, tmp_path / "out", run_shards=in_this_process)
        assert endpoint.answered.total() == asked // 2, "what is stored is not asked for again"
    gone.times = 0
    synthesize_stage(config(endpoint.url, shards=2), tmp_path / "out", run_shards=in_this_process)
    assert (endpoint.answered.total(), repeated(endpoint)) == (asked, 0)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_fresh_forgets_what_every_shard_was_answered(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.fail(status=401, times=None, after=40)
    with pytest.raises(SynthError):
        synthesize_stage(config(endpoint.url, shards=3), tmp_path)
    assert any(re.fullmatch(r"answers-\d{5}-\w{8}\.sqlite", name) for name in names(tmp_path))
    others = ("answers.sqlite.bak", "answers-1.sqlite", "answers-00001.sqlite")
    for name in others:
        (tmp_path / name).write_text("paid")
    endpoint.faults.clear()
    seen = endpoint.seen
    synthesize_stage(config(endpoint.url, shards=2), tmp_path, fresh=True, run_shards=in_this_process)
    once = endpoint.seen - seen
    assert answers(tmp_path / "answers.sqlite") == once
    synthesize_stage(config(endpoint.url, shards=3), tmp_path, fresh=True, run_shards=in_this_process)
    assert endpoint.seen - seen == 2 * once
    assert [(tmp_path / name).read_text() for name in others] == ["paid"] * 3


class Watcher:
    """Adds up what it is told, part by part."""

    def __init__(self) -> None:
        self.parts: list[list[int | None]] = []

    def stage(self, name: str) -> None:
        pass

    def part(self, total: int | None, kept: int = 0) -> None:
        self.parts.append([total, kept])

    def rejected(self, reasons: Any) -> None:
        pass

    def progress(self, done: int, what: str) -> None:
        if done:
            self.parts[-1][1] = (self.parts[-1][1] or 0) + done

    def finished(self, result: Result) -> None:
        pass


def test_a_build_is_told_how_far_all_shards_are_and_then_how_far_the_files(endpoint: Endpoint, tmp_path: Path) -> None:
    watcher = Watcher()
    value = {"name": "x", "sources": [{"path": "nothing.jsonl"}], "synth": settings(endpoint.url, shards=3)}
    run_synthesize(BuildConfig.model_validate(value), tmp_path, tmp_path, False, watcher, in_this_process)
    assert watcher.parts == [[SAMPLES, SAMPLES], [SAMPLES, SAMPLES]]


def test_shards_need_a_place_for_their_answers() -> None:
    with pytest.raises(ValidationError, match="shards need cache: true"):
        scripted(shards=2, cache=False)


def test_dialogues_are_shared_out_evenly_and_whole() -> None:
    shards = cut(10, 4)
    assert [(shard.first, shard.stop) for shard in shards] == [(0, 2), (2, 5), (5, 7), (7, 10)]
    assert len({shard.store for shard in shards}) == 4
    assert len(cut(2, 8)) == 2
    assert {shard.store for shard in cut(10, 4)}.isdisjoint(shard.store for shard in shards)


def test_every_engine_of_a_machine_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1, 2,3,4")
    assert places(scripted(shards=8), 8) == ["0", "1", "2", "3", "4"]
    assert places(scripted(shards=2), 2) == ["0", "1"]
    assert places(scripted(engine={"tensor_parallel_size": 2}), 8) == ["0,1", "2,3"]
    assert places(scripted(engine={"at_once": 7}), 8) == ["0", "1", "2", "3", "4", "0", "1"]
    remote = {"kind": "openai", "url": "http://127.0.0.1:1/v1"}
    assert places(scripted(engine=remote), 3) == [None] * 3
    assert places(scripted(engine={**remote, "at_once": 2}), 3) == [None] * 2
    assert places(scripted(engine=remote, judge={"engine": {"kind": "vllm"}}), 8) == ["0", "1", "2", "3", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert places(scripted(shards=8), 8) == [None], "one after the other on a machine without a GPU"


def start(path: Path, url: str, out: Path) -> subprocess.Popen[bytes]:
    path.write_text(yaml.safe_dump(settings(url, shards=3)))
    command = [sys.executable, "-m", "pipeline.cli", "synth", str(path), "--out", str(out), "--json"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    return [child for child in found if "spawn_main" in " ".join(child.cmdline())]


def until(condition: Any, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["shard", "parent", "all"])
def test_killed_in_the_middle_the_run_goes_on_and_nothing_that_was_stored_is_asked_again(
    tmp_path: Path, victim: str
) -> None:
    with Endpoint(reply=speak, delay=0.05) as endpoint:
        process = start(tmp_path / "config.yaml", endpoint.url, tmp_path / "out")
        assert until(lambda: len(endpoint.answered) >= 60 or process.poll() is not None)
        children = workers(process)
        assert len(children) == 3
        if victim == "shard":
            children[1].kill()
        elif victim == "parent":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate(timeout=60)
        psutil.wait_procs(children, timeout=10)
        assert not [child for child in children if child.is_running()], "no process outlives the command"
        if victim == "shard":
            assert process.returncode == 1
            told = " ".join(err.decode().split())
            assert re.search(r"error: the process of synthesis shard \d was killed by signal 9.* run again", told)
            assert "Traceback" not in told
        stores = [*(tmp_path / "out").glob("answers-*.sqlite")]
        kept = sum(answers(path) for path in stores)
        assert 40 < kept < 120
        assert endpoint.answered.total() - kept <= 3 * 4, "only what was in flight"
        before = endpoint.answered.total()
        process = start(tmp_path / "config.yaml", endpoint.url, tmp_path / "out")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
        counters = json.loads(out)["counters"]
        assert counters["in"] == SAMPLES == counters["out"] + counters["rejected"]
        assert endpoint.answered.total() - before == counters["requests"] - kept
    with Endpoint(reply=speak) as endpoint:
        synthesize_stage(config(endpoint.url), tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert names(tmp_path / "out") == names(tmp_path / "whole")


@pytest.fixture
def url() -> Iterator[str]:
    """A place in a store that other folders of this process can be mounted on too."""
    yield (place := f"memory://{os.urandom(4).hex()}/synth")
    fsspec.filesystem("memory").rm(place.rsplit("/", 1)[0], recursive=True)


def machine(folder: Path, url: str) -> Path:
    """The run's folder as a machine of its own has it."""
    storage.mount(storage.Mount(folder, url))
    folder.mkdir(parents=True)
    return folder


def test_machines_that_share_a_store_alone_write_what_one_engine_writes(
    endpoint: Endpoint, tmp_path: Path, url: str
) -> None:
    source = tmp_path / "chats.jsonl"
    lines = [
        [{"role": "user", "content": f"Tell me of bird {n}"}, {"role": "assistant", "content": "It sings."}]
        for n in range(9)
    ]
    source.write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines))
    given = {"conversations": [str(source)]}
    synthesize_stage(config(endpoint.url, **given), tmp_path / "one")
    asked = endpoint.seen

    def elsewhere(name: str, most: int) -> Any:
        def run_shards(shards: Sequence[Shard], _: Path, work: Work, tell: Tell) -> Iterator[Asked]:
            for shard in shards[:most]:
                there = machine(tmp_path / f"{name}{shard.number}", url)
                yield synthesize_shard(shard, there, replace(work, mounted=()), tell)
            if most < len(shards):
                raise SynthError("the others are gone")

        return run_shards

    first = machine(tmp_path / "first", url)
    with pytest.raises(SynthError, match="the others are gone"):
        synthesize_stage(config(endpoint.url, **given, shards=3), first, run_shards=elsewhere("a", 2))
    before = endpoint.seen - asked
    assert 0 < before < asked
    shutil.rmtree(first)  # that machine is gone too
    second = machine(tmp_path / "second", url)
    result = synthesize_stage(config(endpoint.url, **given, shards=2), second, run_shards=elsewhere("b", 2))
    assert endpoint.seen == 2 * asked
    assert result.manifest.counters["new_tokens"] < result.manifest.counters["completion_tokens"]
    assert files(second) == files(tmp_path / "one")
    left = set(storage.files_below(second) or ())
    assert left == {*FILES, "manifest.json", "answers.sqlite"}
    for number in (0, 1):
        assert not [*(tmp_path / f"b{number}").glob("answers-*")]
