"""Dialogues rendered as one text: ``{"text": "<|im_start|>user\\n…<|im_end|>\\n…"}``, in the chat templates of the field.

ChatML (OpenAI; Qwen, Yi, SmolLM), Llama 3, Llama 2 and Mistral (``[INST]``), Gemma, Phi 3 and Zephyr (``<|user|>``),
Harmony (gpt-oss), Anthropic's ``Human:`` and ``Assistant:`` (HH-RLHF), Guanaco's ``### Human:``, Alpaca's
``### Instruction:``, Glaive's ``USER:`` and ``FUNCTION RESPONSE:``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from converters.markup.assistant import read_markup
from converters.markup.delimiters import part_between, surround
from converters.markup.json_calls import json_calls
from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    SHAREGPT_ROLES,
    as_object,
    as_text,
    conversation,
    opening_keys,
    opening_messages,
    rest,
    role_of,
    tools_of,
)
from pipeline.conversation import Conversation, Message, Part, PartKind, RecordError, Role

FORMAT = "chat_text"
UNIT = "record"
SHAPE = '{"text": "<|im_start|>user\\n…<|im_end|>…"}'
EXAMPLE = {
    "text": "<|im_start|>system\nYou help in a workshop.<|im_end|>\n<|im_start|>user\nIs the kiln warm?<|im_end|>\n"
    "<|im_start|>assistant\nYes, it is at 412 degrees.<|im_end|>\n"
}

_KEYS = ("text", "chat", "prompt", "content")
#: Records with one of these are another format's, of which a rendered text is a copy or a piece.
_OTHERS = frozenset(
    {"instruction", "completion", "response", "output", "answer", "chosen", "conversation", *MESSAGE_LIST_KEYS}
)
_ROLES: Mapping[str, Role] = {**SHAREGPT_ROLES, "ipython": "tool"}


@dataclass(frozen=True, slots=True)
class _Turn:
    """A turn stands at ``text[start:end]`` and says ``text[said_from:said_to]`` but for the white space at its ends."""

    role: Role
    start: int
    said_from: int
    said_to: int
    end: int
    kind: PartKind = "text"
    name: str | None = None
    cut_off: bool = False


_Reader = Callable[[str, str], list[_Turn]]


def detect(unit: Any) -> bool:
    """Whether there is a text that opens as one of the templates does."""
    if not isinstance(unit, dict) or not _OTHERS.isdisjoint(unit):
        return False
    return any(isinstance(unit.get(key), str) and is_rendered(unit[key]) for key in _KEYS)


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/messages.md lists the codes."""
    record = as_object(unit, "the record")
    present = [key for key in _KEYS if isinstance(record.get(key), str)]
    if not present:
        raise RecordError("missing_field", f"the record has no text; looked for {', '.join(_KEYS)}")
    key = next((key for key in present if is_rendered(record[key])), present[0])
    turns = rendered_messages(as_text(record[key], key), key)
    tools, tool_keys = tools_of(record)
    messages, _ = read_markup([*opening_messages(record), *turns])
    yield conversation(messages, rest(record, tool_keys | {key, *opening_keys(record)}), tools=tools)


def is_rendered(text: str) -> bool:
    """Whether a text opens as a rendered dialogue does. It may not parse for all that."""
    return _reader(text) is not None


def rendered_messages(text: str, where: str) -> list[Message]:
    """The turns of a rendered dialogue, the assistant's texts whole; joined, they rebuild the text.

    Raises RecordError unparsed_text, with the place, where the text is not turns from end to end; unknown_role.
    """
    reader = _reader(text)
    if reader is None:
        raise RecordError("unparsed_text", f"{where} opens with {text.strip()[:40]!r}, which is no known chat template")
    messages: list[Message] = []
    for turn in reader(text, where):
        message = _message(text, turn)
        if turn.kind == "context":
            messages[-1] = replace(messages[-1], parts=messages[-1].parts + message.parts)
        else:
            messages.append(message)
    return messages


