r"""Competition problems with a written solution: ``{"problem", "solution"}``, with ``answer`` where the set has one.

MATH (Hendrycks et al. 2021, arXiv 2103.03874) marks the answer as ``\boxed{…}`` inside its last sentences; MATH-500,
NuminaMath-1.5 and DeepScaleR have it in a field too; OpenMathInstruct-2 calls the fields ``generated_solution`` and
``expected_answer``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.markup.assistant import assistant_messages
from converters.markup.thinking import has_thinking
from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    as_object,
    as_text,
    conversation,
    first_key,
    opening_keys,
    opening_messages,
    question_message,
    required,
    rest,
    scalar_text,
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "math_solution"
UNIT = "record"
SHAPE = '{"problem", "solution": "… \\\\boxed{72}", "answer"}'
EXAMPLE = {
    "problem": "Find the sum of the first eight odd numbers.",
    "solution": "The first $n$ odd numbers sum to $n^2$, so the sum is $8^2 = \\boxed{64}$.",
    "level": "Level 1",
    "type": "Algebra",
}

_SOLUTION_KEYS = ("solution", "generated_solution")
_ANSWER_KEYS = ("answer", "expected_answer")
#: What NuminaMath-1.5 writes in place of an answer.
_NO_ANSWER = frozenset({"", "proof", "notfound"})


def detect(unit: Any) -> bool:
    """Whether there are a problem and an untagged solution, and nothing to choose from."""
    if not isinstance(unit, dict) or any(key in unit for key in (*MESSAGE_LIST_KEYS, "options", "choices")):
        return False
    key = first_key(unit, _SOLUTION_KEYS)
    return (
        key is not None
        and isinstance(unit.get("problem"), str)
        and isinstance(solution := unit[key], str)
        and not has_thinking(solution)
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/questions.md lists the codes."""
    record = as_object(unit, "the record")
    problem = as_text(required(record, "problem"), "problem")
    key = first_key(record, _SOLUTION_KEYS)
    if key is None:
        raise RecordError("missing_field", f"the record has none of {', '.join(_SOLUTION_KEYS)}")
    solution = as_text(record[key], key)
    if not problem.strip():
        raise RecordError("empty_question", "problem is empty")
    if not solution.strip():
        raise RecordError("empty_answer", f"{key} is empty")
    answer_key = first_key(record, _ANSWER_KEYS)
    answer = scalar_text(record[answer_key], answer_key) if answer_key else ""
    used = {"problem", key, *opening_keys(record)}
    said = assistant_messages(solution)
    plain = len(said) == 1 and not has_thinking(solution)
    if plain and answer_key and answer.strip() not in _NO_ANSWER:
        said = [Message("assistant", (Part("thinking", solution), Part("text", answer)))]
        used.add(answer_key)
    messages = [*opening_messages(record), question_message(problem), *said]
    yield conversation(messages, rest(record, used))
