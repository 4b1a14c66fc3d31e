"""Segments: conversations longer than the window are cut between turns; nothing is dropped.

Every segment repeats the leading system messages and the tool definitions, and its rows start from 0. What the model says
is never cut, nor a user's message from its answer; a tool's result that is longer than the window goes on in the next
segment, as far as the window has room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.conversation import Conversation, Message, Part, RecordError
from pipeline.script import Script


def leading(conversation: Conversation) -> int:
    """How many system messages the conversation starts with: the part that every segment repeats."""
    return next((i for i, m in enumerate(conversation.messages) if m.role != "system"), len(conversation.messages))


def cut_segments(
    conversation: Conversation,
    cells: Sequence[int],
    fixed: int,
    max_cells: int,
    origin: Sequence[int] | None = None,
) -> list[tuple[int, ...]]:
    """The message indices of each segment, the repeated ones first.

    ``cells[i]`` are the cells of message ``i``; ``fixed`` those of the tool definitions, which every segment holds. Cuts
    lie before a user's turn where that is enough, else before an assistant's message that no call is open at, else before a
    tool's message, and always between pieces of one message (those of one ``origin``, see ``Expanded``). Raises
    RecordError (``exceeds_window``) if a piece that cannot be cut is longer than ``max_cells``.
    """
    head = leading(conversation)
    room = max_cells - fixed - sum(cells[:head])
    segments: list[list[int]] = []
    size = 0
    for turn in _turns(conversation, head):
        turn_size = sum(cells[i] for i in turn)
        pieces = [turn] if turn_size <= room else list(_fitting_steps(conversation.messages, turn, cells, room))
        for piece in pieces:
            piece_size = sum(cells[i] for i in piece)
            if piece_size > room:
                raise RecordError(
                    "exceeds_window",
                    f"messages {piece[0]} to {piece[-1]} need {piece_size} cells, {max(room, 0)} are left of {max_cells}",
                )
            again = origin is not None and segments and origin[segments[-1][-1]] == origin[piece[0]]
            if not segments or again or size + piece_size > room:
                segments.append([])
                size = 0
            segments[-1].extend(piece)
            size += piece_size
    if not segments:
        raise RecordError(
            "exceeds_window", f"the system messages need {sum(cells) + fixed} cells, the window is {max_cells}"
        )
    return [(*range(head), *segment) for segment in segments]


@dataclass(frozen=True, slots=True)
class Expanded:
    """A conversation in which results longer than the window are several messages.

    ``origin[i]``: the message of the whole conversation that message ``i`` is of, or is a piece of.
    """

    conversation: Conversation
    origin: tuple[int, ...]
    cells: list[int]


#: The end offsets of the pieces of a part's text (message, part), each of at most so many tokens, with their tokens.
CutText = Callable[[int, int, int], list[tuple[int, int]]]


def split_results(conversation: Conversation, cells: Sequence[int], room: int, cut: CutText) -> Expanded:
    """Makes several messages of each tool message with a result that needs more than ``room`` cells.

    Pieces keep the number of their part; all but the last are ``interrupted``. Only the first still answers a call.
    """
    messages: list[Message] = []
    origin: list[int] = []
    sizes: list[int] = []
    for i, message in enumerate(conversation.messages):
        large = message.role == "tool" and cells[i] > room > 0 and message.parts
        p = max(range(len(message.parts)), key=lambda j: len(message.parts[j].text)) if large else 0
        if not large or message.parts[p].kind != "tool_result":
            messages.append(message)
            origin.append(i)
            sizes.append(cells[i])
            continue
        pieces = cut(i, p, room - room // 16 - 16)
        start = 0
        for n, (end, tokens) in enumerate(pieces):
            part = replace(message.parts[p], text=message.parts[p].text[start:end], interrupted=n + 1 < len(pieces))
            if n:
                part = Part("text", part.text, interrupted=part.interrupted)
            before = message.parts[:p] if n == 0 else (Part("text"),) * p
            behind = message.parts[p + 1 :] if n + 1 == len(pieces) else ()
            messages.append(replace(message, parts=(*before, part, *behind)))
            origin.append(i)
            sizes.append(tokens)
            start = end
        rest = cells[i] - sum(sizes[-len(pieces) :])
        sizes[-1] += max(rest, 1)
        sizes[-len(pieces)] += max(rest, 1)
    return Expanded(replace(conversation, messages=tuple(messages)), tuple(origin), sizes)


def segment_of(conversation: Conversation, messages: Sequence[int]) -> Conversation:
    """The conversation with only the given messages."""
    return replace(conversation, messages=tuple(conversation.messages[i] for i in messages))


def _turns(conversation: Conversation, head: int) -> list[list[int]]:
    """Runs of messages that start where a user speaks after someone else."""
    turns: list[list[int]] = []
    for i in range(head, len(conversation.messages)):
        starts = conversation.messages[i].role == "user" and (i == head or conversation.messages[i - 1].role != "user")
        if starts or not turns:
            turns.append([])
        turns[-1].append(i)
    return turns


def _fitting_steps(
    messages: Sequence[Message], turn: Sequence[int], cells: Sequence[int], room: int
) -> Iterator[list[int]]:
    for step in _steps(messages, turn):
        if sum(cells[i] for i in step) <= room:
            yield step
            continue
        piece: list[int] = []
        for i in step:
            if piece and messages[i].role == "tool":
                yield piece
                piece = []
            piece.append(i)
        yield piece


def _steps(messages: Sequence[Message], turn: Sequence[int]) -> list[list[int]]:
    """A turn cut before assistant messages at which every call that will be answered has been."""
    steps: list[list[int]] = []
    open_calls = 0
    for i in turn:
        if not steps or (messages[i].role == "assistant" and open_calls <= 0 and messages[i - 1].role != "user"):
            steps.append([])
            open_calls = 0
        steps[-1].append(i)
        open_calls += sum(part.kind == "tool_call" for part in messages[i].parts)
        open_calls -= sum(part.kind == "tool_result" for part in messages[i].parts)
    return steps


def cut_script(script: Script, cells: Sequence[int], max_cells: int) -> list[tuple[tuple[int, ...], Script]]:
    """The utterances of each segment, and its script. Cuts lie where no stream is in the middle of saying something.

    ``cells[i]`` are the cells of utterance ``i``. Raises RecordError (``exceeds_window``) if a stretch without such a place
    is longer than ``max_cells``, in cells or, on a clock of real time, in rows.
    """
    segments: list[list[int]] = []
    held = began = 0
    for piece in _quiet_pieces(script):
        said = sum(cells[i] for i in piece)
        start, stop = script.utterances[piece[0]].starts[0], max(script.utterances[i].stops[-1] for i in piece)
        if segments and max(held + said, _rows(script, began, stop)) <= max_cells:
            segments[-1].extend(piece)
            held += said
        elif (size := max(said, _rows(script, start, stop))) <= max_cells:
            segments.append(piece)
            held, began = said, start
        else:
            raise RecordError(
                "exceeds_window",
                f"utterances {piece[0]} to {piece[-1]} overlap without a pause: {size} cells, the window is {max_cells}",
            )
    return [(tuple(s), replace(script, utterances=tuple(script.utterances[i] for i in s))) for s in segments]


def _quiet_pieces(script: Script) -> Iterator[list[int]]:
    piece: list[int] = []
    until = 0
    for i, utterance in enumerate(script.utterances):
        if piece and utterance.starts[0] >= until:
            yield piece
            piece = []
        piece.append(i)
        until = max(until, utterance.stops[-1])
    if piece:
        yield piece


def rows_of(script: Script) -> int:
    """The rows that a script lasts on a clock of real time, however little is said; 0 on other clocks."""
    if not script.utterances:
        return 0
    return _rows(script, script.utterances[0].starts[0], max(u.stops[-1] for u in script.utterances))


def _rows(script: Script, first: int, last: int) -> int:
    return 0 if script.ms_per_row is None else int((last - first) / script.ms_per_row) + 1
