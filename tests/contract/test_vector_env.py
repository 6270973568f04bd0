"""The vector meta-environment is N single ones: against Gymnasium's SyncVectorEnv, number by number."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode

from hpbench.control.registration import ENVIRONMENTS
from hpbench.control.vector import HPControlVectorEnv
from hpbench.errors import InvalidAction, InvalidConfiguration, UnknownName

SMALL: dict[str, Any] = {
    "steps": 256,
    "decisions": 4,
    "evaluation_episodes": 2,
    "learner_config": {"num_envs": 2, "num_steps": 32, "hidden": (8, 8)},
    "device": "cpu",
}
MIXED = {**SMALL, "split": "train"}
ID = "HPControl-Classic-v0"


def make(num_envs: int = 3, env_id: str = ID, **options: Any) -> Any:
    return gym.make_vec(env_id, num_envs, "vector_entry_point", **{**SMALL, **options})


def make_sync(num_envs: int = 3, mode: str = "NextStep", env_id: str = ID, **options: Any) -> Any:
    kwargs = {"autoreset_mode": AutoresetMode(mode)}
    return gym.make_vec(env_id, num_envs, "sync", vector_kwargs=kwargs, **{**SMALL, **options})


def same(first: Any, second: Any) -> bool:
    return bool(data_equivalence(first, second, exact=True))


def diverge(envs: Any, env: int) -> None:
    """Break the learner of one environment, in either kind of vector environment."""
    if isinstance(envs, HPControlVectorEnv):
        ((members, batch),) = [(group, batch) for group, batch in envs.batches if env in group]
        batch.population.state["parameters"][members.index(env)] = float("nan")
    else:
        envs.envs[env].unwrapped.batch.population.state["parameters"][:] = float("nan")


@pytest.mark.parametrize("track", ["random", "shift"])
@pytest.mark.parametrize(
    ("observation", "action"), [("vector", "delta"), ("vector", "discrete"), ("text", "text"), ("dict", "text")]
)
def test_equal_to_single_environments(observation: str, action: str, track: str) -> None:
    """Tasks of a split, mixed; past the end, so that next episodes start; one learner diverges on the way."""
    options = {**MIXED, "observation": observation, "action": action, "track": track}
    ours, theirs = make(4, **options), make_sync(4, **options)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.single_observation_space == theirs.single_observation_space
    first, expected = ours.reset(seed=3), theirs.reset(seed=3)
    assert same(first, expected)
    assert len({task.partition("@")[0] for task in first[1]["hpbench"]["task"]}) > 1
    ours.action_space.seed(0)
    ended: list[int] = []
    for decision in range(7):
        if decision == 1:
            diverge(ours, 2)
            diverge(theirs, 2)
        actions = ours.action_space.sample()
        result, expected = ours.step(actions), theirs.step(actions)
        assert same(result, expected), decision
        assert result[0] in ours.observation_space
        ended += np.flatnonzero(result[2] | result[3]).tolist()
    assert ended == [2, 0, 1, 3, 2], "the third started over before the others"


SIMULATED = ("dmlab", "doom", "nethack", "procgen")  # slow
OPTIONS: dict[str, dict[str, Any]] = {
    "HPControl-PettingZoo-v0": {
        "steps": 384,
        "evaluation_episodes": 1,
        "learner_config": {"num_envs": 24, "num_steps": 4, "hidden": (8, 8)},
    }
}
"""Where the tasks of a family want something else: 24 environments make whole worlds of 2, 3, 4 or 8 agents."""


@pytest.mark.parametrize("env_id", [name for name, family in ENVIRONMENTS.items() if family not in SIMULATED])
@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_equal_in_every_autoreset_mode(env_id: str, mode: str) -> None:
    options = {**OPTIONS.get(env_id, {}), "track": "random"}
    ours = make(3, env_id, autoreset_mode=mode, **options)
    theirs = make_sync(3, mode, env_id, **options)
    ours.action_space.seed(1)
    assert ours.metadata["autoreset_mode"] is AutoresetMode(mode)
    assert same(ours.reset(seed=[5, None, 0])[0][0], theirs.reset(seed=[5, None, 0])[0][0])
    assert same(ours.reset(seed=[5, 9, 0]), theirs.reset(seed=[5, 9, 0]))
    for decision in range(7):
        if decision == 2:
            diverge(ours, 0)
            diverge(theirs, 0)
        actions = ours.action_space.sample()
        assert same(ours.step(actions), theirs.step(actions)), decision


def test_without_autoreset_the_caller_resets_by_mask() -> None:
    ours, theirs = make(autoreset_mode="Disabled"), make_sync(mode="Disabled")
    assert same(ours.reset(seed=0), theirs.reset(seed=0))
    diverge(ours, 1)
    diverge(theirs, 1)
    actions = np.zeros((3, 9), dtype=np.float32)
    assert same(ours.step(actions), theirs.step(actions))
    with pytest.raises(gym.error.ResetNeeded, match=r"\[1\] have ended"):
        ours.step(actions)
    mask = np.array([False, True, False])
    first = ours.reset(seed=7, options={"reset_mask": mask})
    assert same(first, theirs.reset(seed=7, options={"reset_mask": mask}))
    assert first[1]["hpbench"]["seed"].tolist() == [0, 8, 0]
    assert same(ours.step(actions), theirs.step(actions))
    for bad in (np.zeros(3, dtype=bool), np.ones(2, dtype=bool), [1, 1, 1]):
        with pytest.raises(InvalidConfiguration, match="reset_mask"):
            ours.reset(options={"reset_mask": bad})
    with pytest.raises(gym.error.ResetNeeded, match="reset_mask"):
        make().reset(options={"reset_mask": mask})


@pytest.mark.parametrize("reward", ["progress", "auc", "uplift"])
def test_equal_under_every_reward(reward: str) -> None:
    ours, theirs = make(reward=reward, task="classic/cartpole"), make_sync(reward=reward, task="classic/cartpole")
    ours.action_space.seed(2)
    ours.reset(seed=1)
    theirs.reset(seed=1)
    for _ in range(2):
        actions = ours.action_space.sample()
        assert same(ours.step(actions), theirs.step(actions))


def test_variants_of_a_task_share_one_population() -> None:
    envs = make(6, **MIXED)
    _, infos = envs.reset(seed=0)
    bases = [task.partition("@")[0] for task in infos["hpbench"]["task"]]
    assert len(set(infos["hpbench"]["task"])) == 6
    assert len(envs.batches) == len(set(bases)) < 6
    for group, batch in envs.batches:
        assert {bases[i] for i in group} == {batch.specs[0].task.base}
        assert [batch.seeds[member] for member in range(batch.members)] == [infos["hpbench"]["seed"][i] for i in group]
    assert [spec.task.id for spec in envs.agent_specs] == infos["hpbench"]["task"].tolist()


def test_who_starts_over_joins_the_others_again() -> None:
    envs = make(4, task="classic/acrobot@train")
    actions = np.zeros((4, 9), dtype=np.float32)
    envs.reset(seed=0)
    diverge(envs, 1)
    envs.step(actions)
    envs.step(actions)
    ((group, batch),) = envs.batches
    assert sorted(group) == [0, 1, 2, 3]
    assert batch.members == 4
    infos = envs.step(actions)[4]
    assert infos["hpbench"]["decision"].tolist() == [3, 1, 3, 3]
    assert set(infos["hpbench"]["task"]) <= {f"classic/acrobot@train-{i}" for i in range(256)}


def test_reset_options_choose_the_task_for_one_episode() -> None:
    envs = make()
    task = "classic/acrobot@train-3"
    _, infos = envs.reset(seed=0, options={"task": task})
    assert infos["hpbench"]["task"].tolist() == [task] * 3
    assert set(envs.reset(seed=0)[1]["hpbench"]["task"]) != {task}
    with pytest.raises(UnknownName, match="task"):
        envs.reset(options={"taks": task})


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda envs: pickle.loads(pickle.dumps(envs))])
def test_copies_in_mid_episode_continue_exactly(clone: Any) -> None:
    envs = make(4, **{**MIXED, "track": "shift"}, autoreset_mode="SameStep")
    envs.action_space.seed(0)
    envs.reset(seed=0)
    diverge(envs, 1)
    for _ in range(3):
        envs.step(envs.action_space.sample())
    other = clone(envs)
    for _ in range(4):
        actions = envs.action_space.sample()
        assert same(envs.step(actions), other.step(actions))


def test_a_bad_action_names_its_environment_and_nothing_happens() -> None:
    envs, other = make(4, **MIXED), make(4, **MIXED)
    envs.reset(seed=0)
    other.reset(seed=0)
    actions = np.zeros((4, 9), dtype=np.float32)
    bad = actions.copy()
    bad[3, 2] = np.nan
    with pytest.raises(InvalidAction, match="environment 3: .*discount|environment 3: .*value_coefficient"):
        envs.step(bad)
    assert same(envs.step(actions), other.step(actions))


def test_render_and_close() -> None:
    envs, texts = make(2, render_mode="ansi"), make(2, observation="text")
    envs.reset(seed=0)
    assert envs.render() == texts.reset(seed=0)[0]
    with pytest.raises(InvalidConfiguration, match="ansi"):
        texts.render()
    envs.close()
    with pytest.raises(gym.error.ResetNeeded):
        envs.render()


def test_gymnasium_makes_it_by_default_and_wraps_it() -> None:
    envs = gym.make_vec(ID, num_envs=2, **SMALL, task="classic/cartpole")
    assert isinstance(envs, HPControlVectorEnv)
    again = gym.make_vec(envs.spec)
    assert isinstance(again, HPControlVectorEnv)
    assert (again.num_envs, again.options) == (2, envs.options)
    recorded = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    recorded.reset(seed=0)
    total = np.zeros(2)
    for _ in range(4):
        _, rewards, _, truncated, infos = recorded.step(np.zeros((2, 9), dtype=np.float32))
        total += rewards
    assert truncated.all()
    np.testing.assert_allclose(infos["episode"]["r"], total, rtol=1e-6)


def test_episodes_without_a_seed_come_from_each_environments_generator() -> None:
    envs = make(2, task="classic/cartpole")
    envs.reset(seed=4)
    assert envs.np_random_seed == (4, 5)
    drawn = [int(copy.deepcopy(generator).integers(2**31)) for generator in envs.np_random]
    assert envs.reset()[1]["hpbench"]["seed"].tolist() == drawn


def test_threads_do_not_change_results() -> None:
    one, two = make(4, task="classic/cartpole"), make(4, task="classic/cartpole", threads=2)
    one.reset(seed=0)
    two.reset(seed=0)
    actions = np.full((4, 9), 0.25, dtype=np.float32)
    assert same(one.step(actions), two.step(actions))


def test_bad_options_are_errors_that_name_the_fix() -> None:
    with pytest.raises(InvalidConfiguration, match="num_envs"):
        make(0)
    with pytest.raises(UnknownName, match="SameStep"):
        make(autoreset_mode="SameSteps")
    with pytest.raises(UnknownName, match="ansi"):
        make(render_mode="human")
    with pytest.raises(UnknownName, match="track"):
        make(trak="shift")
    with pytest.raises(gym.error.ResetNeeded):
        make().step(np.zeros((3, 9), dtype=np.float32))
    with pytest.raises(InvalidConfiguration, match="2 seeds for 3"):
        make().reset(seed=[0, 1])


def test_stable_baselines_trains_on_it() -> None:
    """The adapter passes on what happened: observations, ends, and no value after the budget is spent."""
    ppo = pytest.importorskip("stable_baselines3").PPO
    from stable_baselines3.common.vec_env import VecMonitor

    from hpbench.control.sb3 import SB3VecEnv

    def parts() -> list[Any]:
        return [make(2, task=task, autoreset_mode="SameStep") for task in ("classic/cartpole", "classic/acrobot")]

    envs, expected = SB3VecEnv(*parts()), parts()
    envs.seed(0)
    observations = envs.reset()
    seen = [part.reset(seed=seed)[0] for part, seed in zip(expected, ([0, 1], [2, 3]), strict=True)]
    np.testing.assert_array_equal(observations, np.concatenate(seen))
    actions = np.full((4, 9), 0.1, dtype=np.float32)
    for decision in range(4):
        observations, rewards, done, infos = envs.step(actions)
        results = [part.step(actions[:2]) for part in expected]
        np.testing.assert_array_equal(observations, np.concatenate([result[0] for result in results]))
        np.testing.assert_allclose(rewards, np.concatenate([result[1] for result in results]), rtol=1e-6)
        assert done.tolist() == [decision == 3] * 4
        assert [info["hpbench"]["decision"] for info in infos] == [decision + 1] * 4
    np.testing.assert_array_equal(infos[2]["terminal_observation"], results[1][4]["final_obs"][0])
    assert [info["TimeLimit.truncated"] for info in infos] == [False] * 4
    model = ppo("MlpPolicy", VecMonitor(envs), n_steps=4, batch_size=8, n_epochs=1, device="cpu", seed=0)
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(16)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))
    with pytest.raises(InvalidConfiguration, match="SameStep"):
        SB3VecEnv(make(2))
    with pytest.raises(InvalidConfiguration, match="vector"):
        SB3VecEnv(make(2, observation="text", autoreset_mode="SameStep"))
