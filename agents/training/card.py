"""The dataset card: ``README.md`` beside the shards, which says what they hold and how they were made."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import hpbench
from agents.training.plan import VALIDATION_EVERY
from agents.training.schema import SPLITS, TABLES, parquet, shard_files
from agents.training.settings import CollectSettings
from hpbench import learners
from hpbench.evaluation.records import write_atomically
from hpbench.hyperparameter import MULTIPLIERS

CARD = "README.md"

TEXT = """
# Training runs under changing hyperparameters

Meta-episodes of HPBench: whole training runs of reinforcement learning, seen through the eyes of a meta-agent that may
change the hyperparameters at every decision. Made to train meta-agents, such as language models.

{progress}

| table | one row is |
| --- | --- |
| `episodes` | a meta-episode: one training run from start to end |
| `states` | a decision: what was observed, what was changed, what came of it |
| `branches` | a branch set: {updates} updates of a state, in {seeds} continuations ({validation_seeds} in validation) |

## How many

{counts}

## How it was made

    hpbench collect collect.json --output FOLDER

with the file `collect.json` beside this one makes the same files again, byte for byte on the same platform with the
same versions: {versions}.

- Tasks: {tasks}. Only training variants are used; validation and test variants of HPBench do not occur.
- Learners: {learners}. Tracks: {tracks}. Behaviours, by their shares: {behaviours}; where one cannot steer a learner or
  task (no published values, no measurement that its rule needs), the others take its place.
- Branch sets look {horizon} segments ahead. The updates of a set share all that is random in each continuation (common
  random numbers), so that gains over the first update, which keeps everything, are paired. Continuation 0 is the run's
  own future.

## Splits

By task and run, never by row: every {every}th training variant of each task (index {last} modulo {every}) is for
validation, in all collections alike. A run belongs to the split of its task, members that copy each other share their
task, and a task that shifts becomes a variant of its own split.

## Columns

`K` updates, `M` continuations, `H` segments: the horizon, or fewer at the end of a meta-episode. Multiplier indices
refer to {multipliers}. Not-a-number stands where there is no value.
{hyperparameters}
{columns}
## Licence

MIT, as HPBench. Everything is simulated; there is nothing personal in it.
"""


def write_card(folder: Path, settings: CollectSettings, complete: int) -> None:
    """Write the card of a collection with so many complete shards. Depends on nothing but settings, files, versions."""
    branching = settings.branches
    text = TEXT.format(
        progress=f"{complete} of {settings.shards} shards are there.",
        updates=branching.updates,
        seeds=branching.seeds,
        validation_seeds=branching.validation_seeds,
        horizon=branching.horizon,
        counts=_counts(folder),
        versions=_versions(),
        tasks=", ".join(settings.tasks),
        learners=", ".join(settings.learners),
        tracks=", ".join(f"{track} {times}" for track, times in settings.tracks.items()),
        behaviours=", ".join(f"{name} {share:g}" for name, share in settings.behaviours.items()),
        every=VALIDATION_EVERY,
        last=VALIDATION_EVERY - 1,
        multipliers=", ".join(f"x{factor:g}" for factor in MULTIPLIERS),
        hyperparameters="\n".join(map(_hyperparameters, settings.learners)),
        columns="".join(map(_columns, TABLES)),
    )
    write_atomically(folder / CARD, _front_matter(folder) + text)


def _front_matter(folder: Path) -> str:
    """What the Hugging Face hub and ``datasets.load_dataset(folder, table)`` read."""
    lines = ["---", "license: mit", "pretty_name: HPBench training runs", "tags:", "- reinforcement-learning"]
    lines += ["- hyperparameter-optimization", "configs:"]
    for table in sorted(TABLES, key=["states", "branches", "episodes"].index):
        lines += [f"- config_name: {table}", *(["  default: true"] if table == "states" else []), "  data_files:"]
        for split in SPLITS:
            if shard_files(folder, table, split):
                lines += [f"  - split: {split}", f"    path: {table}/{split}-*.parquet"]
    return "\n".join([*lines, "---", ""])


def _counts(folder: Path) -> str:
    lines = ["| table | " + " | ".join(SPLITS) + " |", "| --- |" + " ---: |" * len(SPLITS)]
    for table in TABLES:
        rows = [
            sum(parquet().read_metadata(path).num_rows for path in shard_files(folder, table, split))
            for split in SPLITS
        ]
        lines.append(f"| `{table}` | " + " | ".join(map(str, rows)) + " |")
    steps = [_steps(folder, split) for split in SPLITS]
    return "\n".join(
        [*lines, "| training steps, branches included | " + " | ".join(f"{each:,}" for each in steps) + " |"]
    )


def _steps(folder: Path, split: str) -> int:
    """Environment steps that learners trained: what the collection cost, apart from evaluation."""
    total = 0
    for path in shard_files(folder, "episodes", split):
        data = parquet().read_table(path, columns=["steps", "decisions", "scores"])
        runs = (data[name].to_pylist() for name in data.column_names)
        # A run that diverged ended early.
        total += sum(steps // decisions * (len(scores) - 1) for steps, decisions, scores in zip(*runs, strict=True))
    for path in shard_files(folder, "branches", split):
        total += sum(parquet().read_table(path, columns=["steps"])["steps"].to_pylist())
    return total


def _versions() -> str:
    names = {
        "hpbench": hpbench.__version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "PyTorch": str(torch.__version__),
        "pyarrow": version("pyarrow"),
    }
    return (
        ", ".join(f"{name} {number}" for name, number in names.items()) + f", {platform.system()} {platform.machine()}"
    )


def _hyperparameters(learner: str) -> str:
    space = learners.make(learner).hyperparameters
    return f"\nHyperparameters of {learner}, in order: {', '.join(space)}; hot ones: {', '.join(space.hot)}."


def _columns(table: str) -> str:
    lines = [f"\n### {table}\n", "| column | type | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{column.name}` | {column.type} | {column.meaning} |" for column in TABLES[table]]
    return "\n".join(lines) + "\n"
