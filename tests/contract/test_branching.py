"""Branches: what would happen, without its happening."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from hpbench.control.episode import EnvOptions, EpisodeBatch
from hpbench.errors import InvalidAction, InvalidConfiguration
from hpbench.seeding import Stream

SMALL: dict[str, Any] = {
    "task": "classic/cartpole",
    "steps": 256,
    "decisions": 4,
    "evaluation_episodes": 3,
    "learner_config": {"num_envs": 2, "num_steps": 32, "hidden": (8, 8)},
    "device": "cpu",
}
KEEP = np.zeros(9, dtype=np.float32)


def move(column: int, size: float) -> Any:
    action = KEEP.copy()
    action[column] = size
    return action


ACTIONS = [KEEP, move(0, 1.0), move(0, -1.0), move(7, 0.5)]


def make(**options: Any) -> Any:
    return gym.make("HPControl-Classic-v0", **{**SMALL, **options}).unwrapped


def same(first: Any, second: Any) -> bool:
    return bool(data_equivalence(first, second, exact=True))


@pytest.mark.parametrize("track", ["random", "shift"])
@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_a_branch_is_what_would_happen(track: str, horizon: int) -> None:
    """Score, return, values and metrics of a branch are those of a spawned environment that really takes the steps."""
    env = make(track=track)
    env.reset(seed=5)
    env.step(ACTIONS[3])
    found = env.branch(ACTIONS, horizon)
    assert found.scores.shape == found.errors.shape == found.returns.shape == (4, horizon)
    charged = np.zeros(2, dtype=np.int64)
    start = env.batch.infos()[0]["hpbench"]
    for k, (action, other) in enumerate(zip(ACTIONS, env.spawn(4), strict=True)):
        for segment in range(horizon):
            observation, *_, info = other.step(action if segment == 0 else KEEP)
            info = info["hpbench"]
            assert found.scores[k, segment] == info["score"]
            assert found.returns[k, segment] == info["return"]
            shown = env.schema.values(observation)
            assert found.metrics["return_mean"][k, segment] == pytest.approx(
                shown.get("return_mean", np.nan), nan_ok=True
            )
            assert found.metrics["approx_kl"][k, segment] == pytest.approx(shown["approx_kl"], rel=1e-4, abs=1e-9)
        assert found.values[k].tolist() == list(info["values"].values())
        charged += info["steps"] - start["steps"], info["evaluation_steps"] - start["evaluation_steps"]
    assert [found.steps, found.evaluation_steps] == charged.tolist()
    assert found.steps == 4 * horizon * 64
    assert not found.diverged.any()


@pytest.mark.parametrize("reward", ["progress", "uplift"])
def test_branching_changes_nothing(reward: str) -> None:
    env, other = (
        make(track="shift", reward=reward, observation="dict"),
        make(track="shift", reward=reward, observation="dict"),
    )
    env.reset(seed=1)
    other.reset(seed=1)
    for decision in range(4):
        before = env.snapshot()
        digests = env.batch.population.digests()
        env.branch(ACTIONS, 2, evaluation_seed=decision, evaluation_episodes=5)
        env.branch(ACTIONS)
        after = env.snapshot()
        assert env.batch.population.digests() == digests
        np.testing.assert_equal(before.histories, after.histories)
        assert before.population.tasks == after.population.tasks
        assert same(env.step(ACTIONS[decision]), other.step(ACTIONS[decision]))
    with pytest.raises(gym.error.ResetNeeded, match="ended"):
        env.branch(ACTIONS)


def test_branches_share_random_numbers() -> None:
    env = make()
    env.reset(seed=2)
    found = env.branch([KEEP, KEEP, ACTIONS[1]], 2)
    np.testing.assert_array_equal(found.scores[0], found.scores[1])
    again = env.branch([ACTIONS[1]], 2)
    np.testing.assert_array_equal(again.scores[0], found.scores[2])


def test_evaluation_on_streams_of_their_own() -> None:
    """The scoring episodes stay unseen: other episodes, the same for all branches; training is not touched."""
    env = make(evaluation_episodes=8)
    env.reset(seed=3)
    own = env.branch([KEEP, KEEP, ACTIONS[1]], evaluation_seed=11)
    np.testing.assert_array_equal(own.scores[0], own.scores[1])
    np.testing.assert_array_equal(own.scores, env.branch([KEEP, KEEP, ACTIONS[1]], evaluation_seed=11).scores)
    scoring, other = env.branch([KEEP, KEEP, ACTIONS[1]]), env.branch([KEEP, KEEP, ACTIONS[1]], evaluation_seed=12)
    assert own.scores[0, 0] != scoring.scores[0, 0]
    assert own.scores[0, 0] != other.scores[0, 0]
    np.testing.assert_array_equal(own.metrics["approx_kl"], scoring.metrics["approx_kl"])
    assert env.step(KEEP)[4]["hpbench"]["score"] == scoring.scores[0, 0]
    more = env.branch([KEEP], evaluation_seed=11, evaluation_episodes=64)
    assert 0.0 < more.errors[0, 0] < own.errors[0, 0] * 2.0
    assert np.isnan(env.branch([KEEP], evaluation_episodes=1).errors).all()


def test_rekeying_moves_one_stream_and_keeps_forks_together() -> None:
    batch = EpisodeBatch(EnvOptions.parse(SMALL), [0, 1])
    batch.reset()
    forks = batch.population.fork([0, 0, 1])
    before = forks.state["rng_keys"].clone()
    forks.rekey(Stream.EVALUATION, 7)
    after = forks.state["rng_keys"]
    assert after[0].equal(after[1])
    assert (before != after).nonzero()[:, 1].tolist() == [Stream.EVALUATION] * 3
    assert after[0, Stream.EVALUATION] != after[2, Stream.EVALUATION]
    assert batch.population.state["rng_keys"][0].equal(before[0])


def test_many_members_branch_in_one_batch() -> None:
    options = EnvOptions.parse({**SMALL, "track": "random"})
    batch = EpisodeBatch(options, [4, 5, 6])
    batch.reset()
    batch.step([KEEP] * 3)
    found = batch.branch([ACTIONS, ACTIONS[:1], ACTIONS[:2]], 2)
    assert [branches.scores.shape for branches in found] == [(4, 2), (1, 2), (2, 2)]
    for seed, branches, tried in zip((4, 5, 6), found, (ACTIONS, ACTIONS[:1], ACTIONS[:2]), strict=True):
        env = make(track="random")
        env.reset(seed=seed)
        env.step(KEEP)
        alone = env.branch(tried, 2)
        for name in ("scores", "errors", "returns", "values", "diverged", "invalid", "metrics"):
            np.testing.assert_equal(getattr(alone, name), getattr(branches, name), name)
        assert (alone.steps, alone.evaluation_steps) == (branches.steps, branches.evaluation_steps)
    (only,) = batch.branch([ACTIONS], 2, members=[2])
    np.testing.assert_array_equal(only.scores[:2], found[2].scores)


def test_members_at_different_decisions_branch_as_far_as_they_can() -> None:
    options = EnvOptions.parse(SMALL)
    late, early = EpisodeBatch(options, [0]), EpisodeBatch(options, [1])
    late.reset()
    early.reset()
    for _ in range(3):
        late.step([KEEP])
    first, second = late.join([early]).branch([ACTIONS[:2]] * 2, 3)
    assert (first.scores.shape, second.scores.shape) == ((2, 1), (2, 3))
    assert same(second.scores, early.branch([ACTIONS[:2]], 3)[0].scores)
    assert (first.steps, second.steps) == (2 * 64, 2 * 3 * 64)
    late.step([KEEP])
    over, going = late.join([early]).branch([ACTIONS[:2]] * 2, 2)
    assert over.scores.shape == (2, 0)
    assert (over.steps, over.evaluation_steps) == (0, 0)
    assert going.scores.shape == (2, 2)


def test_joined_members_live_on_as_before() -> None:
    options = EnvOptions.parse({**SMALL, "track": "shift", "observation": "dict"})
    parts = [EpisodeBatch(options, seeds) for seeds in ([0, 1], [2])]
    for part in parts:
        part.reset()
    parts[0].step([ACTIONS[1]] * 2)
    joined = parts[0].join(parts[1:])
    assert joined.seeds == (0, 1, 2)
    assert same(joined.observe(), parts[0].observe() + parts[1].observe())
    for _ in range(3):
        step, expected = joined.step([ACTIONS[3]] * 3), [part.step([ACTIONS[3]] * part.members) for part in parts]
        assert same(step.infos, expected[0].infos + expected[1].infos)
        assert same(step.observations, expected[0].observations + expected[1].observations)
    assert step.truncated.tolist() == [True, True, False]
    other = EpisodeBatch(EnvOptions.parse(SMALL), [0])
    other.reset()
    with pytest.raises(InvalidConfiguration, match="options"):
        joined.join([other])


def test_a_diverged_branch_scores_the_floor_and_stops() -> None:
    env = make()
    env.reset(seed=0)
    # Learning rates that high come from no action; they break the learner for sure.
    batch = env.batch.spawn([0])
    batch.population.state["hyperparameters"][:, 0] = 1e30
    (found,) = batch.branch([[KEEP, KEEP]], 3)
    assert found.diverged.tolist() == [True, True]
    np.testing.assert_array_equal(found.scores[:, -1], [0.0, 0.0])
    np.testing.assert_array_equal(found.errors[:, -1], [0.0, 0.0])
    assert found.steps < 2 * 3 * 64 or found.scores[0, 0] != 0.0


def test_text_actions_branch_and_invalid_ones_are_marked() -> None:
    env = make(action="text")
    env.reset(seed=0)
    found = env.branch(["{}", "nonsense", '{"learning_rate": "x2"}'])
    assert found.invalid.tolist() == [False, True, False]
    np.testing.assert_array_equal(found.scores[0], found.scores[1])
    assert found.values[2, 0] == 2.0 * found.values[0, 0]


def test_what_cannot_be_branched_is_an_error() -> None:
    env = make()
    with pytest.raises(gym.error.ResetNeeded):
        env.branch(ACTIONS)
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="action 1 of member 0"):
        env.branch([KEEP, np.full(9, np.nan, dtype=np.float32)])
    with pytest.raises(InvalidConfiguration, match="at least one action"):
        env.branch([])
    for arguments in ({"horizon": 0}, {"evaluation_episodes": 0}):
        with pytest.raises(InvalidConfiguration, match="at least 1"):
            env.branch(ACTIONS, **arguments)
