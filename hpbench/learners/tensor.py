"""What all learners on tensor tasks share: environments, engines, random numbers, the course of a segment."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.learners import graph, native
from hpbench.learners.external import ExternalEnvironments
from hpbench.learners.play import PLAY_CALLS, play
from hpbench.learners.population import Population
from hpbench.learners.rollout import Environments, physics_of
from hpbench.learners.snapshot import Evaluation, Floats, State
from hpbench.learners.totals import Totals
from hpbench.seeding import Stream, random_words, uniform
from hpbench.tasks.base import Task

ENGINES = ("native", "graph", "torch")
"""From the fastest on."""
SNIPPET = 8
"""Transitions of the first environment that are kept for the text observation."""


class TensorPopulation(Population):
    """A population of learners on a tensor task. See :class:`~hpbench.learners.population.Population`.

    Args:
        engine: ``native`` (C++, CPU), ``graph`` (CUDA graphs of compiled kernels), ``torch`` (any device), or ``auto``:
            the fastest that works here. The torch engine is the reference, the others do the same on the same state.

    Raises:
        UnknownName: for another engine.
        InvalidConfiguration: for an engine that cannot be used here, a task that the learner cannot learn, and as in
            the base class.
    """

    totals: ClassVar[Totals]
    binding: ClassVar[native.Binding]
    compiled: ClassVar[tuple[str, ...]]
    """Methods that the graph engine compiles: they read nothing but their arguments and constants."""
    evaluation_draws: int
    """Uniform numbers that an action takes in evaluation."""

    def __init__(
        self,
        tasks: Task | Sequence[Task],
        seeds: Sequence[int],
        config: Any = None,
        values: Mapping[str, float | ArrayLike] | None = None,
        device: str = "cpu",
        engine: str = "auto",
        threads: int = 1,
    ) -> None:
        super().__init__(tasks, seeds, self.config_type() if config is None else config, values, device, threads)
        task, envs = self.tasks[0], self.config.num_envs
        self.environments: Environments = (
            Environments(task, envs)
            if task.simulator is None
            else ExternalEnvironments(
                task, envs, spread=self.device.type != "cpu" and task.encoder != "mlp", threads=threads
            )
        )
        self._arguments: tuple[list[Tensor], Any] | None = None
        self._build(task)
        self.engine = self._choose(engine)
        self.state |= self._initial()
        self.state |= {
            "snippet_observation": torch.zeros(self.members, SNIPPET, self._snippet_width()),
            "snippet_action": torch.zeros(self.members, SNIPPET, self.environments.width),
            "snippet_reward": torch.zeros(self.members, SNIPPET),
        }
        self.state = {name: tensor.to(self.device) for name, tensor in self.state.items()}
        self.state["env_physics"] = physics_of(self.tasks, self.device)
        reset = self._uniform(Stream.ENVIRONMENT, (envs, self.environments.reset_draws))
        noise = self._uniform(Stream.NOISE, (envs, self.environments.noise_draws))
        self.state |= self.environments.start(self.state["env_physics"], reset, noise)
        self._forget()

    # -- what a learner is made of

    @abstractmethod
    def _build(self, task: Task) -> None:
        """Make the networks' shapes."""

    @abstractmethod
    def _initial(self) -> State:
        """The learner's own part of the state, on the CPU."""

    @abstractmethod
    def _run(self, rollouts: int, totals: Tensor) -> None:
        """Train every member with the torch engine; ``totals`` ``[members, len(self.totals)]`` are added to."""

    @abstractmethod
    def _run_on_graphs(self, graphs: graph.Graphs, rollouts: int, members: int) -> None:
        """The same in the static memory of ``graphs``, whose worker this population is; only the first ``members``
        count."""

    @abstractmethod
    def _measure(self, totals: Tensor) -> None:
        """Set the totals that describe the end of a segment."""

    @abstractmethod
    def _keep_snippet(self) -> None:
        """Bring the last transitions of the first environment into the state."""

    @abstractmethod
    def _policy(self) -> Callable[[Tensor, Tensor], Tensor]:
        """How evaluation acts: from observations ``[members, episodes, size]`` and uniforms ``[members, episodes,
        evaluation_draws]`` to actions ``[members, episodes, width]``."""

    def _snippet_width(self) -> int:
        """How many numbers a snippet says of an observation."""
        return self.tasks[0].observation_size

    def _native_options(self) -> dict[str, int]:
        """The sizes of the learner's own that its binding names."""
        return {}

    def _native_obstacle(self) -> str | None:
        """Why the native engine cannot train this; None if it can."""
        return native.obstacle(self.tasks[0], self.config.hidden, self.device)

    # -- engines

    def _choose(self, engine: str) -> str:
        if engine not in ("auto", *ENGINES):
            raise UnknownName("engine", engine, ("auto", *ENGINES))
        obstacles = {"native": self._native_obstacle(), "graph": graph.obstacle(self.device), "torch": None}
        if self.tasks[0].simulator is not None:
            obstacles["graph"] = f"{self.tasks[0].id} runs in a simulator on the CPU"
        if engine == "auto":
            return next(name for name in ENGINES if obstacles[name] is None)
        if obstacles[engine] is not None:
            raise InvalidConfiguration(
                f"engine={engine!r} cannot be used: {obstacles[engine]}. Use engine='auto' or 'torch'."
            )
        return engine

    # What the graph engine replaces by compiled versions.
    _words = staticmethod(random_words)
    _draws = staticmethod(uniform)

    # -- training

    @property
    def steps_per_rollout(self) -> int:
        """Environment steps of one rollout of one member."""
        steps: int = self.config.num_envs * self.config.num_steps
        return steps

    @classmethod
    def metric_names(cls) -> tuple[str, ...]:
        """Keys of what :meth:`train` returns."""
        return cls.totals.metrics

    def _train(self, rollouts: int) -> dict[str, Floats]:
        totals = self._segment(rollouts)
        parts = [totals, *(self.state[name] for name in ("parameters", "targets") if name in self.state)]
        # The largest size is NaN or infinite if one of the numbers is; asking each of them takes several times as long.
        largest = torch.stack([part.abs().amax(dim=1).double() for part in parts], dim=1)
        self.state["diverged"] |= ~torch.isfinite(largest).all(dim=1)
        if self.tasks[0].agents > 1:  # the end of an episode was counted once for every agent
            totals[:, self.totals.of_episodes] /= self.tasks[0].agents
        metrics = self.totals.summary(totals.cpu().numpy(), self.tasks[0].success_return is not None)
        broken = self.diverged
        if broken.any():
            metrics = {name: np.where(broken, np.nan, values) for name, values in metrics.items()}
        return metrics

    def _segment(self, rollouts: int) -> Tensor:
        """Train. Returns the segment's totals, float64 ``[members, len(self.totals)]``."""
        if self.engine == "graph":
            return graph.train(self, rollouts)
        if self.engine == "native":
            totals = self.binding.train(self, rollouts)
        else:
            totals = torch.zeros(self.members, len(self.totals), dtype=torch.float64, device=self.device)
            self._run(rollouts, totals)
        if self.engine != "native" or not self.binding.measures:
            self._measure(totals)
        self._keep_snippet()
        return totals

    def _train_some(self, members: NDArray[np.int64], rollouts: int) -> dict[str, Floats]:
        if self.engine != "graph":
            return super()._train_some(members, rollouts)
        # Another number of members would be other graphs: the others train along, and are put back.
        others = self._index(np.setdiff1d(np.arange(self.members), members))
        kept = {name: tensor[others] for name, tensor in self.state.items()}
        metrics = self._train(rollouts)
        for name, tensor in kept.items():
            self.state[name][others] = tensor
        return {name: values[members] for name, values in metrics.items()}

    def _add_movement(self, before: Tensor, totals: Tensor) -> None:
        """Count a rollout, and how far its updates moved the parameters, relative to their size."""
        moved = torch.linalg.vector_norm(self.state["parameters"] - before, dim=1)
        totals[:, self.totals.index("update_ratio")] += moved / torch.linalg.vector_norm(before, dim=1)
        totals[:, self.totals.index("rollouts")] += 1

    # -- evaluation

    def _evaluate(self, episodes: int) -> Evaluation:
        return self.binding.evaluate(self, episodes) if self.engine == "native" else self._play(episodes)

    @torch.no_grad()
    def _play(self, episodes: int) -> Evaluation:
        keys, calls = self.state["rng_keys"][:, Stream.EVALUATION], self.state["rng_calls"][:, Stream.EVALUATION]
        envs = self.environments.of_evaluation(episodes)
        policy, physics = self._policy(), self.state["env_physics"]
        if isinstance(envs, ExternalEnvironments) and self.device.type != "cpu":
            # Simulators are on the CPU, and there is little to a step beside them: only the policy is asked elsewhere.
            result = play(
                envs, physics.cpu(), self._from_the_cpu(policy), self.evaluation_draws, keys.cpu(), calls.cpu()
            )
        else:
            result = play(envs, physics, policy, self.evaluation_draws, keys, calls)
        calls += PLAY_CALLS
        return result

    def _from_the_cpu(self, policy: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def act(observation: Tensor, draws: Tensor) -> Tensor:
            return policy(observation.to(self.device), draws.to(self.device)).cpu()

        return act

    # -- hyperparameters and random numbers

    def _column(self, table: Tensor, name: str) -> Tensor:
        """One hyperparameter of a table ``[members, hyperparameters]``, as float32."""
        return table[:, self.hyperparameters.index(name)].float()

    def _hyperparameter(self, name: str) -> Tensor:
        return self._column(self.state["hyperparameters"], name)

    def _uniform(self, stream: Stream, shape: tuple[int, ...]) -> Tensor:
        """One call of a stream: ``[members, *shape]``. The call counters advance."""
        keys, calls = self.state["rng_keys"][:, stream], self.state["rng_calls"][:, stream]
        draws = self._draws(keys.to(self.device), calls.to(self.device), math.prod(shape)).view(len(keys), *shape)
        calls += 1
        return draws

    def _rollout_draws(self, action_draws: int) -> tuple[Tensor, Tensor, Tensor]:
        """Uniform numbers of a rollout, each ``[members, num_steps, num_envs, ...]``: for actions, restarts, noise."""
        per_step, envs = (self.config.num_steps, self.config.num_envs), self.environments
        return (
            self._uniform(Stream.ACTION, (*per_step, action_draws)),
            self._uniform(Stream.ENVIRONMENT, (*per_step, envs.reset_draws)),
            self._uniform(Stream.NOISE, (*per_step, envs.noise_draws)),
        )

    # -- what belongs to another state

    def settle(self) -> None:
        """Bring the state up to date with the simulators, if there are any."""
        self.environments.settle(self.state)

    def _replaced(self, members: Sequence[int]) -> None:
        self.environments.replaced(members)

    def _separate(self) -> None:
        self.environments = self.environments.separate(self.members)

    def _choose_simulators(self, members: Sequence[int]) -> None:
        self.environments = self.environments.choose(members)

    def _without_views(self) -> dict[str, Any]:
        return {**super()._without_views(), "_arguments": None}

    def _forget(self) -> None:
        self.buffer: State = {}

    def _allocate(self) -> None:
        """Make the buffers that work on graphs needs; they stay where they are."""

    def _tasks_changed(self) -> None:
        self._arguments = None
        self.state["env_physics"] = physics_of(self.tasks, self.device)
