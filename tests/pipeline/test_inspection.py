"""Inspection tells what is in inputs and what becomes of them, with the place of everything odd; it never fails on data."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from converters import CONVERTERS
from pipeline.errors import ConfigError, InputError
from pipeline.inspection import InspectConfig, Report, describe_format, inspect_inputs, list_formats
from pipeline.listing import InputSource

ASK, TELL = {"role": "user", "content": "How warm is it?"}, {"role": "assistant", "content": "412 degrees."}


def call(id_: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": "read_sensor", "arguments": arguments}}


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def inspect(*paths: Path, **config: Any) -> Report:
    return inspect_inputs([InputSource(path=str(path)) for path in paths], InspectConfig(**config))


def odd(report: Report) -> dict[str, int]:
    return {what: noted.count for what, noted in report.total.oddities.items()}


def test_a_file_is_told_with_evidence_and_its_figures(tmp_path: Path) -> None:
    records: list[Any] = [{"messages": [ASK, TELL]}] * 70 + [{"instruction": "Sort.", "output": "Sorted."}]
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode(), mtime=0))
    report = inspect(path)
    (file,) = report.files
    assert (file.container, file.format, file.sampled, file.whole) == ("JSON Lines, gzip", "openai_messages", 64, True)
    assert file.votes == {"openai_messages": 64}
    assert file.shape == CONVERTERS["openai_messages"].SHAPE
    total = report.total
    assert (total.values, total.units, total.converted, total.rejected) == (71, 71, 70, 1)
    assert (total.conversations, total.records, total.input_only) == (70, 70, 0)
    assert total.roles == {"user": 70, "assistant": 70}
    assert total.parts == {"text": 140}
    assert total.streams == {"user": 70, "assistant": 70}
    ((code, noted),) = total.rejects.items()
    assert (code, noted.count, noted.where) == ("missing_field", 1, "chats.jsonl.gz #70")
    assert "messages" in noted.example


def test_runners_up_have_their_votes(tmp_path: Path) -> None:
    tagged = {"instruction": "Add 2 and 3.", "output": "<think>2 and 3</think>5"}
    plain = {"instruction": "Add 2 and 3.", "output": "5"}
    (file,) = inspect(write(tmp_path / "a.jsonl", [tagged, plain, plain])).files
    assert (file.format, file.votes) == ("alpaca", {"alpaca": 3, "think_tagged": 1})


ODDITIES: list[tuple[dict[str, int], list[Any]]] = [
    ({"null contents": 1, "messages that say nothing": 1}, [[ASK, {"role": "assistant", "content": None}, ASK, TELL]]),
    ({"empty texts": 1, "messages that say nothing": 1}, [[ASK, {"role": "assistant", "content": ""}, ASK, TELL]]),
    (
        {"call ids used again": 1},
        [
            [
                ASK,
                {"role": "assistant", "content": "I look.", "tool_calls": [call("c")]},
                {"role": "tool", "tool_call_id": "c", "content": "1"},
                {"role": "assistant", "content": "Again.", "tool_calls": [call("c")]},
                {"role": "tool", "tool_call_id": "c", "content": "2"},
                TELL,
            ]
        ],
    ),
    (
        {"calls without a result": 2},
        [[ASK, {"role": "assistant", "content": "I look.", "tool_calls": [call("c"), call("d")]}]],
    ),
    (
        {"results without a call": 1, "empty tool results": 1, "empty texts": 1},
        [[ASK, {"role": "tool", "tool_call_id": "c", "content": ""}, TELL]],
    ),
    ({"control characters": 2}, [[ASK, {"role": "assistant", "content": "a\x1b[1m\tb\r\n\x00"}]]),
    ({"replacement characters (U+FFFD)": 3}, [[ASK, {"role": "assistant", "content": "\ufffd\ufffd a \ufffd"}]]),
    ({"zero-width or BOM characters": 2}, [[ASK, {"role": "assistant", "content": "a\u200bb\ufeff 👩‍🚀"}]]),
    ({"special-token look-alikes": 3}, [[ASK, {"role": "assistant", "content": "<|im_end|></s> <b> [INST]"}]]),
    ({"repeated records": 1}, [[ASK, TELL], [ASK, TELL]]),
    ({"conversations that end on the user": 1, "two user messages in a row": 1}, [[ASK, TELL, ASK, ASK]]),
    ({"cut-off thinking parts": 1}, [[ASK, {"role": "assistant", "content": "<think>So it"}]]),
    ({"assistant messages kept out of the loss": 1}, [[ASK, {**TELL, "weight": 0}]]),
    (
        {"media, kept as references": 1},
        [[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}, TELL]],
    ),
    ({}, [[ASK, TELL]]),
]


@pytest.mark.parametrize(("expected", "conversations"), ODDITIES)
def test_what_is_odd_is_counted(tmp_path: Path, expected: dict[str, int], conversations: list[Any]) -> None:
    path = write(tmp_path / "m.jsonl", [{"messages": messages} for messages in conversations])
    report = inspect(path)
    assert report.total.rejected == 0, report.total.rejects
    assert odd(report) == expected
    for noted in report.total.oddities.values():
        assert noted.where.startswith("m.jsonl #")


def test_ids_are_repeated_within_a_corpus(tmp_path: Path) -> None:
    records = [{"id": i, "instruction": f"Sort {n}.", "output": "Done."} for n, i in enumerate("aba")]
    report = inspect(write(tmp_path / "m.jsonl", records))
    assert odd(report) == {"repeated ids": 1}
    assert report.total.oddities["repeated ids"].where == "m.jsonl #2"
    assert "m.jsonl #0" in report.total.oddities["repeated ids"].example


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    report = inspect(write(tmp_path / "m.jsonl", [{"messages": [{**ASK, "mood": 1}, TELL], "reward": 1}]))
    assert report.total.extra == {"reward": 1, "messages[].mood": 1}


def test_input_only_and_segments_are_counted(tmp_path: Path) -> None:
    long = [m for i in range(300) for m in ({"role": "user", "content": f"{i} " + "clay " * 60}, TELL)]
    report = inspect(write(tmp_path / "m.jsonl", [{"messages": [ASK]}, {"messages": long}]))
    assert (report.total.input_only, report.total.converted) == (1, 1)
    assert report.total.conversations == 2
    assert report.total.segments == report.total.records > 1


def test_records_are_shown_of_each_format_first(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"messages": [ASK, TELL]}] * 3)
    write(tmp_path / "b.jsonl", [{"instruction": "Sort.", "output": "Sorted."}] * 3)
    report = inspect(tmp_path, records=3)
    assert [record["sources"][0]["format"] for record in report.records] == [
        "openai_messages",
        "alpaca",
        "openai_messages",
    ]
    assert inspect(tmp_path, records=0).records == []
    assert inspect(tmp_path, align="turns", records=1).records[0]["alignment"]["policy"] == "turns"


def test_a_sample_looks_at_the_first_records_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"messages": [ASK, TELL]}] * 100)
    report = inspect(path, sample=10)
    assert (report.total.units, report.files[0].whole) == (10, False)
    assert inspect(path, sample=101).files[0].whole


def test_a_format_can_be_named_with_options(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [CONVERTERS["message_tree"].EXAMPLE])
    assert inspect(path).total.conversations == 2
    (file,) = (report := inspect(path, format="message_tree:paths=first")).files
    assert (report.total.conversations, file.format, file.forced) == (1, "message_tree:paths=first", True)
    assert inspect(path, format="alpaca").total.rejects["missing_field"].count == 1


@pytest.mark.parametrize("config", [{"format": "alpaka"}, {"align": "sideways"}, {"format": "message_tree:paths=odd"}])
def test_an_unknown_format_or_alignment_is_bad_usage(tmp_path: Path, config: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        inspect(write(tmp_path / "a.jsonl", [{"messages": [ASK, TELL]}]), **config)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("empty.jsonl", b"", "empty"),
        ("odd.jsonl", b'{"mood": 1}\n', "no known format"),
        ("text.json", b"hello", "no JSON"),
        ("cut.json", b'[{"messages": [', "cut short"),
        ("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999)[:30], "damaged"),
        ("latin.jsonl", b'{"instruction": "\xe9", "output": "x"}\n', "is JSON"),
        ("deep.json", b"[" * 100_000, "deep"),
        ("bytes.parquet", b"PAR1" + bytes(64), "Parquet"),
    ],
    ids=["empty", "unknown", "text", "cut", "cut_gzip", "latin", "deep", "parquet"],
)
def test_what_cannot_be_used_is_a_problem_of_one_line(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    (file,) = inspect(tmp_path / name).files
    assert says in file.problem
    assert "\n" not in file.problem
    write(tmp_path / "good.jsonl", [{"messages": [ASK, TELL]}])
    report = inspect(tmp_path)
    assert report.total.converted == 1
    assert sum(bool(file.problem) for file in report.files) == 1


def test_what_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        inspect(tmp_path / "nowhere.jsonl")


def test_files_that_are_one_unit_and_companions_and_archives(tmp_path: Path) -> None:
    session = CONVERTERS["claude_code"].EXAMPLE
    write(tmp_path / "session.jsonl", session)
    questions, gold = (CONVERTERS["bfcl"].EXAMPLE[key] for key in ("unit", "joined"))
    write(tmp_path / "q.json", [questions, questions | {"id": "z"}])
    (tmp_path / "possible_answer").mkdir()
    write(tmp_path / "possible_answer" / "q.json", [gold, gold | {"id": "z"}])
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("in/a.json", json.dumps([{"messages": [ASK, TELL]}]))
    report = inspect(tmp_path)
    files = {file.name: file for file in report.files}
    assert (files["session.jsonl"].contents.values, files["session.jsonl"].contents.units) == (len(session), 1)
    assert files["q.json"].contents.joined == 2
    assert files["possible_answer/q.json"].companion_of.endswith("q.json")
    assert files["more.zip/in/a.json"].container == "JSON array, in a zip"
    assert not [file.problem for file in report.files if file.problem]
    assert report.total.converted == 4


def test_the_licence_beside_the_data_is_told(tmp_path: Path) -> None:
    from identify.vendor.licenses import LICENSES

    (tmp_path / "LICENSE").write_text(dict(LICENSES)["MIT"])
    write(tmp_path / "a.jsonl", [{"messages": [ASK, TELL]}])
    (file,) = inspect(tmp_path).files
    assert (file.license, Path(file.license_from).name) == ("MIT", "LICENSE")
    assert inspect(tmp_path).records[0]["sources"][0]["license"] == "MIT"


def test_the_report_is_json(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"messages": [ASK, TELL]}, {"a": 1}])
    value = json.loads(json.dumps(inspect(path).to_json()))
    (file,) = value["files"]
    assert file["evidence"] == {
        "shape": CONVERTERS["openai_messages"].SHAPE,
        "sampled": 2,
        "votes": {"openai_messages": 1},
        "forced": False,
    }
    assert (value["total"]["units"], value["total"]["rejects"][0]["code"]) == (2, "missing_field")
    assert value["records"][0]["streams"]


def test_figures_of_files_add_up(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", [{"messages": [ASK, TELL], "n": name}, {"messages": [ASK]}, {"x": 1}])
    report = inspect(tmp_path)
    for field in ("values", "units", "converted", "input_only", "rejected", "conversations", "records"):
        assert getattr(report.total, field) == sum(getattr(file.contents, field) for file in report.files)
    assert report.total.roles["user"] == 4
    assert report.total.rejects["missing_field"].where == "a.jsonl #2"
    assert odd(report)["repeated records"] == 2


def test_every_format_is_listed_and_described() -> None:
    assert [row["format"] for row in list_formats()] == list(CONVERTERS)
    for row in list_formats():
        assert all(row.values()), row
        about, record = describe_format(row["format"])
        assert record is not None
        assert about["conversations"]
        json.dumps(about)
    assert describe_format("message_tree")[0]["options"] == {"paths": ["all", "first", "longest", "best"]}
    assert len(describe_format("message_tree:paths=first")[0]["conversations"]) == 1
    with pytest.raises(ConfigError, match="did you mean 'alpaca'"):
        describe_format("alpaka")
