"""What a run came to, for people: totals, reasons, what never came out, latencies, the judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.manifest import Manifest, Result
from synth.coverage import Coverage

#: Lines on what was asked for and never came out.
_SHOWN = 12


def summary(manifest: Manifest) -> list[str]:
    """The totals of a run, a line each."""
    c, notes = manifest.counters, manifest.notes
    lines = [
        f"acceptance {c['acceptance']:.1%}, {c['completion_tokens']:,} tokens written in {c['requests']:,} requests, "
        f"{_speed(c['tokens_per_second'])}, {c['prefix_hit_rate']:.0%} of prompt tokens kept from before"
    ]
    engine = notes.get("engine", {})
    if kept := engine.get("from_cache"):
        lines.append(f"{kept:,} answers were there from before, {engine.get('asked', 0):,} were asked for")
    if again := notes.get("resumable"):
        lines.append(f"{again:,} dialogues were refused or given up by the engine: run again to ask for them once more")
    lines.extend(_latencies(notes.get("latency", {})))
    distinct = notes.get("diversity", {}).get("distinct", {})
    if shares := ", ".join(f"distinct-{n} {share:.2f}" for n, share in distinct.items() if share is not None):
        lines.append(f"{shares} (different n-grams of words over all that was accepted)")
    if judge := notes.get("judge"):
        lines.append(f"judged {judge['requests']:,} dialogues: {judge['completion_tokens']:,} tokens")
    return lines


def missing(manifest: Manifest) -> list[str]:
    """Patterns and domains that were asked for and never came out, a line each, the first dozen."""
    coverage = Coverage.from_json(manifest.notes.get("coverage", {}))
    lines = []
    for dimension, name, count in coverage.missing():
        if dimension in ("pattern", "domain"):
            fate = "none accepted" if not count.accepted else f"{count.accepted} accepted, none shows it"
            lines.append(f"{dimension} {name}: asked for {count.asked} times, {fate}")
    return lines[:_SHOWN]


def report_of(result: Result) -> str:
    """The totals, the reasons of rejects and the coverage as Markdown."""
    c = result.manifest.counters
    lines = [f"{c['in']:,} asked for, {c['out']:,} accepted, {c['rejected']:,} rejected.", ""]
    lines += [f"- {line}" for line in summary(result.manifest)]
    lines += ["", "| rejected because | dialogues |", "|---|---:|"]
    reasons = sorted(c["reject_reasons"].items(), key=lambda item: (-item[1], item[0]))
    lines += [f"| {code} | {count:,} |" for code, count in reasons]
    coverage = result.manifest.notes.get("coverage")
    return "\n".join(lines) + "\n" + (f"\n{Coverage.from_json(coverage).to_markdown()}" if coverage else "")


def _speed(tokens_per_second: float | None) -> str:
    return "nothing asked anew" if tokens_per_second is None else f"{tokens_per_second} tokens/s"


def _latencies(latency: dict[str, Any]) -> Iterator[str]:
    for key, against in (("saved", "the original"), ("saved_against_own_turns", "its own turns")):
        if quartiles := latency.get(key):
            low, middle, high = quartiles
            yield f"response latency saved against {against}: median {middle:.1%} ({low:.1%} to {high:.1%})"
