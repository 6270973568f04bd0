"""One row: the meta-episodes of all its seeds under one agent, as one batch."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch

import hpbench
from hpbench.agent import Agent, BatchAgent, Branches, Step, make_agent, needs_of
from hpbench.control.episode import BatchStep, EnvOptions, EpisodeBatch
from hpbench.control.registration import ENVIRONMENTS
from hpbench.errors import InvalidConfiguration
from hpbench.evaluation.identity import AgentIdentity
from hpbench.evaluation.records import FORMAT, Costs, Member, Platform, Record, to_json
from hpbench.evaluation.suite import Row
from hpbench.seeding import derive_seed

AGENT_STREAM = int.from_bytes(b"agent", "big")
"""An agent's seed is ``derive_seed(member seed, AGENT_STREAM)``: none of the member's own streams."""

Progress = Callable[[float, float], None]
"""Called after every decision with the share of decisions done and the mean score of the members."""


@dataclass(frozen=True)
class Job:
    """A row to run under one agent. Plain data: it travels to worker processes.

    Args:
        options: of the meta-environment.
        threads: CPU threads of the inner loop.
    """

    suite: str
    suite_hash: str
    row: Row
    agent: AgentIdentity
    options: EnvOptions
    threads: int = 1


def row_options(row: Row, agent: Agent | BatchAgent, device: str = "auto", engine: str = "auto") -> EnvOptions:
    """The meta-environment of a row, with the interface that the agent asks for."""
    return EnvOptions.parse(
        {
            "task": row.task,
            "family": ENVIRONMENTS[row.env],
            "learner": row.learner,
            "track": row.track,
            "tier": row.tier,
            "observation": getattr(agent, "observation", "vector"),
            "action": getattr(agent, "action", "delta"),
            "device": device,
            "engine": engine,
            **row.overrides,
        }
    )


def run_row(job: Job, agent: Agent | BatchAgent, progress: Progress) -> tuple[Record, Costs]:
    """Run all meta-episodes of a row to their end.

    Args:
        agent: a pristine instance. It is deep-copied for every member, unless it is a batch agent.

    Returns:
        The record, which is the same every time, and the costs, which are not.
    """
    started = time.perf_counter()
    batch = EpisodeBatch(job.options, job.row.seeds, threads=job.threads)
    observations, infos = batch.reset()
    crew = _Crew(agent, job.row.seeds)
    crew.reset(batch)
    logs = [_Log(*pair) for pair in zip(job.row.seeds, crew.seeds, strict=True)]
    for log, info in zip(logs, infos, strict=True):
        log.begin(info["hpbench"])
    running = [True] * len(logs)
    decisions = 0
    while any(running):
        actions = crew.act(observations, running)
        result = batch.step(actions)
        decisions += 1
        over = [bool(t or u) for t, u in zip(result.terminated, result.truncated, strict=True)]
        for i, log in enumerate(logs):
            if running[i]:
                log.add(actions[i], float(result.rewards[i]), result.infos[i]["hpbench"], crew.steps_used(i))
        crew.observe(observations, actions, result, running)
        running = [alive and not done for alive, done in zip(running, over, strict=True)]
        observations = result.observations
        progress(decisions / batch.specs[0].decisions, float(np.mean([log.columns["scores"][-1] for log in logs])))
    members = tuple(log.finish() for log in logs)
    spec = batch.specs[0]
    record = Record(
        format=FORMAT,
        hpbench=hpbench.__version__,
        suite=job.suite,
        suite_hash=job.suite_hash,
        row=job.row,
        agent=job.agent,
        options=job.options.to_dict(),
        engine=batch.population.engine,
        device=_device_name(batch.population.device),
        platform=Platform.here(),
        decisions=spec.decisions,
        steps=spec.steps,
        members=members,
    )
    costs = Costs(
        seconds=time.perf_counter() - started,
        agent_seconds=crew.seconds,
        decisions=sum(len(member.actions) for member in members),
        steps=sum(member.steps[-1] for member in members),
        evaluation_steps=sum(member.evaluation_steps[-1] for member in members),
        agent_steps=sum(member.agent_steps[-1] for member in members if member.agent_steps),
        agent=crew.costs(),
    )
    return record, costs


def _device_name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def work_on_row(payload: tuple[Job, Any], report: Callable[[tuple[float, float]], None]) -> tuple[Record, Costs]:
    """What a worker process does with a job and its agent (an object, or the name or import path to make it from)."""
    job, agent = payload
    with _torch_threads(job.threads):
        return run_row(job, make_agent(agent), lambda share, score: report((share, score)))


@contextlib.contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Lookahead:
    """How the agent of a member tries actions on copies of it, and what that has cost so far."""

    def __init__(self, batch: EpisodeBatch, member: int) -> None:
        self._batch, self._member, self.steps = batch, member, 0

    def __call__(self, actions: Sequence[Any], horizon: int = 1, **options: Any) -> Branches:
        (found,) = self._batch.branch([actions], horizon, members=[self._member], **options)
        self.steps += found.steps + found.evaluation_steps
        return found


class _Crew:
    """The agents of a batch behind one face: a copy per member, or one batch agent for all of them."""

    def __init__(self, agent: Agent | BatchAgent, seeds: Sequence[int]) -> None:
        self.seeds = [derive_seed(seed, AGENT_STREAM) for seed in seeds]
        self.seconds = 0.0
        self._batch: BatchAgent | None = None
        self._copies: list[Agent] = []
        if isinstance(agent, BatchAgent):
            self._batch = agent
        else:
            self._copies = [copy.deepcopy(agent) for _ in seeds]
        self._kept: list[Any] = [None] * len(seeds)
        self._lookaheads: list[_Lookahead] = []

    def reset(self, batch: EpisodeBatch) -> None:
        started = time.perf_counter()
        if self._batch is not None:
            self._batch.reset_batch(batch.specs, self.seeds)
        for i, member in enumerate(self._copies):
            if needs_of(member):
                self._lookaheads.append(_Lookahead(batch, i))
                cast("Any", member).bind(self._lookaheads[-1])
            member.reset(batch.specs[i], self.seeds[i])
        self.seconds += time.perf_counter() - started

    def steps_used(self, member: int) -> int | None:
        """Environment steps that the member's agent has used on copies; None if it has no such means."""
        return self._lookaheads[member].steps if self._lookaheads else None

    def costs(self) -> dict[str, float]:
        """What a batch agent says that it used besides time."""
        costs = getattr(self._batch, "costs", None)
        return {} if costs is None else {str(name): float(number) for name, number in costs().items()}

    def act(self, observations: Sequence[Any], running: Sequence[bool]) -> list[Any]:
        """One action per member; members that have ended repeat their last one, which nothing reads."""
        started = time.perf_counter()
        if self._batch is not None:
            actions = list(self._batch.act_batch(observations))
            if len(actions) != len(observations):
                raise InvalidConfiguration(f"act_batch gave {len(actions)} actions for {len(observations)} members")
        else:
            actions = [
                member.act(observation) if alive else kept
                for member, observation, alive, kept in zip(
                    self._copies, observations, running, self._kept, strict=True
                )
            ]
        self._kept = actions
        self.seconds += time.perf_counter() - started
        return actions

    def observe(
        self, observations: Sequence[Any], actions: Sequence[Any], result: BatchStep, running: Sequence[bool]
    ) -> None:
        """Hand the finished decision to agents with ``observe`` (a batch agent: ``observe_batch``, all steps)."""
        observers = [getattr(member, "observe", None) for member in self._copies]
        observe_batch = getattr(self._batch, "observe_batch", None)
        if observe_batch is None and not any(observers):
            return
        started = time.perf_counter()
        steps = [
            Step(
                observation=observations[i],
                action=actions[i],
                reward=float(result.rewards[i]),
                terminated=bool(result.terminated[i]),
                truncated=bool(result.truncated[i]),
                next_observation=result.observations[i],
                info=result.infos[i],
            )
            for i in range(len(actions))
        ]
        if observe_batch is not None:
            observe_batch(steps)
        for observe, step, alive in zip(observers, steps, running, strict=False):
            if observe is not None and alive:
                observe(step)
        self.seconds += time.perf_counter() - started


