"""What meta-episodes pay, above all when training diverges."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest

from control_env import OBSERVATIONS, REWARDS, actions_of, make, play, same
from hpbench.control.episode import EpisodeBatch

# -- rewards -----------------------------------------------------------------------------------------------------------


def test_progress_adds_up_to_the_gain_and_auc_to_the_mean() -> None:
    progress, auc = make(reward="progress"), make(reward="auc")
    actions = actions_of(progress)
    ours, theirs = play(progress, actions, seed=9), play(auc, actions, seed=9)
    scores = [outcome[-1]["hpbench"]["score"] for outcome in ours]
    assert sum(outcome[1] for outcome in ours[1:]) == pytest.approx(scores[-1] - scores[0])
    assert sum(outcome[1] for outcome in theirs[1:]) == pytest.approx(np.mean(scores[1:]))
    assert scores == [outcome[-1]["hpbench"]["score"] for outcome in theirs]


def test_uplift_is_the_score_minus_that_of_an_untouched_copy() -> None:
    env, plain = make(reward="uplift", evaluation_episodes=4), make(evaluation_episodes=4)
    actions = actions_of(env)
    play(env, actions[:1], seed=9)
    play(plain, actions[:1], seed=9)
    kept = plain.spawn(1)[0].step(np.zeros(9, dtype=np.float32))[4]["hpbench"]["score"]
    _, reward, _, _, info = env.step(actions[1])
    updated = plain.step(actions[1])[4]["hpbench"]
    assert info["hpbench"]["digest"] == updated["digest"], "the copy leaves the learner alone"
    assert reward == pytest.approx(updated["score"] - kept)
    assert reward != 0.0
    assert info["hpbench"]["counterfactual_steps"] == info["hpbench"]["steps"] == 256
    assert info["hpbench"]["counterfactual_evaluation_steps"] > 0


# -- divergence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_divergence_ends_the_episode_at_the_floor(reward: str, observation: str) -> None:
    env = make(reward=reward, observation=observation)
    action = actions_of(env)[0]
    *_, before = play(env, [action], seed=0)[-1]
    env.batch.population.state["parameters"][:] = float("nan")
    observation_, earned, terminated, truncated, info = env.step(action)
    info = info["hpbench"]
    assert (terminated, truncated, info["diverged"]) == (True, False, True)
    assert (info["score"], info["return"]) == (0.0, 0.0)
    assert observation_ in env.observation_space
    previous = before["hpbench"]["score"]
    assert info["meta_score"] == pytest.approx(0.5 * previous / 4)
    if reward == "progress":
        assert earned == -previous
    if reward == "auc":
        assert earned == 0.0
    with pytest.raises(gym.error.ResetNeeded):
        env.step(action)
    assert env.reset(seed=0)[1]["hpbench"]["diverged"] is False


def test_a_member_that_diverges_touches_nobody_else() -> None:
    options = dataclasses.replace(make().options, observation="dict")
    batch, calm = EpisodeBatch(options, [0, 1, 2]), EpisodeBatch(options, [0, 2])
    action = np.zeros(9, dtype=np.float32)
    batch.reset()
    calm.reset()
    batch.population.state["hyperparameters"][1, 0] = 1e30  # no action leads there
    ended = None
    for decision in range(4):
        step, expected = batch.step([action] * 3), calm.step([action] * 2)
        assert (step.rewards.dtype, step.terminated.dtype, step.truncated.dtype) == (np.float64, np.bool_, np.bool_)
        assert same([step.infos[0], step.infos[2]], expected.infos)
        assert same([step.observations[0], step.observations[2]], expected.observations)
        if step.terminated[1] and ended is None:
            ended = step
            assert not step.truncated[1]
        elif ended is not None:
            assert step.rewards[1] == 0.0
            assert same(step.infos[1], ended.infos[1])
            assert same(step.observations[1], ended.observations[1])
        assert step.truncated.tolist() == [decision == 3, False, decision == 3]
    assert ended is not None, "the learning rate must have broken the learner"
    with pytest.raises(gym.error.ResetNeeded):
        batch.step([action] * 3)


def test_divergence_never_pays_where_scores_are_below_the_floor() -> None:
    env = make(task="classic/mountaincar-continuous", evaluation_episodes=1)
    _, info = env.reset(seed=0)
    assert info["hpbench"]["score"] < 0.0
    env.batch.population.state["parameters"][:] = float("nan")
    _, reward, terminated, _, after = env.step(np.zeros(9, dtype=np.float32))
    assert terminated
    assert reward == 0.0
    assert after["hpbench"]["score"] == after["hpbench"]["meta_score"] == info["hpbench"]["score"]
    assert after["hpbench"]["return"] == pytest.approx(info["hpbench"]["return"])
