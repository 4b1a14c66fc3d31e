"""Reading in slices: what is read before an answer, what of the answer each slice supports, and when what was said.

An answer can be re-written if it is an assistant message of texts and thoughts alone that follows a reading: the input since
the last output (system messages and tool definitions are none). The reading is cut into sentences, and these are put
together to slices. A *point* is a sentence of the answer; it is supported from the slice on with which all that it rests
on has been read.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import regex

from pipeline.alignment.grounding import Ground, Questions
from pipeline.alignment.plan import Plan, start_plan
from pipeline.alignment.reading import is_reading
from pipeline.conversation import Conversation, Message, Part
from pipeline.gold import Place, rests_on_all, supports
from pipeline.text import cut
from pipeline.timeline import Span, Stream, Timeline, draft_of, spans_of
from pipeline.words import scan
from synth.answers import Final, final_of
from synth.spacing import UNSPACED, spaced

#: What an answer is made of: thoughts, and what is said.
Voice = Literal["thinking", "text"]

#: Where a span stands: message, part, and whether it is the header of a result.
_Where = tuple[int | None, int | None, bool]


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of one input span, up to character ``high``. ``label``: whose words it is, for people and writers."""

    where: _Where
    high: int
    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Point:
    """A sentence of the original answer that is supported once slice ``slice`` has been read."""

    voice: Voice
    text: str
    slice: int


@dataclass(frozen=True, slots=True)
class Task:
    """One answer to re-write: message ``message``, after the reading ``slices`` (at least two, all of it).

    ``earlier``: what came before the reading, since the last answer that is re-written. ``thinks``: there is a thought.
    """

    message: int
    earlier: tuple[Piece, ...]
    slices: tuple[tuple[Piece, ...], ...]
    points: tuple[Point, ...]
    final: Final | None

    @property
    def thinks(self) -> bool:
        """Whether the original answer has a thought."""
        return any(point.voice == "thinking" for point in self.points)

    @property
    def last(self) -> int:
        """The last slice, with which everything has been read."""
        return len(self.slices) - 1


@dataclass(frozen=True, slots=True)
class Said:
    """What was written after slice ``slice`` had been read. Within a slice a thought comes before what is said."""

    slice: int
    voice: Voice
    text: str


@dataclass(frozen=True, slots=True)
class Retold:
    """An answer as it was re-written: pieces in the order in which they were written."""

    task: Task
    said: tuple[Said, ...]

    def message(self, original: Message) -> Message:
        """The original message with the pieces in place of its parts: the thought, then the answer."""
        parts = tuple(Part(voice, "".join(pieces)) for voice in _VOICES if (pieces := self.pieces(voice)))
        return replace(original, parts=parts)

    def pieces(self, voice: Voice) -> list[str]:
        """The pieces of one part, each with the white space before it."""
        texts = [one.text for one in self.said if one.voice == voice]
        original = "".join(point.text for point in self.task.points if point.voice == voice)
        between = "\n" if "\n" in original.strip() else " "
        return spaced(texts, between)

    def chunks(self) -> list[tuple[Voice, str, int]]:
        """The pieces, each with its white space and the slice it waits for; of each part the last word is a piece by itself.

        A piece waits for the slice it was written after, or for that of an earlier piece, which its writer had seen. The last
        word of a part waits for the whole reading, since its end says that nothing is missing.
        """
        rest = {voice: iter(self.pieces(voice)) for voice in _VOICES}
        last = {one.voice: at for at, one in enumerate(self.said)}
        found: list[tuple[Voice, str, int]] = []
        due = 0
        for at, one in enumerate(self.said):
            text = next(rest[one.voice])
            due = max(due, one.slice)
            if last[one.voice] == at and due < self.task.last:
                if end := _last_word(text):
                    found.append((one.voice, text[:end], due))
                text, due = text[end:], self.task.last
            found.append((one.voice, text, due))
        return found


def _last_word(text: str) -> int:
    """Where the last word of a text begins, with the white space before it; 0 if it is the only one.

    In scripts without spaces it is the last character.
    """
    found = _LAST_CHARACTER.search(text) or _LAST_WORD.search(text)
    return len(text[: found.start()].rstrip()) if found else 0


_VOICES: tuple[Voice, ...] = ("thinking", "text")
#: What ends so is a clause of a long sentence, and no point by itself.
_GO_ON = (",", ";", ":", "，", "；", "：", "、")


