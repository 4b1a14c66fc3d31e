"""Final answers: the one thing that a conversation's last answer must come to however it is said, and the calls it makes.

What kind of final answer there is, is told by the answer itself: a label of the options that were read, yes or no or maybe,
a number (all of the answer, or behind ``####``, ``The answer is`` or in ``\\boxed{…}``), or a few words that conclude a
thought or were asked of a passage. Any other answer has none, and nothing to compare.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from converters.markup.assistant import assistant_parts
from pipeline.conversation import Conversation, Message
from pipeline.text import cut
from synth.checks import TextError, fold, load_json

FinalKind = Literal["choice", "decision", "number", "span"]

#: A span is no longer.
_SPAN_CHARS = 60

_NUMBER = re.compile(r"(?<![\w.])[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\.?\d)")
_ONLY_A_NUMBER = re.compile(rf"[^\w\-−.]*(?:{_NUMBER.pattern})\s*[^\W\d_]{{0,12}}\W*")
#: What a number that concludes an answer stands behind, the most certain first: GSM8K, MATH, MetaMathQA.
_MARKS = (re.compile(r"####(?!#)"), re.compile(r"\\boxed\s*\{"), re.compile(r"\bthe (?:final )?answer is\b", re.I))

_DECISIONS = frozenset(["yes", "no", "maybe"])
_OPENS_WITH = re.compile(r"\W*(yes|no|maybe)\b\s*(?=[,.;:!—–-]|$)", re.I)
_CLOSES_WITH = re.compile(r"(?:^|[\s:,(\"“'*])(yes|no|maybe)\W*$", re.I)

_OPTION = re.compile(r"^\s*[(\[]?([A-Z])[)\].:]", re.MULTILINE)
_NAMED_OPTION = re.compile(r"(?:^|[(\[]|\b(?:answer|option|choice)(?: is)?:?\s+[(\[]?)([A-Z])\b|(?<![\w'’])([A-Z])\W*$")


@dataclass(frozen=True, slots=True)
class Final:
    """What an answer comes to. ``value``: normalized (``1,200`` and ``1200.0`` are one number); of a span the text itself.

    ``others``: texts that are as good as a span's (other golds).
    """

    kind: FinalKind
    value: str
    others: tuple[str, ...] = ()

    def given_by(self, text: str) -> str | None:
        """The final answer of this kind that a text gives, None if it gives none. Of a span: ``value``, if it stands there."""
        if self.kind == "number":
            return _number(text)
        if self.kind == "span":
            return self.value if any(_stands_in(span, text) for span in (self.value, *self.others)) else None
        find = _choice if self.kind == "choice" else _decision
        return next(filter(None, (find(sentence) for sentence in reversed(_sentences(text)))), None)

    def is_told_by(self, sentence: str) -> bool:
        """Whether a sentence gives this answer away."""
        if self.kind == "number":
            return any(_key(match[0]) == self.value for match in _NUMBER.finditer(sentence))
        return self.given_by(sentence) is not None


def final_of(conversation: Conversation) -> Final | None:
    """The final answer of the last assistant message of a conversation, None where there is none to compare."""
    index = next((i for i in reversed(range(len(conversation.messages))) if _says(conversation.messages[i])), None)
    if index is None:
        return None
    message = conversation.messages[index]
    said = [part.text.strip() for part in message.parts if part.kind == "text" and part.text.strip()]
    last = said[-1]
    read = _read_before(conversation.messages, index)
    labels = {match[1] for part in read for match in _OPTION.finditer(part.text)}
    if len(labels) > 1 and (label := last.strip("()[].: ")) in labels:
        return Final("choice", label)
    if fold(last) in _DECISIONS:
        return Final("decision", fold(last))
    if (opens := _OPENS_WITH.match(last)) and any("?" in part.text for part in read):
        return Final("decision", opens[1].casefold())
    whole = "\n".join(said)
    if (boxed := _boxed(whole)) and not _ONLY_A_NUMBER.fullmatch(boxed):
        return Final("span", boxed)
    if _ONLY_A_NUMBER.fullmatch(last) or any(mark.search(whole) for mark in _MARKS):
        number = _number(last if _ONLY_A_NUMBER.fullmatch(last) else whole)
        if number is not None:
            return Final("number", number)
    golds = _golds(conversation.extra)
    concludes = any(part.kind == "thinking" for part in message.parts) or any(part.kind == "context" for part in read)
    if len(last) <= _SPAN_CHARS and "\n" not in last and len(said) == 1 and (last in golds or concludes):
        return Final("span", last, tuple(gold for gold in golds if gold != last) if last in golds else ())
    return None


def final_answer(conversation: Conversation, text: str) -> str | None:
    """The final answer that ``text`` gives, of the kind that the last answer of ``conversation`` gives; None if none.

    Two texts give the same answer if these are equal.
    """
    final = final_of(conversation)
    return None if final is None else final.given_by(text)


def calls_of(conversation: Conversation) -> list[tuple[str, Any]]:
    """Every tool call in order: its name, and its arguments as a JSON value (as text where they are no JSON).

    A call that is spelled out in what the assistant says, in a markup that a converter would read, is one too.
    """
    found = []
    for message in conversation.messages:
        if message.role != "assistant":
            continue
        for whole in message.parts:
            for part in assistant_parts(whole.text) if whole.kind == "text" else (whole,):
                if part.kind == "tool_call":
                    found.append((part.name or "", _arguments(part.text)))
    return found


def _arguments(text: str) -> Any:
    try:
        return load_json(text)
    except TextError:
        return text


def _says(message: Message) -> bool:
    return message.role == "assistant" and any(part.kind == "text" and part.text.strip() for part in message.parts)


def _read_before(messages: Sequence[Message], index: int) -> list[Any]:
    """The parts that were read since the last output before a message."""
    parts: list[Any] = []
    for message in reversed(messages[:index]):
        if message.role == "assistant":
            break
        if message.role != "system":
            parts.extend(message.parts)
    return parts


def _golds(extra: dict[str, Any]) -> list[str]:
    """The texts of SQuAD-form answers, as objects or as columns."""
    answers = extra.get("answers")
    if isinstance(answers, dict):
        answers = answers.get("text")
    found = [a.get("text") if isinstance(a, dict) else a for a in answers] if isinstance(answers, list) else []
    return [text for text in found if isinstance(text, str) and text.strip()]


def _sentences(text: str) -> list[str]:
    ends = cut(text, "sentence")
    return [text[low:high].strip() for low, high in zip([0, *ends], ends, strict=False)]


def _number(text: str) -> str | None:
    """The number behind the last mark that there is, else the last one of the text."""
    for mark in _MARKS:
        for match in reversed(list(mark.finditer(text))):
            if number := _NUMBER.search(text, match.end()):
                return _key(number[0])
    numbers = _NUMBER.findall(text)
    return _key(numbers[-1]) if numbers else None


def _boxed(text: str) -> str:
    """What the last ``\\boxed{…}`` of a text holds, "" where there is none."""
    match = next(reversed(list(_MARKS[1].finditer(text))), None)
    if match is None:
        return ""
    depth, end = 1, match.end()
    while end < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[match.end() : end - 1].strip()


def _key(number: str) -> str:
    return str(Fraction(number.replace(",", "").replace("−", "-")))


def _decision(sentence: str) -> str | None:
    found = _CLOSES_WITH.search(sentence) or _OPENS_WITH.match(sentence)
    return found[1].casefold() if found else None


def _choice(sentence: str) -> str | None:
    found = list(_NAMED_OPTION.finditer(sentence))
    return (found[-1][1] or found[-1][2]) if found else None


def _stands_in(span: str, text: str) -> bool:
    words = fold(span)
    if not words or any(unicodedata.category(character) == "Lo" for character in span):
        return span.casefold() in text.casefold()
    return f" {words} " in f" {fold(text)} "
