"""Advantage estimation."""

from __future__ import annotations

import torch
from torch import Tensor


def generalised_advantage(
    reward: Tensor, value: Tensor, done: Tensor, last_value: Tensor, discount: Tensor, gae_lambda: Tensor
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

    Args:
        reward: ``[members, steps, envs]``; where an episode was cut by its time limit, with the discounted value of
            its final observation added.
        value: ``[members, steps, envs]``, of the observation that the step started from.
        done: 1 where the episode ended with this step, otherwise 0.
        last_value: ``[members, envs]``, of the observation after the last step.
        discount, gae_lambda: ``[members]``.

    Returns:
        Advantages ``[members, steps, envs]``.
    """
    advantages: list[Tensor] = []
    running = torch.zeros_like(last_value)
    discount, decay = discount[:, None], (discount * gae_lambda)[:, None]
    following = last_value
    for t in reversed(range(reward.shape[1])):
        goes_on = 1.0 - done[:, t]
        delta = reward[:, t] + discount * goes_on * following - value[:, t]
        running = delta + decay * goes_on * running
        advantages.append(running)
        following = value[:, t]
    return torch.stack(advantages[::-1], dim=1)
