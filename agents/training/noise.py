"""How noisy the labels of a collection are: what a perfect model could reach, and what its choices are really worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.training.labels import (
    KEEP_LABEL,
    Label,
    LabelRule,
    Measured,
    choose_all,
    fit_priors,
    label_measured,
    measure,
    moderate,
    paired_gains,
    shrink,
    stratum,
)

Floats = NDArray[np.float64]

SPLITS_TRIED = 10
"""Ways to divide the continuations into halves that are averaged over."""

DRAWS = 32
"""True gains that are drawn per branch set for the simulation."""

MEASUREMENTS = 128
"""Times that each of them is measured anew."""


@dataclass(frozen=True)
class Noise:
    """Of some branch sets under one rule.

    Args:
        sets: how many.
        edited: share whose label is an update.
        best_measured: mean over sets of the largest measured gain (at least 0): what the winner's curse inflates.
        best_shrunk: mean of the label's shrunk gain: what it is believed to be.
        honest: mean gain of labels made from half of the continuations, measured on the other half; no curse.
        honest_measured: the same for the largest measured gain, without shrinkage or significance.
        possible: mean gain of the update that is truly best, if the posteriors are right (simulated).
        agreement: share of sets where the labels of two halves are the same; NaN with fewer than 4 continuations.
        ceiling: accuracy of the best possible prediction of the labels, by a model that knows the true gains but not
            the luck of the measurement (simulated).
        right: share of labels that are the truly best update, or keep where nothing is materially better (simulated).
        keep_accuracy: accuracy of always keeping, against the same labels.
    """

    sets: int
    edited: float
    best_measured: float
    best_shrunk: float
    honest: float
    honest_measured: float
    possible: float
    agreement: float
    ceiling: float
    right: float
    keep_accuracy: float


def label_noise(rows: Sequence[Mapping[str, Any]], rule: LabelRule, seed: int = 0) -> Noise:
    """The noise of the labels of branch sets.

    Args:
        rows: of the table ``branches``.
        rule: how labels are made.
        seed: of the divisions into halves and of the simulation.

    Raises:
        InvalidConfiguration: if they have a single continuation.
    """
    samples, strata = [paired_gains(row, rule) for row in rows], [stratum(row) for row in rows]
    return noise_of(samples, strata, rule, seed)


def noise_of(samples: Sequence[Floats], strata: Sequence[Any], rule: LabelRule, seed: int = 0) -> Noise:
    """:func:`label_noise` of paired differences ``[K, M]``."""
    generator = np.random.default_rng(seed)
    labels = label_measured([measure(each) for each in samples], strata, rule)
    chosen = np.array([label.index for label in labels])
    agreement, honest, honest_measured = halves(samples, strata, rule, generator)
    seeds = [each.shape[1] for each in samples]
    simulated = simulate(labels, seeds, strata, rule, generator)
    return Noise(
        sets=len(samples),
        edited=float((chosen != KEEP_LABEL).mean()),
        best_measured=float(np.mean([label.measured.gains.max() for label in labels])),
        best_shrunk=float(np.mean([label.posterior.means[label.index] for label in labels])),
        honest=honest,
        honest_measured=honest_measured,
        possible=simulated.possible,
        agreement=agreement,
        ceiling=simulated.ceiling,
        right=simulated.right,
        keep_accuracy=float((chosen == KEEP_LABEL).mean()),
    )


def halves(
    samples: Sequence[Floats], strata: Sequence[Any], rule: LabelRule, generator: np.random.Generator
) -> tuple[float, float, float]:
    """Labels of one half of the continuations against the other half.

    Returns:
        Agreement of the labels; the mean gain that the other half measures for the label, and for the largest measured
        gain. NaN with fewer than 4 continuations.
    """
    seeds = min(each.shape[1] for each in samples)
    if seeds < 4:
        return np.nan, np.nan, np.nan
    agreed, honest, honest_measured = [], [], []
    for _ in range(SPLITS_TRIED):
        order = generator.permutation(seeds)
        parts = order[: seeds // 2], order[seeds // 2 : 2 * (seeds // 2)]
        made = [label_measured([measure(each[:, part]) for each in samples], strata, rule) for part in parts]
        for first, second in zip(*made, strict=True):
            agreed.append(first.index == second.index)
            for one, other in ((first, second), (second, first)):
                honest.append(other.measured.gains[one.index])
                honest_measured.append(other.measured.gains[one.measured.gains.argmax()])
    return float(np.mean(agreed)), float(np.mean(honest)), float(np.mean(honest_measured))


@dataclass(frozen=True)
class Simulated:
    """What follows if the posteriors are right; see :class:`Noise`."""

    possible: float
    ceiling: float
    right: float


def simulate(
    labels: Sequence[Label],
    seeds: Sequence[int],
    strata: Sequence[Any],
    rule: LabelRule,
    generator: np.random.Generator,
) -> Simulated:
    """Draw true gains from the posteriors, measure them anew with the noise that the measurement had, and label.

    A new measurement has new variances, too: those of as many differences as there were.
    """
    priors = fit_priors([label.measured for label in labels], strata)
    possible, predicted, right = [], [], []
    for label, count, its in zip(labels, seeds, strata, strict=True):
        updates = len(label.posterior.means)
        truths = label.posterior.means + label.posterior.deviations * generator.standard_normal((DRAWS, updates))
        shape, noise = (DRAWS, MEASUREMENTS, updates), label.measured.noise
        gains = truths[:, None] + np.sqrt(noise) * generator.standard_normal(shape)
        spread = noise * count * generator.chisquare(count - 1, shape) / (count - 1)
        found = choose_all(shrink(Measured(gains, moderate(spread, count)), priors[its]), rule)
        gain = truths.max(axis=1)
        wanted = np.where((gain >= rule.material) & (gain > 0.0), truths.argmax(axis=1), KEEP_LABEL)
        counts = (found[:, :, None] == np.arange(updates)).sum(axis=1)
        possible.append(gain.mean())
        predicted.append(counts.max(axis=1).mean() / MEASUREMENTS)
        right.append((found == wanted[:, None]).mean())
    return Simulated(float(np.mean(possible)), float(np.mean(predicted)), float(np.mean(right)))
