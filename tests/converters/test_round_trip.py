"""Every text of the corpora, read independently of the converters, is told again in the records: to the character, on the
right stream, and nothing that an environment said is something that a model learns to say."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_walker import (
    CORPORA,
    RULES,
    Conversation,
    Said,
    Told,
    compact,
    differences,
    matched,
    read_file,
    stands_in,
    strings,
)

from converters import CONVERTERS, detect_format
from pipeline.checks import record_violations, token_violations
from pipeline.companions import find_candidates
from pipeline.convert import Batch, ConvertConfig, Converter
from pipeline.listing import InputSource, list_files
from pipeline.reading import Reader, input_of_file
from pipeline.records import to_json

#: A window that everything fits, and the usual one, at which long conversations become segments.
WHOLE, USUAL = 1 << 20, 8192


def data_files(corpus: str) -> list[Path]:
    if not (CORPORA / corpus).is_dir():
        pytest.skip(f"{CORPORA / corpus} is not here")
    return sorted(p for p in (CORPORA / corpus).iterdir() if p.suffix in (".json", ".jsonl", ".gz", ".traj"))


@cache
def converter(window: int = WHOLE) -> Converter:
    return Converter(ConvertConfig(max_cells=window))


def units_of(path: Path, values: Sequence[Any]) -> list[dict[str, Any]]:
    """The units of a file, as ingest would make them: without its code."""
    values = list(values)
    if len(values) == 1 and isinstance(values[0], dict) and detect_format(values) is None:
        inner = list(values[0].values())
        values = inner if detect_format(inner[:64]) else values
    if detect_format(values) == "squad":
        values = [{**value, "data": [article]} for value in values for article in value["data"]]
    format_ = detect_format(values[:64])
    assert format_ is not None, f"{path} has no known format"
    kind = CONVERTERS[format_].UNIT
    if kind == "file":
        values = [values]
    elif kind == "join":
        values = joined(path, values, CONVERTERS[format_])
    return [row(path.name, index, format_, value) for index, value in enumerate(values)]


def row(path: str, index: int, format_: str, value: Any) -> dict[str, Any]:
    raw = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return {
        "corpus": "c", "path": path, "index": index, "format": format_, "license": None, "key": None,
        "sha256": hashlib.sha256(raw).hexdigest(), "raw": raw,
    }  # fmt: skip


def joined(path: Path, values: Sequence[Any], module: Any) -> list[Any]:
    there = [path.parent / name for name in module.companions(path.name) if (path.parent / name).exists()]
    other = {value[module.JOIN]: value for value in read_file(there[0])} if there else {}
    return [{"unit": value, "joined": other.get(value[module.JOIN])} for value in values]


def convert(rows: Sequence[dict[str, Any]], window: int = WHOLE) -> list[Batch]:
    return [converter(window).convert(rows[i : i + 128]) for i in range(0, len(rows), 128)]


def tellings(tables: Iterator[pa.Table]) -> list[list[Told]]:
    """What each conversation's records tell, part by part in source order; segments of one are put together again."""
    told: list[list[Told]] = []
    segments: list[dict[str, Any]] = []
    for table in tables:
        for record in to_json(table):
            segments.append(record)
            if record["segment"]["k"] == record["segment"]["n"]:
                assert [r["segment"]["k"] for r in segments] == list(range(1, len(segments) + 1))
                told.append(told_by(segments))
                segments = []
    assert not segments
    return told


def told_by(segments: Sequence[dict[str, Any]]) -> list[Told]:
    texts: dict[tuple[int, int], str] = {}
    stream: dict[tuple[int, int], str] = {}
    added: dict[tuple[int, int], str] = {}
    for record in segments:
        here: dict[tuple[int, int], str] = {}
        for event in record["events"]:
            if event["kind"] not in ("header", "note"):
                key = event["message"], event["part"]
                here[key] = here.get(key, "") + event["text"]
                stream[key] = record["streams"][event["stream"]]["role"]
        for key, text in here.items():
            repeated = key in texts and stream[key] == "system"
            texts[key] = text if repeated else texts.get(key, "") + text
        added |= {(p["message"], p["part"]): p["added"] for p in record["parts"]}
    told = []
    for key in sorted(texts):
        if stream[key] == "call":
            name, newline, arguments = texts[key].partition("\n")
            assert added[key] == newline == "\n"
            told.append(Told("call", arguments, name))
        else:
            told.append(Told(stream[key], texts[key]))
    return told


