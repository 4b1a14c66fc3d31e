"""Alpaca: ``{"instruction", "input", "output"}``, under the names that its descendants use; also ``system`` and ``history``.

The shape is that of Stanford Alpaca; ``response`` is GPTeacher's, ``context`` and ``response`` Dolly's, ``system`` and
``history`` (pairs of earlier turns) LLaMA-Factory's. FireAct writes ReAct into ``output``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.markup.assistant import assistant_messages, messages_of, says_something
from converters.markup.toolformer import inline_call_parts
from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    as_object,
    as_text,
    conversation,
    opening_keys,
    opening_messages,
    optional_text,
    question_message,
    rest,
)
from pipeline.conversation import Conversation, RecordError

FORMAT = "alpaca"
UNIT = "record"
SHAPE = '{"instruction", "input", "output" or "response"}'
EXAMPLE = {
    "instruction": "Sort these words by length.",
    "input": "kiln, clay tile, jar",
    "output": "jar, kiln, clay tile",
}

_CONTEXT_KEYS = ("input", "context")
_ANSWER_KEYS = ("output", "response", "answer", "completion")


def detect(unit: Any) -> bool:
    """Whether there is an instruction with an answer, all text."""
    return (
        isinstance(unit, dict)
        and isinstance(unit.get("instruction"), str)
        and all(isinstance(unit.get(key), str | None) for key in _CONTEXT_KEYS)
        and any(isinstance(unit.get(key), str) for key in _ANSWER_KEYS)
        and not any(key in unit for key in MESSAGE_LIST_KEYS)
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/instructions.md lists the codes."""
    record = as_object(unit, "the record")
    instruction = optional_text(record, "instruction")
    contexts = [optional_text(record, key) for key in _CONTEXT_KEYS]
    answer_key = _answer_key(record)
    text = as_text(record[answer_key], answer_key)
    called = inline_call_parts(instruction, text)
    answer = assistant_messages(text) if called is None else messages_of(called)
    if not instruction.strip() and not "".join(contexts).strip():
        raise RecordError("empty_question", "instruction and input are both empty")
    if not says_something(answer):
        raise RecordError("empty_answer", f"{answer_key} is empty")
    messages = [*opening_messages(record), question_message(instruction, *contexts), *answer]
    yield conversation(messages, rest(record, {"instruction", *_CONTEXT_KEYS, *opening_keys(record), answer_key}))


def _answer_key(record: dict[str, Any]) -> str:
    """The first answer field that holds something, else the first there is."""
    present = [key for key in _ANSWER_KEYS if key in record]
    if not present:
        raise RecordError("missing_field", f"the record has no answer; looked for {', '.join(_ANSWER_KEYS)}")
    return next((key for key in present if record[key] not in (None, "")), present[0])
