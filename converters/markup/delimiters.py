"""Parts and the delimiters around them: cut out between marks, put around others, left over where nothing is said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pipeline.conversation import Part, PartKind


def part_between(
    text: str, start: int, inner_start: int, inner_end: int, end: int, kind: PartKind, name: str | None = None
) -> Part:
    """The part that rebuilds ``text[start:end]`` and says what stands inside its marks, white space beside them left out."""
    inside = text[inner_start:inner_end]
    said = inside.strip()
    at = inner_start + (len(inside) - len(inside.lstrip()) if said else len(inside))
    return Part(kind, said, name=name, before=text[start:at], after=text[at + len(said) : end])


def surround(parts: tuple[Part, ...], before: str, after: str) -> tuple[Part, ...]:
    """The parts, at least one, with more delimiters before the first and behind the last of them."""
    if before:
        parts = (_extended(parts[0], before, ""), *parts[1:])
    if after:
        parts = (*parts[:-1], _extended(parts[-1], "", after))
    return parts


def _extended(part: Part, before: str, after: str) -> Part:
    if part.source is not None:
        return replace(part, source=before + part.source + after)
    return replace(part, before=before + part.before, after=part.after + after)


def fold_empty(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Leaves out texts and thoughts that say nothing; their delimiters go to the next part, at the end to the one before.

    Without any other part, an empty text part holds them. What was cut off before it said anything stays.
    """
    kept: list[Part] = []
    carried = ""
    for part in parts:
        if part.text or part.interrupted or part.kind not in ("text", "thinking"):
            kept.extend(surround((part,), carried, ""))
            carried = ""
        else:
            carried += part.rebuild()
    if not carried:
        return tuple(kept)
    return (*kept[:-1], *surround((kept[-1],), "", carried)) if kept else (Part("text", before=carried),)
