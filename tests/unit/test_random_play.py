"""Random play: the same episodes whatever is played beside them, and the scripts that measure anchors with it."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from hpbench import tasks
from hpbench.errors import InvalidConfiguration
from hpbench.learners.simulator_pool import make_simulator
from hpbench.tasks.random_play import Played, random_play
from hpbench.tasks.replay import ReplaySimulator

FOLDER = Path(__file__).parents[2] / "examples"
LIMIT = 12
TASK = replace(tasks.make("classic/cartpole"), action_count=3, max_episode_steps=LIMIT)


class Adding:
    """Adds up actions from a number on that the seed gives, and is over from 12 on: the reward is the action."""

    def begin(self, seed: int) -> None:
        self.total = seed % 5

    def act(self, action: int) -> tuple[float, bool]:
        self.total += action
        return float(action), self.total >= 12

    def write(self, row: Any) -> None:
        row[0] = self.total

    def close(self) -> None:
        pass


def played(episodes: int, copies: int) -> Played:
    return random_play(TASK, ReplaySimulator([Adding() for _ in range(copies)], 1, np.int16), episodes)


def test_returns_lengths_and_ends_are_those_of_the_episodes() -> None:
    found = played(40, 1)
    for seed in range(40):
        actions, total = np.random.default_rng(seed).integers(3, size=LIMIT), seed % 5
        over = np.flatnonzero(total + actions.cumsum() >= 12)
        steps = int(over[0]) + 1 if over.size else LIMIT
        assert (found.lengths[seed], found.returns[seed]) == (steps, actions[:steps].sum())
        assert found.ended[seed] == bool(over.size)
    assert 0.0 < found.ended.mean() < 1.0


@pytest.mark.parametrize("copies", [2, 7, 50])
def test_an_episode_does_not_depend_on_those_beside_it(copies: int) -> None:
    one, several = played(40, 1), played(40, copies)
    for name in ("returns", "lengths", "ended"):
        np.testing.assert_array_equal(getattr(several, name), getattr(one, name))


def test_the_summary_is_that_of_the_returns() -> None:
    found = Played(np.array([1.0, 2.0, 6.0]), np.array([3, 4, 4]), np.array([True, False, True]))
    assert found.summary() == {
        "episodes": 3, "mean": 3.0, "standard_error": round((7.0 / 3.0) ** 0.5, 4), "median": 2.0, "p95": 5.6,
        "best": 6.0, "ended": 0.6667, "steps": 3.7,
    }  # fmt: skip


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(InvalidConfiguration, match="at least 2 episodes, got 1"):
        played(1, 1).summary()
    with pytest.raises(InvalidConfiguration, match="has 2 agents"):
        random_play(replace(TASK, agents=2), ReplaySimulator([Adding(), Adding()], 1, np.int16), 2)


def test_continuous_actions_are_drawn_from_the_bounds() -> None:
    pytest.importorskip("mujoco", reason='needs pip install "hpbench[mujoco]"')
    task = tasks.make("mujoco/inverted-pendulum")
    assert task.simulator is not None
    found, env = random_play(task, make_simulator(task.simulator, 4), 6), gym.make("InvertedPendulum-v5")
    for seed in range(6):
        generator, total, length, ended = np.random.default_rng(seed), 0.0, 0, False
        env.reset(seed=seed)
        while not ended:
            action = generator.uniform(-3.0, 3.0, 1).astype(np.float32)
            _, reward, ended, _, _ = env.step(action)
            total, length = total + float(reward), length + 1
        assert (found.returns[seed], found.lengths[seed]) == (total, length)
    env.close()


@pytest.mark.skipif(not FOLDER.is_dir(), reason="examples are part of the source checkout only")
@pytest.mark.parametrize(
    ("script", "module", "arguments", "again"),
    [
        ("mujoco_anchors", "mujoco", ("--tasks", "inverted-pendulum"), True),
        ("nethack_anchors", "nle", ("--tasks", "staircase-pet", "--episodes", "2"), False),
        ("doom_anchors", "vizdoom", ("--scenarios", "predict_position", "--episodes", "4", "--batch", "2"), False),
    ],
)
def test_the_scripts_write_rows_like_the_committed_ones(
    script: str,
    module: str,
    arguments: tuple[str, ...],
    again: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Where all episodes take no time, the very row comes out again."""
    pytest.importorskip(module)
    monkeypatch.setattr(sys, "argv", [script, *arguments, "--out", str(tmp_path / "rows.json")])
    runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")
    (row,) = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]
    committed = json.loads((FOLDER / "results" / f"{script}.json").read_text(encoding="utf-8"))["rows"]
    name = next(iter(row))
    (before,) = (other for other in committed if other[name] == row[name])
    assert row.keys() == before.keys()
    assert row.get("limit") == before.get("limit")
    assert row["steps"] > 0
    if again:
        assert row == before
