"""The data set's card: README.md with the Hub's front matter, made from the manifests and the records themselves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline import folders, storage
from pipeline.claim import claimed
from pipeline.errors import InputError
from pipeline.manifest import canonical_json, fetch, publish_text, read_manifest, remove_temporaries, tidy
from pipeline.stats import RecordStats, stats_of
from pipeline.together import manifests_of

#: Of the card: it is made anew when this changes.
VERSION = 1

TEMPLATES = Path(__file__).resolve().parent.parent / "data_cards"

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)


def write_card(out: Path, title: str) -> Path:
    """Writes ``README.md`` beside the final shards of a build, and clears what killed runs left of one.

    Raises InputError where there is no data set, PipelineError where another run writes there.
    """
    card = out / folders.DATASET / "README.md"
    for name in (folders.DATASET, folders.REPORT):
        if (manifest := read_manifest(out / name)) is not None:
            tidy(out / name, manifest)
            fetch(out / name, manifest.outputs)
    text = render_card(out, title)
    with claimed(card.parent):
        remove_temporaries(card.parent)
        publish_text(card, f"{text}\n{_made_of(out, title)}\n")
    return card


def renew_card(out: Path, title: str) -> None:
    """``write_card``, unless the card that is there was made of the same manifests and title."""
    card = out / folders.DATASET / "README.md"
    storage.pull(card)
    made_of = _made_of(out, title)
    if not card.is_file() or not card.read_text(encoding="utf-8").endswith(f"{made_of}\n"):
        write_card(out, title)


def _made_of(out: Path, title: str) -> str:
    """The line by which a card is known to be that of a build: the data, what went in and out of the stages, the report.

    Like the card it holds nothing that differs between two runs of the same build: no times, no digests of logs.
    """
    stages = manifests_of(out)
    dataset, report = stages.get(folders.DATASET), stages.get(folders.REPORT)
    made_of = [
        VERSION,
        title,
        dataset.digest() if dataset is not None else None,
        {name: [m.counters.get(side) for side in ("in", "out", "rejected")] for name, m in stages.items()},
        [dict(report.counters), report.notes.get("gate_failures")] if report is not None else None,
    ]
    return f"<!-- made of {hashlib.sha256(canonical_json(made_of).encode()).hexdigest()} -->"


def render_card(out: Path, title: str) -> str:
    """The card of the build in ``out`` as Markdown."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    dataset = out / folders.DATASET
    splits = {
        s: stats_of(sorted((dataset / s).glob("records-*.parquet")))
        for s in ("train", "test", folders.INPUT_ONLY)
        if (dataset / s).is_dir()
    }
    if not splits:
        raise InputError(f"{out} holds no data set")
    answered = [s for s in splits if s != folders.INPUT_ONLY] or list(splits)
    every = RecordStats()
    for split in answered:
        every.merge(splits[split])
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("dataset.md.j2").render(_facts(out, title, splits, every))


def _facts(out: Path, title: str, splits: dict[str, RecordStats], every: RecordStats) -> dict[str, Any]:
    manifests = manifests_of(out)
    synth = manifests.get(folders.SYNTH)
    report = out / folders.REPORT / "report.json"
    tokens = sorted((out / folders.DATASET).glob("*/tokens-*.parquet"))
    summary = every.summary()
    licenses = sorted(k for k in summary["licenses"] if k != "unknown")
    return {
        "title": title,
        "splits": {name: stats.summary() for name, stats in splits.items()},
        "all": summary,
        "size": next((name for limit, name in _SIZES if every.records < limit), "n>10M"),
        "licenses": licenses,
        "license": licenses[0].lower() if len(licenses) == 1 and "unknown" not in summary["licenses"] else "other",
        "stages": {name: m.counters for name, m in manifests.items()},
        "synth": synth.notes.get("engine") if synth else None,
        "table": tokens[0].name.rsplit("-", 3)[0] if tokens else None,
        "report": json.loads(report.read_text(encoding="utf-8"))
        if folders.REPORT in manifests and report.is_file()
        else None,
    }
