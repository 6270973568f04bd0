"""The meta-environment of the grid worlds: what it tells about levels that training does not see."""

from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from hpbench import tasks
from hpbench.control.episode import EnvOptions, EpisodeBatch
from hpbench.control.scoring import OBSERVED, held_out
from hpbench.learners.play import PLAY_CALLS
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.seeding import Stream

SMALL = {"steps": 4 * 2048, "decisions": 4, "evaluation_episodes": 5, "device": "cpu"}
KEEP = np.zeros(9, dtype=np.float32)


def batch(members: int = 3, **options: Any) -> EpisodeBatch:
    given = {"family": "grid", "task": "grid/empty-6x6", **SMALL, **options}
    made = EpisodeBatch(EnvOptions.parse(given), range(members))
    made.reset()
    return made


def test_the_gap_is_training_score_minus_score_on_other_levels() -> None:
    episodes = batch()
    before = [info["hpbench"]["evaluation_steps"] for info in episodes.infos()]
    step = episodes.step([KEEP] * 3)
    # The same episodes once more: the reward's evaluation has moved the stream on since.
    copies = episodes.population.fork([0, 1, 2])
    copies.state["rng_calls"][:, Stream.EVALUATION] += OBSERVED - PLAY_CALLS
    unseen = copies.evaluate(5)
    anchors = tasks.make("grid/empty-6x6").anchors
    for m, observation in enumerate(step.observations):
        values = episodes.specs[m].schema.values(observation)
        expected = values["score"] - anchors.score(float(unseen.returns[m].mean()))
        assert values["test_gap"] == pytest.approx(expected, abs=1e-5)
        spent = step.infos[m]["hpbench"]["evaluation_steps"] - before[m]
        assert spent > unseen.lengths[m].sum()


def test_watching_the_gap_changes_nothing() -> None:
    population = PPO(tasks.make("grid/lavagap-5x5"), range(2), PPOConfig(num_envs=2, num_steps=32))
    population.train(1)
    before = population.digests()
    scores, steps = held_out(population, 3)
    assert population.digests() == before
    assert min(steps) > 0
    assert np.isfinite(scores).all()
    assert held_out(population, 3) == (scores, steps)


def test_a_diverged_member_has_no_gap() -> None:
    episodes = batch(2)
    episodes.population.state["hyperparameters"][1, 0] = 1e30
    values = [episodes.specs[m].schema.values(o) for m, o in enumerate(episodes.step([KEEP] * 2).observations)]
    assert "test_gap" in values[0]
    assert "test_gap" not in values[1]


def test_text_shows_the_gap() -> None:
    env = gym.make("HPControl-Grid-v0", observation="text", task="grid/empty-6x6@train-3", **SMALL)
    env.reset(seed=1)
    text = env.step(KEEP)[0]
    assert re.search(r"test_gap [+-]\d+", text)
    assert "task grid/empty-6x6@train-3" in text


def test_without_a_task_the_seed_draws_one() -> None:
    env = gym.make("HPControl-Grid-v0", **SMALL)
    drawn = {env.reset(seed=seed)[1]["hpbench"]["task"] for seed in range(12)}
    assert len(drawn) > 4
    assert drawn <= set(tasks.task_ids("grid"))
