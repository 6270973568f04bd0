"""Population-based bandits (PB2)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.pbt import PBT
from hpbench.agent import PopulationSpec
from hpbench.control.population_view import Standing
from hpbench.errors import InvalidConfiguration, MissingExtra

Floats = NDArray[np.float64]

EXPLORATION = (0.2, 0.4)
"""``c1`` and ``c2`` of the confidence bound ``mean + sqrt(c1 + log(c2 * t)) * deviation``, floored at ``c1``."""


class PB2(PBT):
    """Population-based bandits: PBT, but a time-varying Gaussian process chooses what copies train with.

    Parker-Holder et al., "Provably efficient online hyperparameter optimization with population-based bandits", NeurIPS
    2020. Who copies whom is decided as in :class:`~agents.pbt.PBT`. What the copy trains with is the maximum of an
    upper confidence bound on *the change of score over a segment*, learned from all members' segments so far by a
    Gaussian process over hyperparameters and time. Its kernel is the paper's,
    ``exp(-|x - x'|^2 / (2 l^2)) * (1 - e) ** (|t - t'| / 2)``: what was learned long ago counts less. Members that are
    to train next count as seen at the predicted mean, so that one step does not make all copies alike.

    As in the paper: kernel, change of score as the target, bound with the pending points, kernel parameters by maximum
    marginal likelihood. Different from it:

    * scikit-learn's Gaussian process; inputs are positions between the bounds of the prior (as in :class:`PBT`), so
      nothing outside the values that the population started with is ever chosen.
    * The bound is maximised over ``candidates`` uniform points; the paper's program follows gradients.
    * Changes of the *training* score: agents see no other. Observation noise is a fitted kernel term. Only the last
      ``window`` segments of data are used.
    * Until there are two segments of data, and where the population starts with equal values, it explores like PBT.

    Args:
        quantile, interval: as in :class:`~agents.pbt.PBT`.
        candidates: points at which the bound is looked at, 1 or more.
        window: decisions of data that are kept, 2 or more.

    Raises:
        InvalidConfiguration: if an argument is outside its range.
    """

    name = "pb2"

    def __init__(self, quantile: float = 0.25, interval: int = 1, candidates: int = 512, window: int = 20) -> None:
        super().__init__(quantile, interval)
        if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 1:
            raise InvalidConfiguration(f"candidates must be a whole number, 1 or more, got {candidates!r}")
        if isinstance(window, bool) or not isinstance(window, int) or window < 2:
            raise InvalidConfiguration(f"window must be a whole number, 2 or more, got {window!r}")
        self.candidates = candidates
        self.window = window

    def reset_population(self, spec: PopulationSpec, seed: int) -> None:
        """Start of a meta-episode. All draws come from ``seed``.

        Raises:
            MissingExtra: if scikit-learn is not installed.
        """
        try:
            import sklearn  # noqa: F401
        except ImportError as error:
            raise MissingExtra("scikit-learn", "pb2") from error
        super().reset_population(spec, seed)
        self._data: list[tuple[int, list[float], float]] = []  # decision, position, change of score
        self._before: dict[int, float] = {}
        self._model: Any = None

    def act_population(self, observations: Mapping[str, Any]) -> dict[str, Any]:
        """One ``absolute`` action and one ``copy_from`` for every running member."""
        self._model = None  # of the last decision
        return super().act_population(observations)

    def _watch(self, settings: Mapping[int, Sequence[float]], standings: Sequence[Standing]) -> None:
        """Add what the segment just finished has changed, for every member whose score before it is known."""
        for m, values in settings.items():
            change = standings[m].score - self._before.get(m, math.nan)
            if not math.isnan(change):
                self._data.append((self._decision, self._position(values), change))
        self._data = [row for row in self._data if row[0] > self._decision - self.window]
        self._before = {m: row.score for m, row in enumerate(standings)}

    def _exploit(self, standings: Sequence[Standing]) -> dict[int, int]:
        """As PBT; a copy's next change is counted from the score of the member that it copied."""
        sources = super()._exploit(standings)
        self._before |= {target: standings[source].score for target, source in sources.items()}
        return sources

    def _explore(self, values: Sequence[float], others: Sequence[Sequence[float]]) -> list[float]:
        """The candidate with the largest upper confidence bound."""
        free = [high > low for low, high in self._prior]
        if not any(free) or len({row[0] for row in self._data}) < 2:
            return super()._explore(values, others)
        if self._model is None:
            self._model = self._fit()
        points = self._generator.uniform(size=(self.candidates, len(self._prior)))
        points[:, np.logical_not(free)] = 0.0
        pending = np.array([self._position(row) for row in others])
        best = points[int(np.argmax(self._bound(points, pending)))]
        return [
            item.from_unit(low + unit * (high - low))
            for item, unit, (low, high) in zip(self._items, best.tolist(), self._prior, strict=True)
        ]

    def _fit(self) -> Any:
        """The Gaussian process on standardised changes, its kernel fitted."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import WhiteKernel

        from agents.time_kernel import TimeVaryingKernel

        inputs, targets = self._inputs_and_targets()
        kernel = TimeVaryingKernel() + WhiteKernel(0.1, (1e-3, 10.0))
        model = GaussianProcessRegressor(kernel)
        with warnings.catch_warnings():
            # A kernel parameter at its bound is a fit like any other here.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(inputs, targets)

    def _inputs_and_targets(self) -> tuple[Floats, Floats]:
        """Time and position ``[data, 1 + hot]``, and standardised changes ``[data]``."""
        inputs = np.array([[time, *position] for time, position, _ in self._data])
        changes = np.array([change for *_, change in self._data])
        return inputs, (changes - changes.mean()) / max(float(changes.std()), 1e-8)

    def _bound(self, points: Floats, pending: Floats) -> Floats:
        """Upper confidence bounds ``[points]`` for the next segment, with the pending positions as if seen."""
        from sklearn.gaussian_process import GaussianProcessRegressor

        time = self._decision + 1
        c1, c2 = EXPLORATION
        width = math.sqrt(max(c1, c1 + math.log(c2 * time)))
        inputs, targets = self._inputs_and_targets()
        model, ahead = self._model, _at(time, pending)
        seen = GaussianProcessRegressor(model.kernel_, optimizer=None)
        seen.fit(np.vstack((inputs, ahead)), np.concatenate((targets, model.predict(ahead))))
        mean = model.predict(_at(time, points))
        _, deviation = seen.predict(_at(time, points), return_std=True)
        bounds: Floats = mean + width * deviation
        return bounds

    def _position(self, values: Sequence[float]) -> list[float]:
        """Between the bounds of the prior, 0 to 1 for what is inside; 0 where the prior is a single value."""
        rows = zip(self._items, values, self._prior, strict=True)
        return [(item.to_unit(value) - low) / (high - low) if high > low else 0.0 for item, value, (low, high) in rows]


def _at(time: int, positions: Floats) -> Floats:
    """Inputs of the Gaussian process, ``[points, 1 + hot]``."""
    return np.column_stack((np.full(len(positions), float(time)), positions))
