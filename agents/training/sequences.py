"""Recorded meta-episodes as long rows of tokens: state, answer, next state, next answer, and so on.

The answers are the updates that the behaviours really made, as the nearest choices. A model that continues such rows
learns what each update does to a run, and how runs go, good and bad; which update to prefer is for later stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.language.prompt import completion, plain
from agents.training.examples import hot_names
from agents.training.rendering import Rendering
from agents.training.schema import read_rows

Ids = NDArray[np.int32]

_COLUMNS = ("episode", "decision", "learner", "text", "choices", "copied_from")


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


def read_sequences(folder: Path, split: str, tokenizer: Any, length: int, rendering: Rendering) -> Sequences:
    """The trajectories of one split. Where a member became a copy of another one, its trajectory begins anew.

    Args:
        folder: of the collection.
        split: ``train`` or ``validation``.
        tokenizer: what makes tokens; it has a padding token and an end token.
        length: tokens per row.
        rendering: what prompts show.

    Raises:
        InvalidConfiguration: if the collection has no such split.
    """
    states = read_rows(folder, "states", split, _COLUMNS)
    states.sort(key=lambda row: (row["episode"], row["decision"]))
    texts = [rendering(row["text"]) for row in states]
    answers = [
        completion(row["choices"], hot_names(text, row["learner"])) for row, text in zip(states, texts, strict=True)
    ]
    prompts = tokenizer([plain(text) for text in texts])["input_ids"]
    completions = tokenizer(answers, add_special_tokens=False)["input_ids"]
    trajectories: list[list[list[int]]] = []
    before: Mapping[str, Any] | None = None
    for row, prompt, answer in zip(states, prompts, completions, strict=True):
        if before is None or row["episode"] != before["episode"] or before["copied_from"]:
            trajectories.append([])
        trajectories[-1].append([*prompt, *answer, tokenizer.eos_token_id])
        before = row
    return Sequences(trajectories, length, tokenizer.pad_token_id)
