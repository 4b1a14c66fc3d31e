from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synth.config import OpenAIOptions
from synth.engines import Completion, Message, Request
from synth.engines.cache import AnswerCache, CachedEngine, key_of
from synth.engines.open import open_engine
from synth.errors import SynthError
from tests.synth.endpoint import Endpoint, fingerprint

ROOT = Path(__file__).parents[2]
ASKED = Request((Message("user", "Which birds sing at night?"),), {"type": "object"}, 1, 0.8, 0.95, 32)
IDENTITY = {"engine": "scripted", "model": "one"}


class Scripted:
    """Says the seed; ends as ``ends`` says for it; fails from the request number ``until`` on."""

    def __init__(self, ends: dict[int, str] | None = None, until: int = 1_000, model: str = "one") -> None:
        self.ends, self.until, self.model = ends or {}, until, model
        self.seeds: list[int] = []
        self.closed = self.left_early = False

    def answers(self, requests: Sequence[Request]) -> Generator[tuple[int, Completion], None, None]:
        try:
            for place in reversed(range(len(requests))):
                seed = requests[place].seed
                if len(self.seeds) >= self.until:
                    raise SynthError("the server is gone: start it")
                self.seeds.append(seed)
                yield place, Completion(f"seed {seed}", self.ends.get(seed, "stop"), 3, 2, 1)
        except GeneratorExit:
            self.left_early = True
            raise

    def identity(self) -> dict[str, Any]:
        return IDENTITY | {"model": self.model}

    def describe(self) -> dict[str, Any]:
        return self.identity()

    def close(self) -> None:
        self.closed = True


def of_seeds(*seeds: int) -> list[Request]:
    return [replace(ASKED, seed=seed) for seed in seeds]


def ask(path: Path, engine: Scripted, requests: Sequence[Request]) -> tuple[dict[int, Completion], int, int]:
    with closing(CachedEngine(engine, AnswerCache(path))) as cached:
        answers = dict(cached.answers(requests))
        return answers, cached.asked, cached.from_cache


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.sqlite"
    first, second = Scripted(), Scripted()
    answers, asked, kept = ask(path, first, of_seeds(1, 2, 3))
    assert (asked, kept, sorted(first.seeds), first.closed) == (3, 0, [1, 2, 3], True)
    again, asked, kept = ask(path, second, of_seeds(4, 3, 2, 1))
    assert (asked, kept, second.seeds) == (1, 3, [4])
    assert [again[place] for place in (3, 2, 1)] == [answers[place] for place in range(3)]
    assert [file.name for file in path.parent.iterdir()] == ["answers.sqlite"], "one file is left"


def test_an_answer_tells_whether_it_was_there_before(tmp_path: Path) -> None:
    first, _, _ = ask(tmp_path / "a", Scripted(), of_seeds(1, 2, 2))
    assert [first[place].stored for place in range(3)] == [False, False, True]
    again, _, _ = ask(tmp_path / "a", Scripted(), of_seeds(1, 3))
    assert [again[place].stored for place in range(2)] == [True, False]


def test_equal_requests_of_a_batch_are_asked_once(tmp_path: Path) -> None:
    engine = Scripted(ends={2: "refused"})
    answers, asked, kept = ask(tmp_path / "a", engine, of_seeds(1, 2, 1, 2, 1))
    assert [answers[place].text for place in range(5)] == ["seed 1", "seed 2", "seed 1", "seed 2", "seed 1"]
    assert (asked, kept, sorted(engine.seeds)) == (2, 3, [1, 2])


def test_only_answers_are_kept(tmp_path: Path) -> None:
    ends = {1: "stop", 2: "length", 3: "refused", 4: "abort", 5: "content_filter", 6: "unknown"}
    ask(tmp_path / "a", Scripted(ends), of_seeds(*ends))
    engine = Scripted(ends)
    answers, _, _ = ask(tmp_path / "a", engine, of_seeds(*ends))
    assert sorted(engine.seeds) == [3, 4, 5, 6]
    assert [answers[place].finish_reason for place in range(6)] == list(ends.values())


