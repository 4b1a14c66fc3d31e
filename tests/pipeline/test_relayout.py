"""Relayout: records laid out again under another tokenizer keep every claim, and come back to what they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conversation_cases import QUICK, Case, cases, conversations, message, tables_of, talk, thought
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pipeline.alignment import align_all, parse_align_spec
from pipeline.alignment.plan import Resources
from pipeline.checks import record_violations, token_violations
from pipeline.conversation import Conversation, RecordError
from pipeline.convert import ConvertConfig, Converter
from pipeline.leaks import lexical
from pipeline.records import Clock, Document, Tables, build_tables, encode_spans, to_json
from pipeline.relayout import rebuild
from pipeline.script import Script, Utterance, perform, stream
from pipeline.tokenization import TextTokenizer, load_tokenizer, token_ends

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "corpora"

#: What a new layout may change.
LAYOUT = {"id", "clock", "rows", "events", "labels"}


@pytest.fixture(scope="session")
def bytes_spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tokenizer whose tokens are bytes."""
    folder = tmp_path_factory.mktemp("bytes")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


@pytest.fixture(scope="session")
def byte_tokens(bytes_spec: str) -> TextTokenizer:
    return load_tokenizer(bytes_spec)


def again(table: pa.Table, tokenizer: TextTokenizer, lag: int = 0) -> Tables:
    """The records of a table, by way of JSON, under another tokenizer."""
    documents = [rebuild(orjson.loads(orjson.dumps(record))).document() for record in to_json(table)]
    encoded, first = encode_spans([d.timeline for d in documents], tokenizer)
    tables = build_tables(documents, Clock(tokenizer, lag), encoded, first)
    assert not tables.failed
    assert record_violations(tables.records) == []
    assert token_violations(tables.records, tables.tokens, tokenizer) == []
    return tables


def reached(record: dict[str, Any], event: int) -> set[int]:
    """All events that have ended, by the record's claims, when an event starts, and itself."""
    events = record["events"]
    previous: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, e in enumerate(events):
        if e["stream"] in last:
            previous[i] = last[e["stream"]]
        last[e["stream"]] = i
    found: set[int] = set()
    todo = [event]
    while todo:
        i = todo.pop()
        if i not in found:
            found.add(i)
            todo += [*events[i]["after"], *([previous[i]] if i in previous else [])]
    return found


def places(record: dict[str, Any]) -> Iterator[tuple[int, tuple[Any, ...], int, int]]:
    """Each event with its span and its characters."""
    at: dict[tuple[Any, ...], int] = {}
    for i, e in enumerate(record["events"]):
        span = (e["message"], e["part"], e["kind"] == "header")
        start = at.get(span, 0)
        at[span] = start + len(e["text"])
        yield i, span, start, at[span]


