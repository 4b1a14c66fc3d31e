"""A push to a loopback Hub: what arrives, that nothing is sent twice, and that readers see all of it or nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import PipelineError
from pipeline.hub.remote import one_line
from pipeline.manifest import damaged, need_manifest
from tests.hub.hub_client import READING, REPO, WRITING, Client, make_build
from tests.hub.hub_lfs import SIGNATURE
from tests.hub.hub_server import running_hub
from tests.hub.hub_state import Blob, Repo

LOAD = """
import sys
from datasets import load_dataset
for config in ("records", "tokens-smollm2"):
    for split in ("train", "test"):
        data = load_dataset(sys.argv[1], config, split=split, token=False)
        data.to_parquet(f"{sys.argv[2]}/{config}-{split}.parquet")
        streamed = load_dataset(sys.argv[1], config, split=split, streaming=True, token=False)
        assert list(streamed) == data.to_list()
"""
SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], repo_type="dataset", local_dir=sys.argv[2])
"""


def listed(repo: Repo, branch: str = "main") -> dict[str, bytes]:
    commit = repo.head(branch)
    assert commit is not None
    return {path: blob.data for path, blob in commit.files.items() if path != ".gitattributes"}


def shards(build: Path) -> dict[str, bytes]:
    return {p.relative_to(build / "dataset").as_posix(): p.read_bytes() for p in (build / "dataset").rglob("*.parquet")}


def names(build: Path) -> set[str]:
    """What a push of a build without a report sends."""
    folder = build / "dataset"
    pictures = {p.relative_to(folder).as_posix() for p in folder.glob("card/*.svg")}
    return {*shards(build), *pictures, "README.md", "croissant.json", "manifest.json", "SHA256SUMS"}


def test_what_arrives_is_what_was_built_and_a_second_push_sends_nothing(client: Client, build: Path) -> None:
    first = client.push(build, REPO)
    assert first.returncode == 0, first.stderr
    repo = client.hub.repos[REPO]
    files = listed(repo)
    assert {p: b for p, b in files.items() if p.endswith(".parquet")} == shards(build)
    assert len(shards(build)) > 4
    assert set(files) == names(build)
    assert b"OWNER/NAME" not in files["README.md"]
    assert f'load_dataset("{REPO}"'.encode() in files["README.md"]
    assert len(repo.commits) == 2
    assert repo.head("main").oid in first.stdout  # type: ignore[union-attr]

    before = len(client.hub.requests)
    second = client.push(build, REPO)
    assert second.returncode == 0, second.stderr
    assert "nothing to push" in second.stdout
    assert {method for method, _ in client.hub.requests[before:]} == {"GET", "HEAD"}
    assert len(repo.commits) == 2
    assert set(client.hub.uploaded.values()) == {1}


@pytest.mark.slow
def test_what_was_pushed_is_read_back_as_it_was(client: Client, build: Path, tmp_path: Path) -> None:
    assert client.push(build, REPO).returncode == 0
    client.python(LOAD, REPO, tmp_path)
    for config, name in (("records", "records"), ("tokens-smollm2", "tokens-smollm2")):
        for split in ("train", "test"):
            loaded = pq.read_table(tmp_path / f"{config}-{split}.parquet").to_pylist()
            built = [
                row
                for p in sorted((build / "dataset" / split).glob(f"{name}-*"))
                for row in pq.read_table(p).to_pylist()
            ]
            assert loaded == built
    client.python(SNAPSHOT, REPO, tmp_path / "got")
    got = tmp_path / "got"
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=got, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert damaged(got, need_manifest(got).outputs) == []


def test_large_files_go_in_parts(build: Path, tmp_path: Path) -> None:
    with running_hub(part=4000) as hub:
        done = Client(hub, tmp_path).push(build, REPO)
        assert done.returncode == 0, done.stderr
        assert {p: b for p, b in listed(hub.repos[REPO]).items() if p.endswith(".parquet")} == shards(build)
        assert any(name.endswith("/2") for name in hub.uploaded)
        assert hub.wrong == []


def test_a_killed_push_goes_on_where_it_was(client: Client, build: Path) -> None:
    repo = client.hub.create(REPO)
    head = repo.branches["main"]
    large = [hashlib.sha256(data).hexdigest() for data in shards(build).values()]
    held = client.hub.fail("PUT", f"/store/{large[0]}", "hold")
    with subprocess.Popen(client.command(build, REPO), env=client.environment(), stderr=subprocess.DEVNULL) as process:
        assert held.reached.wait(60)
        while len(repo.objects) < len(large) - 1:  # the others are through while this one hangs in the middle
            assert process.poll() is None
        process.kill()
    held.released.set()
    assert repo.branches["main"] == head
    assert large[0] not in repo.objects
    done = client.push(build, REPO)
    assert done.returncode == 0, done.stderr
    assert {client.hub.uploaded[oid] for oid in large} == {1}
    assert {p: b for p, b in listed(repo).items() if p.endswith(".parquet")} == shards(build)
    assert len(repo.commits) == 2