OTHERS = {
    "text": replace(ASKED, messages=(Message("user", "Which birds sing by day?"),)),
    "role": replace(ASKED, messages=(Message("system", "Which birds sing at night?"),)),
    "cut": replace(ASKED, messages=(Message("user", "Which birds"), Message("user", " sing at night?"))),
    "no schema": replace(ASKED, schema=None),
    "schema": replace(ASKED, schema={"type": "array"}),
    "seed": replace(ASKED, seed=2),
    "temperature": replace(ASKED, temperature=0.7),
    "top_p": replace(ASKED, top_p=0.9),
    "max_tokens": replace(ASKED, max_tokens=33),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_key_holds_all_of_a_request(what: str) -> None:
    assert key_of(IDENTITY, OTHERS[what]) != key_of(IDENTITY, ASKED)


def test_a_key_holds_the_engine_and_the_order_of_a_schema() -> None:
    assert key_of(IDENTITY, ASKED) == key_of(dict(reversed(IDENTITY.items())), replace(ASKED))
    assert key_of(IDENTITY | {"model": "two"}, ASKED) != key_of(IDENTITY, ASKED)
    ab = replace(ASKED, schema={"properties": {"a": {}, "b": {}}})
    ba = replace(ASKED, schema={"properties": {"b": {}, "a": {}}})
    assert key_of(IDENTITY, ab) != key_of(IDENTITY, ba), "properties are written in their order"


def test_another_model_has_answers_of_its_own(tmp_path: Path) -> None:
    ask(tmp_path / "a", Scripted(), of_seeds(1))
    other = Scripted(model="two")
    ask(tmp_path / "a", other, of_seeds(1))
    assert other.seeds == [1]


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    stopped = Scripted(until=4)
    with pytest.raises(SynthError, match=r"is gone: start it; what was answered is kept$"):
        ask(tmp_path / "a", stopped, of_seeds(*range(10)))
    resumed = Scripted()
    ask(tmp_path / "a", resumed, of_seeds(*range(10)))
    assert sorted(stopped.seeds + resumed.seeds) == list(range(10)), "nothing is asked twice"


def test_an_answer_is_committed_before_it_is_given_and_closing_reaches_the_engine(tmp_path: Path) -> None:
    engine = Scripted()
    cached = CachedEngine(engine, AnswerCache(tmp_path / "a"))
    answers = cached.answers(of_seeds(1, 2))
    next(answers)
    with closing(sqlite3.connect(tmp_path / "a")) as look:
        assert look.execute("SELECT text FROM answers").fetchall() == [("seed 2",)]
    answers.close()  # type: ignore[attr-defined]
    assert engine.left_early
    cached.close()
    cached.close()
    with pytest.raises(SynthError, match="closed"):
        list(cached.answers(of_seeds(1)))


def test_two_share_a_file_and_the_first_answer_counts(tmp_path: Path) -> None:
    with closing(AnswerCache(tmp_path / "a")) as one, closing(AnswerCache(tmp_path / "a")) as two:
        first, second = Completion("first", "stop", 1, 1), Completion("second", "stop", 1, 1)
        assert one.keep(b"k", first) == first
        assert two.keep(b"k", second) == first
        assert (two.get(b"k"), len(one)) == (first, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_who_finds_the_file_locked_waits(tmp_path: Path) -> None:
    with closing(AnswerCache(tmp_path / "a")) as cache:
        other = sqlite3.connect(tmp_path / "a", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
        started = time.monotonic()
        cache.keep(b"k", Completion("t", "stop", 1, 1))
        assert time.monotonic() - started > 0.2
        other.close()


def test_who_waits_in_vain_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synth.engines.cache._WAIT_SECONDS", 0.1)
    with closing(AnswerCache(tmp_path / "a")) as cache, closing(sqlite3.connect(tmp_path / "a")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SynthError, match="being written by another process: wait"):
            cache.keep(b"k", Completion("t", "stop", 1, 1))


def text_file(path: Path) -> None:
    path.write_text("no database, but long enough to be looked at\n" * 100)


def half_of_one(path: Path) -> None:
    with closing(AnswerCache(path)) as cache:
        for number in range(200):
            cache.keep(b"%d" % number, Completion("text " * 100, "stop", 1, 1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def another_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE answers (key BLOB PRIMARY KEY, text TEXT)")


def later_version(path: Path) -> None:
    AnswerCache(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (text_file, "is damaged, or holds no answers"),
        (half_of_one, "is damaged"),
        (another_database, "holds no answers: move it away"),
        (later_version, "version 99, this is version 1: delete it"),
        (Path.mkdir, "cannot keep answers in"),
    ],
)
def test_a_file_that_is_none_of_ours_is_an_error_in_one_line(tmp_path: Path, make: Any, says: str) -> None:
    path = tmp_path / "a"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(SynthError, match=says) as told:
        ask(path, Scripted(), of_seeds(*range(3)))
    assert "\n" not in str(told.value)
    assert (path.read_bytes() if path.is_file() else b"") == before, "it is left as it was"


def test_a_file_that_was_only_begun_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    ask(tmp_path / "a", Scripted(), of_seeds(1))
    assert ask(tmp_path / "a", Scripted(), of_seeds(1))[1:] == (0, 1)


def test_a_foreign_file_is_found_before_an_engine_is_opened(tmp_path: Path) -> None:
    text_file(tmp_path / "a")
    opened = open_engine(
        "no/such/model/anywhere", OpenAIOptions(kind="openai", url="http://x/v1"), 1, 0, tmp_path / "a"
    )
    with pytest.raises(SynthError, match="damaged"), opened:
        pass


def test_open_engine_keeps_answers_only_where_it_is_told(tmp_path: Path) -> None:
    with Endpoint() as endpoint:
        options = OpenAIOptions(kind="openai", url=endpoint.url)
        for cache in (None, tmp_path / "a", tmp_path / "a"):
            with open_engine("any", options, 4, 0, cache) as engine:
                assert len(dict(engine.answers(of_seeds(1, 2)))) == 2
        assert endpoint.seen == 4
        assert engine.describe()["from_cache"] == 2


def test_a_run_whose_server_went_away_asks_it_nothing_twice_when_it_is_back(tmp_path: Path) -> None:
    requests = of_seeds(*range(60))
    with Endpoint() as endpoint:
        options = OpenAIOptions(kind="openai", url=endpoint.url, concurrency=4, retries=1, backoff=0.01)
        for _ in range(2):
            endpoint.fail(status=503, times=None, after=20)
            with open_engine("any", options, 4, 0, tmp_path / "a") as engine, pytest.raises(SynthError) as told:
                list(engine.answers(requests))
            endpoint.faults.clear()
            assert str(told.value).endswith("start it and run again; what was answered is kept")
        with open_engine("any", options, 4, 0, tmp_path / "a") as engine:
            assert len(dict(engine.answers(requests))) == 60
        assert sorted(endpoint.answered.values()) == [1] * 60


COUNT = 200
CONCURRENCY = 8
ASKER = f"""
import sys
from pathlib import Path
from synth.config import OpenAIOptions
from synth.engines import Message, Request
from synth.engines.open import open_engine

options = OpenAIOptions(kind="openai", url=sys.argv[1], concurrency={CONCURRENCY})
requests = [Request((Message("user", "Hello"),), None, seed, 0.8, 0.95, 32) for seed in range({COUNT})]
with open_engine("any", options, 8, 0, Path(sys.argv[2])) as engine:
    print("begin", flush=True)
    answers = dict(engine.answers(requests))
    print(*(answers[place].text for place in range({COUNT})), sep=";")
    print(engine.describe()["asked"], engine.describe()["from_cache"])
"""


def test_a_process_that_is_killed_at_any_instant_asks_nothing_again_that_was_kept(tmp_path: Path) -> None:
    chance = random.Random(5)
    path = tmp_path / "answers.sqlite"
    command = [sys.executable, "-c", textwrap.dedent(ASKER)]
    repeated, kept = 0, 0
    with Endpoint(delay=0.02) as endpoint:
        for _ in range(3):
            asker = subprocess.Popen([*command, endpoint.url, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
            assert asker.stdout is not None
            assert asker.stdout.readline() == b"begin\n"
            enough = endpoint.answered.total() + chance.randint(3, 55)
            while endpoint.answered.total() < enough and asker.poll() is None:
                time.sleep(chance.uniform(0.0, 0.004))
            asker.send_signal(signal.SIGKILL)
            asker.wait()
            asker.stdout.close()
            before, kept = kept, committed(path)
            assert kept >= before
            sent = endpoint.answered.total()
            assert sent - len(endpoint.answered) - repeated <= CONCURRENCY, "only what was in flight is asked again"
            assert kept >= len(endpoint.answered) - CONCURRENCY
            repeated = sent - len(endpoint.answered)
        assert 0 < kept < COUNT
        seen = endpoint.seen
        out = subprocess.run([*command, endpoint.url, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
        _, texts, counts = out.stdout.splitlines()
        assert len(set(texts.split(";"))) == COUNT == len(endpoint.answered)
        assert counts == f"{COUNT - kept} {kept}"
        assert endpoint.seen - seen == COUNT - kept
        again = {fingerprint(body) for body in endpoint.bodies[seen:]}
        assert len(again) == COUNT - kept
    assert [file.name for file in tmp_path.iterdir()] == ["answers.sqlite"]


def committed(path: Path) -> int:
    with closing(sqlite3.connect(path)) as look:
        (count,) = look.execute("SELECT count(*) FROM answers").fetchone()
    return int(count)
