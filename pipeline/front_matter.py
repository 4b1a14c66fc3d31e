"""The front matter of a card: what the Hub and ``datasets`` read of it."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.license_mix import CardLicense
from pipeline.manifest import Manifest, Output
from pipeline.tables import RECORDS, TOKENS

#: Size categories of the Hub: fewer records than this.
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (100_000_000, "10M<n<100M"),
    (1_000_000_000, "100M<n<1B"),
)

#: Arrow types by the names of ``datasets``; the others have the same name in both.
_NAMES = {"double": "float64", "float": "float32"}


#: What ``datasets`` takes in no name of a configuration.
_FORBIDDEN = re.compile(r"[<>:/\\|?*]")

_NUMBERED = re.compile(r"(.+)-\d{5,}-of-\d{5,}\.parquet")


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of a configuration: their schema, their files, and a pattern of the names of these and of no others."""

    schema: pa.Schema
    files: tuple[Output, ...]
    pattern: str


def configs_of(manifest: Manifest) -> dict[str, Tables]:
    """The configurations of a data set by name: ``records``, and ``tokens-NAME`` for each tokenizer, whatever its name.

    ``_`` stands for what ``datasets`` does not take in a name.
    """
    found: dict[str, list[Output]] = {}
    for output in manifest.outputs:
        if numbered := _NUMBERED.fullmatch(PurePosixPath(output.path).name):
            found.setdefault(numbered[1], []).append(output)
    made: dict[str, Tables] = {}
    for stem in sorted(found, key=lambda stem: (stem != "records", stem)):
        if stem == "records" or stem.startswith("tokens-"):
            name = _FORBIDDEN.sub("_", stem)
            while name in made:
                name += "_"
            made[name] = Tables(RECORDS if stem == "records" else TOKENS, tuple(found[stem]), _pattern(stem, found))
    return made


def _pattern(stem: str, stems: Iterable[str]) -> str:
    """The names of the files of a configuration; those of another may begin with the same words and a hyphen."""
    some = "?????-of-?????" if any(other.startswith(f"{stem}-") for other in stems) else "*"
    return f"{glob.escape(stem)}-{some}.parquet"


def front_matter(
    title: str,
    license_: CardLicense,
    languages: Sequence[str],
    tags: Iterable[str],
    manifest: Manifest,
    dataset: Path,
) -> str:
    """The YAML between a card's lines of dashes, which it has none of. Sizes are those of the files' footers."""
    configs = configs_of(manifest)
    data: dict[str, Any] = {"pretty_name": title}
    if languages:
        data["language"] = list(languages)
    data["license"] = license_.license
    if license_.license_name:
        data["license_name"] = license_.license_name
    records = sum(o.rows or 0 for o in configs["records"].files) if "records" in configs else 0
    data["size_categories"] = [next((name for limit, name in _SIZES if records < limit), "n>1T")]
    data["task_categories"] = ["text-generation"]
    data["tags"] = list(tags)
    data["configs"] = [
        {
            "config_name": name,
            **({"default": True} if name == "records" else {}),
            "data_files": [{"split": split, "path": f"{split}/{tables.pattern}"} for split in _splits(tables.files)],
        }
        for name, tables in configs.items()
    ]
    data["dataset_info"] = [
        {"config_name": name, "features": features(tables.schema), **_sizes(tables.files, dataset)}
        for name, tables in configs.items()
    ]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1 << 20)


def features(schema: Iterable[pa.Field]) -> list[dict[str, Any]]:
    """The columns as ``datasets`` writes them in a card."""
    return [{"name": field.name, **_feature(field.type)} for field in schema]


def _feature(type_: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(type_):
        inner = _feature(type_.value_type)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    if pa.types.is_struct(type_):
        return {"struct": features(type_)}
    return {"dtype": _NAMES.get(str(type_), str(type_))}


def _splits(shards: Sequence[Output]) -> list[str]:
    """The splits in their order: train, test, then those without answers."""
    found = {PurePosixPath(o.path).parent.name for o in shards}
    return [split for split in ("train", "test") if split in found] + sorted(found - {"train", "test"})


def _sizes(shards: Sequence[Output], dataset: Path) -> Mapping[str, Any]:
    splits = []
    for split in _splits(shards):
        own = [o for o in shards if PurePosixPath(o.path).parent.name == split]
        splits.append(
            {
                "name": split,
                "num_bytes": sum(_unpacked(dataset / o.path) for o in own),
                "num_examples": sum(o.rows or 0 for o in own),
            }
        )
    return {
        "splits": splits,
        "download_size": sum(o.bytes for o in shards),
        "dataset_size": sum(split["num_bytes"] for split in splits),
    }


def _unpacked(path: Path) -> int:
    footer = pq.read_metadata(path)
    return sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
