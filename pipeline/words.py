"""What texts mention, as flat arrays over a whole batch: words, numbers, names, identifiers, quoted words, runs of words.

Shared by the policies (may this be said yet?) and by the lexical leak detector (was it said too early?). One regular
expression cuts all texts at once (in Rust); every distinct word is then looked at once, and the rest is arithmetic on its
number. Keys are case-folded and without a plural s; ``1,234`` and ``1234.0`` are one number; a compound (``2024-05-20``,
``get_user``, ``12kg``) is known if it was seen whole or all its pieces were. Han, Kana and Hangul are read as pairs.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from pipeline.arithmetic import true_results

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
HashArray = npt.NDArray[np.uint64]

#: Scripts that write no spaces, for a character class.
CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_LETTER = rf"[\w&&[^{CJK}]]"
#: Words and numbers with what joins them, single characters of scripts without spaces, and the marks that tell how a
#: sentence, a line or a list item begins.
_PATTERN = rf"{_LETTER}+(?:['’@./:,\-]{_LETTER}+)*|[{CJK}]|[.!?:\n)=$€£+<>/。！？，、；：]|[-*•][ \t]"
_CJK_FIRST, _CJK_RANGES = "\u3040", ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7AF))

_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_PIECES = re.compile(r"[^\W\d_]+|\d+(?:,\d{3})*(?:\.\d+)?")
_CONTRACTION = re.compile(r"^([^'’]+)['’](?:s|t|re|ve|ll|d|m)$")
_QUOTED = r"\"[^\"\n]{2,80}\"|“[^”\n]{2,80}”|`[^`\n]{2,80}`|「[^」\n]{2,80}」|«[^»\n]{2,80}»"
_MIXED = re.compile(r"[_@0-9]|[a-z][A-Z]")

_DENIAL_WORDS = "not no never none nor neither without cannot false null unable 不 没 無 无"
_DENIALS = frozenset(_DENIAL_WORDS.split())
#: English words that say nothing of their own.
_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but by
can could did do does doing don down during each either few for from further get had has have having he her here hers him
his how however i if in into is it its itself just let ll me might more most must my no nor not now of off on once one
only or other our ours out over own per please re s same she should so some such t than that the their theirs them then
there therefore these they this those through thus to too under until up upon us ve very was we were what when where
which while who whom why will with would yes you your yours
"""
_STOP = frozenset(_STOP_WORDS.split())
#: First words of a piece that takes back what the piece before it says; words of an author who changes his mind; first words
#: of a judgement.
_CONTRAST_WORDS = "but however although though unless except yet nevertheless 但 却 然"
_CONTRASTS = frozenset(_CONTRAST_WORDS.split())
_CHANGES_OF_MIND = """
wait hmm actually alternatively however mistake instead recheck double-check reconsider correction oops verify
"""
_SECOND_THOUGHTS = frozenset(_CHANGES_OF_MIND.split())
_JUDGEMENTS = "yes no true false correct incorrect right wrong sorry unfortunately 是 否 不 对 错 无"
_VERDICTS = frozenset(_JUDGEMENTS.split())
_OF_EVERYTHING = """
most least worst best total totals altogether overall average combined only all both every everyone everything none
"""
_WHOLES = frozenset(_OF_EVERYTHING.split())
#: Words in -est that compare nothing.
_PLAIN_EST = """
arrest attest behest bequest conquest contest detest digest divest dishonest earnest everest forest harvest honest incest infest
ingest inquest interest invest manifest midwest modest northwest protest request southwest suggest
tempest unrest budapest bucharest
"""
_NO_SUPERLATIVES = frozenset(_PLAIN_EST.split())
_NUMERALS = """
two 2 three 3 four 4 five 5 six 6 seven 7 eight 8 nine 9 ten 10 eleven 11 twelve 12 thirteen 13 fourteen 14 fifteen 15
sixteen 16 seventeen 17 eighteen 18 nineteen 19 twenty 20 thirty 30 forty 40 fifty 50 sixty 60 seventy 70 eighty 80 ninety 90
hundred 100
"""
_SPELT = dict(zip(_NUMERALS.split()[::2], _NUMERALS.split()[1::2], strict=True))

