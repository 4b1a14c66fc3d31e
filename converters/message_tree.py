"""Message trees: a prompt with replies, each with replies of its own; OpenAssistant's ``prompter`` and ``assistant``.

OpenAssistant Conversations (Köpf et al. 2023, arXiv 2304.07327). Each path from the root to a leaf is a conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from converters.markup.thinking import split_thinking, text_parts
from converters.shared.fields import as_list, as_object, as_text, conversation, required, rest, role_of
from pipeline.conversation import Conversation, Message, Role

FORMAT = "message_tree"
UNIT = "record"
SHAPE = '{"message_tree_id", "prompt": {"text", "role": "prompter", "replies": [{"text", "role", "replies"}]}}'
EXAMPLE = {
    "message_tree_id": "t1",
    "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "t1",
        "text": "How do I sharpen a plane iron?",
        "role": "prompter",
        "lang": "en",
        "replies": [
            {
                "message_id": "a1",
                "text": "Hone the bevel on a fine stone, then take off the burr.",
                "role": "assistant",
                "rank": 0,
                "replies": [{"message_id": "u1", "text": "At what angle?", "role": "prompter", "replies": []}],
            },
            {"message_id": "a2", "text": "Take it to a grinder.", "role": "assistant", "rank": 1, "replies": []},
        ],
    },
}

ROLES: Mapping[str, Role] = {"prompter": "user", "assistant": "assistant", "user": "user", "system": "system"}
_USED = frozenset({"text", "role", "replies"})


@dataclass(frozen=True, slots=True)
class Options:
    """``paths``: all of a tree's, the one of first replies, the first of the longest, or the one of best-ranked replies."""

    paths: Literal["all", "first", "longest", "best"] = "all"


@dataclass(frozen=True, slots=True)
class _Node:
    """A message of the tree, its keys that no field holds, and its replies as the source has them."""

    message: Message
    left: dict[str, Any]
    replies: Sequence[Any]


#: Which of a message's replies the paths go through.
_Choice: TypeAlias = Callable[[Sequence[Any]], Sequence[Any]]


def detect(unit: Any) -> bool:
    """Whether there is a prompt with a text, a role and replies."""
    prompt = unit.get("prompt") if isinstance(unit, dict) else None
    return (
        isinstance(prompt, dict)
        and isinstance(prompt.get("text"), str)
        and prompt.get("role") in tuple(ROLES)
        and isinstance(prompt.get("replies"), list)
    )


def convert(unit: Any, options: Options = Options()) -> Iterator[Conversation]:
    """A conversation for each path, in source order; a message is trained in the first that holds it, later with weight 0.

    Raises RecordError; docs/formats/trees-and-injection.md lists the codes.
    """
    record = as_object(unit, "the record")
    prompt = as_object(required(record, "prompt"), "prompt")
    extra = rest(record, {"prompt"})
    tree = record.get("message_tree_id") or prompt.get("message_id")
    group = f"tree:{as_text(tree, 'message_tree_id')}" if isinstance(tree, str) else None
    choice: _Choice = {"first": _first, "best": _best}.get(options.paths, _all)
    paths = _paths(prompt, choice)
    if options.paths == "longest":
        paths = iter([max(paths, key=lambda path: len(path[0]))])
    for nodes, known in paths:
        seen = known if options.paths == "all" else 0
        messages = [
            replace(node.message, weight=0.0) if index < seen else node.message for index, node in enumerate(nodes)
        ]
        unused = {str(index): node.left for index, node in enumerate(nodes) if node.left}
        yield conversation(messages, dict(extra), unused, group=group)


def _paths(prompt: dict[str, Any], choice: _Choice) -> Iterator[tuple[list[_Node], int]]:
    """Each path from the root to a leaf, and how many of its first nodes an earlier path held."""
    path: list[_Node] = []
    known = 0
    waiting: list[tuple[Any, int, str]] = [(prompt, 0, "prompt")]
    while waiting:
        value, depth, where = waiting.pop()
        known = min(known, depth)
        del path[depth:]
        node = _node(value, where)
        path.append(node)
        replies = choice(node.replies)
        if replies:
            named = "a reply" if depth > 8 else f"a reply to {where}"
            waiting.extend((reply, depth + 1, named) for reply in reversed(replies))
        else:
            yield list(path), known
            known = len(path)


def _node(value: Any, where: str) -> _Node:
    source = as_object(value, where)
    role = role_of(required(source, "role", where), ROLES, f"the role of {where}")
    text = as_text(required(source, "text", where), f"the text of {where}")
    listed = source.get("replies")
    replies = [] if listed is None else as_list(listed, f"the replies of {where}")
    parts = split_thinking(text) if role == "assistant" else text_parts(text)
    return _Node(Message(role, parts), rest(source, _USED), replies)


def _all(replies: Sequence[Any]) -> Sequence[Any]:
    return replies


def _first(replies: Sequence[Any]) -> Sequence[Any]:
    return replies[:1]


def _best(replies: Sequence[Any]) -> Sequence[Any]:
    return [min(replies, key=_rank)] if replies else []


def _rank(reply: Any) -> float:
    """The rank of a reply, 0 for the best; those without one come last, in source order."""
    rank = reply.get("rank") if isinstance(reply, dict) else None
    known = isinstance(rank, int | float) and not isinstance(rank, bool) and rank == rank
    return rank if known and rank is not None else float("inf")
