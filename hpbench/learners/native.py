"""The native engine: learners on one CPU, in C++ (see ``cpp/``), on the same tensors as the torch engine.

It is built when the package is installed, if there is a C++ compiler. Members are computed one after the other, or
spread over threads, each with its working set in the cache: a member's numbers do not depend on who else is in the
population. What a learner hands over, its own ``binding`` names.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import platform
from importlib import machinery
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpbench.learners.rollout import evaluation_physics
from hpbench.learners.snapshot import Evaluation
from hpbench.tasks.base import MAX_DELAY, Task

if TYPE_CHECKING:
    from hpbench.learners.external_native import Exchanges
    from hpbench.learners.tensor import TensorPopulation

ABI = 5

_SIZES = (
    "abi", "members", "envs", "steps", "rollouts", "threads", "episodes",
    "task", "observation", "actions", "discrete", "width", "first", "second", "parameters_size",
    "state_size", "physics_size", "reset_draws", "delay_slots", "max_episode_steps", "has_success",
    "streams", "hyperparameter_count", "total_count",
)  # fmt: skip
_NUMBERS = ("action_low", "action_high", "success_return")
_STATE = (
    "hyperparameters", "rng_keys", "rng_calls",
    "env_physics", "env_state", "env_elapsed", "env_return", "env_queue", "env_observation",
)  # fmt: skip
_OUTSIDE = ("exchanges", "operate", "restarts_itself")
_RESULTS = ("totals", "evaluation_returns", "evaluation_lengths")


def library_path(folder: Path = Path(__file__).parent) -> Path | None:
    """Where the compiled engine lies, or another one that is in its own folder; None if it was not built."""
    for suffix in machinery.EXTENSION_SUFFIXES:
        path = folder / f"_native{suffix}"
        if path.exists():
            return path
    return None


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The engine, or why there is none."""
    path = library_path()
    if path is None:
        return "it was not built when hpbench was installed (no C++ compiler: install g++ or clang++, then reinstall)"
    if platform.machine().lower() in ("x86_64", "amd64") and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return "this processor lacks AVX2 and FMA"
    library = ctypes.CDLL(str(path))
    library.hpbench_abi.restype = library.hpbench_task.restype = ctypes.c_int64
    library.hpbench_task.argtypes = [ctypes.c_char_p]
    if library.hpbench_abi() != ABI:
        return f"{path.name} is of another version of hpbench; reinstall"
    return library


def unavailable() -> str | None:
    """Why the native engine cannot run on this machine at all; None if it can."""
    library = _library()
    return library if isinstance(library, str) else None


def obstacle(task: Task, hidden: tuple[int, ...], device: torch.device) -> str | None:
    """Why the native engine cannot train this; None if it can."""
    library = _library()
    if isinstance(library, str):
        return library
    if device.type != "cpu":
        return f"it runs on the CPU, not on {device}"
    if len(hidden) != 2 or any(width % 8 for width in hidden):
        return f"it needs two hidden layers with widths that are multiples of 8, not {hidden}"
    if task.simulator is not None:
        if task.encoder != "mlp" or task.observation_dtype != "float32":
            return f"it reads flat float32 observations, not those of {task.id}"
        return None
    if not task.dynamics.native or library.hpbench_task(task.dynamics.native.encode()) < 0:
        return f"it does not know the dynamics of {task.id}"
    return None


