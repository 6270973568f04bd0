"""The runner in several processes: the same bytes, whoever fails, dies or is killed."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hpbench
from hpbench.errors import InvalidConfiguration
from hpbench.evaluation.runner import RunFailed
from short_runs import FIVE_TASKS, TWO_TASKS, bytes_of, make_suite, run

SCRIPT = """
import sys
import hpbench
from hpbench.evaluation.suite import load_suite
hpbench.run(["contestants:Slow", "contestants:Keep"], load_suite(sys.argv[1]), output=sys.argv[2], processes=2)
"""


def test_processes_do_not_change_a_byte(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite(TWO_TASKS)
    agents = [contestants.Wander(), "contestants:Keep", contestants.Talks()]
    run(agents[:2], suite, tmp_path / "one", processes=1)
    results = run(agents, suite, tmp_path / "two", processes=2)
    assert all(results.is_complete(agent) for agent in ("wander", "keep", "talks"))
    one, two = bytes_of(tmp_path / "one"), bytes_of(tmp_path / "two")
    assert len(one) == 5
    assert one.items() <= two.items()


def test_exceptions_come_back_with_row_and_traceback(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite(TWO_TASKS)
    with pytest.raises(RunFailed, match="no acrobats") as caught:
        run([contestants.FailsOnAcrobot(), contestants.Keep()], suite, tmp_path)
    (failure,) = caught.value.failures
    assert (failure.agent, failure.row) == ("fails-on-acrobot", "classic/acrobot default")
    assert "in reset" in failure.reason
    assert caught.value.results.is_complete("keep")
    assert len(caught.value.results.rows("fails-on-acrobot")) == 1


def test_a_killed_worker_fails_its_row_only(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite(TWO_TASKS)
    agents = [contestants.DiesOnAcrobot(), contestants.FailsOnAcrobot(), contestants.Keep()]
    with pytest.raises(RunFailed) as caught:
        run(agents, suite, tmp_path, processes=2)
    reasons = {failure.agent: failure for failure in caught.value.failures}
    assert set(reasons) == {"dies-on-acrobot", "fails-on-acrobot"}
    assert "killed by signal 9 (SIGKILL)" in reasons["dies-on-acrobot"].reason
    assert "no acrobats" in reasons["fails-on-acrobot"].reason
    assert "contestants.py" in reasons["fails-on-acrobot"].reason
    assert {failure.row for failure in reasons.values()} == {"classic/acrobot default"}
    assert len(caught.value.results.records) == 4


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="finds worker processes through /proc")
@pytest.mark.parametrize("ending", ["kill", "interrupt"])
def test_a_killed_runner_resumes_to_the_same_bytes(contestants: Any, tmp_path: Path, ending: str) -> None:
    suite = make_suite(FIVE_TASKS, seeds="100-100")
    (tmp_path / "short.json").write_text(suite.dumps())
    path = os.pathsep.join([str(tmp_path / "modules"), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "PAUSE": "1.5"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "short.json"), str(tmp_path / "cut")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    folder = tmp_path / "cut" / suite.name
    wait_for(lambda: len(list(folder.glob("*/*.costs.json"))) >= 2)
    workers = children_of(process.pid)
    if ending == "kill":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    wait_for(lambda: not any(alive(pid) for pid in workers), 10)
    assert len(workers) == 2
    if ending == "interrupt":
        assert "Run the same again to resume" in said
        assert process.returncode == -signal.SIGINT
        # One that is killed in the middle of a write may leave the half file behind, under a name that nothing reads.
        assert list(folder.rglob("*.tmp")) == []
    else:
        # As if it had been in the middle of a write.
        row = next(folder.glob("*/*.costs.json"))
        (row.parent / f".{row.name}.{platform.node()}-{process.pid}-x.tmp").write_text("{")
    kept = bytes_of(tmp_path / "cut")
    assert 1 <= len(kept) - 1 < 10
    again = run(["contestants:Slow", "contestants:Keep"], suite, tmp_path / "cut")
    whole = run(["contestants:Slow", "contestants:Keep"], suite, tmp_path / "whole")
    assert len(again.records) == len(whole.records) == 10
    assert list(folder.rglob("*.tmp")) == []
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")
    assert kept.items() <= bytes_of(tmp_path / "whole").items()


def test_agents_that_cannot_travel_run_here_or_say_so(
    contestants: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = contestants.Together()
    agent.lock = threading.Lock()
    with pytest.raises(InvalidConfiguration, match=r"'together' cannot be sent to another process.*processes=1"):
        run(agent, make_suite(TWO_TASKS), tmp_path, processes=2)
    results = hpbench.run(agent, make_suite(TWO_TASKS), output=tmp_path)
    assert results.is_complete("together")
    if len(os.sched_getaffinity(0)) > 1:
        assert "Using one process" in capsys.readouterr().err


def test_an_own_script_needs_no_main_guard(tmp_path: Path) -> None:
    """Ten lines, two processes, the class in the script itself."""
    suite = make_suite(TWO_TASKS, seeds="100-100")
    (tmp_path / "short.json").write_text(suite.dumps())
    script = tmp_path / "mine.py"
    script.write_text(
        "import hpbench\n"
        "import numpy as np\n"
        "class Mine:\n"
        "    def reset(self, spec, seed):\n"
        "        self.size = len(spec.hyperparameters.hot)\n"
        "    def act(self, observation):\n"
        "        return np.zeros(self.size, dtype=np.float32)\n"
        f"results = hpbench.run(Mine(), {str(tmp_path / 'short.json')!r}, {str(tmp_path / 'out')!r}, processes=2)\n"
        "print(results)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Mine 2/2 rows" in done.stdout
