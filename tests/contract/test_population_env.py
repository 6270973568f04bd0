"""What the population game promises as a PettingZoo environment, and what copying means."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

import hpbench
from hpbench import tasks
from hpbench.control.episode import EnvOptions, EpisodeBatch
from hpbench.control.parallel import HPControlPopulationEnv, member_seeds
from hpbench.control.registration import PARALLEL_ENVIRONMENTS
from hpbench.errors import InvalidAction, InvalidConfiguration, UnknownName

pettingzoo = pytest.importorskip("pettingzoo.test")

ID = "HPControl-Population-v0"
HOT = 9
SMALL: dict[str, Any] = {
    "task": "classic/cartpole",
    "members": 3,
    "steps": 512,
    "decisions": 4,
    "evaluation_episodes": 2,
    "learner_config": {"num_envs": 4, "num_steps": 32},
    "device": "cpu",
}
INTERFACES = [("text", False), *itertools.product(("delta", "absolute", "discrete"), (False, True))]
KEEP = np.zeros(HOT, dtype=np.float32)


def make(**options: Any) -> Any:
    return hpbench.parallel_env(ID, **{**SMALL, **options})


def keep(env: Any, **copies: int) -> dict[str, Any]:
    """Actions of all running members that change nothing, apart from the copies that are named."""
    return {
        name: {"update": KEEP, "copy_from": copies.get(name, env.possible_agents.index(name))} for name in env.agents
    }


def random_actions(env: Any) -> dict[str, Any]:
    return {name: env.action_space(name).sample() for name in env.agents}


def seeded(env: Any, seed: int = 0) -> Any:
    for m, name in enumerate(env.possible_agents):
        env.action_space(name).seed(seed + m)
    return env


def hpbench_infos(infos: Mapping[str, Any]) -> dict[str, Any]:
    return {name: info["hpbench"] for name, info in infos.items()}


def same(first: Any, second: Any) -> bool:
    return bool(data_equivalence(first, second, exact=True))


# -- the checkers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARALLEL_ENVIRONMENTS)
@pytest.mark.parametrize(
    ("action", "flat", "reward"),
    [*((*interface, "progress") for interface in INTERFACES), ("delta", False, "auc"), ("delta", True, "uplift")],
)
def test_parallel_api_test(name: str, action: str, flat: bool, reward: str) -> None:
    """Warnings are errors in these tests."""
    pettingzoo.parallel_api_test(
        hpbench.parallel_env(name, **{**SMALL, "action": action, "flat": flat, "reward": reward})
    )


@pytest.mark.parametrize(
    ("action", "flat", "track"),
    [*((*interface, "random") for interface in INTERFACES), ("delta", False, "default"), ("delta", False, "shift")],
)
def test_parallel_seed_test(action: str, flat: bool, track: str) -> None:
    pettingzoo.parallel_seed_test(lambda: make(action=action, flat=flat, track=track))


def test_through_the_turn_based_wrapper() -> None:
    from pettingzoo.utils import parallel_to_aec

    with warnings.catch_warnings():
        # PettingZoo's own test recommends names, actions and spaces of board games.
        warnings.simplefilter("ignore", UserWarning)
        pettingzoo.api_test(parallel_to_aec(make(members=2)), num_cycles=10)


def test_render() -> None:
    env = make(render_mode="ansi")
    with pytest.raises(gym.error.ResetNeeded):
        env.render()
    env.reset(seed=0)
    for decision in range(5):
        lines = env.render().splitlines()
        assert lines[0] == f"population of 3, decision {decision} of 4"
        assert [line.split()[0] for line in lines[1:]] == env.possible_agents
        assert all("rank" in line and "learning_rate 0.0003" in line for line in lines[1:])
        if env.agents:
            env.step(keep(env))
    with pytest.raises(InvalidConfiguration, match="render_mode"):
        make().render()


# -- spaces and views --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("track", ["default", "random", "shift"])
def test_observations_and_states_are_in_their_spaces(track: str) -> None:
    env = seeded(make(track=track))
    observations, _ = env.reset(seed=1)
    with pytest.raises(InvalidConfiguration):
        env.agent_spec.schema.values(observations["member_0"][1:])
    while True:
        for name, observation in observations.items():
            assert observation in env.observation_space(name)
            assert observation.dtype == np.float32
        assert env.state() in env.state_space
        if not env.agents:
            break
        observations, *_ = env.step(random_actions(env))


def test_the_schema_reads_what_the_infos_say() -> None:
    env = seeded(make(track="random"))
    observations, infos = env.reset(seed=1)
    schema = env.agent_spec.schema
    for _ in range(3):
        for name, observation in observations.items():
            values, info = schema.values(observation), infos[name]["hpbench"]
            assert {f"hp_{key}": value for key, value in info["values"].items()}.items() <= values.items()
            rows = schema.standings(observation)
            assert [row.own for row in rows] == [name == other for other in env.possible_agents]
            own = rows[env.possible_agents.index(name)]
            assert values.get("score", np.nan) == pytest.approx(own.score, abs=1e-6, nan_ok=True)
        assert {info["hpbench"]["member"] for info in infos.values()} == set(env.possible_agents)
        observations, _, _, _, infos = env.step(random_actions(env))


def test_before_training_nobody_has_a_score() -> None:
    env = make()
    observations, _ = env.reset(seed=0)
    rows = env.agent_spec.schema.standings(observations["member_1"])
    assert [(row.rank, row.running) for row in rows] == [(1, True)] * 3
    assert np.isnan([row.score for row in rows]).all()


# -- without copies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", ["progress", "auc", "uplift"])
@pytest.mark.parametrize("track", ["default", "random"])
def test_without_copies_a_member_is_the_single_environment_of_its_seed(track: str, reward: str) -> None:
    env = seeded(make(track=track, reward=reward))
    observations, infos = env.reset(seed=5)
    trails: dict[str, list[Any]] = {name: [] for name in env.agents}
    actions = []
    first = {name: (observations[name], infos[name]) for name in env.agents}
    while env.agents:
        chosen = random_actions(env)
        chosen = {name: {**action, "copy_from": env.possible_agents.index(name)} for name, action in chosen.items()}
        actions.append(chosen)
        observations, rewards, terminations, truncations, infos = env.step(chosen)
        for name, trail in trails.items():
            trail.append((observations[name], rewards[name], terminations[name], truncations[name], infos[name]))
    options = {key: value for key, value in SMALL.items() if key != "members"}
    single = gym.make("HPControl-Classic-v0", **options, track=track, reward=reward).unwrapped
    for name, seed in zip(env.possible_agents, member_seeds(5, 3), strict=True):
        observation, info = single.reset(seed=seed)
        size = len(observation)
        assert same(first[name][0][:size], observation)
        assert info["hpbench"].items() <= first[name][1]["hpbench"].items()
        for chosen, (seen, *rest, member_info) in zip(actions, trails[name], strict=True):
            observation, *expected, info = single.step(chosen[name]["update"])
            assert same(seen[:size], observation)
            assert rest == expected
            assert info["hpbench"].items() <= member_info["hpbench"].items()


def test_members_differ_and_share_the_task() -> None:
    env = make(track="random", task=None, split="train")
    tasks = set()
    for seed in range(3):
        _, infos = env.reset(seed=seed)
        found = hpbench_infos(infos)
        assert len({info["task"] for info in found.values()}) == 1
        assert len({info["digest"] for info in found.values()}) == 3
        assert {info["population_seed"] for info in found.values()} == {seed}
        tasks.add(found["member_0"]["task"])
    assert len(tasks) > 1


def test_the_task_shifts_for_all_members_at_once() -> None:
    env = make(track="shift", steps=1280, decisions=10)
    _, infos = env.reset(seed=0)
    seen = []
    while env.agents:
        *_, infos = env.step(keep(env, member_0=1))
        seen.append({info["shifted"] for info in hpbench_infos(infos).values()})
        assert len({task.id for task in env.batch.population.tasks}) == 1
    assert all(len(shifted) == 1 for shifted in seen)
    assert seen[0] == {False}
    assert seen[-1] == {True}


# -- copies ------------------------------------------------------------------------------------------------------------


def test_copies_act_at_once_on_the_state_before_the_decision() -> None:
    """0 becomes what 1 was, 1 what 2 was; each goes on with its own random streams."""
    env = make(track="random")
    env.reset(seed=2)
    env.step(keep(env))
    before = env.batch.population.fork([0, 1, 2])
    streams = before.fork([0, 1, 2])
    *_, infos = env.step(keep(env, member_0=1, member_1=2))
    expected = before.fork([1, 2, 2])
    for name in ("rng_keys", "rng_calls"):
        expected.state[name] = streams.state[name].clone()
    expected.train(env.batch.plan.rollouts)
    expected.evaluate(2)
    found = hpbench_infos(infos)
    assert [info["digest"] for info in found.values()] == expected.digests()
    assert [info["copied_from"] for info in found.values()] == ["member_1", "member_2", None]
    assert [list(info["values"].values()) for info in found.values()] == before.table()[[1, 2, 2]].tolist()
    assert len({info["digest"] for info in found.values()}) == 3


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("action", ["delta", "discrete"])
def test_updates_apply_to_the_copied_values(action: str, flat: bool) -> None:
    env = make(track="random", action=action, flat=flat)
    _, infos = env.reset(seed=3)
    before = [list(info["values"].values()) for info in hpbench_infos(infos).values()]
    assert before[0] != before[2]
    nothing = KEEP if action == "delta" else np.full(HOT, 3)
    update = nothing.copy()
    update[3] = -0.5 if action == "delta" else 1  # both halve the clip range
    choices = []
    for m, source in enumerate((2, 1, 2)):
        chosen = update if m == 0 else nothing
        if not flat:
            choices.append({"update": chosen, "copy_from": np.int64(source)})
        elif action == "discrete":
            choices.append(np.append(chosen, source))
        else:
            choices.append(np.append(chosen, np.eye(3)[source]).astype(np.float32))
    *_, infos = env.step(dict(zip(env.agents, choices, strict=True)))
    after = [list(info["values"].values()) for info in hpbench_infos(infos).values()]
    assert after[1:] == before[1:]
    assert [value for i, value in enumerate(after[0]) if i != 3] == [v for i, v in enumerate(before[2]) if i != 3]
    assert after[0][3] == pytest.approx(before[2][3] / 2, rel=1e-4)


def test_after_a_copy_the_past_is_that_of_the_copied_run() -> None:
    env = seeded(make(track="random"))
    env.reset(seed=4)
    for _ in range(2):
        actions = random_actions(env)
        for m, name in enumerate(env.agents):
            actions[name]["copy_from"] = m
        observations, *_ = env.step(actions)
    schema = env.agent_spec.schema
    source = schema.values(observations["member_2"])
    observations, *_ = env.step(keep(env, member_0=2))
    copied, original = (schema.values(observations[name]) for name in ("member_0", "member_2"))
    for name in SHARED_PAST:
        assert copied[name] == original[name]
    assert copied["update_2_learning_rate"] == source["update_1_learning_rate"] != 0.0
    assert copied["update_1_learning_rate"] == 0.0
    assert copied["return_mean"] != original["return_mean"]  # its own streams


SHARED_PAST = ("update_1_learning_rate", "update_2_learning_rate", "update_2_discount", "effect_2", "hp_learning_rate")


def test_a_copy_is_no_part_of_the_others() -> None:
    calm, busy = make(), make()
    calm.reset(seed=6)
    busy.reset(seed=6)
    for _ in range(4):
        expected, found = calm.step(keep(calm)), busy.step(keep(busy, member_0=2))
        for name in ("member_1", "member_2"):
            assert expected[1][name] == found[1][name]
            assert expected[4][name] == found[4][name]


def test_uplift_of_a_copy_is_counted_against_going_on_alone() -> None:
    env, other = make(reward="uplift"), make(reward="auc")
    env.reset(seed=7)
    other.reset(seed=7)
    _, rewards, *_, infos = env.step(keep(env, member_0=1))
    *_, alone = other.step(keep(other))
    found = hpbench_infos(infos)
    difference = found["member_0"]["score"] - hpbench_infos(alone)["member_0"]["score"]
    assert rewards == {"member_0": difference, "member_1": 0.0, "member_2": 0.0}
    assert [info["counterfactual_steps"] for info in found.values()] == [128, 0, 0]


def test_a_batch_refuses_copies_that_can_not_be() -> None:
    options = EnvOptions(**{key: value for key, value in SMALL.items() if key != "members"})
    batch = EpisodeBatch(options, [0, 1, 2])
    batch.reset()
    batch.population.state["diverged"][2] = True
    batch.step([KEEP] * 3)
    before = batch.population.digests()
    for copies in ({0: 2}, {2: 0}, {0: 3}):
        with pytest.raises(InvalidAction, match="both must be running"):
            batch.step([KEEP] * 3, copies)
    batch.population.set_tasks([tasks.make(f"classic/cartpole@test-{m}") for m in range(3)])
    with pytest.raises(InvalidAction, match="different tasks"):
        batch.step([KEEP] * 3, {0: 1})
    batch.population.set_tasks([tasks.make("classic/cartpole")] * 3)
    assert batch.population.digests() == before


# -- divergence --------------------------------------------------------------------------------------------------------


def test_a_diverged_member_leaves_and_can_not_be_copied() -> None:
    env = make()
    env.reset(seed=0)
    *_, infos = env.step(keep(env))
    before = hpbench_infos(infos)["member_1"]["score"]
    env.batch.population.state["parameters"][1] = float("nan")
    observations, rewards, terminations, truncations, infos = env.step(keep(env))
    assert terminations == {"member_0": False, "member_1": True, "member_2": False}
    assert not any(truncations.values())
    assert env.agents == ["member_0", "member_2"]
    assert rewards["member_1"] == -before
    assert hpbench_infos(infos)["member_1"]["diverged"] is True
    assert observations["member_1"] in env.observation_space("member_1")
    rows = env.agent_spec.schema.standings(observations["member_0"])
    assert [row.running for row in rows] == [True, False, True]
    assert rows[1].rank == 3
    with pytest.raises(UnknownName, match="member_1"):
        env.step({**keep(env), "member_1": {"update": KEEP, "copy_from": 0}})
    observations, rewards, _, truncations, infos = env.step(keep(env, member_0=1, member_2=0))
    found = hpbench_infos(infos)
    assert set(observations) == set(rewards) == set(found) == {"member_0", "member_2"}
    assert [info["copied_from"] for info in found.values()] == [None, "member_0"]
    assert [info["copy_ignored"] for info in found.values()] == [True, False]
    *_, truncations, _ = env.step(keep(env))
    assert truncations == {"member_0": True, "member_2": True}
    assert env.agents == []
    with pytest.raises(gym.error.ResetNeeded):
        env.step({})
    assert len(env.reset(seed=0)[0]) == 3


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interface", "action"),
    [
        ({}, KEEP),
        ({}, {"update": KEEP}),
        ({}, {"update": KEEP, "copy_from": 3}),
        ({}, {"update": KEEP, "copy_from": -1}),
        ({}, {"update": KEEP, "copy_from": 0.0}),
        ({}, {"update": KEEP, "copy_from": True}),
        ({}, {"update": KEEP[1:], "copy_from": 0}),
        ({}, {"update": KEEP * np.nan, "copy_from": 0}),
        ({"flat": True}, KEEP),
        ({"flat": True}, np.full(HOT + 3, np.nan, dtype=np.float32)),
        ({"flat": True, "action": "discrete"}, np.full(HOT + 1, 5)),
    ],
)
def test_an_action_without_meaning_changes_nothing(interface: dict[str, Any], action: Any) -> None:
    env = make(**interface)
    env.reset(seed=0)
    digests, good = env.batch.population.digests(), random_actions(env)
    with pytest.raises(InvalidAction, match="member"):
        env.step({**good, "member_0": action})
    with pytest.raises(InvalidAction, match="member_0 has no action"):
        env.step({name: good[name] for name in ("member_1", "member_2")})
    assert env.batch.population.digests() == digests
    env.step(good)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"members": 1}, InvalidConfiguration, "members=2 or more"),
        ({"members": 2.0}, InvalidConfiguration, "members=2 or more"),
        ({"observation": "text"}, InvalidConfiguration, "vector"),
        ({"action": "text", "flat": True}, InvalidConfiguration, "flat"),
        ({"render_mode": "human"}, UnknownName, "ansi"),
        ({"trak": "random"}, UnknownName, "track"),
        ({"task": "classic/cartpol"}, UnknownName, "classic/cartpole"),
        ({"steps": 513}, InvalidConfiguration, "whole rollouts"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**options)


def test_unknown_ids_and_early_steps() -> None:
    with pytest.raises(UnknownName, match=f"Did you mean '{ID}'"):
        hpbench.parallel_env("HPControl-Populations-v0")
    with pytest.raises(gym.error.ResetNeeded):
        make().step({})
    with pytest.raises(UnknownName):
        make().reset(options={"task": "classic/no-such-task"})
    _, infos = make().reset(options={"task": "classic/cartpole@test-3"})
    assert infos["member_0"]["hpbench"]["task"] == "classic/cartpole@test-3"


def test_without_pettingzoo_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['pettingzoo'] = None\n"
        "import hpbench\n"
        "assert hpbench.parallel_env.__name__ == 'parallel_env'\n"
        "try:\n    hpbench.parallel_env('HPControl-Population-v0')\n"
        "except hpbench.errors.MissingExtra as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "hpbench[pettingzoo]"' in done.stdout


# -- determinism and copies of the environment -------------------------------------------------------------------------


def play(env: Any, actions: list[dict[str, Any]]) -> list[Any]:
    return [env.step(chosen) for chosen in actions]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_duplicate_goes_on_as_the_original(duplicate: Any) -> None:
    env: HPControlPopulationEnv = seeded(make(track="random", task=None, split="train"))
    env.reset(seed=8)
    env.step(random_actions(env))
    twin = duplicate(env)
    assert twin.agents == env.agents
    rest = [random_actions(env) for _ in range(3)]
    assert same(play(env, rest), play(twin, rest))
    assert same(env.reset(), twin.reset())


def test_same_seed_same_game_and_everything_is_json() -> None:
    env, other = seeded(make(track="random")), make(track="random")
    first = env.reset(seed=9)
    actions = [random_actions(env) for _ in range(4)]
    steps = play(env, actions)
    other.reset(seed=1)
    other.step(random_actions(other))
    assert same(first, other.reset(seed=9))
    assert same(steps, play(other, actions))
    for *_, infos in steps:
        assert json.loads(json.dumps(infos, allow_nan=False)) == infos