def _message(text: str, turn: _Turn) -> Message:
    part = part_between(text, turn.start, turn.said_from, turn.said_to, turn.end, turn.kind)
    if turn.role == "tool":
        return Message("tool", (replace(part, kind="tool_result", name=turn.name),))
    if turn.kind == "tool_call":
        return Message(turn.role, (replace(part, name=turn.name),))
    if turn.role == "assistant" and part.text.startswith(("<|python_tag|>", "<functioncall>")):
        return Message(turn.role, _marked_call(part))
    return Message(turn.role, (replace(part, interrupted=turn.cut_off and part.text != ""),), name=turn.name)


_SINGLE_QUOTED = re.compile(r"""\s*\{\s*"name"\s*:\s*"([^"]+)"\s*,\s*"arguments"\s*:\s*'(.*)'\s*\}""", re.DOTALL)


def _marked_call(part: Part) -> tuple[Part, ...]:
    """The calls behind a mark that opens the turn: Llama 3's, and Glaive's, whose arguments stand in single quotes."""
    end = part.text.index(">") + 1
    mark, called = part.text[:end], part.text[end:]
    before = part.before + mark
    if match := _SINGLE_QUOTED.fullmatch(called):
        call = part_between(called, 0, match.start(2), match.end(2), len(called), "tool_call", match[1])
        return surround((call,), before, part.after)
    try:
        calls = json_calls(called)
    except ValueError:
        calls = ()
    if not calls:
        calls = (part_between(called, 0, 0, len(called), len(called), "tool_call", mark.strip("<|>")),)
    return surround(calls, before, part.after)


# --- the templates -------------------------------------------------------------------------------------------------------

_BEGIN = re.compile(r"(?:\s|<s>|<\|begin_of_text\|>|<bos>|<\|startoftext\|>|<\|endoftext\|>)*")
_END = re.compile(r"(?:\s|</s>|<\|endoftext\|>|<\|end_of_text\|>|<eos>)*")


def _reader(text: str) -> _Reader | None:
    """What reads the template that the text opens with."""
    start = _behind(_BEGIN, text, 0)
    head = text[start : start + 24]
    if head.startswith("<"):
        for template in _MARKED:
            if (match := template.marks.match(text, start)) and match["role"]:
                return lambda text, where, template=template: _marked_turns(text, where, template)  # type: ignore[misc]
        return _harmony_turns if _HARMONY.match(text, start) else None
    if head.startswith("[INST]"):
        return _inst_turns
    if head.startswith("Human:"):
        return _human_turns if "\n\nAssistant:" in text else None
    if head.startswith("USER:"):
        return _glaive_turns if "\nASSISTANT:" in text else None
    if head.startswith(("### Human:", "### System:")):
        return _guanaco_turns
    if head.startswith(("### Instruction:", "Below is an instruction")) and "### Response:" in text:
        return _alpaca_turns
    return None


