"""Single worlds of PettingZoo, stepped by their own code: particles (``mpe2``) and a pursuit on a grid (``pettingzoo``).

PettingZoo's environments hand out turns, and keep records of each. Here all agents of a world act at once, so only the
code beneath is called (for the pursuit: the same rules, faster): a step is what ``parallel_env().step`` computes. Every agent is given the mean of PettingZoo's
rewards of all agents. What a world is made of is saved as plain numbers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import MissingExtra
from hpbench.tasks.pettingzoo_pursuit import Pursuit


class World(Protocol):
    """One world with its agents."""

    def begin(self, seed: int) -> None:
        """A new episode, which is the same for the same seed whatever was played before."""
        ...

    def act(self, actions: Sequence[int]) -> tuple[float, bool]:
        """One step of all agents: the reward of each, and whether the episode has ended."""
        ...

    def write(self, rows: NDArray[np.float32]) -> None:
        """Write what each agent sees into the beginning of its row; the rest is left as it is."""
        ...

    def save(self) -> bytes:
        """All there is to it."""
        ...

    def load(self, state: bytes) -> None:
        """Become what was saved."""
        ...

    def text(self) -> str:
        """Where everybody is, as a line of text."""
        ...


class Particles:
    """A scenario of ``mpe2``: agents in a plane that push themselves, and some that speak.

    Within an episode it is deterministic: chance decides how an episode begins.

    Args:
        name: of its module.
        options: of its environment.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self._env = _import("mpe2", f"mpe2.{name}.{name}").raw_env(**options)
        self._agents, self._landmarks = self._env.world.agents, self._env.world.landmarks
        self._choices = [int(self._env.action_space(agent.name).n) for agent in self._agents]

    def begin(self, seed: int) -> None:
        """A new episode."""
        self._env.reset(seed=seed)

    def act(self, actions: Sequence[int]) -> tuple[float, bool]:
        """One step. What an agent cannot choose counts as its choice 0. Episodes do not end by themselves."""
        self._env.current_actions = [
            action if action < choices else 0 for action, choices in zip(actions, self._choices, strict=True)
        ]
        self._env._execute_world_step()
        rewards = self._env.rewards
        return sum(rewards[agent.name] for agent in self._agents) / len(self._agents), False

    def write(self, rows: NDArray[np.float32]) -> None:
        """The observations, padded with zeros."""
        for row, agent in zip(rows, self._agents, strict=True):
            seen = self._env.scenario.observation(agent, self._env.world)
            row[: len(seen)] = seen

    def save(self) -> bytes:
        """Positions and velocities, what is being said, goals, and where agents should be, as float64."""
        return np.concatenate([*self._numbers(), *([float(goal)] for goal in self._goals())], axis=None).tobytes()

    def load(self, state: bytes) -> None:
        """Become what was saved."""
        numbers = np.frombuffer(state, np.float64)
        start = 0
        for part in self._numbers():
            part[:] = numbers[start : start + len(part)]
            start += len(part)
        for agent, goal in zip(self._agents, numbers[start:].astype(int).tolist(), strict=True):
            if goal >= 0:
                agent.goal_b = self._landmarks[goal]

    def text(self) -> str:
        """Positions, what was said last, and the landmarks that are somebody's goal."""
        agents = ", ".join(f"{agent.name} at {_place(agent)}{self._said(agent)}" for agent in self._agents)
        landmarks = ", ".join(f"{index} at {_place(landmark)}" for index, landmark in enumerate(self._landmarks))
        goals = [
            f"{agent.goal_a.name} should go to {goal}"
            for agent, goal in zip(self._agents, self._goals(), strict=True)
            if goal >= 0
        ]
        return "; ".join([agents, f"landmarks {landmarks}", *goals])

    def _numbers(self) -> list[NDArray[np.float64]]:
        """The arrays that change, to be read or written."""
        moving = [array for agent in self._agents for array in (agent.state.p_pos, agent.state.p_vel, agent.state.c)]
        targets = getattr(self._env.scenario, "_expected_positions", ())  # of ``simple_line``, from the landmarks
        return [*moving, *(landmark.state.p_pos for landmark in self._landmarks), *targets]

    def _goals(self) -> list[int]:
        """The landmark that each agent knows as a goal, or -1. Landmarks do not define equality: they are looked up."""
        known = {id(landmark): index for index, landmark in enumerate(self._landmarks)}
        return [known.get(id(getattr(agent, "_goal_b", None)), -1) for agent in self._agents]

    def _said(self, agent: Any) -> str:
        return f" says {int(agent.state.c.argmax())}" if not agent.silent and agent.state.c.any() else ""


def _place(entity: Any) -> str:
    return "{:.2f},{:.2f}".format(*entity.state.p_pos)


def _import(package: str, module: str) -> Any:
    """A module of PettingZoo's.

    Raises:
        MissingExtra: if it, or what it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = package if error.name is None else error.name.partition(".")[0]
        raise MissingExtra(missing, "pettingzoo") from None


def _pursuit() -> World:
    return Pursuit(_import("pettingzoo", "pettingzoo.sisl.pursuit.pursuit_base").Pursuit())


WORLDS: Mapping[str, Callable[[], World]] = {
    "simple-spread": lambda: Particles("simple_spread"),
    "simple-speaker-listener": lambda: Particles("simple_speaker_listener"),
    "simple-reference": lambda: Particles("simple_reference"),
    "simple-line": lambda: Particles("simple_line"),
    "pursuit": _pursuit,
}
"""Makers of worlds by name, all with PettingZoo's defaults."""