@dataclass(frozen=True)
class Corpus:
    """A corpus as expected and as converted, file by file."""

    name: str
    files: list[tuple[str, list[Conversation], list[Batch]]]

    def rejects(self) -> Counter[str]:
        return Counter(row["code"] for _, _, batches in self.files for batch in batches for row in batch.rejects)


@cache
def load(name: str, window: int = WHOLE) -> Corpus:
    files = []
    for path in data_files(name):
        values = read_file(path)
        expected = [conversation for unit in RULES[name].read(path.name, values) for conversation in unit]
        files.append((path.name, expected, convert(units_of(path, values), window)))
    return Corpus(name, files)


def speaks(conversation: Conversation) -> bool:
    return any(said.speaker == "assistant" and (said.text or said.name) for said in conversation)


def described(name: str, problems: Sequence[str]) -> str:
    return f"{name}: {len(problems)} differences, first:\n" + "\n".join(problems[:12])


ANY_ORDER = [name for name, rule in RULES.items() if rule.any_order]
EXACT = [name for name, rule in RULES.items() if not (rule.loose or rule.any_order)]
LOOSE = [name for name, rule in RULES.items() if rule.loose]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ([Told("user", "How warm?"), Told("assistant", "412")], ""),
        ([Told("user", "How warm?"), Told("thought", "41"), Told("assistant", "2")], ""),
        ([Told("user", "How warm"), Told("assistant", "412")], "'?' is not told"),
        ([Told("user", "How warm?")], "'<a>412' is not told"),
        ([Told("user", "How warm?"), Told("tool", "412")], "told on tool"),
        ([Told("user", "How warm?"), Told("assistant", "412 ")], "'412 '"),
        ([Told("user", "How warm?"), Told("assistant", "412"), Told("user", "Thanks.")], "not expected: 'Thanks.'"),
        ([Told("assistant", "412"), Told("user", "How warm?")], "'How warm?' is not told"),
    ],
)
def test_a_difference_of_one_character_or_one_stream_is_seen(told: list[Told], says: str) -> None:
    found = differences([Said("user", "How warm?"), Said("assistant", "<a>412")], told, "<a>")
    assert bool(found) == bool(says)
    assert says in "\n".join(found)


def test_there_is_a_rule_for_every_corpus() -> None:
    if not CORPORA.is_dir():
        pytest.skip(f"{CORPORA} is not here")
    assert {p.name for p in CORPORA.iterdir() if p.is_dir()} == set(RULES)


#: Corpora with conversations that are longer than the usual window.
LONG = ("agent-openhands", "agent-swe-agent", "agent-webdancer", "blocks-pi-session", "openai-tau-bench-airline")


@pytest.mark.parametrize(
    ("name", "window"),
    [*((name, WHOLE) for name in EXACT), *((name, USUAL) for name in LONG if name in EXACT)],
)
def test_every_text_is_told_again_to_the_character(name: str, window: int) -> None:
    corpus = load(name, window)
    problems = []
    for file, expected, batches in corpus.files:
        if any(row["code"] == "unencodable" for batch in batches for row in batch.rejects):
            assert len(expected) == 1
            assert re.search(r"[\x00-\x08\x0b-\x1f]", "".join(said.text for said in expected[0]))
            continue
        for wanted, tables in (
            ([c for c in expected if speaks(c)], (b.records for b in batches)),
            ([c for c in expected if not speaks(c)], (b.input_only for b in batches)),
        ):
            told = tellings(tables)
            if len(told) != len(wanted):
                problems.append(f"{file}: {len(wanted)} conversations expected, {len(told)} told")
                continue
            for index, (conversation, parts) in enumerate(zip(wanted, told, strict=True)):
                found = differences(conversation, parts, RULES[name].marks)
                problems += [f"{file} #{index}: {what}" for what in found]
    assert not problems, described(name, problems) + f"\nrejected: {dict(corpus.rejects())}"


