"""The protocol of meta-agents: what chooses the hyperparameter updates."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym

from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import HyperparameterSpace
from hpbench.registry import Registry
from hpbench.tasks.base import Task


@dataclass(frozen=True)
class AgentSpec:
    """What an agent is told before a meta-episode.

    Args:
        task: the task it starts on. Its ``hand_tuned`` values are public knowledge.
        learner: name of the inner learner.
        hyperparameters: all of the learner's hyperparameters; actions follow ``hyperparameters.hot``.
        observation_space, action_space: of one meta-episode.
        schema: how to read observations: ``schema.values(observation) -> {feature: raw value}``.
        decisions: decisions per meta-episode.
        steps: environment steps per meta-episode.
        track: ``default``, ``random`` or ``shift``.
    """

    task: Task
    learner: str
    hyperparameters: HyperparameterSpace
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    schema: Any
    decisions: int
    steps: int
    track: str


@dataclass(frozen=True)
class Step:
    """One finished decision, as handed to ``observe``."""

    observation: Any
    action: Any
    reward: float
    terminated: bool
    truncated: bool
    next_observation: Any
    info: dict[str, Any]


@runtime_checkable
class Agent(Protocol):
    """A meta-agent. Class attributes may choose the interface: ``observation`` (``vector``, ``text``, ``dict``; default
    ``vector``) and ``action`` (``delta``, ``absolute``, ``discrete``, ``text``; default ``delta``).

    An optional ``name`` is what tables show, and an optional ``observe(step: Step)`` is called after every decision.
    One instance controls one meta-episode at a time; the runner deep-copies it for every member of a batch, unless it
    is a :class:`BatchAgent`.
    """

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode. All of the agent's own randomness comes from ``seed``."""
        ...

    def act(self, observation: Any) -> Any:
        """An element of ``spec.action_space``."""
        ...


@runtime_checkable
class BatchAgent(Protocol):
    """An agent that controls all members of a batch at once (language models; populations)."""

    def reset_batch(self, specs: Sequence[AgentSpec], seeds: Sequence[int]) -> None:
        """Start of a batch of meta-episodes."""
        ...

    def act_batch(self, observations: Sequence[Any]) -> Sequence[Any]:
        """One action per member."""
        ...


@dataclass(frozen=True)
class PopulationSpec(AgentSpec):
    """What a population agent is told before a meta-episode; ``schema`` is a
    :class:`~hpbench.control.population_view.PopulationSchema`, spaces and steps are of one member.

    Args:
        members: names of all members; an action's ``copy_from`` is an index into them.
    """

    members: tuple[str, ...]


@runtime_checkable
class PopulationAgent(Protocol):
    """An agent that plays ``HPControl-Population-v0``: it steers all members of one population, and may copy them.

    Class attributes as those of :class:`Agent`, of which ``observation`` can only be ``vector``.
    """

    def reset_population(self, spec: PopulationSpec, seed: int) -> None:
        """Start of a meta-episode. All of the agent's own randomness comes from ``seed``."""
        ...

    def act_population(self, observations: Mapping[str, Any]) -> Mapping[str, Any]:
        """An action for every member that has an observation: those that are still running, by name."""
        ...


AGENTS = Registry("agent", {}, group="hpbench.agents")
"""Agents by name. ``hpbench`` never imports them itself: distributions offer theirs as entry points."""

POPULATION_AGENTS = Registry("population agent", {}, group="hpbench.population_agents")
"""Population agents by name; they play another game, so they have a table of their own."""


def make_agent(agent: Any, **arguments: Any) -> Agent | BatchAgent:
    """An agent from whatever names one.

    Args:
        agent: a registered name (``cosine-decay``), an import path (``my_package.my_module:MyAgent``), a class or
            factory, or a finished agent.
        **arguments: for the class or factory.

    Raises:
        UnknownName: if there is no agent of that name.
        InvalidConfiguration: if the import path leads nowhere, the arguments do not fit, or the result is not an agent.
    """
    found, label = _make(AGENTS, agent, arguments)
    if not isinstance(found, (Agent, BatchAgent)):
        hint = "; it plays the population game: use run_population" if isinstance(found, PopulationAgent) else ""
        raise InvalidConfiguration(f"{label} is not an agent: it needs reset(spec, seed) and act(observation){hint}")
    return found


def make_population_agent(agent: Any, **arguments: Any) -> PopulationAgent:
    """A population agent from whatever names one; see :func:`make_agent`.

    Raises:
        UnknownName: if there is no population agent of that name.
        InvalidConfiguration: if the import path leads nowhere, the arguments do not fit, or the result is not one.
    """
    found, label = _make(POPULATION_AGENTS, agent, arguments)
    if not isinstance(found, PopulationAgent):
        raise InvalidConfiguration(
            f"{label} is not a population agent: it needs reset_population(spec, seed) and act_population(observations)"
        )
    return found


def _make(registry: Registry, agent: Any, arguments: Mapping[str, Any]) -> tuple[Any, str]:
    """The agent, and what error messages call it."""
    found = registry.load(agent) if isinstance(agent, str) else agent
    label = repr(agent) if isinstance(agent, str) else getattr(found, "__name__", type(found).__name__)
    if inspect.isroutine(found) or isinstance(found, type):
        try:
            inspect.signature(found).bind(**arguments)
        except (TypeError, ValueError) as error:
            raise InvalidConfiguration(f"agent {label}: {error}") from error
        found = found(**arguments)
    elif arguments:
        raise InvalidConfiguration(f"agent {label} is already made: it takes no arguments, got {sorted(arguments)}")
    return found, label
