"""Searches for the opponents of HyperPrompt: what each of them is at its best.

    python reproduce/hyperprompt/tune.py kl --processes 16        target and factor of the KL-adaptive learning rate
    python reproduce/hyperprompt/tune.py static --processes 16    the best of 512 constant settings for each task
    python reproduce/hyperprompt/tune.py search --processes 16    random search of 1 to 32 runs on each test variant

Each writes ``kl.json``, ``static.json`` or ``search.json`` beside this file. What has been played is kept in the folder
``--work``: interrupted, the same command goes on from there. Searches for ``kl`` and ``static`` see training variants
only, and are over before anything is tested; ``search`` pays for its runs on the very variant that it is tested on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from opponents import HERE, Job, draw_settings, play

from hpbench.control.options import EnvOptions
from hpbench.control.tracks import starting_task
from hpbench.evaluation.progress import Reporter
from hpbench.evaluation.records import write_atomically
from hpbench.evaluation.workers import Event, Workers, pack

TASKS = (
    "classic/cartpole", "classic/acrobot", "classic/mountaincar", "classic/mountaincar-continuous", "classic/pendulum",
)  # fmt: skip
TRACKS = ("default", "random", "shift")
TARGETS, FACTORS = (0.003, 0.005, 0.01, 0.02, 0.03), (1.2, 1.5, 2.0, 3.0)
RUNS = (1, 4, 8, 32)
TEST_SEEDS = range(100, 120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kl", "static", "search"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("tuning"), help="where played meta-episodes are kept")
    given = parser.parse_args(arguments)
    searches = {"kl": search_kl, "static": search_static, "search": search_random}
    found = searches[given.what](Played(given.work / f"{given.what}.jsonl", given.processes))
    command = f"python reproduce/hyperprompt/tune.py {given.what}"
    path = HERE / f"{given.what}.json"
    write_atomically(path, json.dumps({"command": command} | found, indent=1) + "\n")
    print(f"Wrote {path}")


class Played:
    """Meta-scores of jobs, kept in a file of one line for each.

    Args:
        path: of the file.
        processes: that jobs are played in.
        progress: whether to show it.
    """

    def __init__(self, path: Path, processes: int, progress: bool = True) -> None:
        self.path, self._processes, self._progress = path, processes, progress
        path.parent.mkdir(parents=True, exist_ok=True)
        self.scores: dict[str, list[float]] = {}
        if path.exists():
            lines = path.read_text(encoding="utf-8").split("\n")
            for line in lines[:-1]:  # what a killed run left of its last line does not count
                self.scores |= json.loads(line)
            path.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")

    def __call__(self, jobs: Sequence[Job]) -> list[list[float]]:
        """The scores of all jobs; those that are not there yet are played."""
        todo = [job for job in jobs if job.key not in self.scores]
        done = len(jobs) - len(todo)
        with (
            Reporter(self._progress, len(jobs), done, [1.0] * len(todo), unit="jobs") as reporter,
            Workers(play, self._processes) as workers,
        ):

            def handle(event: Event) -> None:
                if event.kind == "finished":
                    self.scores[todo[event.job].key] = event.value
                    with self.path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({todo[event.job].key: event.value}) + "\n")
                    reporter.end(event.job, f"{todo[event.job].key}: mean {np.mean(event.value):.3f}")
                elif event.kind in ("failed", "crashed"):
                    raise RuntimeError(f"{todo[event.job].key}: {event.value}")

            workers.run([pack(job, "a job") for job in todo], handle)
        return [self.scores[job.key] for job in jobs]


def search_kl(
    played: Played, tasks: Sequence[str] = TASKS, seeds: int = 4, small: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Mean meta-score on training variants of every target and factor, all tasks and tracks counting the same."""
    settings = [(target, factor) for target in TARGETS for factor in FACTORS]
    budget = {} if small is None else dict(small)
    jobs = [
        Job(f"{task} {track} {seed}", f"{task}@train", track, [("kl", *each) for each in settings],
            [seed] * len(settings), budget)
        for task in tasks for track in TRACKS for seed in range(seeds)
    ]  # fmt: skip
    means = np.mean(played(jobs), axis=0)
    rows = [
        {"target": target, "factor": factor, "score": float(score)}
        for (target, factor), score in zip(settings, means, strict=True)
    ]
    return {"best": max(rows, key=lambda row: row["score"]), "settings": rows, "seeds": seeds, "tasks": list(tasks)}


def search_static(
    played: Played,
    tasks: Sequence[str] = TASKS,
    count: int = 512,
    kept: int = 32,
    seeds: int = 8,
    small: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """For each task: ``count`` settings on a training variant, then the best ``kept`` on ``seeds`` others."""
    settings = draw_settings(count, 0)
    budget = {} if small is None else dict(small)
    size = 32

    def jobs(task: str, seed: int, chosen: Sequence[int]) -> list[Job]:
        return [
            Job(f"{task} {seed} {part[0]}+{len(part)} of {len(chosen)}", f"{task}@train", "default",
                [("static", settings[i]) for i in part], [seed] * len(part), budget)
            for part in (chosen[i : i + size] for i in range(0, len(chosen), size))
        ]  # fmt: skip

    everything = list(range(count))
    screening = [job for task in tasks for job in jobs(task, 0, everything)]
    scores = np.concatenate(played(screening)).reshape(len(tasks), count)
    best = {task: np.argsort(-row, kind="stable")[:kept].tolist() for task, row in zip(tasks, scores, strict=True)}
    second = [job for task in tasks for seed in range(1, seeds + 1) for job in jobs(task, seed, best[task])]
    means = np.concatenate(played(second)).reshape(len(tasks), seeds, kept).mean(axis=1)
    found = {}
    for task, row in zip(tasks, means, strict=True):
        winner = int(row.argmax())
        found[task] = {
            "values": settings[best[task][winner]],
            "setting": best[task][winner],
            "score": float(row[winner]),
            "score_in_screening": float(scores[tasks.index(task)][best[task][winner]]),
        }
    return {"tasks": found, "settings": count, "kept": kept, "seeds": seeds}


def search_random(
    played: Played,
    tasks: Sequence[str] = TASKS,
    seeds: Sequence[int] = TEST_SEEDS,
    runs: Sequence[int] = RUNS,
    small: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """For each test meta-episode: the score of the best of the first n settings, tried with another learner seed."""
    budget = {} if small is None else dict(small)
    most = max(runs)
    places = [(task, seed, starting_task(EnvOptions(task=f"{task}@test"), seed).id) for task in tasks for seed in seeds]
    settings = {(task, seed): draw_settings(most, seed, 1) for task, seed, _ in places}
    tried = played(
        [
            Job(f"try {task} {seed}", variant, "default", [("static", each) for each in settings[task, seed]],
                [seed + 1000] * most, budget)
            for task, seed, variant in places
        ]
    )  # fmt: skip
    chosen = [[int(np.argmax(scores[:n])) for n in runs] for scores in tried]
    tested = played(
        [
            Job(f"test {task} {seed}", variant, "default", [("static", settings[task, seed][i]) for i in best],
                [seed] * len(runs), budget)
            for (task, seed, variant), best in zip(places, chosen, strict=True)
        ]
    )  # fmt: skip
    scores = {task: {str(n): [] for n in runs} for task in tasks}
    for (task, _, _), row in zip(places, tested, strict=True):
        for n, score in zip(runs, row, strict=True):
            scores[task][str(n)].append(score)
    return {"seeds": list(seeds), "scores": scores}


if __name__ == "__main__":
    main()
