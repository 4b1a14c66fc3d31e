"""Word problems in two fields with their equation: ``{"Body", "Question", "Equation", "Answer"}``.

SVAMP (Patel et al. 2021, arXiv 2103.07191); ``Answer`` is a number, as text on the Hub.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.shared.fields import as_object, as_text, conversation, optional_text, required, rest, scalar_text
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "svamp"
UNIT = "record"
SHAPE = '{"Body", "Question", "Equation", "Answer": 51.0}'
EXAMPLE = {
    "ID": "w-1",
    "Body": "A shelf holds 40 cups. 12 of them are chipped.",
    "Question": "How many cups are whole?",
    "Equation": "( 40.0 - 12.0 )",
    "Answer": 28.0,
    "Type": "Subtraction",
}
_USED = frozenset({"Body", "Question", "Equation", "Answer"})


def detect(unit: Any) -> bool:
    """Whether the four fields are there."""
    return (
        isinstance(unit, dict)
        and all(isinstance(unit.get(key), str) for key in ("Body", "Question", "Equation"))
        and isinstance(unit.get("Answer"), str | int | float)
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/questions.md lists the codes."""
    record = as_object(unit, "the record")
    body, question = (as_text(required(record, key), key) for key in ("Body", "Question"))
    if not (body + question).strip():
        raise RecordError("empty_question", "Body and Question are empty")
    equation = optional_text(record, "Equation")
    answer = scalar_text(required(record, "Answer"), "Answer")
    if not answer.strip():
        raise RecordError("empty_answer", "Answer is empty")
    asked = Message("user", tuple(Part("text", text) for text in (body, question) if text))
    thought = (Part("thinking", equation),) if equation else ()
    yield conversation([asked, Message("assistant", (*thought, Part("text", answer)))], rest(record, _USED))
