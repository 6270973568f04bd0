"""How much time does the meta-layer take out of a decision?

    python benchmarks/overhead.py            # under a minute
    python benchmarks/overhead.py --quick    # tiny sizes, to see that it works

Everything between the agent's action and its next observation that is neither training nor evaluation: reading the
action, observation vector and text, reward, state digest, trace. Measured as the time inside ``env.step`` minus the
time inside the population's ``train`` and ``evaluate``, on CartPole with decisions of 5,000 environment steps (4
environments x 125 steps, 10 rollouts), one member, one thread, for each kind of observation; and once more for a
whole row as the runner runs it, where traces and records are added. The share is reported against the whole decision
and against its training alone.

Most of it is not arithmetic: right after the learner has swept the caches, code and data come from far away, and the
whole takes several times what its parts take in loops of their own. So the meta-layer handles the few numbers of a
member as plain Python numbers, and makes arrays only of what is asked for. Whoever changes it should compare both
versions inside such decisions, alternating them in one process.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from harness import RESULTS, Grid, write_results
from subjects import WORKLOAD

import hpbench  # registers the ids
from hpbench.learners.population import Population
from hpbench.learners.ppo import HYPERPARAMETERS

CONFIG = {"num_envs": 4, "num_steps": 125}
PARTS = ("train", "evaluate", "digests")


@dataclass
class Stopwatch:
    """Seconds inside the population's methods."""

    seconds: dict[str, float]

    @classmethod
    @contextmanager
    def on_populations(cls) -> Iterator[Stopwatch]:
        """Time every population's ``train``, ``evaluate`` and ``digests`` while the context lasts."""
        watch = cls(defaultdict(float))
        originals = {name: getattr(Population, name) for name in PARTS}
        for name, original in originals.items():
            setattr(Population, name, watch._timed(name, original))
        try:
            yield watch
        finally:
            for name, original in originals.items():
                setattr(Population, name, original)

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*arguments, **keywords)
            finally:
                self.seconds[name] += time.perf_counter() - begin

        return timed


def decision_seconds(
    observation: str, values: Mapping[str, float], decisions: int, steps: int
) -> list[dict[str, float]]:
    """Seconds of every decision of one meta-episode: ``total``, ``train``, ``evaluate``, ``digests``.

    Every decision changes all hyperparameters that are no whole numbers, by one percent up or down.
    """
    start = HYPERPARAMETERS.defaults() | dict(values)
    items = [HYPERPARAMETERS[name] for name in HYPERPARAMETERS.hot]
    env: Any = gym.make(
        "HPControl-Classic-v0",
        task="classic/cartpole",
        observation=observation,
        action="absolute",
        device="cpu",
        decisions=decisions,
        steps=decisions * steps,
        learner_config=CONFIG,
    )
    env.reset(seed=0)
    rows = []
    for decision in range(decisions):
        factor = 1.01 if decision % 2 else 0.99
        wish = (start[item.name] if item.integer else item.multiply(start[item.name], factor)[0] for item in items)
        action = np.array([item.to_action(item.canonical(value)) for item, value in zip(items, wish, strict=True)])
        with Stopwatch.on_populations() as watch:
            begin = time.perf_counter()
            env.step(action.astype(np.float32))
            total = time.perf_counter() - begin
        rows.append({"total": total, **{name: watch.seconds[name] for name in PARTS}})
    env.close()
    return rows


def row_seconds(decisions: int, steps: int, members: int) -> dict[str, float]:
    """Mean seconds of a decision of a row in the runner, agent, trace and record included."""
    from hpbench.control.episode import EnvOptions
    from hpbench.evaluation.identity import identify
    from hpbench.evaluation.row import Job, run_row
    from hpbench.evaluation.suite import Row

    agent = hpbench.make_agent("kl-adaptive")
    row = Row("HPControl-Classic-v0", "classic/cartpole", "ppo", "default", "small", tuple(range(members)))
    options = EnvOptions(
        task=row.task, device="cpu", decisions=decisions, steps=decisions * steps, learner_config=CONFIG
    )
    job = Job("overhead", "", row, identify(agent), options)
    with Stopwatch.on_populations() as watch:
        begin = time.perf_counter()
        run_row(job, agent, lambda done, score: None)
        total = time.perf_counter() - begin
    return {name: seconds / decisions for name, seconds in {"total": total, **watch.seconds}.items()}


def summary(label: str, rows: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over decisions, in milliseconds, and the share."""
    overheads = [row["total"] - row["train"] - row["evaluate"] for row in rows]
    train = statistics.median(row["train"] for row in rows)
    return {
        "label": label,
        "train_ms": round(1e3 * train, 3),
        "evaluate_ms": round(1e3 * statistics.median(row["evaluate"] for row in rows), 3),
        "overhead_ms": round(1e3 * statistics.median(overheads), 3),
        "digest_ms": round(1e3 * statistics.median(row["digests"] for row in rows), 3),
        "share_of_decision": round(
            statistics.median(o / row["total"] for o, row in zip(overheads, rows, strict=True)), 5
        ),
        "share_of_training": round(statistics.median(overheads) / train, 5),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--decisions", type=int, default=100, help="decisions per measurement (default 100)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for overhead.json and overhead.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    decisions, steps = (3, 500) if options.quick else (options.decisions, 5_000)
    decision_seconds("dict", WORKLOAD, 2, 500)  # imports and first calls
    results = [
        summary(
            f"env.step, {observation} observation, 4 x 4", decision_seconds(observation, WORKLOAD, decisions, steps)
        )
        for observation in ("vector", "text", "dict")
    ]
    results.append(summary("env.step, dict observation, defaults", decision_seconds("dict", {}, decisions, steps)))
    results.append(summary("runner, row of 10 members, defaults", [row_seconds(decisions, steps, 10)]))
    rows = [
        [
            result["label"],
            f"{result['train_ms']:.2f}",
            f"{result['evaluate_ms']:.2f}",
            f"{result['overhead_ms']:.3f}",
            f"{result['digest_ms']:.3f}",
            f"{100.0 * result['share_of_decision']:.2f} %",
            f"{100.0 * result['share_of_training']:.2f} %",
        ]
        for result in results
    ]
    columns = (
        "what",
        "training, ms",
        "evaluation, ms",
        "meta-layer, ms",
        "of which digest, ms",
        "share of decision",
        "share of training",
    )
    notes = (
        f"Medians over {decisions} decisions of {steps:,} environment steps, one thread. 4 x 4: 4 epochs of 4 "
        "minibatches; the library defaults take several times as many optimiser steps. The runner's row is the mean "
        "per decision of all its members together, with construction, agent, trace and record."
    )
    title = "Meta-layer overhead per decision"
    write_results(
        options.out,
        "overhead",
        "python benchmarks/overhead.py",
        {"results": results},
        [Grid(title, columns, rows)],
        notes,
    )


if __name__ == "__main__":
    main()
