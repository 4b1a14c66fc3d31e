"""Statistics: what they count is what is there, and they do not depend on how records are batched."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from conversation_cases import QUICK, Case, call, cases, message, result, tables_of, talk, told
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import to_json
from pipeline.stats import RecordStats, Shares
from pipeline.tokenization import TextTokenizer


def rows_of(event: dict[str, Any]) -> set[int]:
    return set(range(event["start"], event["end"]))


@QUICK
@given(st.lists(cases, min_size=1, max_size=3))
def test_overlap_and_silence_are_counted_row_by_row(smollm2: TextTokenizer, batch: list[Case]) -> None:
    stats = RecordStats()
    overlap = cells = slots = rows = 0
    roles: Counter[str] = Counter()
    for case in batch:
        tables, record, _ = told(case, smollm2)
        stats.add(tables.records)
        spoken: dict[int, set[int]] = {i: set() for i in range(len(record["streams"]))}
        for event in record["events"]:
            spoken[event["stream"]] |= rows_of(event)
        for i, stream in enumerate(record["streams"]):
            roles[stream["role"]] += len(spoken[i])
        for row in range(record["rows"]):
            active = [s for i, s in enumerate(record["streams"]) if row in spoken[i]]
            overlap += len(active) > 1 and any(s["direction"] == "output" for s in active)
            cells += len(active)
        slots += record["rows"] * len(record["streams"])
        rows += record["rows"]
    summary = stats.summary()
    assert (summary["rows_with_overlap"], summary["tokens"], summary["rows"]) == (overlap, cells, rows)
    assert Counter(summary["tokens_per_role"]) == roles
    assert summary["silence_fraction"] == (round(1 - cells / slots, 4) if slots else None)
    assert summary["records"] == len(batch)


def test_rows_saved_are_against_turns_of_the_same_conversation(smollm2: TextTokenizer) -> None:
    conversation = talk(
        message("user", "Both?"),
        message("assistant", call("f", "1", "a"), call("f", "2", "b")),
        message("tool", result("one two three four five", "a")),
        message("tool", result("six", "b")),
        message("assistant", "There."),
    )
    async_, turns = (tables_of([conversation], s, smollm2).records for s in ("tools_async", "turns"))
    stats = RecordStats()
    stats.add(async_)
    summary = stats.summary()
    assert summary["rows_under_turns"] == next(to_json(turns))["rows"] > summary["rows"]
    saved = round(1 - summary["rows"] / summary["rows_under_turns"], 4)
    assert summary["rows_saved_fraction"] == {"all": saved, "median": saved, "p75": saved, "best": saved}
    assert (summary["overlapped_records"], summary["policies"]) == (1, {"tools_async": 1})


@QUICK
@given(st.lists(cases, min_size=2, max_size=4), st.integers(1, 3))
def test_merged_statistics_are_those_of_all_records(smollm2: TextTokenizer, batch: list[Case], cut: int) -> None:
    tables = [told(case, smollm2)[0].records for case in batch]
    whole, merged, second = RecordStats(), RecordStats(), RecordStats()
    for i, table in enumerate(tables):
        whole.add(table)
        (merged if i < cut else second).add(table)
    merged.merge(second)
    assert merged == whole
    assert merged.summary() == whole.summary()


@QUICK
@given(st.lists(st.floats(-5, 1), min_size=1, max_size=60), st.integers(0, 60))
def test_quantiles_of_shares_are_numpys_to_four_digits(values: list[float], cut: int) -> None:
    first, second = Shares(), Shares()
    first.add(np.array(values[:cut]))
    second.add(np.array(values[cut:]))
    first.merge(second)
    at = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert first.quantiles(at) == pytest.approx(np.quantile(values, at).tolist(), abs=1.1e-3)
    positive = [v for v in values if v >= 0]
    shares = Shares()
    shares.add(np.array(positive))
    assert shares.quantiles(at) == pytest.approx(np.quantile(positive or [0.0], at).tolist(), abs=1.1e-4)


def test_shares_take_no_more_memory_for_more_records() -> None:
    shares = Shares()
    for seed in range(20):
        shares.add(np.random.default_rng(seed).random(10_000))
    assert sum(shares.counts.values()) == 200_000
    assert len(shares.counts) <= 10_001


def test_no_records_are_no_trouble(smollm2: TextTokenizer) -> None:
    stats = RecordStats()
    stats.add(tables_of([talk(message("user", "Hi"))], "turns", smollm2).records.slice(0, 0))
    assert (stats.summary()["records"], stats.summary()["silence_fraction"]) == (0, None)


@pytest.mark.parametrize(
    ("extra", "stated"),
    [
        ('{"lang":"en-US"}', {"en": 1}),
        ('{"language":"zho_Hans"}', {"zho": 1}),
        ('{"messages":{"0":{"lang":"de"},"1":{"lang":"DE"},"2":{"lang":"ceb"}}}', {"de": 1, "ceb": 1}),
        (
            '{"messages":{"0":{"lang":"py"},"1":{"lang":"cpp"},"2":{"lang":"go"},"3":{"lang":"ts"},"4":{"lang":"js"}}}',
            {},
        ),
        ('{"lang":"xx"}', {}),
        ('{"lang":["en"]}', {}),
        ('["lang"]', {}),
        ('"lang"', {}),
        ('{"lang":"en"', {}),
        ('no json "lang"', {}),
        ('{"lang":' * 3000, {}),
    ],
)
def test_languages_are_those_that_people_speak_whatever_extra_holds(
    extra: str, stated: dict[str, int], smollm2: TextTokenizer
) -> None:
    table = tables_of([talk(message("user", "Hi"), message("assistant", "Ho"))], "turns", smollm2).records
    stats = RecordStats()
    stats.add(table.set_column(table.schema.get_field_index("extra"), table.schema.field("extra"), [[extra]]))
    assert stats.languages == stated
