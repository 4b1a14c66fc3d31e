"""A prompt and what follows it: ``{"prompt", "completion"}``, as texts, as lists of messages, or rendered (TRL, OpenAI).

``label`` beside them is KTO's (Ethayarajh et al., 2024): whether the completion is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from converters import chat_text, metamath, openai_messages, sharegpt
from converters.markup.assistant import read_markup, says_something
from converters.markup.thinking import text_parts
from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    as_object,
    as_text,
    conversation,
    convert_messages,
    opening_keys,
    opening_messages,
    optional_text,
    question_message,
    rest,
    tools_of,
    wrong_type,
)
from pipeline.conversation import Conversation, Message, RecordError

FORMAT = "prompt_completion"
UNIT = "record"
SHAPE = '{"prompt", "completion"}, texts or lists of messages'
EXAMPLE = {"prompt": "Name a saw that cuts curves.", "completion": "A coping saw.", "source": "workshop"}

_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "output"),
    ("inputs", "targets"),
    ("input", "output"),
    ("input", "target"),
    ("query", "response"),
)
_CONTEXT_KEYS = ("input", "context")
#: A choice among options is another format.
_OPTION_KEYS = ("options", "choices")
#: Unused keys of messages, by the index of the message.
Unused = dict[str, dict[str, Any]]


def detect(unit: Any) -> bool:
    """Whether there is a prompt with a completion, both texts or lists of messages."""
    if not isinstance(unit, dict) or any(key in unit for key in (*MESSAGE_LIST_KEYS, "instruction", "chosen")):
        return False
    pair = _pair(unit)
    if pair is None or metamath.detect(unit) or any(key in unit for key in _OPTION_KEYS):
        return False
    contexts = (unit.get(key) for key in _CONTEXT_KEYS if key not in pair)
    return all(isinstance(unit[key], str) or is_message_list(unit[key]) for key in pair) and all(
        isinstance(context, str | None) for context in contexts
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/instructions.md lists the codes."""
    record = as_object(unit, "the record")
    pair = _pair(record)
    if pair is None:
        names = ", ".join(" and ".join(keys) for keys in _PAIRS)
        raise RecordError("missing_field", f"the record has no prompt with a completion; looked for {names}")
    prompt_key, answer_key = pair
    wanted = record.get("label") is not False
    context_keys = [key for key in _CONTEXT_KEYS if key not in pair]
    contexts = [optional_text(record, key) for key in context_keys]
    messages, unused = answered(
        opening_messages(record), record[prompt_key], record[answer_key], pair, contexts, weight=1.0 if wanted else 0.0
    )
    tools, tool_keys = tools_of(record)
    used = tool_keys | {*pair, *context_keys, *opening_keys(record)}
    yield conversation(messages, rest(record, used), unused, tools)


def answered(
    opening: list[Message],
    prompt: Any,
    answer: Any,
    names: tuple[str, str],
    contexts: Iterable[str] = (),
    weight: float = 1.0,
) -> tuple[list[Message], Unused]:
    """A prompt and its answer as messages, and their unused keys. What the assistant says in the prompt weighs nothing.

    Raises RecordError empty_question, empty_answer, and what the messages of a list raise.
    """
    if isinstance(prompt, str) and isinstance(answer, str) and chat_text.is_rendered(prompt):
        given = len(chat_text.rendered_messages(as_text(prompt, names[0]), names[0]))
        turns = chat_text.rendered_messages(prompt + as_text(answer, names[1]), f"{names[0]} and {names[1]}")
        given -= turns[given - 1].role == "assistant"
        asked, said, unused = turns[:given], turns[given:], Unused()
    else:
        asked, unused = messages_of(prompt, names[0], "user", contexts, offset=len(opening))
        said, more = messages_of(answer, names[1], "assistant", offset=len(opening) + len(asked))
        unused |= more
    if not any(part.text.strip() for message in asked for part in message.parts):
        raise RecordError("empty_question", f"{names[0]} is empty")
    if not says_something(said):
        raise RecordError("empty_answer", f"{names[1]} is empty")
    asked = [replace(message, weight=0.0) if message.role == "assistant" else message for message in asked]
    if weight != 1.0:
        said = [replace(m, weight=min(weight, m.weight)) if m.role == "assistant" else m for m in said]
    return read_markup([*opening, *asked, *said], unused)


def messages_of(
    value: Any, where: str, role: str, contexts: Iterable[str] = (), offset: int = 0
) -> tuple[list[Message], Unused]:
    """A text as the one message of ``role``, or a message or a list of them; the assistant's texts whole.

    Raises RecordError.
    """
    if isinstance(value, str):
        text = as_text(value, where)
        return [question_message(text, *contexts) if role == "user" else Message("assistant", text_parts(text))], {}
    if not isinstance(value, list | dict):
        raise wrong_type(value, where, "a string or a list of messages")
    messages, unused = convert_messages(value if isinstance(value, list) else [value], where, _message, offset)
    return [*messages, *(question_message("", context) for context in contexts if context)], unused


def is_message_list(value: Any) -> bool:
    """Whether a value is a list of messages, at least one, in OpenAI's form or ShareGPT's."""
    return openai_messages.detect(value) or sharegpt.detect({"conversations": value}) if value else False


def _message(raw: Any, where: str) -> tuple[Message, dict[str, Any]]:
    if isinstance(raw, dict) and "role" not in raw:
        return sharegpt.uncut_message(raw, where)
    return openai_messages.uncut_message(raw, where)


def _pair(record: dict[str, Any]) -> tuple[str, str] | None:
    present = [pair for pair in _PAIRS if pair[0] in record and pair[1] in record]
    return next((pair for pair in present if record[pair[1]] not in (None, "", [])), present[0] if present else None)