#: Words of a run whose copying counts, from and to, and how many of them must say something; characters of a run in scripts
#: without spaces.
RUN_FROM, RUN_TO, RUN_CONTENT, RUN_CJK = 4, 6, 3, 8
#: A text of so few words, or characters of scripts without spaces, is a run as a whole.
SHORT, SHORT_CJK = 5, 7

# What a surface form is.
_WORD, _SHORT_NUMBER, _CHARACTER, _STARTS, _DOT, _CLOSE, _BULLET, _OTHER = range(8)
_KNOWN_MARKS = {
    ".": _DOT, ":": _DOT, ")": _CLOSE, "\n": _STARTS, "!": _STARTS, "?": _STARTS, "。": _STARTS, "！": _STARTS, "？": _STARTS,
}  # fmt: skip

#: The lexicon forgets what it holds once it holds so many words, so that memory does not grow with the corpus.
_MOST_SURFACES = 400_000


def number_key(text: str) -> str:
    """One form for one number: no thousands separators, no trailing zeros of a fraction."""
    text = text.replace(",", "")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.lstrip("0") or "0"


@lru_cache(maxsize=65536)
def key_of(word: str) -> str:
    """The key of a word or number: what two spellings of it share."""
    if _NUMBER.fullmatch(word):
        return number_key(word)
    folded = word.casefold()
    if match := _CONTRACTION.match(folded):
        folded = match[1]
    if folded in _SPELT:
        return _SPELT[folded]
    return _singular(folded)


def _singular(folded: str) -> str:
    return folded[:-1] if folded[-1:] == "s" and len(folded) > 3 and folded[-2] != "s" else folded


@lru_cache(maxsize=65536)
def pieces_of(word: str) -> tuple[str, ...]:
    """The keys of the words and numbers that a compound is made of; none for what is no compound."""
    if _NUMBER.fullmatch(word) or word.isalpha() or _CONTRACTION.match(word):
        return ()
    found = tuple(dict.fromkeys(key_of(piece) for piece in _PIECES.findall(word)))
    return found if found != (key_of(word),) else ()


def _is_identifier(word: str) -> bool:
    if word.isascii():
        return _MIXED.search(word) is not None or (len(word) > 1 and word.isupper())
    return (
        "_" in word
        or "@" in word
        or any(c.isdigit() for c in word)
        or (len(word) > 1 and word.isupper())
        or any(a.islower() and b.isupper() for a, b in pairwise(word))
    )


_CONTENT, _REQUIRED, _CAPITAL, _DENIES, _CONTRAST, _SECOND_THOUGHT, _VERDICT, _WHOLE = 1, 2, 4, 8, 16, 32, 64, 128
_TOLD_BY = (
    (_DENIALS, _DENIES), (_CONTRASTS, _CONTRAST), (_SECOND_THOUGHTS, _SECOND_THOUGHT), (_VERDICTS, _VERDICT),
    (_WHOLES, _WHOLE),
)  # fmt: skip
#: What words tell by being there, whatever else they are.
_TELLING = {
    word: sum(flag for words, flag in _TOLD_BY if word in words)
    for word in frozenset().union(*(words for words, _ in _TOLD_BY))
}


def _told_by(surface: str, numeric: bool) -> int:
    """The flags of a word that says something of its own."""
    if numeric or _is_identifier(surface):
        return _CONTENT | _REQUIRED
    return _CONTENT | _CAPITAL if surface[0].isupper() else _CONTENT


