"""The command line: ``hpbench list | info | run | population | report | doctor``. Commands import what they need
when they run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hpbench.cli.commands import app
from hpbench.errors import HPBenchError

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 if all is well, 1 if a check or a row failed, 2 for a mistake in what was asked for.

    Args:
        arguments: without the program's name; None: those of the process.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="hpbench")
    except HPBenchError as error:
        print(f"hpbench: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
