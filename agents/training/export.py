"""Examples as files: one line of JSON each, for trainers that read nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from agents.training.examples import pool_rows, sft_rows
from agents.training.labels import LabelRule
from agents.training.rendering import Rendering
from agents.training.schema import SPLITS, shard_files
from hpbench.errors import UnknownName
from hpbench.evaluation.records import write_atomically

KINDS = {"sft": sft_rows, "pool": pool_rows}
"""What makes the rows of each kind."""


def write_examples(
    folder: Path, target: Path, kind: str, form: str, rule: LabelRule, rendering: Rendering
) -> dict[Path, int]:
    """Write ``KIND-SPLIT.jsonl`` for each split that has branch sets; existing files are replaced.

    Args:
        folder: of the collection.
        target: folder for the files.
        kind: one of :data:`KINDS`.
        form, rule, rendering: see :func:`~agents.training.examples.sft_rows`.

    Returns:
        Number of examples by file.

    Raises:
        UnknownName: for another kind or form.
        InvalidConfiguration: for a collection without branch sets or with single continuations.
    """
    if kind not in KINDS:
        raise UnknownName("kind of examples", kind, KINDS)
    splits = [split for split in SPLITS if shard_files(folder, "branches", split)] or ["train"]
    written = {}
    for split in splits:
        rows = KINDS[kind](folder, split, rule=rule, rendering=rendering, form=form)
        path = target / f"{kind}-{split}.jsonl"
        write_atomically(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        written[path] = len(rows)
    return written
