"""Talks: what filters see of records is the conversation, to the character, however it was cut, copied and batched."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filter_cases import Refused, asked, convert, message, talks_of
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from pipeline.conversation import Conversation, Part
from pipeline.filters import talks as module
from pipeline.filters.talks import Talks, read_talks
from pipeline.packaged import UNENCODABLE_BYTES
from pipeline.tables import RECORDS

QUICK = settings(max_examples=60, deadline=None, derandomize=True)

#: Results longer than this window go on in the next segment.
WINDOW = 128

_CHARACTERS = st.text(
    st.characters(exclude_categories=["Cs"]).filter(lambda c: UNENCODABLE_BYTES.isdisjoint(c.encode())), max_size=12
)
_TEXT = st.lists(
    st.sampled_from(["word ", "字", "👩‍👩‍👧", "\n\n", "```\n", " ", "x", "42,", "สวัสดี"]) | _CHARACTERS, max_size=6
).map("".join)
_LONG = st.builds(lambda unit, times: "".join(f"{i}{unit}" for i in range(times)), _TEXT, st.integers(0, 200))
_CALL = st.builds(lambda text: Part("tool_call", text, name="f"), _TEXT)
_MESSAGE = st.one_of(
    st.builds(lambda text: message("user", text), _TEXT),
    st.builds(lambda first, second: message("user", first, Part("context", second)), _TEXT, _TEXT),
    st.builds(lambda thought, text: message("assistant", Part("thinking", thought), text), _TEXT, _TEXT),
    st.builds(lambda text, call: message("assistant", text, call), _TEXT, _CALL),
    st.builds(lambda text: message("tool", Part("tool_result", text)), _TEXT | _LONG),
    st.builds(lambda text: message("system", text), st.sampled_from(["Be brief.", "Be kind."])),
)
_CONVERSATION = st.builds(
    lambda system, messages, tools: Conversation(
        (*system, message("user", "Go on."), *messages, message("assistant", "Done.")), tools=tools
    ),
    st.sampled_from(
        [(), (message("system", "Be brief."),), (message("system", "Be brief."), message("system", "Be brief."))]
    ),
    st.lists(_MESSAGE, max_size=6),
    st.sampled_from(["", '[{"name":"f"}]']),
)

Said = list[tuple[int | None, int | None, str]]


def said(conversation: Conversation) -> Said:
    """What a conversation says, part by part: the oracle, which knows nothing of records."""
    parts: Said = [(None, None, conversation.tools)] if conversation.tools else []
    for m, one in enumerate(conversation.messages):
        for p, part in enumerate(one.parts):
            text = f"{part.name}\n{part.text}" if part.kind == "tool_call" else part.text
            if text or part.kind == "tool_result":
                parts.append((m, p, text))
    return parts


def seen(talks: Talks) -> list[Said]:
    """What Talks has of each conversation, in order."""
    rows = talks.parts.select("talk", "message", "part", "text").rows()
    return [[(m, p, text) for talk, m, p, text in rows if talk == number] for number in range(len(talks))]


@given(st.lists(_CONVERSATION, min_size=1, max_size=4), st.sampled_from([8192, WINDOW]))
@QUICK
def test_parts_are_those_of_the_conversations_to_the_character(told: list[Conversation], window: int) -> None:
    try:
        talks = talks_of(*told, max_cells=window, align="turns")
    except Refused as error:
        if error.codes != {"exceeds_window"}:
            raise
        reject()
    assert len(talks) == len(told)
    assert seen(talks) == [said(one) for one in told]


def call_and_result(text: str) -> Conversation:
    return Conversation(
        (
            message("system", "Be brief."),
            message("user", "Go on."),
            message("assistant", Part("tool_call", "{}", name="f")),
            message("tool", Part("tool_result", text)),
            message("assistant", "Done."),
        ),
        tools='[{"name":"f"}]',
    )


@pytest.mark.parametrize("unit", ["x ", "line\n", "字"])
def test_a_result_over_segments_whose_pieces_are_the_same_is_whole(unit: str) -> None:
    told = call_and_result(unit * 900)
    talks = talks_of(told, max_cells=WINDOW, align="turns")
    assert talks.records.num_rows > 3
    assert seen(talks) == [said(told)]


def test_what_segments_repeat_is_there_once_and_their_rows_are_summed() -> None:
    turns = [m for i in range(12) for m in asked(f"Number {i} is what I say to that, and I mean it.").messages]
    told = Conversation((message("system", "Be brief."), *turns), tools='[{"name":"f"}]')
    talks = talks_of(told, max_cells=WINDOW, align="turns")
    segments = talks.records.num_rows
    assert segments > 2
    assert talks.parts.filter(pl.col("role") == "system")["text"].to_list() == ['[{"name":"f"}]', "Be brief."]
    ((ids, rows),) = talks.conversations.select("ids", "rows").rows()
    assert ids == talks.records["id"].to_pylist()
    assert rows == sum(talks.records["rows"].to_pylist())


def test_a_system_message_that_is_said_twice_is_there_twice() -> None:
    told = Conversation((message("system", "Be brief."), message("system", "Be brief."), *asked("Yes.").messages))
    assert seen(talks_of(told)) == [said(told)]


def test_an_answer_that_is_given_twice_is_there_twice() -> None:
    told = asked("The same answer.", "The same answer.")
    assert seen(talks_of(told)) == [said(told)]


def test_exact_copies_side_by_side_are_conversations_of_their_own() -> None:
    long = call_and_result("\n".join(f"line {i}" for i in range(300)))
    talks = talks_of(asked("Yes."), asked("Yes."), long, long, asked("Yes."), max_cells=WINDOW, align="turns")
    assert seen(talks) == [said(one) for one in (asked("Yes."), asked("Yes."), long, long, asked("Yes."))]
    ids = talks.conversations["conversation_id"].to_list()
    assert ids[0] == ids[1] == ids[4] != ids[2] == ids[3]
    assert [i for one in talks.conversations["ids"].to_list() for i in one] == talks.records["id"].to_pylist()


def test_columns_say_who_spoke_what_is_trained_and_what_was_cut_off() -> None:
    told = Conversation(
        (
            message("user", "Hello?"),
            message("assistant", Part("thinking", "A greeting."), Part("text", "Hello, and", interrupted=True)),
            message("user", "Stop."),
            message("assistant", "Untrained.", weight=0.0),
        )
    )
    columns = ("role", "output", "kind", "text", "trained", "interrupted")
    assert talks_of(told, align="turns").parts.select(columns).rows() == [
        ("user", False, "message", "Hello?", False, False),
        ("thought", True, "message", "A greeting.", True, False),
        ("assistant", True, "message", "Hello, and", True, True),
        ("user", False, "message", "Stop.", False, False),
        ("assistant", True, "message", "Untrained.", False, False),
    ]


def test_without_leaves_the_others_in_order_and_numbers_them_anew() -> None:
    told = [asked(f"Answer {i}.") for i in range(5)]
    left = talks_of(*told).without({0, 3})
    assert seen(left) == [said(told[i]) for i in (1, 2, 4)]
    assert left.conversations["talk"].to_list() == [0, 1, 2]
    assert len(left.without({0, 1, 2})) == 0


def test_texts_are_joined_by_conversation_and_empty_where_nothing_fits() -> None:
    talks = talks_of(asked("Yes.", "No."), asked("Maybe."))
    assert talks.texts(pl.col("output")) == ["Yes.\nNo.", "Maybe."]
    assert talks.texts(pl.col("kind") == "tool_call") == ["", ""]
    assert talks.texts(pl.col("text") == "Yes.", between="") == ["Yes.", ""]


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("row_group", [1, 4, 1000])
def test_a_batch_never_cuts_a_conversation(
    batch: int, row_group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = call_and_result("\n".join(f"line {i}" for i in range(300)))
    told = [asked("One."), long, asked("Two."), asked("Two."), long, long, asked("Three.")]
    records, _ = convert(told, max_cells=WINDOW, align="turns")
    pq.write_table(records, tmp_path / "records-00000.parquet", row_group_size=row_group)
    monkeypatch.setattr(module, "BATCH_RECORDS", batch)
    batches = list(read_talks(tmp_path / "records-00000.parquet"))
    assert all(len(talks) for talks in batches)
    assert [one for talks in batches for one in seen(talks)] == [said(one) for one in told]
    assert [i for t in batches for i in t.records["id"].to_pylist()] == records["id"].to_pylist()
    if batch < 3:
        assert len(batches) > 3


def test_a_shard_without_records_has_no_batch(tmp_path: Path) -> None:
    pq.write_table(RECORDS.empty_table(), tmp_path / "records-00000.parquet")
    assert list(read_talks(tmp_path / "records-00000.parquet")) == []
    empty = Talks(RECORDS.empty_table())
    assert (len(empty), empty.parts.height, empty.texts()) == (0, 0, [])


def test_a_record_of_which_nothing_is_left_to_see_has_no_parts() -> None:
    records, _ = convert([asked("Yes."), asked("No.")])
    rows = records.to_pylist()
    rows[0]["events"] = []
    talks = Talks(pa.Table.from_pylist(rows, schema=RECORDS))
    assert seen(talks) == [[], said(asked("No."))]
    assert talks.texts() == ["", "What do you say to that, then?\nNo."]


def test_input_only_records_are_read_like_the_others() -> None:
    told = Conversation((message("user", "Does anybody answer?"),))
    records, silent = convert([told])
    assert (records.num_rows, silent.num_rows) == (0, 1)
    assert seen(Talks(silent)) == [said(told)]
    assert not Talks(silent).parts["output"].any()
