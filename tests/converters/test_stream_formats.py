"""Formats that are streams already: who speaks when, what it waits for, and text exact to the character."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import CONVERTERS, UnknownFormatError, convert, detect_format
from converters.shared.joining import join_pieces
from pipeline.checks import record_violations
from pipeline.conversation import RecordError
from pipeline.records import Clock, Document, build_tables, encode_spans, to_json
from pipeline.script import Script, ScriptPolicy, perform
from pipeline.tokenization import load_tokenizer

FORMATS = ("word_times", "duplex_slices", "stream_table", "segmented_channels", "streaming_thinker")


def script_of(format: str, unit: Any) -> Script:
    (script,) = convert(format, unit)
    assert isinstance(script, Script)
    return script


def said(script: Script) -> list[tuple[str, str, tuple[int, ...]]]:
    """Stream, text and the tick of each chunk, by utterance."""
    return [(script.streams[u.stream].name, u.text, u.starts) for u in script.utterances]


def pieces(script: Script) -> dict[str, list[str]]:
    """Per stream the texts of its chunks."""
    out: dict[str, list[str]] = {}
    for u in script.utterances:
        cuts = (0, *u.ends)
        out.setdefault(script.streams[u.stream].name, []).extend(u.text[a:b] for a, b in pairwise(cuts))
    return out


def events(script: Script) -> list[tuple[str, str, int, int]]:
    """Stream, text and rows of the record's events, which breaks no invariant."""
    conversation, timeline = perform(script)
    tokenizer = load_tokenizer("smollm2")
    encoded, first = encode_spans([timeline], tokenizer)
    document = Document(conversation, timeline, ScriptPolicy(script), ms_per_row=script.ms_per_row, script=script)
    tables = build_tables([document], Clock(tokenizer), encoded, first)
    if tables.failed:
        raise tables.failed[0][1]
    assert record_violations(tables.records) == []
    (record,) = to_json(tables.records)
    names = [s["name"] for s in record["streams"]]
    return [(names[e["stream"]], e["text"], e["start"], e["end"]) for e in record["events"]]


def code(format: str, unit: Any) -> str:
    with pytest.raises(RecordError) as caught:
        list(convert(format, unit))
    return caught.value.code


@pytest.mark.parametrize("format", FORMATS)
def test_the_example_is_laid_out_with_user_and_model(format: str) -> None:
    example = CONVERTERS[format].EXAMPLE
    script = script_of(format, example)
    assert detect_format([example]) == format
    directions = {s.name.partition("/")[0]: s.direction for s in script.streams}
    assert directions["user"] == "input"
    assert directions["assistant"] == "output"
    assert len(events(script)) >= sum(len(u.ends) for u in script.utterances) - 1


# Joining


@pytest.mark.parametrize(
    ("given_", "text", "ends", "added"),
    [
        (["a", "b"], "a b", (1, 3), " "),
        (["a ", "b"], "a b", (2, 3), ""),
        (["a", "\nb"], "a\nb", (1, 3), ""),
        (["你好", "世界"], "你好世界", (2, 4), ""),
        (["你好", "kiln"], "你好kiln", (2, 6), ""),
        (["ok,", "好"], "ok,好", (3, 4), ""),
        (["ค", "ำ"], "คำ", (1, 2), ""),
        (["도자기", "가마"], "도자기 가마", (3, 6), " "),
        (["x"], "x", (1,), ""),
    ],
)
def test_pieces_are_joined_by_a_space_where_the_script_has_spaces(
    given_: list[str], text: str, ends: tuple[int, ...], added: str
) -> None:
    assert join_pieces(given_) == (text, ends, added)


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=8))
def test_joined_pieces_stand_in_the_text_whole_and_in_order(given_: list[str]) -> None:
    text, ends, added = join_pieces(given_)
    begin = 0
    for piece, end in zip(given_, ends, strict=True):
        assert text[begin:end] in (piece, f" {piece}")
        begin = end
    assert begin == len(text)
    assert added == (" " if len(text) > sum(map(len, given_)) else "")


# word_times


def alignments(*words: tuple[str, float, float, str]) -> dict[str, Any]:
    return {"alignments": [[word, [start, end], f"SPEAKER_{who}"] for word, start, end, who in words]}


