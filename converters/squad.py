"""Reading comprehension with answer offsets: SQuAD files, single articles of them, and the Hub's flat rows.

SQuAD 1.1 (Rajpurkar et al. 2016, arXiv 1606.05250) and 2.0 (2018, arXiv 1806.03822), whose questions may have no answer;
XQuAD, MLQA, CMRC, KorQuAD and others share the form.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    as_list,
    as_object,
    as_text,
    context_group,
    conversation,
    optional_text,
    question_message,
    required,
    rest,
    wrong_type,
)
from pipeline.conversation import Conversation, Message, Part

FORMAT = "squad"
UNIT = "record"
LIST = "data"
SHAPE = (
    '{"data": [{"title", "paragraphs": [{"context", "qas": [{"question", "answers": [{"text", "answer_start"}]}]}]}]}'
)
EXAMPLE = {
    "version": "1.1",
    "data": [
        {
            "title": "Lighthouse",
            "paragraphs": [
                {
                    "context": "The old lighthouse was lit in 1811. Its lamp burned whale oil.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "When was the lighthouse lit?",
                            "answers": [{"text": "1811", "answer_start": 30}],
                        },
                        {
                            "id": "q2",
                            "question": "What did its lamp burn?",
                            "answers": [{"text": "whale oil", "answer_start": 52}],
                        },
                    ],
                }
            ],
        }
    ],
}


def detect(unit: Any) -> bool:
    """Whether it is a file of articles, an article, or a question with a context and answers that have offsets."""
    if not isinstance(unit, dict) or any(key in unit for key in MESSAGE_LIST_KEYS):
        return False
    if isinstance(articles := unit.get("data"), list):
        return bool(articles) and all(map(_is_article, articles))
    return _is_article(unit) or _is_row(unit)


def convert(unit: Any) -> Iterator[Conversation]:
    """A conversation for each question. Raises RecordError; docs/formats/questions.md lists the codes."""
    record = as_object(unit, "the record")
    if "data" in record:
        beside = rest(record, {"data"})
        for index, article in enumerate(as_list(record["data"], "data")):
            yield from _article(article, f"data[{index}]", {"file": beside} if beside else {})
    elif "paragraphs" in record:
        yield from _article(record, "the article", {})
    else:
        context = as_text(required(record, "context"), "context")
        title = optional_text(record, "title")
        yield _conversation(record, context, title, "the record", {})


def _article(value: Any, where: str, extra: dict[str, Any]) -> Iterator[Conversation]:
    article = as_object(value, where)
    title = optional_text(article, "title", f"{where}.title")
    if beside := rest(article, {"title", "paragraphs"}):
        extra = extra | {"article": beside}
    for p, paragraph in enumerate(as_list(required(article, "paragraphs", where), f"{where}.paragraphs")):
        here = f"{where}.paragraphs[{p}]"
        paragraph = as_object(paragraph, here)
        context = as_text(required(paragraph, "context", here), f"{here}.context")
        beside = rest(paragraph, {"context", "qas"})
        above = extra | ({"paragraph": beside} if beside else {}) | ({"title": title} if title else {})
        for q, question in enumerate(as_list(required(paragraph, "qas", here), f"{here}.qas")):
            at = f"{here}.qas[{q}]"
            yield _conversation(as_object(question, at), context, title, at, above)


def _conversation(record: dict[str, Any], context: str, title: str, where: str, above: dict[str, Any]) -> Conversation:
    """The question, its context and its first answer; every answer goes to ``extra``, where its text stands."""
    question = as_text(required(record, "question", where), f"{where}.question")
    messages = [question_message(question, context)]
    answers = _answers(record, where)
    extra = above | rest(record, {"question", "context"})
    misplaced = [index for index, (text, start) in enumerate(answers) if not _stands(context, text, start)]
    if misplaced:
        extra["misplaced_answers"] = misplaced
    answer = next((text for text, _ in answers if text.strip()), "")
    if answer and question.strip() and context.strip() and record.get("is_impossible") is not True:
        messages.append(Message("assistant", (Part("text", answer),)))
    group = f"title:{title}" if title else context_group(context)
    return conversation(messages, extra, group=group)


def _answers(record: dict[str, Any], where: str) -> list[tuple[str, int | None]]:
    """The answers' texts and offsets, in order, out of objects or columns; [] where there are none."""
    value = record.get("answers")
    if value is None:
        return []
    at = f"{where}.answers"
    if isinstance(value, dict):
        texts = as_list(required(value, "text", at), f"{at}.text")
        starts = as_list(value.get("answer_start", [None] * len(texts)), f"{at}.answer_start")
        if len(starts) != len(texts):
            raise wrong_type(starts, f"{at}.answer_start", f"a list of {len(texts)} offsets")
        pairs = list(zip(texts, starts, strict=True))
    else:
        objects = [as_object(item, f"{at}[{index}]") for index, item in enumerate(as_list(value, at))]
        pairs = [(required(item, "text", f"{at}[{i}]"), item.get("answer_start")) for i, item in enumerate(objects)]
    answers = []
    for index, (text, start) in enumerate(pairs):
        if start is not None and (not isinstance(start, int) or isinstance(start, bool)):
            raise wrong_type(start, f"{at}[{index}].answer_start", "an offset in characters")
        answers.append((as_text(text, f"{at}[{index}].text"), start))
    return answers


def _stands(context: str, text: str, start: int | None) -> bool:
    return start is None or (start >= 0 and context.startswith(text, start))


def _is_article(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(paragraphs := value.get("paragraphs"), list):
        return False
    return bool(paragraphs) and all(
        isinstance(p, dict) and isinstance(p.get("context"), str) and isinstance(p.get("qas"), list) for p in paragraphs
    )


def _is_row(value: dict[str, Any]) -> bool:
    if not isinstance(value.get("question"), str) or not isinstance(value.get("context"), str):
        return False
    answers = value.get("answers")
    if isinstance(answers, dict):
        return isinstance(answers.get("text"), list) and isinstance(answers.get("answer_start"), list)
    return (
        isinstance(answers, list)
        and bool(answers)
        and all(isinstance(a, dict) and isinstance(a.get("text"), str) and "answer_start" in a for a in answers)
    )
