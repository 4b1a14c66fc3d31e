"""wait_k: output chunk i waits for input chunk i + k - 1 (Ma et al., 2019, arXiv 1810.08398), where chunks correspond.

Only for translation, line-by-line work and the like: where the chunks of an answer do not follow those of its input, the claim
is false, so ``auto`` never chooses it. What can be seen of it in the words is verified: a chunk also waits for the
last chunk of the input that brings a word it says. The last chunk of a message waits for all input, since its end says that
nothing more will come. Calls wait for everything.
"""

from __future__ import annotations

import bisect
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.alignment.grounding import Questions
from pipeline.alignment.plan import Batch, Cut, Plan
from pipeline.text import cut
from pipeline.timeline import Draft, Span, Stream
from pipeline.words import CJK, key_of, pieces_of

NAME = "wait_k"
CLAIM = "output chunk i corresponds to input chunk i, so it waits for input chunk i + k - 1 only"

#: Words, and pairs of characters of scripts without spaces, whatever mark stands between them.
_WORD = re.compile(rf"(?=([{CJK}])[^\w\s]?([{CJK}]))|[^\W{CJK}]+(?:['’@./:,\-][^\W{CJK}]+)*")

_BETWEEN_SPACES = re.compile(r"[^\s\"'“”()\[\]{},;:.!?<>*，。、；：？！「」《》]{2,}")
#: Words of a run whose copying counts, where chunks are tokens; seven pairs are eight characters.
_RUN_FROM, _RUN_TO = 3, 7

_CJK_CHARACTER = re.compile(f"[{CJK}]")


@dataclass(frozen=True, slots=True)
class Params:
    """``k``: chunks of input before the first chunk of output; ``chunk``: what is counted."""

    k: Annotated[int, Field(ge=1)] = 1
    chunk: Literal["token", "sentence", "paragraph"] = "sentence"


@plain_dataclass(frozen=True, slots=True)
class _Pair:
    """Spans that are read, with the headers of results, and the spans of the message that is said right after them."""

    reading: list[int] = field(default_factory=list)
    speaking: list[int] = field(default_factory=list)


def _pairs(streams: Sequence[Stream], spans: Sequence[Span]) -> Iterator[_Pair]:
    """Each run of input, but for the system's, with the first message after it; those that nothing was read before left out."""
    pair = _Pair()
    for index, span in enumerate(spans):
        if streams[span.stream].direction == "input":
            if pair.speaking:
                yield from [pair] if pair.reading else []
                pair = _Pair()
            if streams[span.stream].role != "system" and span.message is not None:
                pair.reading.append(index)
        elif _is_counted(span) and (not pair.speaking or spans[pair.speaking[0]].message == span.message):
            pair.speaking.append(index)
    if pair.reading and pair.speaking:
        yield pair


def _is_counted(span: Span) -> bool:
    return span.kind not in ("header", "tool_call") and span.source_kind not in ("audit", "monitor")


def why(draft: Draft) -> str:
    """Messages that answer what was read right before them."""
    pairs = sum(1 for _ in _pairs(*draft.columns()))
    return f"{pairs} answers, if their chunks correspond to those of their inputs" if pairs else ""


def prepare(draft: Draft, params: Params) -> None:
    """Nothing is added."""


def cuts(draft: Draft, streams: tuple[Stream, ...], spans: tuple[Span, ...], params: Params) -> Mapping[int, Cut]:
    """What is read, and the message after it, are cut; a call is issued whole."""
    return {
        s: params.chunk
        for pair in _pairs(streams, spans)
        for s in (*pair.reading, *pair.speaking)
        if _is_counted(spans[s])
    }


def relax(batch: Batch, params: Params) -> None:
    """Output chunk i no longer waits for the input chunks behind i + k - 1, unless it copies from them."""
    questions = Questions()
    asked: list[tuple[Plan, int, int, int, int]] = []
    for number, plan in enumerate(batch.plans):
        for pair in _pairs(plan.streams, plan.spans):
            reading = _units(batch, plan, pair.reading, params)
            if not reading or reading[-1].count <= params.k:
                continue
            copies = _copied_words(plan, pair)
            read, counts = plan.mask(pair.reading), [unit.count for unit in reading]
            base, first, stop = 0, plan.first[pair.reading[0]], plan.first[pair.reading[-1] + 1]
            if params.chunk != "token":
                base = int(batch.ground.base[number])
                questions.reading.append((base + first, base + stop))
            for unit in _units(batch, plan, pair.speaking, params)[:-1]:
                if (wanted := unit.count + params.k - 1) >= counts[-1]:
                    break
                last = reading[bisect.bisect_left(counts, wanted)].chunks[-1]
                last = max(last, *(copies.get(chunk, -1) for chunk in unit.chunks))
                plan.kept.add(unit.chunks[0])
                for chunk in unit.chunks:
                    if params.chunk == "token":
                        _drop_behind(plan, chunk, read, last)
                    else:
                        questions.add(base + chunk, base + first, base + stop, alone=True)
                        asked.append((plan, chunk, last, read, base))
    if asked:
        for (plan, chunk, last, read, base), copied in zip(
            asked, batch.ground.copied(questions, words=True), strict=True
        ):
            _drop_behind(plan, chunk, read, max(last, copied - base))


