"""Replay memory of a population: a ring of transitions per member, kept in the population's state.

Rows of a ring are in the order of time, and within one step in the order of the environments: the capacity is a
multiple of the number of environments, and what follows row ``i`` in the same environment is row ``i + envs``. So the
rewards of the next ``n`` steps are looked up when they are needed, and ``n`` may change at any time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hpbench.errors import InvalidConfiguration

State = dict[str, Tensor]

MEMORY = ("replay_observation", "replay_action", "replay_reward", "replay_next_observation", "replay_terminated",
          "replay_truncated", "replay_position", "replay_size")  # fmt: skip
"""The entries of the state that a memory consists of."""
PRIORITIES = ("replay_priority", "replay_top_priority")
"""And those of a prioritised one, beside."""


@dataclass(frozen=True)
class Batch:
    """Sampled transitions of some members.

    Args:
        observation, next_observation: float32 ``[rows, batch, size]``; the latter is the one that bootstraps, ``n``
            steps on (fewer where the episode or the memory ends), and always of the same episode.
        action: float32 ``[rows, batch, width]``.
        reward: discounted sum over the steps, float32 ``[rows, batch]``.
        bootstrap: what the value of ``next_observation`` is multiplied by, float32 ``[rows, batch]``: the discount to
            the power of the number of steps, or 0 after a termination.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    bootstrap: Tensor


