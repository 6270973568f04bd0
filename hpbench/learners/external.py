"""Environments of tasks that run in simulators: the same face as tensor tasks, and the same exactness.

What a population is, its state says: the copies of the simulator as saved bytes, too. The running simulators are a
cache of that. They move on while members train, are saved when somebody looks at the state ("settled"), and load what
is there when the state has been exchanged, but not before they step again. So fork, copy, snapshot and restore stay
indexing, and a population that never steps makes no simulator.
"""

from __future__ import annotations

import struct
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpbench.errors import InvalidConfiguration
from hpbench.learners.external_native import Exchanges
from hpbench.learners.rollout import DELAY, NOISE, REWARD_SCALE, Environments, Transition, policy_action
from hpbench.learners.simulator_pool import make_simulator
from hpbench.learners.simulator_split import make_parts
from hpbench.seeding import normal_from_uniform
from hpbench.tasks.base import MAX_DELAY, Task
from hpbench.tasks.simulator import Simulator

SPLIT = 128
"""From so many copies on, a simulator in processes has two halves: one steps while the policy looks at the other."""

_LENGTH = struct.Struct("<q")


class Running:
    """The simulator of one member, once it is needed.

    Attributes:
        current: whether it is where the state is, or further on; otherwise it has to load the state before it steps.
        ahead: whether it is further on, so that the state has to be settled.
    """

    def __init__(self) -> None:
        self._simulator: Simulator | None = None
        self.current = self.ahead = False

    def simulator(
        self, task: Task, envs: int, evaluation: bool, threads: int = 1, parts: int | None = None
    ) -> Simulator:
        """It is made when it is first asked for, and closed when nobody has it any more.

        Args:
            task: has a simulator.
            envs: copies.
            evaluation: on the levels for evaluation.
            threads: that it may have, if it runs in this process.
            parts: None: as the maker says. A number: in processes, as a simulator that has so many ``parts``.
        """
        if self._simulator is None:
            assert task.simulator is not None
            if parts is None:
                self._simulator = make_simulator(task.simulator, envs, evaluation, task.id, task.agents, threads)
            else:
                self._simulator = make_parts(task.simulator, envs, evaluation, task.id, parts)
            weakref.finalize(self, self._simulator.close)
        return self._simulator


