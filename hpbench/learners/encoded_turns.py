"""Rollouts on a CPU whose simulators run in processes, for the encoder that acts in the native engine.

The same numbers as :mod:`~hpbench.learners.encoded`, up to rounding, arranged so that no process waits for another one:
the copies of a simulator are parts, one for each process, and while the policy looks at one of them, the others step.
Whichever part is ready is next. Which one that is changes no bit: random numbers belong to a member, an environment and
a step, and what the policy makes of an observation does not depend on those beside it.
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
from hpbench.learners.simulator_pool import PooledSimulator
from hpbench.learners.simulator_split import SplitSimulator

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


class Part:
    """Copies of one member that step together: their course through the rollout.

    Args:
        simulator: the copies.
        rows: which environments of the member those are.
        seeds: of restarts, int64 ``[steps, envs]``, of the member.
        rollout: of the member, what :class:`~hpbench.learners.glyphs_native.Acting` needs.
        head: of the member.
        limit: of an episode's steps.
        delay: of actions, in steps.

    Attributes:
        cut: by step, observations at which time limits cut episodes, ``[copies, observation_size]``.
    """

    def __init__(
        self,
        simulator: PooledSimulator,
        rows: slice,
        seeds: NDArray[np.int64],
        rollout: dict[str, NDArray[Any]],
        head: glyphs_native.Head,
        limit: int,
        delay: int,
    ) -> None:
        self.simulator, self.rows, self.seeds, self.rollout = simulator, rows, seeds[:, rows], rollout
        self.cut: dict[int, NDArray[Any]] = {}
        arrays = {
            "given": simulator.given(np.int64, (simulator.envs,)),
            "shown": simulator.observation, "gained": simulator.reward, "over": simulator.terminated,
        }  # fmt: skip
        self._acting = glyphs_native.Acting(head, arrays, rollout, rows.start, limit, delay)
        self._step, self._restarting = 0, False

    def begin(self) -> None:
        """Choose actions, and let the simulator begin the step."""
        self._acting.act(self._step)
        self.simulator.go()

    def go_on(self) -> bool:
        """The simulator has answered: record the step and restart what has ended, or begin the next step. Whether it
        has been asked for something again; otherwise the rollout is over."""
        self.simulator.finish()
        if not self._restarting and self._acting.record(self._step):
            self._restart()
            self._restarting = True
            return True
        self._restarting = False
        self._step += 1
        if self._step == len(self.seeds):
            return False
        self.begin()
        return True

    def _restart(self) -> None:
        step, rows, rollout = self._step, self.rows, self.rollout
        if rollout["truncated"][step, rows].any():
            self.cut[step] = self.simulator.observation.copy()
        ended = np.flatnonzero(rollout["done"][step, rows])
        for name in ("elapsed", "queue"):
            rollout[name][rows.start + ended] = 0
        self.simulator.reset(ended.tolist(), self.seeds[step, ended].tolist())


@torch.no_grad()
def collect(population: OnPolicy, totals: Tensor) -> None:
    """One rollout into the population's buffer, up to values; episodes that ended are added to the totals."""
    state, buffer, networks = population.state, population.buffer, population.networks
    environments, members = population.environments, population.members
    assert isinstance(environments, ExternalEnvironments)
    assert isinstance(networks, EncodedActorCritic)
    task, encoder = environments.task, networks.encoder
    assert isinstance(encoder, Glyphs)
    action_draws, reset_draws, _ = population._rollout_draws(networks.action_draws)
    seeds, delays = episode_seeds(reset_draws), state["env_physics"][:, DELAY].long().tolist()
    rollout = {name: buffer[name].numpy() for name in glyphs_native.ROLLOUT}
    rollout |= {name: np.empty(seeds.shape, dtype) for name, dtype in glyphs_native.RECORDS.items()}
    rollout |= {"draws": action_draws[..., 0].numpy(), "elapsed": state["env_elapsed"].numpy().copy()}
    rollout["queue"] = state["env_queue"][..., 0].numpy().copy()
    environments.load(state)
    parts: list[list[Part]] = []
    for m in range(members):
        environments.members[m].ahead = True
        head = glyphs_native.Head(encoder, state["parameters"][m], task.action_count)
        own, whole = {name: array[m] for name, array in rollout.items()}, environments._simulator(m)
        assert isinstance(whole, SplitSimulator)
        each = zip(whole.parts, whole.rows, strict=True)
        parts.append([Part(one, rows, seeds[m], own, head, task.max_episode_steps, delays[m]) for one, rows in each])
    playing = {part.simulator: part for its in parts for part in its}
    (pool,) = {simulator.pool for simulator in playing}
    for part in playing.values():
        part.begin()
    while playing:
        simulator = pool.first(playing)
        if not playing[simulator].go_on():
            del playing[simulator]
    state["env_observation"] = environments._observed(members, population.device)
    look = networks.looking(state["parameters"])
    buffer["last_value"].copy_(look(state["env_observation"])[1])
    buffer["final_value"].zero_()
    for step in sorted({step for its in parts for part in its for step in part.cut}):
        # On the shape of all, on which the order of sums in a matrix product may depend.
        seen = torch.zeros_like(state["env_observation"])
        for m, its in enumerate(parts):
            for part in its:
                if step in part.cut:
                    seen[m, part.rows] = torch.from_numpy(part.cut[step])
        buffer["final_value"][:, step] = look(seen)[1]
    _keep(population, rollout, totals)


def _keep(population: OnPolicy, rollout: dict[str, NDArray[Any]], totals: Tensor) -> None:
    """Bring what was recorded into the buffer, the state and the totals."""
    state, buffer, done = population.state, population.buffer, rollout["done"]
    running, returns = state["env_return"].numpy().copy(), np.zeros(done.shape)
    for step in range(done.shape[1]):
        running += rollout["reward"][:, step]
        ended = done[:, step]
        returns[:, step][ended] = running[ended]
        running[ended] = 0.0
    state["env_return"] = torch.from_numpy(running)
    state["env_elapsed"] = torch.from_numpy(rollout["elapsed"])
    state["env_queue"] = torch.from_numpy(rollout["queue"])[..., None]
    buffer["reward"].copy_(torch.from_numpy(rollout["reward"]) * state["env_physics"][:, REWARD_SCALE, None, None])
    for name in ("done", "truncated"):
        buffer[name].copy_(torch.from_numpy(rollout[name]))
    lengths = np.where(done, rollout["length"], 0)
    population._count(buffer["done"], torch.from_numpy(returns), torch.from_numpy(lengths), totals)
