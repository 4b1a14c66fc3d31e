"""Multiple-choice questions: a question, its options, which one is right; perhaps a context and an explanation.

The shapes of ARC (``{"question", "choices": {"text", "label"}, "answerKey"}``, or ``question`` as an object with
``stem`` and ``choices``), CommonsenseQA and OpenBookQA (``question_stem``), MMLU (``choices`` and an index), MMLU-Pro,
RACE (``article``), MedQA (``options`` as an object), ScienceQA (``hint``, ``solution``), of Cosmos QA and Social IQa, whose
options are columns of their own, and of plain ``{"context", "question", "options", "answer"}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from converters import aqua, prontoqa
from converters.markup.choices import is_hidden, said_answer
from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    as_list,
    as_object,
    as_text,
    conversation,
    first_key,
    json_text,
    required,
    rest,
    wrong_type,
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "choice_qa"
UNIT = "record"
SHAPE = '{"question", "choices": {"text", "label"}, "answerKey"} or {"context", "question", "options", "answer"}'
EXAMPLE = {
    "id": "tools-7",
    "question": "Which of these keeps its edge longest on hardwood?",
    "choices": {"text": ["a soft iron chisel", "a hardened steel chisel", "a brass chisel"], "label": ["A", "B", "C"]},
    "answerKey": "B",
}

_QUESTION_KEYS = ("question", "question_stem", "query")
_OPTION_KEYS = ("choices", "options")
_ANSWER_KEYS = ("answerKey", "answer_key", "answer", "answer_idx", "answer_index", "correct_option")
_CONTEXT_KEYS = ("context", "passage", "article", "hint")
_THOUGHT_KEYS = ("rationale", "explanation", "cot_content", "solution")
#: Options that are columns of their own, and what ``label`` counts the first of them as.
_COLUMNS = ((("answer0", "answer1", "answer2", "answer3"), 0), (("answerA", "answerB", "answerC"), 1))
_TEXT_KEYS, _LABEL_KEYS = ("text", "texts"), ("label", "labels")


@dataclass(frozen=True, slots=True)
class _Options:
    """Texts in order, the labels beside them ([] for none), and what their objects hold beyond."""

    texts: list[str]
    labels: list[str]
    beside: Any = None


def detect(unit: Any) -> bool:
    """Whether there are a question, options and a key that says which is right."""
    if not isinstance(unit, dict) or any(key in unit for key in MESSAGE_LIST_KEYS):
        return False
    unit, _ = _gathered(unit)
    if not any(key in unit for key in _ANSWER_KEYS) or aqua.detect(unit) or prontoqa.detect(unit):
        return False
    question = unit.get(first_key(unit, _QUESTION_KEYS) or "")
    holder = question if isinstance(question, dict) else unit
    options = holder.get(first_key(holder, _OPTION_KEYS) or "")
    if not isinstance(question, str) and not (isinstance(question, dict) and isinstance(question.get("stem"), str)):
        return False
    if isinstance(options, list) and options:
        return all(isinstance(o, str) or (isinstance(o, dict) and isinstance(o.get("text"), str)) for o in options)
    return isinstance(options, dict) and bool(options) and all(isinstance(v, str | list) for v in options.values())


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/questions.md lists the codes."""
    record, label = _gathered(as_object(unit, "the record"))
    question_key = _key(record, _QUESTION_KEYS)
    question, options, used, extra = _asked(record, question_key)
    if not question.strip():
        raise RecordError("empty_question", f"{question_key} is empty")
    if not options.texts:
        raise RecordError("no_options", "the record has no options to choose from")
    context_key = first_key(record, _CONTEXT_KEYS)
    context = as_text(record[context_key], context_key) if context_key else ""
    parts = [Part("text", text) for text in (question, *options.texts) if text]
    parts += [Part("context", context)] if context else []
    parts += [Part("media", json_text(record["image"]))] if record.get("image") is not None else []
    messages = [Message("user", tuple(parts))]
    used |= {"image"} | ({context_key} if context_key else set())
    answer_key = first_key(record, _ANSWER_KEYS)
    if answer_key and not is_hidden(record[answer_key]):
        answer = said_answer(options.texts, options.labels, record[answer_key], answer_key)
        thought_key = next((key for key in _THOUGHT_KEYS if _says(record.get(key))), None)
        thought = (Part("thinking", as_text(record[thought_key], thought_key)),) if thought_key else ()
        messages.append(Message("assistant", (*thought, Part("text", answer))))
        used |= ({thought_key} if thought_key else set()) | ({answer_key} if record[answer_key] == answer else set())
    elif not any(key in record for key in _ANSWER_KEYS):
        raise RecordError("missing_field", f"the record has none of {', '.join(_ANSWER_KEYS)}")
    used |= {"answer"} if label else set()
    yield conversation(messages, rest(record, used) | extra | label)


