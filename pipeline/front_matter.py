"""The front matter of a card: what the Hub and ``datasets`` read of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.license_mix import CardLicense
from pipeline.manifest import Manifest
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


def configs_of(manifest: Manifest) -> dict[str, tuple[pa.Schema, str]]:
    """The configurations of a data set by name: the schema of its tables and how the names of their files start.

    ``records``, and one for each tokenizer.
    """
    names = sorted(
        {PurePosixPath(o.path).name.rsplit("-", 3)[0] for o in manifest.outputs if o.path.endswith(".parquet")}
    )
    known = {"records": RECORDS, **{name: TOKENS for name in names if name.startswith("tokens-")}}
    return {name: (schema, f"{name}-") for name, schema in known.items() if name in names}


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
    records = sum(o.rows or 0 for o in _shards(manifest, "records-"))
    data["size_categories"] = [next((name for limit, name in _SIZES if records < limit), "n>1T")]
    data["task_categories"] = ["text-generation"]
    data["tags"] = list(tags)
    data["configs"] = [
        {
            "config_name": name,
            **({"default": True} if name == "records" else {}),
            "data_files": [
                {"split": split, "path": f"{split}/{prefix}*.parquet"} for split in _splits(_shards(manifest, prefix))
            ],
        }
        for name, (_, prefix) in configs.items()
    ]
    data["dataset_info"] = [
        {"config_name": name, "features": features(schema), **_sizes(_shards(manifest, prefix), dataset)}
        for name, (schema, prefix) in configs.items()
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


def _shards(manifest: Manifest, prefix: str) -> list[Any]:
    return [o for o in manifest.outputs if PurePosixPath(o.path).name.startswith(prefix)]


def _splits(shards: Sequence[Any]) -> list[str]:
    """The splits in their order: train, test, then those without answers."""
    found = {PurePosixPath(o.path).parent.name for o in shards}
    return [split for split in ("train", "test") if split in found] + sorted(found - {"train", "test"})


def _sizes(shards: Sequence[Any], dataset: Path) -> Mapping[str, Any]:
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
