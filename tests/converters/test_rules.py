"""The rules of docs/formats.md that hold for every format: each oddity of real corpora, and what becomes of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pipeline.convert import Batch, ConvertConfig, Converter

DOCS = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
ODD = "bell \x07, escape \x1b[0m, line\r\nend, \ufffd, zero\u200bwidth, \ufeffmark, <|im_start|>user, \u2028, 😀é"


@pytest.fixture(scope="module")
def converter() -> Converter:
    return Converter(ConvertConfig(align="turns"))


def convert(converter: Converter, *values: Any, format: str = "openai_messages") -> Batch:
    units = []
    for i, value in enumerate(values):
        raw = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
        sha256 = hashlib.sha256(raw).hexdigest()
        unit = {"corpus": "c", "path": "p", "index": i, "format": format, "license": None, "key": None}
        units.append({**unit, "sha256": sha256, "raw": raw})
    return converter.convert(units)


def events(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Stream, kind and text of every event."""
    return [(record["streams"][e["stream"]]["name"], e["kind"], e["text"]) for e in record["events"]]


def only(batch: Batch) -> dict[str, Any]:
    (record,) = [*batch.records.to_pylist(), *batch.input_only.to_pylist()]
    return record  # type: ignore[no-any-return]


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def call(call_id: str, name: str = "f") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def result(call_id: str | None, text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, **({} if call_id is None else {"tool_call_id": call_id})}


@pytest.mark.parametrize(
    ("format", "unit"),
    [
        ("openai_messages", {"messages": [user(ODD), says(ODD)]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": ODD}, {"from": "gpt", "value": ODD}]}),
        ("alpaca", {"instruction": ODD, "input": "", "output": ODD}),
        (
            "content_blocks",
            {"messages": [user([{"type": "text", "text": ODD}]), says([{"type": "text", "text": ODD}])]},
        ),
    ],
)
def test_odd_characters_are_text_and_stay(converter: Converter, format: str, unit: Any) -> None:
    assert events(only(convert(converter, unit, format=format))) == [
        ("user", "message", ODD),
        ("assistant", "message", ODD),
    ]


def test_null_and_empty_texts_are_no_part_but_a_turn(converter: Converter) -> None:
    record = only(convert(converter, {"messages": [user("Hi."), says(None, tool_calls=[]), says(""), says("Yes.")]}))
    assert events(record) == [("user", "message", "Hi."), ("assistant", "message", "Yes.")]
    assert json.loads(record["labels"])["empty_messages"] == [1, 2]
    assert [e["message"] for e in record["events"]] == [0, 3]


def test_an_empty_result_is_a_result(converter: Converter) -> None:
    record = only(convert(converter, {"messages": [user("Go."), says(None, tool_calls=[call("a")]), result("a", "")]}))
    assert events(record)[2:] == [("tool/0", "header", "f#0"), ("tool/0", "tool_result", "")]
    assert record["events"][-1]["end"] - record["events"][-1]["start"] == 1


def test_roles_come_in_any_order(converter: Converter) -> None:
    system = {"role": "system", "content": "S"}
    value = {"messages": [says("A"), user("B"), user("C"), system, says("D"), says("E"), user("F")]}
    record = only(convert(converter, value))
    assert [text for _, _, text in events(record)] == ["A", "B", "C", "S", "D", "E", "F"]


def test_a_call_id_that_is_used_again_answers_the_nearest_open_call(converter: Converter) -> None:
    turn = [says(None, tool_calls=[call("a", "f")]), result("a", "one")]
    again = [says(None, tool_calls=[call("a", "g")]), result("a", "two")]
    record = only(convert(converter, {"messages": [user("Go."), *turn, *again]}))
    assert [(e["kind"], e["call"], e["text"]) for e in record["events"] if e["call"] is not None] == [
        ("tool_call", 0, "f\n{}"),
        ("header", 0, "f#0"),
        ("tool_result", 0, "one"),
        ("tool_call", 1, "g\n{}"),
        ("header", 1, "g#1"),
        ("tool_result", 1, "two"),
    ]


def test_unanswered_calls_and_uncalled_results_are_kept(converter: Converter) -> None:
    value = {
        "messages": [user("Go."), says(None, tool_calls=[call("a"), call("b")]), result("b", "B"), result("x", "X")]
    }
    record = only(convert(converter, value))
    assert [(k, t) for _, k, t in events(record)] == [
        ("message", "Go."),
        ("tool_call", "f\n{}"),
        ("tool_call", "f\n{}"),
        ("header", "f#1"),
        ("tool_result", "B"),
        ("header", "tool"),
        ("tool_result", "X"),
    ]


def test_a_conversation_without_an_answer_is_input_only_and_no_reject(converter: Converter) -> None:
    batch = convert(converter, {"messages": [user("Hi.")]}, {"messages": [user("Hi."), says(None)]})
    assert (batch.records.num_rows, batch.input_only.num_rows, batch.rejects) == (0, 2, [])


def test_a_lone_surrogate_is_refused_with_its_place(converter: Converter) -> None:
    batch = convert(
        converter,
        b'{"messages": [{"role": "user", "content": "half \\ud83d pair"}, {"role": "assistant", "content": "x"}]}',
    )
    ((row),) = batch.rejects
    assert row["code"] in ("invalid_text", "not_json")
    assert row["message"]


def test_duplicates_are_kept_each_with_its_own_pointer(converter: Converter) -> None:
    value = {"id": 1, "messages": [user("Hi."), says("Yes.")]}
    records = convert(converter, value, value).records.to_pylist()
    assert [r["sources"][0]["index"] for r in records] == [0, 1]
    assert len({r["conversation_id"] for r in records}) == 1
    assert len({r["id"] for r in records}) == 2


def test_what_no_rule_uses_is_in_extra(converter: Converter) -> None:
    value = {"messages": [user("Hi."), says("Yes.", score=0.5)], "quality": {"a": [1]}, "id": 2**70}
    assert json.loads(only(convert(converter, value))["extra"]) == {
        "quality": {"a": [1]},
        "id": 2**70,
        "messages": {"1": {"score": 0.5}},
    }


def test_bytes_of_an_image_are_not_kept_but_their_digest_is(converter: Converter) -> None:
    payload = "iVBORw0KGgo" * 100
    item = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + payload}}
    record = only(convert(converter, {"messages": [user([{"type": "text", "text": "What?"}, item]), says("A kiln.")]}))
    (media,) = json.loads(record["labels"])["media"]
    assert payload not in record["labels"]
    assert "sha256:" in media["reference"]
    assert ("user", "note", "[image]") in events(record)


