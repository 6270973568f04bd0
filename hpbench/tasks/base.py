"""What a task is: the data every family provides, and the interface of tasks that run as batched tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:  # processes that only step simulators need no torch
    from torch import Tensor

    from hpbench.tasks.simulator import SimulatorMaker

Split = Literal["standard", "train", "validation", "test"]
"""``standard`` is the task as published; the others are seeded variants of it."""

VARIANTS: Mapping[str, int] = {"train": 256, "validation": 64, "test": 64}
"""How many variants each split of each task holds."""

MAX_DELAY = 4
"""The longest action delay of a variant, in environment steps."""

COMMON_PHYSICS: Mapping[str, float] = {"reward_scale": 1.0, "observation_noise": 0.0, "action_delay": 0.0}
"""Leading columns of every task's physics. The population applies them, not the dynamics."""

ObservationType = Literal["float32", "uint8", "int16"]


@dataclass(frozen=True)
class Anchors:
    """Normalisation: score = (return - low) / (high - low).

    Args:
        low, high: returns whose scores are 0 and 1.
        source: where they come from.
        log: whether all three numbers are first taken to their ``log1p``, with the sign of the number; for returns that
            span orders of magnitude.
    """

    low: float
    high: float
    source: str
    log: bool = False

    def score(self, value: float) -> float:
        """Normalised score of an undiscounted, unscaled return. Not clipped."""
        if self.log:
            low = _signed_log(self.low)
            return (_signed_log(value) - low) / (_signed_log(self.high) - low)
        return (value - self.low) / (self.high - self.low)

    def value(self, score: float) -> float:
        """The return that has that score."""
        if self.log:
            low = _signed_log(self.low)
            logarithm = low + score * (_signed_log(self.high) - low)
            return math.copysign(math.expm1(abs(logarithm)), logarithm)
        return self.low + score * (self.high - self.low)

    def width(self, value: float) -> float:
        """How much return a score of 1 more would be worth, if it went on as it does around that return."""
        if self.log:
            return abs(_signed_log(self.high) - _signed_log(self.low)) * (1.0 + abs(value))
        return abs(self.high - self.low)


def _signed_log(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)


@dataclass(frozen=True)
class Budget:
    """Length of a meta-episode: ``decisions`` segments of ``steps / decisions`` environment steps each."""

    steps: int
    decisions: int


@dataclass(frozen=True)
class HandTuned:
    """The best published constant hyperparameters of one learner on one task, as far as they are hot here."""

    values: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Task:
    """One RL problem.

    Args:
        id: ``family/name``, and ``family/name@split-index`` for a variant.
        observation_size: length of the flat observation.
        discrete: whether actions are one of ``action_count`` choices; otherwise vectors of ``action_count`` floats.
        action_low, action_high: bounds of continuous actions; the policy's samples are clipped to them.
        max_episode_steps: time limit; reaching it truncates (and is bootstrapped), it does not terminate.
        anchors: score normalisation, on unscaled returns.
        success_return: an episode with at least this unscaled return counts as a success; None: no such notion.
        budgets: by tier.
        hand_tuned: by learner.
        dynamics: the tensor environment; of a task with a simulator, one that only names its physics.
        physics: this task's parameters, every name that ``dynamics.physics`` has.
        evaluation_physics: parameters that differ in evaluation episodes, for tasks whose training levels are not those
            they are tested on.
        simulator: makes the simulators of a task that is no tensor arithmetic; None: ``dynamics`` steps it.
        observation_dtype: of observations. Noise is added to float32 only.
        encoder: name of the network that reads the observations; ``mlp`` reads them as flat numbers.
        agents: how many act together in one world and share the policy. Each is an environment to the learner: its
            observations say which agent it is, all get the same reward, and a step is one action of one agent.
        held_out_levels: whether the simulator plays evaluation episodes on levels that training does not have.
        learner_config: frozen options that learners have on this task, by tier and learner. What a user gives comes
            before them.
    """

    id: str
    observation_size: int
    discrete: bool
    action_count: int
    max_episode_steps: int
    anchors: Anchors
    success_return: float | None
    budgets: Mapping[str, Budget]
    dynamics: Dynamics
    physics: Mapping[str, float]
    hand_tuned: Mapping[str, HandTuned] = field(default_factory=dict)
    evaluation_physics: Mapping[str, float] = field(default_factory=dict)
    action_low: float = -1.0
    action_high: float = 1.0
    simulator: SimulatorMaker | None = None
    observation_dtype: ObservationType = "float32"
    encoder: str = "mlp"
    agents: int = 1
    held_out_levels: bool = False
    learner_config: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    split: Split = "standard"
    summary: str = ""

    @property
    def family(self) -> str:
        """The part before the slash."""
        return self.id.partition("/")[0]

    @property
    def base(self) -> str:
        """The id without the variant."""
        return self.id.partition("@")[0]

    def physics_row(self) -> list[float]:
        """Physics in the column order of ``dynamics.physics``."""
        return [float(self.physics[name]) for name in self.dynamics.physics]


class Dynamics(Protocol):
    """A task as pure functions on tensors with leading axes ``[members, envs]``.

    State is float64 (equal to Gymnasium's own arithmetic); observations are float32. ``physics`` is float64
    ``[members, columns]``, one column per entry of the class attribute ``physics``; the leading ``COMMON_PHYSICS``
    columns are applied by the population and ignored here.
    """

    physics: ClassVar[Mapping[str, float]]
    """Names and standard values, ``COMMON_PHYSICS`` first."""
    variation: ClassVar[Mapping[str, tuple[float, float]]]
    """Range of each parameter over variants, as factors of the standard value. Absolute: ``COMMON_PHYSICS``, and what
    is 0 by standard."""
    reset_draws: ClassVar[int]
    """Uniform numbers that one reset takes."""

    @property
    def native(self) -> str:
        """Name of the same dynamics in the native engine; empty if it has none."""
        ...

    @property
    def state_size(self) -> int:
        """Width of the state."""
        ...

    def reset(self, uniforms: Tensor, physics: Tensor) -> Tensor:
        """Start states float64 ``[members, envs, state_size]`` from uniforms ``[members, envs, reset_draws]``."""
        ...

    def observe(self, state: Tensor, physics: Tensor) -> Tensor:
        """Observations float32 ``[members, envs, observation_size]``."""
        ...

    def step(self, state: Tensor, action: Tensor, physics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step.

        Args:
            state: float64 ``[members, envs, state_size]``.
            action: discrete: int64 ``[members, envs]``; continuous: float32 ``[members, envs, action_count]``, inside
                bounds.
            physics: float64 ``[members, columns]``.

        Returns:
            Next state; unscaled reward float64 ``[members, envs]``; terminated bool ``[members, envs]``.
        """
        ...
