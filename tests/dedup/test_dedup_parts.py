"""Words, shingles, signatures, bands, the order of copies."""

from __future__ import annotations

import unicodedata

import numpy as np
import polars as pl
import pytest
import regex
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedup.candidates import BEST, _pairs, split_pairs
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.copies import _first_of_equals, jaccard
from pipeline.dedup.minhash import RECALL, SEED, _mixed, band_keys, bands_of, estimated, signatures
from pipeline.dedup.order import LICENSES, OTHER, UNKNOWN, license_rank, licenses_rank, place_ranks
from pipeline.dedup.words import distinct, normalized, shingles_of

UNSPACED = "".join(
    rf"\p{{Script={n}}}" for n in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
)
WORD = regex.compile(rf"[{UNSPACED}]\p{{M}}*|[[\w\p{{M}}]--[{UNSPACED}]]+", regex.VERSION1)
QUICK = settings(max_examples=60, deadline=None, derandomize=True)
TEXTS = st.lists(
    st.sampled_from(
        ("one", "Two", "three,", "你好", "世界。", "สวัสดี", "ﬁ", "４", "مرحبا", "e\u0301", "--", "\n", "a_b", "🙂")
    ),
    max_size=12,
).map(" ".join)


def plain(text: str, size: int) -> set[tuple[str, ...]]:
    """The shingles of a text, slowly."""
    words = WORD.findall(unicodedata.normalize("NFKC", text).lower())
    return {tuple(words[i : i + size]) for i in range(max(len(words) - size + 1, 1))} if words else set()


@QUICK
@given(st.lists(TEXTS, min_size=1, max_size=6), st.integers(1, 6))
def test_shingles_are_the_words_in_a_row_of_each_text(texts: list[str], size: int) -> None:
    flat, counts = shingles_of(pl.Series(texts, dtype=pl.String), size)
    found = np.split(flat, np.cumsum(counts)[:-1])
    wanted = [plain(text, size) for text in texts]
    assert counts.tolist() == [len(w) for w in wanted]
    for one, a in zip(found, wanted, strict=True):
        for other, b in zip(found, wanted, strict=True):
            assert len(np.intersect1d(one, other)) == len(a & b)
            assert jaccard(one, other) == pytest.approx(len(a & b) / len(a | b) if a | b else 1)


def test_shingles_do_not_depend_on_what_is_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pl.Series(["a b c d e f", "", "你好世界你好", "x " * 500, "…"], dtype=pl.String)
    whole = shingles_of(texts, 3)
    monkeypatch.setattr("pipeline.dedup.words.CHARACTERS", 4)
    pieces = shingles_of(texts, 3)
    assert whole[0].tolist() == pieces[0].tolist()
    assert whole[1].tolist() == pieces[1].tolist() == [4, 0, 4, 1, 0]


@pytest.mark.parametrize(
    ("how", "same"),
    [("none", set()), ("spaces", {" A\tb\u00e9 ", "A be\u0301"}), ("letters", {" A\tb\u00e9 ", "A be\u0301", "ａ BÉ"})],
)
def test_what_may_differ_between_exact_copies(how: str, same: set[str]) -> None:
    texts = ["A b\u00e9", " A\tb\u00e9 ", "A be\u0301", "ａ BÉ", "A bé2", "A b\u00e9\u00b2"]
    folded = normalized(pl.Series(texts), DedupConfig(normalize=how).normalize).to_list()  # type: ignore[arg-type]
    assert {t for t, f in zip(texts[1:], folded[1:], strict=True) if f == folded[0]} == same


@QUICK
@given(st.lists(st.sets(st.integers(0, 2**32 - 1), max_size=40), min_size=1, max_size=8))
def test_signatures_are_those_of_datasketch(sets: list[set[int]]) -> None:
    flat = np.array([v for s in sets for v in sorted(s)], np.uint32)
    signed = signatures(flat, np.array([len(s) for s in sets]), 32)
    for row, values in zip(signed, sets, strict=True):
        reference = MinHash(32, seed=SEED, hashfunc=int)
        reference.update_batch(values)
        assert row.tolist() == reference.hashvalues.tolist()