class _Lexicon:
    """Every surface form that was met, numbered, with what the arithmetic needs to know of it."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.surfaces: dict[str, int] = {}
        self.surface_texts: list[str] = []
        self.keys: dict[str, int] = {}
        self.key_texts: list[str] = []
        self._kind = array("b")
        self._key = array("q")
        self._flags = array("B")
        self._piece_count = array("q")
        self._pieces: dict[int, tuple[int, ...]] = {}
        self._columns: tuple[npt.NDArray[np.int8], IntArray, npt.NDArray[np.uint8], IntArray] | None = None

    def key(self, text: str) -> int:
        number = self.keys.get(text)
        if number is None:
            number = self.keys[text] = len(self.keys)
            self.key_texts.append(text)
        return number

    def numbers(self, surfaces: Iterable[str | None]) -> IntArray:
        """The number of each surface form; new ones are taken in."""
        known = self.surfaces
        found = []
        for surface in surfaces:
            number = known.get(surface)  # type: ignore[arg-type]
            found.append(self._add(surface or "") if number is None else number)
        return np.array(found, dtype=np.int64)

    def _add(self, surface: str) -> int:
        number = self.surfaces[surface] = len(self.surface_texts)
        self.surface_texts.append(surface)
        kind, key, flags = _WORD, -1, _TELLING.get(surface.casefold(), 0)
        if surface.endswith("est") and len(surface) > 5 and surface.casefold() not in _NO_SUPERLATIVES:
            flags |= _WHOLE
        pieces: tuple[int, ...] = ()
        if surface.isascii() and surface.isalpha():
            folded = surface.lower()
            key_text = _SPELT.get(folded) or _singular(folded)
            key = self.key(key_text)
            if key_text not in _STOP:
                flags |= _CONTENT if surface == folded else _told_by(surface, numeric=False)
        elif surface.isascii() and surface.isdecimal():
            kind = _SHORT_NUMBER if len(surface) <= 2 else _WORD
            key, flags = self.key(number_key(surface)), _CONTENT | _REQUIRED
        elif not surface or not (surface[0].isalnum() or surface[0] == "_"):
            kind = _BULLET if surface and surface[0] in "-*•" else _KNOWN_MARKS.get(surface, _OTHER)
        elif surface[0] >= _CJK_FIRST and any(low <= ord(surface[0]) <= high for low, high in _CJK_RANGES):
            kind, key = _CHARACTER, self.key(surface)
        else:
            key_text = key_of(surface)
            key = self.key(key_text)
            numeric = _NUMBER.fullmatch(surface) is not None
            pieces = tuple(map(self.key, pieces_of(surface)))
            kind = _SHORT_NUMBER if numeric and len(surface) <= 2 else _WORD
            flags |= 0 if key_text in _STOP else _told_by(surface, numeric)
            if surface[-3:].casefold() in ("n't", "n’t"):
                flags |= _DENIES
        self._kind.append(kind)
        self._key.append(key)
        self._flags.append(flags)
        self._piece_count.append(len(pieces))
        if pieces:
            self._pieces[number] = pieces
        self._columns = None
        return number

    def columns(self) -> tuple[npt.NDArray[np.int8], IntArray, npt.NDArray[np.uint8], IntArray]:
        """By surface form: kind, key, flags, number of pieces."""
        if self._columns is None:
            # Copies: an array that lends its memory cannot grow.
            self._columns = (
                np.array(self._kind),
                np.array(self._key),
                np.array(self._flags),
                np.array(self._piece_count),
            )
        return self._columns

    def pieces(self, surfaces: IntArray) -> IntArray:
        """The keys of the pieces of each surface form, one after the other."""
        return np.array([p for s in surfaces.tolist() for p in self._pieces.get(s, ())], dtype=np.int64)


_lexicon = _Lexicon()


@dataclass(frozen=True)
class Mentions:
    """What texts mention, sorted by text: text ``text[i]`` mentions ``key[i]``, each key once per text.

    ``required[i]``: it is a number, a name, an identifier or a quoted word; ``fact[i]``: one of these but the last.
    ``pieces_at[i]:pieces_at[i + 1]`` are its places in ``pieces``, the keys that together stand for it. ``surface``: how the
    text has it.
    """

    text: IntArray
    key: IntArray
    required: BoolArray
    fact: BoolArray
    pieces_at: IntArray
    pieces: IntArray
    surface: IntArray

    def shown(self, mention: int) -> str:
        """A mention as its text has it, case-folded."""
        surface = int(self.surface[mention])
        return (
            _lexicon.surface_texts[surface].casefold() if surface >= 0 else _lexicon.key_texts[int(self.key[mention])]
        )


@dataclass(frozen=True)
class Runs:
    """Runs of words: run ``i`` starts in text ``first[i]``, ends in ``last[i]``, and has the hash ``hash[i]``.

    ``at``: the place of its first word among all words and marks; ``size``: its words, negative for characters.
    """

    first: IntArray
    last: IntArray
    hash: HashArray
    at: IntArray
    size: IntArray

    def __len__(self) -> int:
        return len(self.hash)

    def text(self, run: int, words: Words) -> str:
        """The words of a run, case-folded."""
        alone = self.size[run] < 0
        kinds = _lexicon.columns()[0]
        spoken: list[str] = []
        for surface in words.word_surface[int(self.at[run]) :].tolist():
            if len(spoken) == abs(int(self.size[run])):
                break
            if (kinds[surface] == _CHARACTER) if alone else (kinds[surface] <= _SHORT_NUMBER):
                spoken.append(_lexicon.surface_texts[surface].casefold())
        return ("" if alone else " ").join(spoken)


@dataclass(frozen=True)
class Words:
    """The words of a list of texts. Keys are numbers that hold until the next scan.

    *Known*: text ``known_text[i]`` makes key ``known_key[i]`` known (sorted by text; a pair may come twice). ``denies[t]``:
    text ``t`` holds a negation; ``contrasts[t]``: it begins with a but; ``second_thoughts[t]``: its author changes his mind;
    ``judges[t]``: it begins with a yes, a no or the like; ``of_all[t]``: it speaks of everything that there is (a superlative,
    a total, all, only). ``word_*`` are all words and marks in order; ``group`` numbers texts that are read on.
    """

    texts: pl.Series
    known_text: IntArray
    known_key: IntArray
    denies: BoolArray
    contrasts: BoolArray
    second_thoughts: BoolArray
    judges: BoolArray
    of_all: BoolArray
    word_text: IntArray
    word_surface: IntArray
    group: IntArray
    pairs: tuple[IntArray, IntArray]
    runs: Runs

    def mentions(self, asked: BoolArray | None = None, computed: bool = False) -> Mentions:
        """What the texts that ``asked`` chooses mention; all of them if None. ``computed``: numbers they compute too."""
        return _mentions(self, np.ones(len(self.texts), bool) if asked is None else asked, computed)

    def facts(self, asked: BoolArray) -> tuple[IntArray, IntArray]:
        """(text, key) of every number, name and identifier in the texts that ``asked`` chooses; a pair may come twice."""
        return _facts(self, asked)

    def runs_for(self, asked: BoolArray, whole: BoolArray) -> Runs:
        """The runs of all texts, and every place of a text that ``asked`` chooses and that is short, as a whole.

        A short text needs two words that say something; one, if ``whole`` says that it is all that is said.
        """
        return _with_short(self, asked, whole)


def key_text(key: int) -> str:
    """The text of a key."""
    return _lexicon.key_texts[key]


def scan(texts: Sequence[str], groups: Sequence[int] | IntArray | None = None) -> Words:
    """The words of ``texts``. Texts next to each other with one group are read on: a run of words may cross their border."""
    if len(_lexicon.surfaces) > _MOST_SURFACES:
        _lexicon.clear()
    column = pl.Series(texts, dtype=pl.String)
    text, surface = _cut(column)
    kinds, keys, all_flags, piece_counts = _lexicon.columns()
    kind, key, flags = kinds[surface], keys[surface], all_flags[surface]
    group = np.arange(len(texts)) if groups is None else np.asarray(groups, dtype=np.int64)
    is_word = kind <= _SHORT_NUMBER
    pair_at, pair_key = _character_pairs(kind, key, text)
    runs = _runs(kind, key, flags, text, group)
    compound = np.flatnonzero(is_word & (piece_counts[surface] > 0))
    known_text = np.concatenate(
        [text[is_word], np.repeat(text[compound], piece_counts[surface[compound]]), text[pair_at]]
    )
    known_key = np.concatenate([key[is_word], _lexicon.pieces(surface[compound]), pair_key])
    denies = np.zeros(len(texts), bool)
    denies[text[(flags & _DENIES) > 0]] = True
    of_all = np.zeros(len(texts), bool)
    of_all[text[(flags & _WHOLE) > 0]] = True
    second_thoughts = np.zeros(len(texts), bool)
    second_thoughts[text[(flags & _SECOND_THOUGHT) > 0]] = True
    spoken = np.flatnonzero(kind <= _CHARACTER)
    opening = spoken[np.flatnonzero(np.diff(text[spoken], prepend=-1))]
    contrasts, judges = np.zeros(len(texts), bool), np.zeros(len(texts), bool)
    contrasts[text[opening[(flags[opening] & _CONTRAST) > 0]]] = True
    judges[text[opening[(flags[opening] & _VERDICT) > 0]]] = True
    return Words(
        texts=column,
        known_text=known_text,
        known_key=known_key,
        denies=denies,
        contrasts=contrasts,
        second_thoughts=second_thoughts,
        judges=judges,
        of_all=of_all,
        word_text=text,
        word_surface=surface,
        group=group,
        pairs=(pair_at, pair_key),
        runs=runs,
    )


def forget() -> None:
    """Forgets every word that was met; what was scanned before can no longer be asked."""
    _lexicon.clear()


def _facts(words: Words, asked: BoolArray) -> tuple[IntArray, IntArray]:
    _, keys, _, _ = _lexicon.columns()
    at, required = _mentioned(words, asked)
    text, key = words.word_text[at[required]], keys[words.word_surface[at[required]]]
    own = _computed(words.texts, text, key)
    return text[~own], key[~own]


def _mentions(words: Words, asked: BoolArray, computed: bool) -> Mentions:
    text, surface = words.word_text, words.word_surface
    _, keys, _, piece_counts = _lexicon.columns()
    at, required = _mentioned(words, asked)
    pair_at, pair_key = words.pairs
    pair = asked[text[pair_at]]
    mention_text = np.concatenate([text[at], text[pair_at[pair]]])
    mention_key = np.concatenate([keys[surface[at]], pair_key[pair]])
    mention_surface = np.concatenate([surface[at], np.full(int(pair.sum()), -1)])
    required = np.concatenate([required, np.zeros(int(pair.sum()), bool)])
    if pair.any():
        order = np.argsort(mention_text, kind="stable")
        mention_text, mention_key = mention_text[order], mention_key[order]
        mention_surface, required = mention_surface[order], required[order]
    fact = required.copy()
    required |= _quoted(words.texts, mention_text, mention_key)
    own = np.zeros(len(mention_text), bool) if computed else _computed(words.texts, mention_text, mention_key)
    order = np.lexsort((~required, ~fact, mention_key, mention_text))
    order = order[~own[order]]
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(mention_text[order]) != 0) | (np.diff(mention_key[order]) != 0)
    chosen = order[first]
    chosen_surface = mention_surface[chosen]
    counts = np.zeros(len(chosen), np.int64)
    counts[chosen_surface >= 0] = piece_counts[chosen_surface[chosen_surface >= 0]]
    return Mentions(
        text=mention_text[chosen],
        key=mention_key[chosen],
        required=required[chosen],
        fact=fact[chosen],
        pieces_at=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        pieces=_lexicon.pieces(chosen_surface[counts > 0]),
        surface=chosen_surface,
    )


def _mentioned(words: Words, asked: BoolArray) -> tuple[IntArray, BoolArray]:
    """The places of content words of the texts asked for, and which of them are numbers, names or identifiers.

    Numbers that only count the items of a list are no mentions; a capital that begins a sentence makes no name.
    """
    kinds, _, all_flags, _ = _lexicon.columns()
    kind, flags = kinds[words.word_surface], all_flags[words.word_surface]
    group = words.group[words.word_text]
    previous = np.append(_STARTS, kind[:-1])[: len(kind)]
    previous[np.flatnonzero(np.diff(group, prepend=-1))] = _STARTS
    at = np.flatnonzero((kind <= _SHORT_NUMBER) & ((flags & _CONTENT) > 0) & asked[words.word_text])
    before = previous[at]
    opens = (before == _STARTS) | (before == _BULLET)
    follows = kind[np.minimum(at + 1, len(kind) - 1)]
    # A dash in the middle of a line is a minus: "250 - ( 10 )".
    begins_line = (before == _STARTS) | ((before == _BULLET) & (previous[np.maximum(at - 1, 0)] == _STARTS))
    counts_items = (kind[at] == _SHORT_NUMBER) & begins_line & ((follows == _DOT) | (follows == _CLOSE))
    is_name = ((flags[at] & _CAPITAL) > 0) & ~opens & (before != _DOT)
    required = ((flags[at] & _REQUIRED) > 0) | is_name
    return at[~counts_items], required[~counts_items]


def _cut(texts: pl.Series) -> tuple[IntArray, IntArray]:
    """(text, surface form) of every word and mark, in order."""
    lists = texts.str.extract_all(_PATTERN)
    counts = lists.list.len().to_numpy().astype(np.int64)
    words = lists.filter(pl.Series(counts > 0)).explode().to_arrow().cast(pa.large_string()).dictionary_encode()
    numbers = _lexicon.numbers(words.dictionary.to_pylist())
    indices = words.indices.to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(texts)), counts), numbers[indices] if len(indices) else np.zeros(0, np.int64)


def _character_pairs(kind: npt.NDArray[np.int8], key: IntArray, text: IntArray) -> tuple[IntArray, IntArray]:
    """Neighbouring characters of scripts without spaces: the place of the first, and the pair's key. A lone one is a pair."""
    if not (kind == _CHARACTER).any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    is_character = kind == _CHARACTER
    joined = is_character[:-1] & is_character[1:] & (text[:-1] == text[1:])
    continued = np.append(False, joined)
    alone = is_character & ~continued & ~np.append(joined, False)
    at = np.flatnonzero(np.append(joined, False) | alone)
    names = _lexicon.key_texts
    pair = [names[a] if lone else names[a] + names[b] for a, b, lone in zip(
        key[at].tolist(), key[np.minimum(at + 1, len(key) - 1)].tolist(), alone[at].tolist(), strict=True
    )]  # fmt: skip
    return at, np.array([_lexicon.key(p) for p in pair], dtype=np.int64)


