"""Simulators under the native engine: arrays that both sides share, and one call of Python per step of all copies."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.tasks.base import Task
from hpbench.tasks.simulator import Simulator

OPERATIONS = ("step", "step some", "reset")
"""In the order of ``Operation`` in ``cpp/arguments.hpp``."""
_STEP, _STEP_SOME, _RESET = range(len(OPERATIONS))

_Operate = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_Exchange: Any = type(
    "_Exchange",
    (ctypes.Structure,),
    {
        "_fields_": [
            (name, ctypes.c_void_p)
            for name in ("observation", "reward", "terminated", "action", "choice", "which", "seed")
        ]
    },
)


class Exchanges:
    """What the engine hands to the simulators of all members, and gets from them.

    Attributes:
        error: what stopped a simulator while the engine ran; the engine then stops as soon as it can.
    """

    def __init__(self, task: Task, simulators: Sequence[Simulator], envs: int) -> None:
        self.simulators = simulators
        self.error: BaseException | None = None
        members = len(simulators)
        self.actions = np.zeros((members, envs, task.action_count), dtype=np.float32)
        self.choices = np.zeros((members, envs), dtype=np.int64)
        self.which = np.zeros((members, envs), dtype=np.bool_)
        self.seeds = np.zeros((members, envs), dtype=np.int64)
        self._given = self.choices if task.discrete else self.actions
        self._rows: Any = (_Exchange * members)()
        for m, (row, simulator) in enumerate(zip(self._rows, simulators, strict=True)):
            shown = {"observation": np.float32, "reward": np.float64, "terminated": np.bool_}
            for name, dtype in shown.items():
                array = getattr(simulator, name)
                assert array.dtype == dtype, f"{task.id}: {name} is {array.dtype}, not {np.dtype(dtype)}"
                assert array.flags.c_contiguous, f"{task.id}: {name} is not contiguous"
                setattr(row, name, array.ctypes.data)
            own: dict[str, NDArray[Any]] = {
                "action": self.actions,
                "choice": self.choices,
                "which": self.which,
                "seed": self.seeds,
            }
            for name, array in own.items():
                setattr(row, name, array[m].ctypes.data)
        self._operate = _Operate(self._do)

    @property
    def pointers(self) -> tuple[int, int]:
        """Addresses of the members' arrays and of the function that the engine calls. They are good as long as this
        object lives."""
        function = ctypes.cast(self._operate, ctypes.c_void_p).value
        assert function is not None
        return ctypes.addressof(self._rows), function

    def _do(self, member: int, operation: int) -> int:
        """Called by the engine, maybe from a thread of its own. An exception cannot pass through it, and so is kept."""
        if self.error is not None:
            return 1
        try:
            simulator, which = self.simulators[member], self.which[member]
            if operation == _STEP:
                simulator.step(self._given[member])
            else:
                chosen = np.flatnonzero(which)
                if operation == _RESET:
                    simulator.reset(chosen.tolist(), self.seeds[member, chosen].tolist())
                else:
                    simulator.step(self._given[member], chosen.tolist())
            which[:] = False
        except BaseException as error:  # noqa: BLE001 (raised again by whoever called the engine)
            self.error = error
            return 1
        return 0
