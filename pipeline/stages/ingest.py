"""The ingest stage: inputs named by the user become shards of source units."""

from __future__ import annotations

import glob
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.convert import reject_row
from pipeline.errors import InputError
from pipeline.ingest import Unit, hub_units, read_units, sniff
from pipeline.manifest import Output, Result, balance, output_of, run_stage, sha256_file
from pipeline.shards import TableWriter
from pipeline.tables import REJECTS, UNITS

STAGE, VERSION = "ingest", 1

#: Units that are looked at to tell a file's format.
SAMPLE = 64

_SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".traj")
_PACKED = (".gz", ".bz2", ".xz", ".zst")

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class InputSource:
    """One input: a file, folder or glob (``path``), or a Hub data set (``dataset``)."""

    path: str | None = None
    dataset: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    corpus: str | None = None
    format: str = "auto"
    license: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """What ingest depends on, beside its inputs. Shards are closed at whichever limit comes first."""

    max_unit_bytes: int = 32 << 20
    shard_units: int = 4096
    shard_bytes: int = 8 << 20


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of an input, with the path that its units' pointers hold."""

    path: Path
    pointer: str
    corpus: str
    source: InputSource


def list_files(source: InputSource, base: Path) -> list[InputFile]:
    """The files of an input, sorted. ``base`` is what relative paths are relative to. Raises InputError."""
    assert source.path is not None
    files = _find(source, base / source.path)
    for file in files:
        try:
            f"{file.corpus}/{file.pointer}".encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(file.path)!a} has a name that is not UTF-8; rename it") from None
    return files


def _find(source: InputSource, path: Path) -> list[InputFile]:
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and _is_data(p))
        if not found:
            raise InputError(f"{path} holds no data file ({', '.join(_SUFFIXES)}, plain or packed)")
        return [
            InputFile(p, p.relative_to(path).as_posix(), source.corpus or path.resolve().name, source) for p in found
        ]
    if any(mark in (source.path or "") for mark in "*?[") and not path.is_file():
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if not found:
            raise InputError(f"no file matches {path}")
        root = path
        while any(mark in root.as_posix() for mark in "*?["):
            root = root.parent
        return [
            InputFile(p, p.relative_to(root).as_posix(), source.corpus or p.resolve().parent.name, source)
            for p in found
        ]
    if not path.exists():
        raise InputError(f"{path} is not there")
    return [InputFile(path, path.name, source.corpus or path.resolve().parent.name, source)]


def _is_data(path: Path) -> bool:
    suffixes = [s for s in path.suffixes if s not in _PACKED]
    return bool(suffixes) and suffixes[-1] in _SUFFIXES


