"""What a piece of text mentions: numbers, names, identifiers, quoted words, and its other content words.

Shared by the ``evidence`` and ``thinking`` policies (may this be said yet?) and by the lexical leak detector (was it said
too early?). Matching is on case-folded keys; ``1,234`` and ``1234.0`` are one number; a compound (``2024-05-20``,
``get_user``) is known if it was seen whole or all its pieces were. Runs of Han, Kana and Hangul are read as bigrams.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(
    rf"(?P<cjk>[{_CJK}]+)"
    rf"|(?P<number>\d+(?:,\d{{3}})*(?:\.\d+)?(?![^\W_{_CJK}]|[_@./:\-][^\W{_CJK}]))"
    rf"|(?P<word>[^\W{_CJK}]+(?:['’@./:\-][^\W_{_CJK}][^\W{_CJK}]*)*)"
)
_PIECES = re.compile(r"[^\W\d_]+|\d+(?:\.\d+)?")
_LIST_MARK = re.compile(r"(?:^|\n)[ \t>*-]*\(?\d{1,2}[.):](?=\s|$)")
_QUOTED = re.compile(r"\"([^\"\n]{2,80})\"|“([^”\n]{2,80})”|`([^`\n]{2,80})`|「([^」\n]{2,80})」|«([^»\n]{2,80})»")
_SENTENCE_START = re.compile(r"(?:^|[.!?:\n。！？]|[-*•]\s)[\s\"'“(*_#>]*$")

_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nor|neither|without|cannot|false|null|unable)\b|n['’]t\b|[不没無无]", re.IGNORECASE
)

#: English words that say nothing of their own.
_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but by
can could did do does doing down during each either few for from further get had has have having he her here hers him
his how however i if in into is it its itself just let ll me might more most must my no nor not now of off on once one
only or other our ours out over own per please re s same she should so some such t than that the their theirs them then
there therefore these they this those through thus to too under until up upon us ve very was we were what when where
which while who whom why will with would yes you your yours
"""
_STOP = frozenset(_STOP_WORDS.split())


@dataclass(frozen=True, slots=True)
class Mentions:
    """``required``: keys of numbers, names, identifiers and quoted words; ``content``: every content word, required ones
    among them. Each in order of appearance, without repeats."""

    required: tuple[str, ...]
    content: tuple[str, ...]


def number_key(text: str) -> str:
    """One form for one number: no thousands separators, no trailing zeros of a fraction."""
    text = text.replace(",", "")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.lstrip("0") or "0"


@lru_cache(maxsize=512)
def known(text: str) -> frozenset[str]:
    """Every key that reading ``text`` makes known."""
    keys: set[str] = set()
    for match in _TOKEN.finditer(text):
        word = match.group()
        if match.lastgroup == "number":
            keys.add(number_key(word))
            keys.update(number_key(piece) for piece in word.split(",") if piece)
        elif match.lastgroup == "cjk":
            keys.update(_bigrams(word))
        else:
            keys.add(word.casefold())
            keys.update(pieces(word))
    return frozenset(keys)


def is_known(key: str, keys: Set[str]) -> bool:
    """Whether a key, or all pieces of a compound key, are among the known."""
    if key in keys:
        return True
    parts = pieces(key)
    if len(parts) > 1:
        return all(part in keys for part in parts)
    return (key.endswith("s") and key[:-1] in keys) or key + "s" in keys


@lru_cache(maxsize=512)
def mentions(text: str) -> Mentions:
    """The mentions of ``text``. Numbers that only count the items of a list are none."""
    marks = {match.end() for match in _LIST_MARK.finditer(text)}
    quoted = [match.span() for match in _QUOTED.finditer(text)]
    required: dict[str, None] = {}
    content: dict[str, None] = {}
    for match in _TOKEN.finditer(text):
        word = match.group()
        if match.lastgroup == "number":
            if match.end() + 1 in marks:
                continue
            key = number_key(word)
            required[key] = content[key] = None
        elif match.lastgroup == "cjk":
            content.update(dict.fromkeys(_bigrams(word)))
        else:
            key = word.casefold()
            if key in _STOP:
                continue
            content[key] = None
            start = match.start()
            if (
                _is_identifier(word)
                or (word[0].isupper() and not _SENTENCE_START.search(text, max(0, start - 8), start))
                or any(low <= start < high for low, high in quoted)
            ):
                required[key] = None
    return Mentions(tuple(required), tuple(content))


@lru_cache(maxsize=512)
def ngrams(text: str, n: int = 5, cjk: int = 8) -> frozenset[str]:
    """Case-folded word n-grams with at least three content words, and character n-grams of Han, Kana and Hangul runs."""
    grams: set[str] = set()
    words: list[str] = []
    for match in _TOKEN.finditer(text):
        word = match.group()
        if match.lastgroup == "cjk":
            grams.update(word[i : i + cjk] for i in range(len(word) - cjk + 1))
        words.append(word.casefold())
    for i in range(len(words) - n + 1):
        gram = words[i : i + n]
        if sum(word not in _STOP for word in gram) >= 3:
            grams.add(" ".join(gram))
    return frozenset(grams)


def denies(text: str) -> bool:
    """Whether the text holds a negation (English, and the commonest of Chinese and Japanese)."""
    return _NEGATION.search(text) is not None


def _bigrams(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


@lru_cache(maxsize=65536)
def pieces(word: str) -> tuple[str, ...]:
    """The words and numbers that a compound key is made of."""
    return tuple(number_key(p) if p[0].isdigit() else p for p in _PIECES.findall(word.casefold()))


def _is_identifier(word: str) -> bool:
    return (
        "_" in word
        or "@" in word
        or any(c.isdigit() for c in word)
        or (len(word) > 1 and word.isupper())
        or any(a.islower() and b.isupper() for a, b in pairwise(word))
    )
