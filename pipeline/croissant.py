"""Croissant metadata of a data set (http://mlcommons.org/croissant/1.0): files with digests, and what their columns are.

Written from the manifest and the Arrow schemas, so nothing but ``mlcroissant``'s own readers is needed to use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.front_matter import Tables

CROISSANT = "croissant.json"

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "conformsTo": "dct:conformsTo",
    **{
        name: f"cr:{name}"
        for name in (
            "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format",
            "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references",
            "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
        )
    },
}  # fmt: skip

_PARQUET = "application/x-parquet"

#: Where the files are once they are pushed; a push puts the name in. A repository has no digest: the Hub's own metadata has
#: this address in its place. ``mlcroissant`` reads a folder on a disk with ``mapping={"repo": FOLDER}``.
_REPOSITORY = {
    "@type": "cr:FileObject",
    "@id": "repo",
    "name": "repo",
    "description": "The repository of the data set.",
    "contentUrl": "https://huggingface.co/datasets/OWNER/NAME",
    "encodingFormat": "git+https",
    "sha256": "https://github.com/mlcommons/croissant/issues/80",
}


def croissant(
    title: str,
    description: str,
    version: str,
    licenses: Sequence[str],
    languages: Sequence[str],
    cite: str,
    configs: Mapping[str, Tables],
) -> str:
    """The metadata as JSON-LD.

    ``configs``: by name, its tables, whose paths are relative to where the metadata will lie; ``licenses``: as found, in
    words or as addresses; ``version``: major.minor.patch.
    """
    distribution: list[dict[str, Any]] = [dict(_REPOSITORY)]
    record_sets = []
    for config, tables in configs.items():
        for shard in tables.files:
            distribution.append(
                {
                    "@type": "cr:FileObject",
                    "@id": shard.path,
                    "name": shard.path,
                    "containedIn": {"@id": "repo"},
                    "contentUrl": shard.path,
                    "contentSize": f"{shard.bytes} B",
                    "encodingFormat": _PARQUET,
                    "sha256": shard.sha256,
                }
            )
        distribution.append(
            {
                "@type": "cr:FileSet",
                "@id": config,
                "name": config,
                "containedIn": {"@id": "repo"},
                "encodingFormat": _PARQUET,
                "includes": f"*/{tables.pattern}",
            }
        )
        rows = sum(o.rows or 0 for o in tables.files)
        record_sets.append(
            {
                "@type": "cr:RecordSet",
                "@id": f"{config}/rows",
                "name": config,
                "description": f"{rows:,} rows; one a record.",
                "key": {"@id": f"{config}/rows/id"},
                "field": [_field(field, f"{config}/rows", config) for field in tables.schema],
            }
        )
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": title,
        "description": description,
        "version": version,
        **({"license": list(licenses)} if licenses else {}),
        **({"inLanguage": list(languages)} if languages else {}),
        "citeAs": cite,
        "distribution": distribution,
        "recordSet": record_sets,
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def _field(field: pa.Field, parent: str, config: str) -> dict[str, Any]:
    """A column. What lies in a list or a structure is described below it."""
    place = f"{parent}/{field.name}"
    source = {"source": {"fileSet": {"@id": config}, "extract": {"column": field.name}}}
    return {"@type": "cr:Field", "@id": place, "name": field.name, **_typed(field.type, place, source), **source}


def _typed(type_: pa.DataType, place: str, source: Mapping[str, Any]) -> dict[str, Any]:
    if pa.types.is_list(type_):
        return {"repeated": True, **_typed(type_.value_type, place, source)}
    if pa.types.is_struct(type_):
        return {"subField": [_below(inner, place, source) for inner in type_]}
    return {"dataType": _data_type(type_)}


def _below(field: pa.Field, place: str, source: Mapping[str, Any]) -> dict[str, Any]:
    """A field of a structure: a path into the column's value."""
    below = f"{place}/{field.name}"
    column = source["source"]["extract"]["column"]
    own = {"source": {**source["source"], "extract": {"column": column}, "transform": {"jsonPath": field.name}}}
    return {"@type": "cr:Field", "@id": below, "name": field.name, **_typed(field.type, below, own), **own}


def _data_type(type_: pa.DataType) -> str:
    if pa.types.is_integer(type_):
        return f"cr:{'UInt' if pa.types.is_unsigned_integer(type_) else 'Int'}{type_.bit_width}"
    if pa.types.is_floating(type_):
        return f"cr:Float{type_.bit_width}"
    return "sc:Boolean" if pa.types.is_boolean(type_) else "sc:Text"
