"""Scripts that put no spaces between words: their letters, and what stands between two pieces of text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import regex

#: Inside a character class of ``regex``: letters of scripts that put no spaces between words.
UNSPACED = "".join(
    rf"\p{{Script={name}}}" for name in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
)
_FULL_STOPS = "。！？"
#: Marks behind which such a text goes on at once.
_MARKS = "，、；：．…」』）】》"
_HAS_NO_SPACE = regex.compile(rf"[{UNSPACED}ー。！？，、；：．「」『』（）【】《》]")


def _is_unspaced(left: str, right: str) -> bool:
    """Whether nothing stands between two pieces: behind a full stop or between letters of scripts without spaces."""
    return left[-1] in _FULL_STOPS or (
        (left[-1] in _MARKS or _HAS_NO_SPACE.match(left[-1]) is not None) and _HAS_NO_SPACE.match(right) is not None
    )


def spaced(pieces: Sequence[str], between: str = " ") -> list[str]:
    """The pieces, each but the first with what belongs before it: nothing, or ``between``."""
    rest = [piece if _is_unspaced(before, piece) else between + piece for before, piece in pairwise(pieces)]
    return [*pieces[:1], *rest]
