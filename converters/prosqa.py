"""Questions with a list of steps: ``{"question", "steps": [text], "answer"}``.

The training form of Coconut (Hao et al. 2024, arXiv 2412.06769): its ProsQA, and its copies of other sets, whose steps
are calculations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    as_list,
    as_object,
    as_text,
    conversation,
    question_message,
    required,
    rest,
    scalar_text,
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "prosqa"
UNIT = "record"
SHAPE = '{"question", "steps": [step], "answer"}'
EXAMPLE = {
    "question": "Every mip is a tolp. Every tolp is a gund. Ivo is a mip. Is Ivo a gund or a sarn?",
    "answer": "Ivo is a gund.",
    "steps": ["Ivo is a mip.", "Every mip is a tolp.", "Every tolp is a gund."],
    "root": 0,
}


def detect(unit: Any) -> bool:
    """Whether there are a question, a list of steps and an answer, and no options."""
    return (
        isinstance(unit, dict)
        and isinstance(unit.get("question"), str)
        and isinstance(unit.get("answer"), str | int | float)
        and isinstance(steps := unit.get("steps"), list)
        and all(isinstance(step, str) for step in steps)
        and not any(key in unit for key in (*MESSAGE_LIST_KEYS, "options", "choices", "context", "contexts"))
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/questions.md lists the codes."""
    record = as_object(unit, "the record")
    question = as_text(required(record, "question"), "question")
    listed = as_list(required(record, "steps"), "steps")
    steps = [as_text(step, f"steps[{index}]") for index, step in enumerate(listed)]
    answer = scalar_text(required(record, "answer"), "answer")
    if not question.strip():
        raise RecordError("empty_question", "question is empty")
    if not answer.strip():
        raise RecordError("empty_answer", "answer is empty")
    thoughts = (Part("thinking", step) for step in steps if step)
    said = Message("assistant", (*thoughts, Part("text", answer)))
    yield conversation([question_message(question), said], rest(record, {"question", "steps", "answer"}))
