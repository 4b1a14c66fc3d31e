"""A prompt with a chosen and a rejected answer: texts, lists of messages, or whole dialogues; the chosen one is read.

The shapes are TRL's and LLaMA-Factory's, HH-RLHF's (Bai et al., 2022: two dialogues that differ at their end) and
UltraFeedback's (lists of messages that repeat the prompt).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters import chat_text
from converters.markup.assistant import read_markup
from converters.prompt_completion import answered, is_message_list, messages_of
from converters.shared.fields import (
    as_object,
    as_text,
    conversation,
    opening_keys,
    opening_messages,
    optional_text,
    rest,
    tools_of,
)
from pipeline.conversation import Conversation, RecordError

FORMAT = "preference"
UNIT = "record"
SHAPE = '{"prompt", "chosen", "rejected"}'
EXAMPLE = {
    "prompt": "Which glue holds wet wood?",
    "chosen": "Polyurethane glue: it cures with the water in the wood.",
    "rejected": "Any glue does.",
}

_PROMPT_KEYS = ("prompt", "question", "instruction", "conversations")
_CONTEXT_KEYS = ("input", "context")


def detect(unit: Any) -> bool:
    """Whether there are two answers of one kind, and a prompt, or two whole dialogues."""
    if not isinstance(unit, dict) or "chosen" not in unit or "messages" in unit or "traj" in unit:
        return False
    chosen, rejected = unit["chosen"], unit.get("rejected")
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _prompt_key(unit) is not None or chat_text.is_rendered(chosen)
    if isinstance(chosen, dict) and isinstance(rejected, dict):
        return is_message_list([chosen]) and is_message_list([rejected]) and _prompt_key(unit) is not None
    return is_message_list(chosen) and isinstance(rejected, list)


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation, the chosen one. Raises RecordError; docs/formats/messages.md lists the codes."""
    record = as_object(unit, "the record")
    for key in ("chosen", "rejected"):
        if key not in record:
            raise RecordError("missing_field", f'the record has no "{key}"')
    chosen, prompt_key = record["chosen"], _prompt_key(record)
    tools, tool_keys = tools_of(record)
    used = tool_keys | {"chosen", *opening_keys(record)}
    opening = opening_messages(record)
    if _is_whole(chosen):
        if isinstance(chosen, str):
            messages, unused = read_markup(
                [*opening, *chat_text.rendered_messages(as_text(chosen, "chosen"), "chosen")]
            )
        else:
            messages, unused = messages_of(chosen, "chosen", "assistant", offset=len(opening))
            messages, unused = read_markup([*opening, *messages], unused)
    elif prompt_key is None:
        raise RecordError("missing_field", f"the record has no prompt; looked for {', '.join(_PROMPT_KEYS)}")
    else:
        contexts = [optional_text(record, key) for key in _CONTEXT_KEYS]
        messages, unused = answered(opening, record[prompt_key], chosen, (prompt_key, "chosen"), contexts)
        used |= {prompt_key, *_CONTEXT_KEYS}
    yield conversation(messages, rest(record, used), unused, tools)


def _is_whole(chosen: Any) -> bool:
    """Whether the chosen side holds the user's turns too."""
    if isinstance(chosen, str):
        return chat_text.is_rendered(chosen)
    return isinstance(chosen, list) and any(
        isinstance(message, dict) and message.get("role", message.get("from")) in ("user", "human")
        for message in chosen
    )


def _prompt_key(record: dict[str, Any]) -> str | None:
    return next(
        (key for key in _PROMPT_KEYS if isinstance(record.get(key), str) or is_message_list(record.get(key))), None
    )