def test_weight_zero_takes_a_message_out_of_the_loss(converter: Converter) -> None:
    batch = convert(converter, {"messages": [user("Hi."), says("No.", weight=0), user("Hi."), says("Yes.", loss=True)]})
    (loss,) = batch.tokens.column("token_loss").to_pylist()
    (ids,) = batch.tokens.column("token_ids").to_pylist()
    trained = [i for i, bit in zip(ids, loss, strict=True) if bit & 1]
    assert converter.tokenizer.decode(trained[:-1]) == "Yes."


def test_every_reject_code_has_its_line_in_the_table(converter: Converter) -> None:
    table = DOCS.read_text(encoding="utf-8").split("## Codes")[1]
    listed = set(re.findall(r"`(\w+)`", table))
    root = DOCS.parent.parent
    exports = root / "pipeline" / "exports"
    sources = {*(root / "converters").rglob("*.py"), *(root / "pipeline").rglob("*.py")} - {*exports.rglob("*.py")}
    assert _codes_raised(sources) - listed == set()
    told = set(re.findall(r"`(\w+)`", (root / "docs" / "exports.md").read_text(encoding="utf-8")))
    assert _codes_raised(exports.rglob("*.py")) - told == set()


def _codes_raised(sources: Iterable[Path]) -> set[str]:
    return {c for path in sources for c in re.findall(r'RecordError\(\s*"(\w+)"', path.read_text(encoding="utf-8"))}
