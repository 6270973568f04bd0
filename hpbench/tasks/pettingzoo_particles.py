"""Cooperative scenarios of ``mpe2``, any number of worlds in one pass of NumPy, which is much faster than one by one.

Agents in a plane push themselves, bounce off each other and may speak. ``mpe2`` begins the episodes and says what a
world is made of; how it moves on, what it rewards and what it shows is computed here, in the same order of operations,
so that every number is the same (the tests compare them all).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import MissingExtra

Floats = NDArray[np.float64]
Rows = slice | NDArray[np.int64]
"""Of worlds."""

PUSHES = 5.0 * np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float64)
"""Force of each choice: none, left, right, down, up."""
COLOURS = {
    "simple_speaker_listener": np.eye(3) * 0.5 + 0.15,
    "simple_reference": np.eye(3) * 0.5 + 0.25,
}
"""Of the landmarks, by which agents know them."""


class Particles:
    """Worlds of a scenario. See :class:`~hpbench.tasks.pettingzoo_worlds.Worlds`.

    Args:
        scenario: name of the module of ``mpe2``, a key of :data:`SCENARIOS`.
        count: worlds.

    Raises:
        MissingExtra: if ``mpe2`` is not installed.
    """

    def __init__(self, scenario: str, count: int) -> None:
        self._env = _scenario(scenario).raw_env()
        self._rules = SCENARIOS[scenario]
        world = self._env.world
        agents, landmarks = len(world.agents), len(world.landmarks)
        self.size = world.agents[0].size
        self._choices = np.array([self._env.action_space(agent.name).n for agent in world.agents])
        self._movable = np.array([agent.movable for agent in world.agents])
        self._speaks = np.array([not agent.silent for agent in world.agents])
        self._damping, self._contact, self._dt = 1 - world.damping, world.contact_force, world.dt
        self._margin = world.contact_margin
        pairs = [(a, b) for b in range(agents) for a in range(b)] if world.agents[0].collide else []
        self._pairs = sorted(pairs)
        self.colours = COLOURS.get(scenario, np.zeros((landmarks, 3)))
        targets = len(getattr(self._env.scenario, "_expected_positions", ()))
        # Everything that a world is, an array for each kind of number.
        self.position, self.velocity = np.zeros((count, agents, 2)), np.zeros((count, agents, 2))
        self.said = np.zeros((count, agents, world.dim_c))
        self.landmark, self.target = np.zeros((count, landmarks, 2)), np.zeros((count, targets, 2))
        self.goal = np.zeros((count, agents))
        """Number of the landmark that the agent knows as the other agent's goal."""
        self._parts = (self.position, self.velocity, self.said, self.landmark, self.target, self.goal)

    def begin(self, world: int, seed: int) -> None:
        """A new episode, as ``mpe2`` begins it."""
        self._env.reset(seed=seed)
        made, landmarks = self._env.world, self._env.world.landmarks
        self.position[world] = [agent.state.p_pos for agent in made.agents]
        self.velocity[world] = self.said[world] = 0.0
        self.landmark[world] = [landmark.state.p_pos for landmark in landmarks]
        if self.target.size:
            self.target[world] = self._env.scenario._expected_positions
        for index, agent in enumerate(made.agents):
            goal = getattr(agent, "_goal_b", None)  # landmarks are equal to nothing but themselves
            self.goal[world, index] = 0.0 if goal is None else [goal is each for each in landmarks].index(True)

    def act(self, rows: Rows, actions: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
        """One step. What an agent cannot choose counts as its choice 0. Episodes do not end by themselves."""
        actions = np.where(actions < self._choices, actions, 0)
        force = PUSHES[actions % len(PUSHES)]
        position, velocity = self.position[rows], self.velocity[rows]
        self._collide(position, force)
        movable = self._movable
        position[:, movable] += velocity[:, movable] * self._dt
        velocity[:, movable] = velocity[:, movable] * self._damping + force[:, movable] * self._dt
        self.position[rows], self.velocity[rows] = position, velocity
        for agent in np.flatnonzero(self._speaks):
            said = actions[:, agent] // (len(PUSHES) if movable[agent] else 1)
            self.said[rows, agent] = np.eye(self.said.shape[2])[said]
        reward = self._rules.reward(self, rows)
        return reward, np.zeros(len(reward), np.bool_)

    def write(self, rows: Rows, seen: NDArray[np.float32]) -> None:
        """What the agents see ``[worlds, agents, seen]``, from the left."""
        self._rules.show(self, rows, seen)

    def save(self, world: int) -> bytes:
        """All numbers of a world, as float64."""
        return b"".join(part[world].tobytes() for part in self._parts)

    def load(self, world: int, state: bytes) -> None:
        """Become what was saved."""
        start, numbers = 0, np.frombuffer(state, np.float64)
        for part in self._parts:
            row = part[world]
            row[...] = numbers[start : start + row.size].reshape(row.shape)
            start += row.size

    def _collide(self, position: Floats, force: Floats) -> None:
        """Add to the forces ``[worlds, agents, 2]`` what agents that touch do to each other."""
        if not self._pairs:
            return
        first, second = np.array(self._pairs).T
        delta = position[:, first] - position[:, second]
        distance = np.sqrt(np.square(delta).sum(axis=-1))
        depth = np.logaddexp(0, -(distance - (self.size + self.size)) / self._margin) * self._margin
        pushed = self._contact * delta / distance[..., None] * depth[..., None]
        for pair, (a, b) in enumerate(self._pairs):
            force[:, a] += pushed[:, pair]
            force[:, b] -= pushed[:, pair]


# -- scenarios: the mean reward of all agents, and what each sees ------------------------------------------------------


def _spread_reward(p: Particles, rows: Rows) -> Floats:
    """Half of it for all: minus the distance of each landmark to the nearest agent. Half: minus 1 per collision."""
    position = p.position[rows]
    nearest = _distance(position[:, None], p.landmark[rows][:, :, None]).min(axis=2)
    collisions = (_distance(position[:, None], position[:, :, None]) < p.size + p.size).sum(axis=2) - 1.0
    shared = -nearest[:, 0] - nearest[:, 1] - nearest[:, 2]
    return _mean(shared[:, None] * 0.5 + -collisions * 0.5)


def _spread_show(p: Particles, rows: Rows, seen: NDArray[np.float32]) -> None:
    """Velocity, position, landmarks and the others from there; nobody speaks."""
    position = p.position[rows]
    seen[..., :2], seen[..., 2:4], seen[..., 4:10] = p.velocity[rows], position, _relative(p.landmark[rows], position)
    others = position[:, [[1, 2], [0, 2], [0, 1]]] - position[:, :, None]
    seen[..., 10:14], seen[..., 14:18] = others.reshape(len(others), 3, 4), 0.0


def _listener_reward(p: Particles, rows: Rows) -> Floats:
    """Minus the squared distance of the listener to its goal."""
    squared: Floats = np.square(p.position[rows, 1] - _goals(p, rows)[:, 0]).sum(axis=-1)
    return -squared


def _listener_show(p: Particles, rows: Rows, seen: NDArray[np.float32]) -> None:
    """The speaker: the colour of the goal. The listener: velocity, landmarks from there, what was said."""
    seen[:, 0, :3], seen[:, 0, 3:11] = p.colours[p.goal[rows, 0].astype(np.int64)], 0.0
    seen[:, 1, :2], seen[:, 1, 2:8] = p.velocity[rows, 1], _relative(p.landmark[rows], p.position[rows])[:, 1]
    seen[:, 1, 8:11] = p.said[rows, 0]


def _reference_reward(p: Particles, rows: Rows) -> Floats:
    """Minus the distance to the goal: half the agent's that this one directs, half the mean of both."""
    own = -_distance(p.position[rows][:, ::-1], _goals(p, rows))
    shared = (own[:, 0] + own[:, 1]) / 2
    return _mean(shared[:, None] * 0.5 + own * 0.5)


def _reference_show(p: Particles, rows: Rows, seen: NDArray[np.float32]) -> None:
    """Velocity, landmarks from there, the colour of the other's goal, what the other said."""
    seen[..., :2], seen[..., 2:8] = p.velocity[rows], _relative(p.landmark[rows], p.position[rows])
    seen[..., 8:11], seen[..., 11:21] = p.colours[p.goal[rows].astype(np.int64)], p.said[rows][:, ::-1]


def _line_reward(p: Particles, rows: Rows) -> Floats:
    """Minus the mean distance to the places on the line, dealt out so that the sum of distances is least."""
    from scipy.optimize import linear_sum_assignment

    away = p.position[rows][:, :, None] - p.target[rows][:, None]
    distance = np.sqrt((away[..., None, :] @ away[..., None])[..., 0, 0])  # a product, as in np.linalg.norm
    dealt = np.array([each[linear_sum_assignment(each)] for each in distance])
    reward = -dealt.clip(0, 2).mean(axis=1)
    return _mean(np.repeat(reward[:, None], p.position.shape[1], axis=1))


def _line_show(p: Particles, rows: Rows, seen: NDArray[np.float32]) -> None:
    """Velocity, position, the ends of the line from there."""
    position = p.position[rows]
    seen[..., :2], seen[..., 2:4], seen[..., 4:8] = p.velocity[rows], position, _relative(p.landmark[rows], position)


@dataclass(frozen=True)
class Rules:
    """What sets a scenario apart: rewards float64 ``[rows]``, observations into ``[rows, agents, seen]``."""

    reward: Callable[[Particles, Rows], Floats]
    show: Callable[[Particles, Rows, NDArray[np.float32]], None]


SCENARIOS: Mapping[str, Rules] = {
    "simple_spread": Rules(_spread_reward, _spread_show),
    "simple_speaker_listener": Rules(_listener_reward, _listener_show),
    "simple_reference": Rules(_reference_reward, _reference_show),
    "simple_line": Rules(_line_reward, _line_show),
}
"""By module of ``mpe2``, with its standard numbers of agents and landmarks."""


def _distance(a: Floats, b: Floats) -> Floats:
    distance: Floats = np.sqrt(np.square(a - b).sum(axis=-1))
    return distance


def _mean(rewards: Floats) -> Floats:
    """Over agents, of ``[rows, agents]``."""
    mean: Floats = rewards.mean(axis=1)
    return mean


def _relative(landmark: Floats, position: Floats) -> Floats:
    """Landmarks as each agent sees them: ``[rows, agents, 2 * landmarks]``."""
    return (landmark[:, None] - position[:, :, None]).reshape(*position.shape[:2], -1)


def _goals(p: Particles, rows: Rows) -> Floats:
    """The place that each agent knows as the other's goal: ``[rows, agents, 2]``."""
    return np.take_along_axis(p.landmark[rows], p.goal[rows].astype(np.int64)[..., None], axis=1)


def _scenario(name: str) -> Any:
    try:
        return importlib.import_module(f"mpe2.{name}.{name}")
    except ImportError as error:
        missing = "mpe2" if error.name is None else error.name.partition(".")[0]
        raise MissingExtra(missing, "pettingzoo") from None