class Binding:
    """One learner's side of the engine: what goes over, in the order of its ``Arguments`` in ``cpp/<learner>.hpp``.

    Args:
        learner: its name, in the names of the functions.
        sizes: whole numbers of its own, which its ``_native_options`` gives.
        state: entries of the population's state.
        buffer: entries of its rollout buffer.
        measures: whether the engine sets the totals of the end of a segment, too.
    """

    def __init__(
        self,
        learner: str,
        sizes: tuple[str, ...] = (),
        state: tuple[str, ...] = (),
        buffer: tuple[str, ...] = (),
        measures: bool = True,
    ) -> None:
        self.learner, self._own_state, self._buffer, self.measures = learner, state, buffer, measures
        fields: list[tuple[str, Any]] = [
            *((name, ctypes.c_int64) for name in _SIZES),
            *((name, ctypes.c_double) for name in _NUMBERS),
            *((f"state_{name}", ctypes.c_void_p) for name in _STATE),
            *((f"result_{name}", ctypes.c_void_p) for name in _RESULTS),
            *((name, ctypes.c_void_p) for name in _OUTSIDE[:2]),
            (_OUTSIDE[2], ctypes.c_int64),
            *((name, ctypes.c_int64) for name in sizes),
            *((f"state_{name}", ctypes.c_void_p) for name in state),
            *((f"buffer_{name}", ctypes.c_void_p) for name in buffer),
        ]
        self._type: Any = type("Arguments", (ctypes.Structure,), {"_fields_": fields})

    def train(self, population: TensorPopulation, rollouts: int) -> Tensor:
        """Train every member for that many rollouts; the population's tensors are changed in place.

        Returns:
            Totals of the segment, float64 ``[members, totals]``.
        """
        totals = len(population.totals)
        result = torch.zeros(population.members, totals, dtype=torch.float64)
        arguments = self._arguments(population)
        arguments.rollouts, arguments.total_count, arguments.result_totals = rollouts, totals, result.data_ptr()
        self._call("train", arguments, population.environments.exchanges(population.state))
        return result

    def evaluate(self, population: TensorPopulation, episodes: int) -> Evaluation:
        """Play complete episodes with the current policies."""
        arguments = self._arguments(population)
        physics = evaluation_physics(population.tasks[0], population.state["env_physics"])
        agents = population.tasks[0].agents
        returns = np.zeros((population.members, episodes * agents))
        lengths = np.zeros((population.members, episodes * agents), dtype=np.int64)
        arguments.episodes = episodes * agents
        arguments.result_evaluation_returns = returns.ctypes.data
        arguments.result_evaluation_lengths = lengths.ctypes.data
        of_training, arguments.state_env_physics = arguments.state_env_physics, _pointer(physics)
        envs = population.environments.of_evaluation(episodes)
        self._call("evaluate", arguments, envs.exchanges(population.state))
        arguments.state_env_physics = of_training
        return Evaluation.of_worlds(returns, lengths, agents)

    def _call(self, function: str, arguments: Any, exchanges: Exchanges | None) -> None:
        library = _library()
        assert not isinstance(library, str), library
        size = getattr(library, f"hpbench_{self.learner}_arguments_size")
        size.restype = ctypes.c_int64
        assert size() == ctypes.sizeof(arguments), f"cpp/{self.learner}.hpp and its binding differ: build again"
        call = getattr(library, f"hpbench_{self.learner}_{function}")
        call.restype = None
        arguments.exchanges, arguments.operate = (None, None) if exchanges is None else exchanges.pointers
        call(ctypes.byref(arguments))
        arguments.exchanges = arguments.operate = None
        if exchanges is not None and exchanges.error is not None:
            raise exchanges.error

    def _arguments(self, population: TensorPopulation) -> Any:
        """What goes over; made anew only when a tensor has been replaced."""
        state, buffer = population.state, population.buffer
        names = [name for name in (*_STATE, *self._own_state) if name in state]
        tensors = [state[name] for name in names] + [buffer[name] for name in self._buffer]
        known = population._arguments
        if known is not None and all(map(operator.is_, known[0], tensors)):
            known[1].threads = population.threads
            return known[1]
        fields = [f"state_{name}" for name in names] + [f"buffer_{name}" for name in self._buffer]
        pointers = dict(zip(fields, map(_pointer, tensors), strict=True))
        arguments = self._type(**self._numbers(population), **population._native_options(), **pointers)
        population._arguments = tensors, arguments
        return arguments

    @staticmethod
    def _numbers(population: TensorPopulation) -> dict[str, float]:
        """Sizes and numbers that every learner hands over."""
        library = _library()
        assert not isinstance(library, str), library
        task, config, state = population.tasks[0], population.config, population.state
        threshold = 0.0 if task.success_return is None else task.success_return
        return {
            "abi": ABI, "members": population.members, "envs": config.num_envs, "steps": config.num_steps,
            "threads": population.threads, "task": library.hpbench_task(task.dynamics.native.encode()),
            "restarts_itself": int(task.simulator is not None and task.simulator.restarts_itself),
            "observation": task.observation_size, "actions": task.action_count, "discrete": int(task.discrete),
            "width": population.environments.width, "first": config.hidden[0], "second": config.hidden[1],
            "parameters_size": state["parameters"].shape[1], "state_size": task.dynamics.state_size,
            "physics_size": len(task.dynamics.physics), "reset_draws": task.dynamics.reset_draws,
            "delay_slots": MAX_DELAY, "max_episode_steps": task.max_episode_steps,
            "has_success": int(task.success_return is not None), "streams": state["rng_keys"].shape[1],
            "hyperparameter_count": len(population.hyperparameters),
            "action_low": task.action_low, "action_high": task.action_high, "success_return": threshold,
        }  # fmt: skip


def _pointer(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    return tensor.data_ptr()
