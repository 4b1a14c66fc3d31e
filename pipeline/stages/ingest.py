"""The ingest stage: inputs named by the user become shards of source units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from pipeline.companions import Candidate, find_candidates
from pipeline.conservation import recount_ingest
from pipeline.containers.places import Place, RemoteFile
from pipeline.containers.units import in_one_line
from pipeline.convert import reject_row
from pipeline.errors import InputError
from pipeline.faults import client_errors, told
from pipeline.ingest import RAW_LIMIT
from pipeline.licenses import Found, license_beside
from pipeline.listing import InputFile as InputFile
from pipeline.listing import InputSource as InputSource
from pipeline.listing import find_files
from pipeline.listing import list_files as list_files
from pipeline.manifest import Manifest, Output, Result, balance, output_of, run_stage, sha256_file
from pipeline.notes import Notes
from pipeline.plan import Plan
from pipeline.reading import SAMPLE as SAMPLE
from pipeline.reading import Input, Item, Reader, input_of_file, input_of_hub
from pipeline.shards import TableWriter
from pipeline.storage import StoreError
from pipeline.tables import REJECTS, UNITS

STAGE, VERSION = "ingest", 2

#: Names of ignored files that the manifest holds; it has the number of all.
MOST_IGNORED = 100

Progress = Callable[[int], None]
Pointer = tuple[str, str]


@dataclass(frozen=True, slots=True)
class IngestConfig:
    """What ingest depends on, beside its inputs. Shards are closed at whichever limit comes first."""

    max_unit_bytes: int = 32 << 20
    shard_units: int = 4096
    shard_bytes: int = 8 << 20


@dataclass(frozen=True, slots=True)
class Survey:
    """What the inputs are. ``licenses``: by pointer; ``texts``: of licences that were found; ``ignored``: files left out."""

    plan: Plan
    files: tuple[InputFile, ...]
    hub: tuple[InputSource, ...]
    candidates: Mapping[Pointer, Sequence[Candidate]]
    licenses: Mapping[Pointer, str | None]
    texts: Mapping[str, Mapping[str, Any]]
    ignored: tuple[str, ...]


def survey(sources: Sequence[InputSource], base: Path, config: IngestConfig, digests: bool = True) -> Survey:
    """Lists the inputs and says what ingest depends on; nothing is written. ``digests`` false: inputs without them ("").

    Raises InputError where nothing is named, or what was named alone cannot be read.
    """
    listings = [find_files(source, base) for source in sources if source.path is not None]
    files = tuple(file for listing in listings for file in listing.files)
    hub = tuple(source for source in sources if source.dataset is not None)
    if not files and not hub:
        raise InputError("no input is named")
    _refuse_twins(files)
    candidates = find_candidates(files)
    inputs = _digests(files, [c for found in candidates.values() for c in found], digests)
    inputs |= {f"hub:{s.dataset}/{s.config or 'default'}/{s.split}": _hub_revision(s) if digests else "" for s in hub}
    licenses, texts = _licenses(files)
    settings: dict[str, Any] = {
        "max_unit_bytes": config.max_unit_bytes,
        "shard_units": config.shard_units,
        "shard_bytes": config.shard_bytes,
        "sources": [
            [s.format, s.limit, [[f.corpus, f.pointer, licenses[f.corpus, f.pointer]] for f in files if f.source is s]]
            for s in sources
            if s.path is not None
        ]
        + [["hub", s.dataset, s.config, s.split, s.corpus, s.format, s.license, s.limit] for s in hub],
    }
    ignored = tuple(name for listing in listings for name in listing.ignored)
    return Survey(Plan(STAGE, VERSION, settings, inputs), files, hub, candidates, licenses, texts, ignored)


def corpora_in_order(manifest: Manifest) -> tuple[str, ...]:
    """The corpora that an ingestion read, in the order of the configuration, those of the Hub last."""
    found: dict[str, None] = {}
    for source in manifest.config["sources"]:
        names = [source[4] or str(source[1]).replace("/", "__")] if source[0] == "hub" else [f[0] for f in source[2]]
        found.update(dict.fromkeys(names))
    return tuple(found)


def ingest_stage(
    sources: Sequence[InputSource],
    base: Path,
    directory: Path,
    config: IngestConfig,
    fresh: bool = False,
    progress: Progress | None = None,
    rejected: Callable[[str], None] | None = None,
) -> Result:
    """Writes ``units-*.parquet``, and ``rejects-*.parquet`` for what cannot be used. Units in = units out + rejected.

    ``progress`` gets the number of units that were read since; ``rejected`` the reason of each that cannot be used.
    Raises InputError where a file that was named alone cannot be read, or where nothing at all can be used.
    """
    found = survey(sources, base, config)

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        inputs = [
            input_of_file(
                f,
                found.licenses[f.corpus, f.pointer],
                found.candidates.get((f.corpus, f.pointer), ()),
                config.max_unit_bytes,
            )
            for f in found.files
        ]
        inputs += map(input_of_hub, found.hub)
        if fresh:
            finished.forget()
        outputs, counters, notes = _ingest(inputs, directory, config, finished, progress, rejected)
        notes["ignored"] = {"count": len(found.ignored), "names": list(found.ignored[:MOST_IGNORED])}
        notes["licenses"] = found.texts
        remote = {f"{f.corpus}/{f.pointer}": f.path.read for f in found.files if isinstance(f.path, RemoteFile)}
        notes["sha256"] = {name: read["sha256"] for name, read in remote.items() if read}
        return outputs, counters, notes

    planned = found.plan
    finished = Notes(directory, planned.fingerprint)
    return run_stage(
        directory, planned.stage, planned.version, planned.config, planned.inputs, work, fresh, done=finished.forget
    )


def _refuse_twins(files: Sequence[InputFile]) -> None:
    seen: dict[Pointer, InputFile] = {}
    for file in files:
        other = seen.setdefault((file.corpus, file.pointer), file)
        if other is file:
            continue
        pointer = f"{file.corpus}/{file.pointer}"
        if str(other.path) == str(file.path):
            raise InputError(f"{file.path} is there twice, so its records would have one pointer, {pointer}")
        raise InputError(f"{file.path} and {other.path} would have one pointer, {pointer}: give them corpus names")


def _digests(files: Sequence[InputFile], companions: Sequence[Candidate], digests: bool) -> dict[str, str]:
    """What tells the files' contents: sha256 on a disk, at a URL what its server says; of an archive as a whole.

    ``digests`` false: the same names, and nothing is read.
    """
    found: dict[str, str] = {}
    for file in files:
        name = f"{file.corpus}/{file.container_pointer}"
        if name not in found:
            found[name] = _digest(file.container, file.alone) if digests else ""
    for candidate in companions:
        if candidate.listed is None:
            found["/".join(candidate.pointer)] = _digest(candidate.place, alone=True) if digests else ""
    return found


def _digest(place: Place, alone: bool) -> str:
    try:
        if isinstance(place, RemoteFile):
            return place.identity()
        assert isinstance(place, Path)
        return sha256_file(place)
    except StoreError:
        raise
    except OSError as error:
        if alone:
            raise InputError(f"{place} cannot be read: {error.strerror}") from error
        return "unreadable"
    except InputError:
        if alone:
            raise
        return "unreadable"


def _hub_revision(source: InputSource) -> str:
    from huggingface_hub import HfApi

    assert source.dataset is not None
    try:
        return str(HfApi().dataset_info(source.dataset, revision=source.revision).sha)
    except client_errors() as error:
        raise told(
            error, f"Hub data set {source.dataset!r} cannot be reached: {in_one_line(error)}", InputError
        ) from error


def _licenses(files: Sequence[InputFile]) -> tuple[dict[Pointer, str | None], dict[str, dict[str, Any]]]:
    """The licence of each file: what its source says, else what stands beside it; and the texts that were found."""
    known: dict[str, Found] = {}
    licenses: dict[Pointer, str | None] = {}
    texts: dict[str, dict[str, Any]] = {}
    for file in files:
        spdx = file.source.license
        if spdx is None:
            spdx, text = license_beside(file, known)
            if text is not None:
                texts.setdefault(text, {"license": spdx, "files": 0})["files"] += 1
        licenses[file.corpus, file.pointer] = spdx
    return licenses, texts


def _ingest(
    inputs: Sequence[Input],
    directory: Path,
    config: IngestConfig,
    finished: Notes,
    progress: Progress | None,
    rejected: Callable[[str], None] | None,
) -> tuple[list[Output], Mapping[str, Any], dict[str, Any]]:
    rejects = directory / "rejects-00000.parquet"
    reader, books, writer = Reader(inputs, config.max_unit_bytes), _Books(), _UnitWriter(directory, config, finished)
    with TableWriter.several({rejects: REJECTS}, optional={rejects}) as write:
        refused = _RejectWriter(lambda table: write(rejects, table))
        for thing in inputs:
            taken = 0
            for item in reader.read(thing):
                if item.code:
                    books.reject(item)
                    if rejected:
                        rejected(item.code)
                    refused.add(item)
                else:
                    writer.add(item)
                    if item.values == 1 and not item.joined:
                        taken += 1
                    else:
                        books.take(item)
                if progress:
                    progress(1)
            books.take_records(taken)
        refused.close()
        outputs = writer.close()
        counts = books.counts
        counts["out"] = sum(o.rows or 0 for o in outputs)
        if not counts["out"]:
            raise InputError(
                f"nothing in the inputs can be used: {counts['rejected']} rejected; the first: {books.first}"
            )
    if counts["rejected"]:
        outputs.append(output_of(rejects, directory, counts["rejected"]))
    balance(STAGE, total=counts["in"], units=counts["out"], rejected=counts["rejected"])
    counters: dict[str, Any] = {
        name: counts[name] for name in ("in", "out", "rejected", "values", "joined", "joined_again", "rejected_values")
    }
    counters["reject_reasons"] = dict(books.reasons.most_common())
    recount_ingest(
        [directory / o.path for o in outputs if o.path.startswith("units-")],
        [directory / o.path for o in outputs if o.path.startswith("rejects-")],
        counters,
    )
    return outputs, counters, {"formats": reader.formats, "companions": reader.companions}


class _Books:
    """What was read and what became of it, counted one item at a time."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        #: The first reject, for a message.
        self.first = ""

    def take_records(self, count: int) -> None:
        """Books units of one value each."""
        self.counts["in"] += count
        self.counts["values"] += count

    def take(self, item: Item) -> None:
        """Books a unit of several values."""
        self.counts["in"] += 1
        self.counts["values"] += item.values + (item.joined and not item.again)
        self.counts["joined"] += item.joined
        self.counts["joined_again"] += item.again

    def reject(self, item: Item) -> None:
        """Books what cannot be used."""
        self.first = self.first or f"{item.input.name}: {item.message}"
        self.reasons[item.code] += 1
        self.counts["in"] += 1
        self.counts["rejected"] += 1
        self.counts["values"] += item.values
        self.counts["rejected_values"] += item.values


