"""Final answers: the one thing that a conversation's last answer must come to however it is said, and the calls it makes.

What kind of final answer there is, is told by the answer itself: a label of the options that were read, yes or no or maybe,
a number (all of the answer, or behind ``####``, ``The answer is`` or in ``\\boxed{…}``), a formula in such a box, or a few
words that conclude a thought, were asked of a passage, or are what a corpus gives as a gold (a number too: any equal one in
the text will do). Any other answer has none, and nothing to compare. What is denied, taken back or one of several is not given.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from converters.markup.assistant import assistant_parts
from pipeline.conversation import Conversation, Message, Part
from pipeline.text import cut
from pipeline.words import CJK
from synth.checks import TextError, fold, load_json

FinalKind = Literal["choice", "decision", "number", "formula", "span"]

#: A span is no longer.
_SPAN_CHARS = 60

#: Digits with thousands separators (commas, or spaces of any width), a fraction and an exponent, or none of them.
_DIGITS = (
    r"(?:(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+−]?\d{1,2}(?!\w))?"
)
#: What a number is counted in, behind it.
_SCALES = {"hundred": 2, "thousand": 3, "k": 3, "million": 6, "m": 6, "billion": 9, "bn": 9, "trillion": 12}
_VALUE = re.compile(
    rf"(?<![^\W{CJK}])(?<!\.)(?P<sign>[-−]|[Mm]inus\s+|[Nn]egative\s+|)\\?[$€£]?(?:"
    rf"\\[dt]?frac\s*\{{\s*(?P<top>[-−]?{_DIGITS})\s*\}}\s*\{{\s*(?P<bottom>[-−]?{_DIGITS})\s*\}}"
    rf"|(?:(?P<whole>\d+)\s+)?(?P<over>{_DIGITS})\s*/\s*(?P<under>\d+)(?![\d.,]*\d)(?!\s*/)"
    rf"|(?P<mixed>\d*\s?[¼½¾⅐-⅞])"
    rf"|(?P<plain>{_DIGITS})(?!\.?\d)"
    rf")(?:(?P<percent>\s*(?:\\?%|per\s?cent\b))"
    rf"|\s?(?P<scale>(?:hundred|(?:th|m|b|tr)illion|thousand)\b|(?<=\d)(?:[kK]|bn|M)(?![^\W{CJK}])))?"
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
#: A minus apart from its number, where there is nothing that it takes the number from.
_MINUS = re.compile(r"(?:\b(?:is|are|be|equals)\s*|[:=({#*]\s*|\A\s*)[-−]\s+\\?[$€£]?\Z")
#: Who says a number again has changed his mind about it.
_SECOND_THOUGHT = re.compile(r"\b(?:wait|actually|sorry|rather|correction|oops|hmm|i mean|no,)", re.I)
#: What stands before what is denied, and before and behind what is one of several.
_DENIES = re.compile(
    r"(?:\b(?:not|never|nor|neither|cannot|rather than|instead of)|n['’]t)\s+(?:(?!but\b)[^\W\d]+\s+){0,2}[^\w\s]*\Z",
    re.I,
)
_OR_THIS = re.compile(
    r"\d\S*\s+(?:[^\W\d]+\s+){0,2}or\s+(?:[^\W\d]+\s+)?\W*\Z|\bbetween\b[^.;]*\band\s+\W*\Z|\d\s?[–~]\s?\Z|\d-\Z"
)
_OR_THAT = re.compile(r"\s*(?:[^\W\d]+\s+){0,2}or\s+(?:[^\W\d]+\s+)?\W*\d|\s?[–~]\s?\d|-\d")

_DECISIONS = frozenset(["yes", "no", "maybe"])
_OPENS_WITH = re.compile(r"\W*(yes|no|maybe)\b\s*(?=[,.;:!—–-]|$)", re.I)
#: A question to which yes is no answer.
_ASKS_FOR_MORE = re.compile(r"\b(?:can|could|would|will) you\b", re.I)
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

#: What stands behind an option that is wrong, and around one of several.
_WRONG = re.compile(r"[^\w\s]*\s+(?:is|was|can|could|must)(?:n['’]t\b|not\b|\s+(?:not|wrong|incorrect|false)\b)", re.I)
_OR_OPTION = re.compile(r"[^\w\s]*\s+or\s+(?:option\s+)?[^\w\s]*[A-Z](?![\w'’])")
_OPTION_OR = re.compile(r"(?<![\w'’])[A-Z][^\w\s]*\s+or\s+(?:option\s+)?[^\w\s]*\Z")

#: Signs whose place in a text is its meaning.
_FORMULA = re.compile(r"[\\^+=*/<>{}|]|(?:^|\s)[-−]\s*[\w\\]")
_NOT = frozenset(["not", "never", "nor", "neither", "cannot"])
_AUXILIARIES = "is are was were be been do does did has have had can could will would should may might"
_VERBS = frozenset(_AUXILIARIES.split())
#: The same in scripts whose letters have no case.
_DENIES_BEFORE = re.compile(r"(?:不是|並非|并非|[不非没沒]|没有|沒有|\bليس\s|\bوليس\s)\s*\Z")
_DENIES_BEHIND = re.compile(r"\s*(?:不是|並非|并非|没有|沒有|ではな|じゃな|[이가] 아니|नहीं)")
_OR_BEFORE = re.compile(r"(?:或|或者|还是|還是|または|또는|\sأو)\s*\Z")
_OR_BEHIND = re.compile(r"\s*(?:或|还是|還是|または|또는|أو\s)")


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
            values = _values(match) if match and not _is_one_of_several(match) else ()
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
        """Whether a sentence gives this answer away; one that denies it or leaves it open may."""
        good = {self.value, *self.others}
        if self.kind == "span":
            return any(_stands_in(span, sentence, strictly=False) for span in good)
        if self.kind == "choice":
            return _choice(sentence, self.labels, strictly=False) is not None
        if self.kind == "number":
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
    if (opens := _OPENS_WITH.match(last)) and _decides(whole, read):
        return Final("decision", opens[1].casefold(), shown=opens[1].casefold())
    if (boxed := _boxed(whole)) and not _ONLY_A_NUMBER.fullmatch(boxed):
        return Final("formula", "".join(boxed.split()), shown=boxed)
    golds = _golds(conversation.extra)
    match = _VALUE.search(last) if _ONLY_A_NUMBER.fullmatch(last) else _concluded(whole)
    if match is not None and last not in golds and (values := _values(match)):
        return Final("number", values[0], values[1:], shown=match[0].strip())
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


def _decides(answer: str, read: Sequence[Part]) -> bool:
    """Whether an answer that opens with yes or no comes to that, and is not only polite: ``Yes, here is a plan: …``."""
    questions = [sentence for part in read for sentence in _sentences(part.text) if "?" in sentence]
    if not questions or _ASKS_FOR_MORE.search(questions[-1]):
        return False
    return len(_sentences(answer)) <= 2 or any(part.kind == "context" for part in read)


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
    """The number that concludes a text, else the last one of the text. One that is denied or taken back is none."""
    found = _concluded(text) or next((m for m in reversed(list(_VALUE.finditer(text))) if not _is_denied(m)), None)
    for mark in _SECOND_THOUGHT.finditer(text, found.end() if found else 0) if found else ():
        other = _VALUE.search(text, mark.end())
        if other and not re.search(r"[.!?]\s|\n", text[mark.end() : other.start()]) and not _is_denied(other):
            found = other
    return found


def _concluded(text: str) -> re.Match[str] | None:
    """The number behind the last of the most certain marks that have one, None where there is none."""
    for match in reversed(list(_HASHES.finditer(text))):
        return _VALUE.search(text, match.end())
    low, high = _box(text)
    if number := _VALUE.search(text, low, high):
        return number
    for match in reversed(list(_THE_ANSWER.finditer(text))):
        high = match.end() + len(_sentences(text[match.end() :])[0])
        low = max(match.end(), text.rfind("=", match.end(), high) + 1)
        if number := next((m for m in _VALUE.finditer(text, low, high) if not _is_denied(m)), None):
            return number
    return None


def _is_denied(number: re.Match[str]) -> bool:
    return _DENIES.search(number.string[max(number.start() - 60, 0) : number.start()]) is not None


def _is_one_of_several(number: re.Match[str]) -> bool:
    """Whether a number is given with another to choose from: ``5 or 6``, ``5-6``."""
    before = number.string[max(number.start() - 60, 0) : number.start()]
    return bool(_OR_THIS.search(before) or _OR_THAT.match(number.string, number.end()))


def _box(text: str) -> tuple[int, int]:
    """From where to where the last ``\\boxed{…}`` of a text goes inside, (0, 0) where there is none."""
    match = next(reversed(list(_BOXED.finditer(text))), None)
    if match is None:
        return 0, 0
    depth, end = 1, match.end()
    while end < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return match.end(), end - 1


def _boxed(text: str) -> str:
    """What the last ``\\boxed{…}`` of a text holds, "" where there is none."""
    low, high = _box(text)
    held = text[low:high].strip()
    return words[1].strip() if (words := _WORDS.fullmatch(held)) else held


def _values(match: re.Match[str]) -> tuple[str, ...]:
    """The values of a match of ``_VALUE``: one, and of a percentage also the number before the sign. None of x/0."""
    over, under = match["top"] or match["over"], match["bottom"] or match["under"]
    if mixed := match["mixed"]:
        value = _fraction(mixed[:-1].strip() or "0") + Fraction(unicodedata.numeric(mixed[-1])).limit_denominator(10)
    else:
        value = _fraction(match["plain"] or over)
    if under is not None:
        if not (below := _fraction(under)):
            return ()
        value = value / below + _fraction(match["whole"] or "0")
    if match["scale"]:
        value *= 10 ** _SCALES[match["scale"].casefold()]
    before = match.string[: match.start()]
    if match["sign"] or (_MINUS.search(before) and (before.strip() not in "-−" or "\n" not in match.string)):
        value = -value
    return (str(value / 100), str(value)) if match["percent"] else (str(value),)


def _fraction(digits: str) -> Fraction:
    return Fraction("".join(digits.replace(",", "").replace("−", "-").split()))


def _key(digits: str) -> str:
    return str(_fraction(digits))


def _decision(sentence: str) -> str | None:
    found = [m[1] for m in _DECIDES.finditer(sentence) if not _DENIES.search(sentence[: m.start(1)])]
    return str(found[-1]).casefold() if found else None


def _choice(text: str, labels: Sequence[str], strictly: bool = True) -> str | None:
    """The label that a text names most clearly, the last of equals; ``strictly``: none that it asks about, denies or leaves
    open."""
    sentences = [sentence for sentence in _sentences(text) if not (strictly and sentence.endswith("?"))]
    for pattern in _NAMED_OPTION:
        for sentence in reversed(sentences):
            named = [
                str(match[number])
                for match in pattern.finditer(sentence)
                for number in [next(n for n, group in enumerate(match.groups(), 1) if group)]
                if match[number] in labels and not (strictly and _is_left_open(sentence, *match.span(number)))
            ]
            if named:
                return named[-1]
    return None


def _is_left_open(sentence: str, low: int, high: int) -> bool:
    """Whether the option that is named there is denied, or one of several."""
    return bool(
        _DENIES.search(sentence[:low]) or _WRONG.match(sentence, high) or _OR_OPTION.match(sentence, high)
        or _OPTION_OR.search(sentence[:low])
    )  # fmt: skip


def _stands_in(span: str, text: str, strictly: bool = True) -> bool:
    """Whether a text says a span somewhere, a number as any equal one; ``strictly``: and does not deny it there or leave it
    open."""
    if _ONLY_A_NUMBER.fullmatch(span) and (number := _VALUE.search(span)) and (values := set(_values(number))):
        found = (m for m in _VALUE.finditer(text) if not (strictly and (_is_denied(m) or _is_one_of_several(m))))
        return any(values & set(_values(m)) for m in found)
    if _FORMULA.search(span):
        return _stands_verbatim(span, text)
    words = fold(span).split()
    if not words or any(unicodedata.category(character) == "Lo" for character in span):
        places = _around(span.casefold(), text.casefold())
        return any(not (strictly and _is_turned_down_there(*around)) for around in places)
    said = fold(text).split()
    return any(
        said[at : at + len(words)] == words and not (strictly and _is_turned_down(said[:at], said[at + len(words) :]))
        for at in range(len(said) - len(words) + 1)
    )


def _around(span: str, text: str) -> Iterator[tuple[str, str]]:
    """What stands before and behind each place of a span in a text."""
    at = text.find(span)
    while at >= 0:
        yield text[:at], text[at + len(span) :]
        at = text.find(span, at + 1)


def _is_turned_down_there(before: str, behind: str) -> bool:
    """:func:`_is_turned_down` in scripts whose letters have no case."""
    denied = _DENIES_BEFORE.search(before) or _DENIES_BEHIND.match(behind)
    return bool(denied or _OR_BEFORE.search(before) or _OR_BEHIND.match(behind))


def _is_turned_down(before: Sequence[str], behind: Sequence[str]) -> bool:
    """Whether what stands between these words is denied (``not Paris``, ``Paris was not``) or one of several."""
    if "or" in (*before[-1:], *behind[:1]) or list(before[-2:]) in (["rather", "than"], ["instead", "of"]):
        return True
    follows = behind[1:2] if behind and behind[0] in _VERBS else behind[:1]
    return any(word in _NOT or word.endswith(("n't", "n’t")) for word in (*before[-2:], *follows))


def _stands_verbatim(formula: str, text: str) -> bool:
    """Whether a formula stands in a text, spaces apart, as no part of a longer one."""
    parts = r"\s*".join(re.escape(character) for character in "".join(formula.split()))
    return re.search(rf"(?<![\w^+\-−*/=\\])(?<![+\-−*/=]\s){parts}(?![\w^]|\s*[+*/=−]|\s*-\s*[\w\\])", text) is not None
