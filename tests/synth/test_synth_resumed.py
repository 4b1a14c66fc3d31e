"""What a run that has ended depends on: when it is skipped, when it goes on, and what its folder and its figures tell."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from endpoint import Endpoint
from scripted import ScriptedEngine, speak
from typer.testing import CliRunner

from pipeline.build import run_synthesize
from pipeline.cli import app
from pipeline.config import BuildConfig
from pipeline.errors import PipelineError
from pipeline.manifest import Result
from synth.config import EngineOptions, SynthConfig
from synth.engines import Completion, Engine, Request
from synth.errors import SynthError
from synth.generators.concurrent import Concurrent
from synth.report import summary
from synth.scenarios import load_scenarios
from synth.stage import ResumeError, synthesize_stage

EXAMPLES = str(Path(__file__).parents[2] / "examples" / "scenarios" / "*.yaml")
SAMPLES = 8
CONTEXT = {"status": 400, "body": '{"error": {"message": "maximum context length is 128 tokens"}}'}
RECORDS = ("records-00000.parquet", "tokens-smollm2-00000.parquet", "rejects-00000.parquet")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint(reply=speak) as running:
        yield running


def settings(url: str, **more: Any) -> dict[str, Any]:
    engine = {"kind": "openai", "url": url, "retries": 0, "concurrency": 4}
    given = {"generator": "concurrent", "samples": SAMPLES, "model": "m", "engine": engine}
    return {**given, "scenarios": [EXAMPLES], **more}


def config(url: str, **more: Any) -> SynthConfig:
    return SynthConfig.model_validate(settings(url, **more))


def scripted(**more: Any) -> SynthConfig:
    return SynthConfig.model_validate({"generator": "concurrent", "scenarios": [EXAMPLES], "samples": 2, **more})


def said(request: Request) -> str:
    return speak({"messages": [{"role": m.role, "content": m.content} for m in request.messages]})


def spoken() -> ScriptedEngine:
    return ScriptedEngine(said)


def first_seed(of: SynthConfig, index: int) -> int:
    """The seed of the first request of a dialogue."""
    maker = Concurrent(of, load_scenarios(of.scenarios))
    return next(maker.dialogue(index))[0].seed


def files(directory: Path) -> list[bytes]:
    return [(directory / name).read_bytes() for name in RECORDS]


def test_what_was_refused_is_asked_again_when_the_server_is_mended(endpoint: Endpoint, tmp_path: Path) -> None:
    whole = synthesize_stage(config(endpoint.url), tmp_path / "whole")
    asked = endpoint.seen
    seed = first_seed(config(endpoint.url), 3)
    endpoint.fail(times=None, seed=seed, **CONTEXT)
    first = synthesize_stage(config(endpoint.url), tmp_path / "out")
    assert first.manifest.counters["reject_reasons"]["refused"] == first.manifest.notes["resumable"] == 1
    assert "1 dialogues were refused or given up by the engine: run again" in "\n".join(summary(first.manifest))
    assert not synthesize_stage(config(endpoint.url), tmp_path / "out").skipped, "it may be mended at any time"
    endpoint.faults.clear()
    seen = endpoint.seen
    again = synthesize_stage(config(endpoint.url), tmp_path / "out")
    assert not again.skipped
    assert again.manifest.notes["resumable"] == 0
    assert 0 < endpoint.seen - seen < asked / 2, "of the one dialogue only"
    assert [seed] == [body["seed"] for body in endpoint.bodies[seen : seen + 1]]
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert again.manifest.counters["accepted"] == whole.manifest.counters["accepted"]
    assert synthesize_stage(config(endpoint.url), tmp_path / "out").skipped


def test_a_prompt_that_always_breaks_the_server_does_not_stop_the_run(endpoint: Endpoint, tmp_path: Path) -> None:
    seed = first_seed(config(endpoint.url), 3)
    endpoint.fail(status=500, body='{"error": {"message": "grammar crash"}}', times=None, seed=seed)
    for _ in range(2):
        result = synthesize_stage(config(endpoint.url), tmp_path)
        assert result.manifest.counters["reject_reasons"]["aborted"] == result.manifest.notes["resumable"] == 1
        rejects = pq.read_table(tmp_path / "rejects-00000.parquet").to_pylist()
        (reject,) = [row for row in rejects if row["code"] == "aborted"]
        assert (reject["index"], reject["message"]) == (3, "the engine stopped with failed (500 grammar crash)")


def test_where_the_judge_refused_the_judge_is_asked_again(endpoint: Endpoint, tmp_path: Path) -> None:
    def verdict(body: dict[str, Any]) -> str:
        remarks = {"fluency_remark": "words", "consistency_remark": "words"}
        return json.dumps({"acausal": [], "fluency": 5, "consistency": 5, **remarks})

    with Endpoint(reply=verdict) as critic:
        judged = config(endpoint.url, judge={"model": "critic", "engine": {"kind": "openai", "url": critic.url}})
        critic.fail(times=2, **CONTEXT)
        first = synthesize_stage(judged, tmp_path)
        assert first.manifest.counters["reject_reasons"]["unjudged"] == first.manifest.notes["resumable"] == 2
        written, read = endpoint.seen, critic.seen
        again = synthesize_stage(judged, tmp_path)
        assert (again.skipped, again.manifest.notes["resumable"]) == (False, 0)
        assert (endpoint.seen - written, critic.seen - read) == (0, 2)


def test_without_kept_answers_a_run_that_has_ended_is_not_asked_for_again(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.fail(**CONTEXT)
    first = synthesize_stage(config(endpoint.url, cache=False), tmp_path)
    assert first.manifest.counters["reject_reasons"]["refused"] == 1
    assert first.manifest.notes["resumable"] == 0
    assert synthesize_stage(config(endpoint.url, cache=False), tmp_path).skipped


def test_what_vllm_in_process_refuses_by_its_settings_it_will_always_refuse(tmp_path: Path) -> None:
    class Refusing(ScriptedEngine):
        def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
            for place, completion in super().answers(requests):
                first = len(self.requests) == len(requests) and place == 0
                yield place, Completion("too long", "refused", 0, 0) if first else completion

    result = synthesize_stage(scripted(), tmp_path, engine=Refusing(said))
    assert result.manifest.counters["reject_reasons"]["refused"] == 1
    assert result.manifest.notes["resumable"] == 0


def test_a_server_that_is_off_by_now_takes_nothing_away_from_a_run_that_has_ended(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    fault = endpoint.fail(times=1, **CONTEXT)
    first = synthesize_stage(config(endpoint.url), tmp_path / "synth")
    assert fault.times == 0
    before = files(tmp_path / "synth")
    endpoint.fail(cut="before", times=None)
    with pytest.raises(ResumeError, match=r"1 dialogues .* could not be asked for again: .*no connection") as told:
        synthesize_stage(config(endpoint.url), tmp_path / "synth")
    assert told.value.result == Result(tmp_path / "synth", first.manifest, skipped=True)
    assert files(tmp_path / "synth") == before
    watcher = Watcher()
    assert run_synthesize(build(settings(endpoint.url)), tmp_path, tmp_path, False, watcher) == told.value.result
    assert watcher.results == [told.value.result], "a build goes on"
    with pytest.raises(SynthError) as plain:
        synthesize_stage(config(endpoint.url, seed=1), tmp_path / "synth")
    assert not isinstance(plain.value, ResumeError), "that is another run"


def test_a_run_of_which_nothing_was_answered_is_an_error_that_says_why(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.fail(times=None, **CONTEXT)
    why = rf"answered for none of {SAMPLES} dialogues .*400 maximum context length is 128 tokens\): mend"
    with pytest.raises(PipelineError, match=why):
        synthesize_stage(config(endpoint.url), tmp_path)
    endpoint.faults.clear()
    assert synthesize_stage(config(endpoint.url), tmp_path).manifest.counters["accepted"]


def test_more_rejects_than_allowed_are_an_error(tmp_path: Path) -> None:
    def engine() -> ScriptedEngine:
        return ScriptedEngine(lambda request: "garbage")

    with pytest.raises(PipelineError, match=r"2 of 2 dialogues were rejected \(2 not_json\), more than .* = 0\.5"):
        synthesize_stage(scripted(max_rejected_fraction=0.5), tmp_path, engine=engine())
    result = synthesize_stage(scripted(), tmp_path, engine=engine())
    assert (result.skipped, result.manifest.counters["accepted"]) == (False, 0)
    assert synthesize_stage(scripted(max_rejected_fraction=1.0), tmp_path, engine=engine()).skipped
    with pytest.raises(PipelineError, match=r"more than max_rejected_fraction = 0\.9"):
        synthesize_stage(scripted(max_rejected_fraction=0.9), tmp_path, engine=engine())


def test_the_judges_password_is_nowhere_and_how_it_is_asked_changes_nothing(endpoint: Endpoint, tmp_path: Path) -> None:
    url = endpoint.url.replace("http://", "http://bob:open-it@") + "?api-key=query-secret"

    def judged(**tuned: Any) -> SynthConfig:
        engine = {"kind": "openai", "url": url, **tuned}
        return config(url, judge={"engine": engine, "min_fluency": 2})

    synthesize_stage(judged(), tmp_path)
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        assert not [word for word in (b"open-it", b"query-secret", b"bob:") if word in data], path.name
    assert synthesize_stage(judged(concurrency=3, retries=1), tmp_path).skipped
    assert not synthesize_stage(judged(structured="none"), tmp_path).skipped


@pytest.mark.parametrize("changed", ["model", "adapter", "judge"])
def test_weights_that_were_trained_again_are_another_run(tmp_path: Path, changed: str) -> None:
    for name in ("model", "adapter", "judge"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.bin").write_text("trained")
    given = scripted(
        model=str(tmp_path / "model"),
        engine={"lora": str(tmp_path / "adapter")},
        judge={"model": str(tmp_path / "judge")},
    )
    synthesize_stage(given, tmp_path / "out", engine=spoken())
    assert synthesize_stage(given, tmp_path / "out", engine=spoken()).skipped
    (tmp_path / changed / "weights.bin").write_text("trained again")
    assert not synthesize_stage(given, tmp_path / "out", engine=spoken()).skipped


def test_fresh_forgets_answers_only_when_it_asks_anew(endpoint: Endpoint, tmp_path: Path) -> None:
    synthesize_stage(config(endpoint.url), tmp_path)
    others = ("answers.sqlite.bak", "my-answers.sqlite", "answers.sqlite2")
    for name in others:
        (tmp_path / name).write_text("paid")
    kept = (tmp_path / "answers.sqlite").read_bytes()
    with pytest.raises(SynthError, match="no scenario file matches"):
        synthesize_stage(config(endpoint.url, scenarios=["/no/typo.yaml"]), tmp_path, fresh=True)
    assert (tmp_path / "answers.sqlite").read_bytes() == kept
    (tmp_path / "judge-answers.sqlite").write_text("old")
    seen = endpoint.seen
    synthesize_stage(config(endpoint.url), tmp_path, fresh=True)
    assert endpoint.seen == 2 * seen
    assert not (tmp_path / "judge-answers.sqlite").exists()
    assert [(tmp_path / name).read_text() for name in others] == ["paid"] * 3


@pytest.mark.parametrize(
    ("judge", "opened"),
    [
        ({}, [("writer", "adapter")]),
        ({"model": "other"}, [("writer", "adapter"), ("other", None)]),
        ({"model": "other", "engine": {"lora": "its-own"}}, [("writer", "adapter"), ("other", "its-own")]),
        ({"engine": {"lora": "its-own"}}, [("writer", "adapter"), ("writer", "its-own")]),
    ],
)
def test_a_judge_with_a_model_of_its_own_does_not_wear_the_writers_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: dict[str, Any], opened: list[tuple[str, str | None]]
) -> None:
    seen = []

    @contextmanager
    def open_engine(model: str, options: EngineOptions, *_: object) -> Iterator[Engine]:
        seen.append((model, getattr(options, "lora", None)))
        yield spoken()

    monkeypatch.setattr("synth.stage.open_engine", open_engine)
    synthesize_stage(scripted(model="writer", engine={"lora": "adapter"}, judge=judge), tmp_path)
    assert seen == opened


def test_tokens_per_second_are_of_what_was_asked(endpoint: Endpoint, tmp_path: Path) -> None:
    first = synthesize_stage(config(endpoint.url), tmp_path).manifest.counters
    assert first["new_tokens"] == first["completion_tokens"] > 0
    assert first["tokens_per_second"] > 0
    (tmp_path / "manifest.json").unlink()
    again = synthesize_stage(config(endpoint.url), tmp_path).manifest
    assert again.counters["completion_tokens"] == first["completion_tokens"]
    assert (again.counters["new_tokens"], again.counters["tokens_per_second"]) == (0, None)
    assert "nothing asked anew" in summary(again)[0]


class Watcher:
    """Adds up what it is told, as all watchers do."""

    def __init__(self) -> None:
        self.done = 0
        self.results: list[Result] = []

    def stage(self, name: str) -> None:
        pass

    def progress(self, done: int, what: str) -> None:
        self.done += done

    def finished(self, result: Result) -> None:
        self.results.append(result)


def build(synth: dict[str, Any], **more: Any) -> BuildConfig:
    return BuildConfig.model_validate({"name": "x", "sources": [{"path": "nothing.jsonl"}], "synth": synth, **more})


def test_a_build_is_told_of_every_dialogue_once(endpoint: Endpoint, tmp_path: Path) -> None:
    watcher = Watcher()
    run_synthesize(build(settings(endpoint.url, samples=24, batch_size=4)), tmp_path, tmp_path, False, watcher)
    assert watcher.done == 24


def test_the_command_keeps_the_clock_of_the_build(endpoint: Endpoint, tmp_path: Path) -> None:
    value = {"name": "x", "sources": [{"path": "nothing.jsonl"}], "synth": settings(endpoint.url)}
    path = tmp_path / "build.yaml"
    path.write_text(yaml.safe_dump(value | {"convert": {"lag": 1, "tokenizer": "no/such:tokenizer"}}))
    done = CliRunner().invoke(app, ["synth", str(path), "--out", str(tmp_path / "none")])
    assert "no/such:tokenizer" in str(done.exception) + done.output
    done = CliRunner().invoke(app, ["synth", str(path), "--out", str(tmp_path / "out"), "--tokenizer", "smollm2"])
    assert done.exit_code == 0, done.output
    clocks = pq.read_table(tmp_path / "out" / "records-00000.parquet").column("clock").to_pylist()
    assert {clock["lag"] for clock in clocks} == {1}