def _gathered(record: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record with options that are columns as a list, and an index from 0 as its answer; with the label as it is."""
    for columns, first in _COLUMNS:
        label = record.get("label")
        if (
            isinstance(label, bool)
            or any(key in record for key in (*_OPTION_KEYS, *_ANSWER_KEYS))
            or not all(isinstance(record.get(key), str) for key in columns)
        ):
            continue
        if isinstance(label, str) and label.isascii() and label.isdigit():
            label = int(label[:4])
        if not isinstance(label, int):
            continue
        answer = -1 if label < 0 or label - first < 0 else label - first
        options = [record[key] for key in columns]
        return rest(record, {*columns, "label"}) | {"options": options, "answer": answer}, {"label": record["label"]}
    return record, {}


def _asked(record: dict[str, Any], key: str) -> tuple[str, _Options, set[str], dict[str, Any]]:
    """The question, its options, the keys of the record they use up, and what these hold beside them."""
    question = record[key]
    holder, where = (question, f"{key}.") if isinstance(question, dict) else (record, "")
    options_key = _key(holder, _OPTION_KEYS)
    options = _options(holder[options_key], where + options_key)
    if holder is record:
        used, extra = {key, options_key}, {options_key: options.beside} if options.beside else {}
        return as_text(question, key), options, used, extra
    left = rest(question, {"stem", options_key}) | ({options_key: options.beside} if options.beside else {})
    stem = as_text(required(question, "stem", key), f"{key}.stem")
    return stem, options, {key}, {key: left} if left else {}


def _options(value: Any, where: str) -> _Options:
    """Options as a list of texts or of objects, an object of columns, or an object of texts by label."""
    if isinstance(value, dict):
        text_key, label_key = first_key(value, _TEXT_KEYS), first_key(value, _LABEL_KEYS)
        if text_key is None:
            texts = [as_text(text, f"{where}.{label:.40}") for label, text in value.items()]
            return _Options(texts, list(value), list(value))
        texts = _texts(value[text_key], f"{where}.{text_key}")
        labels = _texts(value[label_key], f"{where}.{label_key}") if label_key else []
        if labels and len(labels) != len(texts):
            raise wrong_type(value[label_key or ""], f"{where}.{label_key}", f"a list of {len(texts)} labels")
        return _Options(texts, labels, rest(value, {text_key}))
    items = as_list(value, where)
    if not any(isinstance(item, dict) for item in items):
        return _Options(_texts(items, where), [])
    objects = [as_object(item, f"{where}[{index}]") for index, item in enumerate(items)]
    texts = [as_text(required(o, "text", f"{where}[{i}]"), f"{where}[{i}].text") for i, o in enumerate(objects)]
    labels = [as_text(o["label"], f"{where}[{i}].label") for i, o in enumerate(objects) if "label" in o]
    beside = [rest(o, {"text"}) for o in objects]
    return _Options(texts, labels if len(labels) == len(texts) else [], beside if any(beside) else None)


def _texts(value: Any, where: str) -> list[str]:
    return [as_text(text, f"{where}[{index}]") for index, text in enumerate(as_list(value, where))]


def _says(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _key(record: dict[str, Any], keys: tuple[str, ...]) -> str:
    key = first_key(record, keys)
    if key is None:
        raise RecordError("missing_field", f"the record has none of {', '.join(keys)}")
    return key