def ingest_stage(
    sources: Sequence[InputSource],
    base: Path,
    directory: Path,
    config: IngestConfig,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Writes ``units-*.parquet`` (and rejects for units over the size limit). Units read = units written + rejected."""
    files = [file for source in sources if source.path is not None for file in list_files(source, base)]
    hub = [source for source in sources if source.dataset is not None]
    if not files and not hub:
        raise InputError("no input is named")
    seen: dict[tuple[str, str], Path] = {}
    for file in files:
        if (other := seen.setdefault((file.corpus, file.pointer), file.path)) != file.path:
            raise InputError(
                f"{file.path} and {other} would have one pointer, {file.corpus}/{file.pointer}: give them corpus names"
            )
    inputs = {f"{file.corpus}/{file.pointer}": _digest(file.path) for file in files}
    inputs |= {f"hub:{s.dataset}/{s.config or 'default'}/{s.split}": _hub_revision(s) for s in hub}
    settings: dict[str, Any] = {
        "max_unit_bytes": config.max_unit_bytes,
        "shard_units": config.shard_units,
        "shard_bytes": config.shard_bytes,
        "sources": [[f.corpus, f.pointer, f.source.format, f.source.license, f.source.limit] for f in files]
        + [["hub", s.dataset, s.config, s.split, s.corpus, s.format, s.license, s.limit] for s in hub],
    }

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        return _ingest(files, hub, directory, config, progress)

    return run_stage(directory, STAGE, VERSION, settings, inputs, work, fresh)


def _digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _hub_revision(source: InputSource) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    assert source.dataset is not None
    try:
        return str(HfApi().dataset_info(source.dataset, revision=source.revision).sha)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise InputError(f"Hub data set {source.dataset!r} cannot be reached: {str(error).splitlines()[0]}") from error


def _ingest(
    files: Sequence[InputFile],
    hub: Sequence[InputSource],
    directory: Path,
    config: IngestConfig,
    progress: Progress | None,
) -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
    writer = _UnitWriter(directory, config)
    formats: dict[str, str] = {}
    counts: Counter[str] = Counter()
    streams = [(f.corpus, f.pointer, f.source, read_units(f.path, config.max_unit_bytes)) for f in files]
    streams += [
        (s.corpus or s.dataset.replace("/", "__"), s.split, s, hub_units(s.dataset, s.config, s.split, s.revision))
        for s in hub
        if s.dataset is not None
    ]
    rejects = directory / "rejects-00000.parquet"
    with TableWriter.several({rejects: REJECTS}, optional={rejects}) as write:
        for corpus, pointer, source, units in streams:
            units = itertools.islice(units, source.limit)
            head = list(itertools.islice(units, SAMPLE))
            format_ = formats[f"{corpus}/{pointer}"] = _format_of(f"{corpus}/{pointer}", source.format, head)
            for unit in itertools.chain(head, units):
                counts["read"] += 1
                row = {
                    "corpus": corpus, "path": pointer, "index": unit.index, "format": format_,
                    "license": source.license, "key": unit.key, "sha256": unit.sha256, "raw": unit.raw,
                }  # fmt: skip
                if unit.too_large:
                    message = f"{unit.too_large} bytes, the limit is {config.max_unit_bytes}"
                    reject = reject_row({**row, "bytes": unit.too_large}, STAGE, "too_large", message)
                    write(rejects, pa.Table.from_pylist([reject], schema=REJECTS))
                    counts["too_large"] += 1
                else:
                    writer.add(row, len(unit.raw))
                if progress:
                    progress(1)
        outputs = writer.close()
    rejected = counts["too_large"]
    if rejected:
        outputs.append(output_of(rejects, directory, rejected))
    written = sum(o.rows or 0 for o in outputs if o.path.startswith("units-"))
    balance(STAGE, total=counts["read"], units=written, rejected=rejected)
    counters = {
        "in": counts["read"],
        "out": written,
        "rejected": rejected,
        "reject_reasons": {"too_large": rejected} if rejected else {},
    }
    return outputs, counters, {"formats": formats}


def _format_of(pointer: str, wanted: str, head: Sequence[Unit]) -> str:
    from converters import CONVERTERS, detect_format

    if wanted != "auto":
        return wanted
    values = sniff(head)
    if not values:
        raise InputError(f"{pointer}: none of its first {len(head)} records is JSON")
    found = detect_format(values)
    if found is None:
        first = values[0]
        shape = f"keys {', '.join(list(first)[:12])}" if isinstance(first, dict) else f"a {type(first).__name__}"
        raise InputError(
            f"{pointer}: no known format (its first record has {shape}); name one with --format: {', '.join(CONVERTERS)}"
        )
    return found


class _UnitWriter:
    """Cuts units into shards at the limits of the configuration."""

    def __init__(self, directory: Path, config: IngestConfig) -> None:
        self._directory, self._config = directory, config
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._outputs: list[Output] = []

    def add(self, row: dict[str, Any], size: int) -> None:
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) >= self._config.shard_units or self._bytes >= self._config.shard_bytes:
            self._flush()

    def _flush(self) -> None:
        path = self._directory / f"units-{len(self._outputs):05d}.parquet"
        with TableWriter.several({path: UNITS}) as write:
            for start in range(0, len(self._rows), 256):
                write(path, pa.Table.from_pylist(self._rows[start : start + 256], schema=UNITS))
        self._outputs.append(output_of(path, self._directory, len(self._rows)))
        self._rows, self._bytes = [], 0

    def close(self) -> list[Output]:
        if self._rows:
            self._flush()
        return self._outputs
