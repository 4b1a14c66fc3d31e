"""Conversations that are alike, converted by the real stages, and readers of what deduplication writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.convert import ConvertConfig
from pipeline.dedup.config import DedupConfig
from pipeline.leftout import FILTERED
from pipeline.manifest import Result
from pipeline.stages.convert import convert_stage
from pipeline.stages.dedup import dedup_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

#: Question and answer.
Talk = tuple[str, str]


def text(number: int, words: int = 60) -> str:
    """Words that no other number has."""
    return " ".join(f"w{number}x{i}" for i in range(words))


def edited(of: str, at: Sequence[int], word: str = "other") -> str:
    """The text with some of its words changed."""
    return " ".join(f"{word}{i}" if i in at else w for i, w in enumerate(of.split(" ")))


Q, A = text(1, 40), text(2, 80)
OTHER = (text(3), text(4))


def converted(
    folder: Path,
    corpora: Mapping[str, tuple[str | None, Sequence[Talk]]],
    shard_units: int = 4096,
    system: str | None = None,
) -> Result:
    """The finished conversion of corpora: licence, and questions with answers."""
    sources = []
    for name, (license_, talks) in corpora.items():
        place = folder / "in" / name / "data.jsonl"
        place.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for question, answer in talks:
            messages = [{"role": "system", "content": system}] if system else []
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            lines.append(json.dumps({"messages": messages}))
        place.write_text("\n".join(lines) + "\n", encoding="utf-8")
        sources.append(InputSource(path=str(place), corpus=name, license=license_))
    ingest = ingest_stage(sources, folder, folder / "ingest", IngestConfig(shard_units=shard_units))
    return convert_stage(ingest, folder / "convert", ConvertConfig(align="turns"), workers=1)


def deduplicated(made: Result, out: Path, workers: int = 1, left_out: Sequence[Result] = (), **settings: Any) -> Result:
    """The stage, with settings other than the default ones."""
    return dedup_stage([made], out, DedupConfig(**settings), left_out, workers)


def rows(result: Result, prefix: str = FILTERED) -> list[dict[str, Any]]:
    """The rows of the tables whose names start so."""
    return [row for path in result.manifest.paths(result.directory, prefix) for row in pq.read_table(path).to_pylist()]


def pointers(made: Result) -> dict[str, str]:
    """``corpus:index`` of every record, by its id."""
    return {
        row["id"]: f"{row['sources'][0]['corpus']}:{row['sources'][0]['index']}"
        for path in made.manifest.paths(made.directory, "records-")
        for row in pq.read_table(path, columns=["id", "sources"]).to_pylist()
    }


def gone(made: Result, result: Result, prefix: str = FILTERED) -> dict[str, tuple[str, str]]:
    """What the tables name, as ``corpus:index``: the reason, and the pointer of the one that stays."""
    names = pointers(made)
    return {names[r["id"]]: (r["reason"], names[r["detail"].split(" ")[0]]) for r in rows(result, prefix)}
