"""Chat messages: the conversation comes back, what is lost is counted, and a fine-tuning tool reads them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from export_cases import HOSTILE, chat, lines, read_chat, records_of, said, ten
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.openai_messages import convert as convert_chat
from pipeline.conversation import RecordError
from pipeline.exports.openai import chat_of
from pipeline.exports.running import Wanted, export
from pipeline.exports.targets import Books

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "corpora"

TEXT = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(
        st.characters(
            max_codepoint=0x2FFF, exclude_categories=["Cs", "Cn"], exclude_characters="<[\x04\x06\x13\x14\x16\x1d"
        ),
        min_size=1,
    ),
).filter(lambda text: bool(text.strip()))


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_a_chat_with_tools_and_reasoning_comes_back_part_by_part(number: int) -> None:
    source = chat(number)
    (record,) = records_of([source], align="auto")
    exported = chat_of(record, Books())
    again = read_chat(exported)
    assert said(again) == said(next(iter(convert_chat(source))))
    assert json.loads(again.tools) == source["tools"]
    ids = [c["id"] for m in exported["messages"] for c in m.get("tool_calls", ())]
    assert ids == [m["tool_call_id"] for m in exported["messages"] if m["role"] == "tool"] == ["call_0", "call_1"]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_any_conversation_comes_back(turns: list[tuple[str, str]]) -> None:
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    (record,) = records_of([{"messages": messages}])
    assert chat_of(record, Books())["messages"] == messages


@pytest.mark.parametrize(
    "path", ["openai-tau-bench-airline", "openai-mistral-samples", "openai-fireact-messages"], ids=str
)
def test_the_conversations_of_real_corpora_come_back(path: str) -> None:
    if not (CORPORA / path).is_dir():
        pytest.skip("the corpora are not beside the project")
    units: list[Any] = []
    for file in sorted((CORPORA / path).glob("*.json*")):
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        values = [json.loads(line) for line in raw.splitlines()] if ".jsonl" in file.name else json.loads(raw)
        units.extend(values if isinstance(values, list) else [values])
    checked = 0
    for unit in units[:20]:
        source = next(iter(convert_chat(unit)))
        if not source.has_output():
            continue
        for record in records_of([unit]):
            if record["segment"]["n"] == 1:
                again = said(read_chat(chat_of(record, Books())))
                assert again == [part for part in said(source) if part[1] != "media"]
                checked += 1
    assert checked


def test_what_a_single_stream_cannot_hold_is_counted(tens: Path, tmp_path: Path) -> None:
    result = export(tens, tmp_path / "out", Wanted("openai"))
    lost = result.manifest.counters["lost"]
    assert lost["streams"] == 8 * 8
    assert lost["events"] > 8 * 8
    assert any("analytical" in note for note in result.manifest.notes["notes"])


def test_overlap_is_flattened_and_counted() -> None:
    unit = {"messages": [{"role": "user", "content": "Say the names: Ann Lee. Bob Ray. Cid Moe."},
                         {"role": "assistant", "content": "Ann Lee. Bob Ray. Cid Moe."}]}  # fmt: skip
    (record,) = records_of([unit], align="wait_k:k=1")
    books = Books()
    assert chat_of(record, books)["messages"] == unit["messages"]
    assert books.lost["overlaps"] == 1


def test_a_record_without_an_answer_in_a_chat_is_refused_with_a_reason() -> None:
    record = records_of([ten(1)], "stream_table")[0]
    next(s for s in record["streams"] if s["role"] == "assistant")["role"] = "muted"
    with pytest.raises(RecordError, match="says nothing"):
        chat_of(record, Books())


def test_weights_of_zero_stay_and_others_are_counted() -> None:
    unit = chat(0)
    unit["messages"][-1]["weight"] = 0
    unit["messages"][5]["weight"] = 0.5
    (record,) = records_of([unit], align="turns")
    books = Books()
    messages = chat_of(record, books)["messages"]
    assert [m.get("weight") for m in messages if m["role"] == "assistant"] == [None, None, 0]
    assert books.lost["weights"] == 1


@pytest.mark.slow  # importing trl takes long
def test_trl_renders_and_packs_the_messages(chats: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    export(chats, tmp_path / "out", Wanted("openai"))
    data = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in data.items()} == {"train": 10, "test": 2}
    row = data["train"][0]
    assert trl.data_utils.is_conversational(row)
    tokenizer = chatml()
    rendered = [
        trl.apply_chat_template(
            {"messages": without_nulls(r["messages"])}, tokenizer, tools=json.loads(r["tools"])
        )["text"]
        for r in data["train"]
    ]  # fmt: skip
    for text, value in zip(rendered, lines(tmp_path / "out" / "train"), strict=True):
        assert all(m["content"] in text for m in value["messages"] if m["content"])
        assert '"name": "weather"' in text
    tokens = datasets.Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"] for text in rendered]})
    packed = trl.pack_dataset(tokens, 4096)
    assert sum(map(len, packed["input_ids"])) == sum(map(len, tokens["input_ids"]))


def without_nulls(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in message.items() if value is not None} for message in messages]


def chatml() -> Any:
    """The packaged tokenizer with a small ChatML template that shows tools and calls."""
    transformers = pytest.importorskip("transformers")
    from pipeline.packaged import tokenizer_file

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file()), eos_token="<|im_end|>")
    tokenizer.chat_template = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.get('reasoning_content', '') }}{{ m.content }}{% for c in m.get('tool_calls', []) %}"
        '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments }}}{% endfor %}<|im_end|>\n{% endfor %}'
    )
    return tokenizer