def test_words_become_chunks_at_their_times_and_others_speech_ends_an_utterance() -> None:
    script = script_of("word_times", CONVERTERS["word_times"].EXAMPLE)
    assert said(script) == [
        ("user", "Is it hot?", (310, 440, 520)),
        ("assistant", "It is still warm.", (1000, 1100, 1240, 1600)),
        ("user", "Ah.", (1150,)),
    ]
    assert script.ms_per_row == 80.0
    assert script.extra == {"speakers": {"user": "SPEAKER_OTHER", "assistant": "SPEAKER_MAIN"}, "joined": " "}
    assert {u.added for u in script.utterances} == {" ", ""}
    rows = events(script)
    assert [(name, text) for name, text, *_ in rows][:3] == [("user", "Is"), ("user", " it"), ("user", " hot?")]
    assert next(start for name, _, start, _ in rows if name == "assistant") == 8


def test_a_pause_ends_an_utterance_and_an_interjection_into_a_word_does_not() -> None:
    unit = alignments(("A", 0, 0.5, "MAIN"), ("mhm", 0.2, 0.4, "OTHER"), ("b", 0.5, 1, "MAIN"), ("c", 1.9, 2, "MAIN"))
    assert [text for _, text, _ in said(script_of("word_times", unit))] == ["A b c", "mhm"]
    assert [t for _, t, _ in said(script_of("word_times:pause=500ms", unit))] == ["A b", "mhm", "c"]
    unit = alignments(("A", 0, 0.5, "MAIN"), ("mhm", 0.6, 0.7, "OTHER"), ("b", 0.8, 1, "MAIN"))
    assert [text for _, text, _ in said(script_of("word_times", unit))] == ["A", "mhm", "b"]


def test_words_without_length_and_words_that_overlap_are_said_later_never_earlier() -> None:
    unit = alignments(("a", 1, 1, "MAIN"), ("c", 1.2, 1.4, "MAIN"), ("b", 1, 1.3, "MAIN"))
    (utterance,) = script_of("word_times", unit).utterances
    assert (utterance.text, utterance.starts, utterance.stops) == ("a b c", (1000, 1001, 1300), (1001, 1300, 1400))
    assert script_of("word_times", unit).extra["times_mended"] == 3


@pytest.mark.parametrize(
    "times", [[1], [1, 2, 3], [2, 1], [-1, 1], [0, float("nan")], [0, float("inf")], [0, 1e9], ["0", 1], [True, 1]]
)
def test_a_time_that_is_none_is_refused(times: list[Any]) -> None:
    assert code("word_times", {"alignments": [["a", times, "SPEAKER_MAIN"]]}) == "bad_timing"


def test_which_speaker_is_the_model_is_a_name_or_an_option() -> None:
    unit = {"alignments": [["hm", [0, 1], "SPEAKER_01"], ["yes", [1, 2], "SPEAKER_00"], ["and", [2, 3], "SPEAKER_02"]]}
    assert code("word_times", unit) == "model_speaker"
    assert code("word_times:model=3", unit) == "model_speaker"
    script = script_of("word_times:model=1", unit)
    assert script.extra["speakers"] == {"user/0": "SPEAKER_00", "user/1": "SPEAKER_02", "assistant": "SPEAKER_01"}
    assert [name for name, *_ in said(script)] == ["assistant", "user/0", "user/1"]
    named = {"alignments": [["a", [0, 1], "Agent"], ["b", [1, 2], "caller"]]}
    assert [name for name, *_ in said(script_of("word_times", named))] == ["assistant", "user"]
    assert code("word_times", {"alignments": [["a", [0, 1], "agent"], ["b", [1, 2], "bot"]]}) == "model_speaker"
    unit = {"alignments": [["a", [0, 1], "SPEAKER_MAIN"], ["b", [1, 2], "bot"]]}
    assert [name for name, *_ in said(script_of("word_times", unit))] == ["assistant", "user"]
    with pytest.raises(UnknownFormatError, match="row must be one of 40ms"):
        convert("word_times:row=50ms", unit)


