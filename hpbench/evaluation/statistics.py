"""Statistics over few seeds and many tasks, after Agarwal et al. 2021, "Deep RL at the edge of the statistical
precipice".

Throughout, *strata* are the rows of a suite (task and track): one array of results each, one value per seed. All
intervals are percentile bootstrap intervals (``scipy.stats.bootstrap``), stratified: seeds are resampled within each
row, never across rows. They are seeded, so the same results always give the same interval. A row with a single seed
has no spread to resample: the interval is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hpbench.errors import InvalidConfiguration

Floats = NDArray[np.float64]
Strata = Sequence[Floats]
Statistic = Callable[..., Any]
"""``f(*samples, axis) -> array``: over the last axis, vectorised over the leading ones."""

CONFIDENCE = 0.95
RESAMPLES = 2000
TRIM = 0.25
SEED = 0
_BATCH = 200
"""Resamples worked on at once: bounds the memory of pairwise statistics."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; NaN bounds where none can be given."""

    estimate: float
    low: float
    high: float

    @property
    def includes_zero(self) -> bool:
        """Whether zero cannot be excluded; an interval that could not be computed excludes nothing."""
        return not (self.low > 0.0 or self.high < 0.0)


@dataclass(frozen=True)
class Comparison:
    """Two agents on the same rows and seeds.

    Args:
        difference: mean of the paired differences, first minus second, every row with equal weight.
        wins, losses, ties: pairs in which the first is better, worse, equal.
        p_value: two-sided Wilcoxon signed-rank test over all pairs that differ (``scipy.stats.wilcoxon``; exact up to
            50 pairs without tied differences, else asymptotic); 1 if no pair differs.
    """

    difference: Interval
    wins: int
    losses: int
    ties: int
    p_value: float


@dataclass(frozen=True)
class Profile:
    """A performance profile: the share of runs above each threshold, with its interval, ``[thresholds]`` each."""

    thresholds: Floats
    share: Floats
    low: Floats
    high: Floats


def iqm(*samples: Floats, axis: int = -1) -> Any:
    """Interquartile mean: the mean of the middle half of all values of all samples together."""
    return stats.trim_mean(np.concatenate(samples, axis=axis), TRIM, axis=axis)


def mean_of_rows(*samples: Floats, axis: int = -1) -> Any:
    """Mean of the row means: every row counts the same, however many seeds it has."""
    return np.mean([np.mean(sample, axis=axis) for sample in samples], axis=0)


def estimate(strata: Strata, statistic: Statistic = iqm) -> Interval:
    """``statistic`` over all rows, with its stratified bootstrap interval.

    Args:
        strata: one array ``[seeds]`` per row.

    Raises:
        InvalidConfiguration: if there is no row, or a value is not finite.
    """
    samples = _checked(strata)
    return _bootstrap(samples, lambda *s, axis: statistic(*s, axis=axis))


def paired_difference(first: Strata, second: Strata, statistic: Statistic = iqm) -> Interval:
    """``statistic(first) - statistic(second)`` where value ``i`` of both belongs to the same seed.

    Resamples draw the same seeds for both, which removes the variation that they share.

    Raises:
        InvalidConfiguration: if the two do not pair.
    """
    a, b = _checked(first), _checked(second)
    _check_paired(a, b)
    seeds = [np.arange(len(sample)) for sample in a]

    def difference(*drawn: NDArray[np.int64], axis: int) -> Any:
        drawn_a = [sample[index] for sample, index in zip(a, drawn, strict=True)]
        drawn_b = [sample[index] for sample, index in zip(b, drawn, strict=True)]
        return statistic(*drawn_a, axis=axis) - statistic(*drawn_b, axis=axis)

    return _bootstrap(seeds, difference)


def compare(first: Strata, second: Strata) -> Comparison:
    """Paired comparison by seed: mean difference, wins and losses, Wilcoxon test.

    Raises:
        InvalidConfiguration: if the two do not pair.
    """
    difference = paired_difference(first, second, mean_of_rows)
    pairs = np.concatenate([a - b for a, b in zip(first, second, strict=True)])
    p_value = _wilcoxon(pairs[pairs != 0.0])
    return Comparison(difference, int((pairs > 0).sum()), int((pairs < 0).sum()), int((pairs == 0).sum()), p_value)


def probability_of_improvement(first: Strata, second: Strata) -> Interval:
    """Probability that a run of ``first`` beats a run of ``second`` on a row drawn at random.

    Per row, the Mann-Whitney statistic ``U / (n m)``, ties counted half; then the mean over rows. Both sides are
    resampled independently within each row, as in Agarwal et al. 2021.
    """
    a, b = _checked(first), _checked(second)
    if len(a) != len(b):
        raise InvalidConfiguration(f"{len(a)} rows do not compare with {len(b)}")

    def probability(*samples: Floats, axis: int) -> Any:
        half = len(samples) // 2
        return np.mean([_superiority(x, y) for x, y in zip(samples[:half], samples[half:], strict=True)], axis=0)

    return _bootstrap([*a, *b], probability)


