"""Running population agents: complete games of ``HPControl-Population-v0``, as records."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hpbench.agent import PopulationAgent, make_population_agent
from hpbench.control.registration import parallel_env
from hpbench.errors import InvalidConfiguration
from hpbench.seeding import derive_seed

ENVIRONMENT = "HPControl-Population-v0"
AGENT_STREAM = int.from_bytes(b"population agent", "big")
"""An agent's seed is ``derive_seed(population seed, AGENT_STREAM)``: none of the members' own streams."""


@dataclass(frozen=True)
class MemberRecord:
    """One member's meta-episode. Lists end early if the member diverged.

    Args:
        task, seed: what it trained on, and its own seed.
        scores: normalised evaluation scores, before training and after every decision; the floor where diverged.
        training_score: normalised mean return of the training episodes of its last segment; None if none ended.
        values: hyperparameters in force in every segment, by name.
        copied_from: index of the member that each decision copied; its own index: none.
        steps, evaluation_steps: environment steps taken.
        diverged: whether it ended by divergence.
        digest: of the learner's state at the end.
    """

    task: str
    seed: int
    scores: tuple[float, ...]
    training_score: float | None
    values: Mapping[str, tuple[float, ...]]
    copied_from: tuple[int, ...]
    steps: int
    evaluation_steps: int
    diverged: bool
    digest: str


@dataclass(frozen=True)
class PopulationRecord:
    """One game: a whole population under one agent.

    Args:
        agent: its name.
        options: of the environment.
        seed: of the population; it decides everything but the agent's choices.
        agent_seed: what the agent was reset with.
        members: their records, in order.
    """

    agent: str
    options: Mapping[str, Any]
    seed: int
    agent_seed: int
    members: tuple[MemberRecord, ...]

    @property
    def best_score(self) -> float:
        """Final evaluation score of the member that the population would hand over: the one with the best training
        score at the end. Evaluation has no part in the choice, so the score is not the luckiest of several draws."""
        return self.members[self.best_member].scores[-1]

    @property
    def best_member(self) -> int:
        """The running member with the best training score at the end; the first one of equals."""

        def key(m: int) -> tuple[bool, float]:
            record = self.members[m]
            return not record.diverged, -math.inf if record.training_score is None else record.training_score

        return max(range(len(self.members)), key=key)

    @property
    def mean_score(self) -> float:
        """Mean of the final evaluation scores of all members."""
        return math.fsum(record.scores[-1] for record in self.members) / len(self.members)

    @property
    def steps(self) -> int:
        """Training steps charged: those of all members."""
        return sum(record.steps for record in self.members)

    @property
    def copies(self) -> int:
        """How often a member was overwritten by another one."""
        return sum(source != m for m, record in enumerate(self.members) for source in record.copied_from)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: all fields, and the summaries above."""
        names = ("best_score", "best_member", "mean_score", "steps", "copies")
        return {**dataclasses.asdict(self), **{name: getattr(self, name) for name in names}}


def run_population(
    agent: Any, task: str | None = None, seeds: Iterable[int] = range(1), members: int = 8, **options: Any
) -> Iterator[PopulationRecord]:
    """Let a population agent play, one game per seed.

    ```python
    for record in hpbench.run_population("pbt", "classic/cartpole", seeds=range(10), track="random"):
        print(record.best_score, record.mean_score, record.steps)
    ```

    Args:
        agent: what :func:`~hpbench.agent.make_population_agent` takes.
        task: id of the task; None: drawn by each seed.
        seeds: of the populations. The same seed gives every agent the same members.
        members: size of the population.
        **options: fields of :class:`~hpbench.control.options.EnvOptions`; ``observation`` and ``action`` are the
            agent's.

    Returns:
        An iterator: each record comes as soon as its game is over. Options are checked at once.

    Raises:
        UnknownName, InvalidConfiguration: for an agent or options that do not exist or cannot work.
        MissingExtra: if PettingZoo, or what the agent needs, is not installed.
    """
    player = make_population_agent(agent)
    for name in ("observation", "action", "flat", "render_mode"):
        if name in options:
            raise InvalidConfiguration(f"{name} cannot be chosen here: it is the agent's, or of no use")
    env = parallel_env(
        ENVIRONMENT,
        task=task,
        members=members,
        observation=getattr(player, "observation", "vector"),
        action=getattr(player, "action", "delta"),
        **options,
    )
    return (play_game(player, env, seed) for seed in seeds)


def play_game(agent: PopulationAgent, env: Any, seed: int) -> PopulationRecord:
    """One game from reset to the end.

    Args:
        agent: is reset.
        env: a ``HPControl-Population-v0`` with the interface that the agent asks for.
        seed: of the population.
    """
    observations, infos = env.reset(seed=seed)
    agent_seed = derive_seed(seed, AGENT_STREAM)
    agent.reset_population(env.agent_spec, agent_seed)
    names = list(env.possible_agents)
    trails = {name: [info["hpbench"]] for name, info in infos.items()}
    while env.agents:
        observations, _, _, _, infos = env.step(agent.act_population(observations))
        for name, info in infos.items():
            trails[name].append(info["hpbench"])
        last = observations
        observations = {name: last[name] for name in env.agents}
    standings = env.agent_spec.schema.standings(next(iter(last.values())))
    scores = [None if math.isnan(row.score) or not row.running else row.score for row in standings]
    return PopulationRecord(
        agent=str(getattr(agent, "name", type(agent).__name__)),
        options=env.options.to_dict(),
        seed=seed,
        agent_seed=agent_seed,
        members=tuple(_member(names, m, trails[name], scores[m]) for m, name in enumerate(names)),
    )


def _member(names: list[str], m: int, trail: list[dict[str, Any]], training_score: float | None) -> MemberRecord:
    last, decided = trail[-1], trail[1:]
    return MemberRecord(
        task=last["task"],
        seed=last["seed"],
        scores=tuple(info["score"] for info in trail),
        training_score=training_score,
        values={name: tuple(info["values"][name] for info in decided) for name in last["values"]},
        copied_from=tuple(m if info["copied_from"] is None else names.index(info["copied_from"]) for info in decided),
        steps=last["steps"],
        evaluation_steps=last["evaluation_steps"],
        diverged=last["diverged"],
        digest=last["digest"],
    )
