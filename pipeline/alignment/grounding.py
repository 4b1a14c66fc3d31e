"""Grounding: how much of an ordered reading must have passed before a text may be said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set

from pipeline.mentions import denies, is_known, known, mentions, ngrams, pieces

#: Characters of the piece before that n-grams reach back into.
_TAIL = 80


class Reading:
    """Pieces of text in the order they are read, counted from 1, with where every key and n-gram stands."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._denies = [denies(text) for text in texts]
        self._keys: dict[str, list[int]] = defaultdict(list)
        self._grams: dict[str, int] = {}
        for place, text in enumerate(texts, 1):
            for key in known(text):
                self._keys[key].append(place)
            # A run of words may begin in the piece before.
            for gram in ngrams((texts[place - 2][-_TAIL:] if place > 1 else "") + text):
                self._grams.setdefault(gram, place)
        self._size = len(texts)

    def _places(self, key: str) -> Set[int]:
        """The pieces that make a key known, by the rules of ``mentions.is_known``."""
        places = set(self._keys.get(key, ()))
        parts = pieces(key)
        if len(parts) > 1:
            places |= set.intersection(*(set(self._keys.get(part, ())) for part in parts))
        else:
            places |= {*self._keys.get(key + "s", ())} | (
                {*self._keys.get(key[:-1], ())} if key.endswith("s") else set()
            )
        return places

    def needed_for(self, text: str, before: Sequence[Set[str]], min_coverage: float) -> int | None:
        """How many pieces must have ended before ``text`` may start, at least 1; None for all of them.

        ``before``: known keys of what was read or said earlier. All mentions must be found, and at least ``min_coverage``
        (0 to 1) of the content words; at least one must come from the reading, else the text says nothing that the
        reading grounds. The text also waits for the piece that it resembles most, the last of equals, and for every run
        of words copied from the reading: a word may occur long before the statement that the text rests on. What it
        denies must be denied there.
        """
        found = mentions(text)
        required = frozenset(found.required)
        matches = [0] * (self._size + 1)
        needed = covered = 0
        for key in found.content:
            places = self._places(key)
            for place in places:
                matches[place] += 1
            if any(is_known(key, keys) for keys in before):
                covered += 1
            elif places:
                covered += 1
                needed = max(needed, min(places))
            elif key in required:
                return None
        if needed == 0 or covered < min_coverage * len(found.content):
            return None
        most = max(matches)
        needed = max(needed, max(place for place, count in enumerate(matches) if count == most))
        if denies(text) and not any(self._denies[:needed]):
            return None
        return max([needed, *(self._grams.get(gram, 0) for gram in ngrams(text))])
