"""Half-written files: a process that is killed while it writes leaves one behind, which nothing ever reads.

The name of such a file says what it was to become, and which process was writing it on which machine. So whoever
runs the same row again can remove it, and nobody removes what another process is still writing.
"""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

SUFFIX = ".tmp"
ABANDONED = 86_400.0
"""Seconds after which a file counts as left behind even if its process may be alive: it is on another machine, or its
number has been given to another process. A write takes well below a second."""


def temporary_prefix(path: Path) -> str:
    """Start of the name under which this process writes what will become ``path``, in the same folder. Its end is
    :data:`SUFFIX`; what stands between them is free."""
    return f".{path.name}.{platform.node()}-{os.getpid()}-"


def remove_leftovers(path: Path) -> list[Path]:
    """Remove what dead processes have left of writing ``path``. Files of living ones and of other paths stay.

    Returns:
        What was removed.
    """
    if not path.parent.is_dir():
        return []
    start = f".{path.name}."
    found = [file for file in path.parent.iterdir() if file.name.startswith(start) and file.suffix == SUFFIX]
    removed = [file for file in found if _is_left_behind(file, file.name[len(start) :])]
    for file in removed:
        file.unlink(missing_ok=True)
    return removed


def _is_left_behind(file: Path, writer: str) -> bool:
    here = re.match(rf"{re.escape(platform.node())}-(\d+)-", writer)
    if here is not None and not _may_be_alive(int(here[1])):
        return True
    try:
        return time.time() - file.stat().st_mtime > ABANDONED
    except FileNotFoundError:  # just renamed by its process, or removed
        return False


def _may_be_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # there, os.kill is no question but a kill
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True
