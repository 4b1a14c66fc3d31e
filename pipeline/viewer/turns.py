"""A record as it would be under ``turns``: the baseline that it is held against, without its source or a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from pipeline.conversation import RecordError
from pipeline.errors import InputError
from pipeline.relayout import rebuild


def in_turns(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with every part whole and after the one before it, in the order of the source; same parts, same tokens.

    Its id is that of the record. Verdicts are left out: nothing can leak. Raises InputError where the record is broken.
    """
    try:
        timeline = rebuild(dict(record)).timeline
    except RecordError as error:
        raise InputError(f"record {record['id']} cannot be laid out again: {error}") from error
    assert timeline is not None
    rows: dict[tuple[Any, ...], int] = {}
    for e in record["events"]:
        key = (e["stream"], e["message"], e["part"], e["kind"] == "header")
        rows[key] = rows.get(key, 0) + e["end"] - e["start"]
    lag = record["clock"]["lag"]
    placed: list[dict[str, Any]] = []
    at = 0
    for span in timeline.spans:
        if placed and placed[-1]["stream"] != span.stream:
            at += lag
        tokens = rows[span.stream, span.message, span.part, span.kind == "header"]
        placed.append(
            {
                "stream": span.stream, "message": span.message, "part": span.part, "call": span.call, "start": at,
                "end": at + tokens, "kind": span.kind, "final": span.ends, "interrupted": span.interrupted,
                "text": span.text, "weight": span.weight, "time_ms": span.time_ms, "after": [], "lexical": None,
                "gain": None, "judged": None,
            }
        )  # fmt: skip
        at += tokens
    placed.sort(key=lambda e: (e["start"], e["stream"]))
    _wait(placed)
    return {
        **record,
        "events": placed,
        "rows": max((e["end"] for e in placed), default=0),
        "clock": {**record["clock"], "ms_per_row": None},
        "alignment": {**record["alignment"], "policy": "turns", "params": "{}"},
        "labels": "{}",
    }


def _wait(events: list[dict[str, Any]]) -> None:
    """Each event waits for the last one of another stream before it, unless one of its own stream has already."""
    for _, run in groupby(range(len(events)), key=lambda i: events[i]["stream"]):
        first = next(run)
        if first:
            events[first]["after"] = [first - 1]
