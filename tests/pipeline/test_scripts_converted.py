"""Sources that are streams already keep their times through conversion: checked, cut at pauses, never laid out anew."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import pytest

import converters
from pipeline.checks import record_violations
from pipeline.convert import Batch, ConvertConfig, Converter
from pipeline.script import Script, Utterance, stream

USER, MODEL = stream("user", "input"), stream("assistant", "output")


def said(on: int, text: str, start: int, stop: int) -> Utterance:
    return Utterance(on, text, (len(text),), (start,), (stop,))


def convert(script: Script, **config: Any) -> Batch:
    unit = {
        "corpus": "c", "path": "p", "index": 0, "format": "given", "license": None, "key": None,
        "sha256": hashlib.sha256(b"0").hexdigest(), "raw": b"0",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        given = SimpleNamespace(FORMAT="given", convert=lambda unit: iter([script]))
        patch.setattr(converters, "CONVERTERS", {"given": given})
        return Converter(ConvertConfig(**config)).convert([unit])


def test_what_overlapped_still_overlaps_and_what_followed_still_follows() -> None:
    script = Script(
        (USER, MODEL), (said(0, "Go on, tell me.", 0, 3), said(1, "Mhm.", 1, 2), said(1, "There was a fox.", 3, 6))
    )
    (record,) = convert(script).records.to_pylist()
    events = {e["text"]: e for e in record["events"]}
    assert events["Mhm."]["start"] == 0
    assert events["There was a fox."]["start"] == events["Go on, tell me."]["end"]
    assert record["alignment"]["policy"] == "source"
    assert record["clock"]["ms_per_row"] is None


def test_on_a_clock_of_milliseconds_a_chunk_starts_no_earlier_than_it_was_said() -> None:
    script = Script((USER, MODEL), (said(0, "Now?", 1000, 1400), said(1, "Now.", 9000, 9300)), ms_per_row=80.0)
    batch = convert(script)
    (record,) = batch.records.to_pylist()
    first, second = record["events"]
    assert (first["start"], second["start"]) == (0, 100)
    assert (first["time_ms"], second["time_ms"]) == (1000, 9000)
    assert record["clock"]["ms_per_row"] == 80.0
    assert record_violations(batch.records) == []


def test_a_script_that_says_what_it_has_not_heard_is_rejected_with_the_evidence() -> None:
    early = Script((USER, MODEL), (said(0, "The total is 48213 coins.", 0, 9), said(1, "I see 48213 coins.", 1, 5)))
    batch = convert(early)
    (row,) = batch.rejects
    assert row["code"] == "leak"
    assert "48213" in row["message"]
    late = Script((USER, MODEL), (said(0, "The total is 48213 coins.", 0, 9), said(1, "I see 48213 coins.", 9, 12)))
    assert convert(late).records.num_rows == 1


def test_a_long_script_is_cut_where_nobody_speaks_and_nothing_is_lost() -> None:
    turns = [said(i % 2, f"Turn number {i} says a few words here.", 10 * i, 10 * i + 5) for i in range(30)]
    batch = convert(Script((USER, MODEL), tuple(turns)), max_cells=100)
    records = batch.records.to_pylist()
    assert len(records) > 1
    assert [e["text"] for r in records for e in r["events"]] == [t.text for t in turns]
    assert [e["message"] for r in records for e in r["events"]] == list(range(30))
    assert {r["segment"]["n"] for r in records} == {len(records)}
    assert all(r["rows"] <= 100 and r["events"][0]["start"] == 0 for r in records)


def test_a_long_silence_is_cut_too_and_an_overlap_longer_than_the_window_is_rejected() -> None:
    pause = Script((USER, MODEL), (said(0, "Hello.", 0, 300), said(1, "Yes?", 600_000, 600_300)), ms_per_row=80.0)
    assert [r["rows"] for r in convert(pause, max_cells=64).records.to_pylist()] == [3, 3]
    text = "one two three four five six seven eight nine ten " * 10
    (row,) = convert(Script((USER, MODEL), (said(0, text, 0, 9), said(1, text, 1, 9))), max_cells=64).rejects
    assert row["code"] == "exceeds_window"
