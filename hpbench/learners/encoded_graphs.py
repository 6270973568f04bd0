"""Optimiser steps of policies with an encoder as CUDA graphs: recorded once for each size of minibatch, then replayed.

A step is some hundred kernels, and with minibatches of a few thousand images launching them takes as long as running
them. The recorded work is the learner's own; it reads and writes memory that stays where it is, of which the state gets
copies when an update is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from hpbench.learners.encoders import EncodedActorCritic

if TYPE_CHECKING:
    from hpbench.learners.ppo import PPO

STATE = ("parameters", "adam_mean", "adam_square", "adam_steps", "hyperparameters")
"""What an optimiser step reads of the state, and changes but for the last."""
COMPILED = False
"""Whether the loss is compiled before it is recorded."""

_recorded: WeakKeyDictionary[PPO, Recorded] = WeakKeyDictionary()


def suits(population: PPO) -> bool:
    """Whether the population's optimiser steps can be recorded: on a GPU, with an encoder."""
    return population.device.type == "cuda" and isinstance(population.networks, EncodedActorCritic)


def minibatch(population: PPO, index: Tensor, totals: Tensor) -> None:
    """One optimiser step. Arguments as of the learner's own."""
    recorded = _recorded.get(population)
    if recorded is None or recorded.buffer is not population.buffer:
        recorded = _recorded[population] = Recorded(population, totals)
    recorded.minibatch(population, index, totals)


def release(population: PPO) -> None:
    """After an update: the state gets memory of its own."""
    recorded = _recorded.get(population)
    if recorded is not None:
        for name, tensor in recorded.static.items():
            if population.state[name] is tensor:
                population.state[name] = tensor.clone()


class Recorded:
    """The recorded steps of one population.

    Attributes:
        static: the part of the state that steps work on.
        buffer: the rollouts that they read; with another buffer they are worth nothing.
    """

    def __init__(
        self, population: PPO, totals: Tensor, record: Callable[[Callable[[], None]], Callable[[], None]] | None = None
    ) -> None:
        self._record = record_graph if record is None else record
        self.static = {name: population.state[name].clone() for name in STATE}
        self.buffer, self._totals = population.buffer, torch.zeros_like(totals)
        self._work: dict[int, tuple[Tensor, Callable[[], None]]] = {}

    def minibatch(self, population: PPO, index: Tensor, totals: Tensor) -> None:
        """One optimiser step, recorded when the first of its size comes."""
        for name, tensor in self.static.items():
            if population.state[name] is not tensor:
                tensor.copy_(population.state[name])
        if index.shape[1] not in self._work:
            self._work[index.shape[1]] = self._prepare(population, index)
        place, work = self._work[index.shape[1]]
        place.copy_(index)
        self._totals.zero_()
        work()
        totals += self._totals
        population.state |= {name: tensor for name, tensor in self.static.items() if name != "hyperparameters"}

    def _prepare(self, population: PPO, index: Tensor) -> tuple[Tensor, Callable[[], None]]:
        place = index.clone()
        kept = population.state, {name: tensor.clone() for name, tensor in self.static.items()}

        def work() -> None:
            population.state = {**kept[0], **self.static}
            population._minibatch(place, self._totals)
            for name, tensor in self.static.items():
                tensor.copy_(population.state[name])

        loss: Any = population._loss
        if COMPILED:
            population._loss = torch.compile(loss, dynamic=False)  # type: ignore[method-assign]
        try:
            recorded = self._record(work)
        finally:
            population.__dict__.pop("_loss", None)
            population.state = kept[0]
        for name, tensor in self.static.items():
            tensor.copy_(kept[1][name])
        return place, recorded


def record_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Record work as a CUDA graph, after some times that choose algorithms and allocate."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
