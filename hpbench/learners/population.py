"""A population: many learners of one kind as one batch of tensors with a leading member axis.

Everything a member is lives in ``Population.state``: parameters, optimiser moments, hyperparameters, random streams,
environment states with their partial episodes, normalisers, counters. So fork, copy, snapshot and restore are
indexing, and they are exact: a restored member continues bit for bit as the original would have.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import HyperparameterSpace
from hpbench.learners.digest import Digester
from hpbench.learners.snapshot import Evaluation, Floats, Snapshot, State
from hpbench.seeding import Stream, derive_seed, stream_keys
from hpbench.tasks import make as make_task
from hpbench.tasks.base import Task


class Population(ABC):
    """Base of all learners.

    Args:
        tasks: one task for all members, or one per member. All share one dynamics (variants may differ in physics).
        seeds: one root seed per member; their number is the number of members.
        config: frozen options of the learner.
        values: initial hyperparameters by name, one number or one per member; the others start at their defaults.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads that the native engine may use; members are spread over them, or the images that an encoder
            reads; simulators in this process have as many. Results do not depend on it.

    Raises:
        InvalidConfiguration: if tasks, seeds or values do not fit.
    """

    name: ClassVar[str]
    hyperparameters: ClassVar[HyperparameterSpace]
    config_type: ClassVar[type[Any]]

    state: State
    engine: str
    """What computes: ``native``, ``graph`` or ``torch``."""

    def __init__(
        self,
        tasks: Task | Sequence[Task],
        seeds: Sequence[int],
        config: Any,
        values: Mapping[str, float | ArrayLike] | None = None,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.tasks = [tasks] * len(seeds) if isinstance(tasks, Task) else list(tasks)
        if not seeds or len(self.tasks) != len(seeds):
            raise InvalidConfiguration(
                f"{len(self.tasks)} tasks for {len(seeds)} seeds; need one per member, at least one"
            )
        if threads < 1:
            raise InvalidConfiguration(f"threads must be at least 1, got {threads}")
        self.config = config
        self.device = torch.device(device)
        self._digester = Digester()
        self._arrays: dict[str, tuple[Tensor, NDArray[Any]]] = {}
        self.threads = threads
        self._check_tasks(self.tasks)
        members, columns = len(seeds), len(self.hyperparameters)
        self.state = {
            "hyperparameters": torch.empty(members, columns, dtype=torch.float64),
            "rng_keys": torch.from_numpy(stream_keys(seeds).copy()),
            "rng_calls": torch.zeros(members, stream_keys(seeds).shape[1], dtype=torch.int64),
            "steps": torch.zeros(members, dtype=torch.int64),
            "diverged": torch.zeros(members, dtype=torch.bool),
        }
        start: dict[str, float | ArrayLike] = dict(self.hyperparameters.defaults())
        for name, value in (values or {}).items():
            start[self.hyperparameters[name].name] = value
        for name, value in start.items():
            self.set_values(name, value)

    @property
    def members(self) -> int:
        """Number of members."""
        return len(self.tasks)

    @property
    def steps(self) -> NDArray[np.int64]:
        """Environment steps trained so far, int64 ``[members]``. Evaluation does not count."""
        return self.array("steps").copy()

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Members whose parameters or gradients became NaN or infinite, bool ``[members]``. They train no further."""
        return self.array("diverged").copy()

    @property
    @abstractmethod
    def steps_per_rollout(self) -> int:
        """Environment steps of one rollout of one member: the unit that segments are made of."""

    def array(self, name: str) -> NDArray[Any]:
        """A tensor of the state as an array ``[members, ...]``, to be read at once: on the CPU a view, else a copy."""
        tensor, known = self.state[name], self._arrays.get(name)
        if known is not None and known[0] is tensor:
            return known[1]
        array: NDArray[Any] = tensor.cpu().numpy()
        if self.device.type == "cpu":  # the same memory
            self._arrays[name] = tensor, array
        return array

    def values(self) -> dict[str, Floats]:
        """Effective hyperparameters, read back from the tensor they act from: float64 ``[members]`` by name."""
        table = self.table()
        return {name: table[:, column] for column, name in enumerate(self.hyperparameters)}

    def table(self) -> Floats:
        """:meth:`values` as one array, float64 ``[members, hyperparameters]``."""
        return self.array("hyperparameters").copy()

    def set_values(self, name: str, values: float | ArrayLike) -> None:
        """Set one hyperparameter, for all members or one value per member. It acts from the next update on.

        Raises:
            UnknownName: if the learner has no such hyperparameter.
            InvalidConfiguration: if a value is outside the bounds or NaN.
        """
        item, column = self.hyperparameters[name], self.hyperparameters.index(name)
        row = np.broadcast_to(np.asarray(values, dtype=np.float64), (self.members,))
        outside = row[~((row >= item.low) & (row <= item.high))]
        if len(outside):
            raise InvalidConfiguration(f"{name}={outside[0]:g} is outside [{item.low:g}, {item.high:g}]")
        exact = np.array([item.canonical(float(value)) for value in row])
        self.state["hyperparameters"][:, column] = torch.from_numpy(exact).to(self.device)

    def set_table(self, rows: Sequence[Sequence[float]]) -> None:
        """Set all hyperparameters of all members at once.

        Args:
            rows: ``[members][hyperparameters]``, canonical values.

        Raises:
            InvalidConfiguration: if a value is outside its bounds or NaN.
        """
        for row in rows:
            for value, (name, low, high) in zip(row, self.hyperparameters.bounds, strict=True):
                if not low <= value <= high:
                    raise InvalidConfiguration(f"{name}={value:g} is outside [{low}, {high}]")
        table = self.state["hyperparameters"]
        if self.device.type == "cpu":
            self.array("hyperparameters")[:] = rows
        else:
            table.copy_(torch.tensor(rows, dtype=table.dtype))

    def train(self, rollouts: int) -> dict[str, Floats]:
        """Train every member for a segment of that many rollouts.

        Returns:
            Metrics of the segment by name, float64 ``[members]``; NaN where a metric has no value. A diverged member
            is left as it is, and all its metrics are NaN.
        """
        if rollouts < 1:
            raise InvalidConfiguration(f"a segment needs at least one rollout, got {rollouts}")
        alive = np.flatnonzero(~self.diverged)
        if len(alive) == self.members:
            return self._train(rollouts)
        if len(alive) == 0:
            return {name: np.full(self.members, np.nan) for name in self.metric_names()}
        metrics = {}
        for name, values in self._train_some(alive, rollouts).items():
            metrics[name] = np.full(self.members, np.nan)
            metrics[name][alive] = values
        return metrics

    def evaluate(self, episodes: int) -> Evaluation:
        """Play complete episodes from fresh starts, on the evaluation stream. Training is not touched."""
        if episodes < 1:
            raise InvalidConfiguration(f"evaluation needs at least one episode, got {episodes}")
        alive = np.flatnonzero(~self.diverged)
        if len(alive) == self.members:
            return self._evaluate(episodes)
        returns = np.full((self.members, episodes), np.nan)
        lengths = np.zeros((self.members, episodes), dtype=np.int64)
        if len(alive):
            part = self._borrow(alive)
            result = part._evaluate(episodes)
            self._scatter(part, alive)
            returns[alive], lengths[alive] = result.returns, result.lengths
        return Evaluation(returns, lengths)

    def fork(self, indices: Sequence[int] | NDArray[np.int64]) -> Self:
        """A new, independent population whose member ``i`` is an exact copy of member ``indices[i]`` of this one.

        Copies share nothing but their past: they also continue the same random streams (common random numbers).
        """
        self.settle()
        other = self._borrow(indices)
        other._separate()
        return other

    def join(self, others: Sequence[Self]) -> Self:
        """A new, independent population: exact copies of all members of this one, then of the ``others`` in turn.

        The inverse of :meth:`fork`: members may have trained for different times.

        Raises:
            InvalidConfiguration: if the others have another learner, configuration, engine or device, or tasks that do
                not fit.
        """
        parts = [self, *others]
        for part in parts:
            part.settle()
        for part in others:
            same = (part.name, part.config, part.engine, part.device) == (
                self.name,
                self.config,
                self.engine,
                self.device,
            )
            if not same or part.state.keys() != self.state.keys():
                raise InvalidConfiguration("populations can only be joined if learner, config, engine and device agree")
        tasks = [task for part in parts for task in part.tasks]
        self._check_tasks(tasks)
        other = copy.copy(self)
        other.state = {name: torch.cat([part.state[name] for part in parts]) for name in self.state}
        other.tasks = tasks
        other._separate()
        other._forget()
        return other

    def copy(self, source: Sequence[int] | NDArray[np.int64], target: Sequence[int] | NDArray[np.int64]) -> None:
        """Overwrite the ``target`` members with what the ``source`` members have learned, as population-based
        training does.

        Everything is copied except the random streams: a copy explores on its own stream from here on.
        """
        sources, targets = self._index(source), self._index(target)
        if len(sources) != len(targets) or len(set(targets.tolist())) != len(targets):
            raise InvalidConfiguration("copy needs as many sources as targets, and distinct targets")
        self.settle()
        for name, tensor in self.state.items():
            if not name.startswith("rng_"):
                tensor[targets] = tensor[sources]
        moved = [self.tasks[i] for i in sources.tolist()]
        for i, task in zip(targets.tolist(), moved, strict=True):
            self.tasks[i] = task
        self._replaced(targets.tolist())

    # -- members whose environments run outside of the state, in simulators

    def settle(self) -> None:  # noqa: B027 (most learners have nothing to do here)
        """Bring the state up to date with what runs outside of it. To be called before tensors of the state are read
        that say how environments stand; all methods of a population do so."""

    def _replaced(self, members: Sequence[int]) -> None:  # noqa: B027 (most learners have nothing to do here)
        """The state of those members is another one than what runs outside."""

    def _separate(self) -> None:  # noqa: B027 (most learners have nothing to do here)
        """Share nothing that runs with the population that this one is a copy of."""

    def _choose_simulators(self, members: Sequence[int]) -> None:  # noqa: B027 (most learners have nothing to do here)
        """Of what runs outside, keep that of those members, in that order."""

    # -- random streams, snapshots, digests

    def rekey(self, stream: Stream, salt: int) -> None:
        """Move one random stream of every member to another key, made of the old one and ``salt``.

        Members that shared the stream (forks of one member) go on sharing it.
        """
        keys = self.state["rng_keys"]
        made: dict[int, int] = {}
        for key in keys[:, stream].tolist():
            if key not in made:
                made[key] = derive_seed(key % 2**64, salt)
        moved = [made[key] for key in keys[:, stream].tolist()]
        keys[:, stream] = torch.tensor(moved, dtype=keys.dtype, device=keys.device)

    def snapshot(self) -> Snapshot:
        """An exact copy of all members."""
        self.settle()
        state = {name: tensor.clone() for name, tensor in self.state.items()}
        return Snapshot(self.name, asdict(self.config), tuple(task.id for task in self.tasks), state)

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot of a population with the same learner, configuration and number of members.

        Raises:
            SnapshotError: if the snapshot does not fit.
        """
        snapshot.check(self.name, asdict(self.config), asdict(self.config_type()), self.state, self.members)
        self.state = {name: snapshot.state[name].to(self.device, copy=True) for name in self.state}
        known = {task.id: task for task in self.tasks}
        self.tasks = [known.get(name) or make_task(name) for name in snapshot.tasks]
        self._replaced(range(self.members))
        self._forget()

    def digests(self) -> list[str]:
        """One hash per member over its whole state: equal digests mean equal futures."""
        self.settle()
        return self._digester.digests(self.state, self.members)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along."""
        self.settle()
        return self._without_views()

    def _without_views(self) -> dict[str, Any]:
        """All attributes, without what is of this population's memory."""
        return {**self.__dict__, "_digester": Digester(), "_arrays": {}}

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Move members to other tasks of the same shape, in the middle of training. Running episodes go on.

        Raises:
            InvalidConfiguration: if a task does not fit the population.
        """
        if len(tasks) != self.members:
            raise InvalidConfiguration(f"{len(tasks)} tasks for {self.members} members")
        self._check_tasks([*self.tasks[:1], *tasks])
        self.tasks = list(tasks)
        self._tasks_changed()

    @classmethod
    def can_learn(cls, task: Task) -> bool:
        """Whether the learner can be trained on tasks with such observations and actions."""
        return True

    @classmethod
    @abstractmethod
    def metric_names(cls) -> tuple[str, ...]:
        """Keys of what :meth:`train` returns."""

    @abstractmethod
    def _train(self, rollouts: int) -> dict[str, Floats]: ...

    def _train_some(self, members: NDArray[np.int64], rollouts: int) -> dict[str, Floats]:
        """Train some members and leave the others as they are. Metrics of those members."""
        part = self._borrow(members)
        metrics = part._train(rollouts)
        self._scatter(part, members)
        return metrics

    @abstractmethod
    def _evaluate(self, episodes: int) -> Evaluation: ...

    @abstractmethod
    def _forget(self) -> None:
        """Drop caches that belong to another state."""

    @abstractmethod
    def _tasks_changed(self) -> None:
        """Bring the state in line with ``self.tasks``."""

    def _borrow(self, members: Sequence[int] | NDArray[np.int64]) -> Self:
        """These members as a population of their own, with their running simulators: for work that :meth:`_scatter`
        brings back."""
        index = self._index(members)
        other = object.__new__(type(self))
        other.__dict__.update(self._without_views())
        other.state = {name: tensor[index] for name, tensor in self.state.items()}
        other.tasks = [self.tasks[i] for i in index.tolist()]
        other._choose_simulators(index.tolist())
        other._forget()
        return other

    def _scatter(self, part: Self, members: NDArray[np.int64]) -> None:
        """Bring back what members have become that were borrowed."""
        index = self._index(members)
        for name, tensor in self.state.items():
            tensor[index] = part.state[name]

    def _index(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        index = torch.as_tensor(np.asarray(indices, dtype=np.int64), device=self.device)
        if len(index) == 0 or int(index.min()) < 0 or int(index.max()) >= self.members:
            raise InvalidConfiguration(f"member indices {list(indices)} outside 0..{self.members - 1}")
        return index

    @staticmethod
    def _check_tasks(tasks: Sequence[Task]) -> None:
        first = tasks[0]
        for task in tasks[1:]:
            kind, of_first = ((each.dynamics, each.simulator, each.max_episode_steps) for each in (task, first))
            if kind != of_first:
                raise InvalidConfiguration(
                    f"{task.id} and {first.id} cannot share a population: members need the same dynamics and time limit"
                )