def test_segments_keep_their_text_and_every_key() -> None:
    unit = {
        "segments": [
            {
                "speaker": "A",
                "start": 0.0,
                "end": 2.0,
                "text": " In  2014, maybe. ",
                "words": [
                    {"word": "In", "start": 0.1, "end": 0.2, "score": 0.9},
                    {"word": "2014,"},
                    {"word": "maybe.", "start": 1.0, "end": 1.5},
                ],
            },
            {"speaker": "B", "start": 2.0, "end": 3.0, "text": " No."},
            {
                "speaker": "A",
                "start": 3.0,
                "end": 4.0,
                "text": "unlike the words",
                "words": [{"word": " So", "start": 3, "end": 3.5}, {"word": "what?", "start": 3.5, "end": 4}],
            },
        ],
        "language": "en",
    }
    script = script_of("word_times:model=1", unit)
    assert said(script) == [
        ("user", "In  2014, maybe.", (100, 200, 1000)),
        ("assistant", "No.", (2000,)),
        ("user", "So what?", (3000, 3500)),
    ]
    assert pieces(script)["user"] == ["In", "  2014,", " maybe.", "So", " what?"]
    assert script.extra["language"] == "en"
    assert script.extra["segments"] == {"0": {"words": {"0": {"score": 0.9}}}, "2": {"text": "unlike the words"}}
    assert script.extra["times_mended"] == 1


def test_a_segment_of_two_speakers_is_two_utterances() -> None:
    words = [
        {"word": "Hot?", "start": 0, "end": 1, "speaker": "user"},
        {"word": "No.", "start": 0.5, "end": 1.5, "speaker": "bot"},
    ]
    unit = {"segments": [{"speaker": "user", "start": 0, "end": 2, "text": "Hot? No.", "words": words}]}
    assert said(script_of("word_times", unit)) == [("user", "Hot?", (0,)), ("assistant", "No.", (500,))]
    del words[0]["speaker"], unit["segments"][0]["speaker"]
    assert code("word_times", unit) == "missing_field"


# duplex_slices


def slices(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"output": [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]}


def test_slices_of_one_step_overlap_and_idle_says_nothing() -> None:
    script = script_of("duplex_slices", CONVERTERS["duplex_slices"].EXAMPLE)
    assert said(script) == [
        ("user", "Is the kiln still hot from last night?", (1, 2)),
        ("assistant", "It is at 80 degrees, so you can open it The glaze has set.", (3, 4, 5)),
        ("user", "And the glaze?", (4,)),
    ]
    rows = {text: (start, end) for _, text, start, end in events(script)}
    assert rows["And the glaze?"][0] == rows[" so you can open it"][0]
    assert rows[" The glaze has set."][0] >= rows["And the glaze?"][1]


def test_an_assistant_slice_never_precedes_the_user_slice_it_answers() -> None:
    script = script_of("duplex_slices", slices("one", "a", "two", "b", "three", "c"))
    starts = {text.strip(): start for _, text, start, _ in events(script)}
    ends = {text.strip(): end for _, text, _, end in events(script)}
    for heard, answered in (("one", "a"), ("two", "b"), ("three", "c")):
        assert starts[answered] >= ends[heard]


def test_chinese_slices_get_no_spaces_and_slices_with_spaces_keep_theirs() -> None:
    chinese = script_of("duplex_slices", slices("窑还", "<idle>", "热吗?", "不热"))
    assert [text for _, text, _ in said(chinese)] == ["窑还热吗?", "不热"]
    assert "joined" not in chinese.extra
    spaced = script_of("duplex_slices", slices("Is it", " <idle> ", " hot?", "No"))
    assert [text for _, text, _ in said(spaced)] == ["Is it hot?", "No"]
    assert "joined" not in spaced.extra


def test_an_idle_slice_in_between_makes_two_utterances() -> None:
    script = script_of("duplex_slices", slices("a", "b", "<idle>", "<idle>", "c", "d"))
    assert [text for _, text, _ in said(script)] == ["a", "b", "c", "d"]


def test_two_slices_in_a_row_are_two_steps_and_a_system_message_is_read_first() -> None:
    unit = slices("hot?", "no", "<idle>", "<idle>")
    unit["output"][2]["role"] = "assistant"
    unit["output"].insert(0, {"role": "system", "content": "Be brief.", "lang": "en"})
    script = script_of("duplex_slices", {**unit, "type": "basic"})
    assert said(script) == [("system", "Be brief.", (1,)), ("user", "hot?", (2,)), ("assistant", "no", (3,))]
    assert script.extra == {"type": "basic", "messages": {"0": {"lang": "en"}}}


