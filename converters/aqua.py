"""Algebra questions with options and a rationale, AQuA form: ``{"question", "options", "rationale", "correct"}``.

AQuA-RAT (Ling et al. 2017, arXiv 1705.04146) shows its options as ``A)21``; ``correct`` is the letter.
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

FORMAT = "aqua"
UNIT = "record"
SHAPE = '{"question", "options": ["A)21", …], "rationale", "correct": "A"}'
EXAMPLE = {
    "question": "A wheel turns 18 times in 3 minutes. How many times does it turn in 10 minutes?",
    "options": ["A)54", "B)60", "C)66"],
    "rationale": "In one minute it turns 18/3 = 6 times.\nIn ten minutes 6*10 = 60 times.",
    "correct": "B",
}


def detect(unit: Any) -> bool:
    """Whether there are a question, options and the label of the correct one."""
    return (
        isinstance(unit, dict)
        and isinstance(unit.get("question"), str)
        and isinstance(unit.get("correct"), str)
        and isinstance(options := unit.get("options"), list)
        and all(isinstance(option, str) for option in options)
        and not any(key in unit for key in MESSAGE_LIST_KEYS)
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/questions.md lists the codes."""
    record = as_object(unit, "the record")
    question = as_text(required(record, "question"), "question")
    if not question.strip():
        raise RecordError("empty_question", "question is empty")
    listed = as_list(required(record, "options"), "options")
    options = [as_text(option, f"options[{index}]") for index, option in enumerate(listed)]
    correct = required(record, "correct")
    answer = Part("text", said_answer(options, [], correct, "correct"))
    rationale = optional_text(record, "rationale")
    asked = tuple(Part("text", text) for text in (question, *options) if text)
    thought = (Part("thinking", rationale),) if rationale.strip() else ()
    extra = rest(record, {"question", "options", *(("rationale",) if thought or not rationale else ())})
    if answer.text == correct:
        del extra["correct"]
    yield conversation([Message("user", asked), Message("assistant", (*thought, answer))], extra)
