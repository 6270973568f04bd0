"""Rollouts of policies that read observations through an encoder.

They differ from the others in what is cheap: the encoder's pass is nearly all there is to pay, so the critic, who
shares it, values every observation while acting; and observations are kept as they come, in a byte or two each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hpbench.learners.on_policy import OnPolicy


@torch.no_grad()
def collect(population: OnPolicy, totals: Tensor) -> None:
    """One rollout into the population's buffer, up to values; episodes that ended are added to the totals."""
    state, buffer, networks = population.state, population.buffer, population.networks
    action_draws, reset_draws, noise_draws = population._rollout_draws(networks.action_draws)
    environments, parameters = population.environments, state["parameters"]
    worlds = {name: state[name] for name in environments.NAMES}
    records = []
    for t in range(population.config.num_steps):
        observation = worlds["env_observation"]
        buffer["observation"][:, t] = observation
        output, value, log_std = networks.outputs(parameters, observation)
        action, log_prob = networks.sample(output, log_std, action_draws[:, t])
        step = environments.step(worlds, state["env_physics"], action, reset_draws[:, t], noise_draws[:, t])
        done = step.terminated | step.truncated
        record = {
            "action": action,
            "log_prob": log_prob,
            "value": value,
            "reward": step.reward.float(),
            "done": done.float(),
            "truncated": step.truncated.float(),
            "final_value": torch.zeros_like(value),
        }
        if bool(step.truncated.any()):  # no other final observation is valued
            record["final_value"] = networks.outputs(parameters, step.final_observation)[1]
        for name, numbers in record.items():
            buffer[name][:, t] = numbers
        records.append(
            {
                "episode_return": torch.where(done, step.episode_return, 0.0),
                "episode_length": torch.where(done, step.episode_length, 0),
            }
        )
    state |= worlds
    buffer["last_value"].copy_(networks.outputs(parameters, state["env_observation"])[1])
    population._count(records, totals)
