"""An export at the URL of an object store: the files of one on a disk, skipped from another machine, replaced whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import PipelineError
from pipeline.exports.running import Wanted, export
from tests.stages.store_server import BUCKET, environment, store


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A URL of nothing yet; the work folder is the test's own."""
    with store() as door:
        for name, value in environment(door).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(storage.WORK, str(tmp_path / "work"))
        yield f"s3://{BUCKET}/exports"
        storage._MOUNTS.clear()


def kept(out: Path) -> dict[str, str]:
    """sha256 of every file that the store has but the manifest, which has seconds."""
    names = [name for name in storage.files_below(out) or () if name != "manifest.json"]
    return {name: hashlib.sha256(storage.read(out / name) or b"").hexdigest() for name in names}


def test_an_export_at_a_url(url: str, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = export(chats, tmp_path / "here", Wanted("openai"))
    out = storage.open_folder(url)
    export(chats, out, Wanted("openai"))
    assert kept(out) == {o.path: o.sha256 for o in here.manifest.outputs}
    monkeypatch.setenv(storage.WORK, str(tmp_path / "another"))
    storage._MOUNTS.clear()
    another = storage.open_folder(url)
    assert export(chats, another, Wanted("openai")).skipped
    export(chats, another, Wanted("webdataset", ("test",)))
    assert sorted(kept(another)) == ["export.json", "test/streams-000000.tar"]
    storage._system(url).put_file(str(next((chats / "test").glob("records-*"))), f"{url}/other/records-00000.parquet")
    with pytest.raises(PipelineError, match="shards of a data set"):
        export(chats, storage.open_folder(f"{url}/other"), Wanted("openai"))


def test_an_export_that_was_killed_while_it_was_uploaded_is_made_again(url: str, chats: Path) -> None:
    out = storage.open_folder(f"{url}/killed")
    export(chats, out, Wanted("openai"))
    before = kept(out)
    storage.remove(out / "manifest.json")
    (out / ".export").mkdir()
    (out / ".export" / "moved.json").write_text(json.dumps(sorted(before)))
    assert not export(chats, out, Wanted("openai")).skipped
    assert kept(out) == before
