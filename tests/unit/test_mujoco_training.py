"""Populations on MuJoCo tasks: they learn, a member stops alone, time limits cut, meta-episodes are repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import hpbench  # noqa: F401 (registers the environments)
from hpbench import tasks
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.learners.sac import SAC, SACConfig

pytest.importorskip("mujoco", reason="MuJoCo is not installed")
pytest.importorskip("imageio", reason="Gymnasium's MuJoCo environments import imageio")


def test_ppo_learns_to_balance_a_pole() -> None:
    task = tasks.make("mujoco/inverted-pendulum")
    config = PPOConfig(**task.learner_config["small"]["ppo"])
    population = PPO(task, [0], config, dict(task.hand_tuned["ppo"].values))
    before = float(population.evaluate(8).returns.mean())
    population.train(12)
    after = float(population.evaluate(8).returns.mean())
    assert before < 20
    assert after > 60, "seeds 0 to 2 reached 84 to 290 in as many steps"


def test_sac_trains_on_what_it_saw() -> None:
    task = tasks.make("mujoco/hopper")
    population = SAC(task, [0], SACConfig(num_envs=2, num_steps=32, learning_starts=64), {"updates_per_step": 0.25})
    before = population.state["parameters"].clone()
    metrics = population.train(3)
    assert not torch.equal(population.state["parameters"], before)
    assert np.isfinite(metrics["return_mean"][0])
    assert not population.diverged.any()


def test_a_member_that_diverges_stops_alone_and_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """MuJoCo warns of actions that are no numbers, on the screen and in a file."""
    monkeypatch.chdir(tmp_path)
    config, values = PPOConfig(num_envs=2, num_steps=16), {"update_epochs": 1, "minibatches": 2}
    sick, well = (PPO(tasks.make("mujoco/hopper"), [0, 1], config, values) for _ in range(2))
    sick.train(1)
    well.train(1)
    sick.state["parameters"][0] = np.nan
    sick.train(2)
    well.train(2)
    assert sick.diverged.tolist() == [True, False]
    assert torch.equal(sick.state["env_elapsed"][1], well.state["env_elapsed"][1])
    assert np.isnan(sick.evaluate(1).returns[0]).all()
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


def test_time_limits_cut_episodes_that_do_not_end() -> None:
    """An episode of Reacher takes 50 steps, always."""
    config = PPOConfig(num_envs=2, num_steps=60)
    population = PPO(tasks.make("mujoco/reacher"), [0], config, {"update_epochs": 1, "minibatches": 2})
    population.train(1)
    assert population.buffer["truncated"][..., 0].sum() == population.buffer["done"][..., 0].sum()
    assert population.state["env_elapsed"].tolist() == [[10, 10]]
    assert population.evaluate(2).lengths.tolist() == [[50, 50]]


@pytest.mark.parametrize("learner", ["ppo", "sac"])
def test_a_meta_episode_from_beginning_to_end(learner: str) -> None:
    """The environment of the family, with scores from the task's anchors, and the same again from the same seed."""
    options: dict[str, Any] = {
        "task": "mujoco/inverted-pendulum",
        "learner": learner,
        "steps": 512,
        "decisions": 2,
        "evaluation_episodes": 2,
        "learner_config": {"num_envs": 4, "num_steps": 32},
    }
    runs = []
    for _ in range(2):
        env: Any = gym.make("HPControl-MuJoCo-v0", **options)
        env.action_space.seed(0)
        env.reset(seed=3)
        env.step(env.action_space.sample())
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        assert terminated or truncated
        runs.append(info["hpbench"])
        env.close()
    first, second = runs
    assert first["digest"] == second["digest"]
    anchors = tasks.make("mujoco/inverted-pendulum").anchors
    assert first["score"] == pytest.approx(anchors.score(first["return"]))
