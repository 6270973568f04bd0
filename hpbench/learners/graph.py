"""CUDA graphs: the training of a whole population as a few launches of compiled kernels.

A rollout and an epoch of minibatches are thousands of small kernels, and launching them one by one costs far more than
running them. So the pure parts of the learner are compiled (kernels that follow each other become one), and its work is
recorded once, as a few CUDA graphs, and then replayed: a rollout and a minibatch of PPO, a step of all environments and
a gradient step of DQN and SAC.

Graphs are bound to the memory they were recorded on. They work on a population kept here, with room for a power of two
of members: a segment copies the state in, replays, and copies it out. So forks, restored snapshots and new
meta-episodes record nothing new, unless they are of a size not met before. Neither do changed hyperparameters: they are
tensors, and who acts on them when is a mask. The exceptions are those that say how many samples an optimiser step is
made of, which shape the work: PPO's number of minibatches, the batch size of DQN and SAC. There is a graph for each
power of two, recorded when first met, and batches are padded to the next one.
"""

from __future__ import annotations

import functools
import importlib.util
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hpbench.learners.tensor import TensorPopulation

KEPT = 8
"""Shapes of populations whose graphs are kept; the least recently used make room."""

_kept: OrderedDict[Hashable, Graphs] = OrderedDict()


@functools.cache
def obstacle(device: torch.device) -> str | None:
    """Why graphs cannot be used there; None if they can."""
    if device.type != "cuda":
        return f"CUDA graphs need a CUDA device, not {device}"
    if importlib.util.find_spec("triton") is None:
        return "compiling for the GPU needs the package triton, which comes with the CUDA builds of torch"
    return None


def train(population: TensorPopulation, rollouts: int) -> Tensor:
    """Train every member for that many rollouts.

    Returns:
        Totals of the segment, float64 ``[members, len(population.totals)]``.
    """
    task = population.tasks[0]
    key = (
        type(population), room(population.members), population.config, population.device, task.dynamics,
        task.max_episode_steps, task.success_return, task.action_low, task.action_high,
    )  # fmt: skip
    if key not in _kept:
        _kept[key] = Graphs(population)
        if len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key].train(population, rollouts)


def room(members: int) -> int:
    """The next power of two."""
    return 1 << (members - 1).bit_length()


class Graphs:
    """The recorded work of one shape of population.

    Args:
        population: gives the shapes.
        record: turns work into something that repeats it when called; CUDA graphs unless a test says otherwise.
    """

    def __init__(
        self,
        population: TensorPopulation,
        record: Callable[[Graphs, Callable[[], None]], Callable[[], None]] | None = None,
    ):
        self._record = record_graph if record is None else record
        size = room(population.members)
        self.worker = population.fork([i % population.members for i in range(size)])
        self.worker.engine = "torch"
        self.worker._forget()
        self.worker._allocate()
        self.static = dict(self.worker.state)
        self.totals = torch.zeros(size, len(population.totals), dtype=torch.float64, device=population.device)
        self._work: dict[Hashable, Callable[[], None]] = {}
        self.pool: Any = None

    def compile(self) -> None:
        """Compile the worker's methods; they are built when they are first called."""
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        for name in self.worker.compiled:
            setattr(self.worker, name, torch.compile(getattr(self.worker, name), dynamic=False))

    def train(self, population: TensorPopulation, rollouts: int) -> Tensor:
        """See :func:`train`."""
        worker, state, members = self.worker, self.static, population.members
        for name, tensor in population.state.items():
            state[name][:members].copy_(tensor)
        self.totals.zero_()
        worker._run_on_graphs(self, rollouts, members)
        worker._measure(self.totals)
        worker._keep_snippet()
        for name, tensor in population.state.items():
            tensor.copy_(state[name][:members])
        return self.totals[:members].clone()

    def do(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do some work on the worker: recorded when its key is new, replayed from then on."""
        if key not in self._work:
            self._work[key] = self._record(self, work)
        self._work[key]()

    def perform(self, work: Callable[[], None]) -> None:
        """Work on the static memory: what becomes a new tensor on the way is moved back to where it belongs."""
        self.worker.state = dict(self.static)
        work()
        for name, tensor in self.static.items():
            if self.worker.state[name] is not tensor:
                tensor.copy_(self.worker.state[name])
        self.worker.state = dict(self.static)


def record_graph(graphs: Graphs, work: Callable[[], None]) -> Callable[[], None]:
    """Record work on a population as a CUDA graph."""
    worker = graphs.worker
    if graphs.pool is None:
        graphs.compile()
        graphs.pool = torch.cuda.graph_pool_handle()
    kept = [(tensor, tensor.clone()) for tensor in (*graphs.static.values(), *worker.buffer.values(), graphs.totals)]
    stream = torch.cuda.Stream(worker.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(worker.device))
    with torch.cuda.stream(stream):
        # Compiles, chooses algorithms and allocates; what it changes is put back.
        for _ in range(2):
            graphs.perform(work)
    torch.cuda.current_stream(worker.device).wait_stream(stream)
    for tensor, value in kept:
        tensor.copy_(value)
    del kept
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded, pool=graphs.pool):
        graphs.perform(work)
    return recorded.replay
