"""What every registered agent promises, on every environment id and track, in short real meta-episodes."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.branch_oracle import BranchOracle
from agents.decay import CosineDecay, LinearDecay
from agents.fixed import HandTuned, LibraryDefault
from agents.kl_adaptive import KLAdaptive
from agents.plateau import Plateau
from agents.random_search import StaticRandom
from agents.random_updates import RandomMatched, RandomUpdates
from hpbench import tasks
from hpbench.agent import AGENTS, Agent, make_agent, needs_of
from hpbench.control.options import CHOICES
from hpbench.control.registration import ENVIRONMENTS

BUILT_IN = {
    "library-default": LibraryDefault,
    "hand-tuned": HandTuned,
    "static-random": StaticRandom,
    "random": RandomUpdates,
    "random-matched": RandomMatched,
    "linear-decay": LinearDecay,
    "cosine-decay": CosineDecay,
    "kl-adaptive": KLAdaptive,
    "plateau": Plateau,
    "branch-oracle": BranchOracle,
}
CHEAPER = {"branch-oracle": {"horizon": 1, "random": 1, "evaluation_episodes": 2}}
"""Arguments of agents whose defaults take longer than these tests should."""
NAMES = sorted({*BUILT_IN, *AGENTS})
DECISIONS = 4
PLACES = [
    (name, task, track)
    for name, family in ENVIRONMENTS.items()
    for task in tasks.task_ids(family)
    if tasks.make(task).simulator is None  # those are slow: tests of their own play one of them with some agents
    for track in CHOICES["track"]
]

every_agent = pytest.mark.parametrize("name", NAMES)


def new_agent(name: str) -> Any:
    """A registered agent; the built-in ones also where the distribution is not installed."""
    return make_agent(name if name in AGENTS else BUILT_IN[name], **CHEAPER.get(name, {}))


def environment(agent: Any, place: tuple[str, str, str] = PLACES[0]) -> Any:
    """A meta-environment with the interface that the agent asks for, and a small learner."""
    name, task, track = place
    return gym.make(
        name,
        task=task,
        track=track,
        observation=getattr(agent, "observation", "vector"),
        action=getattr(agent, "action", "delta"),
        decisions=DECISIONS,
        steps=DECISIONS * 2 * 16,
        evaluation_episodes=1,
        learner_config={"num_envs": 2, "num_steps": 16, "hidden": (8, 8)},
        device="cpu",
    )


def bind(agent: Any, env: Any) -> None:
    """Give an agent what it needs of its environment."""
    if needs_of(agent) == "branch":
        agent.bind(env.unwrapped.branch)


def play(agent: Any, env: Any, seed: int = 0, agent_seed: int = 0) -> tuple[list[Any], list[dict[str, float]]]:
    """Actions and effective values of one meta-episode, from the agent's reset on."""
    observation, info = env.reset(seed=seed)
    bind(agent, env)
    agent.reset(env.unwrapped.agent_spec, agent_seed)
    actions, values, over = [], [info["hpbench"]["values"]], False
    while not over:
        action = agent.act(observation)
        assert env.unwrapped.agent_spec.action_space.contains(action)
        observation, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        actions.append(copy.deepcopy(action))
        values.append(info["hpbench"]["values"])
    return actions, values


@contextmanager
def untouched_global_streams() -> Iterator[None]:
    """Fails if Python's, NumPy's or PyTorch's global random stream moves inside."""
    before = random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    yield
    assert random.getstate() == before[0]
    assert pickle.dumps(np.random.get_state()) == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_the_built_in_agents_are_the_registered_ones() -> None:
    if "library-default" not in AGENTS:
        pytest.skip("hpbench is not installed, so its entry points are not known")
    assert {name: AGENTS.load(name) for name in BUILT_IN} == BUILT_IN


@every_agent
def test_names_and_interface_are_declared(name: str) -> None:
    agent = new_agent(name)
    assert agent.name == name
    assert getattr(agent, "observation", "vector") in CHOICES["observation"]
    assert getattr(agent, "action", "delta") in CHOICES["action"]
    assert isinstance(agent, Agent)


@pytest.mark.parametrize("place", PLACES, ids="-".join)
@every_agent
def test_acts_in_the_action_space_until_the_end(name: str, place: tuple[str, str, str]) -> None:
    agent = new_agent(name)
    env = environment(agent, place)
    with untouched_global_streams():
        actions, values = play(agent, env)
    assert len(actions) == DECISIONS
    spec = env.unwrapped.agent_spec
    for row in values:
        assert row == spec.hyperparameters.check(row)


@every_agent
def test_same_seed_same_actions_whatever_was_played_before(name: str) -> None:
    agent, env = new_agent(name), environment(new_agent(name), PLACES[1])
    first = play(agent, env, seed=3, agent_seed=7)
    play(agent, env, seed=4, agent_seed=8)
    again = play(agent, env, seed=3, agent_seed=7)
    fresh = play(new_agent(name), env, seed=3, agent_seed=7)
    for other in (again, fresh):
        np.testing.assert_array_equal(np.array(first[0]), np.array(other[0]))
        assert first[1] == other[1]


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))], ids=["deepcopy", "pickle"]
)
@every_agent
def test_a_copy_made_on_the_way_goes_on_alone(name: str, duplicate: Any) -> None:
    agent = new_agent(name)
    env = environment(agent)
    observation, _ = env.reset(seed=1)
    bind(agent, env)
    agent.reset(env.unwrapped.agent_spec, 1)
    seen = []
    for _ in range(DECISIONS - 1):
        seen.append(observation)
        observation, *_ = env.step(agent.act(observation))
    seen.append(observation)
    twin, third = duplicate(agent), duplicate(agent)
    for other in (twin, third):
        bind(other, env)
    expected = [agent.act(observation) for observation in seen]
    agent.reset(env.unwrapped.agent_spec, 99)
    agent.act(seen[0])
    # The twin is where the original was; neither the original's reset nor the other copy has moved it.
    for observation in seen[:1]:
        third.act(observation)
    np.testing.assert_array_equal(np.array(expected), np.array([twin.act(observation) for observation in seen]))


@every_agent
def test_neither_observation_nor_action_is_shared(name: str) -> None:
    agent = new_agent(name)
    env = environment(agent)
    observation, _ = env.reset(seed=2)
    bind(agent, env)
    agent.reset(env.unwrapped.agent_spec, 2)
    twin = copy.deepcopy(agent)
    bind(twin, env)
    kept = copy.deepcopy(observation)
    action = agent.act(observation)
    np.testing.assert_equal(observation, kept)
    if isinstance(action, np.ndarray):
        action[:] = 0.5
    twin.act(observation)
    np.testing.assert_array_equal(agent.act(observation), twin.act(observation))


@pytest.mark.parametrize("name", ["static-random", "random", "random-matched"])
def test_random_agents_depend_on_their_seed(name: str) -> None:
    env = environment(new_agent(name))
    first, second = (play(new_agent(name), env, agent_seed=seed)[0] for seed in (0, 1))
    assert not np.array_equal(np.array(first), np.array(second))
