"""Where text may be cut. Every function returns end offsets in characters, ascending, the last one ``len(text)``.

Cuts lie before white space and on grapheme boundaries; pieces are slices of the text, so they always join to it again.
Sentences are those of ``sentencex``, by script and language, with what it does not know: blocks of code are cut by lines and
tables by rows, displayed formulas not at all, and no number of a list item stands alone.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import regex

ChunkUnit = Literal["sentence", "paragraph"]

#: A sentence longer than this is cut at its clauses too (JSON text has no sentences).
LONG_SENTENCE = 160
#: Clauses shorter than this are cut together with the next.
CLAUSE = 40

_PARAGRAPHS = re.compile(r"\n\s*\n")
_NEWLINES = re.compile(r"\n\s*")
_CLAUSE = re.compile(r"[,;:](?=\s)|[，；：、]|\}(?=,)")
_GRAPHEME = regex.compile(r"\X")
#: What a list item or a line of a proof is counted with; alone it is no sentence.
_MARKER = re.compile(r"\s*(?:[(\[]?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{2,5})[.)\]]|[-*+•–])")
#: Marks behind the end of a sentence that still belong to it.
_CLOSING_MARKS = "\"'*_)]}»”’›」』）】~`"
_CLOSING = frozenset(_CLOSING_MARKS)
#: Ends of sentences that need no space behind them.
_FULL = frozenset("。！？｡।॥؟۔።။។៕།༎")
_FULL_STOPS = re.compile(r"[។៕།༎]+")
#: A space between words of a script that writes none, between clauses or sentences, behind so many characters.
_THAI_SPACE = re.compile(r"(?<=[\u0e00-\u0eff])(?= [\u0e00-\u0eff])")
_THAI_CLAUSE = 24
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")

_FENCES = ("```", "~~~")
_MATHS = re.compile(r"\$\$|\\[\[\]]|\\(?:begin|end)\{([a-zA-Z]+\*?)\}")


def cut(text: str, unit: ChunkUnit) -> list[int]:
    """End offsets of the sentences (lines, and clauses of long sentences) or paragraphs of ``text``."""
    ends = _paragraph_ends(text) if unit == "paragraph" else _sentence_ends(text)
    if not text.isascii():
        ends = [end for end in ends if is_grapheme_boundary(text, end)]
    ends.append(len(text))
    return ends


def _paragraph_ends(text: str) -> list[int]:
    if "\n" not in text:
        return []
    ends = {_before_space(text, match.start()) for match in _PARAGRAPHS.finditer(text)}
    return sorted(_outside(ends - {0, len(text)}, [block for block in _blocks(text) if block[2]], frozenset()))


def _sentence_ends(text: str) -> list[int]:
    ends = _spoken(text, "en" if text.isascii() else _language(text))
    lines: frozenset[int] = frozenset()
    if "\n" in text:
        lines = frozenset(_line_ends(text))
        ends = sorted(lines.union(ends))
    start, size = 0, len(text)
    clauses: list[int] = []
    for end in (*ends, size):
        if end - start > LONG_SENTENCE:
            last = start
            for match in _CLAUSE.finditer(text, start, end):
                if match.end() - last >= CLAUSE and match.end() < size:
                    last = match.end()
                    clauses.append(last)
        start = end
    if clauses:
        ends = sorted({*ends, *clauses})
    if ("|" in text and lines) or "$$" in text or "```" in text or "~~~" in text or "\\" in text:
        ends = sorted(_outside(set(ends), _blocks(text), lines))
    return ends


def _spoken(text: str, language: str) -> list[int]:
    """The ends of sentences but the last one's, before the white space behind them."""
    size = len(text)
    ends: list[int] = []
    at = last = 0
    has_lines = "\n" in text
    maybe_other = language == "en"
    for piece in _pieces(text, language):
        bare = piece.rstrip()
        end = at + len(bare)
        at += len(piece)
        if end <= last or end == size or not bare:
            continue
        if not text[end].isspace():
            while end < size and text[end] in _CLOSING:
                end += 1
            if end == size or not (text[end].isspace() or bare.rstrip(_CLOSING_MARKS)[-1:] in _FULL):
                continue
        before = text[end - 2] if end > 1 else " "
        if end - last < 9 or before.isdigit() or has_lines:
            begins = max(last, text.rfind("\n", last, end)) if has_lines else last
            if _MARKER.fullmatch(text, begins, end):
                continue
        if maybe_other and (before.isdigit() or _is_abbreviated(bare)):
            if (other := _latin(text)) != "en":
                return _spoken(text, other)
            maybe_other = False
        ends.append(end)
        last = end
    if language in ("km", "bo", "th", "lo"):
        return _unspaced(text, ends)
    return ends