def test_signatures_do_not_depend_on_how_many_are_made_together(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(0)
    counts = dice.integers(0, 50, 40)
    flat = dice.integers(0, 2**32, counts.sum(), dtype=np.uint32)
    whole = signatures(flat, counts, 16)
    monkeypatch.setattr("pipeline.dedup.minhash._HASHES", 7)
    assert (signatures(flat, counts, 16) == whole).all()


def test_mixing_loses_nothing() -> None:
    values = np.arange(1 << 16, dtype=np.uint32) * np.uint32(65521)
    assert len(np.unique(_mixed(values))) == len(values)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("permutations", [16, 128, 256])
def test_bands_are_as_long_as_recall_allows(threshold: float, permutations: int) -> None:
    bands, rows = bands_of(threshold, permutations)
    assert bands * rows <= permutations
    if rows > 1:
        assert 1 - (1 - threshold**rows) ** bands >= RECALL
    if rows < permutations:
        longer = rows + 1
        assert 1 - (1 - threshold**longer) ** (permutations // longer) < RECALL


def test_pairs_at_the_threshold_meet_in_a_band_and_are_estimated_right() -> None:
    dice = np.random.default_rng(1)
    left, right = [], []
    for _ in range(400):
        values = dice.choice(2**32, 240, replace=False).astype(np.uint32)
        left.append(np.sort(values[:216]))
        right.append(np.sort(values[24:]))  # 192 of 240 in common: 0.8
    counts = np.full(400, 216)
    one, other = (signatures(np.concatenate(side), counts, 128) for side in (left, right))
    assert abs(estimated(one, other).mean() - 0.8) < 0.01
    bands, rows = bands_of(0.8, 128)
    meet = (band_keys(one, bands, rows) == band_keys(other, bands, rows)).any(axis=1)
    assert meet.mean() >= 0.98


def test_equal_bands_at_other_places_do_not_meet() -> None:
    keys = band_keys(np.full((1, 12), 7, np.uint32), 3, 4)
    assert len(set(keys[0].tolist())) == 3


def test_a_large_set_is_compared_with_its_best_only() -> None:
    members = np.arange(BEST + 50, dtype=np.uint32)
    found = list(_pairs(np.full(len(members), 5, np.uint64), members))
    first, second = split_pairs(np.concatenate([pairs for pairs, _ in found]))
    assert sum(large for _, large in found) == 1
    assert (first < second).all()
    assert set(first.tolist()) == set(range(BEST))
    assert set(second.tolist()) == set(range(1, BEST + 50))
    assert len(first) == sum(len(members) - i - 1 for i in range(BEST))


@QUICK
@given(st.lists(st.integers(0, 4), max_size=30))
def test_the_first_of_equal_rows_stands_for_them_and_zeros_are_equal_to_none(values: list[int]) -> None:
    rows = np.array([[v, v * 7] for v in values], np.uint64).reshape(-1, 2)
    wanted = [values.index(v) if v else i for i, v in enumerate(values)]
    assert _first_of_equals(rows).tolist() == wanted


@QUICK
@given(st.lists(st.integers(0, 2**32 - 1)))
def test_distinct_values_ascend(values: list[int]) -> None:
    assert distinct(np.array(values, np.uint32)).tolist() == sorted(set(values))


@pytest.mark.parametrize(
    ("expression", "rank"),
    [
        ("CC0-1.0", 0), ("MIT-0", 0), ("MIT", 1), ("Apache-2.0", 1), ("CC-BY-4.0", 1), ("LGPL-3.0-only", 2),
        ("GPL-3.0-or-later", 3), ("CC-BY-SA-4.0", 3), ("CC-BY-NC-4.0", 4), ("CC-BY-NC-SA-4.0", 4),
        ("Proprietary-1", OTHER), ("llama2", OTHER),
        (None, UNKNOWN), ("", UNKNOWN), ("NOASSERTION", UNKNOWN), ("CC-BY-SA-4.0 AND MIT", 3), ("GPL-2.0-only OR MIT", 1),
        ("(MIT OR GPL-3.0-only) AND CC-BY-NC-4.0", 4), ("see the file, please", OTHER),
    ],
)  # fmt: skip
def test_the_freer_licence_comes_first(expression: str | None, rank: int) -> None:
    assert license_rank(expression) == rank
    assert rank <= len(LICENSES) + 1


def test_a_conversation_has_the_strictest_licence_of_its_sources() -> None:
    assert licenses_rank(["MIT", "CC-BY-SA-4.0"]) == 3
    assert licenses_rank(["MIT", None]) == UNKNOWN
    assert licenses_rank([]) == UNKNOWN


def test_sources_come_in_their_order_then_by_name_then_by_path() -> None:
    places = [("b", "x"), ("a", "z"), ("c", "a"), ("a", "y"), ("d", "q")]
    assert place_ranks(places, ("c", "a")) == [3, 2, 0, 1, 4]
