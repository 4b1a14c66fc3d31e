"""Questions with nothing but an answer, perhaps with the reasoning that led to it in a field of its own.

``{"question", "answer"}`` (Orca-Math, StrategyQA), the answer also a list (NQ-Open, WebQuestions) or an object with aliases
(TriviaQA, Joshi et al. 2017, arXiv 1705.03551, with its documents); ``{"system_prompt", "question", "response"}``
(OpenOrca); TruthfulQA (``best_answer``); s1K (Muennighoff et al. 2025, arXiv 2501.19393) and medical-o1
(``Question``, ``Complex_CoT``, ``Response``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters import aqua, choice_qa, math_qa, prosqa, think_tagged
from converters.markup.assistant import messages_of, read_markup, says_something
from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    as_list,
    as_object,
    as_text,
    conversation,
    first_key,
    opening_keys,
    opening_messages,
    question_message,
    rest,
    scalar_text,
    wrong_type,
)
from pipeline.conversation import Conversation, Part, RecordError

FORMAT = "open_qa"
UNIT = "record"
SHAPE = '{"question", "answer": text, [text] or {"value", "aliases"}}, with "system_prompt", with its reasoning'
EXAMPLE = {
    "system_prompt": "You help in a workshop.",
    "question": "Why does a rip saw cut slowly across the grain?",
    "response": "Its teeth are chisels: they split the fibres off instead of cutting them through.",
}

_QUESTION_KEYS = ("question", "Question")
#: Reasoning, and the answer that it led to.
_REASONED = (
    ("Complex_CoT", "Response"),
    ("deepseek_thinking_trajectory", "deepseek_attempt"),
    ("gemini_thinking_trajectory", "gemini_attempt"),
    ("thinking_trajectories", "attempt"),
    ("reasoning", "response"),
    ("reasoning", "answer"),
    ("rationale", "answer"),
)
_ANSWER_KEYS = ("response", "Response", "answer", "answers", "best_answer")
#: TriviaQA's documents: the object, and its column of texts.
_DOCUMENTS = (("entity_pages", "wiki_context"), ("search_results", "search_context"))
#: Records with these say more than a question and its answer.
_OTHERS = frozenset(
    {"instruction", "prompt", "chosen", "rejected", "context", "contexts", "passage", "support", "article", "options"}
    | {"choices", "steps", "supporting_facts", "rejected_answer", "document", "story", "table", "tools", "image"}
    | {"output", "completion", "generation", "generated_text", "gen_text_store", "code", "ideal", *MESSAGE_LIST_KEYS}
)


def detect(unit: Any) -> bool:
    """Whether there are a question and an answer, and nothing that another format of questions reads."""
    if not isinstance(unit, dict) or not _OTHERS.isdisjoint(unit):
        return False
    question = first_key(unit, _QUESTION_KEYS)
    if question is None or not isinstance(unit[question], str):
        return False
    answered = any(_first_answer(unit.get(key)) is not None for key in _ANSWER_KEYS)
    if not answered and _reasoned(unit) is None:
        return False
    return not any(module.detect(unit) for module in (math_qa, aqua, prosqa, choice_qa, think_tagged))


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/questions.md lists the codes."""
    record = as_object(unit, "the record")
    question_key = first_key(record, _QUESTION_KEYS)
    if question_key is None:
        raise RecordError("missing_field", f"the record has none of {', '.join(_QUESTION_KEYS)}")
    question = as_text(record[question_key], question_key)
    documents, extra = _documents(record)
    parts, used = _answer(record)
    if not question.strip():
        raise RecordError("empty_question", f"{question_key} is empty")
    answer = messages_of(parts)
    if not says_something(answer):
        raise RecordError("empty_answer", f"the answer to {question_key} is empty")
    messages, _ = read_markup([*opening_messages(record), question_message(question, *documents), *answer])
    used |= {question_key, *extra, *opening_keys(record)}
    yield conversation(messages, rest(record, used) | {key: left for key, left in extra.items() if left})


def _answer(record: dict[str, Any]) -> tuple[list[Part], set[str]]:
    """The reasoning as thinking and the answer as text, and the keys that they use up."""
    if reasoned := _reasoned(record):
        thought_key, answer_key = reasoned
        thought = record[thought_key]
        thought = as_text(thought[0] if isinstance(thought, list) else thought, thought_key)
        answer = as_text(record[answer_key], answer_key)
        return [Part("thinking", thought), Part("text", answer)], {thought_key, answer_key}
    keys = [key for key in _ANSWER_KEYS if record.get(key) is not None]
    if not keys:
        raise RecordError("missing_field", f"the record has none of {', '.join(_ANSWER_KEYS)}")
    key = next((key for key in keys if _first_answer(record[key]) not in (None, "")), keys[0])
    first = _first_answer(record[key])
    if first is None:
        raise wrong_type(record[key], key, "a text, a list of texts or an object with a value")
    text = scalar_text(first, key)
    return [Part("text", text)], {key} if first is record[key] else set()


def _reasoned(record: dict[str, Any]) -> tuple[str, str] | None:
    """The keys of a reasoning, a text or a list of one, and of the answer behind it."""
    for thought_key, answer_key in _REASONED:
        thought, answer = record.get(thought_key), record.get(answer_key)
        if isinstance(thought, list) and len(thought) == 1:
            thought = thought[0]
        if isinstance(thought, str) and thought.strip() and isinstance(answer, str) and answer.strip():
            return thought_key, answer_key
    return None


def _first_answer(value: Any) -> Any:
    """A text, a number or a boolean; the first of a list that says something; the value of an object; else None."""
    if isinstance(value, dict):
        value = value.get("value")
        return value if isinstance(value, str) else None
    if isinstance(value, list):
        return next((item for item in value if isinstance(item, str) and item.strip()), None)
    return value if isinstance(value, str | bool | int | float) else None


def _documents(record: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The documents of a question, and what their objects hold beside them, by key; None where that is nothing."""
    texts: list[str] = []
    beside: dict[str, Any] = {}
    for key, column in _DOCUMENTS:
        value = record.get(key)
        if not isinstance(value, dict) or not isinstance(value.get(column), list):
            continue
        where = f"{key}.{column}"
        texts += [as_text(text, f"{where}[{i}]") for i, text in enumerate(as_list(value[column], where))]
        beside[key] = {name: column for name, column in rest(value, {column}).items() if column not in (None, [], "")}
    return [text for text in texts if text.strip()], beside