def test_slices_that_cannot_be_read_are_refused() -> None:
    assert code("duplex_slices", slices("<idle>", "<idle>")) == "empty_conversation"
    assert code("duplex_slices", {"output": []}) == "no_messages"
    assert code("duplex_slices", {"output": [{"role": "narrator", "content": "<idle>"}]}) == "unknown_role"
    assert code("duplex_slices", {"output": [{"role": "user", "content": 3}]}) == "wrong_type"
    assert not CONVERTERS["duplex_slices"].detect({"output": [{"role": "user", "content": "no slices"}]})


# stream_table


def test_cells_wait_for_earlier_rows_only_and_a_hyphen_in_text_stays() -> None:
    script = script_of("stream_table", CONVERTERS["stream_table"].EXAMPLE)
    assert said(script) == [
        ("user", "Is the kiln still hot?", (0, 1)),
        ("analytical", "it asks for a temperature 80 by the display", (1, 2)),
        ("assistant", "It is at 80 degrees, so open it - slowly.", (3, 4)),
        ("skeptical", "is the display right?", (3,)),
    ]
    assert [u.thinking for u in script.utterances] == [False, True, False, True]
    assert script.extra["input_prompt"] == "Is the kiln still hot?"
    row_of = {"Is the kiln": 0, "still hot?": 1, "it asks for a temperature": 1, "80 by the display": 2}
    row_of |= {"It is at 80 degrees,": 3, "is the display right?": 3, "so open it - slowly.": 4}
    rows = [(row_of[text.strip()], start, end) for _, text, start, end in events(script)]
    for row, start, _ in rows:
        assert all(end <= start for other, _, end in rows if other < row)


def test_rows_as_objects_and_as_lists_are_the_same_table() -> None:
    rows = [
        {"User": "hot?", "Output": "-"},
        {"Output": "No - it is", "Inner Voice": "check"},
        {"User": "", "Output": None},
    ]
    names = ["User", "Output", "Inner Voice"]
    as_lists = [[row.get(name) for name in names] for row in rows]
    one = script_of("stream_table", {"rows": rows, "seed": 3})
    other = script_of("stream_table", {"columns": names, "rows": as_lists, "seed": 3})
    assert one == other
    assert said(one) == [("user", "hot?", (0,)), ("assistant", "No - it is", (1,)), ("inner_voice", "check", (1,))]
    assert one.extra == {
        "seed": 3, "columns": {"user": "User", "assistant": "Output", "inner_voice": "Inner Voice"},
    }  # fmt: skip


