"""Which update a branch set speaks for, with the winner's curse taken out.

The best of K measured gains is an overestimate, even if each of them is unbiased: it was chosen for its luck as well.
So gains are *shrunk* before they are compared. With the gain of update ``k`` over the no-op measured as ``g``, the mean
of M paired differences with sampling variance ``v``, and the true gains of such updates distributed with mean ``m`` and
variance ``t``, the expectation of the true gain is

    m + (g - m) * t / (t + v)

(empirical Bayes: Efron and Morris, "Stein's estimation rule and its competitors", JASA 1973; that such estimates need
no further correction for selection: Efron, "Tweedie's formula and selection bias", JASA 2011). ``m`` and ``t`` are
estimated by moments from all branch sets of a task and learner. The variances ``v`` are themselves estimates from few
differences, so each is drawn towards the mean of its branch set, weighted by degrees of freedom, as in the moderated
t-statistic (Smyth, "Linear models and empirical Bayes methods ...", SAGMB 2004; the prior's degrees are a constant
here).

The label is the update with the largest shrunk gain, if that is larger than chance and large enough to matter;
otherwise: keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from hpbench.errors import InvalidConfiguration

Floats = NDArray[np.float64]

PRIOR_DEGREES = 4.0
"""Weight of a branch set's mean variance against each update's own, in degrees of freedom."""

ENOUGH = 20
"""Branch sets that a prior takes. Tasks with fewer use the prior of all sets together."""

KEEP_LABEL = 0
"""Index of the update that keeps everything."""


@dataclass(frozen=True)
class LabelRule:
    """How gains become labels.

    Args:
        horizon: segments that count; the gain is the mean over them. Fewer where fewer were left.
        confidence: posterior probability that the gain is positive, from which on an update is preferred to keeping.
        material: smallest shrunk gain that is worth an update, in normalised score.
        source: which scores: of the ``evaluation`` episodes, of the ``training`` episodes, or ``both``, their mean.

    Raises:
        InvalidConfiguration: for values out of range.
    """

    horizon: int = 3
    confidence: float = 0.8
    material: float = 0.005
    source: Literal["evaluation", "training", "both"] = "evaluation"

    def __post_init__(self) -> None:
        if self.horizon < 1 or not 0.5 <= self.confidence < 1.0 or not 0.0 <= self.material < np.inf:
            raise InvalidConfiguration(
                "a label rule needs horizon >= 1, confidence from 0.5 to below 1 and material >= 0, got "
                f"{self.horizon}, {self.confidence} and {self.material}"
            )
        if self.source not in ("evaluation", "training", "both"):
            raise InvalidConfiguration(f"source is 'evaluation', 'training' or 'both', got {self.source!r}")


@dataclass(frozen=True)
class Measured:
    """Gains of the updates of one state over its no-op, all float64 ``[K]``; 0 for the no-op itself.

    Args:
        gains: means of the paired differences.
        noise: sampling variances of these means.
    """

    gains: Floats
    noise: Floats


@dataclass(frozen=True)
class Prior:
    """How true gains are distributed: mean and variance."""

    mean: float
    variance: float


@dataclass(frozen=True)
class Posterior:
    """What is known about the true gains of one state: means (the shrunk gains) and deviations, float64 ``[K]``."""

    means: Floats
    deviations: Floats

    @property
    def confidence(self) -> Floats:
        """Probability that each true gain is positive, float64 ``[K]``; 1/2 for the no-op."""
        certain = np.where(self.means > 0.0, 1.0, np.where(self.means < 0.0, 0.0, 0.5))
        with np.errstate(divide="ignore", invalid="ignore"):
            chance: Floats = ndtr(self.means / self.deviations)
        return np.where(self.deviations > 0.0, chance, certain)


@dataclass(frozen=True)
class Label:
    """What one branch set speaks for.

    Args:
        index: of the update; :data:`KEEP_LABEL`: keep everything.
        measured, posterior: what it was decided by.
    """

    index: int
    measured: Measured
    posterior: Posterior


def paired_gains(row: Mapping[str, Any], rule: LabelRule) -> Floats:
    """Differences to the no-op under the same continuation, float64 ``[K, M]``.

    Args:
        row: of the table ``branches``.
        rule: horizon and source.
    """
    parts = {"evaluation": ("scores",), "training": ("training_scores",), "both": ("scores", "training_scores")}
    total = 0.0
    for name in parts[rule.source]:
        values = np.asarray(row[name], dtype=np.float64)[:, :, : rule.horizon].mean(axis=2)
        total = total + (values - values[:1])
    gains: Floats = np.asarray(total / len(parts[rule.source]))
    if rule.source == "both":
        # A segment without a finished training episode has no training score; its evaluation has to do.
        alone = paired_gains(row, LabelRule(rule.horizon, rule.confidence, rule.material, "evaluation"))
        gains = np.where(np.isfinite(gains), gains, alone)
    return gains


def measure(samples: Floats) -> Measured:
    """Gains and their noise.

    Args:
        samples: paired differences, float64 ``[K, M]``, the first row 0.

    Raises:
        InvalidConfiguration: for a single continuation: it says nothing about noise.
    """
    seeds = samples.shape[1]
    if seeds < 2:
        raise InvalidConfiguration("labels need at least 2 continuations per update: collect with branches.seeds >= 2")
    return Measured(samples.mean(axis=1), moderate(samples.var(axis=1, ddof=1), seeds))


def moderate(spread: Floats, seeds: int) -> Floats:
    """Sampling variances of means over ``seeds`` differences, float64 ``[..., K]``, from the variances of these."""
    degrees = seeds - 1
    common = spread[..., 1:].mean(axis=-1, keepdims=True)
    noise: Floats = (PRIOR_DEGREES * common + degrees * spread) / (PRIOR_DEGREES + degrees) / seeds
    noise[..., KEEP_LABEL] = 0.0
    return noise


def fit_prior(measured: Iterable[Measured]) -> Prior:
    """Mean and variance of the true gains, by moments: what measured gains vary more than their noise explains."""
    sets = list(measured)
    gains = np.concatenate([each.gains[1:] for each in sets])
    noise = np.concatenate([each.noise[1:] for each in sets])
    mean = float(gains.mean())
    return Prior(mean, max(0.0, float(((gains - mean) ** 2).mean() - noise.mean())))


def fit_priors(measured: Sequence[Measured], strata: Sequence[Any]) -> dict[Any, Prior]:
    """A prior for each stratum: its own if it has :data:`ENOUGH` sets, else that of all sets."""
    priors = {}
    for stratum in set(strata):
        own = [one for one, its in zip(measured, strata, strict=True) if its == stratum]
        priors[stratum] = fit_prior(own if len(own) >= ENOUGH else measured)
    return priors


def shrink(measured: Measured, prior: Prior) -> Posterior:
    """Expectation and deviation of the true gains, given the measured ones."""
    total = prior.variance + measured.noise
    share = np.divide(prior.variance, total, out=np.zeros_like(total), where=total > 0.0)
    means = prior.mean + (measured.gains - prior.mean) * share
    deviations = np.sqrt(share * measured.noise)
    # What is known exactly needs no prior.
    exact = measured.noise == 0.0
    return Posterior(np.where(exact, measured.gains, means), np.where(exact, 0.0, deviations))


def choose(posterior: Posterior, rule: LabelRule) -> int:
    """Index of the update to make; :data:`KEEP_LABEL` unless another one is surely and materially better."""
    return int(choose_all(posterior, rule))


def choose_all(posterior: Posterior, rule: LabelRule) -> NDArray[np.int64]:
    """:func:`choose` for posteriors with leading axes: means ``[..., K]``, indices int64 ``[...]``."""
    means = posterior.means
    good = (posterior.confidence >= rule.confidence) & (means >= rule.material) & (means > 0.0)
    best: NDArray[np.int64] = np.where(good, means, -np.inf).argmax(axis=-1)
    return np.where(good.any(axis=-1), best, KEEP_LABEL)


def stratum(row: Mapping[str, Any]) -> tuple[str, str]:
    """Branch sets of one task and learner share a prior, if there are enough of them."""
    return str(row["base"]), str(row["learner"])


def label_sets(rows: Sequence[Mapping[str, Any]], rule: LabelRule | None = None) -> list[Label]:
    """Labels of branch sets.

    Args:
        rows: of the table ``branches``. Priors come from these rows: label a split as a whole.
        rule: how; None: the default one.

    Raises:
        InvalidConfiguration: if they have a single continuation.
    """
    rule = LabelRule() if rule is None else rule
    measured = [measure(paired_gains(row, rule)) for row in rows]
    return label_measured(measured, [stratum(row) for row in rows], rule)


def label_measured(measured: Sequence[Measured], strata: Sequence[Any], rule: LabelRule) -> list[Label]:
    """Labels of measured gains; those of one stratum share a prior."""
    priors = fit_priors(measured, strata)
    labels = []
    for one, its in zip(measured, strata, strict=True):
        posterior = shrink(one, priors[its])
        labels.append(Label(choose(posterior, rule), one, posterior))
    return labels
