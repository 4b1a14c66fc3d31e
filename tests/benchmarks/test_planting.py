"""Planted leaks are leaks, by the text and the rows of the record alone; everything else about the record stays honest."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from benchmarks import leaks, planting
from benchmarks.planting import Planted
from pipeline.checks import record_violations
from pipeline.tokenization import TextTokenizer

Record = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
MAKERS = {
    "early": planting.early,
    "copied": planting.copied,
    "paraphrase": planting.paraphrase,
    "honest": planting.honest,
}
NO_WORDS: frozenset[str] = frozenset()


def made(kind: str, records: list[Record], tokenizer: TextTokenizer) -> list[Planted]:
    lower = planting.lower_words(records)
    return [p for record in records for p in MAKERS[kind](record, lower, tokenizer)]


def ended_text(record: Record, event: int) -> str:
    """Everything told by the event's first row, in lower case."""
    start = record["events"][event]["start"]
    return "\n".join(e["text"] for e in record["events"] if e["end"] <= start).casefold()


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_the_planter_knows_no_detector() -> None:
    ours = {
        name
        for name in imports(ROOT / "benchmarks" / "planting.py")
        if name.split(".")[0] in ("pipeline", "benchmarks")
    }
    assert {".".join(name.split(".")[:2]) for name in ours} == {"pipeline.tables", "pipeline.tokenization"}


@pytest.mark.parametrize("kind", MAKERS)
def test_planted_records_keep_every_invariant(kind: str, turns: list[Record], smollm2: TextTokenizer) -> None:
    planted = made(kind, turns, smollm2)
    assert len(planted) >= 3
    assert record_violations(planting.table_of([p.record for p in planted])) == []
    assert len({p.record["id"] for p in planted} | {r["id"] for r in turns}) == len(planted) + len(turns)
    for p in planted:
        texts: dict[tuple[Any, Any], str] = {}
        rows: Counter[tuple[Any, Any]] = Counter()
        for e in p.record["events"]:
            if e["kind"] != "header":
                key = (e["message"], e["part"])
                texts[key] = texts.get(key, "") + e["text"]
                rows[key] += e["end"] - e["start"] - e["final"]
        assert list(rows.values()) == smollm2.encode(list(texts.values())).counts.tolist()


def test_the_same_records_give_the_same_plants(turns: list[Record], smollm2: TextTokenizer) -> None:
    for kind in MAKERS:
        assert made(kind, turns, smollm2) == made(kind, turns, smollm2)


@pytest.mark.parametrize("kind", ["early", "copied"])
def test_a_plant_says_what_is_unread_and_what_nothing_ended_tells(
    kind: str, turns: list[Record], smollm2: TextTokenizer
) -> None:
    planted = made(kind, turns, smollm2)
    for record, plant in ((p.record, p.plant) for p in planted):
        assert plant.kind == kind
        assert plant.event is not None
        event = record["events"][plant.event]
        assert plant.evidence
        for text, at in plant.evidence:
            assert text.casefold() in record["events"][at]["text"].casefold()
            assert record["events"][at]["end"] > event["start"]
            assert (record["events"][at]["message"], record["events"][at]["part"]) < (event["message"], event["part"])
            assert text.casefold() not in ended_text(record, plant.event)
    told = {text for p in planted for text, _ in p.plant.evidence}
    assert len(told) >= 6


def test_nothing_but_the_plant_starts_early(turns: list[Record], smollm2: TextTokenizer) -> None:
    for p in chain(made("early", turns, smollm2), made("copied", turns, smollm2)):
        for i, event in enumerate(p.record["events"]):
            if i in (p.plant.event, *p.plant.moved) or p.record["streams"][event["stream"]]["direction"] == "input":
                continue
            assert planting.unread_and_ended(p.record, i)[0] == [], (p.plant.variant, event["text"])


def test_early_events_are_moved_whole_in_part_and_after_half_of_the_reading(
    turns: list[Record], smollm2: TextTokenizer
) -> None:
    lower = planting.lower_words(turns)
    found = {
        way: planting._early(record, hosts, way, lower, smollm2)
        for way in ("whole", "first sentences", "half read")
        for record in turns[2:3]
        for hosts in planting._hosts(record, lower)
    }
    assert all(found.values())
    whole, first, half = (found[way] for way in ("whole", "first sentences", "half read"))
    assert whole
    assert first
    assert half
    assert len(whole.record["events"]) == len(turns[2]["events"])
    assert first.plant.event is not None
    assert first.record["events"][first.plant.event]["text"] == "Marit Solheim kept 73 sheep."
    assert half.plant.event is not None
    start = half.record["events"][half.plant.event]["start"]
    assert 0 < start < half.record["events"][0]["end"] + half.record["events"][1]["end"]


def test_what_the_author_said_first_is_not_planted(turns: list[Record], smollm2: TextTokenizer) -> None:
    assert list(planting.early(turns[3], NO_WORDS, smollm2)) == []


def test_paraphrases_share_no_fact_with_what_is_unread(turns: list[Record], smollm2: TextTokenizer) -> None:
    planted = made("paraphrase", turns, smollm2)
    variants = {p.plant.variant.split(", ")[-1] for p in planted}
    assert variants == {"number spelt out", "synonym", "conclusion"}
    for p in planted:
        assert p.plant.event is not None
        assert planting.evidence_of(p.record, p.plant.event, NO_WORDS) == []
        assert planting.unread_and_ended(p.record, p.plant.event)[0]