def _behind(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _unparsed(text: str, position: int, where: str, expected: str) -> RecordError:
    found = text[position : position + 40] or "the end"
    return RecordError("unparsed_text", f"{where} at character {position} is {found!r}, expected {expected}")


@dataclass(frozen=True, slots=True)
class _Marked:
    """A template of marked turns. ``marks``: an opening mark, with its role, or a closing one.

    ``ends``: the next opening mark ends a turn as well.
    """

    name: str
    marks: re.Pattern[str]
    ends: bool = False


_MARKED = (
    _Marked(
        "ChatML", re.compile(r"<\|im_start\|>(?P<role>[\w-]+)(?: name=(?P<name>\S+))?[ \t]*(?:\n|\Z)|<\|im_end\|>")
    ),
    _Marked(
        "Llama 3",
        re.compile(r"<\|start_header_id\|>(?P<role>[\w-]+)(?P<name>)<\|end_header_id\|>|<\|(?:eot|eom)_id\|>"),
    ),
    _Marked("Gemma", re.compile(r"<start_of_turn>(?P<role>\w+)(?P<name>)[ \t]*(?:\n|\Z)|<end_of_turn>")),
    _Marked(
        "<|user|>",
        re.compile(r"<\|(?P<role>system|user|assistant|tool|observation)(?P<name>)\|>|<\|end\|>|</s>|<\|endoftext\|>"),
        ends=True,
    ),
)


def _marked_turns(text: str, where: str, template: _Marked) -> list[_Turn]:
    marks = list(template.marks.finditer(text))
    turns: list[_Turn] = []
    start, position, index = 0, _behind(_BEGIN, text, 0), 0
    while position < len(text):
        while index < len(marks) and marks[index].start() < position:
            index += 1
        opening = marks[index] if index < len(marks) else None
        if opening is None or opening.start() != position or not opening["role"]:
            raise _unparsed(text, position, where, f"a turn of {template.name}")
        role = role_of(opening["role"], _ROLES, f"{where} at character {position}")
        index += 1
        closing = marks[index] if index < len(marks) else None
        if closing is not None and closing["role"] and not template.ends:
            raise _unparsed(text, closing.start(), where, "the end of the turn before it")
        end = closing.start() if closing else len(text)
        position = end if closing is None or closing["role"] else _behind(_END, text, closing.end())
        name = opening["name"] or None
        turns.append(_Turn(role, start, opening.end(), end, position, name=name, cut_off=closing is None))
        start = position
    return turns


_HARMONY = re.compile(
    r"<\|start\|>(?P<author>[^<\s]+)(?P<to>[^<]*)(?P<channel>(?:<\|(?:channel|constrain)\|>[^<]*)*)<\|message\|>"
)
_HARMONY_END = re.compile(r"<\|(?:end|call|return)\|>")
_RECIPIENT = re.compile(r"\sto=([^\s<]+)")


def _harmony_turns(text: str, where: str) -> list[_Turn]:
    """Messages by author, channel and recipient; of an assistant's, those to a tool are calls."""
    turns: list[_Turn] = []
    start, position = 0, _behind(_BEGIN, text, 0)
    while position < len(text):
        header = _HARMONY.match(text, position)
        if header is None and text[position:].strip() == "<|start|>assistant":
            return [*turns, _Turn("assistant", start, len(text), len(text), len(text))]
        if header is None:
            raise _unparsed(text, position, where, "a message of Harmony")
        closing = _HARMONY_END.search(text, header.end())
        end = closing.start() if closing else len(text)
        if (following := text.find("<|start|>", header.end(), end)) >= 0:
            raise _unparsed(text, following, where, "the end of the message before it")
        position = _behind(_END, text, closing.end()) if closing else len(text)
        author, recipient = header["author"], _RECIPIENT.search(header["to"] + header["channel"])
        tool = author not in _ROLES and recipient is not None and recipient[1] == "assistant"
        role = "tool" if tool else role_of(author, _ROLES, f"{where} at character {header.start()}")
        kind: PartKind = "text"
        name = author if tool else None
        if role == "assistant" and recipient is not None and recipient[1] not in ("all", "user"):
            kind, name = "tool_call", recipient[1]
        elif role == "assistant" and header["channel"].startswith("<|channel|>analysis"):
            kind = "thinking"
        turns.append(_Turn(role, start, header.end(), end, position, kind, name, cut_off=closing is None))
        start = position
    return turns


_INST = re.compile(r"\[/?INST\]|</s>")
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_MISTRAL_TOOLS = re.compile(r"\[/?(?:TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS)\]")


def _inst_turns(text: str, where: str) -> list[_Turn]:
    """Users between ``[INST]`` and ``[/INST]``, answers behind them; the first user's text may hold the system's."""
    if match := _MISTRAL_TOOLS.search(text):
        raise _unparsed(text, match.start(), where, "no mark of Mistral's tools, which are not read")
    marks = list(_INST.finditer(text))
    turns: list[_Turn] = []
    start, position, index = 0, _behind(_BEGIN, text, 0), 0
    while position < len(text):
        while index < len(marks) and marks[index].start() < position:
            index += 1
        if index + 1 >= len(marks) or marks[index].start() != position or marks[index][0] != "[INST]":
            raise _unparsed(text, position, where, "[INST] … [/INST]")
        opening, closing = marks[index : index + 2]
        if closing[0] != "[/INST]":
            raise _unparsed(text, closing.start(), where, "[/INST]")
        said_from = opening.end()
        if not turns and (system := _SYSTEM.match(text, said_from)) and system.end() <= closing.start():
            turns.append(_Turn("system", start, system.start(1), system.end(1), system.end()))
            start = said_from = system.end()
        turns.append(_Turn("user", start, said_from, closing.start(), closing.end()))
        index += 2
        end = marks[index].start() if index < len(marks) else len(text)
        ended = index < len(marks) and marks[index][0] == "</s>"
        if index < len(marks) and marks[index][0] == "[/INST]":
            raise _unparsed(text, end, where, "[INST] before it")
        position = _behind(_BEGIN, text, _behind(_END, text, marks[index].end())) if ended else end
        turns.append(_Turn("assistant", closing.end(), closing.end(), end, position))
        start = position
    return turns


_LABELS: Mapping[str, Role] = {
    "Human": "user",
    "USER": "user",
    "Assistant": "assistant",
    "ASSISTANT": "assistant",
    "System": "system",
    "FUNCTION RESPONSE": "tool",
}


def _human_turns(text: str, where: str) -> list[_Turn]:
    return _labelled_turns(text, _HUMAN)


def _guanaco_turns(text: str, where: str) -> list[_Turn]:
    return _labelled_turns(text, _GUANACO)


def _glaive_turns(text: str, where: str) -> list[_Turn]:
    return _labelled_turns(text, _GLAIVE)


@dataclass(frozen=True, slots=True)
class _Labelled:
    """A template of turns behind labels: the first one's, and those further on."""

    first: re.Pattern[str]
    further: re.Pattern[str]


def _labelled(between: str, label: str) -> _Labelled:
    return _Labelled(re.compile(label), re.compile(between + label))


_HUMAN = _labelled("\n\n", "(Human|Assistant|System):")
_GUANACO = _labelled("", "### (Human|Assistant|System):")
_GLAIVE = _labelled("\n", "(USER|ASSISTANT|FUNCTION RESPONSE):")


def _labelled_turns(text: str, template: _Labelled) -> list[_Turn]:
    """A turn reaches to the next label; an end token there is a delimiter."""
    first = template.first.match(text, _behind(_BEGIN, text, 0))
    if first is None:
        return []
    found = [first, *template.further.finditer(text, first.end())]
    ends = [*(match.start() for match in found[1:]), len(text)]
    return [
        _Turn(_LABELS[match[1]], match.start() if index else 0, match.end(), _said_to(text, match.end(), end), end)
        for index, (match, end) in enumerate(zip(found, ends, strict=True))
    ]


_ENDED = re.compile(r"(?:</s>|<\|endoftext\|>|<\|end_of_text\|>|<eos>)\s*\Z")


def _said_to(text: str, start: int, end: int) -> int:
    tail = max(start, end - 40)
    match = _ENDED.search(text[tail:end])
    return tail + match.start() if match else end


_HEADING = re.compile(r"^### (Instruction|Input|Response):", re.MULTILINE)
_FOLLOWS = {
    "": ("Instruction",),
    "Instruction": ("Input", "Response"),
    "Input": ("Response",),
    "Response": ("Instruction",),
}


def _alpaca_turns(text: str, where: str) -> list[_Turn]:
    """The text before the first heading is the system's; a heading out of its place is text."""
    headings: list[re.Match[str]] = []
    for match in _HEADING.finditer(text):
        if match[1] in _FOLLOWS[headings[-1][1] if headings else ""]:
            headings.append(match)
    if not headings or headings[-1][1] != "Response":
        raise _unparsed(text, len(text), where, "### Response:")
    turns: list[_Turn] = []
    start, first = 0, headings[0].start()
    if text[_behind(_BEGIN, text, 0) : first].strip():
        turns.append(_Turn("system", 0, _behind(_BEGIN, text, 0), first, first))
        start = first
    ends = [*(match.start() for match in headings[1:]), len(text)]
    for heading, end in zip(headings, ends, strict=True):
        said_to = _said_to(text, heading.end(), end)
        role: Role = "assistant" if heading[1] == "Response" else "user"
        kind: PartKind = "context" if heading[1] == "Input" else "text"
        turns.append(_Turn(role, start, heading.end(), said_to, end, kind))
        start = end
    return turns
