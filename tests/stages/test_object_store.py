"""Builds kept in an object store: the same bytes as on a disk, another machine goes on, and faults of the store are told."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import claim, storage
from pipeline.convert import ConvertConfig
from pipeline.errors import PipelineError
from pipeline.manifest import Result, read_manifest
from pipeline.shards import ShuffleConfig
from pipeline.stages.convert import convert_stage
from pipeline.stages.dataset import dataset_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
from tests.stages.store_server import BUCKET, Door, environment, store

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "conversations" / "math_qa.jsonl"


@pytest.fixture(scope="module")
def served() -> Iterator[Door]:
    with store() as door:
        yield door


@pytest.fixture
def url(served: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A URL of nothing yet; the work folder is the test's own."""
    for name, value in environment(served).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(storage.WORK, str(tmp_path / "work"))
    monkeypatch.setattr(claim, "BEAT", 0.2)
    monkeypatch.setattr(claim, "PATIENCE", 1.0)
    yield f"s3://{BUCKET}/{tmp_path.name}"
    served.heal()
    storage._MOUNTS.clear()


def build(out: Path, workers: int = 1) -> tuple[Result, Result, Result]:
    """The three stages of a data set of a few conversations."""
    ingest = ingest_stage([InputSource(path=str(EXAMPLES))], Path(), out / "ingest", IngestConfig(shard_units=6))
    converted = convert_stage(ingest, out / "convert", ConvertConfig(), workers=workers)
    return ingest, converted, dataset_stage([converted], out / "dataset", ShuffleConfig(seed=3, shard_rows=8))


def kept(out: Path) -> dict[str, str]:
    """sha256 of every Parquet file that the store has, read from the store."""
    found = storage.files_below(out)
    assert found is not None
    contents = {name: storage.read(out / name) or b"" for name in found if name.endswith(".parquet")}
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())}


def on_disk(out: Path) -> dict[str, str]:
    """sha256 of every Parquet file below a folder."""
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*.parquet"))
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed")
    build(out)
    return on_disk(out)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_build_in_a_store_holds_the_bytes_of_one_on_a_disk(
    url: str, undisturbed: dict[str, str], workers: int
) -> None:
    out = storage.open_folder(url)
    build(out, workers)
    assert kept(out) == undisturbed
    names = storage.files_below(out) or {}
    assert not [name for name in names if name.split("/")[-1].startswith(".")], "nothing temporary is left"
    assert [r.skipped for r in build(out)] == [True, True, True]