class ExternalEnvironments(Environments):
    """``envs`` copies of a task with a simulator, per member. See :class:`~hpbench.learners.rollout.Environments`.

    In the state, ``env_simulator`` is uint8 ``[members, envs, 8 + state_bytes]``: how many bytes a copy was saved in,
    the bytes, and zeros.

    Args:
        task: has a simulator.
        envs: copies per member.
        evaluation: whether they play single episodes, on the levels for evaluation: what has ended does not go on.
        spread: whether the simulators run in processes, even if they could run in this one. It changes no result.
        threads: that simulators in this process may have. They change no result.

    Raises:
        InvalidConfiguration: if they do not make whole worlds of a task with several agents.
    """

    NAMES = ("env_elapsed", "env_return", "env_queue", "env_observation", "env_simulator")

    def __init__(self, task: Task, envs: int, evaluation: bool = False, spread: bool = False, threads: int = 1) -> None:
        super().__init__(task, envs)
        assert task.simulator is not None
        if envs % task.agents:
            near = (envs // task.agents + 1) * task.agents
            raise InvalidConfiguration(
                f"num_envs={envs} must be a multiple of the {task.agents} agents of {task.id}, for example {near}"
            )
        self.maker, self.evaluation, self.spread, self.threads = task.simulator, evaluation, spread, threads
        self.noisy = task.observation_dtype == "float32"
        self.noise_draws = 2 * task.observation_size if self.noisy else 0
        self.has_one_observation = self.maker.restarts_itself and not self.noisy
        """Whether a step has one observation of each copy, unchanged, and no other one of the episode that ended."""
        self.members: list[Running] = []
        self._evaluation: dict[int, ExternalEnvironments] = {}

    # -- environments

    def start(self, physics: Tensor, reset_draws: Tensor, noise_draws: Tensor) -> dict[str, Tensor]:
        """State of fresh episodes, from uniforms ``[members, envs, reset_draws]`` and ``[..., noise_draws]``."""
        shape, device = (len(physics), self.envs), physics.device
        self._extend(len(physics))
        seeds = episode_seeds(reset_draws)
        for m in range(shape[0]):
            self._simulator(m).reset(range(self.envs), seeds[m].tolist())
            self.members[m].current = self.members[m].ahead = True
        state = {
            "env_elapsed": torch.zeros(shape, dtype=torch.int64, device=device),
            "env_return": torch.zeros(shape, dtype=torch.float64, device=device),
            "env_queue": torch.zeros(*shape, MAX_DELAY, self.width, dtype=torch.float32, device=device),
            "env_observation": self._noised(self._observed(shape[0], device), physics, noise_draws),
        }
        if not self.evaluation:
            size = _LENGTH.size + self.maker.state_bytes
            state["env_simulator"] = torch.zeros(*shape, size, dtype=torch.uint8, device=device)
        return state

    def step(
        self, state: dict[str, Tensor], physics: Tensor, action: Tensor, reset: Tensor, noise: Tensor
    ) -> Transition:
        """Step all environments and restart those whose episode ended; ``state`` and the simulators move on."""
        self.load(state)
        self.begin(state, physics, action)
        return self.finish(state, physics, reset, noise)

    def begin(self, state: dict[str, Tensor], physics: Tensor, action: Tensor) -> None:
        """The first half of a step: give the simulators, which are where the state is, the actions."""
        applied = policy_action(self.task, self._delayed(state, physics, action)).cpu().numpy()
        playing = state["env_elapsed"].cpu().numpy() >= 0
        for m in range(len(physics)):
            which = None if playing[m].all() else np.flatnonzero(playing[m]).tolist()
            if which is None or which:
                self._simulator(m).step(applied[m], which)
            self.members[m].ahead = True

    def finish(
        self, state: dict[str, Tensor], physics: Tensor, reset: Tensor, noise: Tensor, room: Tensor | None = None
    ) -> Transition:
        """The second half: wait for the simulators.

        Args:
            room: on the CPU, where the observation is put, which the state then has; only if ``has_one_observation``.
        """
        device, members = physics.device, len(physics)
        if room is None:
            observation = self._observed(members, device)
        else:
            observation = room
            self._gathered("observation", members, room.numpy())
        # In NumPy: on a few numbers, an operation of PyTorch takes several times as long, and there are many here.
        reward, terminated = (self._gathered(name, members) for name in ("reward", "terminated"))
        length = state["env_elapsed"].cpu().numpy() + 1
        total = state["env_return"].cpu().numpy() + reward
        truncated = (length >= self.task.max_episode_steps) & ~terminated
        done = terminated | truncated
        final = first = self._noised(observation, physics, noise)
        elapsed, running = length, total
        if done.any():
            running = np.where(done, 0.0, total)
            elapsed = np.where(done, -1 - self.task.max_episode_steps if self.evaluation else 0, length)
            ended = torch.from_numpy(done).to(device)
            state["env_queue"] = torch.where(ended[..., None, None], 0.0, state["env_queue"])
        if not self.evaluation:
            waiting = truncated if self.maker.restarts_itself else done
            if waiting.any():
                self._restart(waiting, episode_seeds(reset))
                first = self._noised(self._observed(members, device, again=True), physics, noise)
        state["env_observation"] = first
        arrays = reward, terminated, truncated, total, length, elapsed, running
        gained, *others, state["env_elapsed"], state["env_return"] = (
            torch.from_numpy(array).to(device) for array in arrays
        )
        return Transition(final, gained * physics[:, REWARD_SCALE, None], *others)

    def _delayed(self, state: dict[str, Tensor], physics: Tensor, action: Tensor) -> Tensor:
        if physics.cpu().numpy()[:, DELAY].any():
            applied = super()._delayed(state, physics, action)
            state["env_queue"] = state["env_queue"].contiguous()
            return applied
        queue = state["env_queue"].cpu().numpy()
        moved = np.concatenate((action.cpu().numpy()[..., None, :], queue[..., :-1, :]), axis=-2)
        state["env_queue"] = torch.from_numpy(moved).to(action.device)
        return action

    def _restart(self, waiting: NDArray[np.bool_], seeds: NDArray[np.int64]) -> None:
        for m in np.flatnonzero(waiting.any(axis=1)).tolist():
            which = np.flatnonzero(waiting[m])
            self._simulator(m).reset(which.tolist(), seeds[m, which].tolist())

    def _noised(self, observation: Tensor, physics: Tensor, draws: Tensor) -> Tensor:
        if not self.noisy:
            return observation
        size = physics[:, NOISE, None, None].float()
        if not bool(size.any()):
            return observation
        return observation + size * normal_from_uniform(draws[..., ::2], draws[..., 1::2])

    def _observed(self, members: int, device: torch.device, again: bool = False) -> Tensor:
        """What the simulators show now; ``again``: after restarts amid a step."""
        del again
        return torch.from_numpy(self._gathered("observation", members)).to(device)

    def _gathered(self, name: str, members: int, room: NDArray[Any] | None = None) -> NDArray[Any]:
        """A copy of an array of all simulators, ``[members, envs, ...]``."""
        return np.stack([getattr(self._simulator(m), name) for m in range(members)], out=room)

    def _extend(self, members: int) -> None:
        self.members += [Running() for _ in range(members - len(self.members))]

    def _simulator(self, member: int) -> Simulator:
        parts = (1 if self.evaluation or self.envs < SPLIT else 2) if self.spread else None
        return self.members[member].simulator(self.task, self.envs, self.evaluation, self.threads, parts)

    # -- simulators and the state

    def load(self, state: dict[str, Tensor]) -> None:
        """Bring the simulators to where the state is that they do not know."""
        for m, running in enumerate(self.members):
            if not running.current and not self.evaluation:
                simulator = self._simulator(m)
                for env, row in enumerate(state["env_simulator"][m].cpu().numpy()):
                    (length,) = _LENGTH.unpack_from(row)
                    simulator.load(env, row[_LENGTH.size : _LENGTH.size + length].tobytes())
                running.current, running.ahead = True, False

    def exchanges(self, state: dict[str, Tensor]) -> Exchanges:
        """What the native engine moves the simulators with, from ``state`` on."""
        members = len(state["env_elapsed"])
        self._extend(members)
        self.load(state)
        for running in self.members[:members]:
            running.current = running.ahead = True
        return Exchanges(self.task, [self._simulator(m) for m in range(members)], self.envs)

    def settle(self, state: dict[str, Tensor]) -> None:
        """Save the simulators into the state, as far as they have moved on."""
        for m, running in enumerate(self.members):
            if running.ahead:
                saved = state["env_simulator"][m]
                saved.copy_(torch.from_numpy(self._saved(self._simulator(m), saved.shape[1])))
                running.ahead = False

    def _saved(self, simulator: Simulator, size: int) -> NDArray[np.uint8]:
        rows = np.zeros((self.envs, size), dtype=np.uint8)
        together = getattr(simulator, "save_all", None)  # in processes, a message for each copy takes long
        saved = map(simulator.save, range(self.envs)) if together is None else together(range(self.envs))
        for row, data in zip(rows, saved, strict=True):
            _LENGTH.pack_into(row, 0, len(data))
            row[_LENGTH.size : _LENGTH.size + len(data)] = np.frombuffer(data, dtype=np.uint8)
        return rows

    def replaced(self, members: Sequence[int]) -> None:
        """The state of those members has been exchanged: what runs there is worth nothing."""
        for m in members:
            self.members[m].current = self.members[m].ahead = False

    def separate(self, members: int) -> ExternalEnvironments:
        """Environments of a copy of the state. Nothing runs there yet, but what is for evaluation may be shared:
        between evaluations it means nothing."""
        return self._with([Running() for _ in range(members)])

    def choose(self, members: Sequence[int]) -> ExternalEnvironments:
        """The running simulators of those members. They are shared."""
        return self._with([self.members[m] for m in members])

    def _with(self, members: list[Running]) -> ExternalEnvironments:
        other = ExternalEnvironments(self.task, self.envs, self.evaluation, self.spread, self.threads)
        other.members, other._evaluation = members, self._evaluation
        return other

    def of_evaluation(self, episodes: int) -> ExternalEnvironments:
        """Others, to play that many episodes per member; the last ones are kept."""
        if episodes not in self._evaluation:
            self._evaluation.clear()
            envs = episodes * self.task.agents
            self._evaluation[episodes] = ExternalEnvironments(self.task, envs, True, self.spread, self.threads)
        return self._evaluation[episodes]

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: no running simulators."""
        return {**self.__dict__, "members": [Running() for _ in self.members], "_evaluation": {}}


def episode_seeds(draws: Tensor) -> NDArray[np.int64]:
    """Seeds of 31 bits out of two uniform numbers each: int64 ``[...]`` from ``[..., 2]``."""
    whole = (draws.double().cpu().numpy() * (2.0**16, 2.0**15)).astype(np.int64)
    seeds: NDArray[np.int64] = (whole[..., 0] << 15) | whole[..., 1]
    return seeds
