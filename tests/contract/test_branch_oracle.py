"""The branch oracle and what goes with privilege: steps are counted, nobody sneaks in, nobody is ranked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import hpbench
from agents.branch_oracle import MOVES, BranchOracle
from agents.fixed import LibraryDefault
from hpbench.agent import Branches, make_agent, needs_of
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.evaluation.results import load_results
from hpbench.evaluation.suite import Suite, parse_suite
from hpbench.evaluation.tables import RANK_RULE, costs, ranking

SUITE = """
format = 1
name = "bound-v0"

[[rows]]
env = "HPControl-Classic-v0"
tasks = ["classic/cartpole"]
tracks = ["random"]
learner = "ppo"
tier = "small"
seeds = "{seeds}"
decisions = {decisions}
steps = {steps}
evaluation_episodes = {episodes}
"""


def make_suite(seeds: str, decisions: int, steps: int, episodes: int = 2) -> Suite:
    return parse_suite(SUITE.format(seeds=seeds, decisions=decisions, steps=steps, episodes=episodes), "bound.toml")


def play(agent: Any, env: Any, seed: int) -> tuple[list[Any], dict[str, Any]]:
    observation, _ = env.reset(seed=seed)
    if needs_of(agent):
        agent.bind(env.unwrapped.branch)
    agent.reset(env.unwrapped.agent_spec, seed)
    actions, over = [], False
    while not over:
        actions.append(agent.act(observation))
        observation, _, terminated, truncated, info = env.step(actions[-1])
        over = terminated or truncated
    return actions, info["hpbench"]


def test_the_oracle_beats_doing_nothing() -> None:
    """On random starts with a small budget, pair by pair."""
    env = gym.make(
        "HPControl-Classic-v0",
        task="classic/cartpole",
        track="random",
        steps=4096,
        decisions=2,
        evaluation_episodes=20,
        learner_config={"hidden": (16, 16)},
        device="cpu",
    )
    oracle = BranchOracle(horizon=1, random=0, evaluation_episodes=10)
    seeds = range(4)
    ours = np.array([play(oracle, env, seed)[1]["meta_score"] for seed in seeds])
    theirs = np.array([play(LibraryDefault(), env, seed)[1]["meta_score"] for seed in seeds])
    assert (ours - theirs).mean() > 0.05
    assert (ours > theirs).sum() >= 3


def test_candidates_are_no_update_single_moves_and_random_ones() -> None:
    seen = []

    def branch(actions: Any, horizon: int = 1, **options: Any) -> Branches:
        seen.append((actions, horizon, options))
        count = len(actions)
        scores = np.zeros((count, horizon))
        scores[5] = best
        table = np.zeros((count, horizon))
        flags = np.zeros(count, dtype=np.bool_)
        return Branches(scores, np.full_like(table, 0.1), table, {}, np.zeros((count, 9)), flags, flags, 0, 0)

    spec = gym.make("HPControl-Classic-v0", task="classic/cartpole")
    spec.reset(seed=0)
    agent = BranchOracle(horizon=2, random=3, margin=1.0)
    agent.bind(branch)
    agent.reset(spec.unwrapped.agent_spec, 0)
    # The error of a mean over two segments is 0.1 / sqrt(2), that of a difference of two such means is 0.1.
    best = 0.099
    np.testing.assert_array_equal(agent.act(None), np.zeros(9))
    best = 0.101
    chosen = agent.act(None)
    (actions, horizon, options), (_, _, later) = seen
    np.testing.assert_array_equal(chosen, actions[5])
    assert (len(actions), horizon) == (1 + 9 * len(MOVES) + 3, 2)
    assert not actions[0].any()
    assert all(np.count_nonzero(action) == 1 for action in actions[1:-3])
    assert all(np.count_nonzero(action) == 9 for action in actions[-3:])
    assert options["evaluation_seed"] != later["evaluation_seed"], "every decision has episodes of its own"


def test_unbound_and_badly_set_oracles_are_errors() -> None:
    agent = BranchOracle()
    env = gym.make("HPControl-Classic-v0", task="classic/cartpole")
    observation, _ = env.reset(seed=0)
    agent.reset(env.unwrapped.agent_spec, 0)
    with pytest.raises(InvalidConfiguration, match=r"bind\(env.unwrapped.branch\)"):
        agent.act(observation)
    for arguments in ({"horizon": 0}, {"random": -1}, {"evaluation_episodes": 1}, {"margin": float("nan")}):
        with pytest.raises(InvalidConfiguration, match="oracle needs"):
            BranchOracle(**arguments)


def test_needs_are_checked() -> None:
    class Greedy(LibraryDefault):
        needs = "brunch"

    class Unbound(LibraryDefault):
        needs = "branch"

    with pytest.raises(UnknownName, match="'branch'"):
        make_agent(Greedy)
    with pytest.raises(InvalidConfiguration, match=r"bind\(branch\)"):
        make_agent(Unbound)


def test_privileged_agents_are_let_in_by_name_counted_and_not_ranked(tmp_path: Path) -> None:
    suite = make_suite("0-0", decisions=2, steps=1024)
    oracle = BranchOracle(horizon=2, random=1, evaluation_episodes=2)
    agents = [oracle, "agents.fixed:LibraryDefault"]
    with pytest.raises(InvalidConfiguration, match="privileged"):
        hpbench.run(agents, suite, tmp_path / "one", 1, False)
    assert not (tmp_path / "one").exists()
    results = hpbench.run(agents, suite, tmp_path / "one", 1, False, privileged=True)
    record = results.record("branch-oracle", suite.rows[0])
    assert record.agent.needs == "branch"
    assert results.privileged("branch-oracle")
    assert not results.privileged("library-default")
    branches = 1 + 9 * len(MOVES) + 1
    for member in record.members:
        training = np.diff((0, *member.agent_steps))
        # 512 steps a segment: two of them after the first decision, one after the second; evaluation comes on top.
        assert training[0] > branches * 2 * 512
        assert training[1] > branches * 512
        assert member.steps == (0, 512, 1024)
    for member in results.record("library-default", suite.rows[0]).members:
        assert member.agent_steps == ()
    spent = results.costs("branch-oracle", suite.rows[0])
    assert spent is not None
    assert spent.agent_steps == sum(member.agent_steps[-1] for member in record.members)
    assert spent.steps == 1024
    table = ranking(results)
    cells = {row[1]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert cells["branch-oracle"]["rank"] is None
    assert cells["library-default"]["rank"] == 1
    assert cells["library-default"]["steps used"] == 1.0
    own = sum(member.steps[-1] + member.evaluation_steps[-1] for member in record.members)
    assert cells["branch-oracle"]["steps used"] == pytest.approx(1.0 + spent.agent_steps / own)
    assert "privileged" in RANK_RULE
    assert len(costs(results).rows) == 2
    # The same again; read back, it is the same record.
    again = hpbench.run(agents, suite, tmp_path / "two", 1, False, privileged=True)
    assert again.record("branch-oracle", suite.rows[0]) == record
    assert load_results(tmp_path / "one").record("branch-oracle", suite.rows[0]) == record


def test_tables_without_privileged_agents_have_no_such_column(tmp_path: Path) -> None:
    results = hpbench.run("agents.fixed:LibraryDefault", make_suite("0-0", 2, 1024), tmp_path, 1, False)
    assert "steps used" not in ranking(results).columns


def test_looking_ahead_does_not_touch_the_run(tmp_path: Path) -> None:
    """An oracle that never moves leaves the trace of the agent that never moves."""
    suite = make_suite("3-3", decisions=2, steps=1024)
    still = BranchOracle(horizon=1, random=0, evaluation_episodes=2, margin=1e9)
    results = hpbench.run([still, "agents.fixed:LibraryDefault"], suite, tmp_path, 1, False, privileged=True)
    ours, theirs = (results.record(name, suite.rows[0]).members for name in ("branch-oracle", "library-default"))
    for one, other in zip(ours, theirs, strict=True):
        assert one.digests == other.digests
        assert one.scores == other.scores
        assert one.rewards == other.rewards