def test_another_machine_skips_what_is_there_and_reads_it(
    url: str, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build(storage.open_folder(url))
    monkeypatch.setenv(storage.WORK, str(tmp_path / "other"))
    storage._MOUNTS.clear()
    out = storage.open_folder(url)
    results = build(out)
    assert [r.skipped for r in results] == [True, True, True]
    assert not list(out.rglob("*.parquet")), "skipping needs no download"
    results[2].fetch()
    assert on_disk(out) == {name: digest for name, digest in undisturbed.items() if name.startswith("dataset/")}


def test_another_machine_goes_on_with_the_shards_that_are_missing(
    url: str, undisturbed: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = storage.open_folder(url)
    build(out)
    before = {name: k.version for name, k in (storage.files_below(out) or {}).items()}
    for name in ("convert/manifest.json", "convert/shards/00001.json", "dataset/manifest.json"):
        storage.remove(out / name)
    shutil.rmtree(tmp_path / "work")
    storage._MOUNTS.clear()
    monkeypatch.setenv(storage.WORK, str(tmp_path / "other"))
    out = storage.open_folder(url)
    ingest = ingest_stage([InputSource(path=str(EXAMPLES))], Path(), out / "ingest", IngestConfig(shard_units=6))
    done: list[int] = []
    converted = convert_stage(
        ingest, out / "convert", ConvertConfig(), workers=1, progress=lambda c: done.append(c.units)
    )
    assert (out / "ingest" / "units-00001.parquet").is_file(), "the missing shard's units were fetched"
    assert not (out / "ingest" / "units-00000.parquet").exists(), "the others' were not"
    dataset_stage([converted], out / "dataset", ShuffleConfig(seed=3, shard_rows=8))
    assert kept(out) == undisturbed
    after = storage.files_below(out) or {}
    assert {n: k.version for n, k in after.items() if n in before and n.endswith(".parquet")} == {
        n: v for n, v in before.items() if n.endswith(".parquet")
    }


def test_a_file_changed_in_the_store_is_written_anew(url: str, undisturbed: dict[str, str]) -> None:
    out = storage.open_folder(url)
    build(out)
    path = out / "convert" / "records-00000.parquet"
    content = storage.read(path)
    assert content is not None
    storage.write(path, bytes([content[0] ^ 1]) + content[1:])
    path.unlink()
    results = build(out)
    assert [r.skipped for r in results] == [True, False, True], "the data set was made of the same bytes"
    assert kept(out) == undisturbed


def test_a_file_that_changes_between_two_stages_is_an_error_of_one_line(url: str) -> None:
    out = storage.open_folder(url)
    ingest = ingest_stage([InputSource(path=str(EXAMPLES))], Path(), out / "ingest", IngestConfig(shard_units=6))
    path = out / "ingest" / "units-00000.parquet"
    storage.write(path, b"PAR1 nothing PAR1")
    path.unlink()
    with pytest.raises(PipelineError, match=r"s3://.*units-00000\.parquet is not there or has changed"):
        convert_stage(ingest, out / "convert", ConvertConfig(), workers=1)


def test_the_manifest_is_the_last_that_arrives(url: str, served: Door, undisturbed: dict[str, str]) -> None:
    out = storage.open_folder(url)
    served.fail("PUT", 403, "AccessDenied", 1)
    with pytest.raises(PipelineError, match="s3://"):
        build(out)
    served.heal()
    assert not [name for name in storage.files_below(out) or {} if name.endswith("manifest.json")]
    build(out)
    assert kept(out) == undisturbed


@pytest.mark.parametrize(("code", "name"), [(500, "InternalError"), (503, "SlowDown")])
def test_errors_that_pass_are_tried_again(
    url: str, served: Door, undisturbed: dict[str, str], code: int, name: str
) -> None:
    out = storage.open_folder(url)
    for method in ("PUT", "GET", "HEAD"):
        served.fail(method, code, name, 2)
    build(out)
    assert served.heal() == 0
    assert kept(out) == undisturbed


def test_a_store_that_does_not_come_back_is_an_error_that_may_be_tried_again(url: str, served: Door) -> None:
    out = storage.open_folder(url)
    served.fail("PUT", 500, "InternalError", 1000)
    with pytest.raises(storage.StoreError, match="s3://"):
        build(out)


def test_a_bucket_that_is_not_there_and_a_file_system_that_is_unknown_are_named(url: str) -> None:
    with pytest.raises(PipelineError, match="s3://no-such-bucket/x"):
        build(storage.open_folder("s3://no-such-bucket/x"))
    with pytest.raises(PipelineError, match="nonsense"):
        storage.open_folder("nonsense://bucket/x")


def test_two_builds_at_one_url_are_not_let_in(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = storage.open_folder(url)
    with claim.claimed(out / "convert"):
        monkeypatch.setenv(storage.WORK, str(tmp_path / "other"))
        again = storage.open_folder(url)
        assert again != out
        with pytest.raises(PipelineError, match="another run"), claim.claimed(again / "convert"):
            pass
    with claim.claimed(again / "convert"):
        assert read_manifest(again / "convert") is None


def test_a_lease_left_behind_by_a_killed_run_is_taken_over(url: str) -> None:
    out = storage.open_folder(url)
    left = json.dumps({"owner": "dead", "host": "elsewhere", "pid": 1, "beat": 7}).encode()
    assert storage.create(out / "convert" / claim.LEASE, left)
    with claim.claimed(out / "convert"):
        assert b"dead" not in (storage.read(out / "convert" / claim.LEASE) or b"")
    assert storage.read(out / "convert" / claim.LEASE) is None


def test_a_run_whose_lease_was_taken_publishes_nothing(url: str) -> None:
    out = storage.open_folder(url)
    with claim.claimed(out / "convert"):
        storage.write(out / "convert" / claim.LEASE, json.dumps({"owner": "other"}).encode())
        with pytest.raises(PipelineError, match="taken over"):
            claim.check_held(out / "convert")


def on_another_machine(url: str, monkeypatch: pytest.MonkeyPatch, place: Path, reading: bool = False) -> Path:
    """The folder of a URL on a machine that has not seen it."""
    storage._MOUNTS.clear()
    monkeypatch.setenv(storage.WORK, str(place))
    return storage.open_folder(url, reading)


def test_a_disk_that_another_machine_has_overtaken_is_not_mixed_in(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = storage.open_folder(url)
    _, converted, _ = build(first)
    dataset_stage([converted], first / "dataset", ShuffleConfig(seed=3, shard_rows=2))
    other = on_another_machine(url, monkeypatch, tmp_path / "other")
    assert [r.skipped for r in build(other)] == [True, True, False]
    read = on_another_machine(url, monkeypatch, tmp_path / "work")
    result = build(read)[2]
    assert result.skipped
    result.fetch()
    assert {p.relative_to(read / "dataset").as_posix() for p in (read / "dataset").rglob("*.parquet")} == {
        o.path for o in result.manifest.outputs
    }


def test_reading_fetches_what_manifests_name_and_the_card_to_a_folder_of_its_own(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pipeline.card import renew_card
    from pipeline.cli.places import to_read

    out = storage.open_folder(url)
    build(out)
    renew_card(out, "A title")
    on_another_machine(url, monkeypatch, tmp_path / "reader")
    read = to_read(f"{url}/")
    assert read != storage.open_folder(url)
    assert on_disk(read) == on_disk(out)
    assert (read / "dataset" / "README.md").read_text() == (out / "dataset" / "README.md").read_text()
    (name, *_) = sorted(p.name for p in (out / "dataset" / "train").glob("records-*"))
    one = to_read(f"{url}/dataset/train/{name}")
    assert one.is_file()
    assert [p.name for p in one.parent.glob("tokens-*")] == [name.replace("records-", "tokens-smollm2-")]


def test_a_card_is_made_anew_when_its_data_or_its_title_change_and_only_then(url: str) -> None:
    from pipeline.card import renew_card

    out = storage.open_folder(url)
    _, converted, _ = build(out)
    card = out / "dataset" / "README.md"
    renew_card(out, "One")
    first = storage.read(card)
    renew_card(out, "One")
    assert storage.read(card) == first
    renew_card(out, "Two")
    second = storage.read(card)
    assert second != first
    dataset_stage([converted], out / "dataset", ShuffleConfig(seed=3, test_fraction=0.5, shard_rows=8))
    card.unlink()
    renew_card(out, "Two")
    assert storage.read(card) not in (None, second)


def test_a_run_that_was_taken_over_puts_no_shard_into_the_store(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "BEAT", 60.0)  # it sleeps, as a process that was stopped does
    out = storage.open_folder(url)
    ingest = ingest_stage([InputSource(path=str(EXAMPLES))], Path(), out / "ingest", IngestConfig(shard_units=6))
    lease = json.dumps({"owner": "other", "host": "elsewhere", "pid": 1, "beat": 1}).encode()

    def take_over(units: object) -> None:
        storage.write(out / "convert" / claim.LEASE, lease)

    with pytest.raises(PipelineError, match="taken over"):
        convert_stage(ingest, out / "convert", ConvertConfig(), workers=1, progress=take_over)
    found = storage.files_below(out / "convert") or {}
    assert "shards/00000.json" in found
    assert not [name for name in found if "00001" in name], "nothing of the shard after that"
    assert "manifest.json" not in found


def test_urls_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    for place, word in (("s3://", "no bucket"), ("memory://x/y", "gone when the command ends")):
        with pytest.raises(PipelineError, match=word):
            storage.open_folder(place)
    assert storage.open_folder(f"file://{tmp_path}/new") == tmp_path / "new"


def test_what_is_not_ours_is_left_alone(url: str) -> None:
    out = storage.open_folder(url)
    storage.write(out / "dataset" / "train" / "mine.parquet", b"mine")
    build(out)
    assert storage.read(out / "dataset" / "train" / "mine.parquet") == b"mine"
    storage.write(out / "other" / "manifest.json", b'{"name": "a web application"}')
    with pytest.raises(PipelineError, match="that no stage wrote"):
        ingest_stage([InputSource(path=str(EXAMPLES))], Path(), out / "other", IngestConfig())