@pytest.mark.parametrize(
    ("name", "window"), [*((name, WHOLE) for name in LOOSE), *((name, USUAL) for name in LONG if name in LOOSE)]
)
def test_every_text_of_a_session_log_is_told_again(name: str, window: int) -> None:
    corpus, rule = load(name, window), RULES[name]
    problems = []
    for file, expected, batches in corpus.files:
        said = [item for conversation in expected for item in conversation]
        found: set[int] = set()
        tables = [table for b in batches for table in (b.records, b.input_only)]
        for parts in tellings(iter(tables)):
            wrong, here = matched(said, parts, rule.marks, loose=True)
            problems += [f"{file}: {what}" for what in wrong]
            found |= here
        kept = "".join(extra for table in tables for extra in table.column("extra").to_pylist())
        for index in sorted(set(range(len(said))) - found):
            text = said[index].text
            if text in rule.beside and json.dumps(text) in kept:
                continue
            if text or said[index].name:
                problems.append(f"{file}: {index} ({said[index].speaker}) {text[:80]!r} is not told")
    assert not problems, described(name, problems) + f"\nrejected: {dict(corpus.rejects())}"


@pytest.mark.parametrize(("name", "window"), [*((name, WHOLE) for name in RULES), *((name, USUAL) for name in LONG)])
def test_records_of_the_corpora_keep_their_invariants(name: str, window: int) -> None:
    for file, _, batches in load(name, window).files:
        for batch in batches:
            found = [*record_violations(batch.records), *record_violations(batch.input_only)]
            found += token_violations(batch.records, batch.tokens, None)
            assert not found, f"{file}: {found[0]}"


@pytest.mark.parametrize("name", RULES)
def test_ingest_reads_the_units_that_stand_in_the_files(name: str) -> None:
    files = list_files(InputSource(path=str(CORPORA / name)), Path()) if data_files(name) else []
    candidates = find_candidates(files)
    things = [input_of_file(f, None, candidates.get((f.corpus, f.pointer), ()), 32 << 20) for f in files]
    reader = Reader(things, 32 << 20)
    for path, thing in zip(data_files(name), things, strict=True):
        read = [(item.format, item.code, json.loads(item.unit.raw)) for item in reader.read(thing)]
        due = [] if path.name.startswith("possible_answer") else units_of(path, read_file(path))
        assert read == [(row["format"], "", json.loads(row["raw"])) for row in due]


@pytest.mark.parametrize("name", ANY_ORDER)
def test_every_text_of_a_log_fixture_is_told_and_nothing_is_made_up(name: str) -> None:
    corpus, problems = load(name), []
    for (file, expected, batches), path in zip(corpus.files, data_files(name), strict=True):
        parts = [p for told in tellings(table for b in batches for table in (b.records, b.input_only)) for p in told]
        told = {part.text for part in parts}
        known = set(strings(read_file(path)))
        problems += [f"{file}: {p.text[:80]!r} is told on {p.stream}" for p in parts if not stands_in(p.text, known)]
        wanted = {said.text for conversation in expected for said in conversation if said.speaker != "tools"}
        missing = {text for text in wanted - told - RULES[name].beside if text}
        problems += [f"{file}: {text[:80]!r} is not told" for text in missing]
    assert not problems, described(name, problems) + f"\nrejected: {dict(corpus.rejects())}"


@pytest.mark.parametrize("name", RULES)
def test_tool_definitions_are_told_verbatim(name: str) -> None:
    for file, expected, batches in load(name).files:
        wanted = Counter(said.text for c in expected for said in c if said.speaker == "tools")
        told: Counter[str] = Counter()
        for table in (table for b in batches for table in (b.records, b.input_only)):
            for record in to_json(table):
                texts = [e["text"] for e in record["events"] if e["message"] is None and e["kind"] == "note"]
                told.update(["".join(texts)] if texts else [])
        assert not wanted - told, f"{file}: definitions are not told: {next(iter(wanted - told))[:200]}"


