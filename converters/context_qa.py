"""Questions about given text, PubMedQA form: a question, contexts, a long answer, a final decision.

PubMedQA (Jin et al. 2019, arXiv 1909.06146) in its own capitals (``QUESTION``, ``CONTEXTS``, ``LONG_ANSWER``), in the
lower case of its Hub copy (``context`` is an object that holds ``contexts``), and the plain form ``question``,
``context``, ``answer``; also BoolQ (Clark et al. 2019, arXiv 1905.10044: ``passage``, the answer a boolean) and SciQ
(Welbl et al. 2017, arXiv 1707.06209: ``support``, ``correct_answer``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.markup.thinking import split_thinking
from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    as_list,
    as_object,
    as_text,
    conversation,
    first_key,
    json_text,
    opening_keys,
    opening_messages,
    question_message,
    rest,
    wrong_type,
)
from pipeline.conversation import Conversation, Message, RecordError

FORMAT = "context_qa"
UNIT = "record"
SHAPE = '{"QUESTION", "CONTEXTS", "LONG_ANSWER", "final_decision"}'
EXAMPLE = {
    "QUESTION": "Does shade slow the drying of clay?",
    "CONTEXTS": ["Twenty tiles dried in the sun, twenty in the shade.", "Shaded tiles took 9 hours longer."],
    "LABELS": ["METHODS", "RESULTS"],
    "LONG_ANSWER": "Tiles in the shade took 9 hours longer to dry.",
    "final_decision": "yes",
}

_QUESTION_KEYS = ("QUESTION", "question")
_CONTEXT_KEYS = ("CONTEXTS", "contexts", "context", "passage", "support")
_LONG_KEYS = ("LONG_ANSWER", "long_answer", "answer", "correct_answer")
_SHORT_KEYS = ("final_decision",)
#: A choice among options needs the options; that is another format.
_OPTION_KEYS = ("options", "choices")


def detect(unit: Any) -> bool:
    """Whether there are a question, contexts and an answer, and no options to choose from."""
    if not isinstance(unit, dict) or any(key in unit for key in (*MESSAGE_LIST_KEYS, *_OPTION_KEYS)):
        return False
    question, context = first_key(unit, _QUESTION_KEYS), first_key(unit, _CONTEXT_KEYS)
    answer = first_key(unit, (*_LONG_KEYS, *_SHORT_KEYS))
    if question is None or context is None or answer is None:
        return False
    value = unit[context]
    contexts = value.get("contexts") if isinstance(value, dict) else value
    return (
        isinstance(unit[question], str)
        and isinstance(unit[answer], str | bool)
        and all(isinstance(c, str) for c in (contexts if isinstance(contexts, list) else [contexts]))
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/questions.md lists the codes."""
    record = as_object(unit, "the record")
    question_key, context_key = _required_key(record, _QUESTION_KEYS), _required_key(record, _CONTEXT_KEYS)
    question = as_text(record[question_key], question_key)
    contexts, beside = _contexts(record[context_key], context_key)
    answer_keys = [key for keys in (_LONG_KEYS, _SHORT_KEYS) if (key := first_key(record, keys))]
    answer = tuple(part for key in answer_keys for part in split_thinking(_answer_text(record[key], key)))
    if not question.strip():
        raise RecordError("empty_question", f"{question_key} is empty")
    if context_key != "support" and not any(context.strip() for context in contexts):
        raise RecordError("no_context", f"{context_key} holds no text")
    if not any(part.text.strip() for part in answer):
        raise RecordError(
            "empty_answer", f"the record has no answer; looked for {', '.join((*_LONG_KEYS, *_SHORT_KEYS))}"
        )
    messages = [*opening_messages(record), question_message(question, *contexts), Message("assistant", answer)]
    extra = rest(record, {question_key, context_key, *answer_keys, *opening_keys(record)})
    yield conversation(messages, extra | ({context_key: beside} if beside else {}))


def _answer_text(value: Any, where: str) -> str:
    return json_text(value) if isinstance(value, bool) else as_text(value, where, "a string or a boolean")


def _required_key(record: dict[str, Any], keys: tuple[str, ...]) -> str:
    key = first_key(record, keys)
    if key is None:
        raise RecordError("missing_field", f"the record has none of {', '.join(keys)}")
    return key


def _contexts(value: Any, where: str) -> tuple[list[str], dict[str, Any]]:
    """The contexts, in order, and what their object holds beside them."""
    if isinstance(value, str):
        return [as_text(value, where)], {}
    if isinstance(value, dict):
        contexts, _ = _contexts(as_list(value.get("contexts"), f"{where}.contexts"), f"{where}.contexts")
        return contexts, rest(value, {"contexts"})
    if not isinstance(value, list):
        raise wrong_type(value, where, "a string, a list or an object")
    return [as_text(context, f"{where}[{index}]") for index, context in enumerate(value)], {}
