"""What the runner shows while it works: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter:
    """Shows rows (or other pieces of work) done, the current score and the remaining time, on standard error.

    Args:
        shown: False keeps quiet.
        rows: rows in all.
        done: rows that were finished before.
        work: cost of each remaining row in any one unit; shares of it become the bar and the time left.
        unit: what the bar calls the rows.
    """

    def __init__(self, shown: bool, rows: int, done: int, work: list[float], unit: str = "rows") -> None:
        self._rows, self._done = rows, done
        self._work, self._share = work, [0.0] * len(work)
        self._started = time.monotonic()
        self._console = Console(stderr=True, quiet=not shown)
        self._bar: Progress | None = None
        if shown and self._console.is_terminal and work:
            self._bar = Progress(
                TextColumn(f"{{task.fields[rows]}} {unit}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:3.0f} %"),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=self._console,
            )
            self._task = self._bar.add_task("starting", total=sum(work), rows=self._count())

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def advance(self, index: int, share: float, text: str) -> None:
        """A row has got on.

        Args:
            index: of the remaining row.
            share: of the row that is done.
            text: what is going on.
        """
        self._share[index] = share
        if self._bar is not None:
            self._bar.update(self._task, completed=self._completed(), description=text)

    def end(self, index: int, text: str) -> None:
        """A row has ended, well or not."""
        self._share[index] = 1.0
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._completed(), rows=self._count())
        self.say(f"[{self._count()}] {text}{'' if self._bar else self._time_left()}")

    def _completed(self) -> float:
        return sum(work * share for work, share in zip(self._work, self._share, strict=True))

    def _count(self) -> str:
        return f"{self._done:{len(str(self._rows))}d}/{self._rows}"

    def _time_left(self) -> str:
        completed, total = self._completed(), sum(self._work)
        if not 0 < completed < total:
            return ""
        left = (time.monotonic() - self._started) * (total - completed) / completed
        return f", about {left / 60:.0f} min left" if left >= 90 else f", about {left:.0f} s left"
