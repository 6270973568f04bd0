"""The protocol of meta-agents: what chooses the hyperparameter updates."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from hpbench.errors import InvalidConfiguration, UnknownName
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


@dataclass(frozen=True)
class Branches:
    """What ``K`` actions, tried from one state of one meta-episode, came to within ``H`` segments.

    ``H`` is the horizon, or the number of decisions left if that is less (0 if the meta-episode is over).

    Args:
        scores: normalised evaluation scores after each segment, float64 ``[K, H]``; the floor from a divergence on.
        errors: their standard errors over the evaluation episodes, float64 ``[K, H]``; NaN for single episodes, 0 from
            a divergence on.
        returns: mean unscaled evaluation returns, float64 ``[K, H]``.
        metrics: what observations show of the training in each segment, by feature name, float64 ``[K, H]``; NaN where
            there is no value.
        values: hyperparameters in force after the action, float64 ``[K, hyperparameters]``.
        invalid: text actions that were invalid and so changed nothing, bool ``[K]``.
        diverged: bool ``[K]``.
        steps, evaluation_steps: environment steps that all of it took: what the look-ahead costs.
    """

    scores: NDArray[np.float64]
    errors: NDArray[np.float64]
    returns: NDArray[np.float64]
    metrics: dict[str, NDArray[np.float64]]
    values: NDArray[np.float64]
    invalid: NDArray[np.bool_]
    diverged: NDArray[np.bool_]
    steps: int
    evaluation_steps: int


class Branch(Protocol):
    """How an agent that ``needs`` it tries actions on copies of its meta-episode."""

    def __call__(
        self,
        actions: Sequence[Any],
        horizon: int = 1,
        *,
        evaluation_seed: int | None = None,
        evaluation_episodes: int | None = None,
    ) -> Branches:
        """Arguments as in :func:`hpbench.control.branching.branch`, for one member."""
        ...


@runtime_checkable
class Agent(Protocol):
    """A meta-agent. Class attributes may choose the interface: ``observation`` (``vector``, ``text``, ``dict``; default
    ``vector``) and ``action`` (``delta``, ``absolute``, ``discrete``, ``text``; default ``delta``).

    An agent that may try actions on copies of the run declares ``needs = "branch"`` and has ``bind(branch: Branch)``,
    which is called before every ``reset``. It is *privileged*: its extra environment steps are recorded, it takes part
    only where it is let in by name (``hpbench.run(..., privileged=True)``), and it is never ranked.

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
    """An agent that controls all members of a batch at once (language models; populations).

    An optional ``observe_batch(steps: Sequence[Step])`` is called after every decision, and an optional
    ``costs() -> Mapping[str, float]`` after the last one: what the batch came to besides time (tokens, calls, prices),
    which is kept beside the record.
    """

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


NEEDS = ("", "branch")
"""What an agent may declare in ``needs``."""

AGENTS = Registry("agent", {}, group="hpbench.agents")
"""Agents by name. ``hpbench`` never imports them itself: distributions offer theirs as entry points."""

AGENT_SCHEMES = Registry("agent scheme", {}, group="hpbench.agent_schemes")
"""What makes agents out of an address: ``scheme:address`` calls the function behind ``scheme`` with ``address``."""

POPULATION_AGENTS = Registry("population agent", {}, group="hpbench.population_agents")
"""Population agents by name; they play another game, so they have a table of their own."""


def make_agent(agent: Any, **arguments: Any) -> Agent | BatchAgent:
    """An agent from whatever names one.

    Args:
        agent: a registered name (``cosine-decay``), an address under a registered scheme (``hf:folder_of_a_model``), an
            import path (``my_package.my_module:MyAgent``), a class or factory, or a finished agent.
        **arguments: for the scheme, class or factory.

    Raises:
        UnknownName: if there is no agent of that name.
        InvalidConfiguration: if the address or the import path leads nowhere, the arguments do not fit, or the result
            is not an agent.
        MissingExtra: if the agent needs something that is not installed.
    """
    if isinstance(agent, str) and agent not in AGENTS:
        scheme, colon, address = agent.partition(":")
        if colon and scheme in AGENT_SCHEMES:
            agent, arguments = AGENT_SCHEMES.load(scheme)(address, **arguments), {}
    found, label = _make(AGENTS, agent, arguments)
    if not isinstance(found, (Agent, BatchAgent)):
        hint = "; it plays the population game: use run_population" if isinstance(found, PopulationAgent) else ""
        raise InvalidConfiguration(f"{label} is not an agent: it needs reset(spec, seed) and act(observation){hint}")
    if needs_of(found) and (isinstance(found, BatchAgent) or not callable(getattr(found, "bind", None))):
        raise InvalidConfiguration(
            f"agent {label} needs {needs_of(found)!r}: then it must have bind(branch), act and reset"
        )
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


def needs_of(agent: object) -> str:
    """What an agent (object or class) is given beyond spec and observations: ``branch``, or nothing: an empty string.

    Raises:
        UnknownName: if it needs something else.
    """
    needs = getattr(agent, "needs", "")
    if needs not in NEEDS:
        raise UnknownName("need of an agent", needs, NEEDS)
    return str(needs)
