"""Dialogues without roles: a list of what two speakers say in turn, or of pairs of a question and its answer.

Lists of texts: UltraChat (Ding et al. 2023, arXiv 2305.14233, ``data``), LIMA (Zhou et al. 2023, arXiv 2305.11206,
``conversations``), DailyDialog (Li et al. 2017, arXiv 1710.03957, ``dialog``), SODA (Kim et al. 2023, arXiv 2212.10465,
``dialogue`` with ``speakers``). Pairs: Capybara (``conversation``: ``input``, ``output``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from converters.markup.assistant import read_markup
from converters.markup.thinking import text_parts
from converters.shared.fields import (
    as_list,
    as_object,
    as_text,
    conversation,
    first_key,
    opening_keys,
    opening_messages,
    optional_text,
    rest,
    wrong_type,
)
from pipeline.conversation import Conversation, Message, RecordError

FORMAT = "dialogue"
UNIT = "record"
SHAPE = '{"dialogue": [text], "speakers": [name]} or {"conversation": [{"input", "output"}]}'
EXAMPLE = {
    "dialogue": ["Which saw do I take for a curve?", "The coping saw.", "And for a long cut?", "The rip saw."],
    "speakers": ["Ada", "Ben", "Ada", "Ben"],
    "narrative": "Ada is new in the workshop and asks Ben about saws.",
}

_LIST_KEYS = ("dialog", "dialogue", "conversation", "conversations", "data")
_PAIRS = (("input", "output"), ("human", "assistant"), ("user", "assistant"), ("prompt", "response"))
#: Unused keys of messages, by the index of the message.
_Unused = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Options:
    """``model``: whether the model is the one who speaks second, or the one who speaks first."""

    model: Literal["second", "first"] = "second"


def detect(unit: Any) -> bool:
    """Whether there is a list of texts or of pairs."""
    key = first_key(unit, _LIST_KEYS) if isinstance(unit, dict) else None
    items = unit[key] if key else None
    if not isinstance(items, list) or not items:
        return False
    if all(isinstance(item, str) for item in items):
        return key != "data" or (len(items) > 1 and set(unit) <= {"id", "data"})
    return all(isinstance(item, dict) and _pair(item) is not None and "role" not in item for item in items)


def convert(unit: Any, options: Options = Options()) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/messages.md lists the codes."""
    record = as_object(unit, "the record")
    key = first_key(record, _LIST_KEYS)
    if key is None:
        raise RecordError("missing_field", f"the record has no dialogue; looked for {', '.join(_LIST_KEYS)}")
    items = as_list(record[key], key)
    opening = opening_messages(record)
    used = {key, *opening_keys(record)}
    if not items:
        raise RecordError("no_messages", f"{key} is empty")
    if isinstance(items[0], dict):
        said, unused = _pairs(items, key, len(opening))
    else:
        speakers = _speakers(record, len(items))
        used |= {"speakers"} if speakers else set()
        said, unused = _turns(items, speakers, key, options), {}
    messages, unused = read_markup([*opening, *said], unused)
    yield conversation(messages, rest(record, used), unused)


def _pairs(items: list[Any], key: str, offset: int) -> tuple[list[Message], _Unused]:
    messages: list[Message] = []
    unused: _Unused = {}
    for index, raw in enumerate(items):
        where = f"{key}[{index}]"
        item = as_object(raw, where)
        names = _pair(item)
        if names is None:
            raise RecordError("missing_field", f"{where} has no pair of a question and its answer")
        asked, answered = (optional_text(item, name, f"{where}.{name}") for name in names)
        if left := rest(item, names):
            unused[str(len(messages) + offset)] = left
        messages += [Message("user", text_parts(asked)), Message("assistant", text_parts(answered))]
    return messages, unused


def _turns(items: list[Any], speakers: list[str], key: str, options: Options) -> list[Message]:
    """What is said in turn; with ``speakers``, the model is the second of them, or the first, and all others are users."""
    names = speakers or ["first" if index % 2 == 0 else "second" for index in range(len(items))]
    order = list(dict.fromkeys(names))
    model = order[0] if options.model == "first" else order[1] if len(order) > 1 else None
    messages = []
    for index, (item, name) in enumerate(zip(items, names, strict=True)):
        parts = text_parts(as_text(item, f"{key}[{index}]"))
        messages.append(
            Message("assistant" if name == model else "user", parts, name=(name or None) if speakers else None)
        )
    return messages


def _speakers(record: dict[str, Any], turns: int) -> list[str]:
    """Who says each turn, by name; [] where the record does not say."""
    if record.get("speakers") is None:
        return []
    speakers = [as_text(name, f"speakers[{i}]") for i, name in enumerate(as_list(record["speakers"], "speakers"))]
    if len(speakers) != turns:
        raise wrong_type(record["speakers"], "speakers", f"a list of {turns} names")
    return speakers


def _pair(item: dict[str, Any]) -> tuple[str, str] | None:
    return next(
        (pair for pair in _PAIRS if all(key in item and isinstance(item[key], str | None) for key in pair)), None
    )
