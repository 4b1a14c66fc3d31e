"""Math word problems, GSM8K form: ``{"question", "answer"}``; the answer is steps and, on its last line, ``#### 72``.

GSM8K (Cobbe et al. 2021, arXiv 2110.14168) marks calculations as ``<<48/2=24>>``; they stay in the steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    as_object,
    as_text,
    conversation,
    opening_keys,
    opening_messages,
    question_message,
    required,
    rest,
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "math_qa"
UNIT = "record"
SHAPE = '{"question", "answer": "…\\n#### 72"}'
EXAMPLE = {
    "question": "A box holds 6 jars and a crate 4 boxes. How many jars are in 3 crates?",
    "answer": "A crate holds 6*4=<<6*4=24>>24 jars.\nThree crates hold 24*3=<<24*3=72>>72 jars.\n#### 72",
}

_MARK = re.compile(r"^####(?!#)\s*", re.MULTILINE)


def detect(unit: Any) -> bool:
    """Whether there is a question, and an answer with a line that ``####`` opens."""
    return (
        isinstance(unit, dict)
        and isinstance(unit.get("question"), str)
        and isinstance(unit.get("answer"), str)
        and _MARK.search(unit["answer"]) is not None
        and not any(key in unit for key in MESSAGE_LIST_KEYS)
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/questions.md lists the codes."""
    record = as_object(unit, "the record")
    question = as_text(required(record, "question"), "question")
    answer = _answer_parts(as_text(required(record, "answer"), "answer"))
    if not question.strip():
        raise RecordError("empty_question", "question is empty")
    messages = [*opening_messages(record), question_message(question), Message("assistant", answer)]
    yield conversation(messages, rest(record, {"question", "answer", *opening_keys(record)}))


def _answer_parts(answer: str) -> tuple[Part, ...]:
    """The steps as thinking and the text behind the last mark; the mark and the white space around it between them."""
    mark = max(_MARK.finditer(answer), key=re.Match.start, default=None)
    final = answer[mark.end() :].rstrip() if mark else ""
    if mark is None or not final:
        raise RecordError("missing_answer", "answer has no final answer behind ####")
    steps = answer[: mark.start()].rstrip()
    text = Part("text", final, before=answer[len(steps) : mark.end()], after=answer[mark.end() + len(final) :])
    return (Part("thinking", steps), text) if steps else (text,)
