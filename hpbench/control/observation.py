"""The feature schema: the one description that every form of observation is rendered from.

A feature has a raw value in its own unit, inside ``[low, high]``, and a *position* in ``[0, 1]`` on its scale, which is
linear or logarithmic. The vector holds ``2 * position - 1``; the text holds the raw value to four digits and the
position as a level 00-99. So both say the same, and :meth:`Schema.values` gets the raw values back from the vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import copysign, isfinite, log1p
from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import HyperparameterSpace

Floats = NDArray[np.float64]
Transform = Literal["linear", "log", "hyperparameter"]

UPDATES = 4
"""How many of the last updates an observation shows, the newest first."""


@dataclass(frozen=True)
class Feature:
    """One number of an observation.

    Args:
        name: key in :meth:`Schema.values`.
        meaning: one line for humans and language models.
        low, high: bounds of the raw value; what lies outside is clipped.
        transform: raw value to position: ``linear``; ``log``: ``sign(x) * log(1 + |x| / resolution)``, rescaled to the
            bounds; ``hyperparameter``: the hyperparameter's own unit scale.
        group: heading under which it is listed.
        learners: the learners it exists for; empty: all.
        resolution: for ``log``, the size below which the scale is about linear.
        percent: text shows it as a signed percentage.
        label: its name in text, if that differs.
    """

    name: str
    meaning: str
    low: float
    high: float
    transform: Transform = "linear"
    group: str = ""
    learners: tuple[str, ...] = ()
    resolution: float = 1.0
    percent: bool = False
    label: str = ""


def _log(name: str, meaning: str, low: float, high: float, resolution: float, group: str, *learners: str) -> Feature:
    return Feature(name, meaning, low, high, "log", group, learners, resolution)


def _share(name: str, meaning: str, group: str, *learners: str) -> Feature:
    return Feature(name, meaning, 0.0, 1.0, "linear", group, learners)


def _change(name: str, meaning: str, label: str = "", group: str = "performance") -> Feature:
    """A difference of normalised scores."""
    return Feature(name, meaning, -2.0, 2.0, "log", group, (), 0.01, percent=True, label=label)


FEATURES: tuple[Feature, ...] = (
    _share("budget_fraction", "share of the decisions already taken", "budget"),
    _log("decisions_left", "decisions still to take", 0.0, 1e3, 1.0, "budget"),
    Feature("score", "normalised mean return of the segment's training episodes", -1.0, 2.0, group="performance"),
    _log("return_mean", "mean return of the segment's training episodes", -1e6, 1e6, 1.0, "performance"),
    _log("return_sem", "standard error of return_mean", 0.0, 1e6, 0.1, "performance"),
    _change("return_slope_1", "change of the score over the last segment", "d1"),
    _change("return_slope_3", "change of the score per segment over the last three segments", "d3"),
    _log("return_best", "best return_mean so far", -1e6, 1e6, 1.0, "performance"),
    _change("return_from_best", "score minus the best score so far", "vsbest"),
    _log("decisions_since_best", "decisions since the best segment", 0.0, 1e3, 1.0, "performance"),
    _log("episode_length", "mean length of the segment's training episodes", 0.0, 1e6, 1.0, "performance"),
    _share("success_rate", "share of successful training episodes", "performance"),
    _log("policy_loss", "mean policy loss", -10.0, 10.0, 1e-4, "losses", "ppo"),
    _log("value_loss", "mean value loss", 0.0, 1e6, 1e-4, "losses", "ppo"),
    _share("entropy", "policy entropy relative to its maximum", "losses", "ppo", "sac"),
    Feature(
        "entropy_per_dimension",
        "entropy of a continuous policy, nats",
        -5.0,
        5.0,
        "linear",
        "losses",
        ("ppo", "sac"),
    ),
    _log("approx_kl", "approximate KL divergence of old and new policy", 0.0, 10.0, 1e-4, "losses", "ppo"),
    _share("clip_fraction", "share of clipped probability ratios", "losses", "ppo"),
    Feature(
        "explained_variance",
        "share of the variance of returns that the critic explains",
        -1.0,
        1.0,
        "linear",
        "losses",
        ("ppo",),
    ),
    _log("td_loss", "mean Huber loss of the TD errors", 0.0, 1e6, 1e-4, "losses", "dqn"),
    _log("critic_loss", "mean loss of the critics", 0.0, 1e6, 1e-4, "losses", "sac"),
    _log("actor_loss", "mean loss of the policy: minus value and entropy", -1e6, 1e6, 1e-2, "losses", "sac"),
    _log("temperature", "weight of the policy's entropy", 0.0, 1e3, 1e-4, "losses", "sac"),
    _log("td_error_mean", "mean absolute TD error", 0.0, 1e6, 1e-3, "losses", "dqn", "sac"),
    _log("td_error_p95", "95th percentile of the absolute TD error", 0.0, 1e6, 1e-3, "losses", "dqn", "sac"),
    _log("q_mean", "mean value of the actions in the minibatches", -1e6, 1e6, 1e-2, "losses", "dqn", "sac"),
    _log("q_bias", "value at episode starts minus discounted return", -1e6, 1e6, 1e-2, "losses", "dqn", "sac"),
    _share("buffer_fill", "share of the replay memory in use", "losses", "dqn", "sac"),
    _log("gradient_norm", "gradient norm before clipping", 0.0, 1e6, 1e-3, "optimiser"),
    _share("gradient_clipped", "share of optimiser steps with a clipped gradient", "optimiser"),
    _log(
        "update_ratio", "size of a rollout's parameter update over size of the parameters", 0.0, 10.0, 1e-5, "optimiser"
    ),
    _share("dormant_share", "share of hidden units that hardly react to the input", "plasticity"),
    _log("feature_rank", "effective rank of the last hidden layer", 0.0, 1e4, 1.0, "plasticity"),
    _change("test_gap", "score on training levels minus score on test levels", group="plasticity"),
    _log("snippet_reward_mean", "mean reward of the trajectory snippet", -1e4, 1e4, 1e-3, "snippet"),
    _log("snippet_reward_std", "standard deviation of the snippet's rewards", 0.0, 1e4, 1e-3, "snippet"),
    _log("snippet_reward_min", "smallest reward of the snippet", -1e4, 1e4, 1e-3, "snippet"),
    _log("snippet_reward_max", "largest reward of the snippet", -1e4, 1e4, 1e-3, "snippet"),
    _log("snippet_state_norm", "mean Euclidean norm of the snippet's states", 0.0, 1e6, 0.01, "snippet"),
    _log("snippet_action_mean", "mean action of the snippet", -1e3, 1e3, 0.01, "snippet"),
    _share("action_invalid", "1 if the last action was invalid and therefore ignored", "feedback"),
    _log(
        "action_clipped",
        "hyperparameters that the last action would have moved past a bound",
        0.0,
        1e2,
        1.0,
        "feedback",
    ),
)
"""All features but those of hyperparameters and updates. Frozen: a change of a row needs a new format version in
``text``."""


def hyperparameter_features(hyperparameters: HyperparameterSpace) -> tuple[Feature, ...]:
    """Current values, then the last updates (newest first) with their effects."""
    features = [
        Feature(f"hp_{item.name}", f"current {item.name}", item.low, item.high, "hyperparameter", "hyperparameters")
        for item in hyperparameters.values()
    ]
    for k in range(1, UPDATES + 1):
        for name in hyperparameters.hot:
            meaning = f"change of {name} by update {k}, as a share of its scale"
            features.append(Feature(f"update_{k}_{name}", meaning, -1.0, 1.0, group="updates"))
        features.append(
            _change(f"effect_{k}", f"change of the score over the segment after update {k}", "effect", "updates")
        )
    return tuple(features)


@dataclass(frozen=True)
class Frame:
    """Observations of several members before they take the form that was asked for.

    Args:
        raw: raw values inside their bounds, ``[members][features]``; hyperparameters in unit scale. Without meaning
            where masked.
        scaled: ``2 * position - 1``; 0 where masked.
        known: False: the feature does not apply, or has no value yet.
    """

    raw: list[list[float]]
    scaled: list[list[float]]
    known: list[list[bool]]

    def vectors(self) -> list[NDArray[np.float32]]:
        """New arrays, one per member, float32 ``[2 * features]``: ``scaled``, then the mask as 0 and 1."""
        vectors = []
        for scaled, known in zip(self.scaled, self.known, strict=True):
            vector = np.empty(2 * len(scaled), dtype=np.float32)
            vector[: len(scaled)] = scaled
            vector[len(scaled) :] = np.frombuffer(bytes(known), dtype=np.bool_)  # much faster than one by one
            vectors.append(vector)
        return vectors


class Schema:
    """The features of one learner in the order of the vector.

    Args:
        learner: name of the learner.
        hyperparameters: all of its hyperparameters.
    """

    def __init__(self, learner: str, hyperparameters: HyperparameterSpace) -> None:
        own = tuple(feature for feature in FEATURES if not feature.learners or learner in feature.learners)
        self.learner, self.hyperparameters = learner, hyperparameters
        self.features = own + hyperparameter_features(hyperparameters)
        self._columns = {feature.name: column for column, feature in enumerate(self.features)}
        in_unit = [feature.transform == "hyperparameter" for feature in self.features]
        self._low = np.where(in_unit, 0.0, [feature.low for feature in self.features])
        self._high = np.where(in_unit, 1.0, [feature.high for feature in self.features])
        self._log = np.array([feature.transform == "log" for feature in self.features])
        self._resolution = np.array([feature.resolution for feature in self.features])
        start = self._forward(self._low)
        span = self._forward(self._high) - start
        self._factor, self._offset = 2.0 / span, -2.0 * start / span - 1.0
        # By feature: bounds, factor and offset of its position, and the resolution of its logarithm; 0: it has none.
        columns = (self._low, self._high, self._factor, self._offset, np.where(self._log, self._resolution, 0.0))
        # Equal rows are one object: few in all, so most of them are in the cache when they are needed.
        shared: dict[tuple[float, ...], tuple[float, ...]] = {}
        rows = zip(*(column.tolist() for column in columns), strict=True)
        self._scales = [shared.setdefault(row, row) for row in rows]

    def __len__(self) -> int:
        return len(self.features)

    def column(self, name: str) -> int:
        """Column of a feature; its mask stands ``len(schema)`` columns further.

        Raises:
            UnknownName: if there is no such feature.
        """
        try:
            return self._columns[name]
        except KeyError:
            raise UnknownName("feature", name, self._columns) from None

    def group(self, name: str) -> list[int]:
        """Columns of a group, in order."""
        return [column for column, feature in enumerate(self.features) if feature.group == name]

    def box(self) -> spaces.Box:
        """Space of the vector: float32 ``[2 * features]``, features in ``[-1, 1]``, mask in ``[0, 1]``."""
        low = np.repeat(np.array([-1.0, 0.0], dtype=np.float32), len(self))
        return spaces.Box(low, np.ones(2 * len(self), dtype=np.float32), dtype=np.float32)

    def encode(self, raw: Sequence[Sequence[float]] | Floats) -> Frame:
        """Raw values ``[members, features]`` (hyperparameters in unit scale) to a frame. What is not finite is masked.

        Number by number: a text needs them so, and for the few members of most batches arrays would save nothing.
        """
        frame = Frame([], [], [])
        for row in raw.tolist() if isinstance(raw, np.ndarray) else raw:
            clipped, scaled, known = [], [], []
            for value, (low, high, factor, offset, resolution) in zip(row, self._scales, strict=True):
                finite = isfinite(value)
                inside = low if not value >= low else high if value > high else value
                size = copysign(log1p(abs(inside) / resolution), inside) if resolution else inside
                clipped.append(inside)
                scaled.append(size * factor + offset if finite else 0.0)
                known.append(finite)
            frame.raw.append(clipped)
            frame.scaled.append(scaled)
            frame.known.append(known)
        return frame

    def values(self, observation: Any) -> dict[str, float]:
        """Raw values by feature name, out of a ``vector`` or ``dict`` observation. Masked features are absent.

        Hyperparameters come back exactly; other values to float32 precision on their scale.

        Raises:
            InvalidConfiguration: for a text observation, or an array of another shape.
        """
        vector = observation["vector"] if isinstance(observation, Mapping) else observation
        if not isinstance(vector, np.ndarray) or vector.shape != (2 * len(self),):
            got = f"shape {vector.shape}" if isinstance(vector, np.ndarray) else type(vector).__name__
            expected = f"a float32 array of shape ({2 * len(self)},)"
            raise InvalidConfiguration(
                f"values() reads 'vector' and 'dict' observations: expected {expected}, got {got}"
            )
        numbers = vector[: len(self)].astype(np.float64)
        decoded = self._inverse((numbers - self._offset) / self._factor).tolist()
        values = {}
        for column in np.flatnonzero(vector[len(self) :] > 0.5).tolist():
            feature = self.features[column]
            if feature.transform == "hyperparameter":
                item = self.hyperparameters[feature.name.removeprefix("hp_")]
                values[feature.name] = item.from_action(float(numbers[column]))
            else:
                values[feature.name] = float(decoded[column])
        return values

    def _forward(self, raw: Floats) -> Floats:
        return np.where(self._log, np.copysign(np.log1p(np.abs(raw) / self._resolution), raw), raw)

    def _inverse(self, scaled: Floats) -> Floats:
        exponents = np.where(self._log, np.abs(scaled), 0.0)
        return np.where(self._log, np.copysign(np.expm1(exponents) * self._resolution, scaled), scaled)


class UnitScale:
    """:meth:`Hyperparameter.to_unit` for whole tables ``[members, hyperparameters]``."""

    def __init__(self, hyperparameters: HyperparameterSpace) -> None:
        scales = [item.scale for item in hyperparameters.values()]
        # x; log(x); -log(1 - x): all are linear * x + sign * log(offset + slope * x).
        self._linear = np.array([float(scale == "linear") for scale in scales])
        self._sign = np.array([-1.0 if scale == "log1m" else 1.0 for scale in scales])
        self._offset = np.array([0.0 if scale == "log" else 1.0 for scale in scales])
        self._slope = np.array([{"linear": 0.0, "log": 1.0, "log1m": -1.0}[scale] for scale in scales])
        low = self._forward(np.array([[item.low for item in hyperparameters.values()]], dtype=np.float64))[0]
        high = self._forward(np.array([[item.high for item in hyperparameters.values()]], dtype=np.float64))[0]
        self._low, self.span = low, high - low

    def __call__(self, values: Floats) -> Floats:
        """Positions between the bounds, float64 in ``[0, 1]``."""
        units: Floats = (self._forward(values) - self._low) / self.span
        return units

    def _forward(self, values: Floats) -> Floats:
        scaled: Floats = self._linear * values + self._sign * np.log(self._offset + self._slope * values)
        return scaled
