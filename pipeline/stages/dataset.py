"""The dataset stage: the records of conversion and synthesis, split by group and shuffled into final shards."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.conservation import recount_dataset
from pipeline.errors import PipelineError
from pipeline.folders import INPUT_ONLY
from pipeline.leftout import reasons_in
from pipeline.manifest import Manifest, Output, Result, balance, is_shard, output_of, run_stage
from pipeline.notes import Notes
from pipeline.plan import Plan
from pipeline.selection import Selection, select
from pipeline.shards import ShuffleConfig, TableWriter, shuffle_and_split
from pipeline.tables import FILTERED, RECORDS, TOKENS

STAGE, VERSION = "dataset", 5

FILTERED_FILE = "filtered-00000.parquet"

_NOTHING_LEFT = "no record is left to make a data set of"
_ALL_MARKED = "the marks leave no record to make a data set of: see shards.marks and marks.jsonl"


def plan(inputs: Sequence[Manifest], config: ShuffleConfig, selection: Selection) -> Plan:
    """What the data set depends on. ``inputs``: of conversion and synthesis, and of the stages that leave records out."""
    marks = {} if selection.rule == "ignore" else {"marks": selection.digest()}
    return Plan(STAGE, VERSION, asdict(config), {**{m.stage: m.digest() for m in inputs}, **marks})


def dataset_stage(
    inputs: Sequence[Result],
    directory: Path,
    config: ShuffleConfig,
    fresh: bool = False,
    left_out: Sequence[Result] = (),
) -> Result:
    """Shuffles the ``records-*`` and ``tokens-*`` shards of the input stages into ``directory/{train,test}``.

    Conversations without any answer become ``directory/input_only``, records without tokens. What the stages ``left_out``
    (filters, deduplication) and the marks beside ``directory`` leave out is told in ``directory/filtered-00000.parquet``.
    Raises PipelineError.
    """
    named = {i.manifest.stage: i for i in inputs}
    stages = [result.directory for result in left_out]
    planned = plan([i.manifest for i in [*inputs, *left_out]], config, select(config.marks, directory.parent))

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        if fresh:
            notes.forget()
        for i in inputs:
            for prefix in ("records-", "tokens-", "input-only-"):
                i.fetch(prefix)
        for result in left_out:
            result.fetch("filtered-")
            result.fetch("groups-")
        selection = select(config.marks, directory.parent, stages)
        records = {name: i.manifest.paths(i.directory, "records-") for name, i in named.items()}
        tokens = [p for i in named.values() for p in i.manifest.paths(i.directory, "tokens-")]
        all_records = [p for paths in records.values() for p in paths]
        unanswered = [p for i in named.values() for p in i.manifest.paths(i.directory, "input-only-")]
        filtered = _write_filtered(directory, {**records, INPUT_ONLY: unanswered}, selection)
        left = {part: _rows(paths) - filtered[part] for part, paths in {**records, INPUT_ONLY: unanswered}.items()}
        speaking, silent = sum(left.values()) - left[INPUT_ONLY], left[INPUT_ONLY]
        if not speaking and not silent:
            raise PipelineError(_all_filtered(directory) if filtered.total() else _NOTHING_LEFT)
        metadata, name = _token_identity(tokens)
        scratch = directory / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        for path in [p for split in ("train", "test", INPUT_ONLY) for p in (directory / split).glob("*.parquet")]:
            if is_shard(path.name) and notes.finished(path) is None:
                path.unlink()
        schemas = {"records": RECORDS, name: TOKENS.with_metadata(metadata)}
        written: list[tuple[Path, int]] = []
        try:
            if speaking:
                written += shuffle_and_split(
                    {"records": all_records, name: tokens},
                    schemas,
                    scratch,
                    directory,
                    config,
                    "train",
                    notes,
                    selection,
                )
            if silent:
                whole = replace(config, test_fraction=0.0)
                written += shuffle_and_split(
                    {"records": unanswered}, schemas, scratch, directory, whole, INPUT_ONLY, notes, selection
                )
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        recount = recount_dataset(list(records.items()), directory, unanswered)
        total = _rows([*all_records, *unanswered])
        out = recount["train"] + recount["test"] + recount[INPUT_ONLY]
        balance(STAGE, total=total, out=out, filtered=filtered.total())
        counters: dict[str, Any] = {"in": total, "out": out, "rejected": 0, "filtered": filtered.total(), **recount}
        if filtered.total():
            counters["filters"] = {name: dict(c) for name, c in reasons_in([directory / FILTERED_FILE]).items()}
        if selection.rule != "ignore":
            counters["unknown_marks"] = selection.unknown([*all_records, *unanswered])
        outputs = [notes.output(path) for path, _ in written]
        if filtered.total():
            outputs.append(output_of(directory / FILTERED_FILE, directory, filtered.total()))
        return outputs, counters, {}

    notes = Notes(directory, planned.fingerprint)
    return run_stage(
        directory, planned.stage, planned.version, planned.config, planned.inputs, work, fresh, done=notes.forget
    )


def _all_filtered(directory: Path) -> str:
    """Which filters took all records, the one that took the most first."""
    took = {name: reasons.total() for name, reasons in reasons_in([directory / FILTERED_FILE]).items()}
    if set(took) == {"marks"}:
        return _ALL_MARKED
    listed = ", ".join(f"{name} took {count:,}" for name, count in sorted(took.items(), key=lambda i: -i[1]))
    return f"the filters leave no record to make a data set of ({listed}): see filters in the configuration"


def _rows(paths: Sequence[Path]) -> int:
    return sum(pq.read_metadata(path).num_rows for path in paths)


def _write_filtered(directory: Path, parts: Mapping[str, Sequence[Path]], selection: Selection) -> Counter[str]:
    """Writes what the selection leaves out, if it does anything; how many by input stage."""
    count: Counter[str] = Counter()
    path = directory / FILTERED_FILE
    path.unlink(missing_ok=True)
    if selection.all:
        return count
    with TableWriter.several({path: FILTERED}, optional={path}) as write:
        for part, paths in parts.items():
            for table in selection.filtered(paths, part):
                write(path, table)
                count[part] += table.num_rows
    return count


def _token_identity(tokens: Sequence[Path]) -> tuple[dict[bytes, bytes], str]:
    """The shared ``token_grid`` metadata and the table's name; all inputs must be of one tokenizer."""
    found = {(pq.read_schema(p).metadata or {}).get(b"token_grid"): p.name.rsplit("-", 1)[0] for p in tokens}
    if len(found) != 1:
        raise PipelineError("the input stages were tokenized differently: " + ", ".join(sorted(set(found.values()))))
    (value, name), *_ = found.items()
    if value is None:
        raise PipelineError(f"{tokens[0]} has no token_grid metadata")
    return {b"token_grid": value}, name
