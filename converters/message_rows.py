"""Message trees as a table: one message per row, ``{"message_id", "parent_id", "text", "role"}``.

The Hub's form of OpenAssistant Conversations (Köpf et al. 2023, arXiv 2304.07327). A file is one unit, since the rows of a
tree may stand anywhere in it; the trees become what ``message_tree`` makes of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from converters import message_tree
from converters.message_tree import Options
from converters.shared.fields import as_list, as_object, as_text, required
from pipeline.conversation import Conversation, RecordError

FORMAT = "message_rows"
UNIT = "file"
SHAPE = 'rows {"message_id", "parent_id", "text", "role": "prompter" | "assistant", "message_tree_id"}'
EXAMPLE = [
    {"message_id": "m1", "parent_id": None, "text": "How do I sharpen a plane iron?", "role": "prompter"},
    {"message_id": "m2", "parent_id": "m1", "text": "Hone the bevel, then take off the burr.", "role": "assistant"},
    {"message_id": "m3", "parent_id": "m1", "text": "Take it to a grinder.", "role": "assistant"},
    {"message_id": "m4", "parent_id": "m2", "text": "At what angle?", "role": "prompter"},
]

#: What all rows of a tree say of the tree.
_OF_TREE = ("message_tree_id", "tree_state")
_ALL_PATHS = Options()


def detect(unit: Any) -> bool:
    """Whether it is a message that names itself and the one before it, or none."""
    return (
        isinstance(unit, dict)
        and isinstance(unit.get("message_id"), str)
        and isinstance(unit.get("text"), str)
        and "parent_id" in unit
        and isinstance(unit["parent_id"], str | None)
        and unit.get("role") in tuple(message_tree.ROLES)
        and "replies" not in unit
    )


def convert(unit: Any, options: Options = _ALL_PATHS) -> Iterator[Conversation]:
    """The conversations of each tree, in the order of their roots. Raises RecordError.

    docs/formats/trees-and-injection.md lists the codes.
    """
    rows = as_list(unit, "the file")
    if not rows:
        raise RecordError("no_messages", "the file holds no rows")
    nodes: dict[str, dict[str, Any]] = {}
    order: list[tuple[str | None, dict[str, Any]]] = []
    for index, raw in enumerate(rows):
        where = f"row {index}"
        row = as_object(raw, where)
        name = as_text(required(row, "message_id", where), f"message_id of {where}")
        parent = row.get("parent_id")
        node = {**row, "replies": []}
        order.append((None if parent is None else as_text(parent, f"parent_id of {where}"), node))
        nodes.setdefault(name, node)
    roots = []
    for parent, node in order:
        before = None if parent is None else nodes.get(parent)
        if before is None:
            roots.append(node)
        else:
            before["replies"].append(node)
    if len(rows) > _size(roots):
        raise RecordError("cycle", "the file has messages that reply to each other, and none of them is the first")
    for root in roots:
        yield from _tree(root, options)


def _size(roots: list[dict[str, Any]]) -> int:
    """How many messages hang on the roots."""
    count = 0
    waiting = list(roots)
    while waiting:
        count += 1
        waiting.extend(waiting.pop()["replies"])
    return count


def _tree(root: dict[str, Any], options: Options) -> Iterator[Conversation]:
    tree = {key: root[key] for key in _OF_TREE if key in root}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        waiting.extend(node["replies"])
        for key in _OF_TREE:
            if key in tree and node.get(key) == tree[key]:
                del node[key]
    for conversation in message_tree.convert({**tree, "prompt": root}, options):
        first, *others = conversation.messages
        if first.role == "assistant":
            first = replace(first, weight=0.0)
        yield replace(conversation, messages=(first, *others))
