"""Faults of servers while inputs are read: what may pass stops the run and loses nothing, what stays is told as it was."""

from __future__ import annotations

import http.server
import io
import json
import socket
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, constants

from pipeline.errors import InputError, PipelineError
from pipeline.faults import client_errors, may_pass
from pipeline.inspection import InspectConfig, inspect_inputs
from pipeline.manifest import Result, read_manifest
from pipeline.models import resolve_model
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage
from pipeline.storage import StoreError
from pipeline.tokenization import load_tokenizer
from tests.stages.store_server import BUCKET, Door, environment, store


def lines(name: str, count: int = 3, size: int = 1) -> bytes:
    """JSON Lines of conversations, each with an answer of ``size`` words."""
    rows = [
        {"messages": [{"role": "user", "content": f"{name}{i}?"}, {"role": "assistant", "content": "so " * size}]}
        for i in range(count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def parquet_of(data: bytes) -> bytes:
    table = pa.Table.from_pylist([json.loads(line) for line in data.splitlines()])
    out = io.BytesIO()
    pq.write_table(table, out, compression="none", use_dictionary=False)
    return out.getvalue()


def zip_of(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("in.jsonl", data)
    return out.getvalue()


def ingest(path: str, out: Path, **source: Any) -> Result:
    return ingest_stage([InputSource(path=path, license="MIT", **source)], Path(), out, IngestConfig())


@pytest.fixture(scope="module")
def served() -> Iterator[Door]:
    with store() as door:
        yield door


class Bucket:
    """A folder of the store, of which chosen requests fail."""

    def __init__(self, door: Door, system: Any, folder: str) -> None:
        self.url = f"s3://{BUCKET}/{folder}/"
        self._door, self._system, self._folder, self._plain = door, system, folder, door._behind

    def put(self, name: str, data: bytes) -> None:
        self._system.pipe_file(f"{BUCKET}/{self._folder}/{name}", data)

    def fail(self, wanted: Callable[[dict[str, Any]], bool], code: int = 503, name: str = "SlowDown") -> None:
        """Requests that are ``wanted`` get this answer until ``heal``."""

        def behind(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
            if not wanted(environ):
                return self._plain(environ, start)
            body = f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>{name}</Message></Error>".encode()
            body = b"" if environ["REQUEST_METHOD"] == "HEAD" else body
            start(f"{code} {name}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]

        self._door._behind = behind

    def heal(self) -> None:
        self._door._behind = self._plain


@pytest.fixture
def bucket(served: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    from s3fs import S3FileSystem  # type: ignore[import-untyped]

    for key, value in environment(served).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    monkeypatch.setattr(S3FileSystem, "default_block_size", 1 << 12)
    S3FileSystem.clear_instance_cache()
    made = Bucket(served, S3FileSystem(), tmp_path.name)
    yield made
    made.heal()
    S3FileSystem.clear_instance_cache()


def asks_for(name: str, method: str = "GET", after: int = -1) -> Callable[[dict[str, Any]], bool]:
    """Whether a request is for a file of this name, from behind a place in it on."""

    def wanted(environ: dict[str, Any]) -> bool:
        start = int(environ.get("HTTP_RANGE", "bytes=0-").removeprefix("bytes=").split("-")[0] or 0)
        return bool(environ["REQUEST_METHOD"] == method and environ["PATH_INFO"].endswith(f"/{name}") and start > after)

    return wanted


def test_a_store_that_slows_down_loses_no_file(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("a.jsonl", lines("a"))
    bucket.put("b.jsonl", lines("b"))
    bucket.fail(asks_for("b.jsonl"))
    with pytest.raises(StoreError, match=r"b\.jsonl cannot be read.*SlowDown"):
        ingest(bucket.url, tmp_path / "out")
    assert read_manifest(tmp_path / "out") is None
    bucket.heal()
    assert ingest(bucket.url, tmp_path / "out").manifest.counters["out"] == 6


@pytest.mark.parametrize("shape", ["jsonl", "parquet", "zip"])
def test_a_fault_amid_a_file_loses_nothing_of_it(bucket: Bucket, tmp_path: Path, shape: str) -> None:
    whole = lines("b", 12, 1 << 16)
    bucket.put("a.jsonl", lines("a"))
    bucket.put(f"b.{shape}", whole if shape == "jsonl" else parquet_of(whole) if shape == "parquet" else zip_of(whole))
    size = len(whole)
    wanted = asks_for(f"b.{shape}", after=1000)
    if shape == "zip":  # its directory, at the end, is read first
        behind = asks_for(f"b.{shape}", after=size // 2)
        bucket.fail(lambda environ: wanted(environ) and not behind(environ))
    else:
        bucket.fail(wanted)
    with pytest.raises(StoreError, match=rf"b\.{shape} cannot be read"):
        ingest(bucket.url, tmp_path / "out")
    bucket.heal()
    assert ingest(bucket.url, tmp_path / "out").manifest.counters["out"] == 15


def test_a_fault_while_a_zip_is_listed_is_no_damage(bucket: Bucket, tmp_path: Path) -> None:
    """``zipfile`` calls whatever goes wrong at the end of the file no zip."""
    bucket.put("b.zip", zip_of(lines("b", 12, 1 << 16)))
    asked: list[int] = []

    def third(environ: dict[str, Any]) -> bool:
        if asks_for("b.zip", after=1 << 20)(environ):
            asked.append(1)
        return bool(asks_for("b.zip", after=1 << 20)(environ) and len(asked) > 1)

    bucket.put("a.jsonl", lines("a"))
    bucket.fail(third)
    with pytest.raises(StoreError, match=r"b\.zip"):
        ingest(bucket.url, tmp_path / "out")
    assert len(asked) > 1


def test_a_fault_while_a_file_is_told_apart_gives_no_digest(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("a.jsonl", lines("a"))
    bucket.put("b.jsonl", lines("b"))
    bucket.fail(asks_for("b.jsonl", "HEAD"))
    with pytest.raises(StoreError):
        ingest(f"{bucket.url}b.jsonl", tmp_path / "out")
    bucket.fail(asks_for("LICENSE"))
    bucket.put("LICENSE", b"MIT License")
    with pytest.raises(StoreError, match="LICENSE"):
        ingest_stage([InputSource(path=bucket.url)], Path(), tmp_path / "out", IngestConfig())


def test_what_stays_is_a_reject_row_as_before(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("a.jsonl", lines("a"))
    bucket.put("b.jsonl", lines("b"))
    bucket.fail(asks_for("b.jsonl"), 403, "AccessDenied")
    result = ingest(bucket.url, tmp_path / "out")
    assert result.manifest.counters["reject_reasons"] == {"unreadable": 1}
    with pytest.raises(InputError, match="AccessDenied"):
        ingest(f"{bucket.url}b.jsonl", tmp_path / "alone")
    bucket.heal()
    with pytest.raises(InputError, match="is not there"):
        ingest(f"{bucket.url}c.jsonl", tmp_path / "none")


class Web:
    """An HTTP server; ``answer`` tells for a request its status, or how many bytes it sends before it hangs up."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.status: Callable[[str, str], int] = lambda method, path: 200
        self.cut: int | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _send(self, body: bool) -> None:
                path = self.path.partition("?")[0].lstrip("/")
                status = outer.status(self.command, path)
                if status == 200 and path not in outer.files:
                    status = 404
                data = outer.files[path] if status == 200 else b""
                self.send_response(status)
                self.send_header("ETag", '"1"')
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data[: outer.cut])
                if outer.cut is not None:
                    self.close_connection = True

            def do_GET(self) -> None:
                self._send(True)

            def do_HEAD(self) -> None:
                self._send(False)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    with made.server:
        thread = threading.Thread(target=made.server.serve_forever, daemon=True)
        thread.start()
        yield made
        made.server.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> str:
    """The address of a port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("methods", [("GET", "HEAD"), ("GET",)])
def test_a_web_server_that_cannot_now_is_asked_again_later(
    web: Web, tmp_path: Path, status: int, methods: tuple[str, ...]
) -> None:
    web.files["a.jsonl"] = lines("a")
    web.status = lambda method, path: status if method in methods else 200
    with pytest.raises(StoreError, match=r"a\.jsonl cannot be read") as raised:
        ingest(f"{web.url}/a.jsonl", tmp_path / "out")
    assert "\n" not in str(raised.value)
    web.status = lambda method, path: 200
    assert ingest(f"{web.url}/a.jsonl", tmp_path / "out").manifest.counters["out"] == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_a_web_server_refuses_stays_an_input_error(web: Web, tmp_path: Path, status: int) -> None:
    web.status = lambda method, path: status
    with pytest.raises(InputError):
        ingest(f"{web.url}/a.jsonl", tmp_path / "out")


def test_a_connection_that_is_lost_amid_a_file(web: Web, tmp_path: Path) -> None:
    web.files["a.jsonl"] = lines("a", 2000)
    web.cut = 10_000
    with pytest.raises(StoreError, match=r"a\.jsonl cannot be read"):
        ingest(f"{web.url}/a.jsonl", tmp_path / "out")


def test_a_server_that_is_not_there_may_come_back(nobody: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="run it again"):
        ingest(f"{nobody}/a.jsonl", tmp_path / "out")
    with pytest.raises(StoreError):
        inspect_inputs([InputSource(path=f"{nobody}/a.jsonl")], InspectConfig())


def test_a_companion_that_cannot_be_asked_for_now_is_not_taken_for_none(web: Web, tmp_path: Path) -> None:
    name, record = "BFCL_v4_simple_python.json", {"id": "simple_0", "question": [[{"role": "user", "content": "Hi"}]]}
    record["function"] = []
    web.files[name] = json.dumps(record).encode() + b"\n"
    asked: list[str] = []

    def status(method: str, path: str) -> int:
        if path != name:
            asked.append(path)
        return 200 if path == name or up else 503

    up, web.status = False, status
    with pytest.raises(StoreError, match="possible_answer"):
        ingest(f"{web.url}/{name}", tmp_path / "out")
    assert asked
    up = True
    web.files[f"possible_answer/{name}"] = b'{"id": "simple_0", "ground_truth": []}\n'
    assert ingest(f"{web.url}/{name}", tmp_path / "out").manifest.counters["joined"] == 1


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Points the Hub's client to an address; it waits for nothing."""

    def point(address: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)

    return point


def asked_of_the_hub(tmp_path: Path) -> dict[str, Callable[[], object]]:
    source = InputSource(dataset="owner/nosuch")
    return {
        "data set": lambda: ingest_stage([source], Path(), tmp_path / "out", IngestConfig()),
        "model": lambda: resolve_model("owner/nosuch"),
        "tokenizer": lambda: load_tokenizer("owner/nosuch"),
    }


@pytest.mark.parametrize("what", ["data set", "model", "tokenizer"])
@pytest.mark.parametrize("status", [0, 503, 401, 404])
def test_the_hub(hub: Callable[[str], None], web: Web, nobody: str, tmp_path: Path, what: str, status: int) -> None:
    web.status = lambda method, path: status
    hub(web.url if status else nobody)
    with pytest.raises((StoreError, PipelineError)) as raised:
        asked_of_the_hub(tmp_path)[what]()
    assert "owner/nosuch" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, StoreError) == (status in (0, 503))


def test_the_hub_switched_off_is_no_fault_that_passes(
    hub: Callable[[str], None], nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub(nobody)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PipelineError):
        resolve_model("owner/nosuch")


def test_flows_try_again_what_may_pass_and_nothing_else(hub: Callable[[str], None], web: Web, nobody: str) -> None:
    from flows import retries

    for address, status, passes in ((nobody, 0, True), (web.url, 503, True), (web.url, 404, False)):
        hub(address)
        web.status = lambda method, path, status=status: status  # type: ignore[misc]
        with pytest.raises(client_errors()) as raised:
            HfApi().dataset_info("owner/nosuch")
        assert may_pass(raised.value) == passes
        if status:  # an OSError by its class, whatever the answer was
            assert retries.may_pass(raised.value) == passes
    assert retries.may_pass(StoreError("a store"))
