"""Think tags in assistant text: cut into thinking and text parts that rebuild it to the character."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pipeline.conversation import Part


def text_parts(text: str) -> tuple[Part, ...]:
    """The whole text as one part; an empty text is no part."""
    return (Part("text", text),) if text else ()


@dataclass(frozen=True, slots=True)
class _Tags:
    """One family of tags: around the thought, and around the answer that may follow it."""

    opening: str
    closing: str
    answer_opening: str
    answer_closing: str
    #: An opening tag with the white space around it where it stands, or at the start of a line.
    here: re.Pattern[str]
    at_line_start: re.Pattern[str]
    #: The closing tag at the end of its line, or with the answer's tag behind it.
    closing_at_line_end: re.Pattern[str]
    answer_at_line_start: re.Pattern[str]


def _tags(opening: str, closing: str, answer_opening: str, answer_closing: str) -> _Tags:
    tag, answer = re.escape(opening), re.escape(answer_opening)
    return _Tags(
        opening,
        closing,
        answer_opening,
        answer_closing,
        here=re.compile(rf"\s*{tag}\s*"),
        at_line_start=re.compile(rf"^[ \t]*{tag}\s*", re.MULTILINE),
        closing_at_line_end=re.compile(rf"{re.escape(closing)}[ \t]*(?:[\r\n]|\Z|{answer})"),
        answer_at_line_start=re.compile(rf"^[ \t]*{answer}", re.MULTILINE),
    )


_FAMILIES = (
    _tags("<think>", "</think>", "<answer>", "</answer>"),
    _tags("<thinking>", "</thinking>", "<answer>", "</answer>"),
    _tags("<Thought>", "</Thought>", "<Output>", "</Output>"),
    _tags("<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>"),
)
_SPACE = re.compile(r"\s*")


def has_thinking(text: str) -> bool:
    """Whether ``split_thinking`` finds a thought in the text."""
    return _first_thought(text) is not None


def split_thinking(text: str) -> tuple[Part, ...]:
    """Cuts assistant text at its think tags into thinking and text parts; joined, the parts rebuild the text.

    A thought opens the text (only white space before its tag), or the text lacks the opening tag and a closing tag ends
    a line. Each thought ends at the first closing tag, or, without one, where the answer's tag starts a line; the
    answer's tags count right behind a thought; further thoughts are of the same family, right behind a tag or at the
    start of a line. Any other tag is text. A tag that is opened and never closed leaves its part ``interrupted``. White
    space beside a tag belongs to the delimiter, and so do tags with nothing between them. Time is linear in the text.
    """
    found = _first_thought(text)
    if found is None:
        return text_parts(text)
    tags, start = found
    parts: list[Part] = []
    before = text[:start]
    last_closing = text.rfind(tags.closing)
    while True:
        part, position = _thought(text, tags, start, before, last_closing)
        parts.append(part)
        if text.startswith(tags.answer_opening, position):
            part, position = _answer(text, tags, position)
            parts.append(part)
        again = tags.here.match(text, position) or tags.at_line_start.search(text, position)
        if again is None:
            parts.append(Part("text", text[position:]))
            return _fold_empty(parts)
        said = text[position : again.start()].rstrip()
        parts.append(Part("text", said))
        before, start = text[position + len(said) : again.end()], again.end()


def _first_thought(text: str) -> tuple[_Tags, int] | None:
    """The family of the thought that opens the text, and where the thought starts."""
    for tags in _FAMILIES:
        if match := tags.here.match(text):
            return tags, match.end()
    for tags in _FAMILIES:
        closing = text.find(tags.closing)
        if closing >= 0 and tags.closing_at_line_end.match(text, closing) and tags.opening not in text[:closing]:
            return tags, 0
    return None


def _thought(text: str, tags: _Tags, start: int, before: str, last_closing: int) -> tuple[Part, int]:
    """The thought that starts at ``start``, and the offset behind it and its delimiters."""
    if start <= last_closing:
        end = text.index(tags.closing, start)
        resume = _skip_space(text, end + len(tags.closing))
    elif answer := tags.answer_at_line_start.search(text, start):
        end = answer.start()
        resume = answer.end() - len(tags.answer_opening)
    else:
        return Part("thinking", text[start:], before=before, interrupted=True), len(text)
    thought = text[start:end].rstrip()
    return Part("thinking", thought, before=before, after=text[start + len(thought) : resume]), resume


def _answer(text: str, tags: _Tags, position: int) -> tuple[Part, int]:
    """The tagged answer whose tag stands at ``position``, and the offset behind it and its delimiters."""
    start = _skip_space(text, position + len(tags.answer_opening))
    before = text[position:start]
    end = text.find(tags.answer_closing, start)
    if end < 0:
        return Part("text", text[start:], before=before, interrupted=True), len(text)
    resume = _skip_space(text, end + len(tags.answer_closing))
    answer = text[start:end].rstrip()
    return Part("text", answer, before=before, after=text[start + len(answer) : resume]), resume


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _fold_empty(parts: list[Part]) -> tuple[Part, ...]:
    """Leaves out parts without text; their delimiters go to the next part, at the end to the one before."""
    kept: list[Part] = []
    carried = ""
    for part in parts:
        if part.text or part.interrupted:
            kept.append(replace(part, before=carried + part.before) if carried else part)
            carried = ""
        else:
            carried += part.rebuild()
    if carried and kept:
        kept[-1] = replace(kept[-1], after=kept[-1].after + carried)
    elif carried:
        kept.append(Part("text", before=carried))
    return tuple(kept)
