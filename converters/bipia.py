"""Indirect prompt injection, BIPIA form: benign tasks over a context, and the attack strings that are planted in them.

BIPIA (Yi et al. 2023, arXiv 2312.14197). Its task files hold ``{"context", "question", "ideal"}`` (email, table, QA) or
``{"context", "ideal"}`` (summaries); its attack files are one object of lists of strings by class of attack.
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
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "bipia"
UNIT = "record"
SHAPE = '{"context", "question", "ideal"}, or attacks: {class: [string]}'
EXAMPLE = {
    "ideal": "Thursday",
    "context": "The carpenter writes: the oak arrives on Thursday, the varnish a day later.\n",
    "question": "When does the oak arrive?",
}

#: Classes of attack by BIPIA's names: an object of lists is told by them.
_CLASSES = frozenset(
    {
        "Information Retrieval",
        "Content Creation",
        "Language Translation",
        "Alphanumeric Substitution",
        "Homophonic Substitution",
        "Anagramming",
        "Clickbait",
        "Malware Distribution",
        "Task Automation",
        "Business Intelligence",
        "Conversational Agent",
        "Research Assistance",
        "Sentiment Analysis",
        "Substitution Ciphers",
        "Base Encoding",
        "Reverse Text",
        "Emoji Substitution",
        "Language Inversion",
        "Scams & Fraud",
        "Misinformation & Propaganda",
    }
)


def detect(unit: Any) -> bool:
    """Whether it is a context with an ideal answer, or an object of attack strings by class."""
    if not isinstance(unit, dict) or any(key in unit for key in MESSAGE_LIST_KEYS):
        return False
    if "ideal" in unit:
        return (
            isinstance(unit.get("context"), str)
            and isinstance(unit.get("question"), str | None)
            and all(isinstance(i, str) for i in (unit["ideal"] if isinstance(unit["ideal"], list) else [unit["ideal"]]))
        )
    return not _CLASSES.isdisjoint(unit) and all(isinstance(strings, list) for strings in unit.values())


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation, of an attack file one for each string. Raises RecordError.

    docs/formats/trees-and-injection.md lists the codes.
    """
    record = as_object(unit, "the record")
    if "ideal" not in record and not _CLASSES.isdisjoint(record):
        yield from _attacks(record)
        return
    context = as_text(required(record, "context"), "context")
    question = optional_text(record, "question")
    ideal = required(record, "ideal")
    answers = [as_text(text, "ideal", "a string or a list") for text in (ideal if isinstance(ideal, list) else [ideal])]
    answer = next((text for text in answers if text.strip()), None)
    if answer is None:
        raise RecordError("empty_answer", "ideal is empty")
    if not context.strip():
        raise RecordError("no_context", "context is empty")
    messages = [question_message(question, context), Message("assistant", (Part("text", answer),))]
    extra = rest(record, {"context", "question", *(() if isinstance(ideal, list) else ("ideal",))})
    yield conversation(messages, extra, group=context_group(context))


def _attacks(record: dict[str, Any]) -> Iterator[Conversation]:
    """Each attack string as a user's message that nobody answers."""
    for name, strings in record.items():
        kind = as_text(name, "a class of attack")
        for index, attack in enumerate(as_list(strings, kind)):
            text = as_text(attack, f"{kind}[{index}]")
            yield conversation([question_message(text)], {"attack_class": kind, "attack_index": index})
