"""Rewritten word problems, MetaMathQA form: ``{"query", "response"}``; the response ends with ``The answer is: 72``.

MetaMathQA (Yu et al. 2023, arXiv 2309.12284).
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
    question_message,
    required,
    rest,
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "metamath"
UNIT = "record"
SHAPE = '{"query", "response": "…\\nThe answer is: 72"}'
EXAMPLE = {
    "type": "GSM_Rephrased",
    "query": "How many legs do 7 spiders and 2 dogs have together?",
    "response": "Spiders: 7*8 = 56 legs.\nDogs: 2*4 = 8 legs.\n56+8 = 64.\n#### 64\nThe answer is: 64",
}

_LAST_LINE = re.compile(r"^The answer is\b", re.MULTILINE)


def detect(unit: Any) -> bool:
    """Whether there is a query, and a response with a line that ``The answer is`` opens."""
    return (
        isinstance(unit, dict)
        and isinstance(unit.get("query"), str)
        and isinstance(unit.get("response"), str)
        and _LAST_LINE.search(unit["response"]) is not None
        and not any(key in unit for key in MESSAGE_LIST_KEYS)
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/questions.md lists the codes."""
    record = as_object(unit, "the record")
    query = as_text(required(record, "query"), "query")
    response = as_text(required(record, "response"), "response")
    if not query.strip():
        raise RecordError("empty_question", "query is empty")
    if not response.strip():
        raise RecordError("empty_answer", "response is empty")
    said = Message("assistant", _parts(response))
    yield conversation([question_message(query), said], rest(record, {"query", "response"}))


def _parts(response: str) -> tuple[Part, ...]:
    """What stands before the last line as thinking, that line as text, the white space between them a delimiter."""
    last = max(_LAST_LINE.finditer(response), key=re.Match.start, default=None)
    thought = response[: last.start()].rstrip() if last else ""
    if last is None or not thought:
        return (Part("text", response),)
    return (
        Part("thinking", thought, after=response[len(thought) : last.start()]),
        Part("text", response[last.start() :]),
    )
