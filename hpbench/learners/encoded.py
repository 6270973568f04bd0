"""Rollouts of policies that read observations through an encoder.

They differ from the others in what is cheap: the encoder's pass is nearly all there is to pay, so the critic, who
shares it, values every observation while acting; and observations are kept as they come, in a byte or two each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hpbench.learners.encoders import EncodedActorCritic
from hpbench.learners.external import ExternalEnvironments

if TYPE_CHECKING:
    from hpbench.learners.on_policy import OnPolicy


@torch.no_grad()
def collect(population: OnPolicy, totals: Tensor) -> None:
    """One rollout into the population's buffer, up to values; episodes that ended are added to the totals."""
    state, buffer, networks = population.state, population.buffer, population.networks
    assert isinstance(networks, EncodedActorCritic)
    action_draws, reset_draws, noise_draws = population._rollout_draws(networks.action_draws)
    environments, physics = population.environments, state["env_physics"]
    look, records = networks.looking(state["parameters"]), []
    worlds = {name: state[name] for name in environments.NAMES}
    external = environments if isinstance(environments, ExternalEnvironments) else None
    if external is not None:
        external.load(worlds)
    buffer["final_value"].zero_()
    # Where nothing else is done with them, observations go straight to where they are kept.
    straight = external is not None and external.has_one_observation and population.device.type == "cpu"
    for t in range(population.config.num_steps):
        observation = worlds["env_observation"]
        output, value, log_std = look(observation)
        action, log_prob = networks.sample(output, log_std, action_draws[:, t])
        if external is not None:  # simulators with threads or processes of their own run while this is put away
            external.begin(worlds, physics, action)
        if t == 0 or not straight:
            buffer["observation"][:, t] = observation
        for name, numbers in (("action", action), ("log_prob", log_prob), ("value", value)):
            buffer[name][:, t] = numbers
        draws = reset_draws[:, t], noise_draws[:, t]
        if external is not None:
            room = buffer["observation"][:, t + 1] if straight and t + 1 < population.config.num_steps else None
            step = external.finish(worlds, physics, *draws, room)
        else:
            step = environments.step(worlds, physics, action, *draws)
        if bool(step.truncated.any()):  # no other final observation is valued
            buffer["final_value"][:, t] = look(step.final_observation)[1]
        records.append((step.reward, step.terminated, step.truncated, step.episode_return, step.episode_length))
    state |= worlds
    buffer["last_value"].copy_(look(state["env_observation"])[1])
    reward, terminated, truncated, returns, lengths = (
        torch.stack(numbers, dim=1) for numbers in zip(*records, strict=True)
    )
    done = terminated | truncated
    for name, numbers in (("reward", reward), ("done", done), ("truncated", truncated)):
        buffer[name].copy_(numbers)
    population._count(buffer["done"], torch.where(done, returns, 0.0), torch.where(done, lengths, 0), totals)
