"""The data set's card: README.md with the Hub's front matter, its pictures and Croissant metadata, of manifests and records."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import card_facts, folders, storage
from pipeline.card_edits import is_edited, read_card, sealed
from pipeline.card_words import cell, code, loss, num, pair, share, title_line
from pipeline.claim import claimed
from pipeline.croissant import CROISSANT, croissant
from pipeline.errors import InputError, PipelineError
from pipeline.front_matter import configs_of, front_matter
from pipeline.license_mix import Conflict, card_license, conflicts
from pipeline.manifest import Manifest, canonical_json, fetch, publish, read_manifest, remove_temporaries, tidy
from pipeline.statistics.plots import NAMES, draw_plots
from pipeline.statistics.rejects import find_rejects, left_out_of, rejects_of
from pipeline.statistics.timeline import choose, draw_timeline
from pipeline.stats import RecordStats, stats_of
from pipeline.together import manifests_of

#: Of the card: it is made anew when this changes.
VERSION = 4

TEMPLATES = Path(__file__).resolve().parent.parent / "data_cards"

CARD = "README.md"

#: Beside the card: its pictures.
PICTURES = "card"

#: The plots of an evaluation that a card shows, in this order, with what they show.
_REPORT_PLOTS = {
    "loss": "Held-out text loss per output stream, before and after training",
    "latency": "Latency of the test split in rows, against turns",
    "training": "Training loss over the steps",
    "timeline": "What was read, what the model wrote and what the data says, by row",
}

#: The pictures that cards have, by which those of earlier ones are known.
_DRAWN = frozenset(
    {*NAMES, "timeline.svg", *(f"report-{name}{end}" for name in _REPORT_PLOTS for end in (".png", ".svg"))}
)

log = logging.getLogger(__name__)

_LINK = re.compile(rf"\]\(({PICTURES}/[\w.-]+)\)")


@dataclass(frozen=True, slots=True)
class Card:
    """``text`` of the card, the ``files`` beside it by their paths, and what to know about its licences."""

    text: str
    files: Mapping[str, bytes]
    conflicts: tuple[Conflict, ...]


def write_card(out: Path, title: str, force: bool = False) -> Path:
    """Writes ``README.md``, its pictures and ``croissant.json`` beside the final shards of a build; where the card is.

    Clears what killed runs left of one. The card comes last, so it never shows what is not there. Raises InputError where
    there is no data set, PipelineError where another run writes there, or, without ``force``, a person has edited the card.
    """
    publish_card(out, title, force)
    return out / folders.DATASET / CARD


def publish_card(out: Path, title: str, force: bool = False) -> Card:
    """``write_card``; the card itself."""
    card = out / folders.DATASET / CARD
    storage.pull(card)
    if not force and card.is_file() and is_edited(read_card(card)):
        raise PipelineError(
            f"{storage.shown(card)} was edited by hand, or not written here, and is left as it is: move it away for a new "
            "one, and put what you wrote into that, or replace it with --force"
        )
    return _publish_card(out, title)


def _publish_card(out: Path, title: str, kept: str | None = None) -> Card:
    """Writes a card, or only what lies beside it, where the text of a card is to be ``kept``."""
    for name in (folders.DATASET, folders.REPORT):
        if (manifest := read_manifest(out / name)) is not None:
            tidy(out / name, manifest)
            fetch(out / name, manifest.outputs)
    directory = out / folders.DATASET
    card = make_card(out, title)
    shown = set(_LINK.findall(kept or ""))
    with claimed(directory):
        remove_temporaries(directory)
        for name, content in card.files.items():
            _publish(directory / name, content)
        if kept is None:
            _publish(directory / CARD, sealed(f"{card.text}\n", made_of(out, title)).encode())
        for name in sorted(_pictures(directory) - card.files.keys() - shown):
            storage.remove(directory / name)
    return card


def renew_card(out: Path, title: str) -> bool:
    """``write_card``, unless the card that is there was made of the same manifests and title, and is whole.

    A card that a person has edited is never replaced, only what lies beside it: where it is of other data, a warning is
    logged. Whether the card is of the data that is there.
    """
    directory = out / folders.DATASET
    card = directory / CARD
    storage.pull(card)
    text = read_card(card) if card.is_file() else ""
    current = made_of(out, title) in text.splitlines()
    if current:
        kept = storage.files_below(directory)
        shown = {*_LINK.findall(text), CROISSANT}
        if all(name in kept if kept is not None else (directory / name).is_file() for name in shown):
            return True
    edited = card.is_file() and is_edited(text)
    _publish_card(out, title, text if edited else None)
    if edited and not current:
        log.warning(
            "%s was edited by hand, or not written here, and is left as it is, though it is not of this data: move it away "
            "and run multistream card %s",
            storage.shown(card),
            storage.shown(out),
        )
    return current or not edited


def title_of(out: Path) -> str:
    """The title that the build in a folder was given, or its name."""
    asked = card_facts.asked_of_build(out)
    return (asked.config.title or asked.config.name) if asked is not None else "Multi-stream conversations"


def render_card(out: Path, title: str) -> str:
    """The card of the build in ``out`` as Markdown. Raises InputError where there is no data set."""
    return make_card(out, title).text


def make_card(out: Path, title: str) -> Card:
    """The card of the build in ``out`` and what lies beside it; nothing is written. Raises InputError."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    title = title_line(title)
    dataset = out / folders.DATASET
    manifest = read_manifest(dataset)
    splits = {
        split: stats_of(sorted((dataset / split).glob("records-*.parquet")))
        for split in ("train", "test", folders.INPUT_ONLY)
        if (dataset / split).is_dir() and any((dataset / split).glob("records-*.parquet"))
    }
    if not splits or manifest is None:
        raise InputError(f"{storage.shown(out)} holds no data set: name the folder of a build")
    answered = [s for s in splits if s != folders.INPUT_ONLY] or list(splits)
    every, whole = RecordStats(), RecordStats()
    for name, stats in splits.items():
        whole.merge(stats)
        if name in answered:
            every.merge(stats)
    files, facts = _facts(out, title, manifest, splits, answered, every, whole)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(cell=cell, code=code, num=num, share=share, pair=pair, loss=loss)
    text = environment.get_template("dataset.md.j2").render(facts)
    return Card(text, files, tuple(facts["conflicts"]))