def keeps_every_edge(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether all that an event waited for is waited for by the event that now holds its text.

    A token that lies across a chunk's end joins the chunk before it on an input stream and the one behind it on an output
    stream, so of an input the last character tells where a chunk went, of an output the first.
    """
    where = {i: (span, start, end) for i, span, start, end in places(old)}
    spans: dict[tuple[Any, ...], list[tuple[int, int, int]]] = {}
    for i, span, start, end in places(new):
        spans.setdefault(span, []).append((start, end, i))

    def now(event: int) -> int:
        span, start, end = where[event]
        is_input = old["streams"][old["events"][event]["stream"]]["direction"] == "input"
        character = max(end - 1, 0) if is_input else start
        return next((i for low, high, i in spans[span] if low <= character < high), spans[span][0][2])

    return all(
        now(waited) in reached(new, now(i)) for i, event in enumerate(old["events"]) for waited in event["after"]
    )


@settings(QUICK, max_examples=80)
@given(cases)
def test_there_and_back_again_is_the_same_record(
    smollm2: TextTokenizer, byte_tokens: TextTokenizer, case: Case
) -> None:
    records = tables_of([case.conversation], case.align, smollm2, case.lag, case.question).records
    there = again(records, byte_tokens, lag=1 - case.lag).records
    assert there.column("id") != records.column("id")
    assert again(there, smollm2, case.lag).records.equals(records)


@settings(QUICK, max_examples=60)
@given(cases)
def test_under_any_tokenizer_text_edges_and_names_are_kept(
    smollm2: TextTokenizer, llama3: TextTokenizer, case: Case
) -> None:
    records = tables_of([case.conversation], case.align, smollm2, case.lag, case.question).records
    (old,), (new,) = to_json(records), to_json(again(records, llama3, case.lag).records)
    assert {k: v for k, v in new.items() if k not in LAYOUT} == {k: v for k, v in old.items() if k not in LAYOUT}
    assert keeps_every_edge(old, new)
    strip = {"delays"}
    assert {k: v for k, v in json.loads(new["labels"]).items() if k not in strip} == {
        k: v for k, v in json.loads(old["labels"]).items() if k not in strip
    }


@settings(QUICK, max_examples=40)
@given(cases)
def test_a_record_made_twice_is_the_same_as_one_made_from_its_source(
    smollm2: TextTokenizer, llama3: TextTokenizer, case: Case
) -> None:
    """Under turns nothing is cut, so that no chunk's end can have moved."""
    first, straight = (
        tables_of([case.conversation], "turns", tokenizer, case.lag, case.question).records
        for tokenizer in (smollm2, llama3)
    )
    assert again(first, llama3, case.lag).records.equals(straight)


def timed(told: list[Conversation], spec: str, tokenizer: TextTokenizer) -> pa.Table:
    found = align_all(told, parse_align_spec(spec), Resources(partial(token_ends, tokenizer)))
    documents = [
        Document(c, a.timeline, a.spec, labels=a.labels, ms_per_row=a.ms_per_row)
        for c, a in zip(told, found, strict=True)
    ]
    encoded, first = encode_spans([d.timeline for d in documents], tokenizer)
    return build_tables(documents, Clock(tokenizer), encoded, first).records


@settings(QUICK, max_examples=60)
@given(
    conversations,
    st.sampled_from(
        ["timestamps", "tools_async:latency=*:20:1", "wait_k", "wait_k:chunk=token,k=2", "tools_async+timestamps"]
    ),
)
def test_delays_and_times_come_back(
    smollm2: TextTokenizer, byte_tokens: TextTokenizer, conversation: Conversation, spec: str
) -> None:
    records = timed([conversation], spec, smollm2)
    there = again(records, byte_tokens).records
    (old,), (new,) = to_json(records), to_json(there)
    assert new["clock"]["ms_per_row"] == old["clock"]["ms_per_row"]
    assert sorted(d for _, d in json.loads(old["labels"]).get("delays", [])) == sorted(
        d for _, d in json.loads(new["labels"]).get("delays", [])
    )
    assert keeps_every_edge(old, new)
    assert again(there, smollm2).records.equals(records)


def test_on_a_clock_of_real_time_nothing_is_said_before_its_time(
    smollm2: TextTokenizer, byte_tokens: TextTokenizer
) -> None:
    script = Script(
        (stream("user", "input"), stream("assistant", "output")),
        (
            Utterance(0, "Hello there, my friend.", (6, 23), (1000, 2600), (1500, 4000)),
            Utterance(1, "Hi.", (3,), (3000,), (3500,)),
            Utterance(0, "Bye.", (4,), (60_000,), (61_000,)),
        ),
        ms_per_row=80.0,
    )
    conversation, timeline = perform(script)

    class Source:
        policy, params = "source", "{}"

    document = Document(conversation, timeline, Source(), ms_per_row=80.0)
    encoded, first = encode_spans([timeline], smollm2)
    records = build_tables([document], Clock(smollm2), encoded, first).records
    there = again(records, byte_tokens).records
    (new,) = to_json(there)
    assert all(e["start"] >= int((e["time_ms"] - 1000) / 80) for e in new["events"])
    assert [e["start"] for e in new["events"] if e["text"] == "Bye."] == [int(59_000 / 80)]
    assert again(there, smollm2).records.equals(records)


# through the converter


def unit(record: dict[str, Any], index: int = 0) -> dict[str, Any]:
    raw = orjson.dumps(record)
    return {
        "corpus": "again", "path": "records.jsonl", "index": index, "format": "stream_record", "license": None, "key": None,
        "sha256": "0" * 64, "raw": raw,
    }  # fmt: skip


SOLVED = talk(
    message("user", "What is 17 plus 25?"),
    message("assistant", thought("17 apples and 25 pears. That makes 42."), "It is 42. I added 17 and 25."),
)


def test_a_record_that_no_longer_fits_names_its_source_as_the_way_out(smollm2: TextTokenizer, bytes_spec: str) -> None:
    (record,) = to_json(tables_of([SOLVED], "thinking", smollm2).records)
    batch = Converter(ConvertConfig(tokenizer=bytes_spec, max_cells=60)).convert([unit(record)])
    assert [(row["code"], "from its source" in row["message"]) for row in batch.rejects] == [("exceeds_window", True)]
    assert batch.counts.rejected == 1
    fits = Converter(ConvertConfig(tokenizer=bytes_spec)).convert([unit(record)])
    assert (fits.counts.records, fits.counts.rejected) == (1, 0)


def test_a_record_that_leaks_is_rejected(smollm2: TextTokenizer) -> None:
    conversation = talk(message("user", "The code is HAT042."), message("assistant", "Your code is HAT042."))
    (record,) = to_json(tables_of([conversation], "turns", smollm2).records)
    read, said = record["events"]
    said["after"], said["end"], said["start"] = [], said["end"] - said["start"], 0
    record["rows"] = max(read["end"], said["end"])
    batch = Converter(ConvertConfig()).convert([unit(record)])
    assert [row["code"] for row in batch.rejects] == ["leak"]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.pop("events"),
        lambda r: r["events"][0].update(stream=9),
        lambda r: r["events"][1].update(after=[7]),
        lambda r: r["events"][0].update(text="Other words."),
        lambda r: r.update(rows=1),
        lambda r: r.update(extra="{"),
        lambda r: r.update(labels="[1]"),
        lambda r: r.update(labels='{"delays": [[0, -1]]}'),
        lambda r: r.update(labels='{"delays": 3}'),
        lambda r: r["parts"].append({**r["parts"][0]}),
        lambda r: r["parts"].pop(),
        lambda r: r["events"][0].update(start=-3),
        lambda r: r["events"][0].update(end=2**40),
    ],
)
def test_a_bad_record_is_a_reject_row(smollm2: TextTokenizer, change: Any) -> None:
    good, bad = (next(to_json(tables_of([SOLVED], "thinking", smollm2).records)) for _ in range(2))
    change(bad)
    with pytest.raises(RecordError) as error:
        rebuild(bad)
    assert error.value.code == "bad_record"
    batch = Converter(ConvertConfig()).convert([unit(bad, 0), unit(good, 1)])
    assert [(row["index"], row["code"]) for row in batch.rejects] == [(0, "bad_record")]
    assert batch.records.num_rows == 1


