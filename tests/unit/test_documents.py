"""What README and CONTRIBUTING say works."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import hpbench
from hpbench import learners, tasks
from hpbench.control.episode import EnvOptions, EpisodeBatch
from hpbench.evaluation.metrics import METRICS
from hpbench.evaluation.results import Results
from hpbench.evaluation.runner import run
from hpbench.evaluation.suite import parse_suite

ROOT = Path(__file__).resolve().parents[2]
SUITE = parse_suite(
    """
format = 1
name = "tiny-v0"
[[rows]]
env = "HPControl-Classic-v0"
tasks = ["classic/cartpole"]
tracks = ["default"]
learner = "ppo"
tier = "small"
seeds = "0-1"
decisions = 4
steps = 2048
evaluation_episodes = 1
""",
    "tiny",
)


def blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


@pytest.fixture
def pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """The files that CONTRIBUTING shows, imported under their own names."""
    monkeypatch.syspath_prepend(tmp_path)
    sources = {block.split("\n")[0].removeprefix("# "): block for block in blocks("CONTRIBUTING.md")}
    assert list(sources) == ["corridor.py", "climbing.py", "burst.py", "smoothness.py"]
    for name, source in sources.items():
        (tmp_path / name).write_text(source)
    names = [name.removesuffix(".py") for name in sources]
    monkeypatch.setitem(tasks.FAMILIES._rows(), "corridor", "corridor:TASKS")
    monkeypatch.setitem(learners.LEARNERS._rows(), "climbing", "climbing:Climbing")
    monkeypatch.setitem(METRICS._rows(), "largest_drop", "smoothness:largest_drop")
    return {name: importlib.import_module(name) for name in names}


def run_tiny(agents: Any, folder: Path) -> Results:
    return run(agents, SUITE, folder, processes=1, progress=False)


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def small(agents: Any, suite: str) -> Results:
        assert suite == "quick-v0"
        return run_tiny(agents, tmp_path)

    loop, own_agent, batches, game = blocks("README.md")
    exec(loop.replace('task="classic/cartpole"', 'task="classic/cartpole", steps=2048, decisions=4'), {})
    monkeypatch.setattr(hpbench, "run", small)
    namespace: dict[str, Any] = {}
    exec(own_agent, namespace)
    assert list(namespace["results"].agents) == ["HalveWhenStuck", "kl-adaptive", "library-default"]
    printed = capsys.readouterr().out
    assert "learning_rate" in printed
    assert "HalveWhenStuck" in printed
    namespace = {}
    exec(batches, namespace)
    assert namespace["observations"].shape == (16, 2 * len(namespace["env"].unwrapped.schema))
    assert namespace["tried"].scores.shape == (3, 2)
    exec(game, namespace)
    assert namespace["record"].steps == 4 * 10_240


def test_readme_names_the_test_command() -> None:
    assert "$ make test\n" in (ROOT / "README.md").read_text()
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_task_of_contributing_can_be_learned(pieces: dict[str, ModuleType]) -> None:
    population = learners.make("ppo")(tasks.make("corridor/short"), [0, 1], engine="torch")  # type: ignore[call-arg, arg-type]
    before = population.evaluate(5).returns.mean()
    population.train(6)
    assert population.evaluate(5).returns.mean() > before + 10
    assert tasks.make("corridor/short@train-3").physics["wind"] != 0.02


@pytest.mark.parametrize("task", ["classic/cartpole", "classic/pendulum", "corridor/short"])
def test_the_learner_of_contributing_keeps_the_contract(pieces: dict[str, ModuleType], task: str) -> None:
    climbing = pieces["climbing"].Climbing
    many, alone = climbing(tasks.make(task), range(5)), climbing(tasks.make(task), [3])
    for population in (many, alone):
        population.train(2)
    # Vectorised sin and cos may differ in the last bit with the place in a tensor, so: close, not equal.
    torch.testing.assert_close(many.state["weights"][3], alone.state["weights"][0], rtol=1e-4, atol=1e-4)
    assert many.evaluate(2).returns.shape == (5, 2)
    snapshot = many.snapshot()
    twins = many.fork([0, 0])
    twins.set_values("step_size", [0.3, 0.6])
    many.train(2)
    twins.train(2)
    assert twins.digests()[0] == many.digests()[0] != twins.digests()[1]
    digests = many.digests()
    many.restore(snapshot)
    many.train(2)
    assert many.digests() == digests


def test_the_learner_of_contributing_climbs_in_a_meta_episode(pieces: dict[str, ModuleType]) -> None:
    options = EnvOptions(
        task="classic/cartpole",
        learner="climbing",
        observation="dict",
        steps=10_240,
        decisions=4,
        evaluation_episodes=3,
    )
    batch = EpisodeBatch(options, [0, 1, 2])
    infos = batch.reset()[1]
    before = np.mean([info["hpbench"]["score"] for info in infos])
    for _ in range(4):
        step = batch.step([np.zeros(1, dtype=np.float32)] * 3)
    assert step.truncated.all()
    assert np.mean([info["hpbench"]["score"] for info in step.infos]) > before + 0.05
    assert step.infos[0]["hpbench"]["steps"] == 10_240


def test_agent_and_metric_of_contributing(pieces: dict[str, ModuleType], tmp_path: Path) -> None:
    results = run_tiny(["burst:Burst", "library-default"], tmp_path)
    assert list(results.agents) == ["burst", "library-default"]
    drops = results.values("burst", SUITE.rows[0], "largest_drop")
    assert drops.shape == (2,)
    assert (drops >= 0).all()
    assert "largest drop" in results.table("largest_drop").title