def _is_abbreviated(sentence: str) -> bool:
    return sentence[-1] == "." and sentence[sentence.rfind(" ") + 1 : -1].lower() in _ABBREVIATED


@cache
def _segmenter() -> Callable[[str, str], list[str]]:
    from sentencex import segment

    return segment  # type: ignore[no-any-return]


def _pieces(text: str, language: str) -> list[str]:
    """The sentences of a text, which join to it. ``sentencex`` fails at wide spaces behind initials, so they are made plain."""
    plain = text if text.isascii() else _WIDE_SPACE.sub(" ", text)
    pieces = _segmenter()(language, plain)
    return pieces if sum(map(len, pieces)) == len(text) else [text]


def _unspaced(text: str, ends: Sequence[int]) -> list[int]:
    """With the ends that ``sentencex`` does not know: Khmer and Tibetan stops, and the spaces of Thai and Lao."""
    found = {*ends, *(match.end() for match in _FULL_STOPS.finditer(text))}
    start = 0
    for match in _THAI_SPACE.finditer(text):
        if match.start() - start >= _THAI_CLAUSE:
            found.add(match.start())
            start = match.start()
    return sorted(found - {len(text)})


def _line_ends(text: str) -> list[int]:
    """Where lines end, before the white space that holds the newlines."""
    ends = [_before_space(text, line.start()) for line in _NEWLINES.finditer(text)]
    return ends[1:] if ends and not ends[0] else ends


def _before_space(text: str, end: int) -> int:
    while end and text[end - 1].isspace():
        end -= 1
    return end


def _blocks(text: str) -> list[tuple[int, int, bool]]:
    """Blocks of code and rows of tables, and (True) displayed formulas: from, to, in order."""
    found: list[tuple[int, int, bool]] = []
    fence, opened, start = "", 0, 0
    for line in text.splitlines(keepends=True) if "|" in text or "```" in text or "~~~" in text else ():
        bare, end = line.strip(), start + len(line.rstrip())
        if fence:
            if bare.startswith(fence) and not bare.strip(fence[0]):
                found.append((opened, end, False))
                fence = ""
        elif bare.startswith(_FENCES):
            fence, opened = bare[: len(bare) - len(bare.lstrip(bare[0]))], start
        elif bare.startswith("|") and bare.count("|") > 1:
            found.append((start, end, False))
        start += len(line)
    if fence:
        found.append((opened, len(text), False))
    return sorted([*found, *_formulas(text)]) if "$$" in text or "\\" in text else found


def _formulas(text: str) -> list[tuple[int, int, bool]]:
    """``$$…$$``, ``\\[…\\]`` and ``\\begin{…}…\\end{…}``; what is not closed is none."""
    found: list[tuple[int, int, bool]] = []
    closes, opened = "", 0
    for match in _MATHS.finditer(text):
        mark = match[0]
        if closes:
            if mark == closes:
                found.append((opened, match.end(), True))
                closes = ""
        elif mark == "$$":
            closes, opened = "$$", match.start()
        elif mark == "\\[":
            closes, opened = "\\]", match.start()
        elif mark.startswith("\\begin"):
            closes, opened = f"\\end{{{match[1]}}}", match.start()
    return found


