"""Populations whose environments are simulators: they must be as exact as those on tensors."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from drift import Drift, DriftMaker, Make, both, ppo, sac, task
from hpbench.learners.external import ExternalEnvironments, episode_seeds
from hpbench.learners.snapshot import Snapshot
from hpbench.seeding import Stream


@pytest.fixture(autouse=True)
def log() -> list[tuple[str, object]]:
    gc.collect()
    DriftMaker.log.clear()
    return DriftMaker.log


@both
def test_deterministic(make: Make) -> None:
    first, second = make(), make()
    assert first.train(3)["episodes"].min() > 0
    second.train(1)
    assert first.digests() != second.digests()
    second.digests()  # looking in between changes nothing
    second.train(2)
    assert first.digests() == second.digests()
    assert len(set(first.digests())) == 3


@both
def test_a_member_does_not_see_who_shares_the_population(make: Make) -> None:
    together, alone = make([5, 6, 7]), make([6])
    together.train(2)
    alone.train(2)
    saved = together.state["env_simulator"], alone.state["env_simulator"]
    together.settle()
    alone.settle()
    if together.engine == "native":
        assert together.digests()[1] == alone.digests()[0]
    # The torch engine's batched products may round by the number of members, so a push may differ in its last bits.
    assert torch.equal(together.state["env_elapsed"][1], alone.state["env_elapsed"][0])
    torch.testing.assert_close(
        together.state["env_observation"][1], alone.state["env_observation"][0], rtol=1e-3, atol=1e-3
    )
    assert all(bool(tensor.any()) for tensor in saved)


@both
def test_forks_go_on_as_the_original(make: Make, log: list[tuple[str, object]]) -> None:
    original = make()
    original.train(2)
    before = original.digests()
    fork = original.fork([2, 0, 0])
    assert fork.digests() == [before[2], before[0], before[0]]
    assert log.count(("make", False)) == 3, "a fork that has not stepped needs no simulator"
    fork.train(1)
    assert log.count(("make", False)) == 6
    assert original.digests() == before
    original.train(1)
    ahead = original.digests()
    whole = original.fork(range(3))
    whole.train(1)
    original.train(1)
    assert whole.digests() == original.digests()
    assert len({*before, *ahead}) == 6
    assert fork.digests()[1] == fork.digests()[2]


@both
def test_copies_joins_and_snapshots_are_exact(make: Make, tmp_path: Path) -> None:
    original = make()
    original.train(2)
    snapshot = original.snapshot()
    snapshot.save(tmp_path / "it.npz")
    copied = original.fork(range(3))
    copied.copy([0], [2])
    assert torch.equal(copied.state["env_simulator"][2], original.state["env_simulator"][0])
    original.train(2)
    expected = original.digests()
    for kept in (snapshot, Snapshot.load(tmp_path / "it.npz")):
        original.restore(kept)
        original.train(2)
        assert original.digests() == expected
    other = make()  # never trained
    other.restore(snapshot)
    other.train(2)
    assert other.digests() == expected
    first, rest = other.fork([0]), other.fork([1, 2])
    joined = first.join([rest])
    assert joined.digests() == expected
    joined.train(1)
    other.train(1)
    assert joined.digests() == other.digests()


@both
def test_a_copied_member_goes_on_from_the_source(make: Make) -> None:
    population = make()
    population.train(1)
    twin = population.fork(range(3))
    for each in (population, twin):
        each.copy([0], [1])
    population.state["rng_keys"][1] = population.state["rng_keys"][0]
    population.state["rng_calls"][1] = population.state["rng_calls"][0]
    population.train(2)
    digests = population.digests()
    assert digests[0] == digests[1]
    twin.train(2)
    assert twin.digests()[1] != digests[1], "a copy explores on its own stream"


@both
@pytest.mark.parametrize("duplicate", [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy])
def test_pickling_takes_everything_along(make: Make, duplicate: Callable[[Any], Any]) -> None:
    original = make()
    original.train(2)
    other = duplicate(original)
    assert other.digests() == original.digests()
    original.train(1)
    other.train(1)
    assert other.digests() == original.digests()


@both
def test_evaluation_leaves_training_alone(make: Make) -> None:
    watched, left_alone = make(), make()
    watched.train(1)
    calls = watched.state["rng_calls"].clone()
    result = watched.evaluate(4)
    assert result.lengths.min() > 0
    assert result.lengths.max() <= 30
    watched.state["rng_calls"].copy_(calls)
    again = watched.evaluate(4)
    assert np.array_equal(result.returns, again.returns)
    watched.state["rng_calls"].copy_(calls)
    watched.train(2)
    left_alone.train(3)
    assert watched.digests() == left_alone.digests()


def test_evaluation_plays_its_own_levels(log: list[tuple[str, object]]) -> None:
    population = ppo([0], task(hazard=0.0), engine="torch")
    seen = []
    policy = population._policy()
    population._policy = lambda: lambda observation, draws: seen.append(observation) or policy(observation, draws)  # type: ignore[method-assign, func-returns-value]
    assert population.evaluate(2).lengths.tolist() == [[30, 30]]
    assert len(seen) == 30
    assert all((observation[..., 2] > 50).all() for observation in seen)
    assert population.state["env_observation"][..., 2].max() < 50
    population.evaluate(2)
    assert log.count(("make", True)) == 1, "simulators for evaluation are kept"


def test_what_has_ended_is_not_stepped_in_evaluation() -> None:
    population = ppo([0], task(hazard=0.2))
    lengths = population.evaluate(6).lengths
    population.state["rng_calls"][:, 4] -= 3
    simulator = population.environments.of_evaluation(6).members[0]._simulator  # type: ignore[attr-defined]
    assert [len(path) - 1 for path in simulator.path] == lengths[0].tolist()


def test_a_time_limit_is_bootstrapped_a_termination_is_not() -> None:
    """Every step pays 1 and nothing ends by itself: with a critic that says 7 the time limit must be worth 7."""
    never = ppo([0], task(hazard=0.0))
    never.train(1)
    buffer = never.buffer  # 16 steps: no episode ended
    assert buffer["done"].sum() == 0
    never.train(1)
    assert buffer["truncated"][0].sum(dim=0).tolist() == [1.0] * 3
    assert torch.equal(buffer["truncated"], buffer["done"])
    cut = buffer["truncated"][0, :, 0] > 0
    assert float(buffer["final_value"][0, cut, 0]) != 0.0
    assert never.state["env_elapsed"].tolist() == [[2] * 3]
    always = ppo([0], task(hazard=1.0))
    always.train(1)
    assert always.buffer["done"].all()
    assert always.buffer["truncated"].sum() == 0
    assert always.state["env_elapsed"].sum() == 0


def test_final_observations_are_of_the_old_episode() -> None:
    population = sac([0], task(discrete=False, hazard=0.3))
    population.train(2)
    state = population.state
    for env in range(2):  # rows in the order of time, environments in turn
        rows = range(env, int(state["replay_size"][0]), 2)
        for now, after in zip(rows, [*rows][1:], strict=False):
            following, shown = state["replay_next_observation"][0, now], state["replay_observation"][0, after]
            assert following[1] == state["replay_observation"][0, now, 1] + 1
            ended = bool(state["replay_terminated"][0, now] | state["replay_truncated"][0, now])
            assert torch.equal(following, shown) != ended
            assert not ended or shown[1] == 1.0


@both
def test_divergence_of_one_member_stops_only_that_one(make: Make, log: list[tuple[str, object]]) -> None:
    sick, well = make(), make()
    for each in (sick, well):
        each.train(1)
    sick.state["parameters"][1] = np.nan
    sick.train(1)
    assert sick.diverged.tolist() == [False, True, False]
    frozen = sick.digests()[1]
    well.train(1)
    made = log.count(("make", False))
    for each in (sick, well):
        each.train(2)
    assert sick.digests()[1] == frozen
    for m in (0, 2):
        assert torch.equal(sick.state["env_elapsed"][m], well.state["env_elapsed"][m])
        torch.testing.assert_close(sick.state["env_return"][m], well.state["env_return"][m], rtol=1e-3, atol=1e-3)
    assert log.count(("make", False)) == made, "those who go on keep their simulators"
    assert np.isnan(sick.evaluate(2).returns[1]).all()


def test_members_that_split_a_rollout_differently_keep_their_simulators(log: list[tuple[str, object]]) -> None:
    population = ppo(values={"minibatches": [2, 4, 8], "update_epochs": [1, 2, 3]})
    population.train(3)
    assert log.count(("make", False)) == 3
    assert not [entry for entry in log if entry[0] == "load"]
    alone = ppo([1], values={"minibatches": 4, "update_epochs": 2})
    alone.train(3)
    assert population.state["env_elapsed"][1].tolist() == alone.state["env_elapsed"][0].tolist()


def test_simulators_are_closed_with_their_population(log: list[tuple[str, object]]) -> None:
    population = ppo()
    population.evaluate(2)
    fork = population.fork([0])
    fork.train(1)
    assert ("close", False) not in log
    del fork
    gc.collect()
    assert log.count(("close", False)) == 1
    del population
    gc.collect()
    assert log.count(("close", False)) == 4
    assert log.count(("close", True)) == 3


def test_common_physics_are_applied() -> None:
    plain = task(hazard=0.0)
    changed = replace(plain, physics={"reward_scale": 10.0, "observation_noise": 0.0, "action_delay": 0.0})
    noisy = replace(plain, physics={"reward_scale": 1.0, "observation_noise": 0.5, "action_delay": 0.0})
    late = replace(plain, physics={"reward_scale": 1.0, "observation_noise": 0.0, "action_delay": 2.0})
    ordinary, scaled, noised, delayed = (ppo([3], each) for each in (plain, changed, noisy, late))
    for population in (ordinary, scaled, noised, delayed):
        population.train(1)
    assert torch.equal(scaled.buffer["reward"], 10.0 * ordinary.buffer["reward"])
    counts = noised.state["env_observation"][..., 1]
    assert (counts != counts.round()).any()
    assert (ordinary.state["env_observation"][..., 1] == 17).all()
    reward, action = delayed.buffer["reward"], delayed.buffer["action"][..., 0]
    assert torch.equal(reward[:, 2:], 1.0 + action[:, :-2])
    assert (reward[:, :2] == 1.0).all()


def test_whole_numbers_get_no_noise() -> None:
    noisy = {"reward_scale": 1.0, "observation_noise": 0.5, "action_delay": 0.0}
    exact = replace(task(), physics=noisy, observation_dtype="int16")
    assert ExternalEnvironments(exact, 2).noise_draws == 0
    assert ExternalEnvironments(replace(exact, observation_dtype="float32"), 2).noise_draws > 0
    # Learners draw their noise as a tensor of that width.
    population = ppo([0], task())
    assert population._uniform(Stream.NOISE, (2, 0)).shape == (1, 2, 0)


def test_a_simulator_that_restarts_itself_is_only_reset_at_time_limits() -> None:
    class Counting(Drift):
        resets: ClassVar[list[list[int]]] = []

        def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
            Counting.resets.append(list(which))
            super().reset(which, seeds)

    @dataclass(frozen=True)
    class Maker(DriftMaker):
        def make(self, envs: int, evaluation: bool = False) -> Drift:
            return Counting(self, envs, evaluation)

    for itself in (True, False):
        Counting.resets.clear()
        ppo([0], replace(task(), simulator=Maker(hazard=1.0, restarts_itself=itself))).train(1)
        assert len(Counting.resets) == (1 if itself else 17)


def test_seeds_have_31_bits_that_all_differ() -> None:
    draws = torch.tensor([[0.0, 0.0], [1.0 - 2.0**-24, 1.0 - 2.0**-24], [2.0**-16, 0.0], [0.0, 2.0**-15]])
    assert episode_seeds(draws).tolist() == [0, 2**31 - 1, 2**15, 1]
