"""Alpaca: ``{"instruction", "input", "output"}``, or ``response`` for ``output``; also ``system`` and ``history``.

The shape is that of Stanford Alpaca; ``response`` is GPTeacher's, ``system`` and ``history`` (pairs of earlier turns)
are LLaMA-Factory's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.common import (
    MESSAGE_LIST_KEYS,
    as_object,
    as_text,
    conversation,
    opening_messages,
    optional_text,
    question_message,
    rest,
)
from converters.markup.thinking import split_thinking
from pipeline.conversation import Conversation, Message, RecordError

FORMAT = "alpaca"
UNIT = "record"
SHAPE = '{"instruction", "input", "output" or "response"}'
EXAMPLE = {
    "instruction": "Sort these words by length.",
    "input": "kiln, clay tile, jar",
    "output": "jar, kiln, clay tile",
}

_ANSWER_KEYS = ("output", "response")


def detect(unit: Any) -> bool:
    """Whether there is an instruction with an output or a response, all text."""
    return (
        isinstance(unit, dict)
        and isinstance(unit.get("instruction"), str)
        and isinstance(unit.get("input"), str | None)
        and any(isinstance(unit.get(key), str) for key in _ANSWER_KEYS)
        and not any(key in unit for key in MESSAGE_LIST_KEYS)
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats.md lists the codes."""
    record = as_object(unit, "the record")
    instruction, context = optional_text(record, "instruction"), optional_text(record, "input")
    answer_key = _answer_key(record)
    answer = split_thinking(as_text(record[answer_key], answer_key))
    if not instruction.strip() and not context.strip():
        raise RecordError("empty_question", "instruction and input are both empty")
    if not any(part.text.strip() for part in answer):
        raise RecordError("empty_answer", f"{answer_key} is empty")
    messages = [*opening_messages(record), question_message(instruction, context), Message("assistant", answer)]
    yield conversation(messages, rest(record, {"instruction", "input", "system", "history", answer_key}))


def _answer_key(record: dict[str, Any]) -> str:
    """The first answer field that holds something, else the first there is."""
    present = [key for key in _ANSWER_KEYS if key in record]
    if not present:
        raise RecordError("missing_field", "the record has neither output nor response")
    return next((key for key in present if record[key] not in (None, "")), present[0])