def test_values_at_their_default_may_be_left_out(smollm2: TextTokenizer) -> None:
    table = tables_of([SOLVED], "thinking", smollm2).records
    (record,) = to_json(table)
    record.pop("extra")
    for event in record["events"]:
        for name in ("weight", "interrupted", "time_ms", "lexical", "gain", "judged"):
            event.pop(name)
    for part in record["parts"]:
        part.pop("added")
    batch = Converter(ConvertConfig()).convert([unit(record)])
    assert batch.records.column("id") == table.column("id")


def test_a_record_of_unknown_origin_keeps_its_id_and_gets_a_new_one_under_another_tokenizer(
    smollm2: TextTokenizer, bytes_spec: str
) -> None:
    (record,) = to_json(tables_of([SOLVED], "thinking", smollm2).records)
    record["id"] = "f" * 32
    same = Converter(ConvertConfig()).convert([unit(record)])
    other = Converter(ConvertConfig(tokenizer=bytes_spec)).convert([unit(record)])
    assert same.records.column("id").to_pylist() == ["f" * 32]
    assert other.records.column("id").to_pylist() != ["f" * 32]
    assert other.records.column("conversation_id").to_pylist() == [record["conversation_id"]]


def test_records_may_be_excluded_by_their_ids(smollm2: TextTokenizer, bytes_spec: str) -> None:
    (record,) = to_json(tables_of([SOLVED], "thinking", smollm2).records)
    for name in (record["id"], record["conversation_id"]):
        batch = Converter(ConvertConfig(tokenizer=bytes_spec, exclude_ids=(name,))).convert([unit(record)])
        assert (batch.counts.excluded, batch.counts.records) == (1, 0)


