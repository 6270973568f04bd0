"""A simulator process that is killed while the runner is at work: its row fails, alone, says so, and can be resumed."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hpbench
from hpbench.evaluation.runner import RunFailed
from hpbench.evaluation.suite import parse_suite
from hpbench.learners import simulator_pool
from hpbench.tasks import nethack

pytest.importorskip("nle", reason='needs pip install "hpbench[nethack]"')

ROWS = """
    format = 1
    name = "crash-v0"

    [[rows]]
    env = "HPControl-NetHack-v0"
    tasks = {games}
    tracks = ["default"]
    learner = "ppo"
    tier = "small"
    seeds = [7]
    steps = {steps}
    decisions = 1
    evaluation_episodes = 1

    [[rows]]
    env = "HPControl-Classic-v0"
    tasks = ["classic/cartpole"]
    tracks = ["default"]
    learner = "ppo"
    tier = "small"
    seeds = [7]
    steps = 512
    decisions = 1
    evaluation_episodes = 1
"""

KILLER = '''
"""An agent that kills a simulator of the staircase, once: it leaves a mark."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np


class Killer:
    name = "killer"

    def reset(self, spec, seed):
        self.size, self.task = len(spec.hyperparameters.hot), spec.task.id

    def act(self, observation):
        mark = Path(os.environ["MARK"])
        if self.task == "nethack/staircase" and not mark.exists():
            from hpbench.learners.simulator_pool import shared_pool

            mark.touch()
            os.kill(shared_pool().workers[0].process.pid, signal.SIGKILL)
        return np.zeros(self.size, dtype=np.float32)
'''


@pytest.fixture(autouse=True)
def own_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pool of this test's own: other tests neither use its one process nor lose theirs."""
    own: list[simulator_pool.SimulatorPool] = []
    monkeypatch.setattr(simulator_pool, "_shared", own)
    yield
    for pool in own:
        pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="NetHack's simulators run on Linux here")
@pytest.mark.parametrize(
    ("processes", "games", "steps"), [(1, ["nethack/staircase", "nethack/gold"], 512), (2, ["nethack/staircase"], 4096)]
)
def test_a_killed_simulator_fails_its_row_only_and_the_row_resumes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    processes: int,
    games: list[str],
    steps: int,
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "killers.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "killers", raising=False)
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    for name in ("staircase", "gold"):  # short games and rollouts, in this process only
        short = dataclasses.replace(nethack.TASKS[name], max_episode_steps=40, learner_config={})
        monkeypatch.setitem(nethack.TASKS, name, short)
    suite = parse_suite(ROWS.format(games=games, steps=steps), "crash.toml")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})

    def run(folder: str) -> Any:
        return hpbench.run("killers:Killer", suite, output=tmp_path / folder, processes=processes)

    with pytest.raises(RunFailed) as caught:
        run("cut")
    (failure,) = caught.value.failures
    assert (failure.agent, failure.row) == ("killer", "nethack/staircase default")
    said = failure.reason.strip().splitlines()[-1]
    assert "SimulatorCrash: A simulator process of nethack/staircase failed: its process was killed by signal 9" in said
    assert "had the seeds " in said
    assert said in str(caught.value)
    kept = {record.row.task for record in caught.value.results.records}
    assert kept == {*games[1:], "classic/cartpole"}
    if processes == 2:
        return
    capsys.readouterr()

    resumed = run("cut")
    done = capsys.readouterr().err
    assert done.count("meta-score") == 1  # nothing else was run again
    assert "killer on nethack/staircase default: meta-score" in done
    assert resumed.is_complete("killer")
    assert resumed.records == run("whole").records
