"""Exact copies of running meta-episodes, in memory and in files."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch

from hpbench.errors import SnapshotError
from hpbench.learners.snapshot import Snapshot

FORMAT = 1

_DAMAGE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, MemoryError),
    *(AttributeError, LookupError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError),
)
"""What NumPy, ``zipfile`` and ``json`` raise on damaged files."""


@dataclass(frozen=True)
class EpisodeSnapshot:
    """Everything that a batch of meta-episodes is. It can be restored any number of times.

    Args:
        options: :meth:`~hpbench.control.options.EnvOptions.to_dict` of the batch.
        seeds: one per member.
        histories: :meth:`~hpbench.control.history.History.to_dict` of each member.
        population: of the inner learners.
    """

    options: Mapping[str, Any]
    seeds: tuple[int, ...]
    histories: tuple[Mapping[str, Any], ...]
    population: Snapshot

    def save(self, path: str | PathLike[str]) -> None:
        """Write an ``.npz`` file of plain arrays and one JSON header; no pickled objects."""
        header = {
            "format": FORMAT,
            "options": dict(self.options),
            "seeds": self.seeds,
            "histories": self.histories,
            "learner": self.population.learner,
            "config": dict(self.population.config),
            "tasks": self.population.tasks,
        }
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.population.state.items()}
        with open(path, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> EpisodeSnapshot:
        """Read a file written by :meth:`save`. Safe on files of unknown origin: nothing in it is executed.

        Raises:
            FileNotFoundError: if there is no file.
            SnapshotError: if the file is damaged, not such a snapshot, or of another format.
        """
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(str(arrays.pop("header")))
            if header["format"] != FORMAT:
                raise SnapshotError(f"{path}: format {header['format']}, this version reads {FORMAT}")
            state = {name: torch.from_numpy(array) for name, array in arrays.items()}
            population = Snapshot(
                str(header["learner"]), dict(header["config"]), tuple(map(str, header["tasks"])), state
            )
            seeds, histories = tuple(map(int, header["seeds"])), tuple(map(dict, header["histories"]))
            return cls(dict(header["options"]), seeds, histories, population)
        except (FileNotFoundError, SnapshotError):
            raise
        except _DAMAGE as error:
            raise SnapshotError(f"{path} is not a readable snapshot: {error}") from error
