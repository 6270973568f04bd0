"""What every registered population agent promises, in short real games, and what a record of a game says."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import hpbench
from agents.independent import Independent
from agents.pb2 import PB2
from agents.pbt import PBT
from hpbench.agent import POPULATION_AGENTS, Agent, PopulationAgent, make_agent, make_population_agent
from hpbench.control.parallel import member_seeds
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.evaluation.population import MemberRecord, PopulationRecord, run_population

pytest.importorskip("pettingzoo")
pytest.importorskip("sklearn")

BUILT_IN = {"independent": Independent, "pbt": PBT, "pb2": PB2}
NAMES = sorted({*BUILT_IN, *POPULATION_AGENTS})
DECISIONS, MEMBERS = 5, 4
SMALL: dict[str, Any] = {
    "members": MEMBERS,
    "decisions": DECISIONS,
    "steps": DECISIONS * 64,
    "evaluation_episodes": 1,
    "learner_config": {"num_envs": 4, "num_steps": 16, "hidden": (8, 8)},
    "device": "cpu",
}
TASK = "classic/cartpole"

every_agent = pytest.mark.parametrize("name", NAMES)


def new_agent(name: str) -> Any:
    """A registered agent; the built-in ones also where the distribution is not installed."""
    return make_population_agent(name if name in POPULATION_AGENTS else BUILT_IN[name])


def environment(agent: Any, track: str = "random", task: str = TASK) -> Any:
    return hpbench.parallel_env(
        "HPControl-Population-v0", task=task, track=track, action=getattr(agent, "action", "delta"), **SMALL
    )


def play(agent: Any, env: Any, seed: int = 0, agent_seed: int = 0) -> list[Mapping[str, Any]]:
    """The actions of one game."""
    observations, _ = env.reset(seed=seed)
    agent.reset_population(env.agent_spec, agent_seed)
    actions = []
    while env.agents:
        chosen = agent.act_population(observations)
        assert set(chosen) == set(env.agents)
        for name, action in chosen.items():
            assert env.action_space(name).contains(action)
        observations, *_ = env.step(chosen)
        observations = {name: observations[name] for name in env.agents}
        actions.append(copy.deepcopy(chosen))
    return actions


def same(first: Any, second: Any) -> bool:
    from gymnasium.utils.env_checker import data_equivalence

    return bool(data_equivalence(first, second, exact=True))


def test_the_built_in_agents_are_the_registered_ones() -> None:
    if "pbt" not in POPULATION_AGENTS:
        pytest.skip("hpbench is not installed, so its entry points are not known")
    assert {name: POPULATION_AGENTS.load(name) for name in BUILT_IN} == BUILT_IN


@every_agent
def test_names_and_interface_are_declared(name: str) -> None:
    agent = new_agent(name)
    assert agent.name == name
    assert isinstance(agent, PopulationAgent)
    assert not isinstance(agent, Agent)
    assert getattr(agent, "observation", "vector") == "vector"


@pytest.mark.parametrize("track", ["default", "random", "shift"])
@pytest.mark.parametrize("task", ["classic/acrobot", "classic/pendulum"])
@every_agent
def test_acts_in_the_action_space_until_the_end(name: str, task: str, track: str) -> None:
    agent = new_agent(name)
    before = random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    assert len(play(agent, environment(agent, track, task))) == DECISIONS
    assert random.getstate() == before[0]
    assert pickle.dumps(np.random.get_state()) == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


@every_agent
def test_same_seed_same_actions_whatever_was_played_before(name: str) -> None:
    agent, env = new_agent(name), environment(new_agent(name))
    first = play(agent, env, seed=3, agent_seed=7)
    play(agent, env, seed=4, agent_seed=8)
    assert same(first, play(agent, env, seed=3, agent_seed=7))
    assert same(first, play(new_agent(name), env, seed=3, agent_seed=7))


@pytest.mark.parametrize("name", ["pbt", "pb2"])
def test_random_agents_depend_on_their_seed(name: str) -> None:
    env = environment(new_agent(name))
    assert not same(*(play(new_agent(name), env, agent_seed=seed) for seed in (0, 1)))


@every_agent
def test_a_copy_made_on_the_way_goes_on_alone(name: str) -> None:
    agent = new_agent(name)
    env = environment(agent)
    observations, _ = env.reset(seed=1)
    agent.reset_population(env.agent_spec, 1)
    for _ in range(3):
        observations, *_ = env.step(agent.act_population(observations))
    kept = copy.deepcopy(observations)
    twins = copy.deepcopy(agent), pickle.loads(pickle.dumps(agent))
    expected = agent.act_population(observations)
    assert same(observations, kept)
    agent.reset_population(env.agent_spec, 2)
    for twin in twins:
        assert same(expected, twin.act_population(observations))


@every_agent
def test_goes_on_when_members_diverge(name: str) -> None:
    agent = new_agent(name)
    env = environment(agent)
    observations, _ = env.reset(seed=2)
    agent.reset_population(env.agent_spec, 0)
    for lost in (1, 3, 0):
        env.batch.population.state["parameters"][lost] = float("nan")
        chosen = {**agent.act_population(observations)}
        env.step({n: {**chosen[n], "copy_from": m} for m, n in enumerate(env.possible_agents) if n in env.agents})
        observations = {n: o for n, o in zip(env.possible_agents, env._observe(), strict=True) if n in env.agents}
    assert env.agents == ["member_2"]
    while env.agents:
        _, _, _, _, infos = env.step(agent.act_population(observations))
    assert infos["member_2"]["hpbench"]["decision"] == DECISIONS


def test_mistakes_are_told_apart() -> None:
    with pytest.raises(InvalidConfiguration, match="run_population"):
        make_agent(PBT)
    with pytest.raises(InvalidConfiguration, match="is not a population agent"):
        make_population_agent("agents.fixed:LibraryDefault")
    with pytest.raises(UnknownName, match="population agent"):
        make_population_agent("pbtt")
    with pytest.raises(InvalidConfiguration, match="observation"):
        run_population(PBT(), TASK, observation="text")
    with pytest.raises(UnknownName, match="track"):
        run_population(PBT(), TASK, track="randm")


# -- records -----------------------------------------------------------------------------------------------------------


def test_a_record_tells_the_whole_game() -> None:
    record, other = run_population(PBT(), TASK, [3, 4], track="random", **SMALL)
    again = next(run_population(PBT(), TASK, [3], track="random", **SMALL))
    assert record == again != other
    assert record.agent == "pbt"
    assert [member.seed for member in record.members] == list(member_seeds(3, MEMBERS))
    assert record.steps == MEMBERS * SMALL["steps"]
    assert record.copies > 0
    for m, member in enumerate(record.members):
        assert len(member.scores) == DECISIONS + 1
        assert len(member.copied_from) == len(member.values["discount"]) == DECISIONS
        for decision, source in enumerate(member.copied_from):
            if source == m and decision:
                assert all(column[decision] == column[decision - 1] for column in member.values.values())
    written = record.to_dict()
    assert json.loads(json.dumps(written, allow_nan=False))["best_score"] == record.best_score


def test_without_a_task_each_seed_draws_one() -> None:
    records = list(run_population(Independent(), seeds=range(3), split="train", **SMALL))
    assert [len({member.task for member in record.members}) for record in records] == [1] * 3
    assert len({record.members[0].task for record in records}) > 1


def test_independent_members_are_not_touched() -> None:
    record = next(run_population(Independent(), TASK, [3], track="random", **SMALL))
    assert record.copies == 0
    for member in record.members:
        assert all(len(set(column)) == 1 for column in member.values.values())


def member(score: float, training: float | None, diverged: bool = False) -> MemberRecord:
    return MemberRecord(TASK, 0, (0.0, score), training, {}, (0,), 64, 10, diverged, "")


def test_the_best_member_is_chosen_by_training_score() -> None:
    members = member(0.9, 0.4), member(0.5, 0.7), member(0.0, 0.8, True), member(1.0, None)
    record = PopulationRecord("a", {}, 0, 0, members)
    assert (record.best_member, record.best_score) == (1, 0.5)
    assert record.mean_score == pytest.approx(0.6)
    assert record.steps == 256
    assert PopulationRecord("a", {}, 0, 0, members[2:]).best_member == 1