def _runs(
    kind: npt.NDArray[np.int8], key: IntArray, flags: npt.NDArray[np.uint8], text: IntArray, group: IntArray
) -> Runs:
    """The runs that are worth copying: from each word on, the shortest that says enough."""
    words, characters = _spoken(kind)
    says = np.concatenate([[0], np.cumsum((flags[words] & _CONTENT) > 0)])
    found: list[Runs] = []
    todo = np.ones(len(words), bool)
    for size in range(RUN_FROM, RUN_TO + 1):
        enough = np.zeros(len(words), bool)
        if len(words) >= size:
            enough[: len(words) - size + 1] = says[size:] - says[:-size] >= RUN_CONTENT
        found.append(_windows(words, key, text, group, size, np.flatnonzero(enough & todo), alone=False))
        todo &= ~enough
    together = np.flatnonzero(characters[RUN_CJK - 1 :] - characters[: -RUN_CJK + 1] == RUN_CJK - 1)
    found.append(_windows(characters, key, text, group, RUN_CJK, together, alone=True))
    return _joined(found)


def _with_short(words: Words, asked: BoolArray, whole: BoolArray) -> Runs:
    kinds, keys, all_flags, _ = _lexicon.columns()
    surface, text = words.word_surface, words.word_text
    kind, key = kinds[surface], keys[surface]
    holds = [np.bincount(text[places], minlength=len(words.texts)) for places in _spoken(kind)]
    found = [words.runs]
    for alone, places, most in zip((False, True), _spoken(kind), (SHORT, SHORT_CJK), strict=True):
        size, other = holds[alone], holds[not alone]
        short = asked & (size > 0) & (size <= most) & (other == 0)
        if alone:
            short &= size >= np.where(whole, 2, 4)
        elif short.any():
            says = (all_flags[surface[places]] & _CONTENT) > 0
            short &= np.bincount(text[places[says]], minlength=len(words.texts)) >= np.where(whole, 1, 2)
        chosen = np.flatnonzero(short)
        if not len(chosen):
            continue
        first = np.searchsorted(text[places], chosen)
        begins = np.zeros(len(_lexicon.keys), bool)
        begins[key[places[first]]] = True
        candidates = np.flatnonzero(begins[key[places]])
        for length in np.unique(size[chosen]).tolist():
            wanted = _hashes(key[places], length, first[size[chosen] == length])
            at = candidates[candidates <= len(places) - length]
            at = at[np.isin(_hashes(key[places], length, at), wanted)]
            if alone:
                at = at[places[at + length - 1] - places[at] == length - 1]
            found.append(_windows(places, key, text, words.group, length, at, alone))
    return _joined(found)


