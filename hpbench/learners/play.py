"""Playing complete episodes with a fixed policy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hpbench.learners.rollout import Environments, evaluation_physics
from hpbench.learners.snapshot import Evaluation
from hpbench.seeding import uniform

PLAY_CALLS = 3
"""Calls of the evaluation stream that one evaluation takes: actions, starts, observation noise."""
CHUNK = 64
"""Steps whose random numbers are drawn at once; a multiple of 4, as the generator's blocks need."""


def play(
    envs: Environments,
    physics: Tensor,
    act: Callable[[Tensor, Tensor], Tensor],
    action_draws: int,
    keys: Tensor,
    calls: Tensor,
) -> Evaluation:
    """Play an episode in every environment of every member from fresh starts.

    Args:
        envs: environments that serve no other purpose, as many as there are episodes and agents in them.
        physics: of training, float64 ``[members, columns]``; where the task has other levels for evaluation, those are
            played.
        act: policy: observations ``[members, episodes, size]`` and uniforms ``[members, episodes, action_draws]`` to
            actions ``[members, episodes, width]``.
        action_draws: uniform numbers that one action takes.
        keys, calls: of the stream, int64 ``[members]``. The caller advances the calls by ``PLAY_CALLS``.
    """
    task, episodes, members = envs.task, envs.envs, len(physics)
    physics = evaluation_physics(task, physics)

    def draws(call: int, start: int, steps: int, width: int) -> Tensor:
        flat = uniform(keys, calls + call, steps * episodes * width, start * episodes * width)
        return flat.view(members, steps, episodes, width)

    reset = draws(1, 0, 1, envs.reset_draws)[:, 0]
    noise = draws(2, 0, CHUNK, envs.noise_draws)
    state = envs.start(physics, reset, noise[:, 0])
    returns = torch.zeros(members, episodes, dtype=torch.float64, device=physics.device)
    lengths = torch.zeros(members, episodes, dtype=torch.int64, device=physics.device)
    for t in range(task.max_episode_steps):
        if t % CHUNK == 0:
            if bool((lengths > 0).all()):
                break
            choices = draws(0, t, CHUNK, action_draws)
        if (t + 1) % CHUNK == 0:
            noise = draws(2, t + 1, CHUNK, envs.noise_draws)
        action = act(state["env_observation"], choices[:, t % CHUNK])
        step = envs.step(state, physics, action, reset, noise[:, (t + 1) % CHUNK])
        first = (step.terminated | step.truncated) & (lengths == 0)
        returns = torch.where(first, step.episode_return, returns)
        lengths = torch.where(first, step.episode_length, lengths)
    return Evaluation.of_worlds(returns.cpu().numpy(), lengths.cpu().numpy(), task.agents)