def _outside(ends: set[int], blocks: Sequence[tuple[int, int, bool]], lines: frozenset[int]) -> set[int]:
    """The ends that lie in no block, or at the end of a line of code or of a row."""
    for low, high, is_formula in blocks:
        if is_formula:
            ends -= {end for end in ends if low < end < high}
        else:
            ends -= {end for end in ends if low < end < high and end not in lines}
    return ends


#: Scripts by the code points that they begin at, with the language that ``sentencex`` knows them by.
_SCRIPTS = (
    (0x0370, "el"), (0x0400, "ru"), (0x0530, "hy"), (0x0590, "he"), (0x0600, "ar"), (0x0900, "hi"), (0x0980, "bn"),
    (0x0A00, "pa"), (0x0A80, "gu"), (0x0B00, "or"), (0x0B80, "ta"), (0x0C00, "te"), (0x0C80, "kn"), (0x0D00, "ml"),
    (0x0D80, "si"), (0x0E00, "th"), (0x0E80, "lo"), (0x0F00, "bo"), (0x1000, "my"), (0x10A0, "ka"), (0x1100, "ko"),
    (0x1200, "am"), (0x13A0, "en"), (0x1780, "km"), (0x1800, "mn"), (0x18B0, "en"), (0x1F00, "el"), (0x2000, "en"),
    (0x3040, "ja"), (0x3100, "zh"), (0xAC00, "ko"), (0xD7B0, "zh"),
)  # fmt: skip
_SCRIPT_STARTS = [start for start, _ in _SCRIPTS]
_FOREIGN = re.compile(r"[\u0370-\u13ff\u1780-\u18af\u1f00-\u1fff\u3040-\u312f\u3400-\u9fff\uac00-\ud7af]")
_LETTERS = re.compile(r"[^\W\d_]+")
_KANA = re.compile(r"[\u3040-\u30ff]")
#: Frequent words of languages that write Latin letters and have abbreviations of their own, by language.
_FREQUENT_WORDS = """
en the of and to in is that for it was with on as are at
de der die das und ist nicht ein eine mit den von im am zu sich auf dem wurde
es el los las y es una un que por con del se para al
it il che di una un per non del sono gli della è con si
pt o os uma um que não do da em para com dos na
nl het een en van niet dat is de op te zijn voor
"""
_FREQUENT = {line.split()[0]: frozenset(line.split()[1:]) for line in _FREQUENT_WORDS.strip().splitlines()}
#: Abbreviations of theirs that end no sentence, if the text is in such a language.
_ABBREVIATED_WORDS = "sig sigg dott ecc art pag usw usf bzw vgl ca sog inkl evtl ggf nr abs str bijv enz blz pág av exa"
_ABBREVIATED = frozenset(_ABBREVIATED_WORDS.split())
#: Characters that tell the language of a text.
_TELLING = 400


def _language(text: str) -> str:
    """The language that ``sentencex`` is asked for by script; ``en`` where it is Latin (see ``_latin``)."""
    if _FOREIGN.search(text) is None:
        return "en"
    head = text[:_TELLING]
    foreign = sorted(_FOREIGN.findall(head))
    if len(foreign) * 3 < len(head) - head.count(" "):
        return "en"
    language = _SCRIPTS[bisect_right(_SCRIPT_STARTS, ord(foreign[len(foreign) // 2])) - 1][1]
    return "ja" if language == "zh" and _KANA.search(head) else language


def _latin(text: str) -> str:
    """The language of a text in Latin letters, by frequent words."""
    words = _LETTERS.findall(text[:_TELLING].lower())
    hits = {language: sum(map(frequent.__contains__, words)) for language, frequent in _FREQUENT.items()}
    best = max(hits, key=hits.__getitem__)
    return best if hits[best] >= 2 else "en"


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
