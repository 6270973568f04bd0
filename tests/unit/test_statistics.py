"""Statistics against values worked out by hand, and against SciPy where the two must agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hpbench.errors import InvalidConfiguration
from hpbench.evaluation.statistics import (
    Interval,
    compare,
    estimate,
    headroom_captured,
    iqm,
    mean_of_rows,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    ranks,
)


def normal(rows: int, seeds: int, mean: float = 0.5, seed: int = 1) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(mean, 0.1, seeds) for _ in range(rows)]


def test_iqm_is_the_mean_of_the_middle_half_of_all_values() -> None:
    assert iqm(np.arange(8.0)) == 3.5
    # Sorted together: 0 1 2 3 10 20 30 40; the middle half is 2 3 10 20.
    assert iqm(np.array([0.0, 10.0, 2.0, 30.0]), np.array([40.0, 1.0, 20.0, 3.0])) == 35 / 4
    assert iqm(np.array([0.0, 1.0, 2.0, 1000.0])) == 1.5


def test_rows_count_the_same_however_many_seeds_they_have() -> None:
    assert mean_of_rows(np.zeros(100), np.ones(2)) == 0.5


def test_interval_of_one_row_is_the_one_of_scipy() -> None:
    values = normal(1, 20)[0]
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, batch=200, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert estimate([values], mean_of_rows) == Interval(float(values.mean()), expected.low, expected.high)


def test_interval_resamples_inside_rows_only() -> None:
    """Two rows without any spread inside: an unstratified bootstrap would mix them and see spread."""
    assert estimate([np.zeros(5), np.ones(5)], mean_of_rows) == Interval(0.5, 0.5, 0.5)


def test_interval_is_the_same_every_time() -> None:
    assert estimate(normal(3, 5)) == estimate(normal(3, 5))


def test_one_seed_gives_no_interval() -> None:
    interval = estimate([np.array([0.3]), np.array([0.5])])
    assert interval.estimate == 0.4
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert interval.includes_zero


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    hits = 0
    for seed in range(150):
        interval = estimate(normal(2, 20, mean=0.5, seed=seed), mean_of_rows)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.88 <= hits / 150 <= 0.99


@pytest.mark.parametrize("bad", [[], [np.array([])], [np.array([1.0, np.nan])], [np.array([1.0, np.inf])]])
def test_missing_or_infinite_results_are_errors(bad: list[np.ndarray]) -> None:
    with pytest.raises(InvalidConfiguration):
        estimate(bad)


def test_probability_of_improvement_is_the_mean_of_mann_whitney() -> None:
    first, second = normal(3, 7, 0.55, seed=2), normal(3, 9, 0.5, seed=3)
    expected = np.mean([stats.mannwhitneyu(x, y).statistic / 63 for x, y in zip(first, second, strict=True)])
    interval = probability_of_improvement(first, second)
    assert interval.estimate == pytest.approx(expected, abs=1e-12)
    assert interval.low < expected < interval.high


def test_probability_of_improvement_counts_ties_half() -> None:
    x, y = [np.array([1.0, 2.0])], [np.array([1.0, 0.0])]
    assert probability_of_improvement(x, y).estimate == (0.5 + 1 + 1 + 1) / 4
    assert probability_of_improvement(x, x).estimate == 0.5
    assert probability_of_improvement([np.ones(4)], [np.zeros(4)]) == Interval(1.0, 1.0, 1.0)


def test_comparison_counts_pairs() -> None:
    first = [np.array([1.0, 2.0, 3.0]), np.array([5.0, 5.0])]
    second = [np.array([0.0, 2.0, 4.0]), np.array([1.0, 2.0])]
    result = compare(first, second)
    assert (result.wins, result.ties, result.losses) == (3, 1, 1)
    # Rows count the same: the mean of 0 (first row) and 3.5 (second row).
    assert result.difference.estimate == 1.75
    assert result.p_value == stats.wilcoxon([1.0, -1.0, 4.0, 3.0], method="approx").pvalue


def test_wilcoxon_is_exact_where_it_can_be() -> None:
    """Five pairs, all won by different amounts: the most extreme of 2 ** 5 sign patterns, on two sides."""
    assert compare([np.array([0.1, 0.2, 0.3, 0.4, 0.5])], [np.zeros(5)]).p_value == 2 / 2**5


def test_no_difference_is_no_evidence() -> None:
    result = compare([np.ones(5)], [np.ones(5)])
    assert result.p_value == 1.0
    assert result.difference == Interval(0.0, 0.0, 0.0)


def test_pairing_removes_what_seeds_share() -> None:
    """The second is always better by the same amount, far less than what seeds differ by."""
    first = normal(2, 10)
    second = [sample + 0.01 for sample in first]
    difference = paired_difference(second, first)
    assert difference.low == pytest.approx(0.01, abs=1e-12)
    assert difference.high == pytest.approx(0.01, abs=1e-12)
    assert not difference.includes_zero
    assert estimate(first).high > estimate(second).low


def test_results_that_do_not_pair_are_an_error() -> None:
    with pytest.raises(InvalidConfiguration, match="do not pair"):
        compare([np.ones(3)], [np.ones(4)])
    with pytest.raises(InvalidConfiguration, match="2 rows"):
        probability_of_improvement([np.ones(3), np.ones(3)], [np.ones(3)])


def test_profile_is_the_share_above_each_threshold() -> None:
    profile = performance_profile(
        [np.array([0.1, 0.9]), np.array([0.5, 0.5, 0.5, 0.9])], np.array([0.0, 0.3, 0.5, 1.0])
    )
    assert profile.share.tolist() == [1.0, 0.75, 0.375, 0.0]
    assert (profile.low <= profile.share).all()
    assert (profile.share <= profile.high).all()


def test_headroom_captured() -> None:
    default = normal(2, 6, 0.4)
    tuned = [sample + 0.4 for sample in default]
    for share in (-0.5, 0.0, 0.5, 1.0):
        agent = [sample + 0.4 * share for sample in default]
        interval = headroom_captured(agent, default, tuned)
        assert interval.estimate == pytest.approx(share, abs=1e-9)
        assert interval.low == pytest.approx(share, abs=1e-9)


def test_without_headroom_nothing_can_be_captured() -> None:
    interval = headroom_captured([np.ones(3)], [np.ones(3)], [np.ones(3) + 0.01])
    assert math.isnan(interval.estimate)


def test_ranks_are_shared_where_differences_may_be_zero() -> None:
    best = normal(3, 10, 0.9)
    noise = np.random.default_rng(5)
    same = [sample + noise.normal(0, 0.05, 10) for sample in best]
    worse = [sample - 0.3 for sample in best]
    worst = [sample - 0.6 for sample in best]
    assert ranks([worst, best, worse, same]) == [4, 1, 3, 1]
    assert ranks([best]) == [1]
    assert ranks([best, best, best]) == [1, 1, 1]