#: What an environment said inside text that the sources give to the model.
OBSERVED = {
    "alpaca-fireact": lambda record: re.findall(
        r"^Observation: (.*?)(?=\n(?:Thought|Action)(?: \d+)?:|\Z)", record["output"], re.DOTALL | re.MULTILINE
    ),
    "think-r1-searcher": lambda record: re.findall(
        r"<\|begin_of_documents\|>\s*(.*?)\s*<\|end_of_documents\|>", record["gen_text_store"], re.DOTALL
    ),
    "agent-webdancer": lambda record: [
        found
        for message in record["messages"]
        if message["role"] != "system"
        for found in re.findall(r"^<tool_response>\s*(.*?)\s*</tool_response>", message["content"], re.DOTALL)
    ],
}


@pytest.mark.parametrize("name", OBSERVED)
def test_nothing_that_an_environment_said_is_a_training_target(name: str) -> None:
    """Decoded, the targets of a record hold no observation that the model has not also written itself."""
    seen = 0
    tokenizer = converter().tokenizer
    for path, (_, expected, batches) in zip(data_files(name), load(name).files, strict=True):
        observed = [OBSERVED[name](record) for record in read_file(path)]
        own = ["".join(said.text for said in conversation if said.speaker == "assistant") for conversation in expected]
        for batch in batches:
            ids, loss = (batch.tokens.column(c).to_pylist() for c in ("token_ids", "token_loss"))
            indices = [sources[0]["index"] for sources in batch.records.column("sources").to_pylist()]
            for index, row_ids, row_loss in zip(indices, ids, loss, strict=True):
                targets = [token for token, bits in zip(row_ids, row_loss, strict=True) if bits & 1]
                learned = tokenizer.decode(targets)
                for text in observed[index]:
                    probe = text.strip()[:40]
                    if len(probe) >= 12 and probe not in own[index]:
                        seen += 1
                        assert probe not in learned, f"{path.name} #{index} teaches {probe!r}"
    assert seen > 50


def test_an_answer_that_paths_of_a_tree_share_is_trained_once() -> None:
    """The characters that are targets, over all paths, are those of the tree's distinct assistant messages."""

    def answers(node: dict[str, Any]) -> Iterator[str]:
        if node["role"] == "assistant":
            yield node["text"]
        for reply in node["replies"]:
            yield from answers(reply)

    (path,) = data_files("oasst-trees")
    due = sum(len(text) for tree in read_file(path) for text in answers(tree["prompt"]))
    trained = 0
    for batch in load("oasst-trees").files[0][2]:
        for record in to_json(batch.records):
            outputs = {i for i, stream in enumerate(record["streams"]) if stream["direction"] == "output"}
            trained += sum(len(e["text"]) for e in record["events"] if e["stream"] in outputs and e["weight"] > 0)
    assert trained == due


# --- generated conversations ---------------------------------------------------------------------------------------------

pieces = st.sampled_from(
    [
        "Kiln", "4,200 °C", " ", "  ", "\n", "\n\n", "\t", "\r\n", "é", "漢字", "👩‍🚀", "\u200b", '{"a": [1]}', "- x",
        "<think>", "</think>", "<|im_end|>", "<answer>", "</answer>", "\\n", '"', "```py\nx = 1\n```", "ا", "#### 5",
        "<<1+1=2>>", "</s>", "<b>",
    ]
)  # fmt: skip
texts = st.lists(pieces, max_size=7).map(lambda found: "".join([*found, "z"]))
arguments = st.dictionaries(
    st.sampled_from(["place", "größe", "n"]), texts | st.integers() | st.lists(texts, max_size=2)
)
names = st.sampled_from(["read_sensor", "open.door", "搜索"])
#: A turn: what the user says, the thought, the calls with their results, what the assistant says.
turns = st.lists(
    st.tuples(texts, st.none() | texts, st.lists(st.tuples(names, arguments, texts), max_size=3), texts),
    min_size=1,
    max_size=3,
)
Turns = list[tuple[str, str | None, list[tuple[str, dict[str, Any], str]], str]]


