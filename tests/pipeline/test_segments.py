"""Conversations longer than the window: cut between turns, system and tools in every segment, nothing dropped."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import orjson
import pytest
from conversation_cases import QUICK, call, conversations, message, part_text, result, said_parts, talk, thought
from hypothesis import given
from hypothesis import strategies as st

import converters
from pipeline.checks import record_violations, token_violations
from pipeline.conversation import Conversation, RecordError
from pipeline.convert import Batch, ConvertConfig, Converter
from pipeline.records import to_json
from pipeline.segments import cut_segments, leading, segment_of

WINDOW = 64


def convert(conversation: Conversation, monkeypatch: Any, **config: Any) -> Batch:
    """The batch that one conversation becomes, whatever format it might come from."""
    made = type("Given", (), {"FORMAT": "given", "convert": staticmethod(lambda unit: iter([conversation]))})
    unit = {
        "corpus": "c",
        "path": "p",
        "index": 0,
        "format": "given",
        "license": None,
        "key": None,
        "sha256": "0" * 64,
        "raw": b"{}",
    }
    with monkeypatch.context() as patch:
        patch.setattr(converters, "CONVERTERS", {"given": made})
        return Converter(ConvertConfig(**config)).convert([unit])


def sentence(i: int) -> str:
    return f"Sentence number {i} says something about item {i}. "


LONG = talk(
    message("system", "Be brief."),
    *(m for i in range(12) for m in (message("user", sentence(i)), message("assistant", thought("Hm."), sentence(i)))),
    tools='[{"name": "f"}]',
)


@st.composite
def sized(draw: st.DrawFn) -> tuple[Conversation, list[int], int, int]:
    """A conversation with made-up sizes of its messages and of the tool definitions, and a window."""
    conversation = draw(conversations)
    cells = draw(st.lists(st.integers(0, 20), min_size=len(conversation.messages), max_size=len(conversation.messages)))
    return conversation, cells, draw(st.integers(0, 10)) if conversation.tools else 0, draw(st.integers(1, 80))


@QUICK
@given(sized())
def test_segments_hold_every_message_once_in_order_and_fit_the_window(
    case: tuple[Conversation, list[int], int, int],
) -> None:
    conversation, cells, fixed, window = case
    head = leading(conversation)
    try:
        segments = cut_segments(conversation, cells, fixed, window)
    except RecordError:
        # Something that cannot be cut is too long: the system messages, or some message with them.
        assert fixed + sum(cells) > window or head == len(conversation.messages)
        return
    assert segments
    assert [i for segment in segments for i in segment[head:]] == list(range(head, len(conversation.messages)))
    for segment in segments:
        assert segment[:head] == tuple(range(head))
        assert len(segment) > head
        assert fixed + sum(cells[i] for i in segment) <= window


@QUICK
@given(sized())
def test_a_cut_lies_before_a_user_or_before_an_assistant_with_no_call_open(
    case: tuple[Conversation, list[int], int, int],
) -> None:
    conversation, cells, fixed, window = case
    head = leading(conversation)
    try:
        segments = cut_segments(conversation, cells, fixed, window)
    except RecordError:
        return
    for before, after in pairwise(segments):
        first, last = conversation.messages[after[head]], conversation.messages[before[-1]]
        assert last.role != "user"
        if first.role == "tool":
            assert sum(cells[i] for i in _step(conversation, after[head])) > window - fixed - sum(cells[:head])
            continue
        assert first.role in ("user", "assistant")
        if first.role == "assistant":
            turn = _since_user(conversation, after[head])
            kinds = Counter(p.kind for m in turn for p in m.parts)
            assert kinds["tool_call"] <= kinds["tool_result"]


def _step(conversation: Conversation, at: int) -> list[int]:
    """The messages around a tool's message, from the assistant's or user's before them to before the next one's."""
    roles = [m.role for m in conversation.messages]
    start = max(i for i in range(at) if roles[i] == "assistant" and (i == 0 or roles[i - 1] != "assistant"))
    while start and roles[start - 1] == "user":
        start -= 1
    return list(range(start, len(roles)))


def _since_user(conversation: Conversation, end: int) -> list[Any]:
    start = max((i for i in range(end) if conversation.messages[i].role == "user"), default=0)
    return list(conversation.messages[start:end])


def test_whole_turns_are_kept_together_where_they_fit() -> None:
    cells = [0 if m.role == "system" else 10 for m in LONG.messages]
    segments = cut_segments(LONG, cells, 5, 45)
    assert [len(s) for s in segments] == [5] * 6
    assert all(LONG.messages[s[1]].role == "user" for s in segments)


def test_calls_stay_with_their_results() -> None:
    turn = [
        m
        for i in range(4)
        for m in (message("assistant", call("f", str(i), str(i))), message("tool", result("r", str(i))))
    ]
    conversation = talk(message("user", "Go."), *turn, message("assistant", "Done."))
    segments = cut_segments(conversation, [1, *[10, 10] * 4, 5], 0, 45)
    assert segments == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)]
    for segment in segments:
        kinds = Counter(p.kind for i in segment for p in conversation.messages[i].parts)
        assert kinds["tool_call"] == kinds["tool_result"] == 2


def test_a_call_that_is_still_open_is_not_cut_off_from_its_result() -> None:
    asked = [
        message("assistant", call("f", "1", "a")),
        message("assistant", "Wait."),
        message("tool", result("r", "a")),
    ]
    conversation = talk(message("user", "Go."), *asked, message("assistant", "Done."))
    assert cut_segments(conversation, [1, 10, 10, 10, 10], 0, 31) == [(0, 1, 2, 3), (4,)]


def test_results_that_do_not_fit_beside_their_call_follow_in_the_next_segment() -> None:
    asked = [message("assistant", call("f", "1", "a"), call("f", "2", "b"))]
    answered = [message("tool", result("r", "a")), message("tool", result("s", "b"))]
    conversation = talk(message("user", "Go."), *asked, *answered, message("assistant", "Done."))
    assert cut_segments(conversation, [1, 10, 12, 12, 5], 0, 25) == [(0, 1, 2), (3, 4)]
    with pytest.raises(RecordError):
        cut_segments(conversation, [1, 10, 30, 12, 5], 0, 25)


@pytest.mark.parametrize(
    ("conversation", "cells"),
    [
        (talk(message("user", "long"), message("assistant", "short")), [50, 1]),
        (talk(message("user", "short"), message("assistant", "long")), [1, 50]),
        (talk(message("user", "q"), message("assistant", call("f", "1")), message("tool", result("long"))), [1, 5, 41]),
        (talk(message("system", "long"), message("user", "q"), message("assistant", "a")), [50, 1, 1]),
        (talk(message("system", "long")), [50]),
        (talk(message("system", "as long as the window"), message("user", "q")), [40, 1]),
    ],
)
def test_what_cannot_be_cut_and_does_not_fit_is_refused(conversation: Conversation, cells: list[int]) -> None:
    with pytest.raises(RecordError) as error:
        cut_segments(conversation, cells, 0, 40)
    assert error.value.code == "exceeds_window"


def test_a_segment_is_the_conversation_with_only_its_messages() -> None:
    segment = segment_of(LONG, (0, 3, 4))
    assert segment.messages == (LONG.messages[0], LONG.messages[3], LONG.messages[4])
    assert (segment.tools, segment.group) == (LONG.tools, LONG.group)


@pytest.mark.parametrize("align", ["turns", "thinking+evidence+tools_async"])
@pytest.mark.parametrize("lag", [0, 1])
def test_a_long_conversation_becomes_records_that_fit_and_tell_all_of_it(
    align: str, lag: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = convert(LONG, monkeypatch, align=align, lag=lag, max_cells=WINDOW)
    records = list(to_json(batch.records))
    cells = [len(ids) for ids in batch.tokens.column("token_ids").to_pylist()]
    assert len(records) > 3
    assert [r["segment"] for r in records] == [{"k": k, "n": len(records)} for k in range(1, len(records) + 1)]
    assert max(cells) <= WINDOW
    assert max(r["rows"] for r in records) <= WINDOW
    assert len({r["conversation_id"] for r in records}) == 1
    assert len({r["id"] for r in records}) == len(records)
    assert len({r["group"] for r in records}) == 1
    for record in records:
        assert record["events"][0]["text"] == "Be brief."
        assert record["events"][1]["text"] == LONG.tools
        assert record["events"][0]["start"] == 0
    repeated = {(0, 0), (None, None)}
    told = Counter(
        (p["message"], p["part"]) for r in records for p in r["parts"] if (p["message"], p["part"]) not in repeated
    )
    assert told == Counter({where: 1 for where in said_parts(LONG) if where not in repeated})
    texts: Counter[str] = Counter()
    for record in records:
        by_part: dict[Any, str] = {}
        for event in record["events"]:
            by_part[event["message"], event["part"]] = (
                by_part.get((event["message"], event["part"]), "") + event["text"]
            )
        texts.update(text for where, text in by_part.items() if where not in repeated)
    assert texts == Counter(part_text(p) for m in LONG.messages[1:] for p in m.parts)
    assert record_violations(batch.records) == []
    assert token_violations(batch.records, batch.tokens, Converter(ConvertConfig()).tokenizer) == []
    assert (batch.books[0].outcome, batch.books[0].records, batch.books[0].conversations) == (
        "converted",
        len(records),
        1,
    )


def test_a_conversation_that_fits_exactly_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = convert(LONG, monkeypatch, align="turns")
    (size,) = (len(ids) for ids in whole.tokens.column("token_ids").to_pylist())
    assert convert(LONG, monkeypatch, align="turns", max_cells=size).records.num_rows == 1
    assert convert(LONG, monkeypatch, align="turns", max_cells=size - 1).records.num_rows == 2


def test_with_lag_the_window_holds_for_rows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = convert(LONG, monkeypatch, align="turns", lag=1)
    (size,) = (len(ids) for ids in whole.tokens.column("token_ids").to_pylist())
    (rows,) = whole.records.column("rows").to_pylist()
    assert rows > size
    cut = convert(LONG, monkeypatch, align="turns", lag=1, max_cells=size)
    assert cut.records.num_rows == 2
    assert max(cut.records.column("rows").to_pylist()) <= size


@pytest.mark.parametrize(
    "conversation",
    [
        talk(message("user", "word " * 200), message("assistant", "Short.")),
        talk(message("user", "Short."), message("assistant", "word " * 200)),
        talk(message("system", "word " * 200), message("user", "Hi."), message("assistant", "Hi.")),
        talk(message("system", "word " * 200)),
        talk(message("user", "Hi."), message("assistant", "Hi."), tools="word " * 200),
    ],
)
def test_a_message_longer_than_the_window_rejects_its_unit(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = convert(conversation, monkeypatch, max_cells=WINDOW)
    assert [(r["code"], r["stage"]) for r in batch.rejects] == [("exceeds_window", "convert")]
    assert (batch.books[0].outcome, batch.records.num_rows, batch.input_only.num_rows) == ("rejected", 0, 0)


LOG = "".join(f"line {i} of the log says état {i * 7919}\n" for i in range(120))


@pytest.mark.parametrize("lines", [*range(20, 40), 90])
def test_pieces_of_one_result_never_share_a_segment(lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "".join(f"{i}\n" for i in range(lines * 8))
    asked = message("assistant", call("read", "{}", "a"))
    batch = convert(talk(message("user", "Go."), asked, message("tool", result(log, "a"))), monkeypatch, max_cells=256)
    assert batch.rejects == []
    assert record_violations(batch.records) == []
    told = [
        e["text"] for r in to_json(batch.records) for e in r["events"] if e["message"] == 2 and e["kind"] != "header"
    ]
    assert "".join(told) == log


@pytest.mark.parametrize("align", ["turns", "thinking+evidence+tools_async"])
@pytest.mark.parametrize("lag", [0, 1])
def test_a_result_longer_than_the_window_goes_on_in_the_next_segment(
    align: str, lag: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = talk(
        message("system", "Be brief."),
        message("user", "Read the logs."),
        message("assistant", thought("Two logs."), call("read", "{}", "a"), call("read", '{"n": 2}', "b")),
        message("tool", result(LOG, "a")),
        message("tool", result("short log", "b")),
        message("assistant", "Line 3 says 23757."),
        message("user", "Thanks."),
        message("assistant", "Any time."),
    )
    batch = convert(conversation, monkeypatch, align=align, lag=lag, max_cells=256)
    records = list(to_json(batch.records))
    assert batch.rejects == []
    assert [r["segment"] for r in records] == [{"k": k, "n": len(records)} for k in range(1, len(records) + 1)]
    assert max(r["rows"] for r in records) <= 256
    pieces = ["".join(e["text"] for e in r["events"] if e["message"] == 3 and e["kind"] != "header") for r in records]
    assert "".join(pieces) == LOG
    assert sum(map(bool, pieces)) > 3
    last = [
        [e for e in r["events"] if e["message"] == 3][-1]
        for r in records
        if any(e["message"] == 3 for e in r["events"])
    ]
    assert [e["interrupted"] for e in last] == [True] * (len(last) - 1) + [False]
    assert [e["final"] for e in last] == [False] * (len(last) - 1) + [True]
    said = ["".join(e["text"] for r in records for e in r["events"] if e["message"] == m) for m in (5, 6, 7)]
    assert said == ["Line 3 says 23757.", "Thanks.", "Any time."]
    assert record_violations(batch.records) == []
    assert token_violations(batch.records, batch.tokens, Converter(ConvertConfig()).tokenizer) == []


def test_empty_messages_are_noted_in_the_segment_they_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [
        m
        for i in range(4)
        for m in (message("user", sentence(i) * 2), message("assistant", sentence(i)), message("assistant", ""))
    ]
    batch = convert(talk(*messages), monkeypatch, align="turns", max_cells=WINDOW)
    noted = [orjson.loads(r["labels"]).get("empty_messages", []) for r in to_json(batch.records)]
    assert sorted(i for found in noted for i in found) == [2, 5, 8, 11]
    assert batch.counts.empty_messages == 4


def test_the_sources_extra_stands_in_the_first_segment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = convert(Conversation(LONG.messages, extra={"reward": 1}), monkeypatch, max_cells=WINDOW)
    found = [orjson.loads(r["extra"]) for r in sorted(to_json(batch.records), key=lambda r: r["segment"]["k"])]
    assert found == [{"reward": 1}, *[{}] * (len(found) - 1)]
    assert len(found) > 1


def test_a_conversation_of_more_messages_than_the_window_has_cells_is_cut_without_a_plan_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = [m for i in range(300) for m in (message("user", f"q{i}"), message("assistant", f"a{i}"))]
    batch = convert(talk(*turns), monkeypatch, max_cells=WINDOW)
    said = [e["text"] for r in to_json(batch.records) for e in r["events"]]
    assert said == [p.text for m in turns for p in m.parts]
