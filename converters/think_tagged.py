"""A prompt and a response that holds its reasoning between tags.

The tags: ``<think>`` (DeepSeek-R1), also without its opening tag, where the prompt ended with it (R1-Searcher), and
with ``<answer>``; ``<thinking>``; ``<Thought>`` and ``<Output>`` (Marco-o1); ``<|begin_of_thought|>`` and
``<|begin_of_solution|>`` (Sky-T1). The names of the fields vary: a field that holds a tagged text is the response.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.markup.assistant import assistant_messages, says_something
from converters.markup.thinking import has_thinking
from converters.shared.fields import (
    MESSAGE_LIST_KEYS,
    SYSTEM_KEYS,
    as_object,
    as_text,
    conversation,
    opening_keys,
    opening_messages,
    question_message,
    rest,
)
from pipeline.conversation import Conversation, RecordError

FORMAT = "think_tagged"
UNIT = "record"
SHAPE = '{"question": …, "response": "<think>…</think>…"}'
EXAMPLE = {
    "question": "Is 91 a prime?",
    "response": "<think>\n7 times 13 is 91.\n</think>\n\nNo: 91 is 7 times 13.",
}

PROMPT_KEYS = ("question", "prompt", "instruction", "problem", "query", "input")
#: Where the response is looked for; behind ``code`` come fields that hold ground truth in some corpora.
RESPONSE_KEYS = (
    "response",
    "output",
    "completion",
    "generation",
    "generated_text",
    "gen_text_store",
    "code",
    "answer",
    "solution",
)
_CONTEXT_KEYS = ("input", "context")


def detect(unit: Any) -> bool:
    """Whether there is a prompt and a field with a tagged text, and no list of contexts.

    Untagged records of such a file are left to its vote.
    """
    if not isinstance(unit, dict) or any(key in unit for key in MESSAGE_LIST_KEYS):
        return False
    if "contexts" in unit or not isinstance(unit.get("context"), str | None):
        return False
    prompt = _prompt_key(unit)
    return prompt is not None and _tagged_key(unit, prompt) is not None


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. An untagged response is text. Raises RecordError; docs/formats/instructions.md lists the codes."""
    record = as_object(unit, "the record")
    prompt_key = _prompt_key(record)
    if prompt_key is None:
        raise RecordError("missing_field", f"the record has no prompt; looked for {', '.join(PROMPT_KEYS)}")
    response_key = _tagged_key(record, prompt_key) or _untagged_key(record, prompt_key)
    prompt = as_text(record[prompt_key], prompt_key)
    response = assistant_messages(as_text(_single(record[response_key]), response_key))
    if not prompt.strip():
        raise RecordError("empty_question", f"{prompt_key} is empty")
    if not says_something(response):
        raise RecordError("empty_answer", f"{response_key} is empty")
    contexts = [k for k in _CONTEXT_KEYS if isinstance(record.get(k), str) and k not in (prompt_key, response_key)]
    question = question_message(prompt, *(as_text(record[key], key) for key in contexts))
    messages = [*opening_messages(record), question, *response]
    yield conversation(messages, rest(record, {prompt_key, response_key, *opening_keys(record), *contexts}))


def _prompt_key(record: dict[str, Any]) -> str | None:
    return next((key for key in PROMPT_KEYS if isinstance(record.get(key), str)), None)


def _tagged_key(record: dict[str, Any], prompt_key: str) -> str | None:
    keys = (*(key for key in RESPONSE_KEYS if key in record), *record)
    others = (key for key in keys if key not in (prompt_key, *SYSTEM_KEYS))
    return next((k for k in others if isinstance(text := _single(record[k]), str) and has_thinking(text)), None)


def _untagged_key(record: dict[str, Any], prompt_key: str) -> str:
    present = [key for key in RESPONSE_KEYS if key in record and key != prompt_key]
    if not present:
        raise RecordError("missing_field", f"the record has no response; looked for {', '.join(RESPONSE_KEYS)}")
    return next((key for key in present if _single(record[key]) not in (None, "")), present[0])


def _single(value: Any) -> Any:
    """The one element of a list of one, or the value itself."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
