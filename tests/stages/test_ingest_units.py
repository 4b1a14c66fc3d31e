"""Ingest: what a file's format wants becomes the unit; what cannot be used is a reject row; every value is accounted for."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import converters
from pipeline.conservation import recount_ingest
from pipeline.conversation import Conversation, Message, Part
from pipeline.errors import ConservationError, InputError
from pipeline.manifest import Result
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "corpora"

MATH = [{"question": f"{i}?", "answer": f"{i}+1\n#### {i + 1}"} for i in range(6)]
EVENTS = [{"event": "said", "who": who, "text": f"{who} {i}"} for i in range(3) for who in ("user", "assistant")]


def _conversation(*texts: str) -> Iterator[Conversation]:
    yield Conversation(tuple(Message("user", (Part("text", text),)) for text in texts))


@dataclass(frozen=True)
class Options:
    order: Literal["old", "new"] = "old"


#: A format whose unit is a file, one whose unit is a join.
LOG: Any = SimpleNamespace(
    FORMAT="event_log",
    UNIT="file",
    SHAPE='{"event", "who", "text"}',
    EXAMPLE=EVENTS[:2],
    Options=Options,
    detect=lambda unit: isinstance(unit, dict) and "event" in unit,
    convert=lambda unit, options=None: _conversation(*(event["text"] for event in unit)),
)
QUIZ: Any = SimpleNamespace(
    FORMAT="quiz",
    UNIT="join",
    JOIN="nr",
    SHAPE='{"nr", "ask"} with {"nr", "key"}',
    EXAMPLE={"unit": {"nr": 1, "ask": "?"}, "joined": {"nr": 1, "key": "!"}},
    companions=lambda name: (f"keys/{name}", f"keys_{name}"),
    detect=lambda unit: isinstance(unit, dict) and "ask" in unit,
    convert=lambda unit: _conversation(unit["unit"]["ask"]),
)


@pytest.fixture(autouse=True)
def _formats(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**converters.CONVERTERS, "event_log": LOG, "quiz": QUIZ}
    monkeypatch.setattr(converters, "CONVERTERS", MappingProxyType(known))


def lines(values: list[Any]) -> bytes:
    return "".join(json.dumps(v) + "\n" for v in values).encode()


def put(folder: Path, **files: bytes | str) -> Path:
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def ingest(out: Path, *paths: object, config: IngestConfig | None = None, **source: Any) -> Result:
    sources = [InputSource(path=str(p), **{"corpus": "c", **source}) for p in paths]
    return ingest_stage(sources, Path(), out, config or IngestConfig())


def rows(result: Result, kind: str = "units") -> list[dict[str, Any]]:
    return [row for p in result.manifest.paths(result.directory, f"{kind}-") for row in pq.read_table(p).to_pylist()]


def refused(result: Result) -> list[tuple[str, int, str]]:
    return [(r["path"], r["index"], r["code"]) for r in rows(result, "rejects")]


def counters(result: Result) -> dict[str, int]:
    kept = ("in", "out", "rejected", "values", "joined", "rejected_values")
    return {k: v for k, v in result.manifest.counters.items() if k in kept and v}


# records


def test_units_have_their_file_format_and_digest(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"a.jsonl": lines(MATH)})
    result = ingest(tmp_path / "out", tmp_path / "in")
    found = rows(result)
    assert [json.loads(r["raw"]) for r in found] == MATH
    assert {(r["corpus"], r["path"], r["format"], r["license"], r["key"]) for r in found} == {
        ("c", "a.jsonl", "math_qa", None, None)
    }
    assert [r["sha256"] for r in found] == [hashlib.sha256(r["raw"]).hexdigest() for r in found]
    assert counters(result) == {"in": 6, "out": 6, "values": 6}


def test_shards_hold_the_units_of_several_files_in_order(tmp_path: Path) -> None:
    put(tmp_path / "in", **{f"{n}.jsonl": lines(MATH) for n in "abc"})
    result = ingest(tmp_path / "out", tmp_path / "in", config=IngestConfig(shard_units=4))
    shards = [pq.read_table(p).num_rows for p in result.manifest.paths(result.directory, "units-")]
    assert shards == [4, 4, 4, 4, 2]
    assert [(r["path"], r["index"]) for r in rows(result)] == [(f"{n}.jsonl", i) for n in "abc" for i in range(6)]


def test_a_format_with_options_is_named_as_it_was_given(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"a.jsonl": lines(EVENTS)})
    result = ingest(tmp_path / "out", tmp_path / "in", format="event_log:order=new")
    assert [r["format"] for r in rows(result)] == ["event_log:order=new"]


def test_values_that_no_unit_can_be_made_of_are_reject_rows(tmp_path: Path) -> None:
    csv = "question,answer\n" + "q,#### 1\n" * 3 + "q,a,b\n" + "q,#### 2\n"
    put(tmp_path / "in", **{"a.csv": csv})
    result = ingest(tmp_path / "out", tmp_path / "in" / "a.csv", format="math_qa")
    assert refused(result) == [("a.csv", 3, "ragged_row")]
    assert [r["index"] for r in rows(result)] == [0, 1, 2, 4]
    assert counters(result) == {"in": 5, "out": 4, "rejected": 1, "values": 5, "rejected_values": 1}
    assert result.manifest.counters["reject_reasons"] == {"ragged_row": 1}


# files


def test_a_file_whose_format_wants_it_is_one_unit_of_all_values_verbatim(tmp_path: Path) -> None:
    texts = ['{"event":"said", "text" : "é\\u0301"}', ' {"event": "left", "n": 1.10} ', "[1 , 2]"]
    put(tmp_path / "in", **{"a.jsonl": "\n".join(texts), "b.json": "[" + ",\n".join(texts) + "]"})
    result = ingest(tmp_path / "out", tmp_path / "in")
    first, second = rows(result)
    assert first["raw"].decode() == "[" + ",".join(texts) + "]"
    assert second["raw"].decode() == "[" + ",".join(t.strip() for t in texts) + "]"
    assert [r["index"] for r in (first, second)] == [0, 0]
    assert first["sha256"] == hashlib.sha256(first["raw"]).hexdigest()
    assert counters(result) == {"in": 2, "out": 2, "values": 6}


def test_a_limit_takes_whole_files_and_cuts_none(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"a.jsonl": lines(EVENTS), "b.jsonl": lines(MATH)})
    result = ingest(tmp_path / "out", tmp_path / "in", limit=2)
    assert [(r["path"], r["index"]) for r in rows(result)] == [("a.jsonl", 0), ("b.jsonl", 0), ("b.jsonl", 1)]
    assert json.loads(rows(result)[0]["raw"]) == EVENTS


@pytest.mark.parametrize(
    ("last", "code", "says"),
    [
        (b'{"event": "cut of', "not_json", "value 100 of the file"),
        (b'{"event": NaN}', "not_json", "value 100"),
        (b"[" * 5000 + b"]" * 5000, "too_deep", "value 100"),
        (b'{"event": "' + b"x" * 60_000 + b'"}', "too_large", "the limit is 50000"),
    ],
)
def test_a_file_with_a_value_that_cannot_be_used_is_one_reject_row(
    tmp_path: Path, last: bytes, code: str, says: str
) -> None:
    bad = lines([EVENTS[0]] * 100) + last + b"\n" + lines([EVENTS[0]])
    put(tmp_path / "in", **{"a.jsonl": bad, "b.jsonl": lines(MATH)})
    result = ingest(tmp_path / "out", tmp_path / "in", config=IngestConfig(max_unit_bytes=50_000))
    (reject,) = rows(result, "rejects")
    assert (reject["path"], reject["index"], reject["code"]) == ("a.jsonl", 0, code)
    assert says in reject["message"]
    assert reject["raw"].startswith(b'[{"event"')
    assert counters(result) == {"in": 7, "out": 6, "rejected": 1, "values": 108, "rejected_values": 102}


@pytest.mark.parametrize("last", [b'{"event": "cut of', b'{"event": NaN}', b"\xff\xfe"])
def test_a_last_line_that_its_writer_was_stopped_at_is_kept_as_text(tmp_path: Path, last: bytes) -> None:
    put(tmp_path / "in", **{"a.jsonl": lines(EVENTS) + last})
    result = ingest(tmp_path / "out", tmp_path / "in")
    (row,) = rows(result)
    assert json.loads(row["raw"]) == [*EVENTS, last.decode(errors="backslashreplace")]
    assert row["sha256"] == hashlib.sha256(row["raw"]).hexdigest()
    assert counters(result) == {"in": 1, "out": 1, "values": len(EVENTS) + 1}


def test_a_file_of_many_values_over_the_limit_is_too_large_and_stays_out_of_memory(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"a.jsonl": lines([{"event": "x" * 1000}] * 500), "b.jsonl": lines(MATH)})
    result = ingest(tmp_path / "out", tmp_path / "in", config=IngestConfig(max_unit_bytes=100_000))
    (reject,) = rows(result, "rejects")
    assert (reject["code"], reject["bytes"], len(reject["raw"])) == ("too_large", 500 * 1013 + 501, 65_536)
    whole = b"[" + b",".join([json.dumps({"event": "x" * 1000}).encode()] * 500) + b"]"
    assert reject["sha256"] == hashlib.sha256(whole).hexdigest()


# joins

ASKED = [{"nr": i, "ask": f"{i}?"} for i in range(4)]
KEYS = [{"nr": i, "key": f"{i}!"} for i in (2, 0, 1, 3)]


def both(result: Result) -> list[tuple[Any, Any]]:
    return [(v["unit"], v["joined"]) for v in (json.loads(r["raw"]) for r in rows(result))]


@pytest.mark.parametrize("name", ["keys/q.json", "keys_q.json"])
@pytest.mark.parametrize("way", ["folder", "file", "both files", "glob", "tar.gz", "zip", "url"])
def test_a_record_is_joined_with_that_of_its_companion_file(tmp_path: Path, name: str, way: str) -> None:
    files = {"q.json": lines(ASKED), name: lines(KEYS), "z.jsonl": lines(MATH)}
    folder = tmp_path / "in"
    for path, data in files.items():
        put(folder, **{path: data})
    paths: tuple[object, ...] = (folder,)
    if way == "file":
        paths = (folder / "q.json",)
    elif way == "both files":
        paths = (folder / "q.json", folder / name)
    elif way == "glob":
        paths = (folder / "**" / "*.json",)
    elif way == "tar.gz":
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
            for path in sorted(files, reverse=True):
                tar.add(folder / path, f"x/{path}")
        paths = (tmp_path / "a.tar.gz",)
    elif way == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for path in files:
                archive.write(folder / path, path)
        paths = (tmp_path / "a.zip",)
    elif way == "url":
        system = fsspec.filesystem("memory")
        system.store.clear()
        for path, data in files.items():
            system.pipe(f"/in/{path}", data)
        paths = ("memory://in/q.json",)
    result = ingest(tmp_path / "out", *paths, corpus=None if way == "both files" else "c")
    joined = [pair for row, pair in zip(rows(result), map(_pair, rows(result)), strict=True) if row["format"] == "quiz"]
    assert joined == [(asked, next(k for k in KEYS if k["nr"] == asked["nr"])) for asked in ASKED]
    assert refused(result) == []
    more = {} if way in ("file", "both files", "glob", "url") else {"in": 6, "out": 6, "values": 6}
    assert counters(result) == {
        "in": 4 + more.get("in", 0), "out": 4 + more.get("out", 0), "values": 8 + more.get("values", 0), "joined": 4,
    }  # fmt: skip
    (companion,) = result.manifest.notes["companions"].values()
    assert companion.endswith(name)
    if way in ("folder", "file", "both files", "glob"):
        digests = list(result.manifest.inputs.values())
        assert hashlib.sha256(lines(KEYS)).hexdigest() in digests


def _pair(row: dict[str, Any]) -> tuple[Any, Any]:
    value = json.loads(row["raw"])
    return (value["unit"], value["joined"]) if "unit" in value else (None, None)


def test_the_records_of_a_join_are_verbatim(tmp_path: Path) -> None:
    put(
        tmp_path / "in",
        **{
            "q.json": '{"nr" : 1, "ask":"é"}\n{"nr":2,"ask":1.10}\n',
            "keys_q.json": ' {"key": 2.0, "nr":1}\n{"nr":2,"key":null}\n',
        },
    )
    first, second = rows(ingest(tmp_path / "out", tmp_path / "in"))
    assert first["raw"].decode() == '{"unit":{"nr" : 1, "ask":"é"},"joined": {"key": 2.0, "nr":1}}'
    assert second["raw"].decode() == '{"unit":{"nr":2,"ask":1.10},"joined":{"nr":2,"key":null}}'
    assert first["sha256"] == hashlib.sha256(first["raw"]).hexdigest()


def test_without_a_companion_nothing_is_joined(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"q.json": lines(ASKED)})
    result = ingest(tmp_path / "out", tmp_path / "in" / "q.json")
    assert both(result) == [(a, None) for a in ASKED]
    assert counters(result) == {"in": 4, "out": 4, "values": 4}


def test_what_a_companion_holds_beside_is_rejected_with_its_reason(tmp_path: Path) -> None:
    keys = [*KEYS, {"nr": 9, "key": "?"}, {"nr": 0, "key": "again"}, {"key": "none"}]
    put(tmp_path / "in", **{"q.json": lines(ASKED), "keys_q.json": lines(keys) + b"no JSON\n"})
    result = ingest(tmp_path / "out", tmp_path / "in")
    assert refused(result) == [
        ("keys_q.json", 5, "duplicate_key"), ("keys_q.json", 6, "unmatched"), ("keys_q.json", 7, "not_json"),
        ("keys_q.json", 4, "unmatched"),
    ]  # fmt: skip
    assert both(result)[0][1] == {"nr": 0, "key": "0!"}
    assert counters(result) == {
        "in": 8, "out": 4, "rejected": 4, "values": 12, "joined": 4, "rejected_values": 4,
    }  # fmt: skip


def test_questions_that_are_no_json_are_rejected_and_cannot_forge_a_join(tmp_path: Path) -> None:
    forged = b'{"nr": 1, "ask": "?"},"joined":{"nr": 1}'
    put(tmp_path / "in", **{"q.json": lines(ASKED) + forged + b"\n" + b'{"ask": "no number"}\n'})
    result = ingest(tmp_path / "out", tmp_path / "in")
    assert refused(result) == [("q.json", 4, "not_json")]
    assert both(result)[-1] == ({"ask": "no number"}, None)


def test_one_record_may_answer_two_questions(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"q.json": lines([*ASKED, ASKED[0]]), "keys_q.json": lines(KEYS)})
    result = ingest(tmp_path / "out", tmp_path / "in")
    assert both(result)[0] == both(result)[4]
    assert result.manifest.counters["values"] == 5 + 4
    assert (result.manifest.counters["joined"], result.manifest.counters["joined_again"]) == (5, 1)


@pytest.mark.parametrize(("limit", "unmatched"), [(2, 0), (4, 1), (9, 1)])
def test_a_limit_that_leaves_questions_out_says_nothing_of_their_answers(
    tmp_path: Path, limit: int, unmatched: int
) -> None:
    put(tmp_path / "in", **{"q.json": lines(ASKED), "keys_q.json": lines([*KEYS, {"nr": 9}])})
    result = ingest(tmp_path / "out", tmp_path / "in", limit=limit)
    assert (len(rows(result)), len(refused(result))) == (min(limit, 4), unmatched)


def test_a_companion_that_is_too_large_is_an_error_that_names_it(tmp_path: Path) -> None:
    put(
        tmp_path / "in",
        **{"q.json": lines(ASKED), "keys_q.json": lines([{"nr": i, "key": "x" * 900} for i in range(9)])},
    )
    with pytest.raises(InputError, match=r"keys_q\.json, a companion file, holds more than 4096 bytes"):
        ingest(tmp_path / "out", tmp_path / "in" / "q.json", config=IngestConfig(max_unit_bytes=4096))
    put(tmp_path / "in", **{"z.jsonl": lines(MATH)})
    result = ingest(tmp_path / "out", tmp_path / "in", config=IngestConfig(max_unit_bytes=4096))
    assert refused(result) == [("q.json", 0, "unreadable")]


def test_a_file_that_only_has_the_name_of_a_companion_is_an_input(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"q.json": lines(MATH), "keys_q.json": lines(MATH)})
    assert counters(ingest(tmp_path / "out", tmp_path / "in")) == {"in": 12, "out": 12, "values": 12}


def test_another_companion_is_another_run(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"q.json": lines(ASKED), "keys_q.json": lines(KEYS)})
    question = tmp_path / "in" / "q.json"
    assert not ingest(tmp_path / "out", question).skipped
    assert ingest(tmp_path / "out", question).skipped
    put(tmp_path / "in", **{"keys_q.json": lines(KEYS[:2])})
    result = ingest(tmp_path / "out", question)
    assert not result.skipped
    assert result.manifest.counters["joined"] == 2


@pytest.mark.skipif(not CORPORA.is_dir(), reason="the corpora are not here")
def test_the_questions_of_a_real_corpus_have_their_answers(tmp_path: Path) -> None:
    if "bfcl" not in converters.CONVERTERS:
        pytest.skip("the format is not there yet")
    result = ingest(tmp_path / "out", CORPORA / "openai-bfcl-multi-turn")
    pairs = both(result)
    assert len(pairs) == 80
    assert all(unit["id"] == joined["id"] for unit, joined in pairs)
    assert counters(result) == {"in": 80, "out": 80, "values": 160, "joined": 80}


# what is of no known format, or no container


def test_a_file_of_no_known_format_is_an_error_only_if_it_was_named_alone(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"a.jsonl": lines(MATH), "odd.jsonl": lines([{"question": 1, "beta": 2}, {"gamma": 3}])})
    with pytest.raises(InputError, match=r"no known format.*question, beta.*--format"):
        ingest(tmp_path / "alone", tmp_path / "in" / "odd.jsonl")
    for way in ("", "*.jsonl"):
        result = ingest(tmp_path / f"out{len(way)}", tmp_path / "in" / way)
        assert refused(result) == [("odd.jsonl", 0, "unknown_format"), ("odd.jsonl", 1, "unknown_format")]
        message = rows(result, "rejects")[0]["message"]
        assert "keys question, beta" in message
        assert "nearest: " in message
        assert [r["raw"] for r in rows(result, "rejects")] == lines(
            [{"question": 1, "beta": 2}, {"gamma": 3}]
        ).splitlines()
        assert result.manifest.notes["formats"] == {"c/a.jsonl": "math_qa", "c/odd.jsonl": "unknown"}
        assert counters(result) == {"in": 8, "out": 6, "rejected": 2, "values": 8, "rejected_values": 2}


def cut(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)[:-20]


UNREADABLE: dict[str, tuple[str, bytes, str]] = {
    "prose": ("b.json", b"Dear reader", "no JSON"),
    "empty": ("b.jsonl", b"", "empty"),
    "no records": ("b.json", b"[]", "holds no records"),
    "damaged Parquet": ("b.parquet", b"PAR1 none", "Parquet"),
    "a damaged archive": ("b.zip", b"PK\x03\x04 none", "damaged"),
    "an archive without data": ("b.tar", b"", "empty"),
    "yaml": ("b.yaml", b"a: b: c", "YAML"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_file_of_a_folder_that_cannot_be_read_is_one_reject_row(tmp_path: Path, what: str) -> None:
    name, data, says = UNREADABLE[what]
    put(tmp_path / "in", **{"a.jsonl": lines(MATH), name: data, "c.jsonl": lines(MATH)})
    result = ingest(tmp_path / "out", tmp_path / "in")
    (reject,) = rows(result, "rejects")
    assert (reject["path"], reject["index"], reject["code"]) == (name, 0, "unreadable")
    assert says in reject["message"]
    assert "\n" not in reject["message"]
    assert counters(result) == {"in": 13, "out": 12, "rejected": 1, "values": 13, "rejected_values": 1}
    with pytest.raises(InputError, match=says):
        ingest(tmp_path / "alone", tmp_path / "in" / name)


@pytest.mark.parametrize("values", [MATH * 8000, EVENTS * 8000])
def test_a_file_that_breaks_off_says_so_behind_its_last_unit(tmp_path: Path, values: list[Any]) -> None:
    put(tmp_path / "in", **{"a.jsonl.gz": cut(lines(values)), "b.jsonl": lines(MATH)})
    result = ingest(tmp_path / "out", tmp_path / "in")
    found = [r["index"] for r in rows(result) if r["path"] == "a.jsonl.gz"]
    assert found == list(range(len(found)))
    assert refused(result) == [("a.jsonl.gz", len(found), "unreadable")]
    assert bool(found) == (values[0] in MATH)
    with pytest.raises(InputError, match="cut short"):
        ingest(tmp_path / "alone", tmp_path / "in" / "a.jsonl.gz")


def test_members_of_a_named_archive_are_like_files_of_a_folder_but_its_damage_stops(tmp_path: Path) -> None:
    def tar(name: str, **members: bytes) -> Path:
        with tarfile.open(tmp_path / name, "w") as file:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        return tmp_path / name

    path = tar("a.tar", **{"a.jsonl": lines(MATH), "b.json": b"[1 2]", "c.jsonl": lines([{"odd": 1}])})
    result = ingest(tmp_path / "out", path)
    assert refused(result) == [("a.tar/b.json", 0, "unreadable"), ("a.tar/c.jsonl", 0, "unknown_format")]
    assert {r["path"] for r in rows(result)} == {"a.tar/a.jsonl"}
    assert list(result.manifest.inputs) == ["c/a.tar"]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.jsonl", lines(MATH))
        archive.writestr("b.jsonl", lines(MATH * 20))
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[data.find(b"b.jsonl") + 300] ^= 1
    (tmp_path / "b.zip").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"b\.jsonl is cut short or damaged"):
        ingest(tmp_path / "out", tmp_path / "b.zip")


@pytest.mark.parametrize(
    "files", [{"a.jsonl": lines([{"odd": 1}])}, {"a.json": b"prose", "b.jsonl": b""}, {"a.yaml": b"- 1: 2\n"}]
)
def test_where_nothing_can_be_used_the_first_reason_is_the_error(tmp_path: Path, files: dict[str, bytes]) -> None:
    put(tmp_path / "in", **files)
    with pytest.raises(InputError, match=r"nothing in the inputs can be used: \d rejected; the first: c/a\."):
        ingest(tmp_path / "out", tmp_path / "in")
    assert not list((tmp_path / "out").glob("*"))


def test_files_that_hold_no_data_are_listed(tmp_path: Path) -> None:
    put(tmp_path / "in", **{"a.jsonl": lines(MATH), "README.md": "Hi", "pics__a.png": b"\x89", "LICENSE": "Ask"})
    result = ingest(tmp_path / "out", tmp_path / "in")
    assert result.manifest.notes["ignored"] == {"count": 3, "names": ["c/LICENSE", "c/README.md", "c/pics/a.png"]}
    put(tmp_path / "in", **{f"x{i}.txt": "" for i in range(150)})
    ignored = ingest(tmp_path / "out", tmp_path / "in", limit=3).manifest.notes["ignored"]
    assert (ignored["count"], len(ignored["names"])) == (153, 100)


# licences


def test_a_licence_beside_the_data_is_that_of_its_units_unless_the_source_names_one(tmp_path: Path) -> None:
    from identify.vendor.licenses import LICENSES

    texts = dict(LICENSES)
    put(tmp_path / "in", **{"a__x.jsonl": lines(MATH), "a__LICENSE": texts["MIT"], "b__x.jsonl": lines(MATH)})
    put(tmp_path / "in", **{"c__x.jsonl": lines([{"odd": 1}]), "c__LICENSE": texts["MIT"] + texts["ISC"]})
    result = ingest(tmp_path / "out", tmp_path / "in")
    assert {(r["path"], r["license"]) for r in rows(result)} == {("a/x.jsonl", "MIT"), ("b/x.jsonl", None)}
    assert result.manifest.notes["licenses"] == {
        f"{tmp_path}/in/a/LICENSE": {"license": "MIT", "files": 1},
        f"{tmp_path}/in/c/LICENSE": {"license": None, "files": 1},
    }
    named = ingest(tmp_path / "named", tmp_path / "in", license="CC-BY-4.0")
    assert {r["license"] for r in rows(named) + rows(named, "rejects")} == {"CC-BY-4.0"}
    assert named.manifest.notes["licenses"] == {}
    put(tmp_path / "in", a__LICENSE=texts["ISC"])
    again = ingest(tmp_path / "out", tmp_path / "in")
    assert not again.skipped
    assert {r["license"] for r in rows(again) if r["path"] == "a/x.jsonl"} == {"ISC"}


# URLs, the Hub, the books


def test_files_at_a_url_are_ingested_known_by_their_version_and_hashed_as_they_are_read(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pipe("/set/a.jsonl", lines(MATH))
    system.pipe("/set/b.jsonl.gz", gzip.compress(lines(EVENTS), mtime=0))
    result = ingest(tmp_path / "out", "memory://set")
    assert counters(result) == {"in": 7, "out": 7, "values": 12}
    assert all(v.startswith("size=") for v in result.manifest.inputs.values())
    assert result.manifest.notes["sha256"] == {
        "c/a.jsonl": hashlib.sha256(lines(MATH)).hexdigest(),
        "c/b.jsonl.gz": hashlib.sha256(gzip.compress(lines(EVENTS), mtime=0)).hexdigest(),
    }
    assert ingest(tmp_path / "out", "memory://set").skipped
    system.pipe("/set/a.jsonl", lines(MATH))
    assert not ingest(tmp_path / "out", "memory://set").skipped


def test_a_hub_data_set_is_ingested_as_a_file_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    import huggingface_hub

    info: Callable[..., Any] = lambda *_, **__: SimpleNamespace(sha="1" * 40)  # noqa: E731
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    (tmp_path / "set").mkdir()
    table = pa.Table.from_pylist(MATH).append_column("picture", pa.array([None, b"\x89", *[None] * 4], pa.binary()))
    pq.write_table(table, tmp_path / "set" / "train.parquet")
    source = InputSource(dataset=str(tmp_path / "set"), corpus="c", format="math_qa")
    result = ingest_stage([source], Path(), tmp_path / "out", IngestConfig())
    assert refused(result) == [("train", 1, "not_json_like")]
    assert [r["index"] for r in rows(result)] == [0, 2, 3, 4, 5]
    assert counters(result) == {"in": 6, "out": 5, "rejected": 1, "values": 6, "rejected_values": 1}


def test_two_files_of_one_pointer_are_an_error(tmp_path: Path) -> None:
    put(tmp_path, **{"x__in__a.jsonl": lines(MATH), "y__in__a.jsonl": lines(MATH)})
    with pytest.raises(InputError, match="give them corpus names"):
        ingest(tmp_path / "out", tmp_path / "x" / "in", tmp_path / "y" / "in")
    with pytest.raises(InputError, match="is there twice"):
        ingest(tmp_path / "out", tmp_path / "x" / "in", tmp_path / "x" / "in")


def everything(folder: Path) -> Path:
    """Inputs of every kind of unit and reject."""
    put(folder, **{"a.jsonl": lines(MATH), "log.jsonl": lines(EVENTS), "q.json": lines(ASKED), "odd.json": b"[1]"})
    return put(
        folder, **{"keys_q.json": lines([*KEYS, {"nr": 7}]), "bad.json": b"?", "log2.jsonl": b"{\n" + lines(EVENTS)}
    )


def test_every_value_is_accounted_for(tmp_path: Path) -> None:
    result = ingest(tmp_path / "out", everything(tmp_path / "in"), config=IngestConfig(shard_units=3))
    assert counters(result) == {
        "in": 15, "out": 11, "rejected": 4, "values": 6 + 6 + 8 + 1 + 1 + 1 + 7, "joined": 4, "rejected_values": 10,
    }  # fmt: skip


HARM: dict[str, tuple[str, Callable[[list[dict[str, Any]]], Any], str]] = {
    "a unit gone": ("units-00000", lambda r: r.pop(), "11 out by the counters, 10 on disk"),
    "a reject gone": ("rejects-00000", lambda r: r.pop(), "4 rejected by the counters, 3 on disk"),
    "a value of a file gone": (
        "units-00002",
        lambda r: next(u for u in r if u["format"] == "event_log").update(raw=b"[1,2]"),
        "values by the counters",
    ),
    "an answer gone": (
        "units-00003",
        lambda r: next(u for u in r if u["format"] == "quiz").update(raw=b'{"unit":1,"joined":null}'),
        "4 joined by the counters, 3 on disk",
    ),
}


@pytest.mark.parametrize("what", HARM)
def test_the_recount_finds_what_is_gone(tmp_path: Path, what: str) -> None:
    result = ingest(tmp_path / "out", everything(tmp_path / "in"), config=IngestConfig(shard_units=3))
    units = result.manifest.paths(result.directory, "units-")
    rejects = result.manifest.paths(result.directory, "rejects-")
    assert recount_ingest(units, rejects, result.manifest.counters) == {
        "out": 11, "rejected": 4, "values": 16, "joined": 4,
    }  # fmt: skip
    name, change, says = HARM[what]
    path = tmp_path / "out" / f"{name}.parquet"
    table = pq.read_table(path)
    changed = table.to_pylist()
    change(changed)
    pq.write_table(pa.Table.from_pylist(changed, schema=table.schema), path)
    with pytest.raises(ConservationError, match=says):
        recount_ingest(units, rejects, result.manifest.counters)
