"""Rollouts and updates of policies with an encoder on a GPU, whose simulators run in processes on the CPU.

The same numbers as :mod:`~hpbench.learners.encoded`, arranged so that neither side waits for the other:

- the copies of a simulator are split in two halves, and one half steps while the network looks at the other;
- observations go from the memory that the processes write to straight to their place in the rollout buffer on the GPU;
- what else there is to a step is done on the CPU, where the actions have to go anyway, and moved once per rollout.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpbench.learners import encoded_graphs
from hpbench.learners.external import ExternalEnvironments
from hpbench.learners.simulator_split import SplitSimulator
from hpbench.learners.snapshot import State
from hpbench.tasks.simulator import Simulator

if TYPE_CHECKING:
    from hpbench.learners.on_policy import OnPolicy

ON_THE_CPU = ("env_elapsed", "env_return", "env_queue")
"""The entries of the state that a rollout keeps on the CPU."""


def suits(population: OnPolicy) -> bool:
    """Whether the population can collect its rollouts here."""
    environments = population.environments
    return isinstance(environments, ExternalEnvironments) and environments.spread and not environments.noisy


class Half(ExternalEnvironments):
    """A part of the copies of every member, which steps by itself while a rollout is collected.

    Attributes:
        rows: which copies.
        worlds: their state: tensors on the CPU, but for the observations.
        target: where the next observations go, ``[members, envs, observation_size]`` on the device.
    """

    worlds: State
    target: Tensor

    def __init__(self, whole: ExternalEnvironments, part: int | None, rows: slice) -> None:
        super().__init__(whole.task, rows.stop - rows.start, spread=True)
        self._whole, self._part, self.rows = whole, part, rows
        self.members = whole.members

    def _simulator(self, member: int) -> Simulator:
        simulator = self._whole._simulator(member)
        if self._part is None:
            return simulator
        assert isinstance(simulator, SplitSimulator)
        return simulator.parts[self._part]

    def _restart(self, waiting: NDArray[np.bool_], seeds: NDArray[np.int64]) -> None:
        finish_copies(self.target.device)  # restarts change what is shown
        super()._restart(waiting, seeds)

    def _observed(self, members: int, device: torch.device, again: bool = False) -> Tensor:
        del device
        if again:  # what was there is the last observation of an episode, and may be needed
            self.target = self.target.clone()
        for member in range(members):
            simulator = self._simulator(member)
            shown = simulator.observation
            if self.target.is_cuda:
                pin(simulator, shown)
            self.target[member].copy_(torch.from_numpy(shown), non_blocking=True)
        return self.target


_pinned: WeakSet[Simulator] = WeakSet()


def pin(simulator: Simulator, shown: NDArray[Any]) -> None:
    """Lock the memory of a simulator's observations, so that the GPU reads it by itself. Done once; where it cannot be
    done, copies take longer, and that is all."""
    if simulator not in _pinned:
        _pinned.add(simulator)
        address, runtime = shown.ctypes.data, torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(runtime.cudaHostRegister(address, shown.nbytes, 0)) == 0:
            weakref.finalize(simulator, _unpin, address).atexit = False


def _unpin(address: int) -> None:
    torch.cuda.cudart().cudaHostUnregister(address)  # type: ignore[no-untyped-call]


def finish_copies(device: torch.device) -> None:
    """Wait for what the GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def halves(environments: ExternalEnvironments) -> list[Half]:
    """The parts that step by themselves: two, or one if the simulators have no parts."""
    simulator = environments._simulator(0)
    if isinstance(simulator, SplitSimulator):
        return [Half(environments, part, rows) for part, rows in enumerate(simulator.rows)]
    return [Half(environments, None, slice(0, environments.envs))]


@torch.no_grad()
def collect(population: OnPolicy, totals: Tensor) -> None:
    """One rollout into the population's buffer, up to values; episodes that ended are added to the totals."""
    state, buffer, networks = population.state, population.buffer, population.networks
    environments, steps = population.environments, population.config.num_steps
    assert isinstance(environments, ExternalEnvironments)
    action_draws, reset_draws, noise_draws = population._rollout_draws(networks.action_draws)
    reset_draws, noise_draws, physics = reset_draws.cpu(), noise_draws.cpu(), state["env_physics"].cpu()
    environments.load(state)
    parameters, final = state["parameters"], torch.empty_like(state["env_observation"])
    records: list[list[State]] = []
    buffer["observation"][:, 0] = state["env_observation"]
    buffer["final_value"].zero_()
    parts, look = halves(environments), encoded_graphs.looking(population)
    for half in parts:
        half.worlds = {name: state[name][:, half.rows].cpu() for name in ON_THE_CPU}
        records.append([])

    def act(half: Half, t: int) -> None:
        """Choose actions, and let the simulators begin the step."""
        rows = half.rows
        action, log_prob, value = look(buffer["observation"][:, t, rows], action_draws[:, t, rows])
        half.begin(half.worlds, physics, action.cpu())
        for name, numbers in (("action", action), ("value", value), ("log_prob", log_prob)):
            buffer[name][:, t, rows] = numbers

    def wait(half: Half, t: int, records: list[State]) -> None:
        """What the simulators made of the step."""
        rows = half.rows
        place = buffer["observation"][:, t + 1, rows] if t + 1 < steps else final[:, rows]
        half.target = place
        step = half.finish(half.worlds, physics, reset_draws[:, t, rows], noise_draws[:, t, rows])
        if half.target is not place:  # some copies were restarted, and the memory went to their last observations
            if bool(step.truncated.any()):
                buffer["final_value"][:, t, rows] = networks.outputs(parameters, step.final_observation)[1]
            place.copy_(half.target)
        elif bool(step.truncated.any()):
            buffer["final_value"][:, t, rows] = networks.outputs(parameters, step.final_observation)[1]
        done = step.terminated | step.truncated
        records.append(
            {
                "reward": step.reward.float(),
                "done": done.float(),
                "truncated": step.truncated.float(),
                "episode_return": torch.where(done, step.episode_return, 0.0),
                "episode_length": torch.where(done, step.episode_length, 0),
            }
        )

    for t in range(steps):
        for half, its in zip(parts, records, strict=True):
            if t:
                wait(half, t - 1, its)
            act(half, t)
    for half, its in zip(parts, records, strict=True):
        wait(half, steps - 1, its)
    whole = {
        name: torch.cat([torch.stack([record[name] for record in its], dim=1) for its in records], dim=2)
        for name in records[0][0]
    }
    for name in ("reward", "done", "truncated"):
        buffer[name].copy_(whole[name])
    for name in ON_THE_CPU:
        state[name] = torch.cat([half.worlds[name] for half in parts], dim=1).to(population.device)
    state["env_observation"] = final
    buffer["last_value"].copy_(networks.outputs(parameters, final)[1])
    finish_copies(population.device)
    returns, lengths = (whole[name].to(population.device) for name in ("episode_return", "episode_length"))
    population._count(buffer["done"], returns, lengths, totals)
