"""Advantages: their estimation, and how they are scaled for an update."""

from __future__ import annotations

import torch
from torch import Tensor

from hpbench.learners.averages import average


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
    goes_on, following = 1.0 - done, torch.cat((value[:, 1:], last_value[:, None]), dim=1)
    delta = reward + discount[:, None, None] * goes_on * following - value
    decay = (discount * gae_lambda)[:, None, None] * goes_on
    advantages, running = [], torch.zeros_like(last_value)
    for gained, kept in zip(reversed(delta.unbind(1)), reversed(decay.unbind(1)), strict=True):
        running = gained + kept * running
        advantages.append(running)
    return torch.stack(advantages[::-1], dim=1)


def standardised_advantage(advantage: Tensor, share: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
    """Zero mean and unit deviation in each minibatch; a single sample stays as it is.

    Args:
        advantage: ``[members, batch]``.
        share, counts: what each sample counts in a mean, and how many do, where there is padding.
    """
    if share is None or counts is None:
        if advantage.shape[1] == 1:
            return advantage
        return (advantage - advantage.mean(1, True)) / (advantage.std(1, keepdim=True) + 1e-8)
    centred = advantage - average(advantage, share)[:, None]
    variance = average(centred.square(), share) * counts / (counts - 1).clamp(min=1)
    return torch.where(counts[:, None] > 1, centred / (variance.sqrt()[:, None] + 1e-8), advantage)
