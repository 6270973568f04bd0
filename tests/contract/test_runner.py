"""The runner on real, short meta-episodes: what it records, what it survives, what it refuses."""

from __future__ import annotations

import dataclasses
import importlib
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

import gymnasium as gym
import numpy as np
import pytest

import hpbench
from hpbench.control.episode import BatchStep, EpisodeBatch
from hpbench.control.reward import meta_score
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.evaluation import records, row
from hpbench.evaluation.metrics import load_metric
from hpbench.evaluation.results import Results, load_results, record_path
from hpbench.evaluation.runner import RunFailed
from hpbench.evaluation.suite import Suite, parse_suite

ROWS = """
[[rows]]
env = "HPControl-Classic-v0"
tasks = {tasks}
tracks = ["default"]
learner = "ppo"
tier = "small"
seeds = "{seeds}"
decisions = {decisions}
steps = {steps}
evaluation_episodes = 1
"""

CONTESTANTS = '''
"""Agents of the tests, in a module of their own: worker processes import it."""

import os
import signal
import time

import numpy as np


class Keep:
    name = "keep"

    def reset(self, spec, seed):
        self.size = len(spec.hyperparameters.hot)

    def act(self, observation):
        return np.zeros(self.size, dtype=np.float32)


class Wander(Keep):
    """Random updates, with a memory that must not leak from one member to the next."""

    name = "wander"

    def __init__(self, width=0.3):
        self.width = width

    def reset(self, spec, seed):
        super().reset(spec, seed)
        self.spec, self.seed, self.seen = spec, seed, []
        self.generator = np.random.default_rng(seed)

    def act(self, observation):
        assert len(self.seen) == round(self.spec.schema.values(observation)["budget_fraction"] * self.spec.decisions)
        return self.generator.uniform(-self.width, self.width, self.size).astype(np.float32)

    def observe(self, step):
        self.seen.append(step)


class Slow(Wander):
    """Takes its time, so that there is some to be killed in."""

    name = "slow"

    def act(self, observation):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return super().act(observation)


class FailsOnAcrobot(Keep):
    name = "fails-on-acrobot"

    def reset(self, spec, seed):
        super().reset(spec, seed)
        if spec.task.id == "classic/acrobot":
            raise RuntimeError("no acrobats")


class DiesOnAcrobot(Keep):
    name = "dies-on-acrobot"

    def reset(self, spec, seed):
        super().reset(spec, seed)
        if spec.task.id == "classic/acrobot":
            os.kill(os.getpid(), signal.SIGKILL)


class Talks(Keep):
    """Prints and reads, which must not get into the way of the runner's own messages."""

    name = "talks"

    def act(self, observation):
        print("x" * 100_000)
        try:
            input()
        except EOFError:
            pass
        return super().act(observation)


class Together:
    """A batch agent."""

    name = "together"

    def reset_batch(self, specs, seeds):
        self.specs, self.seeds, self.steps = specs, seeds, []

    def act_batch(self, observations):
        return [np.full(len(s.hyperparameters.hot), 0.01 * i, dtype=np.float32) for i, s in enumerate(self.specs)]

    def observe_batch(self, steps):
        self.steps.append(steps)
'''

SCRIPT = """
import sys
import hpbench
from hpbench.evaluation.suite import load_suite
hpbench.run(["contestants:Slow", "contestants:Keep"], load_suite(sys.argv[1]), output=sys.argv[2], processes=2)
"""


def make_suite(tasks: str = '["classic/cartpole"]', seeds: str = "100-101", decisions: int = 2) -> Suite:
    rows = ROWS.format(tasks=tasks, seeds=seeds, decisions=decisions, steps=512 * decisions)
    return parse_suite(f'format = 1\nname = "short-v0"\n{rows}', "short.toml")


TWO_TASKS = '["classic/cartpole", "classic/acrobot"]'
CLASSIC = ("cartpole", "acrobot", "pendulum", "mountaincar", "mountaincar-continuous")
FIVE_TASKS = str([f"classic/{name}" for name in CLASSIC])


@pytest.fixture
def contestants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of agents, importable here and in worker processes."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "contestants.py").write_text(CONTESTANTS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "contestants", raising=False)
    module = importlib.import_module("contestants")
    yield module
    sys.modules.pop("contestants", None)


