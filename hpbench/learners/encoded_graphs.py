"""What policies with an encoder do on a GPU as CUDA graphs: recorded once for each size of batch, then replayed.

Choosing actions is some fifty kernels and an optimiser step some hundred. With the usual sizes of batches, launching
them takes as long as running them. The recorded work is the learner's own; it reads and writes memory that stays where
it is, of which the state gets copies when an update is over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from hpbench.learners.encoders import EncodedActorCritic
from hpbench.learners.impala import Impala

if TYPE_CHECKING:
    from hpbench.learners.on_policy import OnPolicy
    from hpbench.learners.ppo import PPO

STATE = ("parameters", "adam_mean", "adam_square", "adam_steps", "hyperparameters")
"""What an optimiser step reads of the state, and changes but for the last."""

Seen = tuple[Tensor, Tensor, Tensor]
"""Actions ``[members, envs, width]``; their log-probabilities, and values of observations, each ``[members, envs]``."""

_recorded: WeakKeyDictionary[PPO, Recorded] = WeakKeyDictionary()
_looking: WeakKeyDictionary[OnPolicy, Looking] = WeakKeyDictionary()


def suits(population: OnPolicy) -> bool:
    """Whether the population's work can be recorded: on a GPU, with an encoder of images. (The one of glyphs takes
    constants to the GPU on the way, which a graph cannot hold.)"""
    networks = population.networks
    return population.device.type == "cuda" and isinstance(getattr(networks, "encoder", None), Impala)


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


def looking(population: OnPolicy) -> Callable[[Tensor, Tensor], Seen]:
    """How to choose actions with the present parameters, from observations ``[members, envs, observation_size]`` and
    uniforms ``[members, envs, action_draws]``. What it returns is overwritten when it is called with the same number
    again."""
    if not suits(population):
        return functools.partial(look, population.networks, population.state["parameters"])
    if population not in _looking:
        _looking[population] = Looking(population.state["parameters"])
    recorded = _looking[population]
    recorded.parameters.copy_(population.state["parameters"])
    return functools.partial(recorded.look, networks_of(population))


def look(networks: Any, parameters: Tensor, observation: Tensor, draws: Tensor) -> Seen:
    """Choose actions: what :func:`looking` records."""
    output, value, log_std = networks.outputs(parameters, observation)
    action, log_prob = networks.sample(output, log_std, draws)
    return action, log_prob, value


class Looking:
    """The recorded choice of actions of one population, with ``parameters`` of its own."""

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters.clone()
        self._work: dict[int, tuple[Tensor, Tensor, list[Tensor], Callable[[], None]]] = {}

    def look(self, networks: Any, observation: Tensor, draws: Tensor) -> Seen:
        """See :func:`looking`."""
        envs = observation.shape[1]
        if envs not in self._work:
            self._work[envs] = self._prepare(networks, observation, draws)
        seen, uniforms, results, work = self._work[envs]
        seen.copy_(observation)
        uniforms.copy_(draws)
        work()
        action, log_prob, value = results
        return action, log_prob, value

    def _prepare(
        self, networks: Any, observation: Tensor, draws: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor], Callable[[], None]]:
        seen, uniforms, results = observation.clone(), draws.clone(), list[Tensor]()

        def work() -> None:
            results[:] = look(networks, self.parameters, seen, uniforms)

        return seen, uniforms, results, record_graph(work)


class Compiled(EncodedActorCritic):
    """The same networks with their pass compiled: kernels that follow each other become one."""

    def outputs(self, parameters: Tensor, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the base class."""
        given: tuple[Tensor, Tensor, Tensor] = _compiled_outputs()(self, parameters, observation)
        return given


def networks_of(population: OnPolicy) -> EncodedActorCritic:
    """The population's networks as they are recorded: :class:`Compiled` ones, if its configuration says so."""
    networks = population.networks
    assert isinstance(networks, EncodedActorCritic)
    if not population.config.compile:
        return networks
    return Compiled(networks.actor, networks.critic, networks.log_std, networks.encoder)


@functools.cache
def _compiled_outputs() -> Callable[..., Any]:
    compiled_function: Callable[..., Any] = torch.compile(EncodedActorCritic.outputs, dynamic=False)
    return compiled_function


class Recorded:
    """The recorded steps of one population.

    Attributes:
        static: the part of the state that steps work on.
        buffer: the rollouts that they read; with another buffer they are worth nothing.
    """

    def __init__(self, population: PPO, totals: Tensor) -> None:
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

        networks = population.networks
        try:
            population.networks = networks_of(population)
            recorded = record_graph(work)
        finally:
            population.networks, population.state = networks, kept[0]
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
