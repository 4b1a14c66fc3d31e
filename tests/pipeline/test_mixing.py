"""What is taken of each source: caps, proportions, and licences that are allowed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.filters.license import is_allowed
from pipeline.mixing import MixConfig, places, shares


def _there(**counts: int) -> dict[str, np.ndarray]:
    return {corpus: places([f"{corpus}/{i}" for i in range(n)], 0) for corpus, n in counts.items()}


def _taken(there: dict[str, np.ndarray], config: MixConfig) -> dict[str, int]:
    made = shares(there, config)
    for corpus, share in made.items():
        assert int((there[corpus].astype(object) < share.limit).sum()) == share.taken
    return {corpus: share.taken for corpus, share in made.items()}


def test_a_cap_takes_at_most_so_many_and_a_star_stands_for_the_others() -> None:
    there = _there(a=100, b=30, c=5)
    assert _taken(there, MixConfig(cap={"a": 10})) == {"a": 10, "b": 30, "c": 5}
    assert _taken(there, MixConfig(cap={"a": 50, "*": 7})) == {"a": 50, "b": 7, "c": 5}
    assert _taken(there, MixConfig(cap={"b": 0})) == {"a": 100, "b": 0, "c": 5}


def test_proportions_are_kept_by_what_is_there_of_the_scarcest() -> None:
    there = _there(a=100, b=30, c=5)
    assert _taken(there, MixConfig(weights={"a": 2, "b": 1})) == {"a": 60, "b": 30, "c": 5}
    assert _taken(there, MixConfig(weights={"a": 1, "b": 1, "*": 0})) == {"a": 30, "b": 30, "c": 0}
    assert _taken(there, MixConfig(cap={"a": 20}, weights={"a": 2, "b": 1})) == {"a": 20, "b": 10, "c": 5}
    assert _taken(there, MixConfig(weights={"nowhere": 3})) == {"a": 100, "b": 30, "c": 5}


def test_why_something_is_left_out_is_told() -> None:
    made = shares(_there(a=100, b=30), MixConfig(cap={"a": 20}, weights={"a": 1, "b": 3}))
    assert {corpus: (s.taken, s.why) for corpus, s in made.items()} == {"a": (10, "weights"), "b": (30, "cap")}


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 60), min_size=1),
    st.dictionaries(st.sampled_from("abcd*"), st.integers(0, 70)),
    st.dictionaries(st.sampled_from("abcd*"), st.floats(0, 10, allow_nan=False)),
)
def test_no_more_is_taken_than_is_there_or_than_the_cap(
    counts: dict[str, int], cap: dict[str, int], weights: dict[str, float]
) -> None:
    config = MixConfig(cap=cap, weights=weights)
    for corpus, taken in _taken(_there(**counts), config).items():
        most = cap.get(corpus, cap.get("*", counts[corpus]))
        assert 0 <= taken <= min(counts[corpus], most)


def test_the_draw_depends_on_the_seed_and_a_smaller_cap_takes_a_part_of_a_larger_one() -> None:
    ids = [f"{i:032x}" for i in range(200)]
    first, other = (set(np.argsort(places(ids, seed))[:50].tolist()) for seed in (1, 2))
    assert len(first & other) < 30
    there = {"a": places(ids, 1)}
    small, large = (shares(there, MixConfig(cap={"a": n}))["a"].limit for n in (10, 20))
    assert small < large


@pytest.mark.parametrize(
    "wrong", [{"cap": {"a": -1}}, {"weights": {"a": -1.0}}, {"weights": {"a": float("nan")}}, {"caps": {}}]
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ValidationError):
        MixConfig.model_validate(wrong)


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True), ("mit", True), ("Apache-2.0 AND MIT", True), ("CC-BY-SA-4.0 AND MIT", False),
        ("CC-BY-SA-4.0 OR MIT", True), ("(CC-BY-SA-4.0 OR MIT) AND Apache-2.0", True), ("GPL-3.0-only", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False), ("Some words of a licence", False), ("(MIT", False),
    ],
)  # fmt: skip
def test_licences_are_read_as_spdx_expressions(expression: str, allowed: bool) -> None:
    assert is_allowed(expression, ("MIT", "Apache-2.0")) is allowed
    assert is_allowed(expression, None)
    assert not is_allowed(expression, None, (expression.split()[0].strip("("), "MIT", "Apache-2.0", expression))