_DECIDED = ("actions", "clipped", "invalid", "rewards")
_MEASURED = ("shifted", "scores", "returns", "steps", "evaluation_steps", "digests")


@dataclass
class _Log:
    """A member's trace while it grows."""

    seed: int
    agent_seed: int
    task: str = ""
    initial_values: dict[str, float] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in (*_DECIDED, *_MEASURED)})
    diverged: bool = False
    meta_score: float = float("nan")
    agent_steps: list[int] = field(default_factory=list)

    def begin(self, info: Mapping[str, Any]) -> None:
        self.task = str(info["task"])
        self.initial_values = {name: float(value) for name, value in info["values"].items()}
        self.values = {name: [] for name in self.initial_values}
        self._measure(info)

    def add(self, action: Any, reward: float, info: Mapping[str, Any], agent_steps: int | None) -> None:
        for name, value in info["values"].items():
            self.values[name].append(float(value))
        decided = (to_json(action), tuple(info["clipped"]), int(info["invalid"]), reward)
        for name, value in zip(_DECIDED, decided, strict=True):
            self.columns[name].append(value)
        if agent_steps is not None:
            self.agent_steps.append(agent_steps)
        self._measure(info)
        self.diverged = bool(info["diverged"])
        self.meta_score = float(info.get("meta_score", "nan"))

    def finish(self) -> Member:
        return Member(
            seed=self.seed,
            agent_seed=self.agent_seed,
            task=self.task,
            initial_values=self.initial_values,
            values={name: tuple(column) for name, column in self.values.items()},
            diverged=self.diverged,
            meta_score=self.meta_score,
            agent_steps=tuple(self.agent_steps),
            **{name: tuple(column) for name, column in self.columns.items()},
        )

    def _measure(self, info: Mapping[str, Any]) -> None:
        mean_return = float(info["return"])
        measured = (
            bool(info["shifted"]),
            float(info["score"]),
            mean_return if np.isfinite(mean_return) else None,
            int(info["steps"]),
            int(info["evaluation_steps"]),
            str(info["digest"]),
        )
        for name, value in zip(_MEASURED, measured, strict=True):
            self.columns[name].append(value)
