"""What the formats that are streams already share: pieces of a stream joined to one text, and cells in time to utterances."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import regex

from pipeline.script import Utterance

#: Scripts that are written without spaces, and their punctuation.
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\u3000-\u303f\uff00-\uffef]"
)


def join_pieces(pieces: Sequence[str]) -> tuple[str, tuple[int, ...], str]:
    """The text that pieces said one after the other make, where each ends in it, and what was put between them ("" or " ").

    One space, but nothing beside white space that a piece brings along, or beside a character of a script that is
    written without spaces. No piece is empty.
    """
    text = pieces[0]
    ends = [len(text)]
    parts = [text]
    added = ""
    for before, piece in pairwise(pieces):
        if _needs_space(before[-1]) and _needs_space(piece[0]):
            added = " "
            parts.append(added)
            ends.append(ends[-1] + 1 + len(piece))
        else:
            ends.append(ends[-1] + len(piece))
        parts.append(piece)
    return "".join(parts), tuple(ends), added


def _needs_space(character: str) -> bool:
    return not character.isspace() and _UNSPACED.match(character) is None


def utterances(
    cells: Iterable[tuple[int, int, str]], thinking: frozenset[int] = frozenset()
) -> tuple[tuple[Utterance, ...], str]:
    """What streams say in cells of one tick each, and what was put between cells ("" or " ").

    ``cells`` are (stream, tick, text), by tick on every stream. Cells of consecutive ticks are one utterance; an empty
    text is silence. What the streams ``thinking`` say are thoughts.
    """
    runs: list[tuple[int, list[int], list[str]]] = []
    open_run: dict[int, tuple[int, list[int], list[str]]] = {}
    for stream, tick, text in cells:
        if not text:
            continue
        run = open_run.get(stream)
        if run is None or run[1][-1] + 1 != tick:
            run = open_run[stream] = (stream, [], [])
            runs.append(run)
        run[1].append(tick)
        run[2].append(text)
    runs.sort(key=lambda run: (run[1][0], run[0]))
    said = []
    between = ""
    for stream, ticks, pieces in runs:
        text, ends, added = join_pieces(pieces)
        between = between or added
        stops = tuple(tick + 1 for tick in ticks)
        said.append(Utterance(stream, text, ends, tuple(ticks), stops, added=added, thinking=stream in thinking))
    return tuple(said), between


def noted(extra: dict[str, Any], **notes: Any) -> dict[str, Any]:
    """``extra`` with those notes that say something; a name that the source uses gets an underscore."""
    out = dict(extra)
    for name, value in notes.items():
        if value:
            key = name
            while key in extra:
                key += "_"
            out[key] = value
    return out