def _drop_behind(plan: Plan, chunk: int, read: int, last: int) -> None:
    """Lets a chunk wait for nothing of what is read behind chunk ``last``."""
    plan.drop([chunk], read >> (last + 1) << (last + 1))


@plain_dataclass(frozen=True, slots=True)
class _Unit:
    """Chunks that are read or said as one, and how many sentences, paragraphs or tokens there are up to its end."""

    chunks: list[int]
    count: int


def _units(batch: Batch, plan: Plan, spans: Sequence[int], params: Params) -> list[_Unit]:
    """The chunks of spans by what is counted: other policies may have cut them finer. The tokens of a word stay together."""
    units: list[_Unit] = []
    count = 0
    for span in spans:
        if not _is_counted(plan.spans[span]):
            continue
        text = plan.spans[span].text
        ends, whole = _token_ends(batch, text) if params.chunk == "token" else (cut(text, params.chunk), set())
        members: list[int] = []
        for chunk in plan.chunks(span):
            end = plan.chunk_end[chunk]
            members.append(chunk)
            at = bisect.bisect_left(ends, end)
            if end == len(text) or (at < len(ends) and ends[at] == end and end not in whole):
                units.append(_Unit(members, count + min(at + 1, len(ends))))
                members = []
        count += len(ends)
    return units


def _token_ends(batch: Batch, text: str) -> tuple[Sequence[int], set[int]]:
    """Where tokens end, and which of these places lie inside words."""
    assert batch.resources.token_ends is not None
    ends = batch.resources.token_ends(text)
    inside: set[int] = set()
    for _, start, end in _words(text):
        low, high = bisect.bisect_right(ends, start), bisect.bisect_left(ends, end)
        if not _is_pair(text, start):
            inside.update(ends[low:high])
    return ends, inside


def _is_pair(text: str, start: int) -> bool:
    return _CJK_CHARACTER.match(text, start) is not None


def _copied_words(plan: Plan, pair: _Pair) -> dict[int, int]:
    """For each chunk, the last chunk of the reading that first brings a word, or a run of words, that ends in it."""
    known: dict[tuple[str, ...], int] = {}
    for span in range(pair.speaking[0]):
        if plan.spans[span].kind == "header":
            continue
        is_read = span in pair.reading
        for keys, _, end in _said(plan.spans[span].text):
            at = _chunk_at(plan, span, end) if is_read else -1
            for key in keys:
                known.setdefault(key, at)
    copied: dict[int, int] = {}
    for span in pair.speaking:
        for keys, start, end in _said(plan.spans[span].text):
            last = max((known.get(key, -1) for key in keys), default=-1)
            if last >= 0:
                for chunk in range(_chunk_at(plan, span, start + 1), _chunk_at(plan, span, end) + 1):
                    copied[chunk] = max(copied.get(chunk, -1), last)
    return copied


def _said(text: str) -> Iterator[tuple[list[tuple[str, ...]], int, int]]:
    """Of each word, what it says: itself, its pieces, and the runs of words that it ends; and where it stands.

    So does what stands between spaces as a whole: a password or a path has no words.
    """
    before: deque[str] = deque(maxlen=_RUN_TO)
    for keys, start, end in _words(text):
        before.append(keys[0])
        words = tuple(before)
        yield [(key,) for key in keys] + [words[-size:] for size in range(_RUN_FROM, len(words) + 1)], start, end
    for match in _BETWEEN_SPACES.finditer(text):
        yield [("", match[0].casefold())], match.start(), match.end()


def _words(text: str) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """The keys of each word and its pieces, and where it stands."""
    for match in _WORD.finditer(text):
        word = match[1] + match[2] if match[1] else match[0]
        yield (key_of(word), *pieces_of(word)), match.start(), match.end(2) if match[1] else match.end()


def _chunk_at(plan: Plan, span: int, end: int) -> int:
    """The chunk of a span in which the character before ``end`` lies."""
    return bisect.bisect_left(plan.chunk_end, end, plan.first[span], plan.first[span + 1] - 1)
