"""A simulator that is easy to follow, its task, and populations that learn on it."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from hpbench.learners import native
from hpbench.learners.dqn import DQN, DQNConfig
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.learners.sac import SAC, SACConfig
from hpbench.learners.tensor import TensorPopulation
from hpbench.tasks.base import Anchors, Budget, Task
from hpbench.tasks.simulator import ExternalDynamics


class Drift:
    """A point that drifts at random and is pushed by actions. A copy's state grows with its episode, as that of
    simulators does that can only be replayed."""

    def __init__(self, maker: DriftMaker, envs: int, evaluation: bool) -> None:
        self.maker, self.start = maker, 100.0 if evaluation else 0.0
        self.observation = np.zeros((envs, 3), dtype=np.float32)
        self.reward = np.zeros(envs)
        self.terminated = np.zeros(envs, dtype=np.bool_)
        self.random: list[Any] = [np.random.default_rng(0) for _ in range(envs)]
        self.path: list[list[float]] = [[] for _ in range(envs)]
        self.open = True
        maker.log.append(("make", evaluation))

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        for env, seed in zip(which, seeds, strict=True):
            assert 0 <= seed < 2**31
            self.random[env] = np.random.default_rng(seed)
            self.path[env] = [self.start + self.random[env].normal()]
            self._show(env)

    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        assert self.open
        for env in range(len(self.path)) if which is None else which:
            push = float(actions[env]) if self.maker.discrete else float(actions[env, 0])
            self.path[env].append(self.path[env][-1] + push + self.random[env].normal())
            self.reward[env] = 1.0 + push
            self.terminated[env] = self.random[env].random() < self.maker.hazard
            self._show(env)

    def _show(self, env: int) -> None:
        self.observation[env] = self.path[env][-1] / 10.0, len(self.path[env]), self.path[env][0]

    def save(self, env: int) -> bytes:
        return pickle.dumps((self.random[env], self.path[env]))

    def load(self, env: int, state: bytes) -> None:
        self.maker.log.append(("load", env))
        self.random[env], self.path[env] = pickle.loads(state)
        self._show(env)

    def close(self) -> None:
        self.open = False
        self.maker.log.append(("close", self.start > 0))


@dataclass(frozen=True)
class DriftMaker:
    discrete: bool = True
    hazard: float = 0.05
    state_bytes: int = 20_000
    in_process: bool = True
    restarts_itself: bool = False

    log: ClassVar[list[tuple[str, object]]] = []

    def make(self, envs: int, evaluation: bool = False) -> Drift:
        return Drift(self, envs, evaluation)


def task(**maker: Any) -> Task:
    made = DriftMaker(**maker)
    return Task(
        id="probe/drift",
        observation_size=3,
        discrete=made.discrete,
        action_count=2,
        max_episode_steps=30,
        anchors=Anchors(0.0, 60.0, "made up"),
        success_return=None,
        budgets={"small": Budget(640, 2)},
        dynamics=ExternalDynamics(),
        physics=ExternalDynamics.physics,
        simulator=made,
    )


Make = Callable[..., TensorPopulation]


def ppo(seeds: Sequence[int] = range(3), of: Task | None = None, **options: Any) -> TensorPopulation:
    values = {"update_epochs": 1, "minibatches": 2, **options.pop("values", {})}
    return PPO(task() if of is None else of, seeds, PPOConfig(num_envs=3, num_steps=16), values, **options)


def sac(seeds: Sequence[int] = range(3), of: Task | None = None, **options: Any) -> TensorPopulation:
    config = SACConfig(num_envs=2, num_steps=16, buffer_size=64, learning_starts=10)
    return SAC(
        task(discrete=False) if of is None else of, seeds, config, {"batch_size": 8, "updates_per_step": 0.2}, **options
    )


def dqn(seeds: Sequence[int] = range(3), of: Task | None = None, **options: Any) -> TensorPopulation:
    config = DQNConfig(num_envs=2, num_steps=16, buffer_size=64, learning_starts=10)
    return DQN(task() if of is None else of, seeds, config, {"batch_size": 8}, **options)


ENGINES = ["torch"] if native.unavailable() else ["native", "torch"]
both = pytest.mark.parametrize(
    "make",
    [
        pytest.param(functools.partial(make, engine=engine), id=f"{make.__name__}-{engine}")
        for make in (ppo, sac)
        for engine in ENGINES
    ],
)
needs_native = pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")