def test_verdicts_are_those_of_the_new_layout(smollm2: TextTokenizer) -> None:
    table = tables_of([SOLVED], "thinking", smollm2).records
    (record,) = to_json(table)
    for event in record["events"]:
        event.update(lexical="leak", gain=1.5, judged="no")
    batch = Converter(ConvertConfig()).convert([unit(record)])
    (new,) = to_json(batch.records)
    clear = {f.event for f in lexical(table)}
    assert [e["lexical"] for e in new["events"]] == ["clear" if i in clear else None for i in range(len(new["events"]))]
    assert {(e["gain"], e["judged"]) for e in new["events"]} == {(None, None)}


# through the command line


def run(*arguments: str | Path) -> Any:
    from typer.testing import CliRunner

    from pipeline.cli import app

    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def stored(folder: Path) -> pa.Table:
    tables = [pq.read_table(path) for path in sorted((folder / "convert").glob("records-*.parquet"))]
    return pa.concat_tables(tables).sort_by("id")


@pytest.mark.parametrize("form", ["build", "dataset", "shard", "lines"])
def test_whatever_form_records_have_they_are_recognized(tmp_path: Path, bytes_spec: str, form: str) -> None:
    examples = Path(__file__).resolve().parents[2] / "examples" / "conversations"
    first = tmp_path / "first"
    run("convert", examples / "openai_messages.jsonl", "--out", first)
    records = stored(first)
    if form == "lines":
        (tmp_path / "records.jsonl").write_bytes(b"\n".join(orjson.dumps(record) for record in to_json(records)))
    given = {
        "build": first,
        "dataset": first / "dataset",
        "shard": first / "convert" / "records-00000.parquet",
        "lines": tmp_path / "records.jsonl",
    }[form]
    report = json.loads(run("inspect", given, "--json"))
    assert {file["format"] for file in report["files"]} == {"stream_record"}
    run("convert", given, "--out", tmp_path / "there", "--tokenizer", bytes_spec)
    there = stored(tmp_path / "there")
    assert there.num_rows == records.num_rows
    assert {c["tokenizer"] for c in there.column("clock").to_pylist()} == {Path(bytes_spec).name}
    run("validate", tmp_path / "there", "--tokenizer", bytes_spec)
    run("convert", tmp_path / "there", "--out", tmp_path / "back")
    assert stored(tmp_path / "back").equals(records)


@pytest.mark.parametrize(
    "corpus",
    ["math-gsm8k", "rc-xquad", "sharegpt-glaive-toolcall", "think-marco-o1", "blocks-agent-sessions", "oasst-trees"],
)
def test_records_of_a_corpus_come_back(corpus: str, tmp_path: Path, bytes_spec: str) -> None:
    if not (CORPORA / corpus).is_dir():
        pytest.skip("the corpora are not beside the project")
    run("convert", CORPORA / corpus, "--out", tmp_path / "first", "--workers", "1")
    first = stored(tmp_path / "first").slice(0, 150)
    units = [unit(record, i) for i, record in enumerate(to_json(first))]
    there = Converter(ConvertConfig(tokenizer=bytes_spec, max_cells=1 << 20)).convert(units)
    assert (there.counts.records, there.counts.rejected) == (len(units), 0)
    back = Converter(ConvertConfig()).convert([unit(r, i) for i, r in enumerate(to_json(there.records))])
    assert back.records.sort_by("id").equals(first)
    for old, new in zip(to_json(first), to_json(there.records), strict=True):
        assert keeps_every_edge(old, new)


def test_a_segment_without_an_answer_stays_a_record(smollm2: TextTokenizer) -> None:
    (record,) = to_json(tables_of([talk(message("user", "A long result."))], "turns", smollm2).records)
    record["segment"] = {"k": 2, "n": 3}
    assert rebuild(record).has_output()
    assert not rebuild({**record, "segment": {"k": 1, "n": 1}}).has_output()
    kept = rebuild(record).kept
    assert kept is not None
    assert replace(kept, ordinal=None).record_id(*kept.clock) == record["id"]
