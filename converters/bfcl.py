"""Turns of messages with the calls that each turn needs, Berkeley Function-Calling Leaderboard form.

BFCL (Patil et al. 2025, ICML; repository ShishirPatil/gorilla): ``question`` is a list of turns, each a list of messages;
the gold calls are records of a second file with the same ``id``, ``ground_truth`` a list of calls per turn, in Python's
syntax. Single-turn categories have one turn, definitions in ``function``, and arguments as lists of allowed values.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from converters.markup.thinking import text_parts
from converters.shared.fields import (
    OPENAI_ROLES,
    as_list,
    as_object,
    as_text,
    conversation,
    convert_messages,
    json_text,
    required,
    rest,
    role_of,
    tools_of,
)
from pipeline.conversation import Conversation, Message, Part, RecordError

FORMAT = "bfcl"
UNIT = "join"
JOIN = "id"
SHAPE = '{"id", "question": [[{"role", "content"}]]} with {"id", "ground_truth": [["cd(folder=\'a\')"]]}'
EXAMPLE = {
    "unit": {
        "id": "garden_0",
        "question": [
            [{"role": "user", "content": "Open the vent and water bed 3."}],
            [{"role": "user", "content": "How moist is bed 3 now?"}],
        ],
        "initial_config": {"Garden": {"vent": "shut", "beds": [1, 2, 3]}},
        "involved_classes": ["Garden"],
    },
    "joined": {
        "id": "garden_0",
        "ground_truth": [["open_vent()", "water(bed=3, litres=2.5)"], ["read_moisture(bed=3)"]],
    },
}

_CALL = re.compile(r"\s*([^\W\d][\w.]*)\((.*)\)\s*", re.DOTALL)
_DEFINITIONS = "function"


def companions(name: str) -> tuple[str, ...]:
    """Where the gold calls of a file of questions may be, relative to its folder."""
    return (f"possible_answer/{name}", f"possible_answer_{name}")


def detect(unit: Any) -> bool:
    """Whether it is a question of turns of messages, or the gold calls of one."""
    if not isinstance(unit, dict) or not isinstance(unit.get("id"), str):
        return False
    if "question" not in unit:
        return isinstance(unit.get("ground_truth"), list) and set(unit) <= {"id", "ground_truth", "source"}
    turns = unit["question"]
    return (
        isinstance(turns, list)
        and bool(turns)
        and all(isinstance(turn, list) and all(map(_is_message, turn)) for turn in turns)
    )


def convert(unit: Any) -> Iterator[Conversation]:
    """One conversation. Raises RecordError; docs/formats/trees-and-injection.md lists the codes."""
    pair = as_object(unit, "the unit")
    record = as_object(required(pair, "unit", "the unit"), "the record")
    if "question" not in record:
        raise RecordError(
            "no_question", "the record has no question; give the file of questions, gold is read beside it"
        )
    turns = as_list(record["question"], "question")
    gold = {} if pair.get("joined") is None else as_object(pair["joined"], "the gold record")
    where, source = ("the gold record", gold) if "ground_truth" in gold else ("the record", record)
    calls = _gold(source.get("ground_truth"), len(turns), where)
    messages, unused = _messages(turns, calls)
    if not messages:
        raise RecordError("no_messages", "question has no turns")
    tools, tool_keys = _tools(record)
    used = {"question", *tool_keys, *({"ground_truth"} if calls is not None else ())}
    extra = rest(record, used)
    if left := rest(gold, {JOIN, *({"ground_truth"} if calls is not None else ())}):
        extra["gold"] = left
    yield conversation(messages, extra, unused, tools)


def _messages(
    turns: list[Any], calls: Sequence[Sequence[Part]] | None
) -> tuple[list[Message], dict[str, dict[str, Any]]]:
    """Each turn's messages and, behind them, its calls; what prompted the calls of a turn without messages is not there."""
    messages: list[Message] = []
    unused: dict[str, dict[str, Any]] = {}
    for index, turn in enumerate(turns):
        where = f"question[{index}]"
        asked = as_list(turn, where)
        if asked:
            said, left = convert_messages(asked, where, _message, offset=len(messages))
            messages.extend(said)
            unused |= left
        if calls is not None:
            read = " ".join(part.text for message in messages for part in message.parts)
            messages.extend(_turn_of_calls(calls[index], read, bool(asked)))
    return messages, unused


