"""What assistant text is made of: thoughts, speech, calls, and the results that the model read and never wrote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from typing import Any

from converters.markup.bracket_calls import bracket_calls
from converters.markup.delimiters import fold_empty, surround
from converters.markup.react import ends_with_action, observation_parts, react_parts, step_parts
from converters.markup.thinking import HOLE, split_around_holes, split_thinking, text_parts
from converters.markup.tool_tags import Block, marked_blocks, result_parts
from pipeline.conversation import Message, Part


def assistant_messages(text: str) -> list[Message]:
    """The messages that assistant text consists of: the assistant's, and the tools' with the results that stand in it.

    The markup is told by the text: ReAct, tagged calls and results, think tags; any other text is one text part. Joined,
    the messages rebuild the text. There is at least one message.
    """
    return messages_of(assistant_parts(text))


def assistant_parts(text: str, answered: bool = False) -> tuple[Part, ...]:
    """The parts of assistant text in order, results among them. ``answered``: the next message holds its results."""
    if (parts := react_parts(text)) is not None:
        return parts
    if "<" not in text and "```output" not in text:
        return text_parts(text)
    blocks = marked_blocks(text, answered)
    return _around(text, blocks) if blocks else split_thinking(text)


_ASSISTANT = Message("assistant")


def messages_of(parts: Iterable[Part], whole: Message = _ASSISTANT) -> list[Message]:
    """Parts as messages: results as the tools', the rest as ``whole``'s with its name, weight and times.

    Delimiters without text go to their neighbour in the message, or make an empty text part.
    """
    messages: list[Message] = []
    for result, run in groupby(parts, key=lambda part: part.kind == "tool_result"):
        if result:
            messages.append(Message("tool", tuple(run)))
        else:
            messages.append(replace(whole, parts=fold_empty(run)))
    return messages or [replace(whole, parts=())]


def says_something(messages: Iterable[Message]) -> bool:
    """Whether the assistant says, thinks or calls anything in the messages."""
    return any(
        part.kind == "tool_call" or part.text.strip()
        for message in messages
        if message.role == "assistant"
        for part in message.parts
    )


def read_markup(
    messages: list[Message], unused: dict[str, dict[str, Any]] | None = None, tools: str = ""
) -> tuple[list[Message], dict[str, dict[str, Any]]]:
    """Cuts the text parts of assistant messages as ``assistant_messages`` does, across the messages of a conversation.

    A user's message that consists of tagged results, and one that opens with ``Observation:`` behind an action, are the
    tools' where the assistant made a call right before; so are the tags in a tool's message delimiters. ``tools`` are the
    definitions of the record: bracketed calls name one of them, or of those in a system message. ``unused`` is keyed by the
    index of a message, and comes back with those of the new list. Messages without markup are passed on as they are.
    """
    if not any(map(_may_hold_markup, messages)):
        return messages, unused or {}
    out: list[Message] = []
    first: dict[str, str] = {}
    reacts = False
    known = "\n".join(
        [tools, *(part.text for message in messages if message.role == "system" for part in message.parts)]
    )
    for index, message in enumerate(messages):
        first[str(index)] = str(len(out))
        if message.role == "assistant":
            following = messages[index + 1] if index + 1 < len(messages) else None
            cut, reacts = _cut(message, following, reacts, known)
            out.extend(cut)
        elif message.role in ("user", "tool") and len(message.parts) == 1:
            out.append(_read_result(message, out))
        else:
            out.append(message)
    moved = {first.get(key, key): value for key, value in unused.items()} if unused else {}
    return out, moved


def _may_hold_markup(message: Message) -> bool:
    """A cheap test: what it is False of for each message of a conversation, ``read_markup`` leaves as it is."""
    if message.role == "assistant":
        for part in message.parts:
            text = part.text
            if part.kind == "text" and (
                "<" in text or "```output" in text or "Observation" in text or "Action" in text
            ):
                return True
        return len(message.parts) == 1 and message.parts[0].text.lstrip().startswith("[")
    return bool(message.parts) and message.parts[0].text.lstrip()[:1] in ("<", "O", "E") and message.role != "system"


def _cut(message: Message, following: Message | None, reacts: bool, known: str) -> tuple[list[Message], bool]:
    """An assistant's message as the messages it consists of; whether the conversation is a ReAct transcript."""
    if not any(part.kind == "text" for part in message.parts):
        return [message], reacts
    if len(message.parts) == 1 and (calls := bracket_calls(message.parts[0].text, known)):
        return [replace(message, parts=_placed(calls, message.parts[0]))], reacts
    answer = following.parts[0].text if following is not None and _is_text(following) else ""
    called = any(part.kind == "tool_call" for part in message.parts)
    returned = following is not None and following.role == "tool" and not called
    parts: list[Part] = []
    for part in message.parts:
        if part.kind != "text":
            parts.append(part)
            continue
        cut: tuple[Part, ...] | None = None
        if (answer or reacts or returned) and react_parts(part.text) is None:
            observed = (returned or observation_parts(answer) is not None) and ends_with_action(part.text)
            if observed or reacts:
                cut = step_parts(part.text)
                reacts = reacts or cut is not None
        if cut is None:
            cut = assistant_parts(part.text, bool(answer) and result_parts(answer) is not None)
        parts.extend(_placed(cut, part))
    if parts == list(message.parts):
        return [message], reacts
    return messages_of(parts, message), reacts