def test_errors_of_the_server_and_cut_connections_are_waited_out(client: Client, build: Path) -> None:
    for do in ("503", "cut"):
        client.hub.fail("PUT", "/store/", do)
    client.hub.fail("PUT", "/store/", "429", headers={"Retry-After": "0"})
    client.hub.fail("GET", "/revision/", "502")
    client.hub.fail("POST", "/commit/", "503")
    done = client.push(build, REPO)
    assert done.returncode == 0, done.stderr
    assert all(fault.times == 0 for fault in client.hub.faults)
    assert {p: b for p, b in listed(client.hub.repos[REPO]).items() if p.endswith(".parquet")} == shards(build)
    assert "429" in done.stderr
    assert SIGNATURE not in done.stderr
    assert WRITING not in done.stderr


def test_a_commit_whose_answer_is_lost_is_found_and_not_made_again(client: Client, build: Path) -> None:
    lost = client.hub.fail("POST", "/commit/", "lose")
    done = client.push(build, REPO)
    assert lost.reached.is_set()
    assert done.returncode == 0, done.stderr
    assert len(client.hub.repos[REPO].commits) == 2


def test_an_upload_that_fails_for_good_says_so_without_secrets_and_commits_nothing(client: Client, build: Path) -> None:
    repo = client.hub.create(REPO)
    client.hub.fail("PUT", "/store/", "403", times=100, message=f"no {WRITING} here")
    done = client.push(build, REPO)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "push again" in done.stderr
    assert WRITING not in done.stderr
    assert SIGNATURE not in done.stderr
    assert len(repo.commits) == 1


def test_a_commit_of_somebody_else_in_between_is_not_undone(client: Client, build: Path) -> None:
    repo = client.hub.create(REPO)

    def theirs() -> None:
        repo.put("main", "theirs", {**repo.commits[repo.branches["main"]].files, "notes.txt": Blob(b"mine", False)})

    client.hub.fail("POST", "/commit/", "go", before=theirs)
    done = client.push(build, REPO)
    assert done.returncode == 1
    assert "changed by somebody else meanwhile" in done.stderr
    assert listed(repo) == {"notes.txt": b"mine"}
    assert client.push(build, REPO).returncode == 0
    assert listed(repo)["notes.txt"] == b"mine"
    assert {p: b for p, b in listed(repo).items() if p.endswith(".parquet")} == shards(build)


@pytest.mark.slow
def test_what_somebody_changed_since_the_last_push_is_replaced_only_if_that_is_allowed(
    client: Client, build: Path
) -> None:
    assert client.push(build, REPO).returncode == 0
    repo = client.hub.repos[REPO]
    files = repo.commits[repo.branches["main"]].files
    repo.put("main", "better words", {**files, "README.md": Blob(files["README.md"].data + b"More.\n", False)})
    refused = client.push(build, REPO)
    assert refused.returncode == 1
    assert "README.md" in refused.stderr
    assert "--allow overwrite" in refused.stderr
    assert listed(repo)["README.md"].endswith(b"More.\n")
    assert client.push(build, REPO, "--allow", "overwrite").returncode == 0
    assert not listed(repo)["README.md"].endswith(b"More.\n")


@pytest.mark.slow
def test_shards_that_are_no_longer_go_in_the_same_commit_and_nothing_else_goes(
    client: Client, build: Path, tmp_path: Path
) -> None:
    assert client.push(build, REPO).returncode == 0
    repo = client.hub.repos[REPO]
    files = repo.commits[repo.branches["main"]].files
    foreign = {"train/extra.txt": Blob(b"theirs", False), "train/own.parquet": Blob(b"PAR1", True)}
    repo.put("main", "theirs", {**files, **foreign})
    smaller = make_build(tmp_path / "smaller", 12, 100)
    done = client.push(smaller, REPO)
    assert done.returncode == 0, done.stderr
    assert len(repo.commits) == 4
    assert set(listed(repo)) == names(smaller) | set(foreign)


def test_a_file_that_changes_while_it_is_pushed_is_not_committed(client: Client, build: Path) -> None:
    repo = client.hub.create(REPO)
    shard = next((build / "dataset" / "train").glob("records-*"))
    client.hub.fail("POST", "/preupload/", "go", before=lambda: shard.write_bytes(bytes(shard.stat().st_size)))
    done = client.push(build, REPO)
    assert done.returncode == 1
    assert "changed while it was pushed" in done.stderr
    assert len(repo.commits) == 1