def _turn_of_calls(calls: Sequence[Part], read: str, asked: bool) -> Iterator[Message]:
    """The calls of a turn, those in a row that are trained, or are not, in one message: a call with a name or a number that
    nothing before it says rests on a result that the source does not tell."""
    known = read.casefold()
    weighted = []
    for call in calls:
        told = asked and all(_stands_in(value, known) for value in _values(call))
        weighted.append((call, float(told)))
        known += " " + call.text.casefold()
    for weight, run in itertools.groupby(weighted, key=lambda item: item[1]):
        yield Message("assistant", tuple(call for call, _ in run), weight=weight)
    if not calls:
        yield Message("assistant", weight=float(asked))


_QUOTED = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\"""")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")


def _stands_in(value: str, text: str) -> bool:
    """Whether a text says a value; a number as a number of its own."""
    if not _NUMBER.fullmatch(value):
        return value in text
    return re.search(rf"(?<![\w.]){re.escape(value)}(?:\.0+)?(?!\w)", text) is not None


def _values(call: Part) -> Iterator[str]:
    """The names and numbers among the values of a call in Python's syntax: texts of one word, of longer ones the words with a
    digit. Single-turn gold as objects is made of what the question says."""
    if call.source is None or not call.source.endswith(")"):
        return
    arguments = call.text
    for match in _QUOTED.finditer(arguments):
        words = (match[1] or match[2] or "").casefold().split()
        yield from words if len(words) == 1 else (w.strip(".,;:!?") for w in words if any(c.isdigit() for c in w))
    for number in _NUMBER.findall(_QUOTED.sub("", arguments)):
        yield number.removesuffix(".0")


def _message(raw: Any, where: str) -> tuple[Message, dict[str, Any]]:
    message = as_object(raw, where)
    role = role_of(required(message, "role", where), OPENAI_ROLES, f"{where}.role")
    text = as_text(required(message, "content", where), f"{where}.content")
    return Message(role, text_parts(text)), rest(message, {"role", "content"})


def _tools(record: dict[str, Any]) -> tuple[str, set[str]]:
    """The definitions, which single-turn records name ``function``, and the keys they use up."""
    if isinstance(record.get(_DEFINITIONS), list | dict) and record[_DEFINITIONS]:
        return json_text(record[_DEFINITIONS]), {_DEFINITIONS}
    return tools_of(record)


def _gold(truth: Any, turns: int, where: str) -> list[list[Part]] | None:
    """The calls of each turn; None where there are none, or where more than one would be right."""
    listed = [] if truth is None else as_list(truth, f"ground_truth of {where}")
    if not listed:
        return None
    if turns == 1 and listed and all(isinstance(call, str) for call in listed):
        return [[_call(call, where) for call in listed]] if all(map(_CALL.fullmatch, listed)) else None
    if turns == 1 and listed and all(isinstance(call, dict) for call in listed):
        single = [_single_truth(call) for call in listed]
        return None if None in single else [[part for part in single if part is not None]]
    if not all(isinstance(turn, list) for turn in listed):
        return None
    if len(listed) != turns:
        raise RecordError("turn_mismatch", f"question has {turns} turns, ground_truth has calls for {len(listed)}")
    return [[_call(call, f"ground_truth[{index}]") for call in turn] for index, turn in enumerate(listed)]


def _call(value: Any, where: str) -> Part:
    """A call in Python's syntax: its name, and what stands between the parentheses."""
    text = as_text(value, f"a call of {where}")
    match = _CALL.fullmatch(text)
    if match is None:
        raise RecordError("bad_tool_call", f"{where} holds {text!r:.80}, expected name(arguments)")
    return Part("tool_call", match.group(2), name=match.group(1), source=text)


def _single_truth(value: dict[str, Any]) -> Part | None:
    """``{name: {argument: [value]}}`` as a call, if each argument may have one value only ("": it may be left out)."""
    (name, arguments), *more = value.items() or [("", None)]
    if more or not name or not isinstance(arguments, dict):
        return None
    values = arguments.values()
    if not all(isinstance(v, list) and len(v) == 1 and v[0] != "" and not _has_object(v[0]) for v in values):
        return None
    text = json_text({key: allowed[0] for key, allowed in arguments.items()})
    return Part("tool_call", text, name=as_text(name, "the name of a call"), source=json_text(value))


def _has_object(value: Any) -> bool:
    """Whether a value is or holds an object, whose own values are lists of allowed ones."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict | list) for v in value))


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
