"""Worker processes for jobs that may fail or be killed, each on its own.

A worker is a fresh Python interpreter that gets its work over a pipe. Unlike the process pools of the standard
library, it never runs the caller's main script again (so scripts need no ``__main__`` guard, and agents defined in a
script or a notebook travel by value), and a worker that is killed takes one job with it, not the pool.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import cloudpickle  # type: ignore[import-untyped]

from hpbench.errors import InvalidConfiguration

Report = Callable[[Any], None]
Function = Callable[[Any, Report], Any]
"""``function(job, report) -> result``; ``report(message)`` may be called in between."""

_BOOT = "import sys; sys.path[:] = {path!r}; from hpbench.evaluation.workers import work; work()"
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    Args:
        job: index of the job.
        kind: ``started``, ``report`` (message in ``value``), ``finished`` (result in ``value``), ``failed`` (the
            exception's traceback in ``value``), ``crashed`` (what happened to the process in ``value``).
    """

    job: int
    kind: str
    value: Any = None


def pack(value: Any, what: str) -> bytes:
    """``value`` as bytes that another process can turn back into an object.

    Raises:
        InvalidConfiguration: naming ``what``, if it cannot be sent.
    """
    try:
        packed: bytes = cloudpickle.dumps(value)
    except Exception as error:  # whatever an object's own __reduce__ raises
        raise InvalidConfiguration(
            f"{what} cannot be sent to another process ({type(error).__name__}: {error}). "
            "Make it picklable, give its import path instead, or run with processes=1."
        ) from error
    return packed


def run_here(function: Function, jobs: Sequence[Any], handle: Callable[[Event], None]) -> None:
    """Run jobs one after the other in this process; arguments as for :meth:`Workers.run`, but jobs are not packed."""
    for index, job in enumerate(jobs):
        handle(Event(index, "started"))

        def report(message: Any, index: int = index) -> None:
            handle(Event(index, "report", message))

        try:
            event = Event(index, "finished", function(job, report))
        except Exception:  # noqa: BLE001 - a job's failure is its result
            event = Event(index, "failed", traceback.format_exc())
        handle(event)


class Workers:
    """A few worker processes, used as a context manager; leaving it ends them at once, whatever they are doing.

    Args:
        function: a module-level function.
        processes: how many.
    """

    def __init__(self, function: Function, processes: int) -> None:
        self._function = f"{function.__module__}:{function.__qualname__}"
        self._processes = processes
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            process.kill()
        for process in running:
            process.wait()

    def run(self, jobs: Sequence[bytes], handle: Callable[[Event], None]) -> None:
        """Run packed jobs, started in order, until every one has ended one way or the other.

        Args:
            handle: is called with every event, in the calling thread.
        """
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        for index in range(len(jobs)):
            waiting.put(index)
        count = min(self._processes, len(jobs))
        for _ in range(count):
            threading.Thread(target=self._serve, args=(jobs, waiting, events), daemon=True).start()
        while count:
            event = events.get()
            if event is None:
                count -= 1
            else:
                handle(event)

    def _serve(
        self, jobs: Sequence[bytes], waiting: queue.SimpleQueue[int], events: queue.SimpleQueue[Event | None]
    ) -> None:
        """Drive one worker, and a new one after each that dies, until no job waits."""
        process: subprocess.Popen[bytes] | None = None
        try:
            while True:
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    break
                process = process or self._start()
                if process is None:
                    break
                events.put(Event(index, "started"))
                try:
                    lived = self._converse(process, index, jobs[index], events)
                except Exception:  # noqa: BLE001 - an answer that cannot be read fails its job, like any other error
                    events.put(Event(index, "failed", traceback.format_exc()))
                    lived = True
                if not lived:
                    code = self._stop(process)
                    process = None
                    events.put(Event(index, "crashed", _describe_exit(code)))
        finally:
            if process is not None:
                self._stop(process)
            events.put(None)

    def _converse(
        self, process: subprocess.Popen[bytes], index: int, job: bytes, events: queue.SimpleQueue[Event | None]
    ) -> bool:
        """Hand one job over and pass on what the worker says; False if the worker died."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, pickle.dumps(self._function))
            _send(process.stdin, job)
            while True:
                kind, value = pickle.loads(_receive(process.stdout))
                events.put(Event(index, kind, value))
                if kind != "report":
                    return True
        except (EOFError, OSError):
            return False

    def _start(self) -> subprocess.Popen[bytes] | None:
        """A new worker; None once the context has been left."""
        with self._lock:
            if self._closed:
                return None
            command = [sys.executable, "-c", _BOOT.format(path=sys.path)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._running.add(process)
        return process

    def _stop(self, process: subprocess.Popen[bytes]) -> int:
        process.kill()
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        for pipe in (process.stdin, process.stdout):
            # A message that the dead worker never read may still stand in the pipe's buffer.
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        return code


def work() -> None:
    """Main function of a worker process: jobs come in on standard input, events go out on standard output."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    # What an agent prints must not get between the messages, nor its reads eat them.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), daemon=True).start()
    from hpbench.registry import load_object

    while True:
        function: Function = load_object(pickle.loads(inbox.get()))
        job = inbox.get()
        try:
            result = function(pickle.loads(job), lambda message: _send(replies, pickle.dumps(("report", message))))
            reply = pickle.dumps(("finished", result))
        except Exception:  # noqa: BLE001 - goes back to the parent, with its traceback
            reply = pickle.dumps(("failed", traceback.format_exc()))
        _send(replies, reply)


def _listen(requests: BinaryIO, inbox: queue.SimpleQueue[bytes]) -> None:
    """Pass messages on; when the parent is gone, even killed, end this process instead of working for nobody."""
    while True:
        try:
            inbox.put(_receive(requests))
        except EOFError:
            os._exit(1)


def _send(stream: Any, message: bytes) -> None:
    stream.write(_LENGTH.pack(len(message)) + message)
    stream.flush()


def _receive(stream: Any) -> bytes:
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    message: bytes = stream.read(length)
    if len(message) < length:
        raise EOFError
    return message


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"its process was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"its process ended with exit code {code}"