def test_nothing_is_committed_while_the_repository_ignores_a_file_and_the_push_goes_on_after(
    client: Client, build: Path
) -> None:
    repo = client.hub.create(REPO)
    ignored = sorted(shards(build))[:2]
    head = repo.put("main", "ignore", {".gitignore": Blob("\n".join(ignored).encode(), False)})
    done = client.push(build, REPO)
    assert done.returncode == 1
    assert f"{ignored[0]} and 1 more are named in the .gitignore" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert repo.head("main") == head
    repo.put("main", "take all", {})
    assert client.push(build, REPO).returncode == 0
    assert {p: b for p, b in listed(repo).items() if p.endswith(".parquet")} == shards(build)
    assert set(client.hub.uploaded.values()) == {1}


@pytest.mark.slow
def test_tokens_that_do_not_do_are_told_apart(client: Client, build: Path) -> None:
    client.hub.create(REPO)
    for token, words in (
        (None, "hf auth login"),
        ("hf_unknown0token", "does not know this token"),
        (READING, "may not"),
    ):
        done = client.push(build, REPO, token=token)
        assert done.returncode == 1
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
        assert token is None or token not in done.stderr
    assert client.hub.uploaded == {}
    assert not [p for p in client.home.rglob("*") if p.is_file() and WRITING.encode() in p.read_bytes()]


@pytest.mark.slow
def test_private_and_branches(client: Client, build: Path) -> None:
    assert client.push(build, REPO, "--private", "--revision", "next/one").returncode == 0
    repo = client.hub.repos[REPO]
    assert repo.private
    assert listed(repo) == {}
    assert set(shards(build)) < set(listed(repo, "next/one"))
    again = client.push(build, REPO, "--private", "--revision", "next/two")
    assert again.returncode == 0, again.stderr
    assert set(listed(repo, "next/two")) == set(listed(repo, "next/one"))


def test_a_refused_push_leaves_the_hub_as_it_was(client: Client, build: Path) -> None:
    public = client.hub.create("me/public")
    refused = client.push(build, "me/public", "--private", "--revision", "next")
    assert refused.returncode == 1
    assert "public" in refused.stderr
    assert public.branches.keys() == {"main"}
    assert {method for method, _ in client.hub.requests} == {"GET"}
    card = build / "dataset" / "README.md"
    card.write_text(card.read_text().replace("license: mit", "license: [mit"))
    refused = client.push(build, REPO, "--allow", "stale-card")
    assert refused.returncode == 1
    assert "the metadata are no mapping" in refused.stderr
    assert "again" not in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert client.hub.repos.keys() == {"me/public"}
    assert client.hub.uploaded == {}


def test_a_repository_that_somebody_else_makes_at_the_same_time_is_taken(client: Client, build: Path) -> None:
    client.hub.fail("POST", "/repos/create", "go", before=lambda: client.hub.create(REPO))
    done = client.push(build, REPO)
    assert done.returncode == 0, done.stderr
    assert {p: b for p, b in listed(client.hub.repos[REPO]).items() if p.endswith(".parquet")} == shards(build)


def test_what_the_client_does_not_expect_is_one_line() -> None:
    with (
        pytest.raises(PipelineError, match=r"^creating me/sums: an answer of the Hub lacks 'url'$"),
        one_line(REPO, "creating"),
    ):
        raise KeyError("url")
    with (
        pytest.raises(PipelineError, match=r"^pushing to me/sums: no such thing$"),
        one_line(REPO, "pushing to", kept=True),
    ):
        raise ValueError("no such thing")


@pytest.mark.slow
def test_a_dry_run_compares_and_changes_nothing(client: Client, build: Path, tmp_path: Path) -> None:
    new = client.push(build, REPO, "--dry-run", token=None)
    assert new.returncode == 0, new.stderr
    assert "would be created" in new.stdout
    assert "# Sums" in new.stdout
    assert client.hub.repos == {}
    assert client.push(build, REPO).returncode == 0
    repo = client.hub.repos[REPO]
    before = len(client.hub.requests)
    smaller = make_build(tmp_path / "smaller", 12, 100)
    shutil.copy(next((build / "dataset" / "test").glob("records-*")), smaller / "dataset" / "test" / "stranger.parquet")
    told = json.loads(client.push(smaller, REPO, "--dry-run", "--json").stdout)
    states = {f["path"]: f["state"] for f in told["files"]}
    assert told["head"] == repo.branches["main"]
    assert states["train/records-00000-of-00001.parquet"] == "new"
    assert states["train/records-00000-of-00004.parquet"] == "deleted"
    assert states["README.md"] == "changed"
    assert "test/stranger.parquet" not in states
    assert {method for method, _ in client.hub.requests[before:]} == {"GET", "HEAD"}
    client.hub.fail("GET", "/api/datasets/", "400", times=100)
    unasked = client.push(build, REPO, "--dry-run")
    assert unasked.returncode == 0
    assert "is not known" in unasked.stdout
