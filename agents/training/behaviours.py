"""Who steers the meta-episodes of a shard: agents of any kind, schedules, lineages whose members copy each other."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.fixed import LibraryDefault
from agents.training.schedule import RandomSchedule
from agents.training.settings import AGENT_PREFIX
from agents.training.tagged import Tagged, TaggedReader, discrete, keep
from hpbench.agent import Agent, AgentSpec, BatchAgent, Step, make_agent
from hpbench.control.episode import BatchStep, EpisodeBatch
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import KEEP
from hpbench.seeding import derive_seed

BEHAVIOUR_STREAM = int.from_bytes(b"behaviour", "big")
"""The seed of a behaviour is derived from its member's seed and this number: none of the member's own streams."""

Observations = Sequence[Mapping[str, Any]]


class Behaviour(ABC):
    """Steers some members of a batch.

    Args:
        members: which ones.
    """

    def __init__(self, members: Sequence[int]) -> None:
        self.members = list(members)

    @abstractmethod
    def start(self, batch: EpisodeBatch) -> None:
        """Before the first decision."""

    @abstractmethod
    def act(self, batch: EpisodeBatch, observations: Observations) -> tuple[dict[int, Tagged], dict[int, int]]:
        """Actions by member, for those that are still running, and copies by target."""

    def observe(self, observations: Observations, actions: Mapping[int, Tagged], result: BatchStep) -> None:
        """After every decision. Most need not know."""
        return None


class Steered(Behaviour):
    """Every member has a copy of an agent, or all have one batch agent.

    Args:
        agent: a pristine instance.
        members: which members.
    """

    def __init__(self, agent: Agent | BatchAgent, members: Sequence[int]) -> None:
        super().__init__(members)
        self._kind: str = getattr(agent, "action", "delta")
        self._form: str = getattr(agent, "observation", "vector")
        self._batch = agent if isinstance(agent, BatchAgent) else None
        self._copies = [] if isinstance(agent, BatchAgent) else [copy.deepcopy(agent) for _ in self.members]

    def start(self, batch: EpisodeBatch) -> None:
        """Tell the agents about their meta-episodes."""
        specs = [interface(batch.specs[m], batch, self._form, self._kind) for m in self.members]
        seeds = [derive_seed(batch.seeds[m], BEHAVIOUR_STREAM) for m in self.members]
        if self._batch is not None:
            self._batch.reset_batch(specs, seeds)
        for agent, spec, seed in zip(self._copies, specs, seeds, strict=False):
            agent.reset(spec, seed)
        self._last: list[Any] = [None] * len(self.members)

    def act(self, batch: EpisodeBatch, observations: Observations) -> tuple[dict[int, Tagged], dict[int, int]]:
        """What the agents choose; nobody copies."""
        views = [self._view(observations[m]) for m in self.members]
        if self._batch is not None:
            self._last = list(self._batch.act_batch(views))
        else:
            for i, (m, agent) in enumerate(zip(self.members, self._copies, strict=True)):
                if not batch.ended(m):
                    self._last[i] = agent.act(views[i])
        chosen = zip(self.members, self._last, strict=True)
        return {m: Tagged(self._kind, action) for m, action in chosen if not batch.ended(m)}, {}

    def observe(self, observations: Observations, actions: Mapping[int, Tagged], result: BatchStep) -> None:
        """Hand the decision to agents that want to see it."""
        watchers = [getattr(agent, "observe", None) for agent in self._copies]
        watch_all = getattr(self._batch, "observe_batch", None)
        if watch_all is None and not any(watchers):
            return
        steps = [
            Step(
                observation=self._view(observations[m]),
                action=self._last[i],
                reward=float(result.rewards[m]),
                terminated=bool(result.terminated[m]),
                truncated=bool(result.truncated[m]),
                next_observation=self._view(result.observations[m]),
                info=result.infos[m],
            )
            for i, m in enumerate(self.members)
        ]
        if watch_all is not None:
            watch_all(steps)
        for m, watch, step in zip(self.members, watchers, steps, strict=False):
            if watch is not None and m in actions:
                watch(step)

    def _view(self, observation: Mapping[str, Any]) -> Any:
        return observation if self._form == "dict" else observation[self._form]


class Lineage(Behaviour):
    """Truncation selection (Jaderberg et al., "Population based training of neural networks", 2017) in the words of the
    ``discrete`` action: after every second decision, each member of the worst quarter copies a random one of the best
    quarter if that scores higher, and multiplies about half of the copied hyperparameters by 0.8 or 1.25.

    Members must share their task.
    """

    def start(self, batch: EpisodeBatch) -> None:
        """Draws come from the seed of the first member."""
        self._generator = np.random.default_rng(derive_seed(batch.seeds[self.members[0]], BEHAVIOUR_STREAM))
        self._decision = 0

    def act(self, batch: EpisodeBatch, observations: Observations) -> tuple[dict[int, Tagged], dict[int, int]]:
        """Keep, or copy and explore."""
        running = [m for m in self.members if not batch.ended(m)]
        actions = {m: discrete(keep(batch.setting.hyperparameters)) for m in running}
        copies: dict[int, int] = {}
        if self._decision and self._decision % 2 == 0:
            copies = self._exploit(batch, running)
            for m in copies:
                actions[m] = discrete(self._explore(len(actions[m].action)))
        self._decision += 1
        return actions, copies

    def _exploit(self, batch: EpisodeBatch, running: Sequence[int]) -> dict[int, int]:
        scores = np.array(batch.training_scores())
        order = sorted((m for m in running if np.isfinite(scores[m])), key=lambda m: (scores[m], m))
        count = max(1, len(order) // 4)
        if len(order) < 2 * count:
            return {}
        sources = self._generator.integers(count, size=count)
        pairs = {target: order[-1 - int(source)] for target, source in zip(order[:count], sources, strict=True)}
        return {target: source for target, source in pairs.items() if scores[source] > scores[target]}

    def _explore(self, size: int) -> Any:
        steps = self._generator.choice((-1, 0, 0, 1), size=size)
        return (KEEP + steps).astype(np.int8)


def interface(spec: AgentSpec, batch: EpisodeBatch, observation: str, action: str) -> AgentSpec:
    """The spec as an agent of that interface would get it from ``gym.make``."""
    setting = copy.copy(batch.setting)
    setting.options = dataclasses.replace(batch.options, observation=observation, action=action)
    reader = TaggedReader(batch.setting.hyperparameters).readers[action]
    return dataclasses.replace(spec, observation_space=setting.observation_space(), action_space=reader.space())


def make_behaviour(name: str, members: Sequence[int]) -> Behaviour:
    """A behaviour by its name, for these members.

    Raises:
        UnknownName: if there is no such agent.
    """
    if name == "pbt":
        return Lineage(members)
    if name.startswith(AGENT_PREFIX):
        return Steered(make_agent(name.removeprefix(AGENT_PREFIX)), members)
    return Steered(RandomSchedule() if name == "schedule" else LibraryDefault(), members)


def can_steer(name: str, spec: AgentSpec) -> bool:
    """Whether a behaviour can steer this learner on this task: some rules need a measurement or published values."""
    if not name.startswith(AGENT_PREFIX):
        return True
    agent = make_agent(name.removeprefix(AGENT_PREFIX))
    if isinstance(agent, BatchAgent):
        return True
    try:
        agent.reset(spec, 0)
    except (InvalidConfiguration, UnknownName):
        return False
    return True
