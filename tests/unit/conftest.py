"""Results that were never run, for tests of tables, plots and reports; and benchmarks as modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpbench import learners
from hpbench.evaluation import records
from hpbench.evaluation.identity import AgentIdentity
from hpbench.evaluation.records import Costs, Member, Platform, Record
from hpbench.evaluation.results import SUITE_FILE, Results, load_results, record_path
from hpbench.evaluation.suite import Row, Suite, parse_suite
from short_benchmarks import FOLDER

SUITE = """
format = 1
name = "made-up-v0"
title = "Made up <for> tests"

[[rows]]
env = "HPControl-Classic-v0"
tasks = ["classic/cartpole", "classic/acrobot"]
tracks = ["default"]
learner = "ppo"
tier = "small"
seeds = "100-105"
decisions = 4
"""

MakeResults = Callable[[Mapping[str, float]], Results]


def _member(seed: int, level: float, settings: float) -> Member:
    """Scores that rise to about ``level``, and a learning rate that falls by ``settings`` at every decision."""
    noise = np.random.default_rng(seed).normal(0.0, 0.02, 5)
    scores = tuple((np.linspace(0.0, level, 5) + noise).tolist())
    defaults = learners.make("ppo").hyperparameters.defaults()
    values = {name: (value,) * 4 for name, value in defaults.items()}
    values["learning_rate"] = tuple(defaults["learning_rate"] * settings ** (i + 1) for i in range(4))
    values["discount"] = (0.9, 0.99, 0.999, 0.99)
    return Member(
        seed=seed,
        agent_seed=seed,
        task="classic/cartpole",
        initial_values=defaults,
        actions=("x",) * 4,
        values=values,
        clipped=((),) * 4,
        invalid=(0,) * 4,
        rewards=(0.0,) * 4,
        shifted=(False,) * 5,
        scores=scores,
        returns=scores,
        steps=tuple(range(0, 5 * 12_800, 12_800)),
        evaluation_steps=(0,) * 5,
        digests=("",) * 5,
        diverged=False,
        meta_score=0.5 * scores[-1] + 0.5 * float(np.mean(scores[1:])),
    )


def _record(suite: Suite, row: Row, name: str, level: float) -> Record:
    return Record(
        format=records.FORMAT,
        hpbench="0.1.0",
        suite=suite.name,
        suite_hash=suite.hash,
        row=row,
        agent=AgentIdentity(name, f"package:{name}", {"level": level}, ""),
        options={},
        engine="native",
        device="cpu",
        platform=Platform("Linux", "x86_64", "3.11", "1.26", "2.13"),
        decisions=4,
        steps=51_200,
        members=tuple(_member(seed, level, 0.9 if level > 0.5 else 1.2) for seed in row.seeds),
    )


@pytest.fixture
def make_results(tmp_path: Path) -> MakeResults:
    """Writes the records of agents, given by name and level of their scores, and loads them.

    A name that ends in ``!`` (which is cut off) has finished half of the rows only.
    """

    def make(agents: Mapping[str, float]) -> Results:
        suite = parse_suite(SUITE, "made-up.toml")
        folder = tmp_path / suite.name
        records.write_atomically(folder / SUITE_FILE, suite.dumps())
        for name, level in agents.items():
            for row in suite.rows[:1] if name.endswith("!") else suite.rows:
                record = _record(suite, row, name.removesuffix("!"), level)
                records.write(record_path(folder, record), record)
                records.write_costs(record_path(folder, record), Costs(2.0, 0.1, 24, 307_200, 5_000))
        return load_results(folder)

    return make


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark as its own command would: with the folder on the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module
