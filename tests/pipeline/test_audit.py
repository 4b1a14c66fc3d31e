"""The auditor: what it says of right and wrong steps, when it says it, and what planted errors leave of a record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conversation_cases import QUICK, call, conversations, events_on, message, replace_events, result, talk, thought
from hypothesis import given
from hypothesis import strategies as st

from pipeline import leaks
from pipeline.alignment import align_all, audit, parse_align_spec
from pipeline.arithmetic import true_results
from pipeline.checks import record_violations
from pipeline.conversation import Conversation, Part
from pipeline.convert import ConvertConfig, Converter
from pipeline.records import Clock, Document, Tables, build_tables, encode_spans, to_json
from pipeline.tokenization import TextTokenizer

CORPORA = Path(__file__).parents[3] / "shared" / "corpora"


def tables(conversations: Sequence[Conversation], spec: str, tokenizer: TextTokenizer, lag: int = 0) -> Tables:
    """Both tables of conversations under an align spec, labels included."""
    aligned = align_all(list(conversations), parse_align_spec(spec))
    documents = [Document(c, a.timeline, a.spec, labels=a.labels) for c, a in zip(conversations, aligned, strict=True)]
    encoded, first = encode_spans([d.timeline for d in documents], tokenizer)
    built = build_tables(documents, Clock(tokenizer, lag), encoded, first)
    assert not built.failed
    return built


def record(conversation: Conversation, spec: str, tokenizer: TextTokenizer) -> dict[str, Any]:
    return next(to_json(tables([conversation], spec, tokenizer).records))


def labels(record: dict[str, Any]) -> dict[str, Any]:
    value = record["labels"]
    return json.loads(value) if isinstance(value, str) else value


def said(record: dict[str, Any]) -> list[str]:
    return [e["text"] for e in events_on(record, "audit")]


def text_of(record: dict[str, Any], message: int, part: int) -> str:
    return "".join(e["text"] for e in record["events"] if (e["message"], e["part"]) == (message, part))


def verdicts(text: str) -> list[str]:
    return [audit.verdict(step) for step in audit.steps(text)]


STEPS = "A crate holds 6*4 = <<6*4=24>>24 jars.\nThat is a lot.\nThree crates hold 24*3 = <<24*3=72>>72 jars."
SOLVED = talk(message("user", "How many jars?"), message("assistant", thought(STEPS), "72"))


# what is said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("48/2 = 24 jars.", "48/2 = 24"),
        ("48/2 = 25 jars.", "48/2 = 24, not 25"),
        ("So 48/2 = <<48/2=25>>25 jars.", "48/2 = 24, not 25"),
        ("100/3 = 33.33", "100/3 = 33.33 (rounded)"),
        ("100/3 = 36", "100/3 = 33.33 (rounded), not 36"),
        ("1/8 = 0.25", "1/8 = 0.125, not 0.25"),
        ("1,000 * 2 = 3,000", "1,000 * 2 = 2,000, not 3,000"),
        ("20/50 = 45%", "20/50 = 40%, not 45%"),
        ("100 - 40 = 70%", "100 - 40 = 60%, not 70%"),
        ("5 - 8 = 3", "5 - 8 = -3, not 3"),
        (r"\frac{1}{2} + \frac{1}{3} = \frac{2}{5}", r"\frac{1}{2} + \frac{1}{3} = 5/6, not \frac{2}{5}"),
        ("2*3+4 = 6+4 = 10", "2*3+4 = 6+4 = 10"),
        ("2*3+4 = 6+4 = 11", "6+4 = 10, not 11"),
    ],
)
def test_a_step_is_stated_as_computed(text: str, told: str) -> None:
    (said,) = verdicts(text)
    assert told in said
    assert audit.flags(said) is (", not " in told)


def test_agreement_and_error_are_worded_in_more_ways_than_one_and_always_the_same() -> None:
    right = [verdicts(f"{n} + 1 = {n + 1}")[0].replace(f"{n} + 1 = {n + 1}", "…") for n in range(2, 60)]
    wrong = [verdicts(f"{n} + 1 = {n + 2}")[0].replace(f"{n} + 1 = {n + 1}, not {n + 2}", "…") for n in range(2, 60)]
    assert len(set(right)) == len(set(wrong)) == 4
    assert verdicts("7 + 1 = 8") == verdicts("7 + 1 = 8")


@pytest.mark.parametrize("text", ["Let x = 5.", "That is all.", "", "x + 3 = 8", "= ="])
def test_nothing_is_said_of_what_cannot_be_computed(text: str) -> None:
    assert verdicts(text) == []


def test_what_the_auditor_corrects_is_its_own_result() -> None:
    for text in ("48/2 = 25", "Half: 100/3 = 36", "5*5 = 24; 2*2 = 5", "20/50 = 45%"):
        (said,) = verdicts(text)
        assert all(v in said for v in true_results(said))
        assert true_results(said)


# when it is said


def test_each_step_is_checked_once_it_has_been_written_and_the_solver_does_not_wait(smollm2: TextTokenizer) -> None:
    told = record(SOLVED, "audit", smollm2)
    first, second = events_on(told, "audit")
    thoughts = events_on(told, "thought")
    assert first["start"] == thoughts[0]["end"]
    assert thoughts[0]["text"] == "A crate holds 6*4 = <<6*4=24>>24 jars."
    assert second["start"] == thoughts[-1]["end"]
    assert (first["final"], second["final"]) == (True, True)
    alone = record(SOLVED, "turns", smollm2)
    assert [(e["start"], e["end"]) for e in events_on(told, "assistant")] == [
        (e["start"], e["end"]) for e in events_on(alone, "assistant")
    ]
    assert thoughts[-1]["end"] == events_on(alone, "thought")[-1]["end"]


def test_an_answer_may_be_told_to_wait_for_the_auditor(smollm2: TextTokenizer) -> None:
    told = record(SOLVED, "audit:answer=waits", smollm2)
    assert events_on(told, "assistant")[0]["start"] == events_on(told, "audit")[-1]["end"]


def test_the_next_message_waits_for_the_auditor(smollm2: TextTokenizer) -> None:
    conversation = talk(*SOLVED.messages, message("user", "Thanks."))
    told = record(conversation, "audit", smollm2)
    assert events_on(told, "user")[-1]["start"] == events_on(told, "audit")[-1]["end"]


def test_a_call_beside_audited_words_leaves_as_before(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Order."),
        message("assistant", "We need 6*4 = 24 jars and lids. ", call("get_price", '{"of": "lid"}', "a")),
        message("tool", result("0.1", "a")),
        message("assistant", "That is 24*0.1 = 2.4 for the lids."),
    )
    with_audit, without = (
        record(conversation, "tools_async+audit", smollm2),
        record(conversation, "tools_async", smollm2),
    )
    assert events_on(with_audit, "call")[0]["start"] == events_on(without, "call")[0]["start"]
    assert len(said(with_audit)) == 2


def test_an_answer_that_overtakes_its_thought_does_not_wait_for_its_auditor(smollm2: TextTokenizer) -> None:
    thinking = (
        "The blue box weighs 6*4 = 24 grams. " + "The red box weighs 5*7 = 35 grams. " + "Nothing else is known. " * 6
    )
    conversation = talk(
        message("user", "Weights?"),
        message("assistant", thought(thinking), "The blue box weighs 24 grams. That is all."),
    )
    for answer in ("goes_on", "waits"):
        alone = record(conversation, "thinking", smollm2)
        told = record(conversation, f"thinking+audit:answer={answer}", smollm2)
        start = events_on(told, "assistant")[0]["start"]
        late = 0 if answer == "goes_on" else events_on(told, "audit")[0]["end"] - events_on(told, "thought")[0]["end"]
        assert start <= events_on(alone, "assistant")[0]["start"] + late
        assert start < events_on(told, "thought")[-1]["end"]


def test_thoughts_may_be_left_out(smollm2: TextTokenizer) -> None:
    assert "audit" not in [s["name"] for s in record(SOLVED, "audit:thoughts=off", smollm2)["streams"]]


def test_only_what_the_model_says_is_audited(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("system", "1 + 1 = 3"),
        message("user", "2 + 2 = 5", Part("context", "3 + 3 = 7")),
        message("assistant", call("calc", '{"e": "4 + 4 = 9"}', "a")),
        message("tool", result("5 + 5 = 11", "a")),
        message("assistant", "6 + 6 = 12"),
    )
    (only,) = said(record(conversation, "audit", smollm2))
    assert "6 + 6 = 12" in only


def test_a_verdict_before_its_step_is_a_leak(smollm2: TextTokenizer) -> None:
    table = tables([SOLVED], "audit", smollm2).records
    assert {f.verdict for f in leaks.lexical(table)} == {"clear"}

    def early(events: list[dict[str, Any]]) -> None:
        audits = [e for e in events if e["text"].startswith(tuple(said(next(to_json(table)))))]
        length = audits[1]["end"] - audits[1]["start"]
        audits[1]["start"], audits[1]["end"] = audits[0]["end"], audits[0]["end"] + length

    assert [f.verdict for f in leaks.lexical(replace_events(table, 0, early))].count("leak") == 1


# planted errors


def test_a_planted_error_is_found_labelled_and_can_be_taken_back(smollm2: TextTokenizer) -> None:
    told = record(SOLVED, "audit:corrupt=1", smollm2)
    planted = labels(told)["corrupted"]
    assert {p["step"] for p in planted} == {0, 1}
    written = text_of(told, 1, 0)
    assert written != STEPS
    assert audit.restored(written, planted) == STEPS
    for p in planted:
        assert written[p["at"] :].startswith(p["planted"])
    assert all(audit.flags(s) for s in said(told))
    assert {e["weight"] for e in events_on(told, "thought")} == {0.0}
    assert {e["weight"] for e in events_on(told, "audit")} == {1.0}
    (part,) = [p for p in told["parts"] if (p["message"], p["part"]) == (1, 0)]
    assert part["added"].split("\n") == [p["planted"] for p in planted]


def test_annotation_and_text_are_changed_alike() -> None:
    text, planted = audit.corrupted("It is 48/2 = <<48/2=24>>24 in all.", 1.0, 0)
    assert len(planted) == 2
    new = planted[0].planted
    assert text == f"It is 48/2 = <<48/2={new}>>{new} in all."


@pytest.mark.parametrize(("answer", "weight"), [("goes_on", 0.0), ("waits", 1.0)])
def test_an_answer_behind_an_error_is_trained_only_if_it_has_heard_of_it(
    smollm2: TextTokenizer, answer: str, weight: float
) -> None:
    told = record(SOLVED, f"audit:corrupt=1,answer={answer}", smollm2)
    assert {e["weight"] for e in events_on(told, "assistant")} == {weight}


def test_without_corruption_the_text_is_the_source_s(smollm2: TextTokenizer) -> None:
    told = record(SOLVED, "audit", smollm2)
    assert text_of(told, 1, 0) == STEPS
    assert "corrupted" not in labels(told)
    assert {e["weight"] for e in events_on(told, "thought")} == {1.0}


def test_messages_that_are_not_trained_get_an_auditor_that_is_not(smollm2: TextTokenizer) -> None:
    conversation = talk(message("user", "?"), message("assistant", "6*4 = 24", weight=0.0))
    assert [e["weight"] for e in events_on(record(conversation, "audit", smollm2), "audit")] == [0.0]


def test_every_kind_of_error_is_planted_and_all_are_wrong() -> None:
    kinds = set()
    for n in range(11, 140):
        text = f"It costs {n}*3 = {n * 3} and a half is {n * 10}/4 = {n * 10 / 4:g}."
        corrupted, planted = audit.corrupted(text, 1.0, n)
        kinds |= {p.kind for p in planted}
        assert planted
        assert any(audit.flags(v) for v in verdicts(corrupted))
    assert kinds == {"digit", "factor", "swap", "operator"}


def test_the_share_of_steps_is_about_what_is_asked_for() -> None:
    text = "\n".join(f"{n} + {n + 1} = {2 * n + 1}." for n in range(10, 410))
    _, planted = audit.corrupted(text, 0.3, 5)
    assert 90 <= len({p.step for p in planted}) <= 150
    assert audit.corrupted(text, 0.3, 5) == audit.corrupted(text, 0.3, 5)
    assert audit.corrupted(text, 0.3, 6) != audit.corrupted(text, 0.3, 5)
    assert audit.corrupted(text, 0.0, 5) == (text, [])


# any conversation


SUMS = (
    "So 6*4 = <<6*4=24>>24. ", "Then 24/5 = 4.8. ", "It is 7 + 8 = 16!\n", "1/3 = 0.33\n", "x = 3. ", "20% of 50 = 10\n",
    r"\(\frac{1}{2} + 1 = \frac{3}{2}\) ", "3 + 4 = 7 = 9 - 2\n", "10 * 10 = 1,000 ", "5 = 5\n", "共3*4=12个。", "2² = 4\u2028",
)  # fmt: skip


def with_sums(conversation: Conversation, sums: list[str]) -> Conversation:
    """The conversation with equations at the end of what the model says."""
    told: Iterator[str] = iter(sums)

    def part(p: Part) -> Part:
        more = next(told, "") if p.kind in ("text", "thinking") else ""
        return Part(**{**{f: getattr(p, f) for f in p.__slots__}, "text": p.text + more})

    messages = tuple(
        m
        if m.role != "assistant"
        else type(m)(**{**{f: getattr(m, f) for f in m.__slots__}, "parts": tuple(map(part, m.parts))})
        for m in conversation.messages
    )
    return type(conversation)(**{**{f: getattr(conversation, f) for f in conversation.__slots__}, "messages": messages})


SPECS = (
    "audit", "audit:corrupt=0.5,seed=3", "thinking+audit:corrupt=1", "thinking+evidence:over=all+tools_async+audit",
    "thinking:min_coverage=0+evidence:min_coverage=0,over=all+tools_async+audit:corrupt=0.7,answer=waits",
)  # fmt: skip


@QUICK
@given(
    conversations,
    st.lists(st.lists(st.sampled_from(SUMS), max_size=4).map("".join), max_size=6),
    st.sampled_from(SPECS),
    st.sampled_from([0, 1]),
)
def test_any_conversation_is_audited_honestly_and_keeps_its_text(
    smollm2: TextTokenizer, conversation: Conversation, sums: list[str], spec: str, lag: int
) -> None:
    conversation = with_sums(conversation, sums)
    built = tables([conversation], spec, smollm2, lag)
    assert record_violations(built.records) == []
    told = next(to_json(built.records))
    audits = events_on(told, "audit")
    leaking = [told["events"][f.event] for f in leaks.lexical(built.records) if f.verdict != "clear"]
    assert not [event for event in leaking if event in audits]
    planted = labels(told).get("corrupted", [])
    for m, source in enumerate(conversation.messages):
        for p, part in enumerate(source.parts):
            if part.kind in ("text", "thinking") and part.text and source.role == "assistant":
                here = [e for e in planted if (e["message"], e["part"]) == (m, p)]
                assert audit.restored(text_of(told, m, p), here) == part.text
    assert next(to_json(tables([conversation], spec, smollm2, lag).records)) == told


def test_segments_are_audited_each_with_the_labels_of_the_whole(smollm2: TextTokenizer) -> None:
    turns = [
        m
        for n in range(12)
        for m in (
            {"role": "user", "content": f"How many jars are in {n + 2} boxes of 6?"},
            {"role": "assistant", "content": f"A box holds 6.\nThat makes {n + 2}*6 = {(n + 2) * 6} jars.\nIndeed."},
        )
    ]
    unit = {
        "corpus": "c", "path": "f.jsonl", "index": 0, "key": None, "format": "openai_messages", "license": None,
        "sha256": "0" * 64, "raw": json.dumps({"messages": turns}).encode(),
    }  # fmt: skip
    batch = Converter(ConvertConfig(align="audit:corrupt=1", max_cells=160)).convert([unit])
    assert batch.counts.realigned == 0
    records = list(to_json(batch.records))
    assert len(records) > 2
    assert record_violations(batch.records) == []
    for r in records:
        for p in labels(r)["corrupted"]:
            assert text_of(r, p["message"], p["part"])[p["at"] :].startswith(p["planted"])


@pytest.mark.skipif(not CORPORA.is_dir(), reason="the corpora are not there")
@pytest.mark.parametrize("align", ["audit", "thinking+audit:corrupt=0.5"])
def test_real_solutions_are_audited_without_a_leak(align: str) -> None:
    lines = (CORPORA / "math-gsm8k" / "train.jsonl").read_bytes().splitlines()[:60]
    units = [
        {"corpus": "math-gsm8k", "path": "train.jsonl", "index": i, "key": None, "format": "math_qa", "license": None,
         "sha256": "0" * 64, "raw": line}
        for i, line in enumerate(lines)
    ]  # fmt: skip
    batch = Converter(ConvertConfig(align=align)).convert(units)
    assert (batch.counts.records, batch.counts.realigned, batch.counts.leaks) == (60, 0, 0)
    flagged = [audit.flags(s) for r in to_json(batch.records) for s in said(r)]
    assert any(flagged) is ("corrupt" in align)
