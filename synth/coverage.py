"""Coverage: of what a run was asked for, what came out, and whether what was to happen did happen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synth.generators import Outcome, Written
from synth.patterns import PATTERNS
from synth.samples import Sample
from synth.scenarios import Scenario

#: What is counted, with what its table is called.
DIMENSIONS: Mapping[str, str] = {
    "scenario": "Scenarios",
    "pattern": "Patterns",
    "domain": "Domains",
    "persona": "Personas",
}
#: How the domain of topics that are in none is called.
NO_DOMAIN = "(none)"


@dataclass(slots=True)
class Count:
    """Dialogues: ``asked`` for, ``accepted``, and accepted ones whose patterns are ``shown``: the pattern itself in the
    dimension pattern, all patterns of the scenario in the others. A dialogue without slices shows none."""

    asked: int = 0
    accepted: int = 0
    shown: int = 0

    @property
    def share(self) -> float:
        """Accepted among asked, 0 where nothing was asked."""
        return self.accepted / self.asked if self.asked else 0.0

    def add(self, other: Count) -> None:
        """Adds the other's dialogues."""
        self.asked += other.asked
        self.accepted += other.accepted
        self.shown += other.shown


class Coverage:
    """Counts by dimension and name. What the scenarios offer is there from the start, so that what is never drawn shows."""

    def __init__(self, scenarios: Sequence[Scenario] = ()) -> None:
        self._counts: dict[str, dict[str, Count]] = {dimension: {} for dimension in DIMENSIONS}
        for scenario in scenarios:
            domains = [domain for domain, _ in scenario.subjects()]
            personas = [(stream, line) for stream, lines in scenario.personas.items() for line in lines]
            for dimension, name, _ in _places(scenario, domains, personas):
                self._count(dimension, name)

    def add(self, sample: Sample, outcome: Outcome) -> None:
        """Books what became of a sample."""
        scene = outcome.scene if isinstance(outcome, Written) else None
        happened = {
            name: scene is not None and bool(scene.utterances) and PATTERNS[name].shown(scene)
            for name in sample.scenario.patterns
        }
        everything = scene is not None and all(happened.values())
        places = _places(sample.scenario, [sample.topic.domain], list(sample.personas.items()))
        for dimension, name, pattern in places:
            shown = everything if pattern is None else happened[pattern]
            self._count(dimension, name).add(Count(1, int(isinstance(outcome, Written)), int(shown)))

    def merge(self, other: Coverage) -> None:
        """Adds what another part of the run has counted."""
        for dimension, counts in other._counts.items():
            for name, count in counts.items():
                self._count(dimension, name).add(count)

    def count(self, dimension: str, name: str) -> Count:
        """What was counted there. Raises KeyError."""
        return self._counts[dimension][name]

    def missing(self) -> list[tuple[str, str, Count]]:
        """What was asked for and never came out, then what came out and never showed: (dimension, name, count)."""
        every = [(dimension, name, count) for dimension, name, count in self._rows() if count.asked]
        never_out = [row for row in every if not row[2].accepted]
        return never_out + [row for row in every if row[2].accepted and not row[2].shown]

    def to_json(self) -> dict[str, Any]:
        """``{dimension: {name: {"asked", "accepted", "shown", "share"}}}``, names sorted."""
        found: dict[str, Any] = {dimension: {} for dimension in DIMENSIONS}
        for dimension, name, count in self._rows():
            found[dimension][name] = {
                "asked": count.asked,
                "accepted": count.accepted,
                "shown": count.shown,
                "share": round(count.share, 4),
            }
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Coverage:
        """What ``to_json`` has told."""
        coverage = cls()
        for dimension, counts in value.items():
            for name, count in counts.items():
                coverage._count(dimension, name).add(Count(count["asked"], count["accepted"], count["shown"]))
        return coverage

    def to_markdown(self) -> str:
        """What never came out or never showed, then one table per dimension (without those that have no rows)."""
        lines: list[str] = []
        for dimension, name, count in self.missing():
            fate = "never came out" if not count.accepted else f"{count.accepted} came out, and none shows it"
            lines.append(f"- {dimension} {_cell(name)}: asked for {count.asked} times, {fate}")
        for dimension, title in DIMENSIONS.items():
            rows = [(name, count) for at, name, count in self._rows() if at == dimension]
            if not rows:
                continue
            lines += ["", f"### {title}", "", f"| {dimension} | asked | accepted | shown | share |"]
            lines.append("|---|---:|---:|---:|---:|")
            lines += [f"| {_cell(n)} | {c.asked} | {c.accepted} | {c.shown} | {c.share:.1%} |" for n, c in rows]
        return "\n".join(lines).strip() + "\n"

    def _count(self, dimension: str, name: str) -> Count:
        return self._counts[dimension].setdefault(name, Count())

    def _rows(self) -> Iterator[tuple[str, str, Count]]:
        for dimension in DIMENSIONS:
            for name, count in sorted(self._counts[dimension].items()):
                yield dimension, name, count


def _places(
    scenario: Scenario, domains: Sequence[str], personas: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, str, str | None]]:
    """Where a dialogue is counted: dimension, name, and the pattern that has to show (None: all of the scenario's)."""
    yield "scenario", scenario.name, None
    for pattern in scenario.patterns:
        yield "pattern", pattern, pattern
    for domain in dict.fromkeys(domains):
        yield "domain", domain or NO_DOMAIN, None
    for stream, line in personas:
        yield "persona", f"{stream}: {line}", None


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
