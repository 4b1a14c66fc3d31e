"""The files that an input names: on a disk, at a URL, in archives; and those beside them that hold no data."""

from __future__ import annotations

import glob
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.containers import DATA_SUFFIXES, is_data_name
from pipeline.containers.archives import Archive, ArchiveError, Member, open_archive
from pipeline.containers.places import Broken, Place, RemoteFile, find_remote, is_url
from pipeline.errors import InputError
from pipeline.folders import CONVERT, DATASET, find_records
from pipeline.manifest import MANIFEST

#: What ``datasets`` writes beside the Arrow files of a saved data set.
_OF_DATASETS = ("dataset_info.json", "state.json", "dataset_dict.json")


@dataclass(frozen=True, slots=True)
class InputSource:
    """One input: a file, folder, glob or URL (``path``), or a Hub data set (``dataset``)."""

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
class InputFile:
    """A file of an input, with the path that its units' pointers hold.

    ``path`` can be opened whatever it is: a ``Path``, a file at a URL, a member of an archive. ``container`` is the file
    that its bytes come from: its archive, else itself; ``container_pointer`` is that one's pointer. ``root`` is the
    folder that was named. ``alone``: the user named this file, or the archive that it is in.
    """

    path: Place
    pointer: str
    corpus: str
    source: InputSource
    container: Place
    container_pointer: str
    root: str
    alone: bool = False

    @property
    def archive(self) -> Archive | None:
        """The archive that the file is in."""
        return self.path.archive if isinstance(self.path, Member) else None


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of an input in their order, and the pointers of those left out because they hold no data."""

    files: tuple[InputFile, ...]
    ignored: tuple[str, ...]


def list_files(source: InputSource, base: Path) -> list[InputFile]:
    """The files of an input. ``base`` is what relative paths are relative to. Raises InputError."""
    return list(find_files(source, base).files)


def find_files(source: InputSource, base: Path) -> Listing:
    """The files of an input, sorted by path, members of a tar in its own order. Raises InputError where there are none."""
    assert source.path is not None
    listing = _find_remote(source) if is_url(source.path) else _find_local(source, base / source.path)
    for file in listing.files:
        try:
            f"{file.corpus}/{file.pointer}".encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(file.path)!a} has a name that is not UTF-8; rename it") from None
    return listing


def _find_local(source: InputSource, path: Path) -> Listing:
    if path.is_dir():
        if records := _records_of(path):
            corpus = source.corpus or path.resolve().name
            chosen = [(p, p.relative_to(path).as_posix()) for p in records]
            shards = tuple(InputFile(p, pointer, corpus, source, p, pointer, str(path)) for p, pointer in chosen)
            others = [p for p in sorted(path.rglob("*")) if p.is_file() and p not in set(records)]
            return Listing(shards, tuple(f"{corpus}/{p.relative_to(path).as_posix()}" for p in others))
        # A link that leads nowhere may stand for data: it is told when it is read. A link to a folder is not followed.
        below = [p for p in sorted(path.rglob("*")) if not p.is_dir() or p.is_symlink()]
        found = [(p.relative_to(path).as_posix(), p) for p in below]
        return _folder(source, str(path), path.resolve().name, found)
    if any(mark in (source.path or "") for mark in "*?[") and not path.is_file():
        matched = [p for p in _once(map(Path, glob.glob(str(path), recursive=True))) if not p.is_dir()]
        if not matched:
            raise InputError(f"no file matches {path}")
        root = path
        while any(mark in root.as_posix() for mark in "*?["):
            root = root.parent
        files: list[InputFile] = []
        ignored: list[str] = []
        for p in matched:
            corpus = source.corpus or p.resolve().parent.name
            _expand(source, p, p.relative_to(root).as_posix(), corpus, str(root), files, ignored)
        return Listing(tuple(files), tuple(ignored))
    if not path.exists():
        raise InputError(f"{path} is not there")
    return _one(source, path, path.name, path.resolve().parent.name, str(path.parent))


def _records_of(path: Path) -> list[Path]:
    """The record shards of a build, a data set or a stage's folder: what a run of ours has left; none of any other folder."""
    if not any((path / folder / MANIFEST).is_file() for folder in ("", DATASET, CONVERT)):
        return []
    try:
        return list(find_records(path).records)
    except InputError:
        return []


def _once(paths: Iterable[Path]) -> list[Path]:
    """The paths without those that lead to a file of another one through a link to a folder above it."""
    found: dict[Path, Path] = {}
    for path in sorted(paths, key=lambda path: len(path.parts)):
        found.setdefault(path.parent.resolve() / path.name, path)
    return sorted(found.values())


