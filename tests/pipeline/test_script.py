"""Scripts: what a chunk waits for is what had stopped when it starts, in the timeline and in the rows of the record."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.checks import record_violations, token_violations
from pipeline.conversation import RecordError
from pipeline.records import Clock, Document, build_tables, encode_spans, to_json
from pipeline.script import Script, ScriptPolicy, Utterance, perform, stream
from pipeline.tokenization import load_tokenizer
from schemas import violations

STREAMS = (stream("user", "input"), stream("thought", "output"), stream("assistant/1", "output"))


def record(script: Script) -> dict[str, Any]:
    """The script's record, after every check that holds for records."""
    conversation, timeline = perform(script)
    tokenizer = load_tokenizer("smollm2")
    encoded, first = encode_spans([timeline], tokenizer)
    document = Document(conversation, timeline, ScriptPolicy(script), ms_per_row=script.ms_per_row, script=script)
    tables = build_tables([document], Clock(tokenizer), encoded, first)
    assert not tables.failed
    assert record_violations(tables.records) == []
    assert token_violations(tables.records, tables.tokens, tokenizer) == []
    (value,) = to_json(tables.records)
    assert list(violations("stream_record", [value])) == []
    return value


def said(on: int, *cells: tuple[int, int, str], **more: Any) -> Utterance:
    """An utterance of cells (start, stop, text)."""
    ends = []
    text = ""
    for _, _, piece in cells:
        text += piece
        ends.append(len(text))
    return Utterance(on, text, tuple(ends), tuple(c[0] for c in cells), tuple(c[1] for c in cells), **more)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    utterances = []
    for on in range(len(STREAMS)):
        tick = draw(st.integers(0, 3))
        for _ in range(draw(st.integers(0, 3))):
            cells = []
            for _ in range(draw(st.integers(1, 3))):
                stop = tick + draw(st.integers(1, 3))
                cells.append((tick, stop, draw(st.sampled_from([" on", " and on", " kiln", "é", " 42"]))))
                tick = stop + draw(st.integers(0, 2))
            utterances.append(said(on, *cells))
            tick += 1
    utterances.sort(key=lambda u: (u.starts[0], u.stream))
    unheard = frozenset({1}) if draw(st.booleans()) else frozenset()
    return Script(STREAMS, tuple(utterances), unheard=unheard)


@settings(max_examples=200, deadline=None)
@given(scripts())
def test_a_chunk_waits_for_exactly_what_had_stopped_and_could_be_heard(script: Script) -> None:
    _, timeline = perform(script)
    on = [script.utterances[s].stream for s in timeline.chunk_span]
    starts = [t for u in script.utterances for t in u.starts]
    stops = [t for u in script.utterances for t in u.stops]
    order = sorted(range(len(on)), key=lambda c: starts[c])
    reached: dict[int, set[int]] = {}
    for chunk in order:
        before = [c for c in order if on[c] == on[chunk] and starts[c] < starts[chunk]]
        waits = {*timeline.after[chunk], *before}
        reached[chunk] = waits.union(*(reached[c] for c in waits))
        direct = {c for c in range(len(on)) if stops[c] <= starts[chunk]}
        if on[chunk] == 0:
            direct -= {c for c in direct if on[c] in script.unheard}
        expected = direct.union(*(reached[c] for c in direct))
        assert reached[chunk] == expected
        assert all(c not in reached[other] for c in timeline.after[chunk] for other in timeline.after[chunk])
    if not script.unheard:
        for chunk in order:
            assert reached[chunk] == {c for c in range(len(on)) if stops[c] <= starts[chunk]}