def test_inputs_come_first_and_silent_columns_stay() -> None:
    script = script_of("stream_table", {"Output": ["hi", "-"], "Void": ["-", "-"], "User": ["-", "oh"]})
    assert [(s.name, s.direction) for s in script.streams] == [
        ("user", "input"),
        ("assistant", "output"),
        ("void", "output"),
    ]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ({"User": ["a"], "Output": ["b", "c"]}, "uneven_columns"),
        ({"columns": ["User"], "rows": [["a", "b"]]}, "uneven_columns"),
        ({"User": [17, 30], "Output": [1, 2]}, "token_ids"),
        ({"User": [1.5], "Output": ["b"]}, "wrong_type"),
        ({"User": ["-"], "Output": [""]}, "empty_conversation"),
        ({"rows": [{"user": "a", "User": "b"}]}, "bad_stream"),
        ({"rows": [{"tool": "a", "tool/0": "b"}]}, "bad_stream"),
        ({"rows": [{"User": "a", "¿qué?": "b"}]}, "bad_stream"),
        ({"columns": ["User", "User"], "rows": []}, "bad_stream"),
        ({"rows": []}, "missing_field"),
        ({"id": "x"}, "missing_field"),
        ({"rows": [["a"]]}, "wrong_type"),
        ({"User": ["\ud800"], "Output": ["b"]}, "invalid_text"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(unit: Any, expected: str) -> None:
    assert code("stream_table", unit) == expected


# segmented_channels


def test_segments_follow_each_other_and_channels_speak_side_by_side() -> None:
    script = script_of("segmented_channels", CONVERTERS["segmented_channels"].EXAMPLE)
    assert [(name, starts) for name, _, starts in said(script)] == [
        ("user", (0,)),
        ("assistant/0", (1,)),
        ("assistant/1", (1,)),
        ("assistant/0", (2,)),
        ("assistant/1", (2,)),
        ("assistant/0", (3,)),
    ]
    assert script.extra == {"num_channels": 2, "sample_id": "walls_1"}


def test_a_second_entry_of_a_channel_waits_for_all_first_ones() -> None:
    segment = [{"channel": c, "text": text} for c, text in ((2, "I take 7."), (0, "I take 8."), (2, "So 1 is left."))]
    unit = {
        "question": "Q",
        "channels": [segment, [], [{"channel": 0, "text": "Done.", "score": 1}, {"channel": 2, "text": ""}]],
    }
    script = script_of("segmented_channels", unit)
    assert said(script)[1:] == [
        ("assistant/0", "I take 8.", (1,)),
        ("assistant/2", "I take 7.", (1,)),
        ("assistant/2", "So 1 is left.", (2,)),
        ("assistant/0", "Done.", (3,)),
    ]
    assert script.extra == {"channels": {"2": {"0": {"score": 1}}}}
    rows = {text: (start, end) for _, text, start, end in events(script)}
    assert rows["So 1 is left."][0] >= rows["I take 8."][1]
    assert rows["Done."][0] >= rows["So 1 is left."][1]


def test_a_list_of_inputs_and_outputs_answers_side_by_side_when_the_inputs_are_read() -> None:
    same = {
        "channels": [{"input": "3 times 4?", "output": "12."}, {"input": "3 times 4?", "output": "Twelve."}],
        "meta": 1,
    }
    assert said(script_of("segmented_channels", same)) == [
        ("user", "3 times 4?", (0,)),
        ("assistant/0", "12.", (1,)),
        ("assistant/1", "Twelve.", (1,)),
    ]
    other = {"channels": [{"input": "a?", "output": "A", "n": 1}, {"input": "b?", "output": "B"}]}
    assert [name for name, *_ in said(script_of("segmented_channels", other))] == [
        "user/0", "user/1", "assistant/0", "assistant/1",
    ]  # fmt: skip
    assert script_of("segmented_channels", other).extra == {"channels": {"0": {"n": 1}}}
    start = min(start for name, _, start, _ in events(script_of("segmented_channels", same)) if name != "user")
    assert start == max(end for name, _, _, end in events(script_of("segmented_channels", same)) if name == "user")


def test_a_reply_to_a_sentence_starts_when_it_has_been_read_and_reading_goes_on() -> None:
    unit = {
        "input_sentences": ["Ravi fires 45 bowls.", "A fifth of them crack.", "How many are whole?"],
        "output_sentences": ["45 bowls, then, all of them in one kiln.", "That is 9.", "36 are whole."],
        "meta": {"id": 3},
    }
    script = script_of("segmented_channels", unit)
    rows = {text.strip(): (start, end) for _, text, start, end in events(script)}
    for asked, answered in zip(unit["input_sentences"], unit["output_sentences"], strict=True):
        assert rows[answered][0] >= rows[asked][1]
    assert rows["45 bowls, then, all of them in one kiln."][0] == rows["Ravi fires 45 bowls."][1]
    assert rows["How many are whole?"][0] == rows["A fifth of them crack."][1]
    unit["output_sentences"].pop()
    assert code("segmented_channels", unit) == "uneven_columns"


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ({"channels": {"draft": {"text": "a"}}}, "unknown_part"),
        ({"channels": []}, "no_messages"),
        ({"channels": [[{"channel": "0", "text": "a"}]]}, "bad_stream"),
        ({"channels": [[{"channel": True, "text": "a"}]]}, "bad_stream"),
        ({"channels": [[{"channel": 256, "text": "a"}]]}, "bad_stream"),
        ({"channels": [[{"channel": 0}]]}, "missing_field"),
        ({"channels": [[{"channel": 0, "text": ""}]], "problem": "q"}, "empty_answer"),
        ({"channels": [{"input": "a", "output": ""}]}, "empty_answer"),
        ({"channels": ["one", "two"]}, "wrong_type"),
    ],
)
def test_channels_that_cannot_be_read_are_refused(unit: Any, expected: str) -> None:
    assert code("segmented_channels", unit) == expected


# streaming_thinker


