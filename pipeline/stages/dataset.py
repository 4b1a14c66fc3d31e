"""The dataset stage: the records of conversion and synthesis, split by group and shuffled into final shards."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.conservation import recount_dataset
from pipeline.errors import PipelineError
from pipeline.folders import INPUT_ONLY
from pipeline.manifest import Manifest, Output, Result, is_shard, output_of, run_stage
from pipeline.plan import Plan
from pipeline.shards import ShuffleConfig, shuffle_and_split
from pipeline.tables import RECORDS, TOKENS

STAGE, VERSION = "dataset", 3


def plan(inputs: Sequence[Manifest], config: ShuffleConfig) -> Plan:
    """What the data set depends on. ``inputs``: of conversion and synthesis."""
    return Plan(STAGE, VERSION, asdict(config), {manifest.stage: manifest.digest() for manifest in inputs})


def dataset_stage(inputs: Sequence[Result], directory: Path, config: ShuffleConfig, fresh: bool = False) -> Result:
    """Shuffles the ``records-*`` and ``tokens-*`` shards of the input stages into ``directory/{train,test}``.

    Conversations without any answer become ``directory/input_only``, records without tokens. Raises PipelineError.
    """
    named = {i.manifest.stage: i for i in inputs}
    planned = plan([i.manifest for i in inputs], config)

    def work() -> tuple[list[Output], Mapping[str, Any], Mapping[str, Any]]:
        for i in inputs:
            for prefix in ("records-", "tokens-", "input-only-"):
                i.fetch(prefix)
        records = {name: i.manifest.paths(i.directory, "records-") for name, i in named.items()}
        tokens = [p for i in named.values() for p in i.manifest.paths(i.directory, "tokens-")]
        all_records = [p for paths in records.values() for p in paths]
        unanswered = [p for i in named.values() for p in i.manifest.paths(i.directory, "input-only-")]
        speaking = sum(pq.read_metadata(p).num_rows for p in all_records)
        if not speaking and not unanswered:
            raise PipelineError("no record is left to make a data set of")
        metadata, name = _token_identity(tokens)
        scratch = directory / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        for path in [p for split in ("train", "test", INPUT_ONLY) for p in (directory / split).glob("*.parquet")]:
            if is_shard(path.name):
                path.unlink()
        schemas = {"records": RECORDS, name: TOKENS.with_metadata(metadata)}
        written: list[tuple[Path, int]] = []
        try:
            if speaking:
                written += shuffle_and_split(
                    {"records": all_records, name: tokens}, schemas, scratch, directory, config
                )
            if unanswered:
                whole = replace(config, test_fraction=0.0)
                written += shuffle_and_split({"records": unanswered}, schemas, scratch, directory, whole, INPUT_ONLY)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        recount = recount_dataset(list(records.items()), directory, unanswered)
        total = sum(count for side, count in recount.items() if side.startswith("in_")) + recount[INPUT_ONLY]
        out = recount["train"] + recount["test"] + recount[INPUT_ONLY]
        counters = {"in": total, "out": out, "rejected": 0, **recount}
        return [output_of(path, directory, rows) for path, rows in written], counters, {}

    return run_stage(directory, planned.stage, planned.version, planned.config, planned.inputs, work, fresh)


def _token_identity(tokens: Sequence[Path]) -> tuple[dict[bytes, bytes], str]:
    """The shared ``token_grid`` metadata and the table's name; all inputs must be of one tokenizer."""
    found = {(pq.read_schema(p).metadata or {}).get(b"token_grid"): p.name.rsplit("-", 1)[0] for p in tokens}
    if len(found) != 1:
        raise PipelineError("the input stages were tokenized differently: " + ", ".join(sorted(set(found.values()))))
    (value, name), *_ = found.items()
    if value is None:
        raise PipelineError(f"{tokens[0]} has no token_grid metadata")
    return {b"token_grid": value}, name
