"""Tags in a user's text that stand for the media of a record: ``<image>`` with ``image`` or ``images`` beside the messages.

LLaVA (Liu et al. 2023, arXiv 2304.08485) writes them so, and LLaMA-Factory's sets, with ``<video>`` and ``<audio>`` too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from converters.markup.delimiters import surround
from converters.shared.fields import media_reference
from pipeline.conversation import Message, Part

_KEYS: Mapping[str, tuple[str, ...]] = {
    "image": ("images", "image"),
    "video": ("videos", "video"),
    "audio": ("audios", "audio"),
}
_TAG = re.compile(r"<(image|video|audio)>")
_SPACE = re.compile(r"\s*")


def place_media(messages: list[Message], record: Mapping[str, Any]) -> tuple[list[Message], set[str]]:
    """The messages with the record's media in the place of their tags, and the keys that this uses up.

    Only where the users' texts have as many tags of a kind as the record has items of it; other tags are text. A tag and
    the white space beside it are the source of its ``media`` part. Raises RecordError.
    """
    items = {kind: (key, _items(record[key])) for kind, keys in _KEYS.items() for key in keys if record.get(key)}
    if not items:
        return messages, set()
    texts = [part.text for message in messages for part in message.parts if _is_asked(message, part)]
    tags = [tag for text in texts for tag in _TAG.findall(text)]
    placed = {kind: iter(found) for kind, (_, found) in items.items() if found and tags.count(kind) == len(found)}
    if not placed:
        return messages, set()
    out = [
        replace(m, parts=tuple(p for part in m.parts for p in (_cut(part, placed) if _is_asked(m, part) else (part,))))
        for m in messages
    ]
    return out, {items[kind][0] for kind in placed}


def _is_asked(message: Message, part: Part) -> bool:
    return message.role == "user" and part.kind == "text" and part.source is None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _cut(part: Part, placed: Mapping[str, Iterator[Any]]) -> tuple[Part, ...]:
    parts: list[Part] = []
    position = 0
    for tag in _TAG.finditer(part.text):
        if tag[1] not in placed:
            continue
        said = part.text[position : tag.start()].rstrip()
        if said:
            parts.append(replace(part, text=said, before="", after=""))
        start, position = position + len(said), _skip_space(part.text, tag.end())
        reference = media_reference({"type": tag[1], tag[1]: next(placed[tag[1]])})
        parts.append(Part("media", reference, source=part.text[start:position]))
    if not parts:
        return (part,)
    if position < len(part.text):
        parts.append(replace(part, text=part.text[position:], before="", after=""))
    return surround(tuple(parts), part.before, part.after)


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
