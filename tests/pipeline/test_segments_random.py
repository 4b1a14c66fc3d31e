"""Random conversations and scripts through a converter with tiny windows: nothing is lost, or one reject says why."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import orjson
import pyarrow as pa
import pytest
from conversation_cases import prose, texts
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from pipeline.checks import record_violations, token_violations
from pipeline.conversation import Conversation, Message, Part
from pipeline.convert import Batch, ConvertConfig, Converter
from pipeline.evaluation.latency import _record_events, compare_with_turns
from pipeline.records import to_json
from pipeline.script import Script, Utterance, stream
from pipeline.segments import cut_script, leading
from schemas import violations

SETTINGS = settings(max_examples=80, deadline=None, derandomize=True)


@lru_cache
def converter(**config: Any) -> Converter:
    return Converter(ConvertConfig(**config))


def convert(told: Conversation | Script, **config: Any) -> Batch:
    unit = {
        "corpus": "c", "path": "p", "index": 0, "format": "given", "license": None, "key": None, "sha256": "0" * 64,
        "raw": b"0",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        given_format = SimpleNamespace(FORMAT="given", convert=lambda unit: iter([told]))
        patch.setattr(converters, "CONVERTERS", {"given": given_format})
        return converter(**config).convert([unit])


def records_of(batch: Batch, codes: set[str]) -> list[dict[str, Any]]:
    """The records after every check; none where the unit is one reject of these codes."""
    if batch.rejects:
        assert len(batch.rejects) == 1
        assert batch.rejects[0]["code"] in codes
        assert batch.records.num_rows == batch.input_only.num_rows == 0
        return []
    table = pa.concat_tables([batch.records, batch.input_only])
    assert record_violations(table) == []
    assert token_violations(batch.records, batch.tokens, converter().tokenizer) == []
    records = sorted(to_json(table), key=lambda r: int(r["segment"]["k"]))
    assert list(violations("stream_record", records)) == []
    assert [r["segment"] for r in records] == [{"k": k, "n": len(records)} for k in range(1, len(records) + 1)]
    return records


def texts_of(record: dict[str, Any]) -> dict[tuple[int | None, int | None], str]:
    said: dict[tuple[int | None, int | None], str] = defaultdict(str)
    for event in record["events"]:
        if event["kind"] != "header":
            said[event["message"], event["part"]] += event["text"]
    return said


# conversations

_UNITS = st.sampled_from(
    [
        "word ",
        "é",
        "字",
        "👩‍👩‍👧‍👦",
        "\n",
        "x",
        "line 12\n",
        " ",
        "e\u0301",
        "\r\n",
        "42,",
        "สวัสดี",
        "\u200d",
        "🇫🇷",
        '{"a":1}',
    ]
)
_short = texts.map(lambda text: text[:60])
_long = st.builds(lambda unit, times, tail: unit * times + tail, _UNITS, st.integers(0, 900), texts)
_ids = st.sampled_from([None, "a", "b"])
_media = st.integers(0, 9).map(lambda n: Part("media", f'{{"type":"image_url","n":{n}}}'))
_text = _short.map(lambda text: Part("text", text))
_thought = _short.map(lambda text: Part("thinking", text))
_call = st.builds(lambda text, id_: Part("tool_call", text, name="f", call_id=id_), _short, _ids)
_result = st.builds(lambda text, id_: Part("tool_result", text, call_id=id_), _short | _long, _ids)
_huge = st.builds(lambda text, id_: Part("tool_result", text, name="f", call_id=id_), _long, _ids)

_message = st.one_of(
    st.builds(lambda *parts: Message("user", parts), _text),
    st.builds(lambda *parts: Message("user", parts), _text, _media),
    st.builds(lambda *parts: Message("user", parts), _text, _result),
    st.builds(lambda *parts: Message("assistant", parts), _thought, _text),
    st.builds(lambda parts: Message("assistant", tuple(parts)), st.lists(_call | _media, min_size=1, max_size=3)),
    st.builds(lambda *parts: Message("tool", parts), _huge),
    st.builds(lambda *parts: Message("tool", parts), _huge),
    st.builds(lambda parts: Message("tool", tuple(parts)), st.lists(_huge | _text | _media, max_size=4)),
    st.just(Message("system", (Part("text", "Be brief."),))),
    st.just(Message("assistant", (), weight=0.0)),
)
_conversations = st.builds(
    lambda messages, tools: Conversation(tuple(messages), tools=tools),
    st.lists(_message, min_size=1, max_size=14),
    st.sampled_from(["", '[{"name":"f"}]']),
)


@SETTINGS
@given(
    _conversations,
    st.sampled_from([64, 80, 128, 300]),
    st.sampled_from([0, 1]),
    st.sampled_from(["turns", "thinking:min_coverage=0+evidence:min_coverage=0,over=all+tools_async"]),
)
def test_segments_of_any_conversation_fit_the_window_and_tell_all_of_it(
    conversation: Conversation, window: int, lag: int, align: str
) -> None:
    batch = convert(conversation, max_cells=window, lag=lag, align=align)
    records = records_of(batch, {"exceeds_window", "unencodable", "empty"})
    if not records:
        return
    head = leading(conversation)
    told: dict[tuple[int | None, int | None], str] = defaultdict(str)
    silent: Counter[int] = Counter()
    media: list[tuple[int, int, str]] = []
    for record in records:
        assert record["rows"] <= window
        first = record["segment"]["k"] == 1
        said = texts_of(record)
        for where, text in said.items():
            if first or (where[0] is not None and where[0] >= head):
                told[where] += text
        labels = orjson.loads(record["labels"])
        silent.update(i for i in labels.get("empty_messages", ()) if first or i >= head)
        for found in labels.get("media", ()):
            assert (found["message"], found["part"]) in said
            if first or found["message"] >= head:
                media.append((found["message"], found["part"], found["reference"]))
    parts = [(m, p, part) for m, message in enumerate(conversation.messages) for p, part in enumerate(message.parts)]
    for m, p, part in parts:
        expected = {"media": "[image]", "tool_call": f"{part.name}\n{part.text}"}.get(part.kind, part.text)
        assert told.pop((m, p), "") == expected
    assert told == ({(None, None): conversation.tools} if conversation.tools else {})
    assert sorted(media) == [(m, p, part.text) for m, p, part in parts if part.kind == "media"]
    speaking = {m for m, _, part in parts if part.text or part.kind in ("tool_call", "tool_result")}
    assert silent == Counter(set(range(len(conversation.messages))) - speaking)


# scripts

_STREAMS = (
    ("user", "input"), ("system", "input"), ("tool/0", "input"), ("thought", "output"), ("assistant", "output"),
    ("assistant/1", "output"), ("void", "output"),
)  # fmt: skip
_piece = (
    st.sampled_from([" on", " kiln", "é", " 48213", "字", "👩‍👩‍👧‍👦", "\n", " ", "e\u0301", " Paris", "\u200d"]) | prose
)


@st.composite
def _scripts(draw: st.DrawFn) -> Script:
    chosen = draw(st.lists(st.sampled_from(_STREAMS), min_size=1, max_size=5, unique=True))
    ms_per_row = draw(st.sampled_from([None, None, 80.0, 0.25, 33.3]))
    tick = 1 if ms_per_row is None else draw(st.sampled_from([1, 100, 5000]))
    utterances = []
    for on in range(len(chosen)):
        at = draw(st.integers(0, 4)) * tick
        for _ in range(draw(st.integers(0, 5))):
            text, ends, starts, stops = "", [], [], []
            for _ in range(draw(st.integers(1, 4))):
                text += draw(_piece)[:20]
                ends.append(len(text))
                starts.append(at)
                stops.append(at + draw(st.integers(1, 3)) * tick)
                at = stops[-1] + draw(st.integers(0, 2)) * tick
            more = {"weight": draw(st.sampled_from([1.0, 0.0])), "thinking": draw(st.booleans())}
            more |= {"interrupted": draw(st.booleans()), "added": draw(st.sampled_from(["", " "]))}
            utterances.append(Utterance(on, text, tuple(ends), tuple(starts), tuple(stops), **more))
            at += draw(st.sampled_from([0, 1, 1, 8])) * tick
    utterances.sort(key=lambda u: (u.starts[0], u.stream))
    outputs = [i for i, (_, direction) in enumerate(chosen) if direction == "output"]
    unheard = draw(st.frozensets(st.sampled_from(outputs))) if outputs and ms_per_row is None else frozenset()
    streams = tuple(stream(name, direction) for name, direction in chosen)  # type: ignore[arg-type]
    return Script(streams, tuple(utterances), ms_per_row=ms_per_row, unheard=unheard)


@SETTINGS
@given(_scripts(), st.sampled_from([64, 100, 8192]), st.sampled_from([0, 1]))
def test_records_of_any_script_fit_the_window_and_say_all_of_it_on_its_streams(
    script: Script, window: int, lag: int
) -> None:
    records = records_of(
        convert(script, max_cells=window, lag=lag), {"exceeds_window", "unencodable", "empty", "leak", "cycle"}
    )
    if not records:
        return
    said: dict[int, str] = defaultdict(str)
    for record in records:
        assert record["rows"] <= window
        for event in record["events"]:
            utterance = script.utterances[event["message"]]
            assert record["streams"][event["stream"]]["name"] == script.streams[utterance.stream].name
            assert event["weight"] == utterance.weight
            assert event["time_ms"] == (None if script.ms_per_row is None else utterance.starts[0])
        for (message, _), text in texts_of(record).items():
            assert message is not None
            said[message] += text
    assert said == {i: u.text for i, u in enumerate(script.utterances)}
    compare_with_turns(map(_record_events, records))


@SETTINGS
@given(_scripts(), st.integers(1, 40))
def test_segments_of_a_script_are_as_long_as_the_window_lets_them_be(script: Script, window: int) -> None:
    cells = [len(u.ends) for u in script.utterances]
    try:
        segments = cut_script(script, cells, window)
    except ValueError:
        return

    def size(chosen: tuple[int, ...]) -> int:
        if script.ms_per_row is None:
            return sum(cells[i] for i in chosen)
        last = max(script.utterances[i].stops[-1] for i in chosen)
        lasts = int((last - script.utterances[chosen[0]].starts[0]) / script.ms_per_row) + 1
        return max(lasts, sum(cells[i] for i in chosen))

    assert [i for chosen, _ in segments for i in chosen] == list(range(len(cells)))
    assert all(size(chosen) <= window for chosen, _ in segments)
    for (before, _), (after, _) in pairwise(segments):
        quiet = script.utterances[after[0]].starts[0]
        assert all(script.utterances[i].stops[-1] <= quiet for i in before)
        # What is said without a pause behind the cut would not have fitted.
        next_ = [after[0]]
        for i in after[1:]:
            if script.utterances[i].starts[0] >= max(script.utterances[j].stops[-1] for j in next_):
                break
            next_.append(i)
        assert size((*before, *next_)) > window
