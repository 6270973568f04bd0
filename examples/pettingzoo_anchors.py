"""What a random policy and a scripted one reach on PettingZoo tasks: the anchors of ``hpbench/tasks/pettingzoo.py``.

    python examples/pettingzoo_anchors.py                # all tasks: a minute on one core
    python examples/pettingzoo_anchors.py --tasks pursuit --episodes 32

The random policy draws the actions of all agents uniformly from the task's choices. The scripted one is for the tasks
in the plane: it is told what agents would have to tell each other, who should go where (to the landmarks and places on
the line, so that the sum of the distances is least), and steers each agent there, along the longer axis.
Episodes have the seeds 0, 1, 2, ...; mean returns are written with their standard errors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from hpbench.tasks.pettingzoo import TASKS
from hpbench.tasks.pettingzoo_particles import Particles
from hpbench.tasks.pettingzoo_worlds import WORLDS, Worlds

OUT = Path(__file__).parent / "results" / "pettingzoo_anchors.json"
EPISODES = {"pursuit": 1_000}
BRAKE, NEAR = 0.2, 0.02
"""How many steps of its present velocity an agent reckons with, and how near is there: the best of a small grid."""

Floats = NDArray[np.float64]
Policy = Callable[[int, Worlds], NDArray[np.int64]]


def play(name: str, episodes: int, policy: Policy) -> tuple[Floats, Floats]:
    """Returns and lengths of that many episodes, side by side."""
    worlds = WORLDS[name](episodes)
    for seed in range(episodes):
        worlds.begin(seed, seed)
    returns, lengths, running = np.zeros(episodes), np.zeros(episodes), np.arange(episodes)
    for step in range(TASKS[name].max_episode_steps):
        reward, ended = worlds.act(running, policy(step, worlds)[running])
        returns[running] += reward
        lengths[running] += 1
        running = running[~ended]
        if not running.size:
            break
    return returns, lengths


def uniform(name: str, episodes: int) -> Policy:
    """Uniformly random choices, from one generator."""
    generator, task = np.random.default_rng(0), TASKS[name]
    return lambda step, worlds: generator.integers(task.action_count, size=(episodes, task.agents))


def scripted(name: str) -> Policy:
    """Every agent goes where it should."""
    targets: list[Floats] = []

    def act(step: int, worlds: Worlds) -> NDArray[np.int64]:
        assert isinstance(worlds, Particles)
        if step == 0:
            targets[:] = [TARGETS[name](worlds)]
        way = targets[0] - worlds.position - BRAKE * worlds.velocity
        across = np.abs(way[..., 0]) > np.abs(way[..., 1])
        moves = np.where(across, np.where(way[..., 0] > 0, 2, 1), np.where(way[..., 1] > 0, 4, 3))
        return np.where(np.abs(way).max(axis=-1) < NEAR, 0, moves)

    return act


def told(worlds: Particles, goals: NDArray[np.int64]) -> Floats:
    """Landmarks by number ``[worlds, agents]``."""
    return np.take_along_axis(worlds.landmark, goals[..., None], axis=1)


def dealt(worlds: Particles, places: Floats) -> Floats:
    """Every agent's share of the places."""
    away = np.linalg.norm(worlds.position[:, :, None] - places[:, None], axis=-1)
    return np.array([place[linear_sum_assignment(each)[1]] for each, place in zip(away, places, strict=True)])


TARGETS: dict[str, Callable[[Particles], Floats]] = {
    "simple-speaker-listener": lambda worlds: told(worlds, worlds.goal[:, [0, 0]].astype(np.int64)),
    "simple-reference": lambda worlds: told(worlds, worlds.goal[:, ::-1].astype(np.int64)),
    "simple-spread": lambda worlds: dealt(worlds, worlds.landmark),
    "simple-line": lambda worlds: dealt(worlds, worlds.target),
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--episodes", type=int, help="default: 10,000; pursuit: 1,000")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.tasks:
        episodes = EPISODES.get(name, 10_000) if options.episodes is None else options.episodes
        policies = {"random": uniform(name, episodes)}
        if name in TARGETS:
            policies["scripted"] = scripted(name)
        for label, policy in policies.items():
            returns, lengths = play(name, episodes, policy)
            row = {
                "task": name,
                "policy": label,
                "episodes": episodes,
                "mean": round(float(returns.mean()), 3),
                "standard_error": round(float(returns.std(ddof=1) / episodes**0.5), 3),
                "best": round(float(returns.max()), 3),
                "steps": round(float(lengths.mean()), 1),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    versions = {name: version(name) for name in ("mpe2", "pettingzoo")}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**versions, "rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