def _spoken(kind: npt.NDArray[np.int8]) -> tuple[IntArray, IntArray]:
    """The places of words, and of characters of scripts without spaces."""
    return np.flatnonzero(kind <= _SHORT_NUMBER), np.flatnonzero(kind == _CHARACTER)


def _windows(
    places: IntArray, key: IntArray, text: IntArray, group: IntArray, size: int, at: IntArray, alone: bool
) -> Runs:
    """Runs of ``size`` words (or characters) from ``places[at]`` on that lie in one group."""
    at = at[group[text[places[at]]] == group[text[places[at + size - 1]]]]
    return Runs(
        first=text[places[at]],
        last=text[places[at + size - 1]],
        hash=_hashes(key[places], size, at),
        at=places[at],
        size=np.full(len(at), -size if alone else size),
    )


def _joined(runs: Sequence[Runs]) -> Runs:
    return Runs(*(np.concatenate([getattr(r, field.name) for r in runs]) for field in fields(Runs)))


def _hashes(key: IntArray, size: int, at: IntArray) -> HashArray:
    """A hash of the ``size`` keys from each place of ``at`` on."""
    mixed = (key.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    hashes = np.full(len(at), size, np.uint64)
    for i in range(size):
        hashes = hashes * np.uint64(0x100000001B3) + mixed[at + i]
    return hashes


def _quoted(texts: pl.Series, text: IntArray, key: IntArray) -> BoolArray:
    """Which mentions stand in quotation marks in their text."""
    asked = np.unique(text)
    said = texts.gather(asked).str.extract_all(_QUOTED)
    counts = said.list.len().to_numpy().astype(np.int64)
    quote, surface = _cut(said.filter(pl.Series(counts > 0)).explode())
    kinds, keys, _, _ = _lexicon.columns()
    is_word = kinds[surface] <= _SHORT_NUMBER
    owner = np.repeat(asked, counts)
    return _among(text, key, owner[quote[is_word]], keys[surface[is_word]])


def _computed(texts: pl.Series, text: IntArray, key: IntArray) -> BoolArray:
    """Which mentions their own text computes: ``48 / 2 = 24`` brings its 24 itself."""
    asked = np.unique(text)
    chosen = texts.gather(asked)
    shows = chosen.str.contains("=", literal=True)
    owner, results = [], []
    for i, equations in zip(asked[shows.to_numpy()].tolist(), chosen.filter(shows).to_list(), strict=True):
        for result in true_results(equations):
            owner.append(i)
            results.append(_lexicon.keys.get(number_key(result), -1))
    return _among(text, key, np.array(owner, np.int64), np.array(results, np.int64))


def _among(text: IntArray, key: IntArray, in_text: IntArray, in_key: IntArray) -> BoolArray:
    """Which of the pairs (text, key) are among the others."""
    width = len(_lexicon.keys) + 1
    found: BoolArray = np.isin(text * width + key, in_text * width + in_key)
    return found
