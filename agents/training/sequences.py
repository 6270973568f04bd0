"""Recorded meta-episodes as long rows of tokens: state, answer, next state, next answer, and so on.

The answers are the updates that the behaviours really made, as the nearest choices. A model that continues such rows
learns what each update does to a run, and how runs go, good and bad; which update to prefer is for later stages.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.language.rendering import Rendering
from agents.training.examples import run_rows
from hpbench.errors import InvalidConfiguration

Ids = NDArray[np.int32]


class Sequences:
    """Trajectories of a collection, from which rows of equal length are cut.

    A row begins with some state of some trajectory, drawn with equal chances, goes on as far as it has room, and is
    padded if the trajectory ends before. So the first state of each row stands where the only state of a prompt stands.

    Args:
        trajectories: of each, its decisions: prompt, completion and the end token, as token ids.
        length: of a row.
        padding: token that fills rows.
    """

    def __init__(self, trajectories: Sequence[Sequence[Sequence[int]]], length: int, padding: int) -> None:
        self.length, self._padding = length, padding
        self._rows: list[Ids] = []
        starts = []
        for i, decisions in enumerate(trajectories):
            ends = np.cumsum([len(ids) for ids in decisions])
            self._rows.append(np.concatenate([np.asarray(ids, dtype=np.int32) for ids in decisions]))
            starts += [(i, int(end) - len(ids)) for end, ids in zip(ends, decisions, strict=True)]
        self._starts = np.array(starts, dtype=np.int64)

    def __len__(self) -> int:
        """Number of states, each the beginning of a row."""
        return len(self._starts)

    @property
    def tokens(self) -> int:
        """In all trajectories."""
        return sum(map(len, self._rows))

    def draw(self, count: int, generator: np.random.Generator) -> Tensor:
        """Rows, int64 ``[count, length]``."""
        return self._cut(self._starts[generator.integers(len(self), size=count)])

    def spread(self, count: int) -> Tensor:
        """The same rows each time, evenly spread over all states: int64 ``[at most count, length]``."""
        count = min(count, len(self))
        return self._cut(self._starts[np.arange(count) * len(self) // count])

    def _cut(self, starts: NDArray[np.int64]) -> Tensor:
        rows = np.full((len(starts), self.length), self._padding, dtype=np.int64)
        for row, (i, start) in zip(rows, starts.tolist(), strict=True):
            piece = self._rows[i][start : start + self.length]
            row[: len(piece)] = piece
        return torch.from_numpy(rows)


def read_sequences(
    folder: Path, split: str, tokenizer: Any, length: int, rendering: Rendering, without: Collection[str] = ()
) -> Sequences:
    """The trajectories of one split. Where a run became a copy of another one, its trajectory begins anew.

    Args:
        folder: of the collection.
        split: ``train`` or ``validation``.
        tokenizer: what makes tokens; it has a padding token and an end token.
        length: tokens per row.
        rendering: what prompts show.
        without: tasks whose runs are left out.

    Raises:
        InvalidConfiguration: if the collection has no such split, or nothing is left of it.
    """
    runs = [run for run in run_rows(folder, split, rendering, without=without) if run["prompts"]]
    if not runs:
        raise InvalidConfiguration(f"without {sorted(without)} nothing is left of the split {split!r}")
    prompts = iter(tokenizer([text for run in runs for text in run["prompts"]])["input_ids"])
    answers = [text for run in runs for text in run["completions"]]
    completions = iter(tokenizer(answers, add_special_tokens=False)["input_ids"])
    trajectories: list[list[list[int]]] = []
    for run in runs:
        fresh = True
        for copied in run["copied"]:
            if fresh:
                trajectories.append([])
            trajectories[-1].append([*next(prompts), *next(completions), tokenizer.eos_token_id])
            fresh = copied
    return Sequences(trajectories, length, tokenizer.pad_token_id)
