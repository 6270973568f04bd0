"""The native engine: PPO for a population on one CPU, in C++ (see ``cpp/``), on the same tensors as the torch engine.

It is built when the package is installed, if there is a C++ compiler. Members are computed one after the other, or
spread over threads, each with its working set in the cache: a member's numbers do not depend on who else is in the
population.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from importlib import machinery
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hpbench.learners.population import Evaluation
from hpbench.learners.ppo_metrics import TOTALS
from hpbench.learners.rollout import evaluation_physics
from hpbench.tasks.base import MAX_DELAY, Task

if TYPE_CHECKING:
    from hpbench.learners.ppo import PPO

ABI = 2

_SIZES = (
    "abi", "members", "envs", "steps", "rollouts", "threads",
    "task", "observation", "outputs", "discrete", "width", "first", "second", "parameters_size",
    "state_size", "physics_size", "reset_draws", "delay_slots", "max_episode_steps",
    "streams", "hyperparameter_count", "total_count", "normalize_observation", "normalize_reward",
    "has_success", "episodes",
)  # fmt: skip
_NUMBERS = ("action_low", "action_high", "success_return")
_STATE = (
    "hyperparameters", "rng_keys", "rng_calls", "parameters", "adam_mean", "adam_square", "adam_steps",
    "observation_mean", "observation_variance", "observation_count",
    "return_running", "return_mean", "return_variance", "return_count",
    "env_physics", "env_state", "env_elapsed", "env_return", "env_queue", "env_observation",
)  # fmt: skip
_BUFFER = (
    "observation", "action", "log_prob", "value", "reward", "done", "truncated", "final_value", "advantage",
    "return", "last_value",
)  # fmt: skip
_RESULTS = ("totals", "evaluation_returns", "evaluation_lengths")


class _Arguments(ctypes.Structure):
    """Mirror of ``Arguments`` in ``cpp/ppo.hpp``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_double) for name in _NUMBERS),
        *((f"state_{name}", ctypes.c_void_p) for name in _STATE),
        *((f"buffer_{name}", ctypes.c_void_p) for name in _BUFFER),
        *((f"result_{name}", ctypes.c_void_p) for name in _RESULTS),
    ]


def library_path() -> Path | None:
    """Where the compiled engine lies; None if it was not built."""
    folder = Path(__file__).parent
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
    library.hpbench_abi.restype = library.hpbench_arguments_size.restype = library.hpbench_task.restype = ctypes.c_int64
    library.hpbench_task.argtypes = [ctypes.c_char_p]
    for name in ("hpbench_ppo_train", "hpbench_ppo_evaluate"):
        getattr(library, name).argtypes = [ctypes.POINTER(_Arguments)]
        getattr(library, name).restype = None
    if library.hpbench_abi() != ABI or library.hpbench_arguments_size() != ctypes.sizeof(_Arguments):
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
    if not task.dynamics.native or library.hpbench_task(task.dynamics.native.encode()) < 0:
        return f"it does not know the dynamics of {task.id}"
    return None


def train(population: PPO, rollouts: int) -> Tensor:
    """Train every member for that many rollouts.

    Returns:
        Totals of the segment, float64 ``[members, len(TOTALS)]``.
    """
    totals = torch.zeros(population.members, len(TOTALS), dtype=torch.float64)
    arguments = _arguments(population)
    arguments.rollouts = rollouts
    arguments.total_count = len(TOTALS)
    arguments.result_totals = totals.data_ptr()
    _call("hpbench_ppo_train", arguments)
    return totals


def evaluate(population: PPO, episodes: int) -> Evaluation:
    """Play complete episodes with the current policies."""
    arguments = _arguments(population)
    physics = evaluation_physics(population.tasks[0], population.state["env_physics"])
    arguments.state_env_physics = _pointer(physics)
    returns = np.zeros((population.members, episodes))
    lengths = np.zeros((population.members, episodes), dtype=np.int64)
    arguments.episodes = episodes
    arguments.result_evaluation_returns = returns.ctypes.data
    arguments.result_evaluation_lengths = lengths.ctypes.data
    _call("hpbench_ppo_evaluate", arguments)
    return Evaluation(returns, lengths)


def _call(function: str, arguments: _Arguments) -> None:
    library = _library()
    assert not isinstance(library, str), library
    getattr(library, function)(ctypes.byref(arguments))


def _arguments(population: PPO) -> _Arguments:
    library = _library()
    assert not isinstance(library, str), library
    task, config, state = population.tasks[0], population.config, population.state
    sizes = {
        "abi": ABI, "members": population.members, "envs": config.num_envs, "steps": config.num_steps,
        "threads": population.threads, "task": library.hpbench_task(task.dynamics.native.encode()),
        "observation": task.observation_size, "outputs": task.action_count, "discrete": int(task.discrete),
        "width": population.environments.width, "first": config.hidden[0], "second": config.hidden[1],
        "parameters_size": population.networks.size, "state_size": task.dynamics.state_size,
        "physics_size": len(task.dynamics.physics), "reset_draws": task.dynamics.reset_draws, "delay_slots": MAX_DELAY,
        "max_episode_steps": task.max_episode_steps, "streams": state["rng_keys"].shape[1],
        "hyperparameter_count": len(population.hyperparameters),
        "normalize_observation": int(config.normalize_observation), "normalize_reward": int(config.normalize_reward),
        "has_success": int(task.success_return is not None),
    }  # fmt: skip
    threshold = 0.0 if task.success_return is None else task.success_return
    numbers = {"action_low": task.action_low, "action_high": task.action_high, "success_return": threshold}
    pointers = {f"state_{name}": _pointer(state[name]) for name in _STATE}
    pointers |= {f"buffer_{name}": _pointer(population.buffer[name]) for name in _BUFFER}
    return _Arguments(**sizes, **numbers, **pointers)


def _pointer(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    return tensor.data_ptr()
