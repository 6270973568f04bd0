"""What populations hand out: the results of evaluations, and exact copies of members."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpbench.errors import SnapshotError

State = dict[str, Tensor]
Floats = NDArray[np.float64]

SNAPSHOT_FORMAT = 1


@dataclass(frozen=True)
class Evaluation:
    """Complete episodes under the current policy, which the learner says (PPO: stochastic, DQN: greedy).

    Args:
        returns: undiscounted, unscaled returns, float64 ``[members, episodes]``; NaN for a diverged member.
        lengths: environment steps, those of all agents of a world together, int64 ``[members, episodes]``; 0 for a
            diverged member.
    """

    returns: Floats
    lengths: NDArray[np.int64]

    @classmethod
    def of_worlds(cls, returns: Floats, lengths: NDArray[np.int64], agents: int) -> Evaluation:
        """From the agents' numbers ``[members, episodes * agents]``: those of a world have the same return."""
        shape = (len(lengths), -1, agents)
        return cls(returns[:, ::agents].copy(), lengths.reshape(shape).sum(axis=2))

    @property
    def steps(self) -> NDArray[np.int64]:
        """Environment steps used, int64 ``[members]``."""
        steps: NDArray[np.int64] = self.lengths.sum(axis=1)
        return steps


@dataclass(frozen=True)
class Snapshot:
    """An exact copy of members, in memory. :meth:`save` writes plain arrays and JSON, never pickled objects."""

    learner: str
    config: Mapping[str, Any]
    tasks: tuple[str, ...]
    state: State

    @property
    def members(self) -> int:
        """How many members the snapshot holds."""
        return len(self.tasks)

    def check(
        self, learner: str, config: Mapping[str, Any], defaults: Mapping[str, Any], state: State, members: int
    ) -> None:
        """Refuse a population that cannot become what this is a copy of.

        Args:
            learner: the population's.
            config, defaults: its options, and those that it has by default.
            state, members: its own.

        Raises:
            SnapshotError: if not, with what differs.
        """
        # A file has lists where a configuration has tuples. Options that are younger than it are at their defaults.
        own, given = (json.loads(json.dumps(options)) for options in (config, {**defaults, **self.config}))
        if self.learner != learner or given != own:
            raise SnapshotError(f"snapshot of {self.learner} {dict(self.config)} does not fit {learner} {own}")
        if self.members != members:
            raise SnapshotError(f"snapshot of {self.members} members does not fit a population of {members}")
        if self.state.keys() != state.keys():
            raise SnapshotError(f"snapshot fields differ: {sorted(self.state.keys() ^ state.keys())}")
        for name, tensor in state.items():
            other = self.state[name]
            if other.shape != tensor.shape or other.dtype != tensor.dtype:
                raise SnapshotError(
                    f"{name}: {tuple(other.shape)} {other.dtype}, need {tuple(tensor.shape)} {tensor.dtype}"
                )

    def save(self, path: str | PathLike[str]) -> None:
        """Write to an ``.npz`` file."""
        header = {"format": SNAPSHOT_FORMAT, "learner": self.learner, "config": self.config, "tasks": self.tasks}
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.state.items()}
        with open(path, "wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **arrays)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Snapshot:
        """Read a file written by :meth:`save`. Safe on files of unknown origin: nothing in it is executed.

        Raises:
            SnapshotError: if the file is damaged, not a snapshot, or of another format.
        """
        try:
            with open(path, "rb") as file:
                archive = np.load(file, allow_pickle=False)
                arrays = {name: archive[name] for name in archive.files}
            header = json.loads(str(arrays.pop("header")))
            if header["format"] != SNAPSHOT_FORMAT:
                raise SnapshotError(
                    f"{str(path)!r}: snapshot format {header['format']}, this version reads {SNAPSHOT_FORMAT}"
                )
            state = {name: torch.from_numpy(array) for name, array in arrays.items()}
            return cls(str(header["learner"]), dict(header["config"]), tuple(map(str, header["tasks"])), state)
        except (FileNotFoundError, SnapshotError):
            raise
        except (OSError, EOFError, AttributeError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise SnapshotError(f"{str(path)!r} is not a readable snapshot: {error}") from error
