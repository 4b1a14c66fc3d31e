"""What a stage's output depends on, known before any of its work is done: its fingerprint, and why another one is stale."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.manifest import Manifest, canonical_json, fingerprint

#: The section of the configuration that a stage's settings come from, by the stage's name in its manifest.
_SECTIONS = {"synthesize": "synth", "dataset": "shards"}

#: Settings that the configuration calls otherwise.
_NAMES = {
    "convert.exclude_ids": "exclude_ids",
    "shards.seed": "seed",
    "synth.tokenizer": "convert.tokenizer",
    "synth.lag": "convert.lag",
}

#: Longer values are not shown.
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Plan:
    """A stage by name and version, with its settings (no run paths, times or worker counts) and its inputs' digests."""

    stage: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of all of it: what the manifest of the finished stage holds."""
        return fingerprint(self.stage, self.version, self.config, self.inputs)


def differences(there: Manifest, wanted: Plan) -> list[str]:
    """Why a finished stage is not the wanted one, a line for each version, setting and input; empty where it is.

    An input whose wanted digest is "" counts as the same: nobody looked.
    """
    if there.fingerprint == wanted.fingerprint:
        return []
    lines = [] if there.version == wanted.version else [f"version {there.version} → {wanted.version}"]
    lines += _settings(wanted.stage, dict(there.config), json.loads(canonical_json(wanted.config)))
    lines += _inputs(there.inputs, wanted.inputs)
    return lines if lines or "" in wanted.inputs.values() else ["its fingerprint is another one"]


def _inputs(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*old, *new}):
        if name not in new:
            yield f"input {name} removed"
        elif name not in old:
            yield f"input {name} added"
        elif new[name] not in ("", old[name]):
            yield f"input {name} changed"


def _settings(stage: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    section = _SECTIONS.get(stage, stage)
    if stage == "ingest":
        yield from _sources(old.pop("sources", []), new.pop("sources", []))
    before, after = dict(_flat(old)), dict(_flat(new))
    for key in sorted({*before, *after}):
        name = _NAMES.get(f"{section}.{key}", f"{section}.{key}")
        if key not in after:
            yield f"{name} was {_shown(before[key])}, is no setting any more"
        elif key not in before:
            yield f"{name} is new: {_shown(after[key])}"
        elif before[key] != after[key]:
            texts = _shown(before[key]), _shown(after[key])
            yield f"{name} was {texts[0]}, is {texts[1]}" if "" not in texts else f"{name} changed"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted keys; of a tokenizer only which one it is."""
    for key, item in value.items():
        if key == "tokenizer" and isinstance(item, dict) and "tokenizer_sha256" in item:
            yield prefix + key, f"{item['tokenizer']} ({item['tokenizer_sha256'][:12]})"
        elif isinstance(item, dict) and item:
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield prefix + key, item


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else ""


def _sources(old: list[list[Any]], new: list[list[Any]]) -> Iterator[str]:
    """What changed of files that were there before; others are told as inputs."""
    before, after = _by_file(old), _by_file(new)
    found: Counter[str] = Counter()
    for file in before.keys() & after.keys():
        for key in before[file]:
            one, other = before[file][key], after[file][key]
            if one != other:
                found[f"{key} was {json.dumps(one)}, is {json.dumps(other)}"] += 1
    for text, count in sorted(found.items()):
        yield f"sources: {text} ({count:,} file{'' if count == 1 else 's'})"
    both = before.keys() & after.keys()
    if [file for file in before if file in both] != [file for file in after if file in both]:
        yield "sources: their order changed"


def _by_file(sources: list[list[Any]]) -> dict[str, dict[str, Any]]:
    """Format, limit and licence of each file, and of each Hub data set, in their order."""
    found: dict[str, dict[str, Any]] = {}
    for source in sources:
        if source[0] == "hub":
            _, dataset, config, split, corpus, format_, license_, limit = source
            found[f"hub:{dataset}/{config}/{split}"] = {
                "corpus": corpus, "format": format_, "license": license_, "limit": limit,
            }  # fmt: skip
            continue
        format_, limit, files = source
        for corpus, pointer, license_ in files:
            found[f"{corpus}/{pointer}"] = {"format": format_, "license": license_, "limit": limit}
    return found