def initial_replay(
    members: int, capacity: int, envs: int, observation_size: int, action_width: int, prioritized: bool = False
) -> State:
    """State entries of empty memories, on the CPU.

    Args:
        members: number of members.
        capacity: transitions per member; a multiple of ``envs``.
        envs: environments per member.
        observation_size, action_width: of a transition.
        prioritized: whether transitions get priorities.

    Raises:
        InvalidConfiguration: if the capacity is not a positive multiple of ``envs``.
    """
    if capacity < 1 or capacity % envs:
        near = max(1, capacity // envs) * envs
        raise InvalidConfiguration(
            f"buffer_size={capacity} must be a positive multiple of num_envs={envs}, for example {near}"
        )
    state = {
        "replay_observation": torch.zeros(members, capacity, observation_size),
        "replay_action": torch.zeros(members, capacity, action_width),
        "replay_reward": torch.zeros(members, capacity),
        "replay_next_observation": torch.zeros(members, capacity, observation_size),
        "replay_terminated": torch.zeros(members, capacity, dtype=torch.bool),
        "replay_truncated": torch.zeros(members, capacity, dtype=torch.bool),
        "replay_position": torch.zeros(members, dtype=torch.int64),
        "replay_size": torch.zeros(members, dtype=torch.int64),
    }
    if prioritized:
        state["replay_priority"] = torch.zeros(members, capacity)
        state["replay_top_priority"] = torch.ones(members)
    return state


def append(
    state: State,
    observation: Tensor,
    action: Tensor,
    reward: Tensor,
    next_observation: Tensor,
    terminated: Tensor,
    truncated: Tensor,
) -> None:
    """Store one step of all environments, each ``[members, envs, ...]``, over the oldest rows of full memories.

    ``next_observation`` is the final one where an episode ended, not the first of the next. With priorities, new rows
    get the highest one so far (Schaul et al. 2016, algorithm 1).
    """
    members, capacity = state["replay_reward"].shape
    envs = reward.shape[1]
    rows = torch.arange(members, device=reward.device)[:, None]
    columns = state["replay_position"][:, None] + torch.arange(envs, device=reward.device)
    for name, values in (
        ("observation", observation),
        ("action", action),
        ("reward", reward.float()),
        ("next_observation", next_observation),
        ("terminated", terminated),
        ("truncated", truncated),
    ):
        state[f"replay_{name}"][rows, columns] = values
    if "replay_priority" in state:
        state["replay_priority"][rows, columns] = state["replay_top_priority"][:, None].expand(-1, envs)
    state["replay_position"] = (state["replay_position"] + envs) % capacity
    state["replay_size"] = (state["replay_size"] + envs).clamp(max=capacity)


def uniform_index(state: State, rows: Tensor, words: Tensor) -> Tensor:
    """Uniformly drawn transitions: int64 ``[rows, batch]``, out of 32-bit random words of that shape.

    Args:
        rows: int64 ``[rows]``, the members to draw for; their memories must not be empty.
        words: int64, as :func:`~hpbench.seeding.random_words` gives them.
    """
    return (words * state["replay_size"][rows, None]) >> 32


def n_step(
    state: State, rows: Tensor, index: Tensor, steps: Tensor, longest: int, discount: Tensor, envs: int
) -> Batch:
    """The transitions at ``index``, with rewards summed over several steps (Sutton and Barto 2018, eq. 7.1).

    The sum stops where the episode ends or the memory does. A termination leaves nothing to bootstrap from; after a
    time limit the final observation does (Pardo et al. 2018).

    Args:
        rows: int64 ``[rows]``, the members.
        index: int64 ``[rows, batch]``.
        steps: how many steps at most, int64 ``[rows]``.
        longest: the largest of ``steps``.
        discount: float32 ``[rows]``.
        envs: environments per member.
    """
    member = rows[:, None]
    capacity = state["replay_reward"].shape[1]
    newer = (state["replay_position"][member] - 1 - index) % capacity // envs
    reward = state["replay_reward"][member, index]
    terminated = state["replay_terminated"][member, index]
    running = ~(terminated | state["replay_truncated"][member, index])
    weight = discount[:, None].expand_as(reward)
    last = index
    for k in range(1, longest):
        running = running & (newer >= k) & (steps[:, None] > k)
        last = torch.where(running, (last + envs) % capacity, last)
        reward = torch.where(running, reward + weight * state["replay_reward"][member, last], reward)
        weight = torch.where(running, weight * discount[:, None], weight)
        terminated = state["replay_terminated"][member, last]
        running = running & ~(terminated | state["replay_truncated"][member, last])
    return Batch(
        state["replay_observation"][member, index],
        state["replay_action"][member, index],
        reward,
        state["replay_next_observation"][member, last],
        torch.where(terminated, 0.0, weight),
    )


def prioritized_index(
    state: State, rows: Tensor, words: Tensor, exponent: float, correction: float, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Transitions drawn in proportion to ``priority ** exponent`` (Schaul et al. 2016, section 3.3 and appendix B.2.1).

    The total is split into as many equal parts as the batch has transitions, and each part gives one.

    Args:
        rows: int64 ``[rows]``, the members; their memories must not be empty.
        words: 32-bit random words, int64 ``[rows, batch]``.
        exponent: 0 draws uniformly, 1 in full proportion.
        correction: exponent of the importance weights; 1 undoes the bias of the drawing.
        counts: how many transitions of each row count, int64 ``[rows]``; the others are padding. None: all.

    Returns:
        Indices int64 ``[rows, batch]``, and importance weights float32 of that shape, the largest of a member being 1.
    """
    size, place = state["replay_size"][rows, None], torch.arange(words.shape[1], device=words.device)
    batch: Tensor | int = words.shape[1] if counts is None else counts[:, None]
    mass = state["replay_priority"][rows].double() ** exponent
    mass = torch.where(torch.arange(mass.shape[1], device=mass.device) < size, mass, 0.0)
    edges = mass.cumsum(dim=1)
    part = place + words.double() * 2.0**-32
    index = torch.searchsorted(edges, part / batch * edges[:, -1:], right=True).minimum(size - 1)
    probability = mass.gather(1, index) / edges[:, -1:]
    weight = (size * probability) ** -correction
    if counts is not None:
        weight = torch.where(place < batch, weight, 0.0)
    return index, (weight / weight.amax(dim=1, keepdim=True)).float()


def update_priorities(
    state: State, rows: Tensor, index: Tensor, error: Tensor, counts: Tensor | None = None, floor: float = 1e-6
) -> None:
    """New priorities of transitions that were just learned from: their absolute errors, plus a small constant.

    Args:
        rows: int64 ``[rows]``, the members.
        index: int64 ``[rows, batch]``; of a transition that is in it twice, the larger error counts.
        error: absolute TD errors, float32 ``[rows, batch]``.
        counts: how many transitions of each row count, int64 ``[rows]``, 0 for a member that has not learned; the
            others are padding. None: all.
        floor: the constant; without it, a transition with error 0 would never be drawn again.
    """
    priority, old, top = error + floor, state["replay_priority"][rows], state["replay_top_priority"][rows]
    if counts is not None:
        # Padding repeats the first transition: that changes nothing.
        padding = torch.arange(index.shape[1], device=index.device) >= counts[:, None]
        index, priority = (torch.where(padding, values[:, :1], values) for values in (index, priority))
    # Which of two writes to one place wins is not defined, so the place is cleared first and the maximum taken.
    new = old.scatter(1, index, 0.0).scatter_reduce(1, index, priority, "amax")
    new_top = torch.maximum(top, priority.amax(dim=1))
    if counts is not None:
        new, new_top = torch.where(counts[:, None] > 0, new, old), torch.where(counts > 0, new_top, top)
    state["replay_priority"][rows] = new
    state["replay_top_priority"][rows] = new_top
