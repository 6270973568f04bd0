"""What every meta-environment promises, for every registered id and every combination that a checker can read."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import hpbench
from control_env import ACTIONS, CARTPOLE, OBSERVATIONS, REWARDS, SMALL, make
from hpbench import tasks
from hpbench.control.env import HPControlEnv
from hpbench.control.episode import EnvOptions, EpisodeBatch
from hpbench.control.registration import ENVIRONMENTS
from hpbench.errors import InvalidConfiguration, MissingBuild, MissingExtra, MissingLibrary, UnknownName
from hpbench.tasks import nethack

SIMULATED = {
    "HPControl-DMLab-v0": "dmlab/rooms-select-nonmatching-object",
    "HPControl-Doom-v0": "doom/predict-position",
    "HPControl-MuJoCo-v0": "mujoco/inverted-pendulum",
    "HPControl-NetHack-v0": "nethack/staircase",
    "HPControl-PettingZoo-v0": "pettingzoo/simple-speaker-listener",
    "HPControl-Procgen-v0": "procgen/starpilot",
}
"""Ids whose tasks run in a simulator, which takes longer: every choice once, on a task with short episodes."""
COMBINATIONS = [
    *itertools.product((name for name in ENVIRONMENTS if name not in SIMULATED), OBSERVATIONS, ACTIONS, REWARDS),
    *((name, OBSERVATIONS[i % 3], action, REWARDS[i % 3]) for name in SIMULATED for i, action in enumerate(ACTIONS)),
]
SIMULATED_CONFIG = {"num_envs": 2, "num_steps": 4}


def make_any(env_id: str, **options: Any) -> Any:
    """An environment of any id, on the first task of its family, or a quick one."""
    task = SIMULATED.get(env_id) or tasks.task_ids(ENVIRONMENTS[env_id])[0]
    if env_id in SIMULATED:
        try:
            tasks.make(task).simulator.make(tasks.make(task).agents).close()
        except (MissingBuild, MissingExtra, MissingLibrary) as error:
            pytest.skip(str(error))
        options = {"steps": 32, "evaluation_episodes": 1, **options, "learner_config": SIMULATED_CONFIG}
    return gym.make(env_id, **{**SMALL, "task": task, **options})


@pytest.fixture(autouse=True)
def short_games(monkeypatch: pytest.MonkeyPatch) -> None:
    """Games of NetHack that end soon: an unskilled player needs most of the 1,000 steps."""
    monkeypatch.setitem(
        nethack.TASKS, "staircase", dataclasses.replace(nethack.TASKS["staircase"], max_episode_steps=40)
    )


# -- the checkers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("env_id", "observation", "action", "reward"), COMBINATIONS)
def test_gymnasium_check_env_has_nothing_to_say(env_id: str, observation: str, action: str, reward: str) -> None:
    """Warnings are errors in these tests, so there is no list of those that are put up with: there are none."""
    check_env(make_any(env_id, observation=observation, action=action, reward=reward).unwrapped)


@pytest.mark.parametrize(
    ("env_id", "action", "reward"),
    [
        *itertools.product(
            (name for name in ENVIRONMENTS if name not in SIMULATED), ("delta", "absolute", "discrete"), REWARDS
        ),
        *((name, "delta", "progress") for name in SIMULATED),
    ],
)
def test_stable_baselines_check_env_has_nothing_to_say(env_id: str, action: str, reward: str) -> None:
    """It knows no text spaces, so vector observations and numeric actions are what it can check."""
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(make_any(env_id, action=action, reward=reward).unwrapped)


@pytest.mark.parametrize(("env_id", "observation", "action", "reward"), COMBINATIONS)
def test_the_spec_survives_json(env_id: str, observation: str, action: str, reward: str) -> None:
    env = make_any(env_id, observation=observation, action=action, reward=reward)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.options == env.unwrapped.options
    assert again.observation_space == env.observation_space
    assert again.action_space == env.action_space


@pytest.mark.parametrize(("observation", "action"), [*itertools.product(OBSERVATIONS, ACTIONS)])
def test_make_vec_in_sync_mode(observation: str, action: str) -> None:
    options = {**CARTPOLE, "observation": observation, "action": action}
    envs = gym.make_vec("HPControl-Classic-v0", num_envs=2, vectorization_mode="sync", **options)
    envs.action_space.seed(0)
    _, infos = envs.reset(seed=3)
    assert infos["hpbench"]["seed"].tolist() == [3, 4]
    for _ in range(6):  # past the end: the next episodes start by themselves
        _, rewards, _, _, infos = envs.step(envs.action_space.sample())
        assert rewards.shape == (2,)
    assert infos["hpbench"]["decision"].tolist() == [1, 1]
    envs.close()


def test_all_ids_are_registered_on_import_and_found_by_module_prefix() -> None:
    assert hpbench.__name__ == "hpbench"
    assert set(ENVIRONMENTS) <= set(gym.registry)
    assert gym.make("hpbench:HPControl-Classic-v0", **CARTPOLE).spec.id == "HPControl-Classic-v0"


def test_registering_imports_no_learner_and_no_torch() -> None:
    code = (
        "import sys, gymnasium, hpbench; assert 'HPControl-Classic-v0' in gymnasium.registry; "
        "print(sorted(m for m in sys.modules if m == 'torch' or m.startswith('hpbench.')))"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['hpbench.control', 'hpbench.control.registration']"


def test_registering_twice_changes_nothing() -> None:
    from hpbench.control.registration import register_environments

    before = gym.registry["HPControl-Classic-v0"]
    register_environments()
    assert gym.registry["HPControl-Classic-v0"] is before


# -- configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"trak": "shift"}, "track"),
        ({"track": "shfit"}, "shift"),
        ({"task": "classic/cartpol"}, "classic/cartpole"),
        ({"task": "cartpole"}, "classic/cartpole"),
        ({"learner": "pppo"}, "ppo"),
        ({"family": "clasic"}, "classic"),
        ({"engine": "nativ"}, "native"),
        ({"learner_config": {"num_env": 4}}, "num_envs"),
    ],
)
def test_unknown_names_are_errors_that_name_the_near_misses(options: dict[str, Any], near: str) -> None:
    with pytest.raises(UnknownName, match=f"'{near}'"):
        gym.make("HPControl-Classic-v0", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 500}, "steps=512"),
        ({"track": "shift", "steps": 512, "decisions": 1}, "decisions >= 2"),
        ({"learner_config": {"num_envs": 0}}, "num_envs"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_options_that_cannot_work_are_errors_that_name_the_way_out(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidConfiguration, match=words):
        make(**options)


def test_a_budget_is_checked_for_every_task_that_may_be_drawn() -> None:
    with pytest.raises(InvalidConfiguration, match="decisions=20"):
        gym.make("HPControl-Classic-v0", decisions=16)
    gym.make("HPControl-Classic-v0", decisions=10)


def test_seeds_that_draw_different_tasks_cannot_share_a_batch() -> None:
    options = EnvOptions.parse(SMALL)
    with pytest.raises(InvalidConfiguration, match="name a task"):
        EpisodeBatch(options, range(10))
    for seeds in ([-1], [], [0.5]):
        with pytest.raises(InvalidConfiguration, match="seed"):
            EpisodeBatch(options, seeds)


def test_agents_are_told_what_they_need() -> None:
    batch = EpisodeBatch(EnvOptions.parse({**CARTPOLE, "track": "random", "observation": "dict"}), [0, 1])
    first, second = batch.specs
    observations, _ = batch.reset()
    assert first.observation_space.contains(observations[0])
    assert first.action_space is not second.action_space
    assert (first.decisions, first.steps, first.track, first.learner) == (4, 512, "random", "ppo")
    assert first.schema.values(observations[0])["decisions_left"] == pytest.approx(4.0)
    assert first.hyperparameters.hot == tuple(first.hyperparameters)


def test_the_docstring_has_gymnasiums_sections() -> None:
    text = HPControlEnv.__doc__
    sections = (
        "Description",
        "Action Space",
        "Observation Space",
        "Rewards",
        "Starting State",
        "Episode End",
        "Arguments",
    )
    positions = [text.index(f"## {section}\n") for section in (*sections, "Version History")]
    assert positions == sorted(positions)