def _find_remote(source: InputSource) -> Listing:
    assert source.path is not None
    found = find_remote(source.path)
    corpus = posixpath.basename(found.root.rstrip("/")) or "remote"
    if found.alone:
        (name, place), *_ = found.files
        return _one(source, place, name, corpus, found.root)
    if not any(mark in source.path for mark in "*?["):
        return _folder(source, found.root, corpus, found.files, title=source.path)
    files: list[InputFile] = []
    ignored: list[str] = []
    for pointer, place in found.files:
        _expand(source, place, pointer, source.corpus or corpus, found.root, files, ignored)
    return Listing(tuple(files), tuple(ignored))


def _folder(
    source: InputSource, root: str, name: str, found: Iterable[tuple[str, Place]], title: str | None = None
) -> Listing:
    corpus = source.corpus or name
    files: list[InputFile] = []
    ignored: list[str] = []
    found = list(found)
    of_datasets = _metadata_of_datasets([pointer for pointer, _ in found])
    for pointer, place in found:
        if is_data_name(place.name) and pointer not in of_datasets and not _is_no_file(place):
            _expand(source, place, pointer, corpus, root, files, ignored)
        else:
            ignored.append(f"{corpus}/{pointer}")
    if not files:
        raise InputError(f"{title or root} holds no data file ({', '.join(DATA_SUFFIXES)}, plain or packed)")
    return Listing(tuple(files), tuple(ignored))


def _is_no_file(place: Place) -> bool:
    """Whether a path is a device, a pipe or a link to a folder."""
    return isinstance(place, Path) and place.exists() and not place.is_file()


def _metadata_of_datasets(pointers: list[str]) -> set[str]:
    folders = {posixpath.dirname(p) for p in pointers if p.endswith(".arrow")}
    folders |= {posixpath.dirname(f) for f in folders}
    return {p for p in pointers if posixpath.basename(p) in _OF_DATASETS and posixpath.dirname(p) in folders}


def _one(source: InputSource, place: Place, pointer: str, corpus: str, root: str) -> Listing:
    """A file that the user named: itself, or the members of the archive that it is."""
    corpus = source.corpus or corpus
    archive = open_archive(place)
    if archive is None:
        return Listing((InputFile(place, pointer, corpus, source, place, pointer, root, alone=True),), ())
    ignored: list[str] = []
    files = list(_members(source, archive, pointer, corpus, root, ignored, alone=True))
    if not files:
        raise InputError(f"{place} holds no data file ({', '.join(DATA_SUFFIXES)}, plain or packed)")
    return Listing(tuple(files), tuple(ignored))


def _expand(
    source: InputSource, place: Place, pointer: str, corpus: str, root: str, files: list[InputFile], ignored: list[str]
) -> None:
    """Adds a file, or the members of the archive that it is; one that cannot be listed is told when it is read."""
    try:
        archive = open_archive(place)
    except ArchiveError as error:
        files.append(InputFile(Broken(str(place), str(error)), pointer, corpus, source, place, pointer, root))
        return
    except InputError:
        archive = None
    if archive is None:
        files.append(InputFile(place, pointer, corpus, source, place, pointer, root))
        return
    before = len(files)
    files.extend(_members(source, archive, pointer, corpus, root, ignored))
    if len(files) == before:
        empty = Broken(str(place), f"{place} holds no data file")
        files.append(InputFile(empty, pointer, corpus, source, place, pointer, root))


def _members(
    source: InputSource,
    archive: Archive,
    pointer: str,
    corpus: str,
    root: str,
    ignored: list[str],
    alone: bool = False,
) -> Iterator[InputFile]:
    ignored.extend(f"{corpus}/{pointer}/{name}" for name in archive.skipped)
    for member in archive.members:
        inner = member.path if isinstance(member, Member) else str(member).removeprefix(f"{archive.place}/")
        # macOS keeps attributes of x in ._x
        if is_data_name(member.name) and not member.name.startswith("._"):
            yield InputFile(member, f"{pointer}/{inner}", corpus, source, archive.place, pointer, root, alone)
        else:
            ignored.append(f"{corpus}/{pointer}/{inner}")


def beside(file: InputFile, relative: str) -> Place | None:
    """The file at a path relative to the folder of a file on a disk or at a URL, where there is one."""
    if isinstance(file.path, Path):
        other = file.path.parent / relative
        return other if other.is_file() else None
    if isinstance(file.path, RemoteFile):
        return file.path.beside(relative)
    return None
