"""Questions over several paragraphs with supporting facts, HotpotQA form.

HotpotQA (Yang et al. 2018, arXiv 1809.09600) and 2WikiMultihopQA (Ho et al. 2020, arXiv 2011.01060): ``context`` is a list
of ``[title, [sentence]]``; on the Hub, an object of the columns ``title`` and ``sentences``.
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
    wrong_type,
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "hotpot"
UNIT = "record"
SHAPE = '{"question", "context": [[title, [sentence]]], "supporting_facts": [[title, index]], "answer"}'
EXAMPLE = {
    "_id": "two-ponds",
    "question": "Which is deeper, Elm Pond or Mill Pond?",
    "answer": "Mill Pond",
    "type": "comparison",
    "supporting_facts": [["Elm Pond", 1], ["Mill Pond", 0]],
    "context": [
        ["Elm Pond", ["Elm Pond lies north of the village.", " It is 3 metres deep."]],
        ["Mill Pond", ["Mill Pond is 5 metres deep.", " Its dam was built of oak."]],
    ],
}


def detect(unit: Any) -> bool:
    """Whether there is a question, and a context of titles with sentences."""
    if not isinstance(unit, dict) or any(key in unit for key in MESSAGE_LIST_KEYS):
        return False
    if not isinstance(unit.get("question"), str) or not isinstance(unit.get("answer"), str | None):
        return False
    context = unit.get("context")
    if isinstance(context, dict):
        return isinstance(context.get("title"), list) and isinstance(context.get("sentences"), list)
    return (
        isinstance(context, list)
        and bool(context)
        and all(
            isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], list)
            for pair in context
        )
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/questions.md lists the codes."""
    record = as_object(unit, "the record")
    question = as_text(required(record, "question"), "question")
    if not question.strip():
        raise RecordError("empty_question", "question is empty")
    contexts = [text for title, sentences in _paragraphs(required(record, "context")) for text in (title, *sentences)]
    if not any(text.strip() for text in contexts):
        raise RecordError("no_context", "context holds no text")
    messages = [question_message(question, *contexts)]
    if (answer := record.get("answer")) is not None:
        if not as_text(answer, "answer").strip():
            raise RecordError("empty_answer", "answer is empty")
        messages.append(Message("assistant", (Part("text", answer),)))
    context = record["context"]
    beside = rest(context, {"title", "sentences"}) if isinstance(context, dict) else {}
    extra = rest(record, {"question", "context", "answer"}) | ({"context": beside} if beside else {})
    yield conversation(messages, extra)


def _paragraphs(context: Any) -> Iterator[tuple[str, list[str]]]:
    """The title and the sentences of each paragraph."""
    if isinstance(context, dict):
        titles = as_list(required(context, "title", "context"), "context.title")
        listed = as_list(required(context, "sentences", "context"), "context.sentences")
        if len(titles) != len(listed):
            raise wrong_type(listed, "context.sentences", f"a list for each of the {len(titles)} titles")
        pairs: list[Any] = [list(pair) for pair in zip(titles, listed, strict=True)]
    else:
        pairs = as_list(context, "context")
    for index, pair in enumerate(pairs):
        where = f"context[{index}]"
        if len(as_list(pair, where)) != 2:
            raise wrong_type(pair, where, "a title and its sentences")
        sentences = as_list(pair[1], f"{where}[1]")
        yield (
            as_text(pair[0], f"{where}[0]"),
            [as_text(sentence, f"{where}[1][{s}]") for s, sentence in enumerate(sentences)],
        )
