"""Exports as stages: books, the same bytes twice, skipping, other people's folders; WebDataset; the command."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, InputError, PipelineError
from pipeline.exports import TARGETS, Options, target_of
from pipeline.exports.running import Wanted, export
from pipeline.manifest import need_manifest, sha256_file
from pipeline.records import to_json
from pipeline.tables import RECORDS
from pipeline.training.grid import iter_grids

ROOT = Path(__file__).resolve().parents[2]


def digests(folder: Path) -> dict[str, str]:
    """Every file but the manifest, which has seconds."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("data", ["chats", "tens"])
def test_books_balance_and_the_same_bytes_come_twice(
    name: str, data: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place: Path = request.getfixturevalue(data)
    total = sum(pq.read_metadata(p).num_rows for p in place.glob("*/records-*.parquet"))
    first = export(place, tmp_path / "a", Wanted(name))
    counters = first.manifest.counters
    assert counters["in"] == total == counters["out"] + counters["not_representable"]
    assert counters["not_representable"] == 0
    export(place, tmp_path / "b", Wanted(name))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") == {o.path: o.sha256 for o in need_manifest(tmp_path / "a").outputs}
    report = json.loads((tmp_path / "a" / "export.json").read_text())
    assert set(report["lost"]) == set(counters["lost"])
    assert sum(of["out"] for of in report["records"].values()) == total
    assert not (tmp_path / "a" / ".export").exists()
    assert export(place, tmp_path / "a", Wanted(name)).skipped


def test_another_export_takes_the_place_of_the_last_and_leaves_other_files(chats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(chats, out, Wanted("openai"))
    (out / "train" / "notes.txt").write_text("mine")
    export(chats, out, Wanted("webdataset", ("test",)))
    left = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert left == {"test/streams-000000.tar", "export.json", "manifest.json", "train/notes.txt"}


def test_what_a_killed_export_left_is_removed(chats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".export" / "train").mkdir(parents=True)
    (out / ".export" / "train" / "half.jsonl").write_text("{")
    (out / ".export" / "moved.json").write_text('["train/messages-00007-of-00009.jsonl"]')
    (out / "train").mkdir()
    (out / "train" / "messages-00007-of-00009.jsonl").write_text("{}\n")
    export(chats, out, Wanted("openai"))
    assert sorted(p.name for p in (out / "train").iterdir()) == [
        "messages-00000-of-00002.jsonl", "messages-00001-of-00002.jsonl",
    ]  # fmt: skip


def test_a_file_of_others_is_neither_replaced_nor_removed(chats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(chats, out, Wanted("tables"))
    (out / "train" / "messages-00000-of-00002.jsonl").write_text("mine")
    before = digests(out)
    with pytest.raises(PipelineError, match=r"messages-00000-of-00002\.jsonl cannot be written"):
        export(chats, out, Wanted("openai"))
    assert digests(out) == before
    assert not (out / ".export").exists()
    assert export(chats, out, Wanted("tables")).skipped


@pytest.mark.parametrize("target", ["openai", "webdataset"])
def test_an_edited_file_of_the_last_export_is_replaced_only_when_asked_for(
    target: str, chats: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(chats, out, Wanted("openai"))
    before = digests(out)
    edited, gone = (out / "train" / f"messages-0000{i}-of-00002.jsonl" for i in range(2))
    edited.write_text("mine")
    with pytest.raises(PipelineError, match=r"00000-of-00002\.jsonl has changed .* --fresh"):
        export(chats, out, Wanted(target))
    assert edited.read_text() == "mine"
    assert {name for name, digest in digests(out).items() if digest != before.get(name)} == {
        "train/messages-00000-of-00002.jsonl"
    }
    export(chats, out, Wanted("openai"), fresh=True)
    assert digests(out) == before
    gone.unlink()
    export(chats, out, Wanted("openai"))
    assert digests(out) == before


def test_what_a_killed_export_had_not_moved_yet_is_left_where_it_is(chats: Path, tmp_path: Path) -> None:
    out, name = tmp_path / "out", "train/messages-00007-of-00009.jsonl"
    (out / ".export" / "train").mkdir(parents=True)
    (out / ".export" / name).write_text("{")
    (out / ".export" / "moved.json").write_text(json.dumps([name]))
    (out / "train").mkdir()
    (out / name).write_text("mine")
    export(chats, out, Wanted("openai"))
    assert (out / name).read_text() == "mine"


def renamed(folder: Path, *tokenizers: str) -> Path:
    """The token shards under the names of other tokenizers."""
    for path in sorted(folder.glob("*/tokens-*")):
        for tokenizer in tokenizers:
            shutil.copy(path, path.with_name(path.name.replace("smollm2", tokenizer)))
        path.unlink()
    return folder


@pytest.mark.parametrize("target", ["upstream-npz", "webdataset"])
def test_the_name_of_a_tokenizer_may_have_hyphens(target: str, chats: Path, tmp_path: Path) -> None:
    export(chats, tmp_path / "plain", Wanted(target))
    data = renamed(shutil.copytree(chats, tmp_path / "data"), "Qwen2.5-7B")
    assert export(data, tmp_path / "out", Wanted(target)).manifest.counters["lost"].get("without_tokens") is None
    assert digests(tmp_path / "out") == digests(tmp_path / "plain")


def test_tokenizers_with_the_same_beginning_are_two(chats: Path, tmp_path: Path) -> None:
    data = renamed(shutil.copytree(chats, tmp_path / "data"), "Qwen2.5-7B", "Qwen2.5-14B")
    with pytest.raises(InputError, match=r"several tokenizers \(Qwen2.5-14B, Qwen2.5-7B\)"):
        export(data, tmp_path / "out", Wanted("webdataset"))
    assert export(data, tmp_path / "out", Wanted("openai")).manifest.counters["out"] == 12


def test_folders_of_others_are_refused_and_untouched(chats: Path, tmp_path: Path) -> None:
    place = shutil.copytree(chats, tmp_path / "data")
    before = digests(tmp_path)
    with pytest.raises(PipelineError, match="shards of a data set"):
        export(place, place, Wanted("openai"))
    with pytest.raises(PipelineError, match="shards of a data set"):
        export(place, tmp_path, Wanted("openai"))
    (tmp_path / "other" / "train").mkdir(parents=True)
    with pytest.raises(PipelineError, match="no export wrote it"):
        export(place, tmp_path / "other", Wanted("openai"))
    assert digests(tmp_path) == before


def test_a_failure_leaves_what_was_there(chats: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(chats, out, Wanted("openai"))
    before = digests(out)
    with pytest.raises(InputError):
        export(chats, out, Wanted("upstream-grid", options=Options(tokenizer=str(tmp_path))))
    assert digests(out) == before
    assert export(chats, out, Wanted("openai")).skipped


def test_a_limit_takes_the_first_of_each_split(chats: Path, tmp_path: Path) -> None:
    result = export(chats, tmp_path / "out", Wanted("openai", limit=6))
    assert result.manifest.counters["in"] == 8
    ids = [json.loads(line)["id"] for p in sorted((tmp_path / "out/train").iterdir()) for line in p.open()]
    stored = [i for p in sorted((chats / "train").glob("records-*")) for i in pq.read_table(p)["id"].to_pylist()]
    assert ids == stored[:6]


def test_what_is_not_there_is_named(chats: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one of"):
        target_of("mds")
    with pytest.raises(InputError, match="no split valid; it has test, train"):
        export(chats, tmp_path / "out", Wanted("openai", ("valid",)))
    bare = shutil.copytree(chats, tmp_path / "bare", ignore=shutil.ignore_patterns("tokens-*"))
    with pytest.raises(InputError, match="no token shards beside"):
        export(bare, tmp_path / "out", Wanted("upstream-grid"))
    assert export(bare, tmp_path / "out", Wanted("webdataset")).manifest.counters["lost"] == {"without_tokens": 12}


def test_webdataset_reads_records_and_cells_as_they_were(chats: Path, tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    export(chats, tmp_path / "out", Wanted("webdataset", ("train",)))
    tars = sorted(map(str, (tmp_path / "out" / "train").glob("*.tar")))
    samples = list(wds.WebDataset(tars, shardshuffle=False, empty_check=False).decode())
    records = [r for p in sorted((chats / "train").glob("records-*")) for r in to_json(pq.read_table(p))]
    grids = list(iter_grids(sorted((chats / "train").glob("tokens-*"))))
    assert [s["json"] for s in samples] == records
    for sample, grid in zip(samples, grids, strict=True):
        assert sample["__key__"] == grid.id
        for name in ("ids", "rows", "streams", "loss"):
            array = sample[f"{name}.npy"]
            array = np.load(io.BytesIO(array)) if isinstance(array, bytes) else array
            assert np.array_equal(array, getattr(grid, f"token_{name}"))


def rewritten(chats: Path, place: Path, **columns: Any) -> Path:
    """A folder of one shard whose first record has other values."""
    rows = pq.read_table(next(iter(sorted((chats / "test").glob("records-*"))))).to_pylist()
    rows[0].update(columns)
    place.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=RECORDS), place / "records-00000.parquet")
    return place


@pytest.mark.parametrize("name", ["../../evil", "a.b", "", "a/b", "ümlaut"])
def test_an_id_that_is_no_name_of_a_file_is_refused(name: str, chats: Path, tmp_path: Path) -> None:
    data = rewritten(chats, tmp_path / "data", id=name)
    counters = export(data, tmp_path / "out", Wanted("webdataset")).manifest.counters
    assert (counters["out"], counters["reasons"]) == (1, {"bad_id": 1})
    with tarfile.open(tmp_path / "out" / "train" / "streams-000000.tar") as tar:
        assert len(tar.getnames()) == 1


def test_names_of_streams_are_not_obeyed_by_the_terminal(chats: Path, tmp_path: Path) -> None:
    stream = {"name": "\x1b[31mred\x07", "role": "red", "slot": 0, "direction": "input"}
    streams = pq.read_table(next(iter(sorted((chats / "test").glob("records-*")))))["streams"][0].as_py()
    data = rewritten(chats, tmp_path / "data", streams=[*streams, stream])
    done = run(str(data), "--to", "openai", "--out", str(tmp_path / "out"))
    assert "left out: " in done.stdout
    assert not {"\x1b", "\x07"} & set(done.stdout)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", "export", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_prints_what_is_lost_and_json_for_programs(tens: Path, tmp_path: Path) -> None:
    done = run(str(tens), "--to", "openai", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "8 of 8 records" in done.stdout
    assert "streams without a place in a chat" in done.stdout
    again = run(str(tens), "--to", "openai", "--out", str(tmp_path / "out"), "--json")
    value = json.loads(again.stdout)
    assert (value["in"], value["out"], value["skipped"]) == (8, 8, True)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [(["--to", "mds"], 2, "choose one of"), (["--to", "openai", "--masks"], 2, "--masks is for upstream-npz"),
     (["--to", "openai", "--split", "valid"], 1, "has no split valid")],
)  # fmt: skip
def test_the_command_says_in_one_line_what_to_do(
    arguments: list[str], code: int, says: str, tens: Path, tmp_path: Path
) -> None:
    done = run(str(tens), *arguments, "--out", str(tmp_path / "out"))
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
