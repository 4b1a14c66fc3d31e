"""Text tables: what came from a table goes back to it, texts are exact, and nothing is said earlier than it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export_cases import HOSTILE, chat, lines, records_of, ten, told
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.stream_table import TEN
from converters.stream_table import detect as is_table
from pipeline.exports.running import Wanted, export
from pipeline.exports.tables import table_of
from pipeline.exports.targets import Books


def again(table: dict[str, Any]) -> dict[str, Any]:
    """The record that the table is converted to."""
    return records_of([{k: v for k, v in table.items() if k != "id"}], "stream_table")[0]


def texts(record: dict[str, Any]) -> dict[str, str]:
    """What each stream says, all in all."""
    said: dict[str, str] = {}
    for name, _, _, text in told(record):
        said[name] = said.get(name, "") + text
    return said


@pytest.mark.parametrize("number", range(4))
def test_a_record_of_ten_streams_goes_back_to_its_table(number: int) -> None:
    source = ten(number)
    (record,) = records_of([source], "stream_table")
    books = Books()
    table = table_of(record, books, ten=True)
    assert {name: table[name] for name in TEN} == {name: source[name] for name in TEN}
    assert table["num_rows"] == 6
    assert told(again(table)) == told(record)
    assert not books.lost


#: Cells of a user, an assistant and a thought: none says what another says.
CELLS = st.tuples(
    st.sampled_from(["-", "ape", "elk, owl", "a cat. A dog", "八"]),
    st.sampled_from(["-", "fig", "red - blue", "so green. Pink", "- dash", "六七。"]),
    st.sampled_from(["-", "why", "nor, yet", "if. Then", "<|im_end|>"]),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(CELLS, min_size=2, max_size=8))
def test_any_table_that_says_something_comes_back_with_texts_and_rows(rows: list[tuple[str, ...]]) -> None:
    unit = {"columns": ["user", "assistant", "thought"], "rows": [["who", "-", "-"], *rows, ["-", "end", "-"]]}
    (record,) = records_of([unit], "stream_table")
    assert told(again(table_of(record, Books(), ten=False))) == told(record)


@pytest.mark.parametrize("text", [t for t in HOSTILE if t.strip()])
def test_a_conversation_in_turns_keeps_texts_and_rows(text: str) -> None:
    said = [("user", "q"), ("assistant", "a"), ("user", "again"), ("assistant", "b")]
    unit = {"messages": [{"role": role, "content": f"{word} {text}"} for role, word in said]}
    (record,) = records_of([unit], align="turns")
    assert told(again(table_of(record, Books(), ten=False))) == told(record)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_what_every_stream_says_is_exact_and_nothing_waits_for_less(number: int) -> None:
    (record,) = records_of([chat(number)])
    books = Books()
    table = table_of(record, books, ten=False)
    assert is_table(table)
    columns = {name: [row[i] for row in table["rows"]] for i, name in enumerate(table["columns"])}
    spaces = {name: "".join(c for c in cells if c != "-") for name, cells in columns.items()}
    for name, text in texts(record).items():
        assert spaces[name].replace(" ", "") == text.replace(" ", "")
    if not books.lost["hyphens"] and not books.lost["spaces"]:
        assert texts(again(table)) == texts(record)
    first = {name: next(i for i, c in enumerate(cells) if c != "-") for name, cells in columns.items()}
    starts = {name: min(s for n, s, _, _ in told(record) if n == name) for name in columns}
    order = sorted(starts, key=lambda name: starts[name])
    assert [first[name] for name in order] == sorted(first[name] for name in order)


def test_a_lone_hyphen_does_not_become_silence() -> None:
    unit = {"messages": [{"role": "user", "content": "-"}, {"role": "assistant", "content": "-"}]}
    (record,) = records_of([unit], align="turns")
    books = Books()
    table = table_of(record, books, ten=True)
    assert [c for c in table["User"] if c != "-"] == [" -"]
    assert [c for c in table["Output"] if c != "-"] == [" -"]
    assert books.lost["hyphens"] == 2


def test_an_overlap_is_kept_where_words_can_be_cut() -> None:
    names = "Ann Lee went home. Bob Ray stayed here. Cid Moe came late."
    unit = {"messages": [{"role": "user", "content": names}, {"role": "assistant", "content": names}]}
    (record,) = records_of([unit], align="wait_k:k=1")
    back = again(table_of(record, Books(), ten=False))
    assert texts(back) == texts(record)
    assistant = min(start for name, start, _, _ in told(back) if name == "assistant")
    user = max(end for name, _, end, _ in told(back) if name == "user")
    assert assistant < user


def test_a_data_set_of_ten_streams_has_the_columns_of_stream_data(tens: Path, tmp_path: Path) -> None:
    export(tens, tmp_path / "out", Wanted("tables"))
    for table in lines(tmp_path / "out" / "train"):
        assert list(table) == ["id", "input_prompt", "num_rows", *TEN]
        assert {len(table[name]) for name in TEN} == {table["num_rows"]}
        assert table["input_prompt"] == "Is it hot?"
