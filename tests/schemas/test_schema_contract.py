"""The schemas are sound, say what the Arrow tables and the dataclasses say, and accept all that the code can write."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jsonschema
import jsonschema_rs
import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import schemas
from converters import openai_messages
from pipeline.conversation import PART_KINDS, ROLES, Conversation, Message, Part, Source, from_json, group_of, to_json
from pipeline.leaks import Verdict
from pipeline.tables import RECORD_SCHEMA_ID, RECORDS, REJECTS
from pipeline.timeline import STREAM_ORDER, Direction, Kind, spans_of

DOCS = Path(__file__).parents[2] / "docs" / "data-model.md"
NAMES = ("conversation", "rejection", "stream_record")
#: Columns without nulls in Arrow that JSON written by hand may leave out; the schema states their default.
MAY_BE_ABSENT = {"extra", "events.interrupted", "events.weight", "parts.added"}
#: Columns with nulls that JSON has to state all the same.
MUST_BE_STATED = {
    "clock.ms_per_row", "events.message", "events.part", "events.call", "sources.format", "sources.license",
    "parts.message", "parts.part", "license",
}  # fmt: skip


def _resolved(root: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """A schema node with its reference filled in."""
    if (ref := node.get("$ref")) is None:
        return node
    return {
        **_resolved(root, root["$defs"][ref.removeprefix("#/$defs/")]),
        **{k: v for k, v in node.items() if k != "$ref"},
    }


def _types(node: dict[str, Any]) -> set[str]:
    values = node.get("enum", [node["const"]] if "const" in node else [])
    if values:
        return {"null" if value is None else {str: "string", int: "integer"}[type(value)] for value in values}
    return {node["type"]} if isinstance(node["type"], str) else set(node["type"])


def _json_type(type_: pa.DataType) -> str:
    checks = (
        (pa.types.is_struct, "object"), (pa.types.is_list, "array"), (pa.types.is_string, "string"),
        (pa.types.is_binary, "string"), (pa.types.is_integer, "integer"), (pa.types.is_floating, "number"),
        (pa.types.is_boolean, "boolean"),
    )  # fmt: skip
    return next(name for check, name in checks if check(type_))


def _drift(root: dict[str, Any], node: dict[str, Any], fields: list[pa.Field], at: str = "") -> Iterator[str]:
    """Where an object schema and the Arrow fields of the same object differ."""
    if list(node["properties"]) != [f.name for f in fields]:
        yield f"{at}: {list(node['properties'])} != {[f.name for f in fields]}"
        return
    for column in fields:
        path = f"{at}.{column.name}".removeprefix(".")
        child = _resolved(root, node["properties"][column.name])
        if (column.name in node["required"]) != (
            path in MUST_BE_STATED or (not column.nullable and path not in MAY_BE_ABSENT)
        ):
            yield f"{path}: required {column.name in node['required']}"
        if path in MAY_BE_ABSENT and "default" not in child:
            yield f"{path}: absent means what?"
        if _types(child) != {_json_type(column.type)} | ({"null"} if column.nullable else set()):
            yield f"{path}: {_types(child)} != {column.type}, nullable {column.nullable}"
        if pa.types.is_integer(column.type) and not 0 <= child["minimum"] <= child["maximum"] <= _largest(column.type):
            yield f"{path}: range beyond {column.type}"
        inner, below = column.type, child
        if pa.types.is_list(inner):
            inner, below = inner.value_type, _resolved(root, child["items"])
            if not pa.types.is_struct(inner) and _types(below) != {_json_type(inner)}:
                yield f"{path}[]: {_types(below)} != {inner}"
        if pa.types.is_struct(inner):
            yield from _drift(root, below, [inner.field(i) for i in range(inner.num_fields)], path)


def _largest(type_: pa.DataType) -> int:
    return int(2 ** (type_.bit_width - (0 if pa.types.is_unsigned_integer(type_) else 1)) - 1)


def _object_schemas(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            yield node
        for value in node.values():
            yield from _object_schemas(value)


def test_schemas_are_package_data_and_found_by_name() -> None:
    assert set(NAMES) <= set(schemas.names())
    with pytest.raises(KeyError, match="no schema 'recrod'; there are: build_config, conversation, "):
        schemas.load("recrod")


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_valid_draft_2020_12_and_describes_every_property(name: str) -> None:
    schema = schemas.load(name)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:multistream:{name.replace('_', '-')}:1"
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema_rs.meta.is_valid(schema)
    for node in _object_schemas(schema):
        assert node["title"]
        assert node["description"]
        assert node["additionalProperties"] is False
        assert set(node["required"]) <= set(node["properties"])
        for key, child in node["properties"].items():
            assert _resolved(schema, child).get("description"), key


def test_stream_record_schema_has_the_columns_of_the_arrow_table() -> None:
    schema = schemas.load("stream_record")
    assert list(_drift(schema, schema, list(RECORDS))) == []
    assert schema["properties"]["schema"] == {
        "description": "Name and version of this form.",
        "const": RECORD_SCHEMA_ID,
    }
    event, stream = schema["$defs"]["event"]["properties"], schema["$defs"]["stream"]["properties"]
    assert event["kind"]["enum"] == list(get_args(Kind))
    assert event["lexical"]["enum"] == [*get_args(Verdict), None]
    assert stream["direction"]["enum"] == list(get_args(Direction))
    assert all(role in stream["role"]["description"] for role, _ in STREAM_ORDER)


def test_rejection_schema_has_the_columns_of_the_arrow_table(samples: dict[str, list[Any]]) -> None:
    schema = schemas.load("rejection")
    assert list(_drift(schema, schema, list(REJECTS))) == []
    assert base64.b64decode(samples["rejection"][1]["raw"], validate=True) == b"\xff\xfe\x00"


def test_conversation_schema_has_the_fields_of_the_dataclasses() -> None:
    schema = schemas.load("conversation")
    assert set(schema["properties"]) == {"schema", "id"} | {f.name for f in dataclasses.fields(Conversation)}
    for name, type_ in (("message", Message), ("part", Part), ("source", Source)):
        properties = schema["$defs"][name]["properties"]
        fields = {f.name: f for f in dataclasses.fields(type_)}
        assert set(properties) == set(fields)
        for key, node in properties.items():
            if "default" in node:
                assert node["default"] == fields[key].default, key
            elif key not in schema["$defs"][name]["required"]:
                assert fields[key].default is None, key
                assert "null" in _types(_resolved(schema, node)), key
    assert schema["$defs"]["message"]["properties"]["role"]["enum"] == list(ROLES)
    assert schema["$defs"]["part"]["properties"]["kind"]["enum"] == list(PART_KINDS)


def test_a_record_written_by_hand_may_leave_out_what_has_a_default(samples: dict[str, list[Any]]) -> None:
    record = json.loads(json.dumps(samples["stream_record"][0]))
    del record["extra"]
    for event in record["events"]:
        for key in ("interrupted", "weight", "time_ms", "lexical", "gain", "judged"):
            del event[key]
    for part in record["parts"]:
        del part["added"]
    assert list(schemas.violations("stream_record", [record])) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"streams": []}, "$.streams: "),
        ({"rows": 0}, "$.rows: 0 is less than the minimum of 1"),
        ({"schema": "stream-record/2"}, "$.schema: "),
        ({"id": "F" * 32}, "$.id: "),
        ({"labels": "[]"}, "$.labels: "),
        ({"events": [{}]}, '$.events[0]: "stream" is a required property'),
        ({"events": ["line\nbreak\u2028" + "x" * 5000]}, "$.events[0]: "),
        ({"events": b"bytes"}, "$: cannot be read as JSON: "),
        ({"\ud800": 0}, "$: cannot be read as JSON: "),
    ],
)
def test_a_violation_is_one_short_line_with_its_place(
    samples: dict[str, list[Any]], change: dict[str, Any], line: str
) -> None:
    good = samples["stream_record"][0]
    ((index, text),) = schemas.violations("stream_record", iter([good, {**good, **change}]))
    assert index == 1
    assert text.startswith(line)
    assert len(text.splitlines()) == 1
    assert len(text) < 400


def test_a_tool_call_must_have_a_name() -> None:
    value = to_json(Conversation((Message("assistant", (Part("tool_call", "{}"),)),)))
    assert list(schemas.violations("conversation", [value])) == [
        (0, '$.messages[0].parts[0]: "name" is a required property')
    ]


def test_the_record_in_the_docs_is_what_the_pipeline_makes(build_records: Callable[..., list[dict[str, Any]]]) -> None:
    unit = {
        "messages": [
            {"role": "user", "content": "Weather in Oslo?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
                ],
            },
            {
                "role": "tool",
                "tool_call_id": "c1",
                "content": "Oslo, Monday: 4 degrees in the morning.\n"
                "Oslo, Tuesday: 9 degrees, with strong wind from the west.",
            },
            {"role": "assistant", "content": "Oslo has 4 degrees on Monday. Tuesday brings 9 degrees."},
        ]
    }
    sha256 = hashlib.sha256(orjson.dumps(unit)).hexdigest()
    source = Source("example", "weather.jsonl", 0, "openai_messages", "MIT", sha256)
    (conversation,) = openai_messages.convert(unit)
    (made,) = build_records([replace(conversation, sources=(source,))], "evidence+tools_async", 0)
    (block,) = re.findall(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    documented = json.loads(block)
    assert list(schemas.violations("stream_record", [documented])) == []
    definitions = schemas.load("stream_record")["$defs"]
    for key, kind in (("events", "event"), ("parts", "part")):
        properties = definitions[kind]["properties"]
        absent = {
            name: node.get("default") for name, node in properties.items() if name not in definitions[kind]["required"]
        }
        documented[key] = [{**absent, **item} for item in documented[key]]
    assert documented == made


texts = st.text(max_size=12)
optional_texts = st.none() | texts
times = st.none() | st.integers(0, 2**63 - 1)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
extras = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | numbers | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
sources = st.builds(
    Source,
    corpus=st.text(min_size=1, max_size=8),
    path=st.text(min_size=1, max_size=8),
    index=st.integers(0, 2**63 - 1),
    format=st.none() | st.just("alpaca"),
    license=st.none() | st.just("MIT"),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
)


@st.composite
def _parts(draw: st.DrawFn) -> Part:
    kind = draw(st.sampled_from(PART_KINDS))
    return Part(
        kind=kind,
        text=draw(texts),
        name=draw(texts if kind == "tool_call" else optional_texts),
        call_id=draw(st.none() | st.sampled_from(["a", "b"])),
        error=draw(st.booleans()),
        before=draw(texts),
        after=draw(texts),
        source=draw(optional_texts),
        interrupted=draw(st.booleans()),
    )


messages = st.builds(
    Message,
    role=st.sampled_from(ROLES),
    parts=st.lists(_parts(), max_size=3).map(tuple),
    name=optional_texts,
    started_ms=times,
    ended_ms=times,
    weight=st.just(1.0) | st.floats(0, 100),
)
conversations = st.builds(
    Conversation,
    messages=st.lists(messages, min_size=1, max_size=4).map(tuple),
    tools=texts,
    extra=extras,
    group=st.none() | st.text(min_size=1, max_size=8),
    sources=st.lists(sources, max_size=2).map(tuple),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(conversations)
def test_every_conversation_round_trips_through_json_and_is_valid(conversation: Conversation) -> None:
    value = orjson.loads(orjson.dumps(to_json(conversation)))
    assert list(schemas.violations("conversation", [value])) == []
    assert list(schemas.reference_violations("conversation", [value])) == []
    again = from_json(value)
    assert again == replace(conversation, group=group_of(conversation))
    assert to_json(again) == value


@pytest.mark.parametrize("align_spec", ["turns", "thinking+evidence+tools_async"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(conversations, min_size=1, max_size=3))
def test_every_record_of_a_conversation_that_says_something_is_valid(
    build_records: Callable[..., list[dict[str, Any]]], align_spec: str, drawn: list[Conversation]
) -> None:
    drawn = [c for c in drawn if spans_of(c)[1]]
    assume(drawn)
    records = build_records(drawn, align_spec, 0)
    assert list(schemas.violations("stream_record", records)) == []
    assert list(schemas.reference_violations("stream_record", records)) == []
