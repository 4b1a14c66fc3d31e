"""Stored answers in an object store: what two machines know comes together, and what the store knows is not lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline import storage
from synth.engines import Completion
from synth.engines.cache import AnswerCache
from synth.kept import KeptAnswers
from tests.stages.store_server import BUCKET, environment, store


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    with store() as door:
        for name, value in environment(door).items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/{tmp_path.name}"
    storage._MOUNTS.clear()


def keep(path: Path, **answers: str) -> None:
    with closing(AnswerCache(path)) as cache:
        for key, text in answers.items():
            cache.keep(key.encode(), Completion(text, "stop", 1, 1))


def texts(path: Path, *keys: str) -> list[str | None]:
    with closing(AnswerCache(path)) as cache:
        found = [cache.get(key.encode()) for key in keys]
    return [None if answer is None else answer.text for answer in found]


def on(machine: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    storage._MOUNTS.clear()
    monkeypatch.setenv(storage.WORK, str(machine))
    return storage.open_folder(url) / "answers.sqlite"


def test_a_machine_that_comes_back_takes_what_the_other_one_was_told_and_loses_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = on(tmp_path / "a", url, monkeypatch)
    keep(first, one="1")
    KeptAnswers([first]).copy()
    keep(first, only_here="2", both="of the first")
    second = on(tmp_path / "b", url, monkeypatch)
    KeptAnswers([second]).restore()
    keep(second, three="3", both="of the second")
    KeptAnswers([second]).copy()
    first = on(tmp_path / "a", url, monkeypatch)
    KeptAnswers([first]).restore()
    keys = ("one", "only_here", "three", "both")
    assert texts(first, *keys) == ["1", "2", "3", "of the second"], "what lies at the URL is the truth"
    KeptAnswers([first]).copy()
    third = on(tmp_path / "c", url, monkeypatch)
    KeptAnswers([third]).restore()
    assert texts(third, *keys) == ["1", "2", "3", "of the second"]
    assert sorted(p.name for p in first.parent.iterdir()) == ["answers.sqlite"]
