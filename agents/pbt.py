"""Population-based training (PBT) with truncation selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpbench.agent import PopulationSpec
from hpbench.control.population_view import Standing
from hpbench.errors import InvalidConfiguration


class PBT:
    """Population-based training: the worst members copy the best ones and perturb what they copied.

    Jaderberg et al., "Population based training of neural networks", 2017. Every ``interval`` decisions the members are
    ranked by the mean return of their last segment's training episodes. Each of the lower ``quantile`` copies weights
    and hyperparameters of a random one of the upper ``quantile`` (*exploit*), and then changes every copied
    hyperparameter (*explore*): with ``resample_probability`` it is drawn anew, otherwise multiplied by one of
    ``factors``. All other members train on unchanged.

    As in the paper: truncation selection, and members that explore only after they copied. Different from it:

    * The paper perturbs by 0.8 and 1.2; the default here is 0.8 and 1.25, whose product is 1.
    * Factors act in each hyperparameter's own sense (for a discount: on ``1 - discount``), and resampling is uniform on
      its scale, between the smallest and the largest value that the population started with: the prior, as far as it
      can be seen (where all started alike, there is none, and the value is perturbed). Both can happen in one step, by
      hyperparameter, as in the implementation of Ray Tune.
    * A member copies only if the other one's score is higher: with all members at the maximum nobody moves.
    * A member is ready at fixed times, for all members alike.

    Args:
        quantile: share of the members that copy, and share they copy from; above 0, at most 0.5. At least one member.
        interval: decisions between two steps of selection, 1 or more.
        resample_probability: of each hyperparameter, in ``[0, 1]``.
        factors: positive, at least one.

    Raises:
        InvalidConfiguration: if an argument is outside its range.
    """

    name = "pbt"
    observation = "vector"
    action = "absolute"

    def __init__(
        self,
        quantile: float = 0.25,
        interval: int = 1,
        resample_probability: float = 0.25,
        factors: Sequence[float] = (0.8, 1.25),
    ) -> None:
        if not 0.0 < quantile <= 0.5:
            raise InvalidConfiguration(f"quantile must be above 0 and at most 0.5, got {quantile}")
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise InvalidConfiguration(f"interval must be a whole number, 1 or more, got {interval!r}")
        if not 0.0 <= resample_probability <= 1.0:
            raise InvalidConfiguration(f"resample_probability must be between 0 and 1, got {resample_probability}")
        if not len(factors) or not all(0.0 < factor < np.inf for factor in factors):
            raise InvalidConfiguration(f"factors must be positive numbers, at least one, got {factors!r}")
        self.quantile = quantile
        self.interval = interval
        self.resample_probability = resample_probability
        self.factors = tuple(factors)

    def reset_population(self, spec: PopulationSpec, seed: int) -> None:
        """Start of a meta-episode. All draws come from ``seed``."""
        self._spec = spec
        self._items = [spec.hyperparameters[name] for name in spec.hyperparameters.hot]
        self._generator = np.random.default_rng(seed)
        self._decision = 0
        self._prior: list[tuple[float, float]] = []

    def act_population(self, observations: Mapping[str, Any]) -> dict[str, Any]:
        """One ``absolute`` action and one ``copy_from`` for every running member."""
        index = {name: m for m, name in enumerate(self._spec.members)}
        settings = {index[name]: self._values(observation) for name, observation in observations.items()}
        standings = self._spec.schema.standings(next(iter(observations.values())))
        if self._decision == 0:
            self._start(settings)
        self._watch(settings, standings)
        sources = self._exploit(standings) if self._decision and self._decision % self.interval == 0 else {}
        kept = [values for m, values in settings.items() if m not in sources]
        for target, source in sources.items():
            settings[target] = self._explore(settings[source], kept)
            kept.append(settings[target])
        self._decision += 1
        return {
            name: {"copy_from": sources.get(m, m), "update": self._absolute(settings[m])}
            for name, m in index.items()
            if m in settings
        }

    def _start(self, settings: Mapping[int, Sequence[float]]) -> None:
        """The prior: the range of the initial values of each hyperparameter, in unit scale."""
        columns = zip(*settings.values(), strict=True)
        units = [[item.to_unit(value) for value in column] for item, column in zip(self._items, columns, strict=True)]
        self._prior = [(min(column), max(column)) for column in units]

    def _watch(self, settings: Mapping[int, Sequence[float]], standings: Sequence[Standing]) -> None:
        """For methods that learn from what happened."""

    def _exploit(self, standings: Sequence[Standing]) -> dict[int, int]:
        """Who copies whom: target to source, the worst target first. Members without a score take no part."""
        scores = {m: row.score for m, row in enumerate(standings) if row.running and not np.isnan(row.score)}
        order = sorted(scores, key=lambda m: (scores[m], m))
        count = max(1, int(self.quantile * len(order)))
        if len(order) < 2 * count:
            return {}
        chosen = {target: order[-1 - int(self._generator.integers(count))] for target in order[:count]}
        return {target: source for target, source in chosen.items() if scores[source] > scores[target]}

    def _explore(self, values: Sequence[float], others: Sequence[Sequence[float]]) -> list[float]:
        """New values out of copied ones.

        Args:
            values: of the copied member, in the order of the hot hyperparameters.
            others: what the other members will train with.
        """
        explored = []
        for item, value, (low, high) in zip(self._items, values, self._prior, strict=True):
            if self._generator.random() < self.resample_probability and high > low:
                explored.append(item.from_unit(self._generator.uniform(low, high)))
            else:
                explored.append(item.multiply(value, self.factors[int(self._generator.integers(len(self.factors)))])[0])
        return explored

    def _values(self, observation: Any) -> list[float]:
        features = self._spec.schema.values(observation)
        return [features[f"hp_{item.name}"] for item in self._items]

    def _absolute(self, values: Sequence[float]) -> Any:
        pairs = zip(self._items, values, strict=True)
        return np.array([item.to_action(value) for item, value in pairs], dtype=np.float32)
