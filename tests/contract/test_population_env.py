"""What the population game promises as a PettingZoo environment."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import hpbench
from hpbench.control.parallel import HPControlPopulationEnv
from hpbench.control.registration import PARALLEL_ENVIRONMENTS
from hpbench.errors import InvalidAction, InvalidConfiguration, UnknownName
from population_env import HOT, ID, KEEP, SMALL, keep, make, random_actions, same, seeded

pettingzoo = pytest.importorskip("pettingzoo.test")

INTERFACES = [("text", False), *itertools.product(("delta", "absolute", "discrete"), (False, True))]


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
