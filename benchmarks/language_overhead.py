"""How much time does the language model that comes with the package take beside the training that it controls?

    python benchmarks/language_overhead.py            # the suite classic-small-v0 on one thread: seven minutes
    python benchmarks/language_overhead.py --quick    # short runs, to see that it works

Plays the rows of the suite as ``hpbench run`` does, 20 members side by side. The model is loaded before the first row;
how long that takes is measured too, once. *Decisions* is all the time inside the agent, from texts to actions, and its
share is of the time inside the population's ``train``, and of that together with evaluations.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, Grid, write_results
from overhead import Stopwatch

import hpbench
from hpbench.evaluation.identity import identify
from hpbench.evaluation.row import Job, row_options, run_row
from hpbench.evaluation.suite import Row, load_suite

SUITE = "classic-small-v0"
AGENT = "hyperprompt"


@dataclass(frozen=True)
class Spent:
    """Seconds of a row, or of several."""

    decide: float
    train: float
    evaluate: float
    decisions: int

    def cells(self) -> list[str]:
        """For the table."""
        return [
            f"{1e3 * self.decide / self.decisions:.2f}",
            f"{1e3 * self.train / self.decisions:.1f}",
            f"{self.decide / self.train:.1%}",
            f"{self.decide / (self.train + self.evaluate):.1%}",
        ]


def play(row: Row, agent: Any) -> Spent:
    """A row from beginning to end."""
    job = Job(SUITE, "", row, identify(agent), row_options(row, agent, device="cpu"))
    with Stopwatch.on_populations() as watch:
        _, costs = run_row(job, agent, lambda done, score: None)
    return Spent(costs.agent_seconds, watch.seconds["train"], watch.seconds["evaluate"], costs.decisions)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short row: shows that it runs, measures nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for language_overhead.json and .md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(load_suite(SUITE).rows)
    if given.quick:
        one = Row("HPControl-Classic-v0", "classic/cartpole", "ppo", "default", "small", (100, 101))
        rows = [replace(one, decisions=2, steps=4096)]
    started = time.perf_counter()
    agent: Any = hpbench.make_agent(AGENT)
    agent.source.loaded()
    loading = time.perf_counter() - started
    spent = []
    for row in rows:
        spent.append(play(row, agent))
        print(row.task, row.track, *spent[-1].cells(), flush=True)
    sums = (sum(getattr(each, part) for each in spent) for part in ("decide", "train", "evaluate", "decisions"))
    whole = Spent(*sums)  # type: ignore[arg-type]
    table = [[row.task, row.track, *each.cells()] for row, each in zip(rows, spent, strict=True)]
    write_results(
        given.out,
        "language_overhead",
        "python benchmarks/language_overhead.py",
        {
            "loading_seconds": round(loading, 2),
            "whole": {"of_training": round(whole.decide / whole.train, 4)},
            "results": [
                {"task": row.task, "track": row.track, "members": len(row.seeds), **each.__dict__}
                for row, each in zip(rows, spent, strict=True)
            ],
        },
        [
            Grid(
                f"{AGENT} on {SUITE}, a decision of one member",
                ("task", "track", "decision, ms", "training, ms", "share of training", "and evaluation"),
                [*table, ["all rows", "", *whole.cells()]],
            )
        ],
        f"{len(rows[0].seeds)} members side by side, one thread for the model and the learners. The model was loaded "
        f"before, which took {loading:.1f} s, once per process.",
    )


if __name__ == "__main__":
    main()
