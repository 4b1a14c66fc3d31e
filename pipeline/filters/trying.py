"""What filters would take: each alone and all in their order, with examples. Nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.filters import Step
from pipeline.filters.talks import Talks, Verdict, read_talks

#: Characters of an example's text.
EXAMPLE_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation that a filter takes. ``text``: the beginning of what the model says in it."""

    conversation_id: str
    corpus: str
    reason: str
    detail: str
    text: str


@dataclass(slots=True)
class Trial:
    """What one filter takes, in conversations. ``alone``: of all; ``seen`` and ``taken``: of what those before it leave."""

    step: Step
    alone: int = 0
    seen: int = 0
    taken: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    corpora: Counter[str] = field(default_factory=Counter)
    examples: list[Example] = field(default_factory=list)


def try_filters(
    shards: Iterable[Path], steps: Sequence[Step], examples: int = 3, progress: Callable[[int], None] | None = None
) -> list[Trial]:
    """Judges the conversations of record shards by every filter, all of them by each.

    Reasons, corpora and the first ``examples`` of each reason are of ``alone``. ``progress`` is told the records of each batch.
    """
    trials = [Trial(step) for step in steps]
    for shard in shards:
        for talks in read_talks(shard):
            gone: set[int] = set()
            for trial in trials:
                verdicts = trial.step.judge(talks)
                _note(trial, talks, verdicts, examples)
                trial.seen += len(talks) - len(gone)
                trial.taken += len(verdicts.keys() - gone)
                if trial.step.action == "drop":
                    gone |= verdicts.keys()
            if progress is not None:
                progress(talks.records.num_rows)
    return trials


def _note(trial: Trial, talks: Talks, verdicts: dict[int, Verdict], examples: int) -> None:
    trial.alone += len(verdicts)
    said: list[str] | None = None
    for talk, verdict in sorted(verdicts.items()):
        corpus = talks.conversations["corpus"][talk] or ""
        trial.reasons[verdict.reason] += 1
        trial.corpora[corpus] += 1
        if trial.reasons[verdict.reason] <= examples:
            said = said or talks.spoken()
            trial.examples.append(
                Example(
                    talks.conversations["conversation_id"][talk],
                    corpus,
                    verdict.reason,
                    verdict.detail,
                    said[talk][:EXAMPLE_LENGTH],
                )
            )