def _facts(
    out: Path,
    title: str,
    manifest: Manifest,
    splits: Mapping[str, RecordStats],
    answered: Sequence[str],
    every: RecordStats,
    whole: RecordStats,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    dataset, manifests = out / folders.DATASET, manifests_of(out)
    reject_shards = find_rejects(out)
    rejects = rejects_of(reject_shards or ())
    report = card_facts.read_report(out, manifests)
    plots = draw_plots(every, rejects)
    files = {f"{PICTURES}/{plot.name}": plot.svg.encode() for plot in plots}
    sample = choose([p for s in answered for p in sorted((dataset / s).glob("records-*.parquet"))])
    timeline = ""
    if sample is not None:
        drawn, timeline = draw_timeline(sample)
        files[f"{PICTURES}/timeline.svg"] = drawn.encode()
    report_plots = []
    for path in _report_plots(out, manifests) if report else ():
        name = f"report-{path.name}"
        files[f"{PICTURES}/{name}"] = path.read_bytes()
        report_plots.append((name, _REPORT_PLOTS[path.stem]))
    found = conflicts(whole.corpus_licenses)
    names = sorted({name for _, name in whole.corpus_licenses})
    languages = sorted(whole.languages)
    synth = manifests.get(folders.SYNTH)
    tags = ["multi-stream", "streaming", "conversational", *(["synthetic"] if synth is not None else [])]
    configs = configs_of(manifest)
    summary = every.summary()
    description = (
        f"Multi-stream conversations: {summary['records']:,} records, {summary['tokens']:,} tokens, a stream for every role, "
        "on a clock of rows in which each stream says at most one token."
    )
    metadata = croissant(
        title,
        description,
        f"{manifest.version}.0.0",
        [n for n in names if n != "unknown"],
        languages,
        card_facts.PAPER,
        configs,
    )
    files[CROISSANT] = metadata.encode()
    engine = (synth.notes.get("engine") or {}) if synth is not None else {}
    model = engine.get("model")
    return files, {
        "title": title,
        "front_matter": front_matter(title, card_license(names or ["unknown"]), languages, tags, manifest, dataset),
        "splits": {name: stats.summary() for name, stats in splits.items()},
        "first_split": next(iter(splits)),
        "all": summary,
        "tokens": [name for name in configs if name != "records"],
        "timeline": timeline,
        "words": {
            **dict.fromkeys(("streams", "lengths", "saved", "latency", "rejects"), ""),
            **{plot.name.removesuffix(".svg"): plot.words.partition(": ")[0] for plot in plots},
        },
        "sources": card_facts.sources(whole, manifests, rejects),
        "conflicts": found,
        "command": card_facts.command(out),
        "stages": card_facts.stages(manifests),
        "settings": card_facts.settings(manifests),
        "synth": {
            "model": model.get("name", "") if isinstance(model, dict) else str(model),
            "engine": engine.get("engine", ""),
            "version": engine.get("version", ""),
            "out": synth.counters.get("out"),
            "asked": synth.counters.get("in"),
        }
        if synth is not None and engine
        else None,
        "claims": card_facts.claims(list(summary["policies"])),
        "policies": card_facts.policies(every),
        "filters": card_facts.filters(manifests, [*rejects, *left_out_of(out)]),
        "rejects_known": reject_shards is not None,
        "limits": list(card_facts.limits(every, splits, manifests, found, report)),
        "report": report,
        "report_plots": report_plots,
        "paper": card_facts.PAPER,
    }


def _report_plots(out: Path, manifests: Mapping[str, Manifest]) -> list[Path]:
    there = {
        p.stem: p for p in manifests[folders.REPORT].paths(out / folders.REPORT, "") if p.suffix in (".png", ".svg")
    }
    return [there[name] for name in _REPORT_PLOTS if name in there]


def made_of(out: Path, title: str) -> str:
    """The line by which a card is known to be that of a build: the data, what went in and out of the stages, the report.

    Like the card it holds nothing that differs between two runs of the same build: no times, no digests of logs.
    """
    stages = manifests_of(out)
    dataset, report = stages.get(folders.DATASET), stages.get(folders.REPORT)
    facts = [
        VERSION,
        title_line(title),
        dataset.digest() if dataset is not None else None,
        {name: [m.counters.get(side) for side in ("in", "out", "rejected")] for name, m in stages.items()},
        {name: m.fingerprint for name, m in stages.items() if name in folders.STAGES[:4]},
        card_facts.command(out),
        [dict(report.counters), report.notes.get("gate_failures")] if report is not None else None,
    ]
    return f"<!-- made of {hashlib.sha256(canonical_json(facts).encode()).hexdigest()} -->"


def _publish(path: Path, content: bytes) -> None:
    with publish(path) as temporary:
        temporary.write_bytes(content)
    storage.send([path])


def _pictures(directory: Path) -> set[str]:
    """The pictures of this and earlier cards; others are somebody's own."""
    kept = storage.files_below(directory) or {}
    names = {f"{PICTURES}/{name}" for name in _DRAWN}
    return {name for name in names if name in kept or (directory / name).is_file()}