@settings(max_examples=20, deadline=None)
@given(scripts())
def test_rows_keep_the_order_of_the_script(script: Script) -> None:
    if not script.utterances:
        return
    value = record(script)
    texts: dict[tuple[int, int], list[Any]] = {}
    for event in value["events"]:
        texts.setdefault((event["message"], event["stream"]), []).append(event)
    for (message, on), events in texts.items():
        assert script.utterances[message].stream == on
        assert "".join(e["text"] for e in events) == script.utterances[message].text
    for one in range(len(script.utterances)):
        for other in range(len(script.utterances)):
            a, b = script.utterances[one], script.utterances[other]
            if a.stops[-1] <= b.starts[0] and not (b.stream == 0 and a.stream in script.unheard):
                ended = max(e["end"] for e in texts[one, a.stream])
                assert ended <= min(e["start"] for e in texts[other, b.stream])


def test_messages_are_named_by_their_stream_and_thoughts_are_thinking() -> None:
    streams = (
        stream("system", "input"),
        stream("user", "input"),
        stream("thought", "output"),
        stream("void", "output"),
    )
    told = (said(0, (0, 1, "a")), said(1, (1, 2, "b")), said(2, (2, 3, "c")), said(3, (2, 3, "d"), thinking=True))
    conversation, timeline = perform(Script(streams, (*told, said(3, (4, 5, "e"), weight=0.0, added=" "))))
    assert [(m.role, m.name, m.parts[0].kind) for m in conversation.messages] == [
        ("system", "system", "text"),
        ("user", "user", "text"),
        ("assistant", "thought", "thinking"),
        ("assistant", "void", "thinking"),
        ("assistant", "void", "text"),
    ]
    assert (timeline.spans[-1].weight, timeline.spans[-1].added) == (0.0, " ")
    assert timeline.spans[3].source_kind == "thinking"


def test_an_input_does_not_wait_for_what_nobody_hears() -> None:
    told = (said(0, (0, 1, "one"), (3, 4, " two")), said(1, (1, 2, "a long thought about it all")))
    heard = record(Script(STREAMS, told))["events"]
    unheard = record(Script(STREAMS, told, unheard=frozenset({1})))["events"]
    start = {name: next(e["start"] for e in events if e["text"] == " two") for name, events in
             (("heard", heard), ("unheard", unheard))}  # fmt: skip
    thought = next(e for e in heard if e["stream"] == 1)
    assert start["heard"] == thought["end"]
    assert start["unheard"] == 1


def test_on_a_clock_of_real_time_nothing_is_said_before_its_time() -> None:
    told = (
        said(0, (1000, 1010, "Is"), (1010, 1400, " it hot?")),
        said(2, (2000, 2100, "No"), (2100, 2110, ", it is"), (5000, 5100, " cold.")),
    )
    value = record(Script(STREAMS, told, ms_per_row=100.0))
    rows = {e["text"]: (e["start"], e["end"]) for e in value["events"]}
    assert value["clock"]["ms_per_row"] == 100.0
    assert rows["Is"][0] == 0
    assert rows["No"][0] == 10
    assert rows[" cold."][0] == 40
    assert all(start * 100 >= told_at - 1000 for text, (start, _) in rows.items() for told_at in [TOLD[text]])
    assert {e["time_ms"] for e in value["events"]} == {1000, 2000}
    assert value["alignment"]["params"] == '{"ms_per_row":100.0,"tick":"ms"}'


TOLD = {"Is": 1000, " it hot?": 1010, "No": 2000, ", it is": 2100, " cold.": 5000}


@pytest.mark.parametrize(
    "told",
    [
        [said(0, (0, 2, "a")), said(0, (1, 3, "b"))],
        [said(0, (0, 0, "a"))],
        [said(0, (2, 3, "a"), (1, 2, "b"))],
        [said(0, (2, 3, "a")), said(2, (1, 2, "b"))],
        [Utterance(0, "ab", (1,), (0,), (1,))],
        [Utterance(0, "ab", (2,), (0, 1), (1, 2))],
        [Utterance(0, "ab", (0, 2), (0, 1), (1, 2))],
        [Utterance(0, "", (), (), ())],
    ],
)
def test_a_script_that_contradicts_itself_is_refused(told: list[Utterance]) -> None:
    with pytest.raises(RecordError) as caught:
        perform(Script(STREAMS, tuple(told)))
    assert caught.value.code == "bad_timing"
