"""The processes of a pool of simulators, as their parent has them: one of them asks and is answered over a socket.

What a process does is in :mod:`~hpbench.learners.simulator_worker`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence

from hpbench.learners.simulator_worker import CLOSE, HEADER, receive, spin

GRACE = 5.0
"""Seconds that workers have to close their simulators before they are killed, with all that they started."""

_BOOT = (
    "import sys; sys.path[:] = {path!r}; from hpbench.learners.simulator_worker import work; work({socket}, {spinning})"
)


class SimulatorProcess:
    """The parent's end of a worker process. Answers come in the order of the questions, whosever they are.

    Args:
        patience: seconds to wait for an answer.
        spinning: seconds to keep a core busy waiting before that.
    """

    def __init__(self, patience: float, spinning: float) -> None:
        self.patience, self._spinning = patience, spinning
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(patience)
        command = [sys.executable, "-c", _BOOT.format(path=sys.path, socket=theirs.fileno(), spinning=spinning)]
        with theirs:
            # A group of its own: what a simulator starts (Doom is a process of its own) can be ended with the worker.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), process_group=0
            )
        self._asked: deque[tuple[int, bool]] = deque()
        self._early: dict[int, deque[tuple[int, bytes]]] = {}

    def send(self, operation: int, number: int, payload: bytes, memory: int | None = None) -> None:
        """Ask; the answer to ``CLOSE`` is nobody's."""
        header = HEADER.pack(operation, number, len(payload))
        if memory is None:
            self.channel.sendall(header + payload)
        else:
            self.channel.sendall(header)
            socket.send_fds(self.channel, [b"m"], [memory])
            self.channel.sendall(payload)
        self._asked.append((number, operation == CLOSE))

    def answer(self, number: int) -> tuple[int, bytes]:
        """The answer to that simulator's oldest question; others' answers on the way are kept for them."""
        while not self._early.get(number):
            spin(self.channel, self._spinning)
            self._take()
        return self._early[number].popleft()

    def _take(self) -> None:
        """Receive the next answer and keep it for whoever asked."""
        kind, _, size = HEADER.unpack(receive(self.channel, HEADER.size))
        payload = receive(self.channel, size) if size else b""
        owner, nobody = self._asked.popleft()
        if nobody:
            self._early.pop(owner, None)
        else:
            self._early.setdefault(owner, deque()).append((kind, payload))

    def exit(self) -> str:
        """How the process ended, in words."""
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "its process closed the connection"
        return f"its process was killed by signal {-code}" if code < 0 else f"its process ended with exit code {code}"


def end_all(workers: Sequence[SimulatorProcess], owner: int) -> None:
    """Close the connections, at which the workers end by themselves, and see to it that they do."""
    for worker in workers:
        worker.channel.close()
    if os.getpid() != owner:  # in a fork of the process that has the pool: they are not its to end
        return
    deadline = time.monotonic() + GRACE
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        if worker.process.returncode != 0:  # it did not close its simulators
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.wait()
