from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from pipeline.evaluation.compare import Loss, difference, losses, turn_taking
from pipeline.evaluation.heldout import HeldOut, RecordSums, _Sums, summed
from pipeline.evaluation.intervals import (
    Bootstrap,
    Estimate,
    _levels,
    f1,
    group_sums,
    ratio,
    ratio_difference,
    share,
    student_quantile,
)
from pipeline.training.packing import PackCounters


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(300):
        tokens = rng.integers(10, 60, 40).astype(float)
        nats = tokens * rng.normal(2.0, 0.6, 40)
        found = Bootstrap(600, seed=seed).estimate(np.stack([nats, tokens], axis=-1), ratio)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered.append(found.low <= 2.0 <= found.high)
    assert 0.90 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("groups", [5, 8, 15])
def test_few_groups_keep_the_promise_and_seldom_show_an_effect_that_is_not_there(groups: int) -> None:
    rng = np.random.default_rng(groups)
    covered, below = [], []
    for seed in range(300):
        cells = rng.integers(50, 300, groups)
        base = rng.normal(2.5, 0.3, groups)
        changed = base + rng.normal(0.0, 0.1, groups)
        sums = np.stack([changed * cells, cells, base * cells, cells], axis=-1)
        found = Bootstrap(600, seed=seed).estimate(sums, ratio_difference)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered.append(found.low <= 0.0 <= found.high)
        below.append(found.high < 0.0)
    assert np.mean(covered) >= 0.92
    assert np.mean(below) <= 0.05