def as_openai(system: str, said: Turns) -> tuple[Any, Conversation]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    expected = [Said("system", system)]
    for t, (user, thought, calls, answer) in enumerate(said):
        messages.append({"role": "user", "content": user})
        expected.append(Said("user", user))
        if calls:
            listed = [
                {"id": f"{t}.{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}
                for i, (name, args, _) in enumerate(calls)
            ]
            messages.append({"role": "assistant", "content": None, "tool_calls": listed})
            expected += [Said("assistant", json.dumps(args), name) for name, args, _ in calls]
            for i, (_, _, result) in enumerate(calls):
                messages.append({"role": "tool", "tool_call_id": f"{t}.{i}", "content": result})
                expected.append(Said("tool", result))
        messages.append({"role": "assistant", "content": answer} | ({"reasoning_content": thought} if thought else {}))
        expected += [*([Said("assistant", thought)] if thought else []), Said("assistant", answer)]
    return {"messages": messages}, expected


def as_sharegpt(system: str, said: Turns) -> tuple[Any, Conversation]:
    items = []
    expected = [Said("system", system)]
    for user, _, calls, answer in said:
        items.append({"from": "human", "value": user})
        expected.append(Said("user", user))
        for name, args, result in calls:
            value = json.dumps({"name": name, "arguments": args}, ensure_ascii=False)
            items += [{"from": "function_call", "value": value}, {"from": "observation", "value": result}]
            expected += [Said("assistant", compact(args), name), Said("tool", result)]
        items.append({"from": "gpt", "value": answer})
        expected.append(Said("assistant", answer))
    return {"conversations": items, "system": system}, expected


def as_blocks(system: str, said: Turns) -> tuple[Any, Conversation]:
    messages: list[dict[str, Any]] = []
    expected = [Said("system", system)]
    for t, (user, thought, calls, answer) in enumerate(said):
        messages.append({"role": "user", "content": [{"type": "text", "text": user}]})
        blocks = [{"type": "thinking", "thinking": thought, "signature": "c2ln"}] if thought else []
        uses = [
            {"type": "tool_use", "id": f"{t}.{i}", "name": name, "input": args}
            for i, (name, args, _) in enumerate(calls)
        ]
        results = [
            {"type": "tool_result", "tool_use_id": f"{t}.{i}", "content": result}
            for i, (_, _, result) in enumerate(calls)
        ]
        messages.append({"role": "assistant", "content": [*blocks, {"type": "text", "text": answer}, *uses]})
        expected += [Said("user", user), *([Said("assistant", thought)] if thought else []), Said("assistant", answer)]
        expected += [Said("assistant", compact(args), name) for name, args, _ in calls]
        if results:
            messages.append({"role": "user", "content": results})
            expected += [Said("tool", result) for _, _, result in calls]
    return {"system": system, "messages": messages}, expected


def as_alpaca(system: str, said: Turns) -> tuple[Any, Conversation]:
    *earlier, (user, context, _, answer) = said
    record = {"system": system, "instruction": user, "input": context or "", "output": answer}
    record["history"] = [[asked, told] for asked, _, _, told in earlier]  # type: ignore[assignment]
    expected = [Said("system", system)]
    for asked, _, _, told in earlier:
        expected += [Said("user", asked), Said("assistant", told)]
    expected += [Said("user", user), *([Said("user", context)] if context else []), Said("assistant", answer)]
    return record, expected


def as_context_qa(system: str, said: Turns) -> tuple[Any, Conversation]:
    question, context, _, answer = said[0]
    record = {
        "QUESTION": question,
        "CONTEXTS": [system, context or "z"],
        "LONG_ANSWER": answer,
        "final_decision": "yes",
    }
    contexts = [Said("user", system), Said("user", context or "z")]
    return record, [Said("user", question), *contexts, Said("assistant", answer), Said("assistant", "yes")]


WRITERS = {
    "openai_messages": as_openai,
    "sharegpt": as_sharegpt,
    "content_blocks": as_blocks,
    "alpaca": as_alpaca,
    "context_qa": as_context_qa,
}


@pytest.mark.parametrize("format_", WRITERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(system=texts, said=turns)
def test_what_was_written_in_a_format_is_told_again(format_: str, system: str, said: Turns) -> None:
    value, expected = WRITERS[format_](system, said)
    batch = converter().convert([row("x.jsonl", 0, format_, value)])
    assert not batch.rejects
    (told,) = tellings(iter([batch.records]))
    marks = r"</?think>|</?answer>"
    assert differences(expected, told, marks) == []
