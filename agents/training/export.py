"""Examples as files: one line of JSON each, for trainers that read nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from agents.language.rendering import Rendering
from agents.training.examples import pool_rows, run_rows, sft_rows
from agents.training.labels import LabelRule
from agents.training.schema import SPLITS, shard_files
from hpbench.errors import UnknownName
from hpbench.evaluation.records import write_atomically

KINDS = ("sft", "pool", "runs")
"""Supervised examples, pools of branches, whole meta-episodes."""


def write_examples(
    folder: Path,
    target: Path,
    kind: str,
    form: str,
    rule: LabelRule,
    rendering: Rendering,
    without: Collection[str] = (),
) -> dict[Path, int]:
    """Write ``KIND-SPLIT.jsonl`` for each split that there is; existing files are replaced.

    Args:
        folder: of the collection.
        target: folder for the files.
        kind: one of :data:`KINDS`.
        form, rule, rendering, without: see :func:`~agents.training.examples.sft_rows`.

    Returns:
        Number of examples by file.

    Raises:
        UnknownName: for another kind or form.
        InvalidConfiguration: for a collection without what is needed: branch sets with several continuations, unless
            whole meta-episodes are asked for.
    """
    if kind not in KINDS:
        raise UnknownName("kind of examples", kind, KINDS)
    table = "episodes" if kind == "runs" else "branches"
    splits = [split for split in SPLITS if shard_files(folder, table, split)] or ["train"]
    written = {}
    for split in splits:
        if kind == "runs":
            rows = run_rows(folder, split, rendering, form, without)
        else:
            make = sft_rows if kind == "sft" else pool_rows
            rows = make(folder, split, rule, rendering, form, without)
        path = target / f"{kind}-{split}.jsonl"
        write_atomically(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        written[path] = len(rows)
    return written
