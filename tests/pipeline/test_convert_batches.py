"""Conversion of batches: no record depends on its neighbours, and every unit is booked for what became of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conversation_cases import QUICK, call, conversations, message, result, talk, thought
from hypothesis import given, settings
from hypothesis import strategies as st

import converters
from pipeline.checks import record_violations, token_violations
from pipeline.conversation import Conversation, RecordError, conversation_id
from pipeline.convert import Batch, ConvertConfig, Converter
from pipeline.records import to_json
from pipeline.tokenization import TextTokenizer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "conversations"


def unit(index: int, raw: bytes = b"0", format_: str = "given") -> dict[str, Any]:
    return {
        "corpus": "c", "path": "p.jsonl", "index": index, "format": format_, "license": "MIT", "key": None,
        "sha256": hashlib.sha256(raw).hexdigest(), "raw": raw,
    }  # fmt: skip


def example_units() -> list[dict[str, Any]]:
    """The examples of all formats, one after the other."""
    units = []
    for path in sorted(EXAMPLES.glob("*.jsonl")):
        for i, line in enumerate(path.read_bytes().splitlines()):
            units.append({**unit(i, line, path.stem), "path": path.name})
    return units


def convert_given(given_units: Sequence[Sequence[Conversation] | RecordError], converter: Converter) -> Batch:
    """The batch of units that hold the conversations given, or that cannot be read."""

    def convert(value: int) -> Iterator[Conversation]:
        given = given_units[value]
        if isinstance(given, RecordError):
            raise given
        return iter(given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converters, "CONVERTERS", {"given": SimpleNamespace(FORMAT="given", convert=convert)})
        return converter.convert([unit(i, str(i).encode()) for i in range(len(given_units))])


@pytest.fixture(scope="module")
def converter() -> Converter:
    return Converter(ConvertConfig())


@pytest.fixture(scope="module")
def narrow() -> Converter:
    return Converter(ConvertConfig(max_cells=64))


def outcomes(batch: Batch) -> list[str]:
    return [row["outcome"] for row in batch.ledger().to_pylist()]


@pytest.mark.parametrize("align", ["turns", "thinking+evidence+tools_async", "evidence:over=all"])
def test_units_converted_one_by_one_give_what_they_give_together(align: str) -> None:
    converter = Converter(ConvertConfig(align=align))
    units = example_units()
    together = converter.convert(units)
    assert together.records.num_rows == len(units) == 72
    for name in ("records", "tokens", "input_only"):
        alone = [row for u in units for row in getattr(converter.convert([u]), name).to_pylist()]
        assert getattr(together, name).to_pylist() == alone
    assert converter.convert(units[::-1]).records.to_pylist() == together.records.to_pylist()[::-1]


def test_the_examples_show_overlap_under_the_default_policies(converter: Converter) -> None:
    batch = converter.convert(example_units())
    cells = [len(ids) for ids in batch.tokens.column("token_ids").to_pylist()]
    overlapping = [rows < size for rows, size in zip(batch.records.column("rows").to_pylist(), cells, strict=True)]
    assert sum(overlapping) >= 10
    assert batch.counts.realigned == batch.counts.leaks == 0


@st.composite
def units_of_anything(draw: st.DrawFn) -> list[Any]:
    """Units of none to three conversations: some listen only, some are too long, some say nothing, some are broken."""
    odd = st.sampled_from(
        [
            talk(message("user", "word " * 100), message("assistant", "Too long.")),
            talk(message("user", "Only a question?")),
            talk(message("system", "word " * 100)),
            talk(message("assistant", "")),
            talk(message("user", "\x04"), message("assistant", "No token for this.")),
            talk(
                *(message("user", f"Question {i}, somewhat long?") for i in range(9)), message("assistant", "So many.")
            ),
            talk(
                *(
                    m
                    for i in range(9)
                    for m in (message("user", f"Question {i}?"), message("assistant", thought("Hm."), f"Answer {i}."))
                )
            ),
        ]
    )
    broken = st.just(RecordError("broken", "it is"))
    return draw(st.lists(st.lists(conversations | odd, max_size=3) | broken, min_size=1, max_size=6))


@settings(QUICK, max_examples=30)
@given(units_of_anything(), st.sampled_from(["none", "first", "all", "record"]))
def test_every_unit_is_booked_once_for_what_became_of_it(
    narrow: Converter, given_units: list[Any], exclude: str
) -> None:
    converter = narrow
    if exclude != "none":
        every = [c for given_ in given_units if isinstance(given_, list) for c in given_]
        if exclude == "record":
            ids = convert_given(given_units, narrow).records.column("id").to_pylist()[:1]
        else:
            ids = [conversation_id(c) for c in (every if exclude == "all" else every[:1])]
        converter = Converter(ConvertConfig(max_cells=64, exclude_ids=tuple(ids)))
    batch = convert_given(given_units, converter)
    ledger = batch.ledger().to_pylist()
    assert [row["index"] for row in ledger] == list(range(len(given_units)))
    told = Counter(r["sources"][0]["index"] for r in batch.records.to_pylist())
    heard = Counter(r["sources"][0]["index"] for r in batch.input_only.to_pylist())
    refused = Counter(row["index"] for row in batch.rejects)
    for row in ledger:
        i = row["index"]
        assert (row["records"], row["input_only"]) == (told[i], heard[i])
        assert refused[i] == (row["outcome"] == "rejected")
        expected = "rejected" if refused[i] else "converted" if told[i] else "input_only" if heard[i] else "excluded"
        assert row["outcome"] == expected
        assert expected != "excluded" or exclude != "none"
    counts = batch.counts
    assert counts.units == counts.converted + counts.input_only + counts.excluded + counts.rejected
    assert counts.records == batch.records.num_rows == batch.tokens.num_rows
    assert batch.records.column("id").equals(batch.tokens.column("id"))
    assert sum(row["tokens"] for row in ledger) == counts.tokens
    assert record_violations(batch.records) == record_violations(batch.input_only) == []
    assert token_violations(batch.records, batch.tokens, converter.tokenizer) == []
    assert all(rows <= 64 for rows in batch.records.column("rows").to_pylist())
    assert not set(batch.records.column("id").to_pylist()) & set(converter.config.exclude_ids)
    assert not set(batch.records.column("conversation_id").to_pylist()) & set(converter.config.exclude_ids)


GOOD = talk(message("user", "Hello?"), message("assistant", "Hi."))
LISTENS = talk(message("user", "Anybody there?"))
TOO_LONG = talk(message("user", "word " * 100), message("assistant", "So long."))


@pytest.mark.parametrize("refused", [TOO_LONG, talk(message("user", "\x04")), talk(message("assistant", ""))])
@pytest.mark.parametrize("good_first", [True, False])
def test_one_refused_conversation_rejects_its_whole_unit_and_leaves_nothing_of_it(
    narrow: Converter, refused: Conversation, good_first: bool
) -> None:
    pair = [GOOD, LISTENS, refused] if good_first else [refused, LISTENS, GOOD]
    batch = convert_given([[GOOD], pair, [LISTENS]], narrow)
    assert outcomes(batch) == ["converted", "rejected", "input_only"]
    assert [(row["index"], row["stage"], row["raw"]) for row in batch.rejects] == [(1, "convert", b"1")]
    assert (batch.records.num_rows, batch.tokens.num_rows, batch.input_only.num_rows) == (1, 1, 1)
    assert batch.ledger().to_pylist()[1]["records"] == batch.ledger().to_pylist()[1]["conversations"] == 0


def test_a_unit_that_speaks_and_listens_is_converted_and_its_listening_kept_apart(narrow: Converter) -> None:
    batch = convert_given([[GOOD, LISTENS]], narrow)
    (row,) = batch.ledger().to_pylist()
    assert (row["outcome"], row["conversations"], row["records"], row["input_only"]) == ("converted", 2, 1, 1)


def test_a_unit_without_a_conversation_is_a_reject(narrow: Converter) -> None:
    batch = convert_given([[], [GOOD]], narrow)
    assert [(row["index"], row["code"]) for row in batch.rejects] == [(0, "no_conversation")]


@pytest.mark.parametrize("what", ["conversation", "record"])
@pytest.mark.parametrize("given_unit", [[GOOD], [GOOD, LISTENS], [LISTENS, GOOD], [LISTENS]])
def test_an_excluded_id_takes_out_its_records_and_nothing_else(
    narrow: Converter, given_unit: list[Conversation], what: str
) -> None:
    whole = convert_given(
        [given_unit, [TOO_LONG], [talk(message("user", "Other?"), message("assistant", "Yes."))]], narrow
    )
    first = [*whole.records.to_pylist(), *whole.input_only.to_pylist()]
    gone = next(r for r in first if r["sources"][0]["index"] == 0)
    excluded = gone["id"] if what == "record" else gone["conversation_id"]
    without = Converter(ConvertConfig(max_cells=64, exclude_ids=(excluded,)))
    batch = convert_given(
        [given_unit, [TOO_LONG], [talk(message("user", "Other?"), message("assistant", "Yes."))]], without
    )
    left = [*batch.records.to_pylist(), *batch.input_only.to_pylist()]
    assert left == [r for r in first if r["id"] != gone["id"]]
    speaks = any(r["sources"][0]["index"] == 0 for r in batch.records.to_pylist())
    assert outcomes(batch) == [
        "converted" if speaks else "input_only" if len(given_unit) > 1 else "excluded",
        "rejected",
        "converted",
    ]


def test_conversations_of_one_unit_keep_their_ids_when_another_is_taken_out(narrow: Converter) -> None:
    twins = [GOOD, talk(message("user", "Other?"), message("assistant", "Yes.")), GOOD]
    ids = convert_given([twins], narrow).records.column("id").to_pylist()
    assert len(set(ids)) == 3
    without = Converter(ConvertConfig(max_cells=64, exclude_ids=(ids[0],)))
    assert convert_given([twins], without).records.column("id").to_pylist() == ids[1:]


def test_more_calls_in_flight_than_a_record_has_streams_for_is_a_reject(converter: Converter) -> None:
    def parallel(count: int) -> Conversation:
        calls = message("assistant", *(call("f", "{}", str(i)) for i in range(count)))
        return talk(
            message("user", "Go."),
            calls,
            *(message("tool", result("r", str(i))) for i in range(count)),
            message("assistant", "Done."),
        )

    batch = convert_given([[parallel(200)], [parallel(300)], [GOOD]], converter)
    assert outcomes(batch) == ["converted", "rejected", "converted"]
    assert [(row["code"], row["index"]) for row in batch.rejects] == [("too_many_streams", 1)]
    assert len(next(to_json(batch.records))["streams"]) == 203


def test_a_group_is_its_converter_s_within_its_corpus_or_the_normalized_first_input(narrow: Converter) -> None:
    same = [
        talk(message("user", "  Who IS\nthere?"), message("assistant", "Me.")),
        talk(message("system", "s"), message("user", "who is there?"), message("assistant", "You.")),
        talk(message("user", "Who was there?"), message("assistant", "You.")),
        talk(message("user", "x"), message("assistant", "y"), group="task:1"),
    ]
    groups = convert_given([[c] for c in same], narrow).records.column("group").to_pylist()
    assert groups[0] == groups[1] != groups[2]
    assert groups[3] == "c/task:1"


def test_the_key_of_a_unit_is_kept_beside_what_its_source_says(narrow: Converter) -> None:
    raw = b'{"question": "q", "answer": "a\\n#### 1", "key": "own"}'
    batch = narrow.convert([{**unit(0, raw, "math_qa"), "key": "outer"}])
    (record,) = to_json(batch.records)
    assert record["extra"] == '{"key":"own","key_":"outer"}'


def test_the_llama_3_tokenizer_converts_the_examples_too(llama3: TextTokenizer, llama3_file: str) -> None:
    batch = Converter(ConvertConfig(tokenizer=llama3_file)).convert(example_units())
    assert batch.counts.rejected == 0
    assert batch.records.num_rows == 72
    assert {c["tokenizer"] for c in batch.records.column("clock").to_pylist()} == {"llama3"}
    assert record_violations(batch.records) == []
    assert token_violations(batch.records, batch.tokens, llama3) == []


def test_a_message_that_no_window_can_hold_is_refused_before_it_is_encoded() -> None:
    converter = Converter(ConvertConfig(max_cells=64))
    longest = converter.tokenizer.longest_token
    text = "word " * (64 * longest)
    value = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "ok"}]}
    unit = {
        "corpus": "c", "path": "p", "index": 0, "format": "openai_messages", "license": None, "key": None,
        "sha256": "0" * 64, "raw": json.dumps(value).encode(),
    }  # fmt: skip
    encoded: list[str] = []
    encode = converter.tokenizer.encode

    def counting(texts: list[str]) -> object:
        encoded.extend(texts)
        return encode(texts)

    converter.tokenizer.encode = counting  # type: ignore[method-assign,assignment]
    batch = converter.convert([unit])
    assert [(r["code"], r["index"]) for r in batch.rejects] == [("exceeds_window", 0)]
    assert encoded == []
