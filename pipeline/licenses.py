"""The licence text beside a file, named by its SPDX id. Nothing is guessed: a text that is not one known licence is none."""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.containers import is_data_name
from pipeline.containers.archives import Member
from pipeline.containers.places import Place, RemoteFile, open_place
from pipeline.errors import InputError
from pipeline.listing import InputFile
from pipeline.storage import StoreError

_NAME = re.compile(r"(licen[cs]e|copying|unlicense)([-._].*)?", re.IGNORECASE)

#: Licence texts are read up to here; a longer file is none.
_MOST = 1 << 18

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_COPYRIGHT = re.compile(r"^\W*(?:copyright|\(c\)|©)(?!.*licen).*$", re.IGNORECASE | re.MULTILINE)
#: Words by which copies of one licence differ: its title, who holds the rights, where its text is.
_TITLE = frozenset(
    (
        "the", "license", "licence", "version", "all", "rights", "reserved", "year", "yyyy", "name", "of", "copyright",
        "owner", "holder", "fullname", "project", "software", "author", "authors", "email", "http", "https", "www", "org",
    )
)  # fmt: skip

Found = tuple[str | None, str | None]


def license_beside(file: InputFile, known: dict[str, Found] | None = None) -> Found:
    """The SPDX id of the licence text nearest to a file, from its folder up to the folder that was named; and its path.

    The id is None where the text is not exactly one licence that is known, or where two texts say different things; both
    are None where there is no text. ``known`` remembers, by folder, what was found for other files.
    """
    known = {} if known is None else known
    passed = []
    found: Found = (None, None)
    for folder in _folders(file):
        if folder in known:
            found = known[folder]
            break
        passed.append(folder)
        if texts := sorted(_texts(file, folder), key=lambda place: place.name):
            ids = {_license_of(place) for place in texts}
            found = (ids.pop() if len(ids) == 1 else None, ", ".join(map(str, texts)))
            break
    known.update(dict.fromkeys(passed, found))
    return found


def _folders(file: InputFile) -> Iterator[str]:
    """The folders of a file from its own to the one that was named; those in an archive have its path before theirs."""
    place = file.path
    if isinstance(place, Member):
        inner = posixpath.dirname(place.path)
        while inner:
            yield f"{file.container}/{inner}"
            inner = posixpath.dirname(inner)
        yield str(file.container)
        place = file.container
    if isinstance(place, Path):
        folder, root = place.parent, Path(file.root)
        yield str(folder)
        while folder != root and root in folder.parents:
            folder = folder.parent
            yield str(folder)
    elif isinstance(place, RemoteFile):
        above = posixpath.dirname(place.path)
        yield above
        while above != file.root and above.startswith(file.root.rstrip("/") + "/"):
            above = posixpath.dirname(above)
            yield above


def _texts(file: InputFile, folder: str) -> list[Place]:
    archive = file.archive
    if archive is not None and (folder == str(archive.place) or folder.startswith(f"{archive.place}/")):
        inner = folder.removeprefix(str(archive.place)).lstrip("/")
        return [
            m
            for m in archive.members
            if isinstance(m, Member) and posixpath.dirname(m.path) == inner and _is_text(m.name)
        ]
    try:
        if isinstance(file.container, RemoteFile):
            return [p for p in file.container.siblings(folder) if _is_text(p.name)]
        return [p for p in Path(folder).iterdir() if _is_text(p.name) and p.is_file()]
    except StoreError:
        raise
    except (OSError, InputError):
        return []


def _is_text(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not is_data_name(name)


def _license_of(place: Place) -> str | None:
    try:
        with open_place(place) as stream:
            data = stream.read(_MOST + 1)
        return identify_license(data.decode("utf-8-sig")) if len(data) <= _MOST else None
    except StoreError:
        raise
    except (OSError, UnicodeDecodeError, InputError):
        return None


def identify_license(text: str) -> str | None:
    """The SPDX id of a licence's text; None where it is none that is known, or says more or less than that one does.

    The texts are those of choosealicense.com. Copyright lines, the title and white space may differ, other words not.
    """
    from identify.identify import license_id
    from identify.vendor.licenses import LICENSES

    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write(text)
        file.flush()
        spdx = license_id(file.name)
    if spdx is None:
        return None
    reference = next(known for name, known in LICENSES if name == spdx)
    differing = _words(text) ^ _words(reference)
    return spdx if differing <= _TITLE | _words(spdx) else None


def _words(text: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(_COPYRIGHT.sub("", text)))
