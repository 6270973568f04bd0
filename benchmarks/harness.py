"""What the benchmarks share: the machine's description, workers in processes of their own, and result files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
MATRIX = 1024
PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3")


def machine() -> dict[str, str | int]:
    """What the numbers were measured on: processor, cores, system and versions, nothing about whose machine it is."""
    versions: dict[str, str | int] = {name: _version(name) for name in PACKAGES}
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


class Worker:
    """A measured subject in a process of its own: sent one JSON line, it answers with one.

    Subjects are alive side by side but work in turn, so that they are measured under the same conditions without
    sharing threads, caches of compiled code or memory pools. ``script`` is started with ``--worker`` and the
    subject's description.
    """

    def __init__(self, script: str | Path, subject: Mapping[str, Any], threads: int = 1) -> None:
        count = str(threads)
        environment = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
        self._process = subprocess.Popen(
            [sys.executable, str(script), "--worker", json.dumps(subject)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            RuntimeError: if the process ended without an answer; its own message is on standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the measured process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process: its standard input ends, and so does its loop."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self.close()


Answer = Callable[[dict[str, Any]], Mapping[str, Any]]
"""From a request to its answer, both plain JSON values."""
Train = Callable[[int], int]
"""Do that many rounds of work; how many steps, or operations, that was."""


def serve(answer: Answer) -> None:
    """The worker's side: answer requests until standard input ends."""
    for line in sys.stdin:
        print(json.dumps(dict(answer(json.loads(line)))), flush=True)


def timed(train: Train) -> Answer:
    """Asked for ``seconds``, works for at least as long, and answers with its ``rate``; it has worked once before."""
    train(1)

    def answer(request: dict[str, Any]) -> Mapping[str, Any]:
        begin, done = time.perf_counter(), 0
        while time.perf_counter() - begin < request["seconds"] or not done:
            done += train(1)
        return {"rate": done / (time.perf_counter() - begin)}

    return answer


def matrices(threads: int) -> Train:
    """Products of matrices, one for each rollout; it counts their floating-point operations."""
    import torch

    torch.set_num_threads(threads)
    one, two = torch.rand(2, MATRIX, MATRIX).unbind()

    def train(rollouts: int) -> int:
        for _ in range(rollouts):
            torch.mm(one, two)
        return rollouts * 2 * MATRIX**3

    return train


@dataclass(frozen=True)
class Grid:
    """A table for the terminal and for Markdown."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self) -> None:
        """Print it."""
        table = Table(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        Console(width=max(Console().width, 120)).print(table)

    def markdown(self) -> str:
        """The same as a Markdown table under its title."""
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |"]
        lines.append("| --- |" + " ---: |" * (len(self.columns) - 1))
        lines.extend("| " + " | ".join(row) + " |" for row in self.rows)
        return "\n".join(lines) + "\n"


def write_results(
    folder: Path, name: str, command: str, data: Mapping[str, Any], grids: Sequence[Grid], notes: str
) -> None:
    """Print the tables, and write ``<name>.json`` and ``<name>.md`` into ``folder``."""
    where = machine()
    folder.mkdir(parents=True, exist_ok=True)
    document = {"command": command, "machine": where, **data}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    described = ", ".join(f"{key} {value}" for key, value in where.items())
    parts = [f"## {name}", f"`{command}`", f"Machine: {described}.", notes, *(grid.markdown() for grid in grids)]
    (folder / f"{name}.md").write_text("\n\n".join(parts), encoding="utf-8")
    for grid in grids:
        grid.show()
    Console().print(f"Written: {name}.json and {name}.md in {folder}")


def thousands(value: float) -> str:
    """``12345.6`` as ``12,346``."""
    return f"{value:,.0f}"