def run(agents: Any, suite: Suite, output: Path, processes: int = 1, **options: Any) -> Results:
    return hpbench.run(agents, suite, output=output, processes=processes, progress=False, **options)


def bytes_of(output: Path) -> dict[str, bytes]:
    """All records below a folder, without the costs."""
    files = [path for path in sorted(output.rglob("*.json")) if not path.name.endswith(records.COSTS_SUFFIX)]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def test_a_record_holds_the_whole_trace(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite()
    results = run(contestants.Wander(0.2), suite, tmp_path)
    (record,) = results.records
    assert (record.decisions, record.steps, record.engine, record.device) == (2, 1024, record.engine, "cpu")
    assert record.agent.settings == {"width": 0.2}
    assert [member.seed for member in record.members] == [100, 101]
    first, second = record.members
    assert first.actions != second.actions
    assert first.agent_seed != second.agent_seed
    for member in record.members:
        assert member.steps == (0, 512, 1024)
        assert member.meta_score == pytest.approx(meta_score(np.array(member.scores[1:]), 2), abs=1e-12)
    expected = [load_metric("meta_score")(episode) for episode in results.episodes("wander", suite.rows[0])]
    assert expected == pytest.approx([member.meta_score for member in record.members], abs=1e-12)
    costs = results.costs("wander", suite.rows[0])
    assert costs is not None
    assert (costs.decisions, costs.steps) == (4, 2048)


def test_a_trace_replays_in_the_environment(contestants: Any, tmp_path: Path) -> None:
    """Alone, through Gymnasium, with the recorded actions: the same learner, bit for bit."""
    (record,) = run(contestants.Wander(), make_suite(), tmp_path).records
    member = record.members[1]
    env = gym.make(record.row.env, **record.options)
    _, info = env.reset(seed=member.seed)
    digests = [info["hpbench"]["digest"]]
    scores = [info["hpbench"]["score"]]
    for action in member.actions:
        _, _, _, _, info = env.step(np.array(action, dtype=np.float32))
        digests.append(info["hpbench"]["digest"])
        scores.append(info["hpbench"]["score"])
    env.close()
    assert tuple(digests) == member.digests
    assert tuple(scores) == member.scores
    assert info["hpbench"]["values"] == {name: column[-1] for name, column in member.values.items()}


def test_processes_do_not_change_a_byte(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite(TWO_TASKS)
    agents = [contestants.Wander(), "contestants:Keep", contestants.Talks()]
    run(agents[:2], suite, tmp_path / "one", processes=1)
    results = run(agents, suite, tmp_path / "two", processes=2)
    assert all(results.is_complete(agent) for agent in ("wander", "keep", "talks"))
    one, two = bytes_of(tmp_path / "one"), bytes_of(tmp_path / "two")
    assert len(one) == 5
    assert one.items() <= two.items()


def test_finished_rows_are_not_run_again(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite(TWO_TASKS)
    first = run(contestants.Keep(), suite, tmp_path)
    paths = [record_path(first.folder, record) for record in first.records]
    times = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    second = run([contestants.Keep(), contestants.Wander()], suite, tmp_path)
    assert paths[0].stat().st_mtime_ns == times[0]
    assert set(second.agents) == {"keep", "wander"}
    assert [record for record in second.records if record.agent.name == "keep"] == list(first.records)


def test_damaged_records_are_redone_and_named(
    contestants: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = make_suite()
    first = run(contestants.Keep(), suite, tmp_path)
    path = record_path(first.folder, first.records[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert load_results(tmp_path).records == ()
    hpbench.run(contestants.Keep(), suite, output=tmp_path, processes=1)
    assert path.read_bytes() == whole
    said = capsys.readouterr().err
    assert "Running again" in said
    assert path.name in said
    assert "[1/1] keep on classic/cartpole default: meta-score" in said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"suite_hash": "0" * 64}, "another version of the suite"),
        ({"hpbench": "0.0.1"}, "another version of hpbench"),
        ({"options": {}}, "other options"),
        ({"steps": 512}, "another budget"),
    ],
)
def test_records_of_something_else_are_redone(
    contestants: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], reason: str
) -> None:
    suite = make_suite()
    (record,) = run(contestants.Keep(), suite, tmp_path).records
    path = record_path(tmp_path / suite.name, record)
    records.write(path, dataclasses.replace(record, **change))
    assert hpbench.run(contestants.Keep(), suite, output=tmp_path, processes=1).records == (record,)
    assert reason in capsys.readouterr().err


def test_edited_agents_are_run_again(contestants: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = make_suite()
    (before,) = run("contestants:Keep", suite, tmp_path / "out").records
    source = Path(contestants.__file__)
    source.write_text(CONTESTANTS.replace("np.zeros(self.size", "0.5 * np.ones(self.size"))
    sys.modules.pop("contestants")
    importlib.invalidate_caches()
    (after,) = hpbench.run("contestants:Keep", suite, output=tmp_path / "out", processes=1).records
    assert "other source code" in capsys.readouterr().err
    assert after.agent.key == before.agent.key
    assert after.members[0].actions != before.members[0].actions


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


def test_batch_agents_act_for_all_members_at_once(contestants: Any, tmp_path: Path) -> None:
    agent = contestants.Together()
    (record,) = run(agent, make_suite(), tmp_path).records
    assert record.members[0].actions[0] == [0.0] * 9
    assert record.members[1].actions[0] == pytest.approx([0.01] * 9)
    assert [len(steps) for steps in agent.steps] == [2, 2]
    assert agent.steps[1][0].truncated
    assert agent.steps[0][1].info["hpbench"]["seed"] == 101


def test_a_diverged_member_ends_alone(contestants: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Poisoned(EpisodeBatch):
        """The first member's parameters become NaN before the second decision."""

        def step(self, actions: Any) -> BatchStep:
            if self.infos()[0]["hpbench"]["decision"] == 1:
                self.population.state["parameters"][0] = float("nan")
            return super().step(actions)

    monkeypatch.setattr(row, "EpisodeBatch", Poisoned)
    suite = make_suite(decisions=4)
    (record,) = run(contestants.Wander(), suite, tmp_path).records
    first, second = record.members
    assert first.diverged
    assert len(first.actions) == 2
    assert first.scores[-1] == 0.0
    assert not second.diverged
    assert len(second.actions) == 4
    results = load_results(tmp_path)
    assert results.diverged("wander") == 1
    assert results.values("wander", suite.rows[0]) == pytest.approx([m.meta_score for m in record.members])
    monkeypatch.undo()
    (healthy,) = run(contestants.Wander(), suite, tmp_path / "healthy").records
    assert healthy.members[1] == second


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


def test_agents_of_one_name_do_not_collide(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite()
    results = run([contestants.Wander(0.1), contestants.Wander(0.2)], suite, tmp_path)
    assert len(set(results.agents)) == 2
    assert len(results.records) == 2
    with pytest.raises(InvalidConfiguration, match="twice with the same settings"):
        run([contestants.Wander(0.1), contestants.Wander(0.1)], suite, tmp_path)


def test_an_agent_is_not_changed_by_being_run(contestants: Any, tmp_path: Path) -> None:
    agent = contestants.Wander()
    run(agent, make_suite(), tmp_path)
    assert vars(agent) == {"width": 0.3}


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


def test_bad_input_is_named(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite()
    with pytest.raises(UnknownName, match="quick-v0"):
        hpbench.run(contestants.Keep(), "quick-v", output=tmp_path)
    with pytest.raises(InvalidConfiguration, match="no agent to run"):
        run([], suite, tmp_path)
    with pytest.raises(InvalidConfiguration, match="not an agent"):
        run(object(), suite, tmp_path)
    with pytest.raises(InvalidConfiguration, match="processes"):
        run(contestants.Keep(), suite, tmp_path, processes=0)
    with pytest.raises(UnknownName, match="device"):
        run(contestants.Keep(), suite, tmp_path, device="gpu")
    contestants.Keep.observation = "vectro"
    with pytest.raises(UnknownName, match="'vector'"):
        run(contestants.Keep(), suite, tmp_path)
    assert not (tmp_path / suite.name).exists()
