"""Stepping tasks for a population: actions in, transitions out, episodes restarted on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hpbench.seeding import normal_from_uniform
from hpbench.tasks.base import COMMON_PHYSICS, MAX_DELAY, Task

if TYPE_CHECKING:
    from hpbench.learners.external_native import Exchanges

REWARD_SCALE, NOISE, DELAY = range(len(COMMON_PHYSICS))


@dataclass(frozen=True)
class Transition:
    """What one step of all environments gave, each ``[members, envs, ...]``.

    Args:
        final_observation: observation after the step, before any restart; in the task's dtype.
        reward: scaled reward that the learner sees; float64.
        terminated, truncated: bool; never both.
        episode_return: unscaled return of the running episode including this step; float64.
        episode_length: its length in steps; int64.
    """

    final_observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    episode_return: Tensor
    episode_length: Tensor


def physics_of(tasks: Sequence[Task], device: torch.device) -> Tensor:
    """Physics table of the members, float64 ``[members, columns]``."""
    return torch.tensor([task.physics_row() for task in tasks], dtype=torch.float64, device=device)


def evaluation_physics(task: Task, physics: Tensor) -> Tensor:
    """The same table as evaluation episodes have it: with the task's ``evaluation_physics``, if there are any."""
    if not task.evaluation_physics:
        return physics
    physics, columns = physics.clone(), list(task.dynamics.physics)
    for name, value in task.evaluation_physics.items():
        physics[:, columns.index(name)] = value
    return physics


def policy_action(task: Task, action: Tensor) -> Tensor:
    """What the environment receives for a policy's ``[members, envs, width]`` action: indices or clipped vectors."""
    if task.discrete:
        return action[..., 0].long()
    return action.clamp(task.action_low, task.action_high)


class Environments:
    """``envs`` copies of a tensor task per member. All that changes is kept in ``state``, under ``env_*``.

    Random numbers come in from outside: uniforms for restarts and for observation noise.
    """

    NAMES = ("env_state", "env_elapsed", "env_return", "env_queue", "env_observation")
    """The entries of the state that :meth:`step` changes."""

    def __init__(self, task: Task, envs: int) -> None:
        self.task, self.dynamics, self.envs = task, task.dynamics, envs
        self.width = 1 if task.discrete else task.action_count
        self.reset_draws = self.dynamics.reset_draws
        self.noise_draws = 2 * task.observation_size

    def start(self, physics: Tensor, reset_draws: Tensor, noise_draws: Tensor) -> dict[str, Tensor]:
        """State of fresh episodes, from uniforms ``[members, envs, reset_draws]`` and ``[..., noise_draws]``."""
        shape, device = (len(physics), self.envs), physics.device
        state = {
            "env_state": self.dynamics.reset(reset_draws.double(), physics),
            "env_elapsed": torch.zeros(shape, dtype=torch.int64, device=device),
            "env_return": torch.zeros(shape, dtype=torch.float64, device=device),
            "env_queue": torch.zeros(*shape, MAX_DELAY, self.width, dtype=torch.float32, device=device),
        }
        state["env_observation"] = self._observe(state["env_state"], physics, noise_draws)
        return state

    def step(
        self, state: dict[str, Tensor], physics: Tensor, action: Tensor, reset: Tensor, noise: Tensor
    ) -> Transition:
        """Step all environments and restart those whose episode ended; ``state`` is updated.

        Args:
            state: as made by :meth:`start`.
            physics: float64 ``[members, columns]``.
            action: policy output, float32 ``[members, envs, width]``.
            reset: uniforms ``[members, envs, reset_draws]`` for the restarts.
            noise: uniforms ``[members, envs, noise_draws]`` for the observation noise; one draw serves the final
                observation and, where the episode ended, the first one of the next.
        """
        applied = policy_action(self.task, self._delayed(state, physics, action))
        after, reward, terminated = self.dynamics.step(state["env_state"], applied, physics)
        length = state["env_elapsed"] + 1
        total = state["env_return"] + reward
        truncated = (length >= self.task.max_episode_steps) & ~terminated
        done = terminated | truncated
        final = self._observe(after, physics, noise)
        fresh = self.dynamics.reset(reset.double(), physics)
        state["env_state"] = torch.where(done[..., None], fresh, after)
        state["env_observation"] = torch.where(done[..., None], self._observe(fresh, physics, noise), final)
        state["env_elapsed"] = torch.where(done, 0, length)
        state["env_return"] = torch.where(done, 0.0, total)
        state["env_queue"] = torch.where(done[..., None, None], 0.0, state["env_queue"])
        return Transition(final, reward * physics[:, REWARD_SCALE, None], terminated, truncated, total, length)

    # What tasks with simulators do here, see ``external.py``: tensor tasks have nothing outside of the state.

    def settle(self, state: dict[str, Tensor]) -> None:
        """Bring ``state`` up to date."""

    def replaced(self, members: Sequence[int]) -> None:
        """The state of those members has been exchanged."""

    def separate(self, members: int) -> Environments:
        """The same environments for a copy of the state, of that many members."""
        return self

    def choose(self, members: Sequence[int]) -> Environments:
        """The same environments for some of the members."""
        return self

    def exchanges(self, state: dict[str, Tensor]) -> Exchanges | None:
        """What the native engine moves them with, from ``state`` on, where it cannot do so itself."""
        return None

    def of_evaluation(self, episodes: int) -> Environments:
        """Others, to play that many episodes per member."""
        return Environments(self.task, episodes)

    def _delayed(self, state: dict[str, Tensor], physics: Tensor, action: Tensor) -> Tensor:
        """The action given ``action_delay`` steps ago; zeros (discrete: action 0) before an episode's first."""
        history = torch.cat((action[..., None, :], state["env_queue"]), dim=-2)
        state["env_queue"] = history[..., :MAX_DELAY, :]
        index = physics[:, DELAY].long()[:, None, None, None].expand(-1, self.envs, 1, self.width)
        return torch.gather(history, -2, index).squeeze(-2)

    def _observe(self, state: Tensor, physics: Tensor, draws: Tensor) -> Tensor:
        noise = normal_from_uniform(draws[..., ::2], draws[..., 1::2])
        return self.dynamics.observe(state, physics) + physics[:, NOISE, None, None].float() * noise