def test_honest_records_overlap_and_say_nothing_of_the_unread_part(turns: list[Record], smollm2: TextTokenizer) -> None:
    planted = made("honest", turns, smollm2)
    for p in planted:
        assert p.plant.event is not None
        assert planting.unread_and_ended(p.record, p.plant.event)[0]
        assert planting.evidence_of(p.record, p.plant.event, NO_WORDS) == []
    assert {p.plant.variant for p in planted} >= {"a sentence moved that takes nothing"}


def test_another_language_answers_in_the_words_of_a_sibling(turns: list[Record], smollm2: TextTokenizer) -> None:
    siblings = [dict(turns[i], extra='{"id": "q1"}') for i in (7, 8)]
    planted = list(planting.other_language(siblings, smollm2))
    said = [(p.record["events"][-1]["text"], p.plant.evidence[0][0]) for p in planted]
    assert said == [("在湖边", "by the water"), ("by the water", "在湖边")]
    for p in planted:
        assert p.plant.variant == "another language"
        assert p.plant.event is not None
        assert p.record["events"][p.plant.event]["start"] == 0
    assert record_violations(planting.table_of([p.record for p in planted])) == []


def test_from_row_zero_every_answer_starts_with_its_input(turns: list[Record], smollm2: TextTokenizer) -> None:
    record = planting.from_row_zero(turns[2], smollm2)
    assert record is not None
    assert [(e["start"], e["after"]) for e in record["events"]] == [(0, []), (0, [])]
    assert record_violations(planting.table_of([record])) == []


@pytest.mark.parametrize(
    ("answer", "source", "kinds"),
    [
        ("I count 7 of them.", "There are 7 boats.", {"number"}),
        ("1. Row the boat", "1. Feed the cat", set()),
        ("Then Ingrid left.", "We saw Ingrid there.", {"name"}),
        ("The end.", "The start.", set()),
        ("a boat with golden sails came", "look, a boat with golden sails", {"run"}),
        ("Yes.", "Is there a boat?", set()),
    ],
)
def test_what_counts_as_copied_from_the_input(answer: str, source: str, kinds: set[str]) -> None:
    assert {fact.kind for fact in planting.copies(answer, source)} == kinds


@pytest.mark.parametrize(
    ("fact", "known", "expected"),
    [
        (planting.Fact("number", "48", "48"), "about forty-eight of them", True),
        (planting.Fact("number", "48", "48"), "24 and 2", True),
        (planting.Fact("number", "48", "48"), "480 and 5", False),
        (planting.Fact("number", "1349", "1,349"), "1349 crowns", True),
        (planting.Fact("identifier", "nrx204", "NRX204"), "take nrx 204", True),
        (planting.Fact("identifier", "nrx204", "NRX204"), "take nrx 205", False),
        (planting.Fact("name", "oslo", "Oslo"), "the Oslofjord", True),
        (planting.Fact("run", "a b c d e f", "a b c d e f"), "so A b, c d e f", True),
    ],
)
def test_known_is_read_generously(fact: planting.Fact, known: str, expected: bool) -> None:
    assert planting.is_known(fact, [known]) is expected


@pytest.mark.parametrize(
    ("number", "words"),
    [("7", "seven"), ("48", "forty-eight"), ("260", "two-hundred-sixty"), ("9001", "nine-thousand-one"), ("1.5", "")],
)
def test_numbers_are_spelt(number: str, words: str) -> None:
    assert planting.spell(number) == words


def test_a_detector_is_judged_by_what_it_flags(turns: list[Record], smollm2: TextTokenizer) -> None:
    early = made("early", turns, smollm2)
    honest = made("honest", turns, smollm2)[: len(early)]
    planted = [*early, *honest]
    table = planting.table_of([p.record for p in planted])
    events = [(i, p.plant.event) for i, p in enumerate(planted)]

    nothing = leaks.judge(planted, table, lambda _: {})
    assert (nothing["recall"], nothing["precision"], len(nothing["misses"])) == (0.0, None, len(early))
    right = leaks.judge(planted, table, lambda _: {(i, e): "" for i, e in events[: len(early)] if e is not None})
    assert (right["recall"], right["precision"], right["misses"]) == (1.0, 1.0, [])
    everything = leaks.judge(planted, table, lambda _: {(i, e): "said" for i, e in events if e is not None})
    assert everything["precision"] == pytest.approx(len(early) / (len(early) + len(honest)), abs=0.001)
    assert len(everything["false_alarms"]) == len(honest)


def test_the_lexical_look_and_the_second_extractor_find_the_plants(turns: list[Record], smollm2: TextTokenizer) -> None:
    planted = [*made("early", turns, smollm2), *made("copied", turns, smollm2), *made("honest", turns, smollm2)]
    table = planting.table_of([p.record for p in planted])
    for look in (leaks.lexical, leaks.second):
        judged = leaks.judge(planted, table, look)
        assert judged["recall"] >= 0.7, judged["misses"]
        assert judged["precision"] >= 0.85, judged["false_alarms"]


def test_a_gain_is_judged_by_rank_and_by_recall_at_a_precision() -> None:
    assert leaks.auc([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert leaks.auc([1.0, 1.0], [1.0, 1.0]) == 0.5
    assert leaks.auc([], [1.0]) is None
    assert leaks.recall_at([3.0, 2.0, 0.0], [1.0], 0.95) == 0.667
    assert leaks.recall_at([0.0], [1.0], 0.95) == 0.0


def test_ids_are_those_of_new_records(turns: list[Record], smollm2: TextTokenizer) -> None:
    for p in made("copied", turns, smollm2):
        assert len(p.record["id"]) == 32
        for part in p.record["parts"]:
            told = "".join(
                e["text"]
                for e in p.record["events"]
                if (e["message"], e["part"]) == (part["message"], part["part"]) and e["kind"] != "header"
            )
            assert hashlib.sha256(told.encode()).hexdigest() == part["sha256"]
