"""The licence beside the data: told by its text, or not at all."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import fsspec
import pytest
from identify.vendor.licenses import LICENSES

from pipeline.licenses import identify_license, license_beside
from pipeline.listing import InputFile, InputSource, list_files

TEXTS = dict(LICENSES)
MIT, APACHE = TEXTS["MIT"], TEXTS["Apache-2.0"]
CORPORA = Path(__file__).resolve().parents[3] / "shared" / "corpora"


@pytest.mark.parametrize("spdx", TEXTS)
def test_a_known_text_is_named(spdx: str) -> None:
    assert identify_license(TEXTS[spdx]) == spdx


@pytest.mark.parametrize(
    "text",
    [
        MIT.replace("[year] [fullname]", "2024 Ada Lovelace and others"),
        MIT.replace("MIT License\n", "The MIT License (MIT)\n").replace("[year] [fullname]", "2020-2024, A. B., Inc."),
        MIT.removeprefix("MIT License"),
        "    " + MIT.replace("\n", "\r\n    "),
    ],
)
def test_copies_of_a_text_differ_in_title_holder_and_white_space(text: str) -> None:
    assert identify_license(text) == "MIT"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "All rights reserved.",
        "MIT",
        MIT + "\n\n" + APACHE,
        APACHE + "\n\n" + MIT,
        APACHE + "\nThe files in data/ are under CC BY-NC 4.0.\n",
        MIT + "\nThe Software shall be used for Good, not Evil.\n",
        MIT + "\nNot for commercial use.\n",
        MIT.replace("sublicense, and/or sell", "and sublicense"),
        MIT.replace("[year] [fullname]", "2024 Ada. The data is licensed under CC BY-NC 4.0"),
        'Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file but so.',
    ],
)
def test_a_text_that_says_more_or_less_than_one_licence_is_none(text: str) -> None:
    assert identify_license(text) is None


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def only(path: object) -> InputFile:
    (file,) = list_files(InputSource(path=str(path)), Path())
    return file


def test_the_nearest_text_counts_up_to_the_folder_that_was_named(tmp_path: Path) -> None:
    write(tmp_path, LICENSE=APACHE)
    write(tmp_path / "a", LICENSE=MIT)
    write(tmp_path / "a" / "b" / "c")
    (tmp_path / "a" / "b" / "c" / "x.jsonl").write_text("{}")
    assert license_beside(only(tmp_path)) == ("MIT", str(tmp_path / "a" / "LICENSE"))
    assert license_beside(only(tmp_path / "a" / "b")) == (None, None)
    assert license_beside(only(tmp_path / "a" / "b" / "c" / "x.jsonl")) == (None, None)
    write(tmp_path / "a" / "b", COPYING="Ask me.")
    assert license_beside(only(tmp_path)) == (None, str(tmp_path / "a" / "b" / "COPYING"))


def test_two_texts_that_say_different_things_are_none_and_both_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("{}")
    write(tmp_path, **{"LICENSE-MIT": MIT, "LICENSE.txt": MIT})
    assert license_beside(only(tmp_path))[0] == "MIT"
    write(tmp_path, **{"LICENSE-APACHE": APACHE})
    spdx, found = license_beside(only(tmp_path))
    assert spdx is None
    assert found is not None
    assert all(name in found for name in ("LICENSE-APACHE", "LICENSE-MIT", "LICENSE.txt"))


def test_a_folder_is_looked_into_once(tmp_path: Path) -> None:
    write(tmp_path, LICENSE=MIT, **{"a.jsonl": "{}", "b.jsonl": "{}"})
    known: dict[str, tuple[str | None, str | None]] = {}
    files = list_files(InputSource(path=str(tmp_path)), Path())
    first = license_beside(files[0], known)
    (tmp_path / "LICENSE").unlink()
    assert license_beside(files[1], known) == first == ("MIT", str(tmp_path / "LICENSE"))


def test_an_archive_has_its_own_text_or_that_beside_it(tmp_path: Path) -> None:
    def tar(members: dict[str, str]) -> None:
        with tarfile.open(tmp_path / "a.tar", "w") as file:
            for name, text in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(text.encode())
                file.addfile(info, io.BytesIO(text.encode()))

    write(tmp_path, LICENSE=MIT)
    tar({"set/x.jsonl": "{}"})
    assert license_beside(only(tmp_path / "a.tar")) == ("MIT", str(tmp_path / "LICENSE"))
    tar({"set/x.jsonl": "{}", "LICENSE": APACHE})
    assert license_beside(only(tmp_path / "a.tar")) == ("Apache-2.0", f"{tmp_path}/a.tar/LICENSE")
    tar({"set/x.jsonl": "{}", "LICENSE": APACHE, "set/LICENSE.md": "mine"})
    assert license_beside(only(tmp_path / "a.tar")) == (None, f"{tmp_path}/a.tar/set/LICENSE.md")


def test_a_text_beside_a_url_counts_where_its_server_lists_folders() -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/licensed/LICENSE", MIT.encode())
    system.pipe("/licensed/sub/x.jsonl", b"{}")
    try:
        assert license_beside(only("memory://licensed")) == ("MIT", "memory:///licensed/LICENSE")
    finally:
        system.rm("/licensed", recursive=True)


@pytest.mark.skipif(not CORPORA.is_dir(), reason="the corpora are not here")
@pytest.mark.parametrize(
    ("corpus", "spdx"),
    [
        ("math-gsm8k", "MIT"),
        ("agent-tooltalk", "MIT"),
        ("oasst-trees", "Apache-2.0"),
        ("think-marco-o1", "Apache-2.0"),
        ("injection-bipia", None),
        ("agent-openhands", None),
        ("math-aqua", None),
    ],
)
def test_real_licence_files(corpus: str, spdx: str | None) -> None:
    file = list_files(InputSource(path=str(CORPORA / corpus)), Path())[0]
    assert license_beside(file) == (spdx, str(CORPORA / corpus / "LICENSE"))