#: The end of a text from its last word on, and from its last character on where no space is before it for its script.
_LAST_WORD = regex.compile(r"\s\S+\s*$")
_LAST_CHARACTER = regex.compile(rf"(?=[{UNSPACED}])\X[^\w\s]*\s*$")

#: English words that end in -est or -er and compare nothing.
_NO_SUPERLATIVES = "for|inter|requ|sugg|harv|gu|cont|prot|inv|hon|mod|arr|conqu|dig|manif|ch|cr|qu|[bdflnprtvwz]"
_NO_COMPARATIVES = "aft|ov|und|ev|oth|anoth|riv|wat|numb|pap|lett|memb|ord|pow|cent|moth|fath|broth|sist|matt|summ|wint"
#: English words of a statement that it takes all of the reading to make: which is the most, how many there are, which comes
#: first, what is not so, or so of all. The number of a list item is one: it says that no other comes before.
_TAKES_ALL = re.compile(
    rf"""^\s*[-*•]?\s*[(\[]?(?:\d{{1,3}}|[a-z])[.)\]](?=\s) | (?:\#|\bno\.|\bnumber|\bitem)\s*\d
    | \b(?:most|least|worst|best|better|worse|rather|than|prefer\w*)\b | \b(?!(?:{_NO_SUPERLATIVES})est\b)[a-z]+est\b
    | \b(?:which|who)\b[^.?!]*\b(?:more|less|fewer|(?!(?:{_NO_COMPARATIVES})er\b)[a-z]{{2,}}er)\b[^.?!]*[?]
    | \bthe\s+(?:more|less|[a-z]{{3,}}er)\s+(?:one|of|option|choice)\b
    | \b(?:totals?|sum|altogether|overall|average|in\s+all|combined|how\s+(?:many|much)|number\s+of|count(?:s|ed)?)\b
    | \bthere\s+(?:is|are|was|were)\s+(?:\d|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|several|many|few)
    | \b(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last|final|finally|\d+(?:st|nd|rd|th))\b
    | \b(?:no|not|never|none|nor|neither|without|cannot|nobody|nothing|nowhere)\b | n['’]t\b
    | \b(?:only|all|both|every|everyone|everybody|everything)\b
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)


_ITEM = re.compile(r"\s*(?:[-*•+–]\s|[(\[]?(?:\d{1,3}|[A-Za-z])[.)\]]\s)")


def tasks_of(conversation: Conversation, slice_chars: int, min_coverage: float) -> list[Task]:
    """The answers of a conversation that can be re-written, in order.

    Slices are of at most ``slice_chars`` characters, or one sentence; a reading of two sentences or more has at least two.
    ``min_coverage``: share of the content words of a point that must have been read (0 to 1).
    """
    draft = draft_of(conversation)
    streams, spans = draft.columns()
    blocks: list[tuple[list[int], list[int]]] = []
    unread: list[int] = []
    plain = start_plan(draft, streams, spans, {})
    for group in plain.messages():
        if not plain.is_output(group[0]):
            unread.extend(group)
            continue
        reading = [s for s in unread if is_reading(spans[s], "all", streams[spans[s].stream].role)]
        if reading and _can_be_retold(conversation, spans[group[0]]):
            blocks.append((unread[unread.index(reading[0]) :], group))
        unread = []
    cuts = {
        s: cut(spans[s].text, "sentence") for block, group in blocks for s in (*block, *group) if spans[s].kind != "header"
    }  # fmt: skip
    plan = start_plan(draft, streams, spans, cuts)
    known = _known(plan)
    ground = Ground([plan])
    found: list[Task] = []
    shown = 0
    for block, group in blocks:
        stops = _slices(plan, block, slice_chars)
        if len(stops) < 2:
            continue
        message = plan.spans[group[0]].message
        assert message is not None
        final = final_of(replace(conversation, messages=conversation.messages[: message + 1]))
        slices, low = [], plan.first[block[0]]
        for stop in stops:
            slices.append(tuple(_pieces(plan, block, low, stop)))
            low = stop
        earlier = [
            _piece(plan, s) for s in range(shown, block[0]) if plan.spans[s].source_kind not in ("header", "tools")
        ]
        points = _points(ground, known, block, group, stops, final, min_coverage)
        found.append(Task(message, tuple(earlier), tuple(slices), points, final))
        shown = group[-1] + 1
    return found


def _can_be_retold(conversation: Conversation, span: Span) -> bool:
    if span.message is None:
        return False
    message = conversation.messages[span.message]
    return (
        message.weight > 0
        and all(part.kind in _VOICES and not part.interrupted for part in message.parts)
        and any(part.kind == "text" and part.text.strip() for part in message.parts)
    )


def _slices(plan: Plan, block: Sequence[int], slice_chars: int) -> list[int]:
    """The chunk that each slice of the reading ends before."""
    chunks = [chunk for s in block if plan.spans[s].kind != "header" for chunk in plan.chunks(s)]
    texts = [plan.text(s, chunk) for s in block if plan.spans[s].kind != "header" for chunk in plan.chunks(s)]
    # Blank chunks belong to what stands before them, and to the first slice where nothing does.
    pieces: list[tuple[int, int]] = []
    for chunk, text in zip(chunks, texts, strict=True):
        if text.strip():
            pieces.append((chunk + 1, len(text)))
        elif pieces:
            pieces[-1] = chunk + 1, pieces[-1][1]
    room = min(slice_chars, max(sum(size for _, size in pieces) // 2, 1))
    stops: list[int] = []
    filled = 0
    for at, (stop, size) in enumerate(pieces):
        filled += size
        if at + 1 == len(pieces) or filled + pieces[at + 1][1] > room:
            stops.append(stop)
            filled = 0
    return stops


def _pieces(plan: Plan, block: Sequence[int], low: int, stop: int) -> list[Piece]:
    """The chunks from ``low`` to ``stop``, those of one span as one piece."""
    found = []
    for span in block:
        chunks = range(max(low, plan.first[span]), min(stop, plan.first[span + 1]))
        if chunks:
            text = "".join(plan.text(span, chunk) for chunk in chunks)
            found.append(replace(_piece(plan, span), high=plan.chunk_end[chunks[-1]], text=text))
    return found


def _piece(plan: Plan, span: int) -> Piece:
    told = plan.spans[span]
    role = plan.streams[told.stream].role
    label = {"context": "context", "tool_call": "call", "tool_result": "result", "thinking": "thought"}.get(
        told.source_kind, role
    )
    if told.kind == "tool_result" and span and plan.spans[span - 1].kind == "header":
        label = f"result {plan.spans[span - 1].text}"
    return Piece(_where(told), len(told.text), label, told.text)


def _where(span: Span) -> _Where:
    return span.message, span.part, span.kind == "header"


def _points(
    ground: Ground,
    known: _Known,
    block: Sequence[int],
    group: Sequence[int],
    stops: Sequence[int],
    final: Final | None,
    min_coverage: float,
) -> tuple[Point, ...]:
    (plan,) = ground.plans
    chunks = [(s, chunk) for s in group for chunk in plan.chunks(s)]
    message = plan.spans[group[0]].message
    gold = supports(plan.conversation).get(message) if message is not None else None
    if gold is not None:
        needed = _needed_by_gold(ground, block, [c for _, c in chunks], gold)
    elif message in rests_on_all(plan.conversation):
        needed = [-1] * len(chunks)
    else:
        needed = _needed(ground, known, block, chunks, min_coverage)
    end = len(stops) - 1
    found: list[Point] = []
    takes_all = gold is None and _TAKES_ALL.search(_asked(plan, block)) is not None
    chosen = {s: _chosen_items(plan.spans[s].text) for s in group}
    said, at = "", 0
    for (span, chunk), last in zip(chunks, needed, strict=True):
        text = plan.text(span, chunk)
        low = plan.chunk_end[chunk] - len(text)
        if gold is None and any(start < plan.chunk_end[chunk] and low < stop for start, stop in chosen[span]):
            at = end
        said, at = said + text, max(at, min(bisect.bisect_right(stops, last), end) if last >= 0 else end)
        if text.rstrip().endswith(_GO_ON) and chunk + 1 < plan.first[span + 1]:
            continue
        if gold is None and final is not None and final.is_told_by(said):
            at = end
        voice: Voice = "thinking" if plan.spans[span].source_kind == "thinking" else "text"
        if gold is None and ((takes_all and voice == "text") or _TAKES_ALL.search(said)):
            at = end
        found.append(Point(voice, said, at))
        said, at = "", 0
    return tuple(found)


def _chosen_items(text: str) -> list[tuple[int, int]]:
    """From where to where the items of lists stand of which the line before them says that they are chosen from everything.

    Such a line takes all of the reading before a colon (``The cheapest are:``); an item is one if it ends with it. The list
    goes on to the next line that is no item.
    """
    found: list[tuple[int, int]] = []
    is_chosen = False
    low = 0
    for line in text.splitlines(keepends=True):
        bare, low = line.strip(" \t\r\n*_"), low + len(line)
        if not bare:
            continue
        is_item = _ITEM.match(line) is not None
        if is_item and is_chosen:
            found.append((low - len(line.lstrip()), low))
            continue
        head = bare.rpartition(":")
        is_chosen = _TAKES_ALL.search(head[0]) is not None and (not is_item or not head[2])
    return found


@dataclass(frozen=True, slots=True)
class _Known:
    """Per chunk, the words that it makes known, and those of them that say something."""

    words: list[set[int]]
    content: list[set[int]]


def _known(plan: Plan) -> _Known:
    words = scan([plan.text(s, chunk) for s in range(len(plan.spans)) for chunk in plan.chunks(s)])
    count = len(plan.chunk_end)
    known: list[set[int]] = [set() for _ in range(count)]
    content: list[set[int]] = [set() for _ in range(count)]
    for chunk, key in zip(words.known_text.tolist(), words.known_key.tolist(), strict=True):
        known[chunk].add(key)
    mentions = words.mentions(computed=True)
    for chunk, key in zip(mentions.text.tolist(), mentions.key.tolist(), strict=True):
        content[chunk].add(key)
    return _Known(known, content)


def _told_again(
    plan: Plan, known: _Known, block: Sequence[int], reading: Sequence[int], chunks: Sequence[int]
) -> list[int]:
    """Per chunk, that of the reading with which the words have been read that were known before it; -1 for none.

    That they were known says nothing of what the reading says with them. Of the user's own words it is the last that holds
    one; of other reading the first that holds all of the others, or else the last with which one is first read.
    """
    before = set().union(*known.words[: plan.first[block[0]]])
    read = [(c, plan.spans[s].source_kind == "text") for s in reading for c in plan.chunks(s)]
    found = []
    for chunk in chunks:
        words = known.content[chunk] & before
        own = [c for c, is_own in read if is_own and known.words[c] & words]
        others = [(c, known.words[c] & words) for c, is_own in read if not is_own]
        rest = set().union(*(held for _, held in others)).difference(*(known.words[c] for c in own))
        whole = [c for c, held in others if rest and rest <= held][:1]
        firsts = [next(c for c, held in others if word in held) for word in rest]
        found.append(max([-1, *own, *(whole or firsts)]))
    return found


def _needed(
    ground: Ground, known: _Known, block: Sequence[int], chunks: Sequence[tuple[int, int]], min_coverage: float
) -> list[int]:
    """Per sentence of an answer the last chunk of the reading that it rests on, -1 where it waits for everything.

    It rests on the reading alone, or on the reading and what was said before it, and then it also waits for all that. What is
    said waits for the question too, as under ``evidence``: which of the facts is asked for nobody knows before. A thought
    does not. No word that it takes from the reading may come later, nor one that was known before and is told again.
    """
    (plan,) = ground.plans
    first, stop = plan.first[block[0]], plan.first[block[-1] + 1]
    reading = [s for s in block if is_reading(plan.spans[s], "all", plan.streams[plan.spans[s].stream].role)]
    both = []
    for alone in (True, False):
        questions = Questions(reading=[(plan.first[s], plan.first[s + 1]) for s in reading])
        for _, chunk in chunks:
            questions.add(chunk, first, stop, alone=alone)
        both.append(ground.needed(questions, min_coverage))
        copied = ground.copied(questions, words=True)
    asked = _question(plan, reading)
    found: list[int] = []
    again = _told_again(plan, known, block, reading, [chunk for _, chunk in chunks])
    for (span, _), by_itself, by_all, floor in zip(chunks, *both, map(max, copied, again), strict=True):
        needed = by_itself
        if needed < 0 and by_all >= 0 and -1 not in found:
            needed = max(by_all, *found, -1)
        if needed >= 0:
            needed = max(needed, floor)
            if plan.spans[span].source_kind == "text":
                needed = max(needed, asked)
        found.append(needed)
    return found


def _question(plan: Plan, reading: Sequence[int]) -> int:
    """The last chunk of the user's words, with which he has asked; -1 if he says nothing."""
    own = [c for s in reading if plan.spans[s].source_kind == "text" for c in plan.chunks(s) if plan.text(s, c).strip()]
    return own[-1] if own else -1


def _asked(plan: Plan, block: Sequence[int]) -> str:
    """The user's last questions before an answer, and his last sentence, in lines: of the reading, else from before it."""
    for stop in (block[-1] + 1, block[0]):
        spans = range(block[0] if stop > block[0] else 0, stop)
        own = [
            s
            for s in spans
            if plan.spans[s].source_kind == "text" and plan.streams[plan.spans[s].stream].role == "user"
        ]
        own = own if stop > block[0] else own[-1:]
        texts = [plan.text(s, c).strip() for s in own for c in plan.chunks(s) if plan.text(s, c).strip()]
        if texts:
            return "\n".join(text for text in texts if "?" in text or "？" in text or text is texts[-1])
    return ""


def _needed_by_gold(ground: Ground, block: Sequence[int], chunks: Sequence[int], gold: Sequence[Place]) -> list[int]:
    """What a corpus says that its answer rests on, and every word and run of words that is taken from the reading."""
    (plan,) = ground.plans
    span_of = {(plan.spans[s].message, plan.spans[s].part): s for s in block if plan.spans[s].kind != "header"}
    last = -1
    for place in gold:
        span = span_of[place.message, place.part]
        last = max(last, bisect.bisect_left(plan.chunk_end, place.end, plan.first[span], plan.first[span + 1] - 1))
    first, stop = plan.first[block[0]], plan.first[block[-1] + 1]
    questions = Questions(reading=[(plan.first[s], plan.first[s + 1]) for s in block])
    for chunk in chunks:
        questions.add(chunk, first, stop)
    return [max(last, copied) for copied in ground.copied(questions, words=True)]


def timeline_of(conversation: Conversation, retold: Mapping[int, Retold]) -> Timeline:
    """The timeline of a conversation in which the messages ``retold`` were re-written.

    A piece waits for what its writer had seen: all before the reading, the reading up to its slice, and every earlier piece.
    Everything else waits as under ``turns``.
    """
    streams, spans, _ = spans_of(conversation)
    at = {_where(span): s for s, span in enumerate(spans)}
    opens = {one.task.slices[0][0].where: one for one in retold.values()}
    placing = _Placing(spans)
    for s, span in enumerate(spans):
        if (one := opens.get(_where(span))) is not None:
            _place(placing, one, at)
        elif s not in placing.told:
            placing.put(s, len(span.text), placing.all)
    return placing.timeline(streams)


def _place(placing: _Placing, retold: Retold, at: Mapping[_Where, int]) -> None:
    known = placing.all
    task, chunks = retold.task, retold.chunks()
    parts = [voice for voice in _VOICES if any(one.voice == voice for one in retold.said)]
    ends = dict.fromkeys(parts, 0)
    read = said = low = 0
    for stop in sorted({*(due for _, _, due in chunks), task.last}):
        highs: dict[int, int] = {}
        for piece in (piece for pieces_ in task.slices[low : stop + 1] for piece in pieces_):
            highs[at[piece.where]] = piece.high
        for span, high in highs.items():
            read |= placing.put(span, high, known | read)
        low = stop + 1
        for voice, text in ((voice, text) for voice, text, due in chunks if due == stop):
            ends[voice] += len(text)
            said |= placing.put(at[task.message, parts.index(voice), False], ends[voice], known | read | said)


class _Placing:
    """Chunks in the order in which they are told, with the fewest waits that say the same (see ``to_timeline``)."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = spans
        self._chunks: list[tuple[int, int]] = []
        self._edges: list[list[int]] = []
        self._closure: list[int] = []
        self._on_stream: dict[int, int] = {}
        self.told: set[int] = set()

    @property
    def all(self) -> int:
        """The bit mask of all chunks so far."""
        return (1 << len(self._chunks)) - 1

    def put(self, span: int, end: int, requires: int) -> int:
        """Adds the chunk of a span up to character ``end``, which waits for the chunks in ``requires``; its own bit."""
        stream = self._spans[span].stream
        reached = self._on_stream.get(stream, 0)
        edges = []
        while need := requires & ~reached:
            latest = need.bit_length() - 1
            edges.append(latest)
            reached |= self._closure[latest]
        bit = 1 << len(self._chunks)
        self._chunks.append((span, end))
        self._edges.append(edges)
        self._closure.append(reached | bit)
        self._on_stream[stream] = reached | bit
        self.told.add(span)
        return bit

    def timeline(self, streams: Sequence[Stream]) -> Timeline:
        """The chunks in source order."""
        order = sorted(range(len(self._chunks)), key=self._chunks.__getitem__)
        new = {old: index for index, old in enumerate(order)}
        return Timeline(
            tuple(streams),
            tuple(self._spans),
            [self._chunks[old][0] for old in order],
            [self._chunks[old][1] for old in order],
            [tuple(sorted(new[edge] for edge in self._edges[old])) for old in order],
        )
