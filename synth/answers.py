"""Final answers: the one thing that a conversation's last answer must come to however it is said, and the calls it makes.

What kind of final answer there is, is told by the answer itself: a label of the options that were read, yes or no or maybe,
a number (all of the answer, or behind ``####``, ``The answer is`` or in ``\\boxed{…}``), a formula in such a box, or a few
words that conclude a thought or were asked of a passage. Any other answer has none, and nothing to compare.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from converters.markup.assistant import assistant_parts
from pipeline.conversation import Conversation, Message, Part
from pipeline.text import cut
from synth.checks import TextError, fold, load_json

FinalKind = Literal["choice", "decision", "number", "formula", "span"]

#: A span is no longer.
_SPAN_CHARS = 60

#: Digits with thousands separators (commas, or spaces of any width), a fraction and an exponent, or none of them.
_DIGITS = (
    r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+−]?\d{1,2}(?!\w))?"
)
_VALUE = re.compile(
    rf"(?<![\w.])(?P<sign>[-−]?)\\?[$€£]?(?:"
    rf"\\[dt]?frac\s*\{{\s*(?P<top>[-−]?{_DIGITS})\s*\}}\s*\{{\s*(?P<bottom>[-−]?{_DIGITS})\s*\}}"
    rf"|(?:(?P<whole>\d+)\s+)?(?P<over>{_DIGITS})\s*/\s*(?P<under>\d+)(?![\d.,]*\d)(?!\s*/)"
    rf"|(?P<plain>{_DIGITS})(?!\.?\d)"
    rf")(?P<percent>\s*(?:\\?%|per\s?cent\b))?"
)
_PLAIN_NUMBER = re.compile(rf"(?<![\w.])[-−]?{_DIGITS}(?!\.?\d)")
_UNNAMED = re.sub(r"\?P<\w+>", "?:", _VALUE.pattern)
_ONLY_A_NUMBER = re.compile(rf"[^\w\-−.]*(?:{_UNNAMED})\s*[^\W\d_]{{0,12}}\W*")
#: What a number that concludes an answer stands behind, the most certain first: GSM8K, MATH, MetaMathQA. Behind ``####``
#: it stands alone on its line, else that is a heading.
_HASHES = re.compile(rf"####(?!#)(?=[^\w\n\-−.]*(?:{_UNNAMED})[^\w\n]*$)", re.MULTILINE)
_BOXED = re.compile(r"\\boxed\s*\{")
_WORDS = re.compile(r"\\(?:text|textbf|mathrm)\{([^{}]*)\}")
_THE_ANSWER = re.compile(r"\bthe (?:final )?answer is\b[\s:]*", re.I)

_DECISIONS = frozenset(["yes", "no", "maybe"])
_OPENS_WITH = re.compile(r"\W*(yes|no|maybe)\b\s*(?=[,.;:!—–-]|$)", re.I)
#: A yes, no or maybe of its own: behind words that introduce it or a mark, and before a mark or the end.
_DECIDES = re.compile(
    r"(?:^|\b(?:is|be|was|says?|said|so|thus|therefore|hence|answer|an?(?: (?:clear|firm|definite|plain|likely))?)\b"
    r"|[:,;(—–])[\s\"“'*(:]*(yes|no|maybe)\b(?=\s*[^\w\s-]|\s+[-—–]|\s*$)",
    re.I,
)

_OPTION = re.compile(r"^\s*[(\[]?([A-Z])[)\].:]", re.MULTILINE)
_LABEL = r"[\s:*(\[\"“]*(?<![\w'’])([A-Z])(?![\w'’])"
#: How an answer names its option, the most certain first. ``A`` and ``I`` are words too.
_NAMED_OPTION = (
    re.compile(rf"\b(?:answer|choice|is|be)\b[\s:*]*(?:(?:option|choice|answer)\b)?{_LABEL}"),
    re.compile(
        r"(?<![\w'’])([A-Z])[)\]*]*(?=\s+(?:holds\b|(?:is|must be)\s+(?:the\s+)?(?:right|correct|true|answer)\b))"
    ),
    re.compile(rf"(?:\boption\b{_LABEL}|(?<![\w'’])([B-HJ-Z])(?![\w'’])|(?<![\w'’])([AI])(?=[)\].*]|\W*$))"),
)

#: Signs whose place in a text is its meaning.
_FORMULA = re.compile(r"[\\^+=*/<>{}|]|(?:^|\s)[-−]\s*[\w\\]")
_DENIED = frozenset(
    ["not", "never", "nor", "neither", "isn", "wasn", "aren", "weren", "isn't", "wasn't", "isn’t", "wasn’t"]
)


@dataclass(frozen=True, slots=True)
class Final:
    """What an answer comes to. ``value``: normalized (``1,200`` and ``1200.0`` are one number); of a span the text itself.

    ``others``: values that are as good (other golds of a span; 50 for 50%). ``labels``: of the options to choose from.
    ``shown``: the value as the original writes it, for people and writers.
    """

    kind: FinalKind
    value: str
    others: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    shown: str = ""

    def given_by(self, text: str) -> str | None:
        """The final answer of this kind that a text gives, None if it gives none. Of a span: ``value``, if it stands there."""
        good = (self.value, *self.others)
        if self.kind == "number":
            match = _number(text)
            values = _values(match) if match else ()
            return self.value if set(values) & set(good) else values[0] if values else None
        if self.kind == "formula":
            if boxed := _boxed(text):
                return "".join(boxed.split())
            return self.value if _stands_verbatim(self.value, text) else None
        if self.kind == "span":
            return self.value if any(_stands_in(span, text) for span in good) else None
        if self.kind == "choice":
            return _choice(text, self.labels)
        return next(filter(None, map(_decision, reversed(_sentences(text)))), None)

    def is_told_by(self, sentence: str) -> bool:
        """Whether a sentence gives this answer away."""
        if self.kind == "number":
            good = {self.value, *self.others}
            whole = {value for match in _VALUE.finditer(sentence) for value in _values(match)}
            return bool(good & whole) or any(_key(found) in good for found in _PLAIN_NUMBER.findall(sentence))
        return self.given_by(sentence) == self.value if self.kind == "formula" else self.given_by(sentence) is not None


def final_of(conversation: Conversation) -> Final | None:
    """The final answer of the last assistant message of a conversation, None where there is none to compare.

    What its own text does not give is none: nobody could give it again.
    """
    index = next((i for i in reversed(range(len(conversation.messages))) if _says(conversation.messages[i])), None)
    if index is None:
        return None
    message = conversation.messages[index]
    said = [part.text.strip() for part in message.parts if part.kind == "text" and part.text.strip()]
    final = _final(conversation, message, said, _read_before(conversation.messages, index))
    return final if final is not None and final.given_by("\n".join(said)) == final.value else None


def _final(conversation: Conversation, message: Message, said: Sequence[str], read: Sequence[Part]) -> Final | None:
    last, whole = said[-1], "\n".join(said)
    labels = {match[1] for part in read for match in _OPTION.finditer(part.text)}
    if len(labels) > 1 and (label := last.strip("()[].:* ")) in labels:
        return Final("choice", label, labels=tuple(sorted(labels)), shown=label)
    if fold(last) in _DECISIONS:
        return Final("decision", fold(last), shown=fold(last))
    if (opens := _OPENS_WITH.match(last)) and any("?" in part.text for part in read):
        return Final("decision", opens[1].casefold(), shown=opens[1].casefold())
    if (boxed := _boxed(whole)) and not _ONLY_A_NUMBER.fullmatch(boxed):
        return Final("formula", "".join(boxed.split()), shown=boxed)
    match = _VALUE.search(last) if _ONLY_A_NUMBER.fullmatch(last) else _concluded(whole)
    if match is not None and (values := _values(match)):
        return Final("number", values[0], values[1:], shown=match[0].strip())
    golds = _golds(conversation.extra)
    concludes = any(part.kind == "thinking" for part in message.parts) or any(part.kind == "context" for part in read)
    if len(last) <= _SPAN_CHARS and "\n" not in last and len(said) == 1 and (last in golds or concludes):
        others = tuple(gold for gold in golds if gold != last) if last in golds else ()
        return Final("span", last, others, shown=last)
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


def _read_before(messages: Sequence[Message], index: int) -> list[Part]:
    """The parts that were read since the last output before a message."""
    parts: list[Part] = []
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


def _number(text: str) -> re.Match[str] | None:
    """The number that concludes a text, else the last one of the text."""
    return _concluded(text) or next(reversed(list(_VALUE.finditer(text))), None)


def _concluded(text: str) -> re.Match[str] | None:
    """The number behind the last of the most certain marks that have one, None where there is none."""
    for match in reversed(list(_HASHES.finditer(text))):
        return _VALUE.search(text, match.end())
    if (boxed := _boxed(text)) and (number := _VALUE.search(boxed)):
        return number
    for match in reversed(list(_THE_ANSWER.finditer(text))):
        sentence = _sentences(text[match.end() :])[0]
        if number := _VALUE.search(sentence, sentence.rfind("=") + 1):
            return number
    return None


def _boxed(text: str) -> str:
    """What the last ``\\boxed{…}`` of a text holds, "" where there is none."""
    match = next(reversed(list(_BOXED.finditer(text))), None)
    if match is None:
        return ""
    depth, end = 1, match.end()
    while end < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    held = text[match.end() : end - 1].strip()
    return words[1].strip() if (words := _WORDS.fullmatch(held)) else held


def _values(match: re.Match[str]) -> tuple[str, ...]:
    """The values of a match of ``_VALUE``: one, and of a percentage also the number before the sign. None of x/0."""
    over, under = match["top"] or match["over"], match["bottom"] or match["under"]
    value = _fraction(match["plain"] or over)
    if under is not None:
        if not (below := _fraction(under)):
            return ()
        value = value / below + _fraction(match["whole"] or "0")
    if match["sign"]:
        value = -value
    return (str(value / 100), str(value)) if match["percent"] else (str(value),)


def _fraction(digits: str) -> Fraction:
    return Fraction("".join(digits.replace(",", "").replace("−", "-").split()))


def _key(digits: str) -> str:
    return str(_fraction(digits))


def _decision(sentence: str) -> str | None:
    found = _DECIDES.findall(sentence)
    return str(found[-1]).casefold() if found else None


def _choice(text: str, labels: Sequence[str]) -> str | None:
    """The label that a text names most clearly, the last of equals."""
    for pattern in _NAMED_OPTION:
        for sentence in reversed(_sentences(text)):
            named = [next(filter(None, match.groups())) for match in pattern.finditer(sentence)]
            if known := [str(label) for label in named if label in labels]:
                return known[-1]
    return None


def _stands_in(span: str, text: str) -> bool:
    """Whether a text says a span somewhere, and does not deny it there."""
    if _FORMULA.search(span):
        return _stands_verbatim(span, text)
    words = fold(span).split()
    if not words or any(unicodedata.category(character) == "Lo" for character in span):
        return span.casefold() in text.casefold()
    said = fold(text).split()
    return any(
        said[at : at + len(words)] == words and _DENIED.isdisjoint(said[max(at - 2, 0) : at])
        for at in range(len(said) - len(words) + 1)
    )


def _stands_verbatim(formula: str, text: str) -> bool:
    """Whether a formula stands in a text, spaces apart, as no part of a longer one."""
    parts = r"\s*".join(re.escape(character) for character in "".join(formula.split()))
    return re.search(rf"(?<![\w^+\-−*/=\\])(?<![+\-−*/=]\s){parts}(?![\w^]|\s*[+*/=−]|\s*-\s*[\w\\])", text) is not None
