"""What every meta-environment promises, for every registered id and every combination that a checker can read."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence

import hpbench
from hpbench import tasks
from hpbench.control.env import HPControlEnv
from hpbench.control.episode import EnvOptions, EpisodeBatch, EpisodeSnapshot
from hpbench.control.registration import ENVIRONMENTS
from hpbench.control.reward import INVALID_PENALTY
from hpbench.control.tracks import CONFIGURATIONS, configurations, shift_decision
from hpbench.errors import (
    InvalidAction,
    InvalidConfiguration,
    MissingBuild,
    MissingExtra,
    MissingLibrary,
    SnapshotError,
    UnknownName,
)
from hpbench.tasks import nethack

OBSERVATIONS = ("vector", "text", "dict")
ACTIONS = ("delta", "absolute", "discrete", "text")
REWARDS = ("progress", "auc", "uplift")
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

SMALL: dict[str, Any] = {
    "steps": 512,
    "decisions": 4,
    "evaluation_episodes": 2,
    "learner_config": {"num_envs": 4, "num_steps": 32},
}
SIMULATED_CONFIG = {"num_envs": 2, "num_steps": 4}
CARTPOLE = {**SMALL, "task": "classic/cartpole"}


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


def make(**options: Any) -> Any:
    """The bare environment."""
    return gym.make("HPControl-Classic-v0", **{**CARTPOLE, **options}).unwrapped


def play(env: Any, actions: list[Any], seed: int | None = None) -> list[Any]:
    """All that comes out of an episode, or of the rest of one if there is no seed."""
    out: list[Any] = [] if seed is None else [env.reset(seed=seed)]
    return out + [env.step(action) for action in actions]


def actions_of(env: Any, count: int = 4, seed: int = 0) -> list[Any]:
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return [space.sample() for _ in range(count)]


def same(first: Any, second: Any) -> bool:
    return bool(data_equivalence(first, second, exact=True))


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


# -- determinism and copies --------------------------------------------------------------------------------------------

PROGRAM = """
import json, sys, gymnasium as gym, torch
torch.set_num_threads(1)
out = []
for track in ("default", "random", "shift"):
    env = gym.make("hpbench:HPControl-Classic-v0", observation="text", track=track, **json.loads(sys.argv[1]))
    env.action_space.seed(5)
    out += [env.reset(seed=7), *(env.step(env.action_space.sample()) for _ in range(4))]
