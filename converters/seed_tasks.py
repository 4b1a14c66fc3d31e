"""Self-Instruct seed tasks: ``{"id", "name", "instruction", "instances": [{"input", "output"}], "is_classification"}``.

The shape is that of Wang et al., Self-Instruct, 2023: one task with one or more instances.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import xxhash

from converters.markup.assistant import assistant_messages, says_something
from converters.shared.fields import (
    as_list,
    as_object,
    as_text,
    conversation,
    optional_text,
    question_message,
    required,
    rest,
)
from pipeline.conversation import Conversation, RecordError

FORMAT = "seed_tasks"
UNIT = "record"
SHAPE = '{"instruction", "instances": [{"input", "output"}]}'
EXAMPLE = {
    "id": "workshop_3",
    "name": "name_the_tool",
    "instruction": "Name the tool that the sentence is about.",
    "instances": [
        {"input": "It cuts wood along the grain.", "output": "A rip saw."},
        {"input": "It holds a board to the bench.", "output": "A holdfast."},
    ],
    "is_classification": False,
}


def detect(unit: Any) -> bool:
    """Whether there is an instruction with a list of instances that have an output."""
    if not isinstance(unit, dict) or not isinstance(unit.get("instruction"), str):
        return False
    instances = unit.get("instances")
    return (
        isinstance(instances, list)
        and bool(instances)
        and all(isinstance(item, dict) and isinstance(item.get("output"), str) for item in instances)
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation per instance. Raises RecordError; docs/formats/instructions.md lists the codes."""
    record = as_object(unit, "the record")
    instruction = as_text(required(record, "instruction"), "instruction")
    instances = as_list(required(record, "instances"), "instances")
    if not instances:
        raise RecordError("no_messages", "instances is empty")
    group = _group(record, instruction)
    for index, raw in enumerate(instances):
        where = f"instances[{index}]"
        instance = as_object(raw, where)
        given = optional_text(instance, "input", f"{where}.input")
        answer = assistant_messages(as_text(required(instance, "output", where), f"{where}.output"))
        if not instruction.strip() and not given.strip():
            raise RecordError("empty_question", f"the instruction and {where}.input are both empty")
        if not says_something(answer):
            raise RecordError("empty_answer", f"{where}.output is empty")
        extra = rest(record, {"instruction", "instances"})
        if left := rest(instance, {"input", "output"}):
            extra = {**extra, _free("instance", extra): left}
        yield conversation([question_message(instruction, given), *answer], extra, group=group)


def _group(record: dict[str, Any], instruction: str) -> str:
    """The task: its id, else its instruction, so that all its instances stay on one side of a split."""
    if isinstance(name := record.get("id"), int | str) and not isinstance(name, bool):
        return f"seed_task:{as_text(name, 'id') if isinstance(name, str) else name}"
    return "seed_task:" + xxhash.xxh3_128_hexdigest(" ".join(instruction.casefold().split()).encode())


def _free(key: str, taken: dict[str, Any]) -> str:
    while key in taken:
        key += "_"
    return key
