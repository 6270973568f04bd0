"""Rollouts on a CPU whose simulators run in processes, which act by themselves, with the encoder in the native engine.

The same numbers as :mod:`~hpbench.learners.encoded`, up to rounding, arranged so that no process waits for another one:
each gets the parameters and the random numbers of the rollout, and plays it with its copies of the simulator. Which
copies those are changes no bit: random numbers belong to a member, an environment and a step, and what the policy makes
of an observation does not depend on those beside it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpbench.learners import glyphs_native, native
from hpbench.learners.encoders import EncodedActorCritic
from hpbench.learners.external import ExternalEnvironments, episode_seeds
from hpbench.learners.glyphs import Glyphs
from hpbench.learners.glyphs_acting import ROLLOUT, Cut, Player
from hpbench.learners.rollout import DELAY, REWARD_SCALE
from hpbench.learners.simulator_pool import PooledSimulator

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


@torch.no_grad()
def collect(population: OnPolicy, totals: Tensor) -> None:
    """One rollout into the population's buffer, up to values; episodes that ended are added to the totals."""
    state, buffer, networks = population.state, population.buffer, population.networks
    environments, members = population.environments, population.members
    assert isinstance(environments, ExternalEnvironments)
    assert isinstance(networks, EncodedActorCritic)
    records, cuts = _play(population, environments, networks)
    for name in ROLLOUT:
        for m, record in enumerate(records):
            buffer[name][m] = torch.from_numpy(record[name]).view_as(buffer[name][m])
    state["env_observation"] = environments._observed(members, population.device)
    look = networks.looking(state["parameters"])
    buffer["last_value"].copy_(look(state["env_observation"])[1])
    buffer["final_value"].zero_()
    for step in sorted({cut.step for its in cuts for cut in its}):
        # On the shape of all, on which the order of sums in a matrix product may depend.
        seen = torch.zeros_like(state["env_observation"])
        for m, its in enumerate(cuts):
            for cut in its:
                if cut.step == step:
                    seen[m, cut.env] = torch.from_numpy(cut.observation)
        buffer["final_value"][:, step] = look(seen)[1]
    _keep(population, records, totals)


def _play(
    population: OnPolicy, environments: ExternalEnvironments, networks: EncodedActorCritic
) -> tuple[list[Any], list[list[Cut]]]:
    """Let the simulators' processes play a rollout: by member, the records, and episodes that time limits cut."""
    state, task, encoder, path = population.state, environments.task, networks.encoder, native.library_path()
    assert isinstance(encoder, Glyphs)
    action_draws, reset_draws, _ = population._rollout_draws(networks.action_draws)
    given = {
        "parameters": state["parameters"], "draws": action_draws[..., 0], "elapsed": state["env_elapsed"],
        "queue": state["env_queue"][..., 0],
    }  # fmt: skip
    before = {name: tensor.numpy() for name, tensor in given.items()} | {"seeds": episode_seeds(reset_draws)}
    sizes = glyphs_native.sizes_of(encoder) | {"choices": task.action_count}
    room = Player.room(population.config.num_steps, population.config.num_envs, networks.size)
    environments.load(state)
    simulators, records = [], []
    for m in range(population.members):
        simulator = environments._simulator(m)
        assert isinstance(simulator, PooledSimulator)
        (record,) = simulator.record(room)
        for name, array in before.items():
            record[name] = array[m]
        simulators.append(simulator)
        records.append(record)
    for m, delay in enumerate(state["env_physics"][:, DELAY].long().tolist()):
        environments.members[m].ahead = True
        simulators[m].play(Player(str(path), sizes, sum(encoder.parts), task.max_episode_steps, delay))
    return records, [list(itertools.chain(*simulator.played())) for simulator in simulators]


def _keep(population: OnPolicy, records: list[Any], totals: Tensor) -> None:
    """Bring what was recorded into the buffer, the state and the totals."""
    state, buffer = population.state, population.buffer
    names = ("elapsed", "queue", "reward", "done", "truncated", "length")
    rollout: dict[str, NDArray[Any]] = {name: np.stack([record[name] for record in records]) for name in names}
    done, running = rollout["done"], state["env_return"].numpy().copy()
    returns = np.zeros(done.shape)
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