def test_fewer_than_five_telling_groups_have_no_interval() -> None:
    sums = np.array([[4.0, 2.0], [5.0, 2.0], [6.0, 2.0], [7.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    assert Bootstrap().estimate(sums, ratio) == Estimate(2.75, telling=4)
    found = Bootstrap().estimate(np.concatenate([sums, [[8.0, 2.0]]]), ratio)
    assert found is not None
    assert found.telling == 5
    assert (found.low or 0) < found.value < (found.high or 0)


def test_quantiles_of_student_are_scipys() -> None:
    for freedom in (1, 2, 3, 4, 7, 30, 999):
        for level in (0.5, 0.9, 0.975, 0.9995):
            assert student_quantile(level, freedom) == pytest.approx(scipy.stats.t.ppf(level, freedom), abs=1e-9)
    assert student_quantile(0.975, 1000) == pytest.approx(scipy.stats.t.ppf(0.975, 1000), rel=2e-3)


def test_a_share_has_wilsons_interval_over_as_many_records_as_its_groups_are_worth() -> None:
    for yes, count in ((0, 8), (3, 8), (2, 2), (1, 1)):
        found = share([str(i) for i in range(count)], [i < yes for i in range(count)], 0.95)
        theirs = scipy.stats.binomtest(yes, count).proportion_ci(0.95, method="wilson")
        assert found is not None
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
        assert (found.value, found.telling) == (yes / count, count)
    assert share([], [], 0.95) is None
    together, apart = share(list("aaaabbbb"), [True] * 8, 0.95), share(list("ab"), [True] * 2, 0.95)
    assert together == apart


def test_the_levels_are_those_of_scipys_bca_interval() -> None:
    rng = np.random.default_rng(1)
    sums = np.stack([rng.gamma(2, 30, 30), rng.integers(10, 40, 30)], axis=-1)
    drawn = ratio(Bootstrap(20_000)._draws(sums[:, None]))[:, 0]
    left_out = ratio(sums.sum(axis=0) - sums)
    levels = _levels(float(ratio(sums.sum(axis=0))), drawn, left_out.mean() - left_out, 1.959964)
    found = Bootstrap(20_000).estimate(sums, ratio)

    def statistic(nats: Any, tokens: Any, axis: int) -> Any:
        return nats.sum(axis) / tokens.sum(axis)

    theirs = scipy.stats.bootstrap(
        (sums[:, 0], sums[:, 1]), statistic, paired=True, vectorized=True, n_resamples=20_000, rng=0
    ).confidence_interval
    assert found is not None
    np.testing.assert_allclose(np.quantile(drawn, levels), [theirs.low, theirs.high], rtol=0.015)
    assert (found.low or 0) < theirs.low < theirs.high < (found.high or 0)


def test_pairing_takes_out_what_both_models_find_hard() -> None:
    """Records differ by nats, the models by 0.1: only the paired interval sees it."""
    rng = np.random.default_rng(2)
    hard = rng.normal(3.0, 1.0, 60)
    one, other = (np.stack([hard + shift + rng.normal(0, 0.05, 60), np.ones(60)], axis=-1) for shift in (0.0, 0.1))
    paired = Bootstrap().estimate(np.concatenate([one, other], axis=-1), ratio_difference)
    mixed = Bootstrap().estimate(np.concatenate([one, rng.permutation(other)], axis=-1), ratio_difference)
    assert paired is not None
    assert mixed is not None
    assert -0.13 < (paired.low or 0) < (paired.high or 0) < -0.07
    assert (mixed.high or 0) - (mixed.low or 0) > 5 * ((paired.high or 0) - (paired.low or 0))


def test_records_of_a_group_are_drawn_together() -> None:
    rng = np.random.default_rng(3)
    values = np.repeat(rng.normal(2, 1, 10), 20)[:, None] * [1.0, 0.0] + [0.0, 1.0]
    alone = Bootstrap().estimate(group_sums([str(i) for i in range(200)], values), ratio)
    together = Bootstrap().estimate(group_sums([str(i // 20) for i in range(200)], values), ratio)
    assert alone is not None
    assert together is not None
    assert alone.value == pytest.approx(together.value)
    assert (together.high or 0) - (together.low or 0) > 3 * ((alone.high or 0) - (alone.low or 0))


def test_the_seed_decides_and_many_groups_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(4).uniform(1, 2, (50, 2))
    once, again, other = (Bootstrap(200, seed=seed).estimate(sums, ratio) for seed in (0, 0, 1))
    assert once == again != other
    monkeypatch.setattr("pipeline.evaluation.intervals._HELD", 60)
    parts = Bootstrap(200).estimate(sums, ratio)
    assert parts is not None
    assert parts.low == pytest.approx(once.low if once else None, rel=0.1)


def test_what_is_not_defined_has_no_value_and_one_group_no_interval() -> None:
    assert Bootstrap().estimate(np.zeros((3, 2)), ratio) is None
    assert Bootstrap().estimate(np.zeros((0, 2)), ratio) is None
    assert Bootstrap().estimate(np.array([[4.0, 2.0]]), ratio) == Estimate(2.0, telling=1)
    assert Bootstrap().estimate(np.array([[4.0, 2.0], [0.0, 0.0], [0.0, 0.0]]), ratio) == Estimate(2.0, telling=1)
    broken = Bootstrap().estimate(np.array([[math.nan, 2.0], [1.0, 2.0]]), ratio)
    assert broken is not None
    assert math.isnan(broken.value)
    assert broken.low is None
    same = Bootstrap().estimate(np.array([[4.0, 2.0]] * 5), ratio)
    assert same == Estimate(2.0, 2.0, 2.0, 5)


def test_f1_of_sums() -> None:
    assert float(f1(np.array([6.0, 2.0, 4.0]))) == pytest.approx(2 * 6 / (2 * 6 + 2 + 4))


def held(ids: str, groups: str, nats: list[float], tokens: int = 10) -> HeldOut:
    """Records of one letter each; ``nats`` of text per record on the role ``assistant``, over ``tokens`` tokens."""
    count = len(ids)
    cells = np.zeros((count, 1, 2), np.int64)
    cells[:, 0] = [tokens, 5]
    spent = np.zeros((count, 1, 2))
    spent[:, 0, 0], spent[:, 0, 1] = nats, 1.0
    decisions = np.tile(np.array([[[3, 1], [1, 0]], [[2, 0], [0, 4]]]), (count, 1, 1, 1))
    sums = RecordSums(tuple(ids), tuple(groups), ("assistant",), cells, spent, decisions)
    return summed(sums, PackCounters(records=count))


def test_differences_are_over_the_records_that_both_have() -> None:
    spent = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    first, other = held("abcdef", "uvwxyz", spent), held("fedcba", "zyxwvu", [each + 10 for each in spent[::-1]])
    shorter = held("edcba", "yxwvu", [each + 10 for each in spent[-2::-1]])
    whole, part = (difference(first, each, Bootstrap(200)) for each in (other, shorter))
    assert (whole.records, whole.groups, part.records) == (6, 6, 5)
    for each in (whole, part):
        assert each.text is not None
        assert [each.text.value, each.text.low, each.text.high] == pytest.approx([-1.0] * 3)
    assert whole.streams["assistant"].silence == Estimate(0.0, 0.0, 0.0, 6)


def test_a_model_that_could_take_no_record_leaves_nothing_to_compare() -> None:
    first = held("abc", "xyz", [10.0, 20.0, 30.0])
    none = summed(_Sums(1).finished(("assistant",)), PackCounters(records=3, over_budget=3))
    found = difference(first, none, Bootstrap(200))
    assert (found.records, found.groups, found.text) == (0, 0, None)
    assert losses(none, Bootstrap(200)) == {"all": Loss(None, None)}
    assert difference(none, first, Bootstrap(200)).text is None


def test_losses_and_turn_taking_are_those_of_the_totals() -> None:
    model = held("abcdef", "xxyzvw", [10.0, 20.0, 30.0, 90.0, 40.0, 20.0])
    found = losses(model, Bootstrap(200))
    assert found["all"].text == found["assistant"].text
    assert found["all"].text is not None
    assert found["all"].text.value == pytest.approx(model.total.text_loss or 0)
    assert (found["all"].text.low or 0) < found["all"].text.value < (found["all"].text.high or 0)
    decided = turn_taking(model, Bootstrap(200))
    for key, counts in (("all", model.turn_taking), ("onset", model.onset)):
        assert decided[key].speak is not None
        assert decided[key].speak.value == pytest.approx(counts.speak_f1 or 0)
        assert decided[key].silence is not None
        assert decided[key].silence.value == pytest.approx(counts.silence_f1 or 0)
