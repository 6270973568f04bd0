"""The worker process of a pool of simulators: a loop that does what comes in over its socket.

It imports neither torch nor what the caller's script imports, so it starts quickly and stays small. A message is a
header (operation, simulator, length of what follows) and its bytes; every message is answered by one of the same form.
The arrays of a simulator are in memory that both sides map, so a step is a header each way and nothing else.
"""

from __future__ import annotations

import mmap
import os
import pickle
import select
import signal
import socket
import struct
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpbench.errors import HPBenchError

if TYPE_CHECKING:
    from hpbench.tasks.simulator import Simulator, SimulatorMaker

HEADER = struct.Struct("<BQQ")
MAKE, SHARE, RESET, STEP, SAVE, LOAD, CLOSE, PLAY = range(8)
DONE, FAILED = range(2)
OUTPUTS = ("observation", "reward", "terminated")
"""The simulator's arrays that the worker shows after every change."""

Layout = tuple[str, DTypeLike, tuple[int, ...], int, int]
"""Name, dtype and shape of an array in shared memory, and the rows that belong to this worker."""


def spin(channel: socket.socket, seconds: float) -> None:
    """Wait that long at most for something to read, without giving up the core: on many machines, virtual ones above
    all, waking a process takes longer than a few steps of a simulator."""
    if seconds:
        poller, give_up = select.poll(), time.perf_counter() + seconds
        poller.register(channel, select.POLLIN)
        while not poller.poll(0) and time.perf_counter() < give_up:
            pass


def receive(channel: socket.socket, size: int) -> bytes:
    """Exactly that many bytes.

    Raises:
        EOFError: if the other side is gone.
    """
    data = channel.recv(size)
    if len(data) == size:
        return data
    parts = [data]
    while data and (size := size - len(data)):
        parts.append(data := channel.recv(min(size, 1 << 20)))
    if not data:
        raise EOFError
    return b"".join(parts)


def map_array(descriptor: int, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array in the shared memory behind a file descriptor; the memory lives as long as the array."""
    size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return np.frombuffer(mmap.mmap(descriptor, size), dtype, int(np.prod(shape))).reshape(shape)


class Player(Protocol):
    """Plays with copies of a simulator in the process where they live."""

    def __call__(self, hosted: Hosted, first: int) -> Any:
        """Play.

        Args:
            hosted: the copies.
            first: of all copies of the simulator, the first of those.
        """
        ...


class Hosted:
    """The copies of one simulator that live in this process, and their rows of the shared arrays."""

    def __init__(self, maker: SimulatorMaker, envs: int, evaluation: bool) -> None:
        self.simulator: Simulator = maker.make(envs, evaluation)
        self.rows: dict[str, NDArray[Any]] = {}

    def share(self, layout: Layout, descriptor: int) -> None:
        """Map an array; what is shown from now on goes there."""
        name, dtype, shape, start, stop = layout
        self.rows[name] = map_array(descriptor, dtype, shape)[start:stop]

    def show(self) -> None:
        """Copy what the simulator shows into the shared arrays."""
        for name in OUTPUTS:
            self.rows[name][:] = getattr(self.simulator, name)

    def step(self, which: Sequence[int] | None) -> None:
        """One step, with the actions that stand in the shared array."""
        self.simulator.step(self.rows["actions"], which)
        self.show()

    def reset(self, which: Sequence[int], seeds: Sequence[int]) -> None:
        """Begin new episodes."""
        self.simulator.reset(which, seeds)
        self.show()

    def play(self, player: Player, first: int) -> Any:
        """Steps and restarts that the player chooses; ``seeds`` in the shared arrays are those of the episodes."""
        answer = player(self, first)
        self.show()
        return answer

    def load(self, which: Sequence[int], states: Sequence[bytes]) -> None:
        """Load saved states."""
        for env, state in zip(which, states, strict=True):
            self.simulator.load(env, state)
        self.show()


def work(descriptor: int, patience: float = 0.0) -> None:
    """Main function of a worker process.

    Args:
        descriptor: of its socket; when the other side closes it, even by dying, the process ends.
        patience: seconds to :func:`spin` for the next message.
    """
    # Ctrl-C reaches the whole process group; the parent decides what becomes of its simulators.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)  # what a simulator starts must not keep it open when this process dies
    hosted: dict[int, Hosted] = {}
    while True:
        spin(channel, patience)
        try:
            operation, number, size = HEADER.unpack(receive(channel, HEADER.size))
            memory = socket.recv_fds(channel, 1, 1)[1][0] if operation == SHARE else None
            value = pickle.loads(receive(channel, size)) if size else None
            channel.sendall(_attempt(hosted, operation, number, value if memory is None else (value, memory)))
            if memory is not None:
                os.close(memory)
        except (EOFError, ConnectionError):
            break
    for each in hosted.values():
        each.simulator.close()


def _attempt(hosted: dict[int, Hosted], operation: int, number: int, value: Any) -> bytes:
    """The packed answer to a request; errors are answers too."""
    try:
        payload = _serve(hosted, operation, number, value)
        return HEADER.pack(DONE, number, len(payload)) + payload
    except Exception as error:  # noqa: BLE001 - goes to the parent, which raises it
        kept = error if isinstance(error, HPBenchError) else None
        payload = pickle.dumps((kept, traceback.format_exc()))
        return HEADER.pack(FAILED, number, len(payload)) + payload


def _serve(hosted: dict[int, Hosted], operation: int, number: int, value: Any) -> bytes:
    if operation == STEP:
        hosted[number].step(value)
    elif operation == RESET:
        hosted[number].reset(*value)
    elif operation == LOAD:
        hosted[number].load(*value)
    elif operation == PLAY:
        return pickle.dumps(hosted[number].play(*value))
    elif operation == SAVE:
        return pickle.dumps([hosted[number].simulator.save(env) for env in value])
    elif operation == MAKE:
        maker, envs, evaluation = value
        hosted[number] = Hosted(maker, envs, evaluation)
        shown = hosted[number].simulator.observation
        return pickle.dumps((shown.shape[1:], shown.dtype.str))
    elif operation == SHARE:
        hosted[number].share(*value)
    elif operation == CLOSE and number in hosted:
        hosted.pop(number).simulator.close()
    return b""
