"""What patterns are read from: runs of speech, calls with their results, and what words say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import regex

from synth.scenes import Scene, Utterance

_WORD = regex.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")
#: A word of fewer letters is none that shows what something is about.
_MIN_LETTERS = 4
_COMMON_WORDS = """
about after again also another around because been before being both cannot come comes could does doing done down each
even every first from gets give gives goes going good have having here into just keep keeps know last like long look make
makes many more most much must need needs next nine once only other over please right same says seven should some still
such sure take takes than thank thanks that their them then there these they thing things this those three time today
tomorrow tonight under until very want wants well went were what when where which while will with would your yours

"""
_COMMON = frozenset(_COMMON_WORDS.split())
#: Words of fewer letters that never show what something is about.
_SMALL_WORDS = """
a all an and any are as at be been but by can did do for from get got had has have he her here his how i if in is it its let me
my no not now of oh on or our out own see she so than the them then this to too us was way we who why will yes yet you
"""
_SMALL = frozenset(_SMALL_WORDS.split())
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
#: ``one`` alone is seldom a number, so only twenty-one and its like are read.
_SPELLED = {word: number for number, word in enumerate(_UNITS.split())} | {
    word: 10 * number for number, word in enumerate(_TENS.split(), 2)
}
#: Short words that are a whole result.
_ANSWERS = frozenset(["yes", "no", "on", "off"])
#: Words of a result in which they are looked for.
_SHORT_ANSWER = 3
_CORRECTED = regex.compile(
    r"\b(?:correction|corrected|correcting|sorry(?! to (?:hear|keep|bother|interrupt)|,? for (?:waiting|keeping)|"
    r" (?:for|about) (?:the|this|that|my|our) (?:long )?(?:wait|delay|pause|interruption))|i mean|i meant|"
    r"(?<!would |'d |’d )rather|instead(?![^.!?]*[?])|my mistake|scratch that|make that|changed|"
    r"changing|not \w+ but|so it is|then it is|in that case|you are right|fixed|redo|redone|i misspoke)\b"
)


@dataclass(frozen=True, slots=True)
class Run:
    """What a stream says in slices that follow one another, from slice ``start`` to slice ``end``, both included."""

    stream: int
    start: int
    end: int
    said: tuple[Utterance, ...]

    @property
    def text(self) -> str:
        """The pieces, joined by one space."""
        return " ".join(u.text for u in self.said)

    @property
    def broken_off(self) -> bool:
        """Whether it ends before its sentence does."""
        return self.said[-1].cut or self.said[-1].text.rstrip("\"'”’)")[-1:] not in tuple(".!?。！？")


@dataclass(frozen=True, slots=True)
class Called:
    """A call and, if it came, its result."""

    call: Utterance
    result: Utterance


def said_by(scene: Scene, *roles: str) -> list[Utterance]:
    """What the streams of these roles say, by slice."""
    streams = scene.of_role(*roles)
    return [u for u in scene.utterances if u.stream in streams]


def runs(scene: Scene, *roles: str) -> list[Run]:
    """The runs of the streams of these roles, by start. What was cut ends a run."""
    found: list[list[Utterance]] = []
    for stream in scene.of_role(*roles):
        before: Utterance | None = None
        for one in scene.said(stream):
            if before is None or before.cut or before.slice != one.slice - 1:
                found.append([])
            found[-1].append(one)
            before = one
    made = [Run(said[0].stream, said[0].slice, said[-1].slice, tuple(said)) for said in found]
    return sorted(made, key=lambda run: (run.start, run.stream))


def answered_calls(scene: Scene) -> list[Called]:
    """The calls that got a result, in the order of the calls."""
    results = {u.call: u for u in scene.utterances if u.kind == "tool_result"}
    return [Called(u, results[u.call]) for u in scene.utterances if u.kind == "tool_call" and u.call in results]


def speaks_after(scene: Scene, slice_: int, *roles: str) -> bool:
    """Whether a stream of these roles says something in a later slice."""
    return any(u.slice > slice_ for u in said_by(scene, *roles))


def words(text: str) -> list[str]:
    """Words and numbers, case-folded; ``1,200`` is 1200."""
    found = _WORD.findall(text.casefold())
    return [word.replace(",", "").rstrip(".") if word[0].isdigit() else word for word in found]


def mentions(text: str) -> set[str]:
    """What a text is about: its numbers, and its words of four letters or more without the commonest."""
    return {
        word.removesuffix("s")
        for word in _numbers_read(words(text))
        if word[0].isdigit() or (_long(word) and word not in _COMMON)
    }


def details(text: str) -> set[str]:
    """``mentions``, and shorter words that are not the smallest: ``pay``, ``Bob``."""
    short = {
        word.removesuffix("s") for word in words(text) if len(word) >= 2 and not _long(word) and word not in _SMALL
    }
    return mentions(text) | short


def _numbers_read(said: Sequence[str]) -> list[str]:
    """Words with numbers up to ninety-nine in digits."""
    read: list[str] = []
    tens = False
    for word in said:
        number = _SPELLED.get(word)
        if tens and number is not None and 0 < number < 10:
            read[-1] = str(int(read[-1]) + number)
        else:
            read.append(word if number is None or word == "one" else str(number))
        tens = number is not None and number >= 20
    return read


def _long(word: str) -> bool:
    return len(word) >= _MIN_LETTERS or not word.isascii()


def corrects(text: str) -> bool:
    """Whether a speaker says that he takes something back."""
    return bool(_CORRECTED.search(text.casefold()))


def told_again(result: Utterance, said: Sequence[Utterance]) -> bool:
    """Whether one of these, after the result has come, mentions something that stands in it."""
    answer = _ANSWERS.intersection(words(result.text)) if len(words(result.text)) <= _SHORT_ANSWER else set()
    facts = mentions(result.text)
    short = (details(result.text) if not facts else set()) | answer
    return any(
        u.slice > result.slice and (facts & mentions(u.text) or short & (details(u.text) | set(words(u.text))))
        for u in said
    )
