"""Every corpus through ingest and conversion with auto-detection alone: counted, and at least 98 of 100 come through."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.conservation import recount_convert
from pipeline.convert import ConvertConfig
from pipeline.manifest import Result
from pipeline.stages.convert import convert_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "corpora"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CORPORA.is_dir(), reason="the folder ../shared/corpora is not here"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Result]:
    out = tmp_path_factory.mktemp("corpora")
    sources = [InputSource(path=str(folder)) for folder in sorted(CORPORA.iterdir()) if folder.is_dir()]
    assert len(sources) == 36
    ingest = ingest_stage(sources, Path(), out / "ingest", IngestConfig())
    return ingest, convert_stage(ingest, out / "convert", ConvertConfig(), workers=2)


def ledger(run: tuple[Result, Result]) -> list[dict[str, Any]]:
    paths = sorted(run[1].directory.glob("ledger-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_every_record_of_the_corpora_is_read_and_none_is_refused_by_ingest(run: tuple[Result, Result]) -> None:
    counters = run[0].manifest.counters
    assert (counters["values"], counters["joined"], counters["rejected"]) == (7619, 80, 0)
    assert "unknown" not in run[0].manifest.notes["formats"].values()


def test_at_least_98_of_100_conversations_come_through_and_the_others_have_a_reason(run: tuple[Result, Result]) -> None:
    rows = ledger(run)
    outcomes = Counter(row["outcome"] for row in rows)
    rejects = [row for path in run[1].directory.glob("rejects-*.parquet") for row in pq.read_table(path).to_pylist()]
    told = sum(row["conversations"] for row in rows)
    assert told >= 0.98 * (told + len(rejects))
    assert outcomes["rejected"] == len(rejects)
    assert all(row["code"] and row["message"] for row in rejects)
    assert recount_convert(run[0].directory, run[1].directory)["in"] == len(rows)


def test_units_are_what_their_corpora_say(run: tuple[Result, Result]) -> None:
    rows = ledger(run)
    units = Counter(row["corpus"] for row in rows)
    conversations: Counter[str] = Counter()
    for row in rows:
        conversations[row["corpus"]] += row["conversations"]
    #: A session is one unit, an article many questions, a tree as many conversations as it has leaves.
    assert (units["blocks-pi-session"], conversations["blocks-pi-session"]) == (1, 1)
    assert (units["rc-xquad"], conversations["rc-xquad"]) == (20, 592)
    assert (units["oasst-trees"], conversations["oasst-trees"]) == (60, 360)
    assert (units["agent-toolbench"], conversations["agent-toolbench"]) == (3, 3)
    assert (units["openai-bfcl-multi-turn"], conversations["openai-bfcl-multi-turn"]) == (80, 80)
    outcomes = {c: {r["outcome"] for r in rows if r["corpus"] == c} for c in units}
    assert outcomes["injection-cyberseceval"] == {"input_only"}