class _RejectWriter:
    """Writes reject rows, many at a time."""

    def __init__(self, write: Callable[[pa.Table], None]) -> None:
        self._write = write
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, item: Item) -> None:
        unit = item.unit
        row = {
            "corpus": item.input.corpus, "path": item.input.pointer, "index": unit.index, "license": item.input.license,
            "sha256": unit.sha256, "raw": unit.raw, "bytes": unit.too_large or len(unit.raw),
        }  # fmt: skip
        self._rows.append(reject_row(row, STAGE, item.code, item.message))
        self._bytes += min(len(unit.raw), RAW_LIMIT)
        if len(self._rows) >= 256 or self._bytes >= 1 << 22:
            self.close()

    def close(self) -> None:
        """Writes what is waiting."""
        self._write(pa.Table.from_pylist(self._rows, schema=REJECTS))
        self._rows, self._bytes = [], 0


class _UnitWriter:
    """Cuts units into shards at the limits of the configuration; one that an earlier run has finished is not written again."""

    def __init__(self, directory: Path, config: IngestConfig, finished: Notes) -> None:
        self._directory, self._config, self._finished = directory, config, finished
        self._items: list[Item] = []
        self._bytes = 0
        self._outputs: list[Output] = []

    def add(self, item: Item) -> None:
        self._items.append(item)
        self._bytes += len(item.unit.raw)
        if len(self._items) >= self._config.shard_units or self._bytes >= self._config.shard_bytes:
            self._flush()

    def _flush(self) -> None:
        path = self._directory / f"units-{len(self._outputs):05d}.parquet"
        content = xxhash.xxh3_128_hexdigest("".join(item.unit.sha256 for item in self._items).encode())
        output = self._finished.finished(path, content)
        if output is None:
            with TableWriter.several({path: UNITS}) as write:
                for start in range(0, len(self._items), 256):
                    write(path, _table(self._items[start : start + 256]))
            output = self._finished.remember(path, len(self._items), content)
        self._outputs.append(output)
        self._items, self._bytes = [], 0

    def close(self) -> list[Output]:
        """Writes the last shard; all of them."""
        if self._items:
            self._flush()
        return self._outputs


def _table(items: Sequence[Item]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "corpus": [item.input.corpus for item in items],
        "path": [item.input.pointer for item in items],
        "index": [item.unit.index for item in items],
        "format": [item.format for item in items],
        "license": [item.input.license for item in items],
        "key": [item.unit.key for item in items],
        "sha256": [item.unit.sha256 for item in items],
        "raw": [item.unit.raw for item in items],
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in UNITS], schema=UNITS)
