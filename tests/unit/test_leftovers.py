"""What killed processes leave behind is removed; what others are writing is not."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpbench.evaluation import leftovers, records
from hpbench.evaluation.leftovers import remove_leftovers, temporary_prefix


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "row.json"


@pytest.fixture
def dead() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def half(path: Path, node: str, process: int) -> Path:
    file = path.with_name(f".{path.name}.{node}-{process}-abc123.tmp")
    file.write_text("{")
    return file


@pytest.mark.skipif(os.name != "posix", reason="elsewhere, only their age tells")
def test_those_of_dead_processes_are_removed(record: Path, dead: int) -> None:
    record.write_text("whole")
    mine, its_own = half(record, platform.node(), dead), half(record, platform.node(), os.getpid())
    assert remove_leftovers(record) == [mine]
    assert sorted(record.parent.iterdir()) == [its_own, record]


def test_those_of_other_machines_and_of_other_rows_stay(record: Path, dead: int) -> None:
    elsewhere = half(record, "another-machine", dead)
    other_row = half(record.with_name("other.json"), platform.node(), dead)
    costs = half(record.with_name("row.costs.json"), platform.node(), dead)
    assert remove_leftovers(record) == []
    assert elsewhere.exists()
    assert other_row.exists()
    assert costs.exists()


def test_after_a_day_nobody_is_writing_any_more(record: Path) -> None:
    files = [half(record, "another-machine", 1), half(record, platform.node(), os.getpid())]
    yesterday = time.time() - leftovers.ABANDONED - 60.0
    for file in files:
        os.utime(file, (yesterday, yesterday))
    assert sorted(remove_leftovers(record)) == sorted(files)


def test_no_folder_no_leftovers(tmp_path: Path) -> None:
    assert remove_leftovers(tmp_path / "nowhere" / "row.json") == []


@pytest.mark.skipif(os.name != "posix", reason="elsewhere, only their age tells")
def test_a_writer_that_is_killed_leaves_a_file_that_is_recognised(record: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from hpbench.evaluation import records\n"
        "os.replace = lambda *_: os._exit(9)\n"
        "records.write_atomically(Path(sys.argv[1]), 'text')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code, str(record)], env=environment, check=False).returncode == 9
    (file,) = record.parent.iterdir()
    assert file.name.startswith(f".{record.name}.{platform.node()}-")
    records.remove_leftovers(record)
    assert list(record.parent.iterdir()) == []


def test_a_write_leaves_nothing(record: Path) -> None:
    records.write_atomically(record, "text")
    assert [file.name for file in record.parent.iterdir()] == ["row.json"]
    assert temporary_prefix(record).startswith(".row.json.")
