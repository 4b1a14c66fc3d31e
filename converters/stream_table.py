"""Tables of streams: one column per stream, one row per moment, ``-`` where a stream is silent.

The form of stream-data, the ten-stream set of Su, Yang, Li and Geiping (2026, arXiv 2605.12460): ``{"id", "input_prompt",
"num_rows", "User": [cell, …], "Output": [cell, …], "Analytical": …}``. Also rows: ``{"rows": [{column: cell}]}`` and
``{"columns": [name], "rows": [[cell]]}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from converters.shared.fields import as_list, as_object, as_text, rest
from converters.shared.joining import noted, utterances
from pipeline.conversation import RecordError
from pipeline.script import Script, Stream, stream

FORMAT = "stream_table"
UNIT = "record"
SHAPE = '{"User": [cell], "Output": [cell], "Analytical": [cell], …} or {"columns": [name], "rows": [[cell]]}'
EXAMPLE = {
    "id": "sample_001",
    "input_prompt": "Is the kiln still hot?",
    "num_rows": 5,
    "User": ["Is the kiln", "still hot?", "-", "-", "-"],
    "Output": ["-", "-", "-", "It is at 80 degrees,", "so open it - slowly."],
    "Analytical": ["-", "it asks for a temperature", "80 by the display", "-", "-"],
    "Skeptical": ["-", "-", "-", "is the display right?", "-"],
}

SILENCE = "-"
#: The columns of stream-data, in its order.
TEN = ("User", "Output", "Analytical", "Skeptical", "Intuitive", "Between", "Curious", "Void", "Instinct", "Synthesis")
_INPUT_ROLES = frozenset({"system", "user", "tool"})
_SPOKEN_ROLES = frozenset({"assistant", "call"})
_NAME = re.compile(r"[a-z][a-z0-9_]*(?:/(?:[0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]))?")

#: Columns by name, and the cells of each, by row.
_Table = dict[str, list[Any]]


def detect(unit: Any) -> bool:
    """Whether there are columns of equal length, one of them the user's, and a cell that is text."""
    if not isinstance(unit, dict):
        return False
    try:
        table, _ = _table(unit)
        names = {_name(column).partition("/")[0] for column in table}
    except RecordError:
        return False
    lengths = {len(cells) for cells in table.values()}
    text = any(isinstance(cell, str) for cells in table.values() for cell in cells)
    return "user" in names and bool(names - _INPUT_ROLES) and len(lengths) == 1 and text


def convert(unit: Any) -> Iterator[Script]:
    """One script. Raises RecordError; docs/formats/streams.md lists the codes."""
    record = as_object(unit, "the record")
    table, used = _table(record)
    columns = {column: _name(column) for column in table}
    streams = [_stream(name) for name in columns.values()]
    if len({(on.role, on.slot) for on in streams}) < len(streams):
        raise RecordError("bad_stream", f"two columns are the same stream: {', '.join(columns)}"[:200])
    if len({len(cells) for cells in table.values()}) > 1:
        counts = ", ".join(f"{column} {len(cells)}" for column, cells in table.items())
        raise RecordError("uneven_columns", f"the columns have different numbers of cells: {counts}"[:300])
    order = sorted(range(len(streams)), key=lambda i: (_rank(streams[i]), i))
    place = {column: order.index(i) for i, column in enumerate(columns)}
    cells = (
        (place[column], row, _text(cell, column, row))
        for column, of_column in table.items()
        for row, cell in enumerate(of_column)
    )
    thinking = frozenset(place[c] for c, name in columns.items() if _is_thought(name))
    said, between = utterances(cells, thinking)
    if not said:
        raise RecordError("empty_conversation", "every cell is silent")
    renamed = {name: column for column, name in columns.items() if name != column}
    extra = noted(rest(record, used), columns=renamed, joined=between)
    yield Script(tuple(streams[i] for i in order), said, extra=extra)


def _table(record: dict[str, Any]) -> tuple[_Table, tuple[str, ...]]:
    """The columns, and the keys of the record that hold them."""
    if "rows" not in record:
        named = tuple(key for key, value in record.items() if key in TEN and isinstance(value, list))
        if not named:
            raise RecordError("missing_field", f"the record has neither rows nor columns of the names {', '.join(TEN)}")
        return {key: record[key] for key in named}, named
    rows = as_list(record["rows"], "rows")
    if record.get("columns") is not None:
        names = [as_text(name, "a name in columns") for name in as_list(record["columns"], "columns")]
        if not names or len(set(names)) < len(names):
            raise RecordError("bad_stream", "columns names none, or one of them twice")
        table: _Table = {name: [] for name in names}
        for index, row in enumerate(rows):
            cells = as_list(row, f"rows[{index}]")
            if len(cells) != len(names):
                raise RecordError("uneven_columns", f"rows[{index}] has {len(cells)} cells, columns names {len(names)}")
            for name, cell in zip(names, cells, strict=True):
                table[name].append(cell)
        return table, ("rows", "columns")
    objects = [as_object(row, f"rows[{index}]") for index, row in enumerate(rows)]
    names = list(dict.fromkeys(name for row in objects for name in row))
    if not names:
        raise RecordError("missing_field", "no row has a column")
    return {name: [row.get(name) for row in objects] for name in names}, ("rows",)


def _name(column: str) -> str:
    """The stream's name for a column: in lower case, and ``assistant`` for the output."""
    lowered = column.strip().lower().replace(" ", "_").replace("-", "_")
    name = "assistant" if lowered == "output" else lowered
    if not _NAME.fullmatch(name):
        raise RecordError("bad_stream", f"{column!r:.80} is no name for a stream: a word, and a slot if it has any")
    return name


def _stream(name: str) -> Stream:
    return stream(name, "input" if name.partition("/")[0] in _INPUT_ROLES else "output")


def _is_thought(name: str) -> bool:
    return name.partition("/")[0] not in _INPUT_ROLES | _SPOKEN_ROLES


def _rank(on: Stream) -> int:
    """Inputs come first, as everywhere; the rest keep the order of their columns."""
    return on.direction != "input"


def _text(cell: Any, column: str, row: int) -> str:
    if cell is None or cell == SILENCE:
        return ""
    if isinstance(cell, int) and not isinstance(cell, bool):
        raise RecordError(
            "token_ids", f"{column} row {row} is a number: take the text of the cells, not their token ids"
        )
    return as_text(cell, f"{column} row {row}", "text or null")
