"""What looking after the model is worth: feedback, roll-back and refinement, on the held-out variants.

    python reproduce/hyperprompt/live.py --processes 16 --output live.jsonl

The same model on the same variants, tracks and seeds as in ``held-out.toml``, one live run at a time. It is shown the
last updates here (``history=true``), since feedback speaks of them:

- ``plain``: nothing is undone and nothing is told. Its runs are those of the suite, bit for bit.
- ``feedback``: each next prompt says whether the last update did as expected.
- ``roll-back``: and what does harm is undone: back to before the update, then half of it, at most twice. What that
  throws away comes out of the budget.
- ``refinement``: told as in ``feedback``, and the model's weights are updated from the effects as the run goes on.

Every finished run is one line of the output file, written at once; the same command again plays what is missing. Needs
the extra ``language``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.language.deployment import Deployment, DeploymentOptions, live_environment
from agents.language.refinement import refiner_of
from hpbench.agent import make_agent
from hpbench.cli.population import parse_seeds
from hpbench.evaluation.results import Results
from hpbench.evaluation.statistics import Interval, compare, estimate, mean_of_rows
from hpbench.evaluation.suite import load_suite
from hpbench.evaluation.tables import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))
import lines

SUITE = Path(__file__).with_name("held-out.toml")
AGENT = "hf:hyperprompt-small"
ARMS: Mapping[str, tuple[DeploymentOptions, bool]] = {
    "plain": (DeploymentOptions(undo="never", feedback="none"), False),
    "feedback": (DeploymentOptions(undo="never", feedback="all"), False),
    "roll-back": (DeploymentOptions(undo="restore", feedback="all"), False),
    "refinement": (DeploymentOptions(undo="never", feedback="all"), True),
}
"""How a run is looked after, and whether the model learns as it goes."""
KEPT = (
    *("meta_score", "steps", "decisions", "updates", "harmful", "roll_backs", "feedback_lines"),
    *("edit_rate", "reversal_rate", "latency_p50", "latency_p95"),
)
"""What is kept of a run's report."""


@dataclass(frozen=True)
class Run:
    """One live run."""

    arm: str
    task: str
    track: str
    seed: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells runs apart."""
        return self.arm, self.task, self.track, self.seed


def key_of(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """The key of the run that a line is about."""
    return tuple(line[name] for name in ("arm", "task", "track", "seed"))


def plan(arms: Sequence[str], tracks: Sequence[str], on: Sequence[str], seeds: Iterable[int]) -> list[Run]:
    """All runs of these choices."""
    return [Run(*each) for each in itertools.product(arms, on, tracks, list(seeds))]


def play(run: Run, agent: str = AGENT, **options: Any) -> dict[str, Any]:
    """Play a run to its end: what is kept of it, as JSON values."""
    torch.set_num_threads(1)
    looked_after, refined = ARMS[run.arm]
    made = make_agent(agent)  # anew for each run: refinement changes its weights
    options = {"track": run.track, "tier": "small", "learner": "ppo", "split": "test", "device": "cpu"} | options
    live = Deployment(
        live_environment(made, run.task, **options), made, looked_after, refiner_of(made) if refined else None
    )
    last = [decided.attempts[-1] for decided in live.run(run.seed)][-1]
    report = live.report()
    return {**run.__dict__, **{name: report[name] for name in KEPT}, "digest": last.digest}


def table(played: Sequence[dict[str, Any]], results: Results | None = None) -> Table:
    """The arms next to each other; differences are paired by variant and seed.

    Args:
        played: finished runs; an arm counts once it has all rows and seeds of the suite.
        results: of a suite; None: the rows of ``held-out.toml``.
    """
    suite = load_suite(SUITE) if results is None else results.suite
    found = {key_of(line): line for line in played}
    keys = {arm: [[(arm, row.task, row.track, seed) for seed in row.seeds] for row in suite.rows] for arm in ARMS}
    whole = [arm for arm in ARMS if all(key in found for row in keys[arm] for key in row)]
    scores = {arm: [np.array([found[key]["meta_score"] for key in row]) for row in keys[arm]] for arm in whole}
    rows: list[tuple[str | Interval | None, ...]] = []
    for arm in whole:
        runs = [found[key] for row in keys[arm] for key in row]
        updates = sum(run["updates"] for run in runs)
        rows.append(
            (
                arm,
                estimate(scores[arm], mean_of_rows),
                compare(scores[arm], scores["plain"]).difference if arm != "plain" and "plain" in whole else None,
                f"{sum(run['harmful'] for run in runs) / max(updates, 1):.1%}",
                f"{sum(run['roll_backs'] for run in runs) / len(runs):.2f}",
                f"{1e3 * float(np.median([run['latency_p50'] for run in runs])):.0f}",
            )
        )
    columns = ("looked after by", "mean", "minus plain", "updates judged harmful", "roll-backs a run", "p50, ms")
    return Table("", columns, tuple(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    suite = load_suite(SUITE)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", action="append", choices=tuple(ARMS), help="repeat it (default: all)")
    parser.add_argument("--track", action="append", choices=suite.tracks, help="repeat it (default: all)")
    parser.add_argument("--task", action="append", choices=suite.tasks, help="repeat it (default: all)")
    parser.add_argument("--seeds", default="100-119", help="first-last, or one number (default: %(default)s)")
    parser.add_argument("--agent", default=AGENT, help="(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("live.jsonl"))
    given = parser.parse_args(arguments)
    seeds = parse_seeds(given.seeds)
    runs = plan(given.arm or tuple(ARMS), given.track or suite.tracks, given.task or suite.tasks, seeds)
    count = lines.run(runs, given.output, play, key_of, given.processes, agent=given.agent)
    print(f"{len(runs)} runs, {count} of them played now: {given.output}")


if __name__ == "__main__":
    main()
