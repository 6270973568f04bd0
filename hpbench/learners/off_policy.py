"""What learners with a replay memory share: act, remember, and learn whenever a gradient step falls due.

How often that is, and from how many transitions, are hyperparameters: members differ in them. The torch engine batches
those whose gradient step is due, by batch size: a member's products always have the same shape, whoever else learns.
Graphs work on all members, with a mask of those whose turn it is, and pad their batches to powers of two.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpbench.learners import graph
from hpbench.learners.replay import append, initial_replay
from hpbench.learners.representation import covariance, dormant_share, feature_rank
from hpbench.learners.snapshot import State
from hpbench.learners.tensor import SNIPPET, TensorPopulation

RUNNING = ("episode_value", "episode_discounted", "episode_weight")
"""State of the running episodes: value of the first action, discounted return so far, discount of the next reward."""

Turn = tuple[Tensor, int]
"""Members that take a gradient step, int64 ``[rows]``, and their batch size."""


class OffPolicy(TensorPopulation):
    """Base of the learners with a replay memory."""

    LEARNED = ("parameters", "targets", "adam_mean", "adam_square", "adam_steps")
    """What a gradient step changes, beside random streams and priorities."""
    action_draws: int
    """Uniform numbers that an action takes in training."""

    # -- what a learner is made of

    @abstractmethod
    def _act(
        self, parameters: Tensor, table: Tensor, observation: Tensor, warm_up: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How training acts.

        Args:
            parameters: ``[members, size]``.
            table: hyperparameters, float64 ``[members, hyperparameters]``.
            observation: ``[members, envs, size]``.
            warm_up: bool ``[members, 1]``: who has not started to learn, and so acts uniformly at random.
            draws: uniform, ``[members, envs, action_draws]``.

        Returns:
            Actions as they are remembered ``[members, envs, width]``, and their values ``[members, envs]``.
        """

    @abstractmethod
    def _worth(self, parameters: Tensor, observation: Tensor) -> Tensor:
        """Value of the most likely actions, ``[members, batch]``."""

    @abstractmethod
    def _due(self, steps: int) -> NDArray[np.int64]:
        """How many gradient steps follow each of the next steps of the environments, ``[steps, members]``; what is left
        over stays in the state."""

    @abstractmethod
    def _learn(self, rows: Tensor, size: int, totals: Tensor, active: Tensor | None = None) -> None:
        """One gradient step.

        Args:
            rows: the members, int64 ``[rows]``.
            size: transitions that each learns from.
            totals: are added to.
            active: bool ``[members]``, with all members as rows, where work is masked: who learns. Then ``size`` is the
                most that any of them learns from.
        """

    @abstractmethod
    def _hidden(self, observation: Tensor) -> list[Tensor]:
        """Outputs of the hidden layers whose plasticity is measured, each ``[members, batch, width]``."""

    @abstractmethod
    def _measured(self, recent: int) -> range:
        """Ages of the observations that plasticity is measured on, 0 the newest; ``recent`` are of the last rollout."""

    def _memory(self, value_type: torch.dtype, prioritized: bool = False) -> State:
        """Initial state of the memory and of the running episodes."""
        shape = (self.members, self.config.num_envs)
        size, width = self.tasks[0].observation_size, self.environments.width
        return {
            "episode_value": torch.zeros(shape, dtype=value_type),
            "episode_discounted": torch.zeros(shape, dtype=torch.float64),
            "episode_weight": torch.ones(shape, dtype=torch.float64),
            **initial_replay(self.members, self.config.buffer_size, shape[1], size, width, prioritized),
        }

    # -- training

    def _run(self, rollouts: int, totals: Tensor) -> None:
        steps = self.config.num_steps
        due = self._due(rollouts * steps)
        schedule = self._schedule(due)
        for start in range(0, rollouts * steps, steps):
            before = self.state["parameters"].clone()
            self._begin_rollout(due[start : start + steps])
            draws = self._rollout_draws(self.action_draws)
            for t in range(steps):
                self._step([draw[:, t] for draw in draws], totals)
                for rows, size in schedule[start + t]:
                    self._learn(rows, size, totals)
            self._end_rollout()
            self._add_movement(before, totals)

    def _schedule(self, due: NDArray[np.int64]) -> list[list[Turn]]:
        """Gradient steps after each step of the environments.

        Made before the segment starts, so that nothing in it waits for the device.
        """
        sizes = self.values()["batch_size"].astype(np.int64)
        known: dict[bytes, list[Turn]] = {}
        schedule = []
        for counts in due:
            if counts.tobytes() not in known:
                known[counts.tobytes()] = [
                    (torch.from_numpy(np.flatnonzero((counts > k) & (sizes == size))).to(self.device), int(size))
                    for k in range(int(counts.max()))
                    for size in np.unique(sizes[counts > k])
                ]
            schedule.append(known[counts.tobytes()])
        return schedule

    def _begin_rollout(self, due: NDArray[np.int64] | None) -> None:
        """Before the first step of a rollout with these gradient steps; None: their random numbers are drawn later."""

    def _end_rollout(self) -> None:
        """After the last step of a rollout."""

    @torch.no_grad()
    def _step(self, draws: Sequence[Tensor], totals: Tensor) -> None:
        """One step of all environments, with uniforms ``[members, envs, ...]`` for actions, restarts and noise."""
        state = self.state
        worlds, running = ({name: state[name] for name in names} for names in (self.environments.NAMES, RUNNING))
        given = state["parameters"], state["hyperparameters"], state["steps"], state["env_physics"]
        changed, transition, columns = self._interact(*given, worlds, running, *draws)
        state |= changed
        append(state, *transition)
        state["steps"] += self.config.num_envs
        totals[:, self.totals.of_episodes] += columns

    def _interact(
        self,
        parameters: Tensor,
        table: Tensor,
        steps: Tensor,
        physics: Tensor,
        worlds: State,
        running: State,
        action_draws: Tensor,
        reset_draws: Tensor,
        noise_draws: Tensor,
    ) -> tuple[State, tuple[Tensor, ...], Tensor]:
        """One step of all environments. Changes no tensor.

        Returns:
            What becomes of ``worlds`` and ``running``; what is remembered, in the order of
            :func:`~hpbench.learners.replay.append`; and the statistics of episodes that ended, float64 ``[members,
            columns]``.
        """
        observation, fresh = worlds["env_observation"], worlds["env_elapsed"] == 0
        warm_up = (steps < self.config.learning_starts)[:, None]
        action, value = self._act(parameters, table, observation, warm_up, action_draws)
        worlds = dict(worlds)
        step = self.environments.step(worlds, physics, self._scaled(action), reset_draws, noise_draws)
        done = step.terminated | step.truncated
        first = torch.where(fresh, value, running["episode_value"])
        discounted = running["episode_discounted"] + running["episode_weight"] * step.reward
        weight = running["episode_weight"] * table[:, self.hyperparameters.index("discount"), None]
        # What the episode's first action was thought to be worth, minus the discounted return that followed (van
        # Hasselt et al. 2016, figure 3), with the value of the final observation after a time limit.
        rest = self._worth(parameters, step.final_observation).double()
        bias = first.double() - (discounted + torch.where(step.truncated, weight * rest, 0.0))
        threshold = self.tasks[0].success_return
        success = done & (step.episode_return >= threshold) if threshold is not None else torch.zeros_like(done)
        finished = torch.where(done, step.episode_return, 0.0)
        lengths = torch.where(done, step.episode_length, 0)
        counted = (done, finished, finished**2, lengths, success, torch.where(done, bias, 0.0))
        running = {
            "episode_value": first,
            "episode_discounted": torch.where(done, 0.0, discounted),
            "episode_weight": torch.where(done, 1.0, weight),
        }
        remembered = (
            observation, action, step.reward.float(), step.final_observation, step.terminated, step.truncated,
        )  # fmt: skip
        return worlds | running, remembered, torch.stack([values.sum(dim=1).double() for values in counted], dim=1)

    def _scaled(self, action: Tensor) -> Tensor:
        """What the environments receive: indices as they are, vectors from ``[-1, 1]`` to the task's bounds."""
        task = self.tasks[0]
        if task.discrete:
            return action
        return task.action_low + 0.5 * (task.action_high - task.action_low) * (action + 1.0)

    # -- training on graphs

    def _run_on_graphs(self, graphs: graph.Graphs, rollouts: int, members: int) -> None:
        steps, totals, buffer = self.config.num_steps, graphs.totals, self.buffer
        due = self._due(rollouts * steps)
        due[:, members:] = 0
        sizes = self.values()["batch_size"].astype(np.int64)
        rooms = np.array([graph.room(size) for size in sizes.tolist()])
        turns = {room: due[:, rooms == room].max(axis=1) for room in sorted(set(rooms[:members].tolist()))}
        for start in range(0, rollouts * steps, steps):
            before = self.state["parameters"].clone()
            buffer["due"].copy_(torch.from_numpy(due[start : start + steps]))
            graphs.do("begin", self._begin_on_graphs)
            for t in range(start, start + steps):
                graphs.do("step", functools.partial(self._step_on_graphs, totals))
                for room, counts in turns.items():
                    for _ in range(counts[t]):
                        graphs.do(room, functools.partial(self._learn_on_graphs, room, totals))
            self._end_rollout()
            self._add_movement(before, totals)

    def _allocate(self) -> None:
        members, steps, envs, device = self.members, self.config.num_steps, self.config.num_envs, self.device
        widths = {
            "action": self.action_draws,
            "reset": self.environments.reset_draws,
            "noise": self.environments.noise_draws,
        }
        counters = {"time": (1,), "due": (steps, members), "pending": (members,), "taken": (members,)}
        self.buffer = {
            **{f"{name}_draws": torch.zeros(members, steps, envs, n, device=device) for name, n in widths.items()},
            **{name: torch.zeros(shape, dtype=torch.int64, device=device) for name, shape in counters.items()},
        }

    def _begin_on_graphs(self) -> None:
        buffer = self.buffer
        self._begin_rollout(None)
        for name, draws in zip(("action", "reset", "noise"), self._rollout_draws(self.action_draws), strict=True):
            buffer[f"{name}_draws"].copy_(draws)
        buffer["time"].zero_()
        buffer["taken"].zero_()

    def _step_on_graphs(self, totals: Tensor) -> None:
        buffer, time = self.buffer, self.buffer["time"]
        draws = [buffer[f"{name}_draws"].index_select(1, time)[:, 0] for name in ("action", "reset", "noise")]
        self._step(draws, totals)
        buffer["pending"].copy_(buffer["due"].index_select(0, time)[0])
        time += 1

    def _learn_on_graphs(self, room: int, totals: Tensor) -> None:
        """A gradient step of all members that have one left to take after this step of the environments, and whose
        batch needs that much room."""
        buffer = self.buffer
        sizes = self._sizes()
        active = (buffer["pending"] > 0) & (sizes <= room) & (2 * sizes > room)
        self._learn(torch.arange(self.members, device=self.device), room, totals, active)
        buffer["pending"] -= active.long()
        buffer["taken"] += active.long()

    def _part(self, name: str, rows: Tensor) -> Tensor:
        """Some members of the state."""
        return self.state[name] if len(rows) == self.members else self.state[name][rows]

    def _sizes(self) -> Tensor:
        """Batch sizes, int64 ``[members]``."""
        return self.state["hyperparameters"][:, self.hyperparameters.index("batch_size")].long()

    def _keep(self, rows: Tensor, new: State, active: Tensor | None) -> None:
        """Bring what a gradient step has changed into the state."""
        for name, values in new.items():
            old = self.state[name]
            if active is not None:
                self.state[name] = torch.where(active[:, None] if values.dim() == 2 else active, values, old)
            elif len(rows) == self.members:
                self.state[name] = values
            else:
                old[rows] = values

    def _add_statistics(
        self, rows: Tensor, statistics: Sequence[Tensor], totals: Tensor, active: Tensor | None
    ) -> None:
        columns = torch.stack((*statistics, torch.ones_like(statistics[0])), dim=1).double()
        if active is None:
            totals[rows, self.totals.of_optimiser_steps] += columns
        else:
            totals[:, self.totals.of_optimiser_steps] += torch.where(active[:, None], columns, 0.0)

    # -- at the end of a segment

    @torch.no_grad()
    def _measure(self, totals: Tensor) -> None:
        """Plasticity on the latest observations, and how full the memory is."""
        recent = min(self.steps_per_rollout, self.config.buffer_size)
        seen = self._recent("observation", self._measured(recent))
        covariances = [covariance(layer) for layer in self._hidden(seen)]
        for name, values in (
            ("dormant_share", dormant_share(covariances)),
            ("feature_rank", feature_rank(covariances[-1])),
            ("buffer_fill", self.state["replay_size"].double() / self.config.buffer_size),
        ):
            totals[:, self.totals.index(name)] = values

    def _keep_snippet(self) -> None:
        envs = self.config.num_envs
        last = min(SNIPPET, self.config.num_steps, self.config.buffer_size // envs)
        for name in ("observation", "action", "reward"):
            newest = self._recent(name, range(last * envs - 1, -1, -envs))
            self.state[f"snippet_{name}"][:, SNIPPET - last :] = self._scaled(newest) if name == "action" else newest

    def _recent(self, name: str, ages: range) -> Tensor:
        """Rows of the memory by age, 0 the newest: ``[members, ages, ...]``."""
        rows = torch.arange(self.members, device=self.device)[:, None]
        age = torch.tensor(ages, device=self.device)
        values = self.state[f"replay_{name}"]
        return values[rows, (self.state["replay_position"][:, None] - 1 - age) % values.shape[1]]