def performance_profile(strata: Strata, thresholds: Floats) -> Profile:
    """Share of runs above each threshold (run-score distribution), every row with equal weight.

    Args:
        thresholds: ``[thresholds]``, increasing.
    """
    samples = _checked(strata)
    above = [(sample[None, :] > thresholds[:, None]).astype(np.float64) for sample in samples]
    low, high = bootstrap_bounds(above, mean_of_rows)
    return Profile(thresholds, mean_of_rows(*above), low, high)


def headroom_captured(
    agent: Strata, default: Strata, tuned: Strata, statistic: Statistic = mean_of_rows, floor: float = 0.05
) -> Interval:
    """``(J - J_default) / (J_tuned - J_default)``: 0 is as good as the defaults, 1 as good as the tuned constant
    setting.

    All three are paired by seed and resampled together.

    Args:
        agent, default, tuned: one array ``[seeds]`` per row.
        statistic: what makes ``J`` out of the rows.
        floor: below this headroom the ratio says nothing and is NaN; so is the interval if a resample falls below.

    Raises:
        InvalidConfiguration: if the three do not pair.
    """
    sides = [_checked(side) for side in (agent, default, tuned)]
    _check_paired(sides[0], sides[1])
    _check_paired(sides[0], sides[2])
    seeds = [np.arange(len(sample)) for sample in sides[0]]

    def captured(*drawn: NDArray[np.int64], axis: int = -1) -> Any:
        j = [statistic(*(s[i] for s, i in zip(side, drawn, strict=True)), axis=axis) for side in sides]
        headroom = j[2] - j[1]
        return np.where(headroom >= floor, j[0] - j[1], np.nan) / np.where(headroom >= floor, headroom, 1.0)

    point = float(captured(*seeds))
    if math.isnan(point):
        return Interval(point, math.nan, math.nan)
    return _bootstrap(seeds, captured)


def bootstrap_bounds(samples: Strata, statistic: Statistic) -> tuple[Any, Any]:
    """Bounds of the stratified interval, of the shape of ``statistic``; seeds are the last axis of every sample."""
    if min(sample.shape[-1] for sample in samples) < 2:
        missing = np.full_like(statistic(*samples, axis=-1), np.nan)
        return missing, missing
    interval = _scipy_bootstrap(samples, statistic).confidence_interval
    return interval.low, interval.high


def ranks(agents: Sequence[Strata], statistic: Statistic = iqm) -> list[int]:
    """Places from 1, in the order of ``agents``; the higher ``statistic``, the better.

    The best agent takes the next place, and every following agent whose paired difference from it has an interval
    that includes 0 shares that place. The first one that differs opens a new place: one more than the number of
    agents before it.
    """
    values = [float(statistic(*_checked(strata), axis=-1)) for strata in agents]
    order = sorted(range(len(agents)), key=lambda i: -values[i])
    places = [0] * len(agents)
    leader = place = 0
    for position, i in enumerate(order):
        if position == 0 or not paired_difference(agents[leader], agents[i], statistic).includes_zero:
            leader, place = i, position + 1
        places[i] = place
    return places


def _wilcoxon(differences: Floats) -> float:
    if not len(differences):
        return 1.0
    # The exact distribution is of ranks without ties; SciPy's own fallback for ties, all permutations, takes seconds.
    tied = len(np.unique(np.abs(differences))) < len(differences)
    method: Literal["exact", "approx"] = "approx" if tied or len(differences) > 50 else "exact"
    return float(stats.wilcoxon(differences, method=method).pvalue)


def _superiority(x: Floats, y: Floats) -> Any:
    """Share of pairs with ``x > y``, ties half: over the last axes, vectorised over the leading ones."""
    left, right = x[..., :, None], y[..., None, :]
    return np.mean((left > right) + 0.5 * (left == right), axis=(-2, -1))


def _bootstrap(samples: Sequence[NDArray[Any]], statistic: Statistic) -> Interval:
    point = float(statistic(*samples, axis=-1))
    low, high = bootstrap_bounds(samples, statistic)
    return Interval(point, float(low), float(high))


def _scipy_bootstrap(samples: Sequence[NDArray[Any]], statistic: Statistic) -> Any:
    return stats.bootstrap(
        tuple(samples),
        statistic,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )


def _checked(strata: Strata) -> list[Floats]:
    samples = [np.asarray(sample, dtype=np.float64) for sample in strata]
    if not samples or any(sample.ndim != 1 or not len(sample) for sample in samples):
        raise InvalidConfiguration("There must be at least one row, and at least one seed in every row")
    if not all(np.isfinite(sample).all() for sample in samples):
        raise InvalidConfiguration("Results must be finite")
    return samples


def _check_paired(a: Strata, b: Strata) -> None:
    if [len(sample) for sample in a] != [len(sample) for sample in b]:
        raise InvalidConfiguration("Results do not pair: they have different rows or seeds")
