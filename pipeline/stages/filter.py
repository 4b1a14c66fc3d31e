"""The filter stage: which records the configured filters leave out or flag, shard by shard. The records stay where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import PipelineError
from pipeline.filters import Step
from pipeline.filters.talks import Talks, Verdict, read_talks
from pipeline.lanes import in_processes
from pipeline.leftout import FILTERED, FLAGGED, RECORD_SHARDS, book_of, part_of, reasons_in, record_shards, recount
from pipeline.manifest import Manifest, Output, Result, balance, run_stage
from pipeline.notes import Notes
from pipeline.plan import Plan
from pipeline.shards import TableWriter
from pipeline.tables import FILTERED as COLUMNS

STAGE, VERSION = "filter", 1

#: Characters of what a filter says of a conversation.
DETAIL_LIMIT = 300

#: So many records are judged before other processes could have started.
FEW = 5_000

#: A shard of records, and the stage's directory.
_Item = tuple[Path, Path]


def plan(inputs: Sequence[Manifest], steps: Sequence[Step]) -> Plan:
    """What filtering depends on. ``inputs``: of conversion and synthesis."""
    return Plan(STAGE, VERSION, {"filters": [s.settings() for s in steps]}, {m.stage: m.digest() for m in inputs})


def filter_stage(
    inputs: Sequence[Result],
    directory: Path,
    steps: Sequence[Step],
    workers: int = 0,
    fresh: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Result:
    """Judges the records of the input stages; writes the tables of ``pipeline.leftout``.

    The steps judge in their order; what one drops the later ones do not see. A conversation is kept or dropped with all its
    records. ``workers`` 0: a process per core. ``progress`` is told the records of each shard. Finished shards of a run that
    was cut off are kept. Raises PipelineError.
    """
    planned = plan([i.manifest for i in inputs], steps)
    notes = Notes(directory, planned.fingerprint)

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        if fresh:
            notes.forget()
        for result in inputs:
            for prefix in RECORD_SHARDS:
                result.fetch(prefix)
        shards = record_shards(inputs)
        books = {shard: [book_of(directory, shard, name) for name in (FILTERED, FLAGGED)] for shard in shards}
        todo = [s for s in shards if any(notes.finished(book) is None for book in books[s])]
        if progress:
            progress(sum(pq.read_metadata(s).num_rows for s in set(shards) - set(todo)))
        given = (tuple(steps),)
        processes = 1 if sum(pq.read_metadata(s).num_rows for s in todo) <= FEW else workers
        try:
            for (shard, _), _ in in_processes([(s, directory) for s in todo], judge_shard, prepare, given, processes):
                for book in books[shard]:
                    notes.remember(book, pq.read_metadata(book).num_rows)
                if progress:
                    progress(pq.read_metadata(shard).num_rows)
        except BrokenProcessPool as error:
            raise PipelineError(
                "a filtering process died, most likely for want of memory; finished shards are kept, "
                "run again with fewer workers"
            ) from error
        total: Counter[str] = Counter()
        for shard in shards:
            total.update(recount(shard, directory))
        taken = reasons_in([book for shard in shards for book in books[shard]])
        balance(STAGE, total=total["in"], out=total["out"], filtered=total[FILTERED])
        counters: dict[str, Any] = {name: total[name] for name in ("in", "out", FILTERED, FLAGGED)} | {"rejected": 0}
        counters["filters"] = _rates(steps, total["in"], taken)
        return [notes.output(book) for shard in shards for book in books[shard]], counters, {}

    return run_stage(
        directory, planned.stage, planned.version, planned.config, planned.inputs, work, fresh, done=notes.forget
    )


def _rates(steps: Sequence[Step], records: int, taken: Mapping[str, Counter[str]]) -> dict[str, Any]:
    """What each filter saw and took, in records, in the order of the filters."""
    rates: dict[str, Any] = {}
    for step in steps:
        reasons = taken.get(step.name, Counter())
        rates[step.name] = {
            "action": step.action,
            "seen": records,
            "taken": reasons.total(),
            "reasons": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        }
        records -= reasons.total() if step.action == "drop" else 0
    return rates


_steps: tuple[Step, ...] = ()


def prepare(steps: tuple[Step, ...]) -> None:
    """Makes this process ready for ``judge_shard``."""
    global _steps
    _steps = steps


def judge_shard(item: _Item) -> None:
    """Writes the two tables of one shard of records."""
    shard, directory = item
    filtered, flagged = (book_of(directory, shard, name) for name in (FILTERED, FLAGGED))
    with TableWriter.several({filtered: COLUMNS, flagged: COLUMNS}) as write:
        for talks in read_talks(shard):
            dropped, noted = judge(talks, _steps)
            write(filtered, _table(talks, dropped, part_of(shard)))
            write(flagged, _table(talks, noted, part_of(shard)))


#: What filters say of conversations: their number in a batch, the filter, its verdict.
Judged = list[tuple[int, str, Verdict]]


def judge(talks: Talks, steps: Sequence[Step]) -> tuple[Judged, Judged]:
    """What the steps drop of a batch, and what they flag of the rest."""
    dropped: Judged = []
    flagged: Judged = []
    numbers = list(range(len(talks)))  # of those that are left, in the whole batch
    left = talks
    for step in steps:
        verdicts = step.judge(left)
        if not verdicts:
            continue
        found = [(numbers[talk], step.name, verdict) for talk, verdict in sorted(verdicts.items())]
        if step.action == "flag":
            flagged += found
            continue
        dropped += found
        left = left.without(set(verdicts))
        numbers = [number for talk, number in enumerate(numbers) if talk not in verdicts]
    gone = {number for number, _, _ in dropped}
    return sorted(dropped, key=lambda f: f[0]), sorted((f for f in flagged if f[0] not in gone), key=lambda f: f[0])


def _table(talks: Talks, found: Judged, part: str) -> pa.Table:
    about = talks.conversations.select("conversation_id", "corpus", "ids")
    rows = []
    for talk, name, verdict in found:
        conversation, corpus, ids = about.row(talk)
        detail = verdict.detail if len(verdict.detail) <= DETAIL_LIMIT else verdict.detail[:DETAIL_LIMIT] + "…"
        rows += [(id_, conversation, corpus or "", part, name, verdict.reason, detail) for id_ in ids]
    columns = zip(*rows, strict=True) if rows else [[] for _ in COLUMNS.names]
    return pa.table(dict(zip(COLUMNS.names, map(list, columns), strict=True)), schema=COLUMNS)