def _placed(cut: tuple[Part, ...], part: Part) -> tuple[Part, ...]:
    """The parts cut out of ``part``, with its delimiters around them."""
    if not cut:
        return (part,)
    if part.interrupted:
        cut = (*cut[:-1], replace(cut[-1], interrupted=True))
    return surround(cut, part.before, part.after)


def _read_result(message: Message, before: list[Message]) -> Message:
    """A message as a tool's, where it consists of results that answer a call."""
    part = message.parts[0]
    if message.role == "tool":
        if part.kind != "tool_result" or "<" not in part.text or (results := result_parts(part.text)) is None:
            return message
        results = tuple(replace(result, name=part.name, call_id=part.call_id, error=part.error) for result in results)
        return replace(message, parts=surround(results, part.before, part.after))
    called = bool(before) and any(p.kind == "tool_call" for p in before[-1].parts)
    if part.kind != "text" or not called:
        return message
    found = result_parts(part.text)
    if found is None and before[-1].parts[-1].kind == "tool_call":
        found = observation_parts(part.text)
    if found is None:
        return message
    return replace(message, role="tool", parts=_placed(found, part))


def _is_text(message: Message) -> bool:
    return message.role == "user" and len(message.parts) == 1 and message.parts[0].kind == "text"


def _around(text: str, blocks: list[Block]) -> tuple[Part, ...]:
    """The parts of a text with blocks: what stands between them is cut at think tags, as if they were not there."""
    holed: list[str] = []
    position = 0
    for block in blocks:
        holed += (text[position : block.start], HOLE * (block.end - block.start))
        position = block.end
    holed.append(text[position:])
    parts: list[Part] = []
    waiting = iter([*blocks, Block(len(text) + 1, len(text) + 1, ())])
    block = next(waiting)
    position = 0
    for part in split_around_holes("".join(holed)):
        start, end = position + len(part.before), position + len(part.before) + len(part.text)
        inside: list[Block] = []
        while block.start < end:
            inside.append(block)
            block = next(waiting)
        pieces = _pieces(text, start, end, inside, part)
        parts.extend(surround(pieces, part.before, part.after))
        position = end + len(part.after)
    return tuple(parts)


def _pieces(text: str, start: int, end: int, blocks: list[Block], part: Part) -> tuple[Part, ...]:
    """The stretch of one part as pieces of its kind and the blocks between them; white space beside a block is its."""
    if not blocks:
        return (replace(part, before="", after=""),)
    pieces: list[Part] = []
    for block in blocks:
        position = _behind_block(text, start, block.start, pieces)
        said = text[position : block.start].rstrip()
        if said:
            pieces.append(Part(part.kind, said))
        pieces.extend(surround(block.parts, text[position + len(said) : block.start], ""))
        start = block.end
    position = _behind_block(text, start, end, pieces)
    if position < end or part.interrupted:
        pieces.append(Part(part.kind, text[position:end], interrupted=part.interrupted))
    return tuple(pieces)


def _behind_block(text: str, start: int, end: int, pieces: list[Part]) -> int:
    """Gives the white space at ``start`` to the block before it, the last piece, if there is one; where it ends."""
    if not pieces:
        return start
    position = end - len(text[start:end].lstrip())
    pieces[-1:] = surround((pieces[-1],), "", text[start:position])
    return position
