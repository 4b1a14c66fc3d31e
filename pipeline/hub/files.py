"""What a push sends: the shards that the manifest names, the card with what it shows, the report, and a list of digests."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline import folders, storage
from pipeline.errors import InputError, PipelineError
from pipeline.manifest import MANIFEST, Manifest, damaged, fetch, need_manifest
from pipeline.stages.dataset import FILTERED_FILE
from pipeline.together import manifests_of

CARD, CROISSANT, SUMS = "README.md", "croissant.json", "SHA256SUMS"

#: What is shown beside a card.
PICTURES = frozenset({".svg", ".png", ".jpg", ".jpeg", ".gif", ".webp"})

#: What cards call the repository that they will be in.
PLACEHOLDER = "OWNER/NAME"

#: The first line of the list of digests: by it a push knows the list of an earlier one. ``sha256sum -c`` skips it.
_MARK = "# files of a multistream data set, written by `multistream push`"


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to be sent: its path in the repository, where it lies or what it holds, its size in bytes and digest."""

    path: str
    source: Path | bytes
    bytes: int
    sha256: str

    def blob(self) -> str:
        """The git object id of the file: by it the Hub knows those files that it does not keep as large ones."""
        digest = hashlib.sha1(b"blob %d\0" % self.bytes, usedforsecurity=False)
        if isinstance(self.source, bytes):
            digest.update(self.source)
        else:
            with self.source.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Package:
    """A data set as it goes to the Hub. ``out`` is the build's folder, ``dataset`` that of the shards; card first.

    ``manifest`` names what goes: not the records that marks left out. ``left``: paths in ``dataset`` that do not go, sorted.
    """

    out: Path
    dataset: Path
    manifest: Manifest
    uploads: tuple[Upload, ...]
    left: tuple[str, ...] = ()

    @property
    def card(self) -> str | None:
        """The text of the card; None if there is none."""
        return next((_bytes(u).decode("utf-8", "replace") for u in self.uploads if u.path == CARD), None)


def gather(path: Path, repo_id: str) -> Package:
    """The files that a push of a build, or of its data set alone, sends to ``repo_id``. Asks nobody.

    Raises InputError where there is no finished data set, PipelineError where files of it are missing or damaged.
    """
    out, dataset = places(path)
    if not dataset.is_dir():
        raise InputError(f"{storage.shown(path)} holds no data set; name the folder of a build")
    manifest = need_manifest(dataset)
    if manifest.stage != folders.DATASET:
        raise InputError(
            f"{storage.shown(path)} holds the stage {manifest.stage!r}, no data set; name a build's folder"
        )
    manifest = replace(manifest, outputs=tuple(o for o in manifest.outputs if o.path != FILTERED_FILE))
    uploads = [*_beside(dataset, repo_id), *_stage(dataset, manifest, ""), _clean_manifest(manifest)]
    report = manifests_of(out).get(folders.REPORT)
    if report is not None:
        uploads += _stage(out / folders.REPORT, report, "report/")
    first = [u for u in uploads if u.path == CARD]
    rest = sorted((u for u in uploads if u.path != CARD), key=lambda u: u.path)
    sent = {u.path for u in uploads}
    left = tuple(sorted(name for name in storage.files_below(dataset) or _files(dataset) if name not in sent))
    return Package(out, dataset, manifest, (*first, *rest, _sums([*first, *rest])), left)


def _files(directory: Path) -> list[str]:
    return [p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()]


def places(path: Path) -> tuple[Path, Path]:
    """The folders of the build and of its data set, whichever of them a path names."""
    if (path / folders.DATASET).is_dir():
        return path, path / folders.DATASET
    whole = path if storage.url_of(path) else path.resolve()
    if whole.name == folders.DATASET and storage.url_of(path) is None:
        return whole.parent, whole
    return path, path


def _beside(dataset: Path, repo_id: str) -> Iterator[Upload]:
    """The card, its pictures and its metadata. What is hidden, and any other file, is not part of the data set."""
    for name in storage.files_below(dataset) or ():
        if _is_shown(name):
            storage.download(dataset / name)
    for file in sorted(p for p in dataset.rglob("*") if p.is_file()):
        name = file.relative_to(dataset).as_posix()
        if name in (CARD, CROISSANT):
            text = file.read_bytes().removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")
            yield _upload(name, text.replace(PLACEHOLDER.encode(), repo_id.encode()))
        elif _is_shown(name):
            yield _upload(name, file)


def _is_shown(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return name in (CARD, CROISSANT) or (Path(name).suffix.lower() in PICTURES and not hidden)


def _stage(directory: Path, manifest: Manifest, prefix: str) -> list[Upload]:
    fetch(directory, manifest.outputs)
    if problems := damaged(directory, manifest.outputs):
        raise PipelineError(f"{storage.shown(directory)}: {problems[0]}; build it again before pushing")
    return [Upload(prefix + o.path, directory / o.path, o.bytes, o.sha256) for o in manifest.outputs]


def _clean_manifest(manifest: Manifest) -> Upload:
    """The manifest without what differs between two runs of one build or tells about a machine: what was pushed can be
    read, checked and trained on like what was built."""
    outputs = tuple(replace(o, version=None) for o in manifest.outputs)
    clean = replace(manifest, outputs=outputs, seconds=0.0, notes={})
    return _upload(MANIFEST, (json.dumps(asdict(clean), indent=1, ensure_ascii=False) + "\n").encode())


def _upload(path: str, source: Path | bytes) -> Upload:
    if isinstance(source, bytes):
        return Upload(path, source, len(source), hashlib.sha256(source).hexdigest())
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Upload(path, source, source.stat().st_size, digest)


def _bytes(upload: Upload) -> bytes:
    return upload.source if isinstance(upload.source, bytes) else upload.source.read_bytes()


def _sums(uploads: list[Upload]) -> Upload:
    lines = [_MARK, *(f"{u.sha256}  {u.path}" for u in sorted(uploads, key=lambda u: u.path))]
    return _upload(SUMS, ("\n".join(lines) + "\n").encode())


def parse_sums(text: str) -> dict[str, str]:
    """Digests by path of the files that an earlier push sent; nothing for a list that no push wrote."""
    mark, *lines = text.splitlines() or [""]
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)} if mark == _MARK else {}
