"""Duplex-UltraChat: ``{"output": [{"role", "content"}]}``, a dialogue cut into time slices, ``<idle>`` where one is silent.

Of Zhang et al. (2024, arXiv 2406.15718; thunlp/duplex-model). Slices of the user and the assistant alternate: in each
slice of time the model reads what the user said in it and writes what it says next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.shared.fields import as_list, as_object, as_text, required, rest, role_of
from converters.shared.joining import noted, utterances
from pipeline.conversation import RecordError, Role
from pipeline.script import Script, stream

FORMAT = "duplex_slices"
UNIT = "record"
SHAPE = '{"output": [{"role", "content": "…" or "<idle>"}]}'
EXAMPLE = {
    "output": [
        {"role": "user", "content": "Is the kiln still"},
        {"role": "assistant", "content": "<idle>"},
        {"role": "user", "content": "hot from last night?"},
        {"role": "assistant", "content": "It is at 80 degrees,"},
        {"role": "user", "content": "<idle>"},
        {"role": "assistant", "content": "so you can open it"},
        {"role": "user", "content": "And the glaze?"},
        {"role": "assistant", "content": "The glaze has set."},
    ]
}

IDLE = "<idle>"
_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
_STREAM: dict[Role, int] = {"user": 0, "assistant": 1, "system": 2}
_STREAMS = (stream("user", "input"), stream("assistant", "output"), stream("system", "input"))


def detect(unit: Any) -> bool:
    """Whether ``output`` is a list of messages, one of which is idle."""
    items = unit.get("output") if isinstance(unit, dict) else None
    if not isinstance(items, list) or not items:
        return False
    contents = [item.get("content") for item in items if isinstance(item, dict) and item.get("role") in tuple(_ROLES)]
    return len(contents) == len(items) and any(isinstance(c, str) and c.strip() == IDLE for c in contents)


def convert(unit: Any) -> Iterator[Script]:
    """One script. Raises RecordError; docs/formats/streams.md lists the codes."""
    record = as_object(unit, "the record")
    items = as_list(required(record, "output"), "output")
    if not items:
        raise RecordError("no_messages", "output is empty")
    cells: list[tuple[int, int, str]] = []
    unused: dict[str, Any] = {}
    number, previous = 0, "assistant"
    for index, item in enumerate(items):
        where = f"output[{index}]"
        message = as_object(item, where)
        role = role_of(required(message, "role", where), _ROLES, f"{where}.role")
        text = as_text(required(message, "content", where), f"{where}.content")
        number += role != "assistant" or previous == "assistant"
        previous = role
        if left := rest(message, ("role", "content")):
            unused[str(index)] = left
        cells.append((_STREAM[role], number + (role == "assistant"), "" if text.strip() == IDLE else text))
    said, between = utterances(cells)
    if not said:
        raise RecordError("empty_conversation", "no slice says anything")
    streams = _STREAMS if any(u.stream == _STREAM["system"] for u in said) else _STREAMS[:2]
    yield Script(streams, said, extra=noted(rest(record, ("output",)), messages=unused, joined=between))