def test_a_thought_starts_when_its_sentence_has_been_read_while_the_next_is_read() -> None:
    example = CONVERTERS["streaming_thinker"].EXAMPLE
    script = script_of("streaming_thinker", example)
    assert pieces(script) == {
        "user": ["How many bowls does the kiln hold?", "A kiln holds 6 shelves.", " Each shelf holds 4 bowls."],
        "thought": [
            "They ask for all the bowls.",
            " \nThere are 6 shelves.",
            " \nSo 6 times 4.",
            "6 times 4 is 24. ",
            "Checked: 24.",
            " The answer is 24.",
        ],
        "assistant": ["24"],
    }
    rows = {text.strip(): (start, end) for _, text, start, end in events(script)}
    assert rows["They ask for all the bowls."][0] == rows["How many bowls does the kiln hold?"][1]
    assert rows["There are 6 shelves."][0] >= rows["A kiln holds 6 shelves."][1]
    assert rows["Each shelf holds 4 bowls."][0] == rows["A kiln holds 6 shelves."][1]
    assert rows["6 times 4 is 24."][0] >= rows["Each shelf holds 4 bowls."][1]
    assert rows["24"][0] == rows["The answer is 24."][1]


def test_an_empty_thought_is_silence_and_thoughts_have_to_match_the_sentences() -> None:
    unit = {
        "Instruct_Context": {"context": "One.<EOS> Two.<EOS> Three.", "instruct": "Q?", "id": 4},
        "streaming_reasoning": "q<EOQ>a<EOT><EOT>c<EOT>",
        "answer": "3",
        "result": "kept",
    }
    script = script_of("streaming_thinker", unit)
    assert pieces(script)["thought"] == ["q", "a", "c"]
    assert script.extra == {"result": "kept", "Instruct_Context": {"id": 4}}
    unit["streaming_reasoning"] = "a<EOT>"
    assert code("streaming_thinker", unit) == "uneven_streams"


def test_reasoning_about_everything_comes_behind_everything() -> None:
    unit = {
        "Instruct_Context": {"context": "One.<EOS> Two.<EOS>", "instruct": "Q?"},
        "reasoning": "Two.",
        "result": "2",
    }
    assert said(script_of("streaming_thinker", unit)) == [
        ("user", "Q?", (0,)),
        ("user", "One. Two.", (1, 2)),
        ("thought", "Two.", (3,)),
        ("assistant", "2", (4,)),
    ]
    assert code("streaming_thinker", {**unit, "result": ""}) == "empty_answer"


# All of them


def test_each_is_detected_by_itself_only() -> None:
    for format in FORMATS:
        votes = [name for name, module in CONVERTERS.items() if module.detect(CONVERTERS[format].EXAMPLE)]
        assert votes == [format]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_converts_can_be_laid_out(data: st.DataObject) -> None:
    word = st.sampled_from(["kiln", " hot", "no.", "窑", "-", "", "é\u0301", "\n", "a b", "👩‍🔧"])
    seconds = st.floats(0, 5)
    speaker = st.sampled_from(["SPEAKER_MAIN", "x"])
    cells = st.lists(word, min_size=3, max_size=3)
    units = {
        "word_times": st.builds(
            lambda items: {"alignments": [[w, sorted(t), s] for w, t, s in items]},
            st.lists(st.tuples(word, st.tuples(seconds, seconds), speaker), min_size=1, max_size=8),
        ),
        "duplex_slices": st.builds(
            lambda items: slices(*items), st.lists(word | st.just("<idle>"), min_size=1, max_size=9)
        ),
        "stream_table": st.builds(lambda a, b, c: {"User": a, "Output": b, "Void": c}, cells, cells, cells),
        "segmented_channels": st.builds(
            lambda items: {"problem": "Q", "channels": [[{"channel": c, "text": t} for c, t in s] for s in items]},
            st.lists(st.lists(st.tuples(st.integers(0, 2), word), max_size=4), min_size=1, max_size=3),
        ),
    }
    format = data.draw(st.sampled_from(list(units)))
    try:
        script = script_of(format, data.draw(units[format]))
    except RecordError:
        return
    texts = [u.text for u in script.utterances]
    told: dict[str, str] = {}
    try:
        laid_out = events(script)
    except RecordError as error:
        # One token covers pieces (here: newlines) between which another stream speaks.
        if error.code == "cycle" and any("\n\n" in text for text in texts):
            return
        raise
    for name, text, _, _ in laid_out:
        told[name] = told.get(name, "") + text
    for name, text in told.items():
        assert text == "".join(t for u, t in zip(script.utterances, texts, strict=True)
                               if script.streams[u.stream].name == name)  # fmt: skip
