"""What is copying worth? PBT and PB2 against the same eight members that train on alone.

    python examples/population_study.py

Every pair is one held-out variant of a task with one seed: the same members, the same initial values (track ``random``)
and the same random streams for every agent, and equal training steps. Two scores per game, both final evaluation
scores: that of the member with the best training score at the end, and the mean of all members. Writes
``population_study.json`` and ``population_study.md`` to ``examples/results``. Needs the extras ``pettingzoo``, ``pb2``.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import hpbench
from hpbench.evaluation.statistics import compare

REFERENCE = "independent"
AGENTS = (REFERENCE, "pbt", "pb2")
STEPS = {"classic/cartpole": 20_480, "classic/acrobot": 20_480}
"""Training steps per member: about where a good setting has just learned the task, tried on ``@train`` variants."""
OPTIONS = {"track": "random", "decisions": 10, "evaluation_episodes": 5, "device": "cpu"}
MEMBERS = 8
FIRST_SEED = 100
SCORES = {"best_score": "best member", "mean_score": "mean of members"}


def play(task: str, seed: int, agent: str, steps: int, members: int) -> dict[str, Any]:
    """One game in numbers."""
    record = next(hpbench.run_population(agent, task, [seed], members, steps=steps, **OPTIONS))
    return {
        "task": task,
        "seed": seed,
        "agent": agent,
        **{name: getattr(record, name) for name in SCORES},
        "copies": record.copies,
        "steps": record.steps,
        "evaluation_steps": sum(member.evaluation_steps for member in record.members),
        "diverged": sum(member.diverged for member in record.members),
        "digests": [member.digest for member in record.members],
    }


def compare_agents(games: list[dict[str, Any]], steps: Mapping[str, int]) -> list[dict[str, Any]]:
    """Paired differences to the reference, per task and over both tasks (each with equal weight)."""
    rows = []
    for agent in AGENTS[1:]:
        for scope in [*steps, "all"]:
            tasks = [*steps] if scope == "all" else [scope]
            for score in SCORES:
                found, reference = (
                    [
                        np.array([g[score] for g in games if g["agent"] == name and g["task"].startswith(f"{task}@")])
                        for task in tasks
                    ]
                    for name in (agent, REFERENCE)
                )
                result = compare(found, reference)
                rows.append(
                    {
                        "agent": agent,
                        "task": scope,
                        "score": score,
                        "pairs": sum(map(len, found)),
                        "agent_score": float(np.mean([np.mean(sample) for sample in found])),
                        "reference_score": float(np.mean([np.mean(sample) for sample in reference])),
                        "difference": result.difference.estimate,
                        "interval_95": [result.difference.low, result.difference.high],
                        "wins": result.wins,
                        "ties": result.ties,
                        "losses": result.losses,
                        "wilcoxon_p": result.p_value,
                    }
                )
    return rows


def to_markdown(study: Mapping[str, Any]) -> str:
    """The study as a table."""
    settings = study["settings"]
    budgets = ", ".join(f"{task} {steps:,}" for task, steps in settings["steps_per_member"].items())
    lines = [
        "# What is copying worth?",
        "",
        f"`python examples/population_study.py --pairs {settings['pairs']}`",
        "",
        f"Populations of {settings['members']} (PPO) on the track `{settings['track']}`, {settings['decisions']} "
        f"decisions, held-out variants `@test-0` and on. Training steps per member: {budgets}; a population is charged "
        f"{settings['members']} times that.",
        "",
        "Paired by variant and seed with `independent`: the same members, never copied and never changed. *Best "
        "member*: final evaluation score of the member with the best final training score; *mean of members*: of all. "
        "Differences with 95 % bootstrap intervals, pairs resampled within each task; p: two-sided Wilcoxon test.",
        "",
        "| agent | task | score | pairs | agent | independent | difference | 95 % interval | win/tie/loss | p |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in study["comparisons"]:
        low, high = row["interval_95"]
        cells = [
            row["agent"],
            row["task"],
            SCORES[row["score"]],
            row["pairs"],
            f"{row['agent_score']:.3f}",
            f"{row['reference_score']:.3f}",
            f"{row['difference']:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
            f"{row['wins']}/{row['ties']}/{row['losses']}",
            f"{row['wilcoxon_p']:.2g}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def run_study(pairs: int, folder: Path, steps: Mapping[str, int] = STEPS, members: int = MEMBERS) -> dict[str, Any]:
    """Play all games. The files are written anew after every complete pair of each task, from the second one on."""
    games: list[dict[str, Any]] = []
    study: dict[str, Any] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for pair in range(pairs):
        for task in steps:
            for agent in AGENTS:
                games.append(play(f"{task}@test-{pair}", FIRST_SEED + pair, agent, steps[task], members))
                game = games[-1]
                print(
                    f"{game['task']} {agent}: best {game['best_score']:.3f}, mean {game['mean_score']:.3f}", flush=True
                )
        if pair == 0 and pairs > 1:
            continue  # one pair has no interval
        study = {
            "settings": {"pairs": pair + 1, "members": members, "steps_per_member": dict(steps), **OPTIONS},
            "versions": {"hpbench": hpbench.__version__, "python": platform.python_version()},
            "comparisons": compare_agents(games, steps),
            "games": games,
        }
        (folder / "population_study.json").write_text(json.dumps(study, indent=1) + "\n", encoding="utf-8")
        (folder / "population_study.md").write_text(to_markdown(study), encoding="utf-8")
    return study


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=16, help="variants per task (default: 16)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    arguments = parser.parse_args()
    print(to_markdown(run_study(arguments.pairs, arguments.output)))
