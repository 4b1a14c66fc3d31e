"""The registry, and what holds for every converter: it converts or raises RecordError, whatever it is given."""

from __future__ import annotations

import copy
import re
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converters import CONVERTERS, Unit, UnknownFormatError, convert, detect_format
from converters.shared.fields import json_text
from pipeline.conversation import RecordError, conversation_id, from_json, to_json
from pipeline.script import Script, perform

ROOT = Path(__file__).resolve().parents[2]
#: Sets of prompts that nobody has answered.
INPUT_ONLY = ("cyberseceval",)
SEEDS: dict[str, Any] = {name: module.EXAMPLE for name, module in CONVERTERS.items()}
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
words = st.sampled_from(
    [*sorted(set(re.findall(r'"(\w+)"', repr(SEEDS).replace("'", '"')))), "", "<think>", "#### 1", "[", "{}", "[]"]
)
values = st.recursive(
    scalars | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A record of some format with a few of its values replaced, doubled or removed."""
    unit = copy.deepcopy(draw(st.sampled_from(list(SEEDS.values()))))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(unit)))
        if not path:
            continue
        at = unit
        for key in path[:-1]:
            at = at[key]
        action = draw(st.sampled_from(["replace", "remove", "rename"]))
        if action == "replace":
            at[path[-1]] = draw(values)
        elif action == "remove":
            del at[path[-1]]
        elif isinstance(at, dict):
            at[draw(words)] = at.pop(path[-1])
    return unit


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values | mutated())
def test_a_converter_converts_or_raises_record_error_and_detect_never_raises(unit: Any) -> None:
    before = copy.deepcopy(unit)
    for name, converter in CONVERTERS.items():
        assert isinstance(converter.detect(unit), bool)
        try:
            conversations = list(convert(name, unit))
        except RecordError:
            continue
        for item in conversations:
            conversation = perform(item)[0] if isinstance(item, Script) else item
            assert conversation.messages
            assert conversation.sources == ()
            value = to_json(conversation)
            assert to_json(from_json(value)) == value
            assert conversation_id(conversation) == value["id"]
    assert unit == before


@pytest.mark.parametrize("format", CONVERTERS)
def test_each_example_is_detected_and_converted(format: str) -> None:
    example = SEEDS[format]
    unit = CONVERTERS[format].UNIT
    assert detect_format(example if unit == "file" else [example["unit"]] if unit == "join" else [example]) == format
    converted = list(convert(format, example))
    answered = any((perform(c)[0] if isinstance(c, Script) else c).has_output() for c in converted)
    assert converted
    assert answered == (format not in INPUT_ONLY)


def test_a_tie_goes_to_the_earlier_format_and_a_majority_beats_it() -> None:
    tagged = {"instruction": "i", "output": "<think>a</think>b"}
    plain = {"instruction": "i", "output": "b"}
    assert detect_format([tagged, tagged]) == "think_tagged"
    assert detect_format([tagged, plain]) == "alpaca"
    assert detect_format([1, None, plain]) == "alpaca"
    assert detect_format([{"a": 1}, 3, []]) is None
    assert detect_format([]) is None


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UnknownFormatError, match="unknown format 'opena_mesages', did you mean 'openai_messages'"):
        convert("opena_mesages", {})


def test_modules_are_named_after_their_format() -> None:
    for name, converter in CONVERTERS.items():
        assert (ROOT / "converters" / f"{name}.py").exists()
        assert name == converter.FORMAT
        assert converter.UNIT in typing.get_args(Unit)
        assert converter.SHAPE


def test_every_code_and_format_is_documented() -> None:
    documented = "".join(
        path.read_text() for path in (ROOT / "docs" / "formats.md", *(ROOT / "docs" / "formats").glob("*.md"))
    )
    sources = "".join(path.read_text() for path in (ROOT / "converters").rglob("*.py"))
    codes = set(re.findall(r'RecordError\(\s*"(\w+)"', sources))
    assert {name for name in codes | set(CONVERTERS) if f"`{name}`" not in documented} == set()


@given(values)
def test_json_text_is_compact_json_of_the_same_value(value: Any) -> None:
    assert json_text(value) == json_text(msgspec.json.decode(json_text(value)))
    assert msgspec.json.decode(json_text({"z": value, "a": 2**80})) == {"z": value, "a": 2**80}


def test_json_text_keeps_order_and_characters() -> None:
    assert json_text({"z": "é\u2028", "a": [1.5, True, None]}) == '{"z":"é\u2028","a":[1.5,true,null]}'
    assert json_text({"a": 2**64}) == '{"a":18446744073709551616}'


def test_json_text_rejects_what_is_no_json() -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    for value, code in ((nested, "too_deep"), ({1, 2}, "not_json"), (["\ud800"], "invalid_text")):
        with pytest.raises(RecordError) as caught:
            json_text(value)
        assert caught.value.code == code
