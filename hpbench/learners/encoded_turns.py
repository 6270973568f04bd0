"""Rollouts on a CPU whose simulators run in processes, for the encoder that acts in the native engine.

The same numbers as :mod:`~hpbench.learners.encoded`, up to rounding, arranged so that no process waits for another one:
the copies of a simulator are parts, two for each process, and while the policy looks at one of them, the other one
steps. Whichever part is ready is next. Which one that is changes no bit: random numbers belong to a member, an
environment and a step, and what the policy makes of an observation does not depend on those beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpbench.learners import glyphs_native
from hpbench.learners.encoders import EncodedActorCritic
from hpbench.learners.external import ExternalEnvironments, episode_seeds
from hpbench.learners.glyphs import Glyphs
from hpbench.learners.rollout import DELAY, REWARD_SCALE
from hpbench.learners.simulator_halves import Halves
from hpbench.learners.simulator_pool import PooledSimulator, shared_pool

if TYPE_CHECKING:
    from hpbench.learners.on_policy import OnPolicy


def suits(population: OnPolicy) -> bool:
    """Whether the population can collect its rollouts here."""
    environments, networks = population.environments, population.networks
    return (
        isinstance(environments, ExternalEnvironments)
        and isinstance(networks, EncodedActorCritic)
        and isinstance(networks.encoder, Glyphs)
        and not networks.log_std
        and not environments.maker.in_process
        and not environments.maker.restarts_itself
        and environments.task.agents == 1
        and glyphs_native.suits(networks.encoder, torch.empty(0, dtype=torch.int16, device=population.device))
    )


class Records:
    """What a rollout is to the environments: NumPy arrays of one member, ``[steps, envs]``, and what goes from step to
    step, ``[envs]``. Parts write to columns of their own.

    Args:
        elapsed, queue: of the state.
        seeds: of restarts, int64 ``[steps, envs]``.
        limit: of an episode's steps.
        delay: of actions.
    """

    def __init__(
        self, elapsed: NDArray[np.int64], queue: NDArray[np.float32], seeds: NDArray[np.int64], limit: int, delay: int
    ) -> None:
        self.elapsed, self.queue, self.seeds, self.limit, self.delay = elapsed.copy(), queue.copy(), seeds, limit, delay
        self.reward = np.zeros(seeds.shape)
        self.done, self.truncated = np.zeros(seeds.shape, np.bool_), np.zeros(seeds.shape, np.bool_)
        self.length = np.zeros(seeds.shape, np.int64)
        self.last: dict[tuple[int, int], NDArray[Any]] = {}
        """By step and environment, observations at which time limits cut episodes."""


class Part:
    """Copies of one member that step together: its course through the rollout.

    Args:
        simulator: the copies.
        first: of the member's environments, their first.
        records: of the member.
        acting: of those environments.
    """

    def __init__(self, simulator: PooledSimulator, first: int, records: Records, acting: glyphs_native.Acting) -> None:
        self.simulator, self.first, self.records, self.acting = simulator, first, records, acting
        self.rows = slice(first, first + simulator.envs)
        self.elapsed, self.queue = records.elapsed[self.rows], records.queue[self.rows]
        self.reward, self.terminated = simulator.reward, simulator.terminated  # change in place
        self.step, self._restarting = 0, False

    def begin(self) -> None:
        """Choose actions, and let the simulator begin the step."""
        choice = self.acting.act(self.step)
        delay, queue = self.records.delay, self.queue
        applied = queue[:, delay - 1, 0].astype(np.int64) if delay else choice
        self.simulator.step(applied)
        queue[:, 1:] = queue[:, :-1]
        queue[:, 0, 0] = choice

    def go_on(self) -> bool:
        """The simulator has answered: record the step and restart what has ended, or begin the next step. Whether it
        has been asked for something again; otherwise the rollout is over."""
        self.simulator.finish()
        if not self._restarting and self._end():
            self._restarting = True
            return True
        self._restarting = False
        self.step += 1
        if self.step == len(self.records.seeds):
            return False
        self.begin()
        return True

    def _end(self) -> bool:
        """Record the step. Whether copies are restarting."""
        records, step, rows, elapsed = self.records, self.step, self.rows, self.elapsed
        elapsed += 1
        records.reward[step, rows] = self.reward
        records.length[step, rows] = elapsed
        done = self.terminated | (elapsed >= records.limit)
        records.done[step, rows] = done
        if not done.any():
            return False
        truncated = done & ~self.terminated
        records.truncated[step, rows] = truncated
        for env in np.flatnonzero(truncated).tolist():
            records.last[step, self.first + env] = self.simulator.observation[env].copy()
        elapsed[done] = 0
        self.queue[done] = 0.0
        which = np.flatnonzero(done)
        self.simulator.reset(which.tolist(), records.seeds[step, rows][which].tolist())
        return True


@torch.no_grad()
def collect(population: OnPolicy, totals: Tensor) -> None:
    """One rollout into the population's buffer, up to values; episodes that ended are added to the totals."""
    state, buffer, networks = population.state, population.buffer, population.networks
    environments, members = population.environments, population.members
    assert isinstance(environments, ExternalEnvironments)
    assert isinstance(networks, EncodedActorCritic)
    encoder, look = networks.encoder, networks.looking(state["parameters"])
    assert isinstance(encoder, Glyphs)
    action_draws, reset_draws, _ = population._rollout_draws(networks.action_draws)
    seeds, delays = episode_seeds(reset_draws), state["env_physics"][:, DELAY].long().tolist()
    environments.load(state)
    records, parts = [], {}
    for m in range(members):
        environments.members[m].ahead = True
        its = Records(
            state["env_elapsed"][m].numpy(), state["env_queue"][m].numpy(), seeds[m],
            environments.task.max_episode_steps, delays[m],
        )  # fmt: skip
        records.append(its)
        head = glyphs_native.Head(encoder, state["parameters"][m], environments.task.action_count)
        own = {name: buffer[name][m] for name in glyphs_native.ROLLOUT}
        whole = environments._simulator(m)
        assert isinstance(whole, Halves)
        for simulator, rows in zip(whole.parts, whole.rows, strict=True):
            acting = glyphs_native.Acting(head, simulator.observation, action_draws[m, ..., 0], own, rows.start)
            parts[simulator] = Part(simulator, rows.start, its, acting)
    for part in parts.values():
        part.begin()
    while parts:
        simulator = shared_pool().first(parts)
        if not parts[simulator].go_on():
            del parts[simulator]
    shown = [environments._simulator(m).observation for m in range(members)]
    state["env_observation"] = torch.from_numpy(np.stack(shown))
    buffer["last_value"].copy_(look(state["env_observation"])[1])
    buffer["final_value"].zero_()
    lasts = {(m, *place): seen for m, its in enumerate(records) for place, seen in its.last.items()}
    for step in sorted({step for _, step, _ in lasts}):  # the shape of all, on which a matrix product may depend
        seen = torch.zeros_like(state["env_observation"])
        for (m, at, env), observation in lasts.items():
            if at == step:
                seen[m, env] = torch.from_numpy(observation)
        buffer["final_value"][:, step] = look(seen)[1]
    population._count(*_recorded(population, records), totals)


def _recorded(population: OnPolicy, records: list[Records]) -> tuple[Tensor, Tensor, Tensor]:
    """Bring records into the buffer and the state: where episodes ended, their returns, and their lengths."""
    state, buffer = population.state, population.buffer
    reward, done, truncated, length = (
        np.stack([getattr(its, name) for its in records]) for name in ("reward", "done", "truncated", "length")
    )
    running, returns = state["env_return"].numpy().copy(), np.zeros_like(reward)
    for step in range(reward.shape[1]):
        running += reward[:, step]
        ended = done[:, step]
        returns[:, step][ended] = running[ended]
        running[ended] = 0.0
    state["env_return"] = torch.from_numpy(running)
    state["env_elapsed"] = torch.from_numpy(np.stack([its.elapsed for its in records]))
    state["env_queue"] = torch.from_numpy(np.stack([its.queue for its in records]))
    buffer["reward"].copy_(torch.from_numpy(reward) * state["env_physics"][:, REWARD_SCALE, None, None])
    buffer["done"].copy_(torch.from_numpy(done))
    buffer["truncated"].copy_(torch.from_numpy(truncated))
    return buffer["done"], torch.from_numpy(returns), torch.from_numpy(np.where(done, length, 0))