print(json.dumps(out))
"""


def test_same_seed_and_actions_give_the_same_in_two_processes() -> None:
    command = [sys.executable, "-c", PROGRAM, json.dumps(CARTPOLE)]
    there = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    here: list[Any] = []
    for track in ("default", "random", "shift"):
        env = make(observation="text", track=track)
        here += play(env, actions_of(env, seed=5), seed=7)
    assert there == json.loads(json.dumps(here))
    assert len({step[-1]["hpbench"]["digest"] for step in there}) > 10


@pytest.mark.parametrize(("observation", "action"), [*itertools.product(OBSERVATIONS, ACTIONS)])
@pytest.mark.parametrize("clone", ["pickle", "deepcopy", "spawn", "restore"])
def test_copies_in_mid_episode_continue_exactly(observation: str, action: str, clone: str) -> None:
    env = make(observation=observation, action=action, track="shift")
    actions = actions_of(env)
    env.action_space.seed(2)
    play(env, actions[:2], seed=1)
    if clone == "pickle":
        other = pickle.loads(pickle.dumps(env))
    elif clone == "deepcopy":
        other = copy.deepcopy(env)
    elif clone == "spawn":
        other = env.spawn(2)[1]
    else:
        other = make(observation=observation, action=action, track="shift")
        other.restore(env.snapshot())
    assert same(play(env, actions[2:]), play(other, actions[2:]))
    if clone != "restore":
        assert same(env.reset(), other.reset()), "np_random is copied as well"
        assert same(env.action_space.sample(), other.action_space.sample())


def test_restoring_goes_back_as_often_as_wanted() -> None:
    env = make(observation="dict", reward="uplift")
    actions = actions_of(env)
    play(env, actions[:1], seed=4)
    snapshot = env.snapshot()
    first = play(env, actions[1:])
    assert first[-1][3] is True
    for _ in range(2):
        env.restore(snapshot)
        assert same(play(env, actions[1:]), first)


def test_spawned_environments_are_independent() -> None:
    env = make()
    actions = actions_of(env, 6)
    play(env, actions[:1], seed=4)
    before = env.snapshot()
    first, second, third = env.spawn(3)
    a, b, c = first.step(actions[1]), second.step(actions[1]), third.step(actions[2])
    assert same(a, b)
    assert a[4]["hpbench"]["digest"] != c[4]["hpbench"]["digest"]
    digest = env.step(actions[1])[4]["hpbench"]["digest"]
    assert digest == a[4]["hpbench"]["digest"], "what the copies did left the original alone"
    assert before.population.state["steps"].tolist() == [128]


def test_snapshots_survive_a_file(tmp_path: Path) -> None:
    env = make(observation="text", track="random", learner_config={"num_envs": 4, "num_steps": 32, "hidden": (16, 16)})
    actions = actions_of(env)
    play(env, actions[:2], seed=6)
    env.snapshot().save(tmp_path / "snapshot.npz")
    rest = play(env, actions[2:])
    other = make(observation="text", track="random", learner_config=env.options.learner_config)
    other.restore(EpisodeSnapshot.load(tmp_path / "snapshot.npz"))
    assert same(play(other, actions[2:]), rest)


def test_damaged_and_foreign_snapshot_files_are_errors(tmp_path: Path) -> None:
    env = make()
    env.reset(seed=0)
    path = tmp_path / "snapshot.npz"
    env.snapshot().save(path)
    data = path.read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"hello",
        "cut": data[: len(data) // 2],
        "flipped": data[:2000] + bytes(b ^ 0xFF for b in data[2000:2100]) + data[2100:],
        "pickle": pickle.dumps({"header": 1}),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SnapshotError, match=name):
            EpisodeSnapshot.load(tmp_path / name)
    with open(tmp_path / "objects", "wb") as file:
        np.savez(file, header=np.array([{"format": 1}], dtype=object))
    with pytest.raises(SnapshotError, match="objects"):
        EpisodeSnapshot.load(tmp_path / "objects")
    with pytest.raises(FileNotFoundError):
        EpisodeSnapshot.load(tmp_path / "nowhere")


def test_a_snapshot_of_another_environment_is_an_error() -> None:
    env, other = make(), make(reward="auc")
    env.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(SnapshotError, match="auc"):
        other.restore(env.snapshot())
    batch = EpisodeBatch(env.options, [0, 1])
    batch.reset()
    with pytest.raises(SnapshotError):
        env.restore(batch.snapshot())
    with pytest.raises(SnapshotError, match="seeds"):
        EpisodeBatch(env.options, [0, 2]).restore(batch.snapshot())


def test_a_member_of_a_batch_lives_through_the_same_as_the_environment_alone() -> None:
    env = make(observation="dict", track="random")
    batch = EpisodeBatch(env.options, [11, 12, 13])
    actions = actions_of(env)
    alone = play(env, actions, seed=12)
    observations, infos = batch.reset()
    together: list[Any] = [(observations[1], infos[1])]
    others = actions_of(env, 4, seed=1)
    for action, other in zip(actions, others, strict=True):
        step = batch.step([other, action, other])
        together.append(
            (
                step.observations[1],
                float(step.rewards[1]),
                bool(step.terminated[1]),
                bool(step.truncated[1]),
                step.infos[1],
            )
        )
    assert same(alone, together)


def test_batches_fork_members() -> None:
    env = make()
    batch = EpisodeBatch(env.options, [11, 12])
    batch.reset()
    actions = actions_of(env)
    batch.step(actions[:2])
    other = batch.spawn([1, 1, 0])
    assert other.seeds == (12, 12, 11)
    expected = batch.step([actions[2], actions[3]])
    step = other.step([actions[3], actions[0], actions[2]])
    assert same(step.infos[0], expected.infos[1])
    assert same(step.infos[2], expected.infos[0])
    assert step.infos[1]["hpbench"]["digest"] != step.infos[0]["hpbench"]["digest"]


# -- reset -------------------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_episode_and_seeds_np_random() -> None:
    env, other = make(), make()
    first, again = env.reset(seed=0), other.reset(seed=0)
    assert first[1]["hpbench"]["seed"] == 0
    assert same(first, again)
    drawn = env.reset()[1]["hpbench"]["seed"], env.reset()[1]["hpbench"]["seed"]
    assert drawn[0] != drawn[1]
    assert drawn == (other.reset()[1]["hpbench"]["seed"], other.reset()[1]["hpbench"]["seed"])
    info = env.reset(seed=drawn[0])[1]["hpbench"]
    assert info["digest"] == EpisodeBatch(env.options, [drawn[0]]).reset()[1][0]["hpbench"]["digest"]


def test_reset_measures_decision_zero() -> None:
    _, info = make().reset(seed=3)
    info = info["hpbench"]
    assert (info["decision"], info["steps"], info["invalid"]) == (0, 0, 0)
    assert info["evaluation_steps"] > 0
    assert info["score"] == pytest.approx(info["return"] / 500.0)
    assert info["values"] == hpbench.learners.make("ppo").hyperparameters.defaults()


def test_reset_chooses_the_task_by_options_for_one_episode() -> None:
    env = make(task=None)
    seen = {env.reset(seed=seed)[1]["hpbench"]["task"] for seed in range(6)}
    assert len(seen) > 1
    _, info = env.reset(seed=0, options={"task": "classic/acrobot@train-3"})
    assert info["hpbench"]["task"] == "classic/acrobot@train-3"
    assert env.agent_spec.task.id == "classic/acrobot@train-3"
    snapshot = env.snapshot()
    assert env.reset(seed=0)[1]["hpbench"]["task"] == make(task=None).reset(seed=0)[1]["hpbench"]["task"]
    env.restore(snapshot)
    assert env.agent_spec.task.id == "classic/acrobot@train-3"


def test_bad_reset_options_are_errors() -> None:
    env = make()
    with pytest.raises(UnknownName, match="task"):
        env.reset(options={"taks": "classic/acrobot"})
    with pytest.raises(UnknownName, match="classic/acrobot"):
        env.reset(options={"task": "classic/acrobt"})
    with pytest.raises(gym.error.Error):
        env.reset(seed=-1)


def test_steps_need_a_running_episode() -> None:
    env = make()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(actions_of(env)[0])
    with pytest.raises(gym.error.ResetNeeded):
        env.snapshot()
    play(env, actions_of(env), seed=0)
    with pytest.raises(gym.error.ResetNeeded, match="ended"):
        env.step(actions_of(env)[0])


# -- steps -------------------------------------------------------------------------------------------------------------


def test_steps_are_counted_exactly() -> None:
    env = make()
    outcomes = play(env, actions_of(env), seed=2)
    infos = [outcome[-1]["hpbench"] for outcome in outcomes]
    assert [info["steps"] for info in infos] == [0, 128, 256, 384, 512]
    assert [info["decision"] for info in infos] == [0, 1, 2, 3, 4]
    assert [outcome[3] for outcome in outcomes[1:]] == [False, False, False, True]
    assert not any(outcome[2] for outcome in outcomes[1:])
    evaluation = np.diff([0] + [info["evaluation_steps"] for info in infos])
    for steps, info in zip(evaluation, infos, strict=True):
        assert steps == pytest.approx(2 * info["return"]), "a CartPole return is an episode length"
    assert "meta_score" not in infos[-2]
    scores = [info["score"] for info in infos[1:]]
    assert infos[-1]["meta_score"] == pytest.approx(0.5 * scores[-1] + 0.5 * np.mean(scores))


def test_the_standard_budget_is_the_tasks() -> None:
    for tier in ("small", "standard", "paper"):
        env = gym.make("HPControl-Classic-v0", task="classic/pendulum", tier=tier).unwrapped
        env.reset(seed=0)
        budget = env.agent_spec.task.budgets[tier]
        assert (env.agent_spec.steps, env.agent_spec.decisions) == (budget.steps, budget.decisions)


def test_infos_are_plain_json_and_tell_the_effective_values() -> None:
    env = make(action="text", observation="text", track="shift", reward="uplift")
    env.reset(seed=0)
    *_, info = env.step('{"learning_rate": 7, "clip_range": "x0.5", "update_epochs": 3}')
    assert json.loads(json.dumps(info, allow_nan=False)) == info
    values = info["hpbench"]["values"]
    assert (values["learning_rate"], values["clip_range"], values["update_epochs"]) == (0.1, 0.1, 3.0)
    assert info["hpbench"]["clipped"] == ["learning_rate"]
    assert env.snapshot().population.state["hyperparameters"][0].tolist() == list(values.values())


@pytest.mark.parametrize("action", ACTIONS)
def test_the_neutral_action_changes_nothing(action: str) -> None:
    env, other = make(action=action, reward="uplift"), make(action="absolute")
    hyperparameters = hpbench.learners.make("ppo").hyperparameters
    keep = {
        "delta": np.zeros(9, dtype=np.float32),
        "discrete": np.full(9, 3),
        "text": "{}",
        "absolute": np.array([item.to_action(item.default) for item in hyperparameters.values()], dtype=np.float32),
    }
    ours, theirs = play(env, [keep[action]] * 3, seed=5), play(other, [keep["absolute"]] * 3, seed=5)
    assert [o[-1]["hpbench"]["digest"] for o in ours] == [o[-1]["hpbench"]["digest"] for o in theirs]
    assert [o[1] for o in ours[1:]] == [0.0] * 3, "the uplift of no update is exactly zero"
    assert ours[-1][-1]["hpbench"]["counterfactual_steps"] == 0


@pytest.mark.parametrize(
    "bad", [np.full(9, np.nan), np.full(9, np.inf), np.zeros(8), np.zeros((9, 1)), np.zeros(9, int), "{}", None]
)
def test_actions_without_meaning_are_errors_and_nothing_happens(bad: Any) -> None:
    env, other = make(track="shift"), make(track="shift")
    actions = actions_of(env)
    env.reset(seed=1)
    for action in actions:
        with pytest.raises(InvalidAction, match=r"\[-1, 1\]"):
            env.step(bad)
        last = env.step(action)
    assert same(last, play(other, actions, seed=1)[-1])


def test_a_bad_action_in_a_batch_names_its_member() -> None:
    batch = EpisodeBatch(make().options, [0, 1])
    batch.reset()
    with pytest.raises(InvalidAction, match="member 1"):
        batch.step([np.zeros(9), np.full(9, np.nan)])
    with pytest.raises(InvalidAction, match="1 actions for 2 members"):
        batch.step([np.zeros(9)])


def test_an_invalid_text_is_a_no_op_with_a_penalty_a_count_and_feedback() -> None:
    env, other = make(action="text", observation="dict"), make(action="text", observation="dict")
    bad = play(env, ['{"learning_rate": "fast"}', "nonsense", "{}"], seed=8)
    good = play(other, ["{}"] * 3, seed=8)
    for i in (1, 2, 3):
        assert bad[i][4]["hpbench"]["digest"] == good[i][4]["hpbench"]["digest"]
    penalties = [good[i][1] - bad[i][1] for i in (1, 2, 3)]
    assert penalties == pytest.approx([INVALID_PENALTY, INVALID_PENALTY, 0.0])
    assert [bad[i][4]["hpbench"]["invalid"] for i in (1, 2, 3)] == [1, 2, 2]
    feedback = [bad[i][0]["text"].split("\n")[-1] for i in (1, 2, 3)]
    assert feedback[0].startswith("feedback: the last action was invalid")
    assert "learning_rate needs a number" in feedback[0]
    assert "not a JSON object" in feedback[1]
    assert not feedback[2].startswith("feedback")
    flags = [env.schema.values(bad[i][0])["action_invalid"] for i in (1, 2, 3)]
    assert flags == [1.0, 1.0, 0.0]


def test_clipped_actions_get_a_line_of_feedback() -> None:
    env = make(action="text", observation="text", names="anonymous")
    env.reset(seed=0)
    observation, _, _, _, info = env.step('{"h1": 5, "h8": "x0.01"}')
    assert observation.endswith("feedback: the last action was cut at the bounds of h1, h8")
    assert info["hpbench"]["clipped"] == ["learning_rate", "update_epochs"]
    assert "learning_rate" not in observation
    assert "cartpole" not in observation


def test_observations_tell_the_values_in_force_and_the_last_updates() -> None:
    env = make(action="text")
    env.reset(seed=0)
    env.step('{"learning_rate": "x2"}')
    observation, *_, info = env.step('{"discount": 0.98}')
    values = env.schema.values(observation)
    for name, value in info["hpbench"]["values"].items():
        assert values[f"hp_{name}"] == value
    assert values["update_1_discount"] < 0.0 == values["update_1_learning_rate"]
    assert values["update_2_learning_rate"] > 0.0 == values["update_2_discount"]
    assert "update_3_learning_rate" not in values
    assert values["budget_fraction"] == pytest.approx(0.5)
    assert {"return_mean", "approx_kl", "entropy", "gradient_norm", "dormant_share", "snippet_reward_mean"} <= set(
        values
    )
    assert "entropy_per_dimension" not in values
    assert "test_gap" not in values


def test_a_continuous_policy_has_its_own_entropy_feature() -> None:
    env = make(task="classic/pendulum")
    env.reset(seed=0)
    values = env.schema.values(env.step(np.zeros(9, dtype=np.float32))[0])
    assert "entropy" not in values
    assert values["entropy_per_dimension"] == pytest.approx(1.42, abs=0.1), "a standard deviation of about 1"


def test_evaluation_feeds_the_reward_and_not_the_observation() -> None:
    few, many = make(evaluation_episodes=1, observation="dict"), make(evaluation_episodes=7, observation="dict")
    actions = actions_of(few)
    ours, theirs = play(few, actions, seed=2), play(many, actions, seed=2)
    assert same([o[0] for o in ours], [o[0] for o in theirs])
    assert [o[1] for o in ours[1:]] != [o[1] for o in theirs[1:]]


def test_vector_text_and_dict_show_the_same_episode() -> None:
    runs = {name: play(make(observation=name), actions_of(make()), seed=3) for name in OBSERVATIONS}
    for vector, text, both in zip(*(runs[name] for name in OBSERVATIONS), strict=True):
        assert same(both[0], {"vector": vector[0], "text": text[0]})
        assert same(vector[1:], text[1:])


def test_render_shows_the_text_view_of_any_observation() -> None:
    env, other = make(render_mode="ansi"), make(observation="text")
    env.reset(seed=0)
    assert env.render() == other.reset(seed=0)[0]
    with pytest.raises(InvalidConfiguration, match="ansi"):
        other.render()
    with pytest.raises(UnknownName, match="ansi"):
        HPControlEnv(render_mode="rgb_array")


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


# -- tracks ------------------------------------------------------------------------------------------------------------


def test_random_starts_from_the_list() -> None:
    env = make(track="random")
    rows = configurations("ppo", hpbench.learners.make("ppo").hyperparameters)
    assert len(rows) == CONFIGURATIONS
    drawn = [env.reset(seed=seed)[1]["hpbench"]["values"] for seed in range(8)]
    assert all(values in rows for values in drawn)
    assert len({json.dumps(values) for values in drawn}) > 4


def test_shift_changes_the_task_in_mid_run_and_keeps_the_learner() -> None:
    shift, plain = make(track="shift", decisions=4), make(decisions=4)
    action = np.zeros(9, dtype=np.float32)
    seed = next(seed for seed in range(100) if shift_decision(4, seed) == 2)
    ours, theirs = play(shift, [action] * 2, seed=seed), play(plain, [action] * 2, seed=seed)
    assert same([o[0] for o in ours], [o[0] for o in theirs])
    assert [o[-1]["hpbench"]["digest"] for o in ours] == [o[-1]["hpbench"]["digest"] for o in theirs]
    before = shift.snapshot()
    observation, _, _, _, info = shift.step(action)
    assert info["hpbench"]["shifted"] is True
    assert info["hpbench"]["task"] == "classic/cartpole", "the info tells that the task has changed, not to what"
    assert info["hpbench"]["digest"] != plain.step(action)[-1]["hpbench"]["digest"]
    assert info["hpbench"]["steps"] == 384
    assert observation in shift.observation_space
    after = shift.snapshot()
    assert before.population.tasks == ("classic/cartpole",)
    assert after.population.tasks[0].startswith("classic/cartpole@test-")
    assert [o[-1]["hpbench"]["shifted"] for o in ours] == [False] * 3


def test_the_text_does_not_tell_that_the_task_has_shifted() -> None:
    env = make(track="shift", observation="text")
    texts = [outcome[0] for outcome in play(env, actions_of(env), seed=0)]
    assert all("task classic/cartpole learner ppo\n" in text and "@" not in text for text in texts)


def test_a_shift_survives_a_snapshot() -> None:
    env = make(track="shift")
    actions = actions_of(env)
    play(env, actions[:3], seed=0)
    other = make(track="shift")
    other.restore(env.snapshot())
    assert same(env.step(actions[3]), other.step(actions[3]))


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
