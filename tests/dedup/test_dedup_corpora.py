"""What is found in real corpora, where they stand beside the project."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dedup_cases import deduplicated, rows

from pipeline.convert import ConvertConfig
from pipeline.dedup.clusters import CLUSTERS_FILE
from pipeline.leftout import FLAGGED
from pipeline.manifest import Result
from pipeline.stages.convert import convert_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "corpora"
NAMES = (
    "alpaca-fireact",
    "openai-fireact-messages",
    "openai-tau-bench-airline",
    "rc-xquad",
    "sharegpt-fastchat-dummy",
    "sharegpt-glaive-toolcall",
    "math-svamp",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The corpora with many repeats, and one without, converted."""
    if not all((CORPORA / name).is_dir() for name in NAMES):
        pytest.skip("the corpora are not beside the project")
    folder = tmp_path_factory.mktemp("corpora")
    sources = [InputSource(path=str(CORPORA / name)) for name in NAMES]
    ingest = ingest_stage(sources, folder, folder / "ingest", IngestConfig())
    return convert_stage(ingest, folder / "convert", ConvertConfig(align="turns"), max_rejected_fraction=1, workers=1)


def found(result: Result) -> dict[str, Counter[str]]:
    """The copies by corpus and kind."""
    counts: dict[str, Counter[str]] = {}
    for row in rows(result, CLUSTERS_FILE):
        if row["kind"] != "kept":
            counts.setdefault(row["corpus"], Counter())[row["kind"]] += 1
    return counts


def test_repeats_are_found_and_little_else(made: Result, tmp_path: Path) -> None:
    counts = found(deduplicated(made, tmp_path / "dedup"))
    assert counts.pop("sharegpt-glaive-toolcall") == {"exact": 21, "near": 1}  # 17 English ones, 4 Chinese
    assert counts.pop("openai-fireact-messages")["exact"] == 60  # one in itself, the others also in alpaca-fireact
    assert counts.pop("sharegpt-fastchat-dummy") == {"near": 37}
    # Other questions about the same text are none; those that are asked twice are.
    assert counts.pop("rc-xquad").total() <= 14
    assert counts == {}


@pytest.mark.parametrize(
    ("settings", "corpus", "least"),
    [
        ({"text": "output"}, "sharegpt-fastchat-dummy", 450),
        ({"text": "first_input"}, "openai-tau-bench-airline", 2),
        ({"differing": 0}, "rc-xquad", 300),
    ],
)
def test_what_is_asked_for_shows_more(
    made: Result, tmp_path: Path, settings: dict[str, Any], corpus: str, least: int
) -> None:
    result = deduplicated(made, tmp_path / "dedup", action="flag", **settings)
    flagged = Counter(row["corpus"] for row in rows(result, FLAGGED))
    assert flagged[corpus] >= least
    assert flagged["math-svamp"] <= 20
