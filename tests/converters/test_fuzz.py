"""A small run of the fuzzer: conversion keeps its promises whatever it is given; and the fuzzer sees it where it does not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from raw_walker import CORPORA

from benchmarks import fuzz
from converters import CONVERTERS
from pipeline.convert import Batch, Converter


def failed(tally: fuzz.Tally) -> list[tuple[str, int, str]]:
    return [(failure.kind, failure.case.number, failure.what[-300:]) for failure in tally.failed]


@pytest.mark.parametrize("way", range(len(fuzz.CONFIGS)))
def test_damaged_examples_are_converted_or_rejected_with_a_reason(way: int) -> None:
    start = way * fuzz.TASK
    tally = fuzz.fuzz_range(start, start + 200, seed=11, corpora=None, limit=20)
    assert not failed(tally)
    assert tally.units == sum(tally.outcomes.values()) == 200
    assert tally.outcomes["converted"] > 40
    assert tally.outcomes["rejected"] > 40
    assert len(tally.reasons) > 5


def test_damaged_records_of_the_corpora_are_converted_or_rejected_with_a_reason() -> None:
    if not CORPORA.is_dir():
        pytest.skip(f"{CORPORA} is not here")
    tally = fuzz.fuzz_range(0, 400, seed=12, corpora=CORPORA, limit=20)
    assert not failed(tally)
    assert tally.outcomes["converted"] > 40


def test_every_format_is_drawn_and_a_unit_is_told_by_its_number() -> None:
    cases = [fuzz.make_case(5, number, None) for number in range(12 * len(CONVERTERS))]
    assert {case.seed for case in cases} == {f"example {name}" for name in CONVERTERS}
    assert cases[17] == fuzz.make_case(5, 17, None)
    assert cases[17] != fuzz.make_case(6, 17, None)
    assert len({case.unit["raw"] for case in cases}) > len(cases) // 2


@pytest.fixture
def cases() -> list[fuzz.Case]:
    return [fuzz.make_case(3, number, None) for number in range(12)]


def broken(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Lets ``change`` have its way with every batch that is converted."""
    real = Converter.convert

    def convert(self: Converter, units: Sequence[Any]) -> Batch:
        batch = real(self, units)
        change(units, batch)
        return batch

    monkeypatch.setattr(Converter, "convert", convert)


def test_a_crash_is_pinned_to_its_unit(monkeypatch: pytest.MonkeyPatch, cases: list[fuzz.Case]) -> None:
    def crash(units: Sequence[Any], batch: Batch) -> None:
        if any(unit["index"] == 7 for unit in units):
            raise ZeroDivisionError

    broken(monkeypatch, crash)
    tally = fuzz.run_cases(cases, limit=20)
    assert [found[:2] for found in failed(tally)] == [("crashes", 7)]
    assert "ZeroDivisionError" in failed(tally)[0][2]
    assert tally.units == 12


def test_a_unit_that_takes_too_long_is_pinned(monkeypatch: pytest.MonkeyPatch, cases: list[fuzz.Case]) -> None:
    def hang(units: Sequence[Any], batch: Batch) -> None:
        if any(unit["index"] == 4 for unit in units):
            time.sleep(30)

    fuzz.run_cases(cases, limit=20)
    broken(monkeypatch, hang)
    tally = fuzz.run_cases(cases, limit=0.4)
    assert [found[:2] for found in failed(tally)] == [("hangs", 4)]


def lose_a_reject(units: Sequence[Any], batch: Batch) -> None:
    batch.rejects.clear()


def lose_a_record(units: Sequence[Any], batch: Batch) -> None:
    batch.records = batch.records.slice(1)


def forget_why(units: Sequence[Any], batch: Batch) -> None:
    for row in batch.rejects:
        row["code"] = "something_undocumented"


def say_something_else(units: Sequence[Any], batch: Batch) -> None:
    rows = batch.records.to_pylist()
    for row in rows:
        row["events"][0]["text"] += "!"
    batch.records = pa.Table.from_pylist(rows, schema=batch.records.schema)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lose_a_reject, "lost"),
        (lose_a_record, "lost"),
        (forget_why, "unlabelled"),
        (say_something_else, "broken"),
    ],
)
def test_a_broken_promise_is_seen(
    monkeypatch: pytest.MonkeyPatch, cases: list[fuzz.Case], change: Any, kind: str
) -> None:
    outcomes = fuzz.run_cases(cases, limit=20).outcomes
    assert outcomes["converted"]
    assert outcomes["rejected"]
    broken(monkeypatch, change)
    assert kind in fuzz.run_cases(cases, limit=20).failures
