"""The Xet path of a push, by the real client, with a folder in the place of the store: only what is new is sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.shards import TableWriter
from tests.hub.hub_client import REPO, ROOT, Client, make_build

SEND = """
import sys, hf_xet
with hf_xet.XetSession().new_upload_commit(endpoint="local://" + sys.argv[1]) as commit:
    sent = commit.start_upload_file(sys.argv[2], sha256=hf_xet.COMPUTE_SHA256)
metrics = sent.result().dedup_metrics
print(metrics.new_bytes / metrics.total_bytes)
"""


def share_sent(store: Path, file: Path) -> float:
    """The part of a file's bytes that the store did not have."""
    environment = {"HF_HOME": str(store.parent / "home"), "PATH": ""}
    command = [sys.executable, "-c", SEND, str(store), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout)


@pytest.mark.slow
def test_a_push_through_xet_arrives_whole_and_a_second_one_sends_nothing(
    client: Client, build: Path, tmp_path: Path
) -> None:
    client.hub.cas = tmp_path / "cas"
    done = client.push(build, REPO)
    assert done.returncode == 0, done.stderr
    repo = client.hub.repos[REPO]
    built = {p.relative_to(build / "dataset").as_posix(): p.read_bytes() for p in build.glob("dataset/*/*.parquet")}
    head = repo.commits[repo.branches["main"]].files
    assert {path: blob.data for path, blob in head.items() if path.endswith(".parquet")} == built
    assert not client.hub.uploaded
    before = len(client.hub.requests)
    assert "nothing to push" in client.push(build, REPO).stdout
    assert {method for method, _ in client.hub.requests[before:]} == {"GET", "HEAD"}
    assert not any("xet" in path for _, path in client.hub.requests[before:])
    smaller = make_build(tmp_path / "smaller", 12, 100)
    assert client.push(smaller, REPO).returncode == 0


def test_of_a_shard_that_lost_a_record_most_is_not_sent_again(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    rows = [random.integers(0, 49152, random.integers(20, 400)) for _ in range(12_000)]
    files = []
    for name, kept in (("before", rows), ("after", rows[:6000] + rows[6001:])):
        ids = pa.array(np.concatenate(kept).astype(np.int32))
        offsets = pa.array(np.cumsum([0, *map(len, kept)]).astype(np.int32))
        table = pa.table({"token_ids": pa.ListArray.from_arrays(offsets, ids)})
        files.append(tmp_path / f"{name}.parquet")
        writer = TableWriter(files[-1], table.schema)
        writer.write(table)
        writer.close()
    assert share_sent(tmp_path / "cas", files[0]) > 0.9
    assert share_sent(tmp_path / "cas", files[1]) < 0.3
    plain = tmp_path / "plain.parquet"
    pq.write_table(pq.read_table(files[1]), plain, compression="zstd", row_group_size=1 << 30)
    assert share_sent(tmp_path / "cas", plain) > 0.9
