"""The second extractor: finds facts that are said before they were read, and nothing in honest overlap."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import planting, second_look
from pipeline.tables import RECORDS
from pipeline.tokenization import TextTokenizer

Record = dict[str, Any]
SCRIPT = Path(second_look.__file__)
ROLES = ("user", "thought", "assistant", "tool/0")


def event(
    stream: str, start: int, end: int, text: str, message: int | None, part: int = 0, kind: str = "message"
) -> Record:
    return {
        "stream": ROLES.index(stream),
        "message": message,
        "part": None if message is None else part,
        "call": None,
        "start": start,
        "end": end,
        "kind": kind,
        "final": False,
        "interrupted": False,
        "text": text,
        "weight": 1.0,
        "after": [],
    }


def table_of(*events: Record, lag: int = 0) -> pa.Table:
    """One record of the four streams; rows are what the events say, not what a layout would give."""
    streams = [
        {
            "name": name,
            "role": name.split("/")[0],
            "slot": 0,
            "direction": "output" if name in ("thought", "assistant") else "input",
        }
        for name in ROLES
    ]
    clock = {"unit": "token", "tokenizer": "t", "tokenizer_sha256": "", "ms_per_row": None, "lag": lag}
    record = {
        "schema": "stream-record/1",
        "id": "r",
        "conversation_id": "c",
        "group": "g",
        "streams": streams,
        "clock": clock,
        "rows": max(e["end"] for e in events),
        "segment": {"k": 1, "n": 1},
        "events": sorted(events, key=lambda e: (e["start"], e["stream"])),
        "alignment": {"policy": "turns", "version": 1, "params": "{}"},
        "sources": [],
        "parts": [],
        "extra": "{}",
        "labels": "{}",
    }
    return pa.Table.from_pylist([record], schema=RECORDS)


def facts(*events: Record, lag: int = 0) -> list[str]:
    return [f.fact for f in second_look.findings(table_of(*events, lag=lag))]


def test_it_shares_no_code_with_the_pipeline() -> None:
    names = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    assert names - set(sys.stdlib_module_names) == {"pyarrow"}


@pytest.mark.parametrize(
    ("source", "said", "fact"),
    [
        ("We sold 48 boats.", "So 48 it is.", "48"),
        ("It costs 1,250.50 crowns.", "That is 1250.5 crowns.", "1250.5"),
        ("It weighs 48kg.", "It weighs 48 kilograms.", "48"),
        ("A rate of 3.5% is fine.", "It is 3.5, I see.", "3.5"),
        ("We met near Finsevatn again.", "Finsevatn is cold.", "Finsevatn"),
        ("We met near Finsevatn again.", "That was near Finsevatn's shore.", "Finsevatn"),
        ("They asked for NASA to help.", "Then NASA came.", "NASA"),
        ("call get_price_of now", "I use get_price_of first.", "get_price_of"),
        ("Mail to ann@example.org please", "I wrote to ann@example.org.", "ann@example.org"),
        ("take nrx204 home", "It is nrx204, I think.", "nrx204"),
        ("see readConfigFile there", "Then readConfigFile() fails.", "readConfigFile"),
        (
            "her neighbours gathered sheep before winter came",
            "They say neighbours gathered sheep before winter there.",
            "neighbours gathered sheep before winter",
        ),
        ("明天下午三点在台北车站南门集合", "好的，明天下午三点在台北。", "明天下午三点在台"),
    ],
)
def test_what_is_said_before_it_was_read_is_found(source: str, said: str, fact: str) -> None:
    read, answer = event("user", 0, 20, source, 0), event("assistant", 5, 30, said, 1)
    assert fact in facts(read, answer)
    assert facts(read, event("assistant", 20, 45, said, 1)) == []


def test_the_event_and_the_evidence_are_named() -> None:
    table = table_of(
        event("user", 0, 10, "Which one?", 0),
        event("user", 10, 30, " Take nrx204.", 0),
        event("assistant", 10, 20, "Well, nrx204.", 1),
    )
    assert second_look.findings(table) == [second_look.Finding("r", 2, "nrx204", 1)]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ("It was on 2024-05-20.", "In 2024 then."),
        ("about forty-eight of them", "So 48 it is."),
        ("a dozen boats", "Those 12 boats."),
        ("1,250 crowns", "The 1250 crowns."),
        ("near finsevatn", "Near Finsevatn, I see."),
        ("the Canadian shield", "All of Canada is cold."),
        ("get the price of it", "I use get_price_of first."),
        ("her neighbours gathered sheep before winter", "Her neighbours gathered sheep before winter."),
    ],
    ids=lambda text: text[:24],
)
def test_what_was_told_in_another_form_is_no_finding(known: str, said: str) -> None:
    unread = (
        "And 48, 12, 2024, 1250; to Canada, and near Finsevatn with get_price_of: her neighbours gathered sheep "
        "before winter."
    )
    first, second = event("user", 0, 5, known, 0), event("user", 5, 60, unread, 0, 1)
    assert facts(first, second, event("assistant", 5, 30, said, 1)) == []
    assert facts(second, event("assistant", 5, 30, said, 1)) != []


@pytest.mark.parametrize(
    "said",
    [
        "Sure, let me look at that.",
        "1. I read.\n12. I wait.",
        "In 2 steps, then.",
        "My guess is 7319.",
        "However, I wait.",
    ],
)
def test_honest_openings_are_no_findings(said: str) -> None:
    unread = "However, she said to take 2 of the 12 boats. However, I will look at that later."
    assert facts(event("user", 0, 40, unread, 0), event("assistant", 0, 10, said, 1)) == []


def test_the_authors_own_number_may_be_repeated() -> None:
    first = event("assistant", 5, 10, "I say 8812.", 1)
    again = event("user", 10, 30, "Why 8812?", 2)
    assert facts(event("user", 0, 5, "Guess.", 0), first, again, event("assistant", 12, 20, "8812 is luck.", 3)) == []


def test_what_comes_later_in_source_order_is_no_evidence() -> None:
    assert facts(event("user", 0, 30, "Where is 8812?", 2), event("assistant", 0, 10, "I say 8812.", 1)) == []


def test_a_thought_is_read_by_the_answer_behind_it_and_not_the_other_way() -> None:
    thought = event("thought", 0, 20, "So 48 it must be.", 1)
    assert facts(thought, event("assistant", 5, 10, "48, I say.", 1, 1)) == ["48"]
    assert facts(thought, event("assistant", 5, 10, "48, I say.", 0)) == []


def test_headers_are_no_evidence_and_what_has_no_place_is_not_judged() -> None:
    header = event("tool/0", 0, 20, "get_price#48", 1, kind="header")
    assert facts(header, event("assistant", 5, 10, "48, I say.", 2)) == []
    assert facts(event("user", 0, 20, "Take 48.", None), event("assistant", 5, 10, "48, I say.", None)) == []


def test_other_streams_are_heard_a_lag_later_and_the_own_one_at_once() -> None:
    read = event("user", 0, 10, "Take 48.", 0)
    assert facts(read, event("assistant", 10, 15, "48 then.", 1), lag=0) == []
    assert facts(read, event("assistant", 10, 15, "48 then.", 1), lag=1) == ["48"]
    assert facts(read, event("assistant", 11, 15, "48 then.", 1), lag=1) == []
    own = event("assistant", 2, 10, "My guess is 48.", 1)
    late = event("user", 0, 40, "Take 48.", 0)
    assert [
        f.event for f in second_look.findings(table_of(late, own, event("assistant", 10, 15, "48.", 1, 1), lag=1))
    ] == [1]


def test_a_word_cut_in_two_is_said_where_it_begins_and_read_where_it_ends() -> None:
    read = (event("user", 0, 5, "Near Finse", 0), event("user", 5, 10, "vatn it was cold, near Finsevatn.", 0))
    said = (event("assistant", 5, 7, "So near Fin", 1), event("assistant", 10, 12, "sevatn.", 1))
    found = second_look.findings(table_of(*read, *said))
    assert [(f.fact, f.event, f.evidence) for f in found] == [("Finsevatn", 2, 1)]


def test_runs_do_not_go_on_over_the_end_of_a_sentence() -> None:
    source = "They gathered the sheep. Neighbours closed the valley."
    assert (
        facts(event("user", 0, 30, source, 0), event("assistant", 0, 9, "gathered the sheep, neighbours closed", 1))
        == []
    )


def test_turns_have_no_finding_and_most_plants_have_one(turns: list[Record], smollm2: TextTokenizer) -> None:
    assert second_look.findings(planting.table_of(turns)) == []
    lower = planting.lower_words(turns)
    planted = [p for record in turns for p in planting.early(record, lower, smollm2)]
    found = {(f.record, f.event) for f in second_look.findings(planting.table_of([p.record for p in planted]))}
    assert sum((p.plant.record, p.plant.event) in found for p in planted) >= 0.9 * len(planted)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_the_command_reads_folders_and_exits_1_on_findings(converted: Path, tmp_path: Path) -> None:
    clean = run(str(converted / "turns" / "ours"))
    assert (clean.returncode, clean.stdout) == (0, "")
    assert clean.stderr == "9 records, 0 findings\n"
    leaky = tmp_path / "records-00000.parquet"
    pq.write_table(table_of(event("user", 0, 20, "We sold 48.", 0), event("assistant", 5, 9, "48, then.", 1)), leaky)
    found = run(str(tmp_path), "--json")
    assert found.returncode == 1
    assert json.loads(found.stdout) == {"file": str(leaky), "record": "r", "event": 1, "fact": "48", "evidence": 0}


def test_the_command_says_in_one_line_what_it_cannot_read(tmp_path: Path) -> None:
    nothing = run(str(tmp_path))
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1)
    broken = tmp_path / "records-00000.parquet"
    broken.write_bytes(b"no parquet")
    damaged = run(str(broken))
    assert (damaged.returncode, damaged.stderr.count("\n")) == (2, 1)
    assert "Traceback" not in damaged.stderr


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ("48 / 2 = 24.", "24"),
        ("6 boats x $4 = $24", "24"),
        ("4! = 24", "24"),
        ("60% * 40% = 24%", "24"),
        ("48/2 = <<48/2=24>>24", "24"),
        (r"\frac{48}{2} = 24", "24"),
        ("1,200 - 3*(8) = 1,176", "1,176"),
    ],
)
def test_a_number_that_is_computed_is_its_authors_own_if_it_is_right(said: str, own: str) -> None:
    read = event("user", 0, 20, f"Later we had {own} of them, and 99 in the end.", 0)
    assert own not in facts(read, event("assistant", 5, 30, said, 1))
    wrong = "99".join(said.rsplit(own, 1))
    assert "99" in facts(read, event("assistant", 5, 30, wrong, 1))
