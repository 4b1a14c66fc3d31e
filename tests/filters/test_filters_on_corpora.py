"""What the filters of text quality take of real corpora, by default: next to nothing, and what they should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.convert import ConvertConfig
from pipeline.filters import FILTERS
from pipeline.filters.talks import read_talks
from pipeline.leftout import record_shards
from pipeline.stages.convert import convert_stage
from pipeline.stages.ingest import IngestConfig, InputSource, ingest_stage

CORPORA = Path(__file__).resolve().parents[3] / "shared" / "corpora"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CORPORA.is_dir(), reason="the folder ../shared/corpora is not here"),
]

#: Conversations that are taken, by filter, corpus and reason; all of them were read. Elsewhere: none.
TAKEN: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "length": {},
    "truncated": {
        "blocks-agent-sessions": {"interrupted": 1},
        "think-marco-o1": {"interrupted": 2},
        "think-skythought-math": {"interrupted": 28},
    },
    "repetition": {"think-skythought-math": {"endless_loop": 10, "repeated_paragraphs": 1}},
    "quality": {},
    "balance": {},
    "boilerplate": {
        "oasst-trees": {"assistant_talk": 7, "refusal": 1},
        "sharegpt-glaive-toolcall": {"refusal": 1},
        "think-star1": {"refusal": 6},
    },
}

#: By how much a change of a converter may move a count.
SLACK = 2


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Counter[str]]]:
    """By filter and corpus, what it takes, by reason; ``seen`` has the conversations of each corpus."""
    out = tmp_path_factory.mktemp("corpora")
    sources = [InputSource(path=str(folder)) for folder in sorted(CORPORA.iterdir()) if folder.is_dir()]
    ingest = ingest_stage(sources, Path(), out / "ingest", IngestConfig())
    converted = convert_stage(ingest, out / "convert", ConvertConfig(align="turns"), workers=1)
    found: dict[str, dict[str, Counter[str]]] = {name: {} for name in ("seen", *TAKEN)}
    for talks in (t for shard in record_shards([converted]) for t in read_talks(shard)):
        corpora = talks.conversations["corpus"].to_list()
        for corpus in corpora:
            found["seen"].setdefault(corpus, Counter())["seen"] += 1
        for name in TAKEN:
            for talk, verdict in FILTERS[name].judge(talks, FILTERS[name].Params()).items():
                found[name].setdefault(corpora[talk], Counter())[verdict.reason] += 1
    return found


@pytest.mark.parametrize("name", TAKEN)
def test_a_filter_takes_what_was_read_and_nothing_of_clean_corpora(
    name: str, taken: dict[str, dict[str, Counter[str]]]
) -> None:
    assert len(taken["seen"]) == 36
    assert sum(c.total() for c in taken["seen"].values()) > 6800
    assert set(taken[name]) == set(TAKEN[name])
    for corpus, reasons in TAKEN[name].items():
        assert set(taken[name][corpus]) == set(reasons)
        for reason, count in reasons.items():
            assert abs(taken[name][corpus][reason] - count) <= SLACK
