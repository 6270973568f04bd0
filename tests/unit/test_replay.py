"""Replay memory: rings, sampling and n-step sums against hand-made and plainly written answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hpbench.errors import InvalidConfiguration
from hpbench.learners.advantage import standardised_advantage
from hpbench.learners.averages import average, percentile_95, shares
from hpbench.learners.replay import (
    Batch,
    State,
    append,
    initial_replay,
    n_step,
    prioritized_index,
    uniform_index,
    update_priorities,
)
from hpbench.seeding import random_words, stream_keys

MEMBERS, ENVS, CAPACITY = 2, 2, 12


def filled(steps: int, prioritized: bool = False) -> tuple[State, list[dict[str, Tensor]]]:
    """A memory after that many steps, and everything that was ever stored."""
    rng = np.random.default_rng(0)
    state = initial_replay(MEMBERS, CAPACITY, ENVS, 3, 1, prioritized)
    history = []
    for _ in range(steps):
        ended = rng.random((MEMBERS, ENVS))
        step = {
            "observation": torch.from_numpy(rng.normal(size=(MEMBERS, ENVS, 3))).float(),
            "action": torch.from_numpy(rng.integers(0, 2, (MEMBERS, ENVS, 1))).float(),
            "reward": torch.from_numpy(rng.normal(size=(MEMBERS, ENVS))),
            "next_observation": torch.from_numpy(rng.normal(size=(MEMBERS, ENVS, 3))).float(),
            "terminated": torch.from_numpy(ended < 0.15),
            "truncated": torch.from_numpy(ended > 0.85),
        }
        append(state, **step)
        history.append(step)
    return state, history


@pytest.mark.parametrize("steps", [1, 4, 6, 17])
def test_a_ring_keeps_the_newest_steps(steps: int) -> None:
    state, history = filled(steps)
    kept = min(steps, CAPACITY // ENVS)
    assert state["replay_size"].tolist() == [kept * ENVS] * MEMBERS
    assert state["replay_position"].tolist() == [steps * ENVS % CAPACITY] * MEMBERS
    for t in range(steps - kept, steps):
        for env in range(ENVS):
            row = (t * ENVS + env) % CAPACITY
            for name, values in history[t].items():
                torch.testing.assert_close(state[f"replay_{name}"][:, row], values[:, env].to(state[f"replay_{name}"]))


def test_capacity_is_a_multiple_of_the_environments() -> None:
    with pytest.raises(InvalidConfiguration, match=r"buffer_size=9 .*num_envs=4, for example 8"):
        initial_replay(1, 9, 4, 3, 1)


@pytest.mark.parametrize("steps", [3, 6, 17])
@pytest.mark.parametrize("n", [(1, 1), (1, 3), (4, 2), (9, 9)])
def test_n_step_sums_equal_a_walk_through_the_episode(steps: int, n: tuple[int, int]) -> None:
    state, history = filled(steps)
    discount = (0.9, 0.5)
    kept = min(steps, CAPACITY // ENVS)
    index = torch.arange(kept * ENVS).expand(MEMBERS, -1)
    batch = n_step(state, torch.arange(MEMBERS), index, torch.tensor(n), max(n), torch.tensor(discount), ENVS)
    for member in range(MEMBERS):
        for t in range(steps - kept, steps):
            for env in range(ENVS):
                total, weight, at = 0.0, 1.0, t
                while True:
                    total += weight * float(history[at]["reward"][member, env])
                    weight *= discount[member]
                    terminated = bool(history[at]["terminated"][member, env])
                    over = terminated or bool(history[at]["truncated"][member, env])
                    if over or at + 1 == steps or at + 1 - t == n[member]:
                        break
                    at += 1
                place = member, (t * ENVS + env) % CAPACITY
                assert batch.reward[place].item() == pytest.approx(total, rel=1e-5, abs=1e-6)
                assert batch.bootstrap[place].item() == pytest.approx(0.0 if terminated else weight)
                assert torch.equal(batch.next_observation[place], history[at]["next_observation"][member, env])
                assert torch.equal(batch.observation[place], history[t]["observation"][member, env])
                assert torch.equal(batch.action[place], history[t]["action"][member, env])


def test_members_are_looked_up_by_row() -> None:
    state, _ = filled(9)
    index = torch.tensor([[3, 5, 5, 0], [1, 2, 3, 4]])
    both = n_step(state, torch.arange(2), index, torch.tensor([3, 2]), 3, torch.tensor([0.9, 0.8]), ENVS)
    alone = n_step(state, torch.tensor([1]), index[1:], torch.tensor([2]), 2, torch.tensor([0.8]), ENVS)
    for name in Batch.__dataclass_fields__:
        assert torch.equal(getattr(both, name)[1:], getattr(alone, name))


def test_uniform_sampling_is_uniform_and_a_member_s_own() -> None:
    state, _ = filled(4)
    keys, calls = torch.from_numpy(stream_keys([5, 6]))[:, 3], torch.zeros(2, dtype=torch.int64)
    words = random_words(keys, calls, 80_000)
    index = uniform_index(state, torch.arange(2), words)
    assert torch.equal(uniform_index(state, torch.tensor([1]), words[1:]), index[1:])
    for counts in (torch.bincount(row, minlength=CAPACITY) for row in index):
        assert counts[8:].sum() == 0  # rows not yet filled
        assert (counts[:8] - 10_000).abs().max() < 5 * 100  # standard deviation 94


def test_the_largest_word_stays_inside() -> None:
    state, _ = filled(17)
    words = torch.tensor([[0, 2**32 - 1]]).expand(MEMBERS, -1)
    assert uniform_index(state, torch.arange(MEMBERS), words).tolist() == [[0, CAPACITY - 1]] * MEMBERS


def test_prioritized_sampling_is_proportional_and_weighted() -> None:
    state, _ = filled(2, prioritized=True)
    assert state["replay_priority"][:, :5].tolist() == [[1.0, 1.0, 1.0, 1.0, 0.0]] * MEMBERS
    rows = torch.arange(MEMBERS)
    # Row 1 is written twice: the larger error counts.
    error = torch.tensor([[1.0, 4.0, 2.0, 9.0, 16.0]]).expand(MEMBERS, -1)
    update_priorities(state, rows, torch.tensor([[0, 1, 1, 2, 3]]).expand(MEMBERS, -1), error, floor=0.0)
    assert state["replay_priority"][0, :4].tolist() == [1.0, 4.0, 9.0, 16.0]
    assert state["replay_top_priority"].tolist() == [16.0] * MEMBERS
    keys, calls = torch.from_numpy(stream_keys([5, 6]))[:, 3], torch.zeros(2, dtype=torch.int64)
    index, weight = prioritized_index(state, rows, random_words(keys, calls, 10_000), exponent=0.5, correction=1.0)
    shares = torch.stack([torch.bincount(row, minlength=4) for row in index]) / 10_000
    expected = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).expand(MEMBERS, -1)
    torch.testing.assert_close(shares, expected, rtol=0.0, atol=2e-3)  # stratified: far below a plain sample's error
    torch.testing.assert_close(weight, 0.1 / expected.gather(1, index))
    append_one = {name: torch.zeros(MEMBERS, ENVS, *shape) for name, shape in (("observation", (3,)), ("action", (1,)))}
    flags = torch.zeros(MEMBERS, ENVS, dtype=torch.bool)
    append(
        state,
        **append_one,
        reward=torch.zeros(MEMBERS, ENVS),
        next_observation=append_one["observation"],
        terminated=flags,
        truncated=flags,
    )
    assert state["replay_priority"][0, 4:6].tolist() == [16.0, 16.0]


def test_padding_changes_no_statistic() -> None:
    values = torch.rand(2, 40, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([40, 23])
    share = shares(counts, 40)
    for row, count in enumerate(counts.tolist()):
        alone = values[row : row + 1, :count]
        assert percentile_95(values, counts)[row] == percentile_95(alone)[0] == alone.kthvalue(-(-95 * count // 100))[0]
        torch.testing.assert_close(average(values, share)[row], alone.mean())
    torch.testing.assert_close(
        average(torch.stack([values, 2.0 * values], dim=1), share)[:, 1], 2.0 * average(values, share)
    )


def test_padding_changes_no_priority() -> None:
    state, _ = filled(6, prioritized=True)
    rows, counts = torch.arange(MEMBERS), torch.tensor([3, 5])
    words = random_words(torch.from_numpy(stream_keys([0, 1])[:, 3].copy()), torch.zeros(2, dtype=torch.int64), 8)
    error = torch.rand(MEMBERS, 8, generator=torch.Generator().manual_seed(1))
    state["replay_priority"][:] = torch.rand(MEMBERS, CAPACITY, generator=torch.Generator().manual_seed(2))
    expected = {name: tensor.clone() for name, tensor in state.items()}
    index, weight = prioritized_index(state, rows, words, 0.6, 0.4, counts)
    for member, count in enumerate(counts.tolist()):
        alone = torch.tensor([member])
        found = prioritized_index(expected, alone, words[alone, :count], 0.6, 0.4)
        assert torch.equal(index[alone, :count], found[0])
        assert torch.equal(weight[alone, :count], found[1])
        assert not weight[alone, count:].any()
        update_priorities(expected, alone, found[0], error[alone, :count])
    still = {name: tensor.clone() for name, tensor in state.items()}
    update_priorities(still, rows, index, error, torch.tensor([0, 0]))
    assert torch.equal(still["replay_priority"], state["replay_priority"])
    update_priorities(state, rows, index, error, counts)
    for name in ("replay_priority", "replay_top_priority"):
        assert torch.equal(state[name], expected[name])


def test_padding_changes_no_advantage() -> None:
    advantage = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([8, 5, 1])
    found = standardised_advantage(advantage, shares(counts, 8), counts)
    for row, count in enumerate(counts.tolist()):
        alone = standardised_advantage(advantage[row : row + 1, :count])
        torch.testing.assert_close(found[row : row + 1, :count], alone)
