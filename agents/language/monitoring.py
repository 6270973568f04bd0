"""Is training going as it would have gone without the update? Judged from training returns alone.

The expectation for a segment is the last score plus a share of the recent trend: what rose in the last segments will
probably rise on, but by less, for it stops once enough is learned. The noise that a deviation is compared with has two
sources: the standard errors of the two segments' mean returns, and how far off expectations have been so far in this
very run. Nothing is looked at but what an agent sees, so nothing here knows evaluation scores.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hpbench.errors import InvalidConfiguration

Verdict = Literal["unchanged", "unknown", "better", "as expected", "harmful", "diverged"]
"""``unchanged``: nothing was edited, so there is no update to judge. ``unknown``: there is no score to judge by yet."""

NAN = math.nan
ERRORS = 6
"""How many of the last errors of expectation count."""


@dataclass(frozen=True)
class MonitorOptions:
    """How updates are judged.

    Args:
        z: an update is ``harmful`` (``better``) if the score is this many units of noise below (above) expectation. At
            2, 1.1 % of 2,431 segments that nobody had touched were called harmful, on the four classic tasks of
            ``examples/roll_back_study.py``.
        material: and by at least this much, in units of the score.
        window: the trend is the median of the score's last changes, this many.
        shrink: the share of the trend that is expected to go on, 0 to 1.
        prior: how far off expectations are taken to be before there is experience, in units of the score.

    Raises:
        InvalidConfiguration: if an argument is outside its range.
    """

    z: float = 2.0
    material: float = 0.02
    window: int = 3
    shrink: float = 0.25
    prior: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 < self.z < math.inf or not 0.0 < self.prior < math.inf:
            raise InvalidConfiguration(f"z and prior must be above 0, got {self.z} and {self.prior}")
        if not 0.0 <= self.material < math.inf or not 0.0 <= self.shrink <= 1.0 or self.window < 1:
            raise InvalidConfiguration(
                "material must not be negative, shrink must be between 0 and 1, and window at least 1, got "
                f"{self.material}, {self.shrink} and {self.window}"
            )


@dataclass(frozen=True)
class Judgement:
    """What became of one segment of training.

    Args:
        verdict: on the update before it.
        score: mean training score of the segment; NaN if no episode ended.
        expected: the score that was to be expected without an update; NaN before there is a trend to go on.
        noise: the size of a chance deviation from it; NaN likewise.
    """

    verdict: Verdict
    score: float = NAN
    expected: float = NAN
    noise: float = NAN
    error: float = NAN
    """Standard error of the score."""

    @property
    def effect(self) -> float:
        """Score minus expectation; NaN if either is unknown."""
        return self.score - self.expected

    @property
    def surprise(self) -> float:
        """The effect in units of noise; 0 if it is unknown, minus infinity if the learner broke."""
        if self.verdict == "diverged":
            return -math.inf
        ratio = self.effect / self.noise
        return 0.0 if math.isnan(ratio) else ratio

    @property
    def harmful(self) -> bool:
        """Whether the update should be undone."""
        return self.verdict in ("harmful", "diverged")

    def to_dict(self) -> dict[str, Any]:
        """JSON values; unknown numbers are None."""
        values = asdict(self) | {"effect": self.effect}
        return {name: None if value != value else value for name, value in values.items()}


class Monitor:
    """Judges the segments of one training run in turn; works with any training, in the environment or not::

        monitor = Monitor()
        for segment in range(100):
            edited = change_some_hyperparameters()
            save_checkpoint()
            returns = train()  # of the episodes that ended
            judgement = monitor.judge(mean(returns), stdev(returns) / len(returns) ** 0.5, edited)
            if judgement.harmful:
                load_checkpoint()  # and do not accept: what is undone never happened
            else:
                monitor.accept(judgement)

    Scores may be of any unit, if ``material`` and ``prior`` of the options are of the same; the defaults are for scores
    that go from 0 to 1.

    Args:
        options: how to judge.
    """

    def __init__(self, options: MonitorOptions | None = None) -> None:
        self.options = MonitorOptions() if options is None else options
        self._scores: list[float] = []
        self._error = 0.0
        self._misses: list[float] = []

    def expectation(self) -> float:
        """The score of the next segment if nothing is changed; NaN before the first accepted score."""
        if not self._scores:
            return NAN
        recent = self._scores[-self.options.window - 1 :]
        changes = [after - before for before, after in itertools.pairwise(recent)]
        trend = statistics.median(changes) if changes else 0.0
        return self._scores[-1] + self.options.shrink * trend

    def judge(self, score: float, error: float = NAN, edited: bool = True, diverged: bool = False) -> Judgement:
        """Judge a segment. This changes nothing; :meth:`accept` takes the segment into the history.

        Args:
            score: mean training score of the segment; NaN if no episode ended.
            error: its standard error; NaN if unknown.
            edited: whether the segment was trained with changed hyperparameters.
            diverged: whether the learner broke.
        """
        error = error if math.isfinite(error) else 0.0
        expected = self.expectation()
        noise = self._noise(error) if self._scores else NAN
        if diverged:
            return Judgement("diverged", NAN, expected, noise)
        verdict: Verdict = "as expected"
        if not math.isfinite(score):
            score, verdict = NAN, "unknown"
        elif math.isnan(expected):
            verdict = "unknown"
        elif abs(score - expected) >= max(self.options.z * noise, self.options.material):
            verdict = "better" if score > expected else "harmful"
        return Judgement(verdict if edited else "unchanged", score, expected, noise, error)

    def judge_features(self, features: Mapping[str, float], width: float, edited: bool, diverged: bool) -> Judgement:
        """Judge by an observation of the meta-environment.

        Args:
            features: as ``schema.values(observation)`` reads them.
            width: of the task's anchors at the present return, which makes scores of differences of returns.
            edited, diverged: as in :meth:`judge`.
        """
        score, error = features.get("score", NAN), features.get("return_sem", NAN) / abs(width)
        return self.judge(score, error, edited, diverged)

    def accept(self, judgement: Judgement) -> None:
        """Take the last segment into the history: what comes next is expected to follow from it."""
        if math.isnan(judgement.score):
            return
        if not math.isnan(judgement.expected):
            self._misses = [*self._misses, judgement.effect][-ERRORS:]
        self._scores = [*self._scores, judgement.score][-self.options.window - 1 :]
        self._error = judgement.error

    def _noise(self, error: float) -> float:
        """The larger of what the returns' spread explains, and what expectations were off by; the prior counts as one
        of the latter."""
        misses = [self.options.prior, *self._misses]
        # The mean size of a normal error is 0.8 standard deviations. Unlike a root mean square it forgives one jump.
        typical = statistics.fmean(abs(miss) for miss in misses) / math.sqrt(2.0 / math.pi)
        return max(math.hypot(self._error, error), typical)
