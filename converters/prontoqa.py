"""Deductions with options and an explanation: ``{"context", "question", "options", "answer", "explanation": [sentence]}``.

ProntoQA (Saparov & He 2023, arXiv 2210.01240) as Logic-LM (Pan et al. 2023, arXiv 2305.12295) distributes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.markup.choices import said_answer
from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    as_list,
    as_object,
    as_text,
    conversation,
    optional_text,
    required,
    rest,
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "prontoqa"
UNIT = "record"
SHAPE = '{"context", "question", "options": ["A) True", "B) False"], "answer": "B", "explanation": [sentence]}'
EXAMPLE = {
    "id": "deduction-1",
    "context": "Every dax is a fep. Feps are not loud. Ria is a dax.",
    "question": "Is the following statement true or false? Ria is loud.",
    "options": ["A) True", "B) False"],
    "answer": "B",
    "explanation": ["Ria is a dax.", "Every dax is a fep.", "Ria is a fep.", "Feps are not loud.", "Ria is not loud."],
}


def detect(unit: Any) -> bool:
    """Whether there are a question, options, an answer and the sentences of its explanation."""
    return (
        isinstance(unit, dict)
        and isinstance(unit.get("question"), str)
        and isinstance(unit.get("answer"), str)
        and all(
            isinstance(texts := unit.get(key), list) and texts and all(isinstance(text, str) for text in texts)
            for key in ("options", "explanation")
        )
        and isinstance(unit.get("context"), str | None)
        and not any(key in unit for key in MESSAGE_LIST_KEYS)
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/questions.md lists the codes."""
    record = as_object(unit, "the record")
    question = as_text(required(record, "question"), "question")
    if not question.strip():
        raise RecordError("empty_question", "question is empty")
    options = _texts(record, "options")
    context = optional_text(record, "context")
    answer = Part("text", said_answer(options, [], required(record, "answer"), "answer"))
    thoughts = tuple(Part("thinking", sentence) for sentence in _texts(record, "explanation") if sentence)
    asked = tuple(Part("text", text) for text in (question, *options) if text)
    given = (Part("context", context),) if context else ()
    extra = rest(record, {"question", "options", "context", "explanation"})
    if answer.text == record["answer"]:
        del extra["answer"]
    yield conversation([Message("user", (*asked, *given)), Message("assistant", (*thoughts, answer))], extra)


def _texts(record: dict[str, Any], key: str) -> list[str]:
    return [as_text(text, f"{key}[{index}]") for index, text in enumerate(as_list(required(record, key), key))]
