"""Where text may be cut. Every function returns end offsets in characters, ascending, the last one ``len(text)``.

Cuts lie before white space and on grapheme boundaries; pieces are slices of the text, so they always join to it again.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import numpy.typing as npt
import regex

ChunkUnit = Literal["sentence", "paragraph"]

#: A sentence longer than this is cut at its clauses too (JSON text has no sentences).
LONG_SENTENCE = 160

# White space is matched from where it begins, so that long runs of it take linear time.
_NEWLINES = re.compile(r"(?<!\s)\s*\n")
_PARAGRAPHS = re.compile(r"(?<!\s)\s*\n\s*\n")
_CLAUSE = re.compile(r"[,;:](?=\s)|[，；：、]|\}(?=,)")
_GRAPHEME = regex.compile(r"\X")


def cut(text: str, unit: ChunkUnit) -> list[int]:
    """End offsets of the sentences (lines, and clauses of long sentences) or paragraphs of ``text``."""
    ends = _paragraph_ends(text) if unit == "paragraph" else _sentence_ends(text)
    ends.discard(0)
    ends.add(len(text))
    return sorted(end for end in ends if end == len(text) or is_grapheme_boundary(text, end))


def _paragraph_ends(text: str) -> set[int]:
    return {match.start() for match in _PARAGRAPHS.finditer(text)}


def _sentence_ends(text: str) -> set[int]:
    from sentencex import get_sentence_boundaries

    ends = {match.start() for match in _NEWLINES.finditer(text)}
    floor = 0
    for boundary in get_sentence_boundaries("en", text):
        end = boundary["end_index"]
        while end > floor and text[end - 1].isspace():
            end -= 1
        if end > floor:
            ends.add(end)
        floor = boundary["end_index"]
    start = 0
    for end in sorted(ends | {len(text)}):
        if end - start > LONG_SENTENCE:
            ends.update(match.end() for match in _CLAUSE.finditer(text, start, end))
        start = end
    return ends


def cut_tokens(text: str, token_ends: npt.NDArray[np.int64], size: int) -> list[tuple[int, int]]:
    """Cuts a long text into pieces of at most ``size`` tokens, each at its last line or word: end offsets, and tokens.

    ``token_ends[j]``: the bytes (UTF-8) that tokens up to and with ``j`` cover.
    """
    data = text.encode()
    pieces: list[tuple[int, int]] = []
    start = done = low = 0
    size = max(size, 1)
    while len(token_ends) - done > size:
        end = start + max(len(data[low : int(token_ends[done + size - 1])].decode(errors="ignore")), 1)
        for mark in ("\n", " "):
            if (found := text.rfind(mark, start + (end - start) // 2, end)) > start:
                end = found
                break
        while end < len(text) and not is_grapheme_boundary(text, end):
            end += 1
        low += len(text[start:end].encode())
        upto = int(np.searchsorted(token_ends, low, side="left")) + 1
        pieces.append((end, upto - done))
        start, done = end, upto
    return [*pieces, (len(text), len(token_ends) - done)] if start < len(text) else pieces


def is_grapheme_boundary(text: str, offset: int) -> bool:
    """Whether ``offset`` splits no user-perceived character (UAX #29)."""
    if not 0 < offset < len(text):
        return True
    before, after = text[offset - 1], text[offset]
    if after < "\u0300" and before < "\u0300":
        return not (before == "\r" and after == "\n")
    if after in "\r\n":
        return True
    start = max(0, offset - 16)
    return any(match.start() == offset for match in _GRAPHEME.finditer(text, start, min(len(text), offset + 2)))
