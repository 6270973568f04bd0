"""``hpbench dataset report``: what a collection holds, and how noisy its labels are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.training.labels import LabelRule
from agents.training.noise import Noise, label_noise
from agents.training.schema import SPLITS, TABLES, parquet, read_rows, shard_files
from hpbench.cli.listing import console, table
from hpbench.errors import InvalidConfiguration, UnknownName

_ACCURACIES = ("agree", "ceiling", "right", "keep")

COLUMNS = ("task", "ahead", "sets", "edits", "best", "honest", "label", "honest", "possible", *_ACCURACIES)

EXPLANATION = """\
Gains are differences of normalised score to the no-op, means over the segments ahead.
edits     share of branch sets whose label changes something
best      largest gain of a set as measured, inflated by the winner's curse; honest: the gain that other
          continuations measure for the same update
label     shrunk gain of the label; honest: gain of labels from half of the continuations, on the other half
possible  gain of the truly best of the updates that were tried
agree     how often labels from two halves of the continuations are the same
ceiling   accuracy that a perfect model would reach against these labels
right     how often the label is the truly best update; keep: how often it keeps everything"""


def show_report(folder: Path, split: str, rules: Sequence[LabelRule]) -> None:
    """Print both tables.

    Args:
        folder: of the collection.
        split: whose labels.
        rules: how labels are made; one block of rows each.

    Raises:
        UnknownName: for another split.
        InvalidConfiguration: if there is nothing to report on.
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    out = console()
    out.print(table(f"Rows of {folder}", ("table", *SPLITS, "bytes per row"), _counts(folder)))
    states = read_rows(folder, "states", split, ("base", "behaviour", "track", "exact", "choices", "last"))
    out.print(table(f"States of {split}", ("what", "rows"), _states(states)))
    if not shard_files(folder, "branches", split):
        out.print("There are no branch sets, so there are no labels.")
        return
    branches = read_rows(folder, "branches", split)
    rows = [_line(name, rule.horizon, noise) for name, rule, noise in label_table(branches, rules)]
    out.print(table(f"Labels of {split}", COLUMNS, rows))
    out.print(EXPLANATION, markup=False, highlight=False)


def label_table(
    branches: Sequence[Mapping[str, Any]], rules: Sequence[LabelRule]
) -> list[tuple[tuple[str, str], LabelRule, Noise]]:
    """The noise of the labels under each rule: for each task and learner, then for all of them."""
    names = sorted({(str(row["base"]), str(row["learner"])) for row in branches})
    found = []
    for rule in rules:
        for name in names:
            rows = [row for row in branches if (row["base"], row["learner"]) == name]
            found.append((name, rule, label_noise(rows, rule)))
        if len(names) > 1:
            found.append((("all", ""), rule, label_noise(branches, rule)))
    return found


def _line(name: tuple[str, str], horizon: int, noise: Noise) -> tuple[object, ...]:
    gains = (noise.best_measured, noise.honest_measured, noise.best_shrunk, noise.honest, noise.possible)
    shares = (noise.agreement, noise.ceiling, noise.right, noise.keep_accuracy)
    numbers = [
        _number(noise.edited, 2),
        *(_number(gain, 3) for gain in gains),
        *(_number(share, 2) for share in shares),
    ]
    return (" ".join(filter(None, name)), horizon, noise.sets, *numbers)


def _number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _counts(folder: Path) -> list[tuple[object, ...]]:
    lines = []
    for name in TABLES:
        files = {split: shard_files(folder, name, split) for split in SPLITS}
        rows = {split: sum(parquet().read_metadata(path).num_rows for path in files[split]) for split in SPLITS}
        size = sum(path.stat().st_size for paths in files.values() for path in paths)
        total = sum(rows.values())
        lines.append((name, *rows.values(), f"{size / total:.0f}" if total else "-"))
    if not any(line[1] or line[2] for line in lines):
        raise InvalidConfiguration(f"there are no complete shards in {str(folder)!r}: run hpbench collect first")
    return lines


def _states(states: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    lines: list[tuple[object, ...]] = []
    for column in ("base", "track", "behaviour"):
        counts = Counter(str(row[column]) for row in states)
        lines += [(f"{column} {name}", count) for name, count in sorted(counts.items())]
    changed = [row for row in states if len(set(row["choices"])) > 1 or not row["exact"]]
    lines.append(("with an update", len(changed)))
    lines.append(("of these, exactly choices of multipliers", int(np.sum([row["exact"] for row in changed]))))
    return lines
