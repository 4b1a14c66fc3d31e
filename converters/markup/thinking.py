"""Think tags in assistant text: cut into thinking and text parts that rebuild it to the character."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from converters.markup.delimiters import fold_empty
from pipeline.conversation import Part

#: Stands in for each character of what is cut out of a text in another way, before think tags are looked for.
HOLE = "\ufdd0"


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
    #: An opening tag with the white space around it where it stands, or at the start of a line or behind a hole.
    here: re.Pattern[str]
    at_line_start: re.Pattern[str]
    #: The closing tag at the end of its line, or with the answer's tag behind it.
    closing_at_line_end: re.Pattern[str]
    answer_at_line_start: re.Pattern[str]
    answer_behind_hole: re.Pattern[str]


def _tags(opening: str, closing: str, answer_opening: str, answer_closing: str) -> _Tags:
    tag, answer = re.escape(opening), re.escape(answer_opening)
    return _Tags(
        opening,
        closing,
        answer_opening,
        answer_closing,
        here=re.compile(rf"\s*{tag}\s*"),
        at_line_start=re.compile(rf"(?:^|(?<={HOLE}))[ \t]*{tag}\s*", re.MULTILINE),
        closing_at_line_end=re.compile(rf"{re.escape(closing)}[ \t]*(?:[\r\n]|\Z|{answer})"),
        answer_at_line_start=re.compile(rf"^[ \t]*{answer}", re.MULTILINE),
        answer_behind_hole=re.compile(rf"(?<={HOLE})\s*{answer}"),
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
    return text_parts(text) if found is None else _split(text, *found)


def split_around_holes(text: str) -> tuple[Part, ...]:
    """``split_thinking`` for a text with calls and results cut out, a ``HOLE`` for each of their characters.

    Right behind a hole counts as the start of a line, also for the answer's tags, and a thought need not open the text.
    No hole is in a delimiter.
    """
    found = _first_thought(text)
    if found is not None:
        return _split(text, *found)
    for tags in _FAMILIES:
        if tags.at_line_start.search(text) or tags.answer_behind_hole.search(text):
            return _split(text, tags, None)
    return text_parts(text)


def _split(text: str, tags: _Tags, start: int | None) -> tuple[Part, ...]:
    """The parts of a text whose first thought starts at ``start``; None: further on, if there is one."""
    parts: list[Part] = []
    before, position = text[: start or 0], 0
    last_opening, last_closing = text.rfind(tags.opening), text.rfind(tags.closing)
    opening = tags.at_line_start.search(text, start or 0) if (start or 0) <= last_opening else None
    answer = tags.answer_behind_hole.search(text, start or 0) if HOLE in text else None
    while True:
        if start is not None:
            part, position = _thought(text, tags, start, before, last_closing)
            parts.append(part)
            if text.startswith(tags.answer_opening, position):
                part, position = _answer(text, tags, position)
                parts.append(part)
        if opening is not None and opening.start() < position:
            opening = tags.at_line_start.search(text, position) if position <= last_opening else None
        if answer is not None and answer.start() < position:
            answer = tags.answer_behind_hole.search(text, position)
        again = tags.here.match(text, position) or opening
        end = min((found.start() for found in (again, answer) if found is not None), default=len(text))
        said = text[position:end].rstrip() if again or answer else text[position:]
        parts.append(Part("text", said))
        position += len(said)
        if answer is not None and answer.start() == end:
            parts.append(Part("text", before=text[position:end]))
            part, position = _answer(text, tags, answer.end() - len(tags.answer_opening))
            parts.append(replace(part, before=text[end : answer.end() - len(tags.answer_opening)] + part.before))
            start = None
        elif again is not None:
            before, start = text[position : again.end()], again.end()
        else:
            return fold_empty(parts)


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
