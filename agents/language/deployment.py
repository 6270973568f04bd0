"""An agent in the same process as a live training: every update is judged, told of, and undone if it did harm."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from agents.language.feedback import FEEDBACK, describe, shown_to
from agents.language.monitoring import Judgement, Monitor, MonitorOptions
from agents.language.smaller import Row, action_towards, half_way
from agents.language.tally import Tally
from hpbench.agent import Agent, AgentSpec, BatchAgent, Step, needs_of
from hpbench.control.env import HPControlEnv
from hpbench.control.reward import meta_score
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.evaluation.row import AGENT_STREAM
from hpbench.seeding import derive_seed

UNDO = ("auto", "restore", "reverse", "never")
"""How harmful updates are undone; see :class:`DeploymentOptions`."""


@dataclass(frozen=True)
class DeploymentOptions:
    """How a run is looked after.

    Args:
        undo: ``restore``: go back to a snapshot from before the update, and try half of it; ``reverse``: put the values
            back at the next decision; ``never``: monitoring and feedback only; ``auto``: ``restore`` where the
            environment has snapshots, else ``reverse``.
        limit: most updates that are undone in a run.
        tries: how often the update of one decision is undone: half of it the next time, and nothing after the last.
        charged: segments that are thrown away count as part of the budget, so the run ends that many decisions earlier
            than observations say; otherwise they come on top of it, and are reported as ``extra_steps``. Evaluation
            episodes are reported, and charged to nobody.
        feedback: what the agent is told: ``all`` judgements, those of ``harmful`` updates, or ``none``.
        monitor: how updates are judged.

    Raises:
        UnknownName: for a word that is not one of the choices.
        InvalidConfiguration: for a negative limit or no tries.
    """

    undo: str = "auto"
    limit: int = 5
    tries: int = 2
    charged: bool = True
    feedback: str = "all"
    monitor: MonitorOptions = field(default_factory=MonitorOptions)

    def __post_init__(self) -> None:
        for name, choices in (("undo", UNDO), ("feedback", FEEDBACK)):
            if getattr(self, name) not in choices:
                raise UnknownName(name, getattr(self, name), choices)
        if self.limit < 0 or self.tries < 1:
            raise InvalidConfiguration(f"limit must not be negative and tries at least 1: {self.limit}, {self.tries}")


@dataclass(frozen=True)
class Attempt:
    """One segment that was trained.

    Args:
        values: hyperparameters in force, by the names that texts show.
        changes: those that differ from before the decision, with the value before.
        judgement: on the segment.
        undone: whether it was thrown away.
        score: evaluation score after it. The loop reports it and decides nothing by it.
        digest: of the learner after it.
    """

    values: dict[str, float]
    changes: dict[str, float]
    judgement: Judgement
    undone: bool
    score: float
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"judgement": self.judgement.to_dict()}


@dataclass(frozen=True)
class Decided:
    """One decision and what became of it.

    Args:
        decision: counted from 1.
        by: ``agent``, or ``monitor`` where the loop reversed the update before.
        attempts: the segments that were trained, oldest first; all but the last were thrown away, and so was the last
            if nothing was left of the budget.
        feedback: what the agent is told of it; empty: nothing.
        steps: environment steps of training so far, thrown-away ones included.
    """

    decision: int
    by: str
    attempts: tuple[Attempt, ...]
    feedback: str
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self) | {"attempts": [attempt.to_dict() for attempt in self.attempts]}


def live_environment(agent: Agent | BatchAgent, task: str, **options: Any) -> HPControlEnv:
    """The meta-environment of a task as :class:`Deployment` wants it, with the agent's kind of action.

    Args:
        agent: that will act in it.
        task: its id.
        **options: of :class:`~hpbench.control.options.EnvOptions`.

    Raises:
        UnknownName, InvalidConfiguration: see :class:`~hpbench.control.env.HPControlEnv`.
    """
    action, family = getattr(agent, "action", "delta"), task.partition("/")[0]
    return HPControlEnv(task=task, family=family, observation="dict", action=action, **options)


class Refiner(Protocol):
    """What learns from the feedback while the run goes on; see :mod:`agents.language.refinement`."""

    def learn(self, observation: str, action: str, surprise: float) -> None:
        """One decision, and its effect against expectation in units of noise."""
        ...


class Deployment:
    """Runs one meta-episode under an agent and looks after it.

    Only what agents may see is used to judge: training episodes, never evaluation scores. The agent meets the same
    environment as in ``hpbench.run``; until something is undone, or a language model reads a line of feedback, its run
    is the same, bit for bit.

    Args:
        env: with observations of the form ``dict`` and the agent's kind of action, such as :func:`live_environment`
            makes; ``env.unwrapped`` has ``agent_spec``, its infos are those of ``HPControlEnv``, and ``snapshot`` and
            ``restore`` if it can go back.
        agent: a pristine agent.
        options: how the run is looked after.
        refiner: learns from the effects of decisions; None: nobody does.

    Raises:
        InvalidConfiguration: if the agent looks ahead on copies, or ``undo`` is ``restore`` and the environment has no
            snapshots.
    """

    def __init__(
        self,
        env: Any,
        agent: Agent | BatchAgent,
        options: DeploymentOptions | None = None,
        refiner: Refiner | None = None,
    ) -> None:
        self.env, self.agent, self.refiner = env.unwrapped, agent, refiner
        self.options = DeploymentOptions() if options is None else options
        if needs_of(agent):
            raise InvalidConfiguration("an agent that looks ahead on copies tries its updates itself: use hpbench run")
        able = all(callable(getattr(self.env, name, None)) for name in ("snapshot", "restore"))
        if self.options.undo == "restore" and not able:
            raise InvalidConfiguration('this environment has no snapshots to restore: use undo="reverse"')
        self.undo = ("restore" if able else "reverse") if self.options.undo == "auto" else self.options.undo
        self._kind = getattr(agent, "action", "delta")

    def run(self, seed: int) -> Iterator[Decided]:
        """Run a meta-episode to its end, a decision at a time.

        Args:
            seed: of the meta-episode; the agent's is derived from it as in ``hpbench.run``.
        """
        self._observation, info = self.env.reset(seed=seed)
        self._info: Mapping[str, Any] = info["hpbench"]
        self.spec: AgentSpec = self.env.agent_spec
        self.tally = Tally(self.spec, float(self._info["score"]), int(self._info["evaluation_steps"]))
        self._monitor, self._line, self._over = Monitor(self.options.monitor), "", False
        self._back: Row | None = None
        self._reset_agent(derive_seed(seed, AGENT_STREAM))
        decision = 0
        while not self._over:
            decision += 1
            yield self._decide(decision)

    def report(self) -> dict[str, Any]:
        """What the run so far came to, as JSON values: scores, steps, rates, latencies, and the agent's own costs.

        ``meta_score`` is half the last score and half the mean over the budget, of which a thrown-away segment is a
        part that left the score where it was; None before the end.
        """
        tally, scores = self.tally, self.tally.scores
        found: dict[str, Any] = {"undo": self.undo, **tally.report()}
        length = max(self.spec.decisions, len(scores))
        found["meta_score"] = meta_score(scores, length) if self._over else None
        costs = getattr(self.agent, "costs", None)
        return found | {"agent": dict(costs()) if costs is not None else {}}

    # -- one decision --------------------------------------------------------------------------------------------------

    def _decide(self, decision: int) -> Decided:
        by, shown = "agent", shown_to(self._observation, self._line, getattr(self.agent, "observation", "vector"))
        before = self._values()
        if self._back is None:
            self.tally.told += bool(self._line)
            started = time.perf_counter()
            action = self._ask(shown)
            self.tally.seconds.append(time.perf_counter() - started)
        else:
            by, action = "monitor", self._towards(before, self._back)
        attempts, step = self._attempt(by, before, shown, action)
        first = attempts[0]
        if by == "agent":
            self.tally.updated(first.changes, first.values, first.judgement)
            if self.refiner is not None and isinstance(action, str):
                self.refiner.learn(str(shown), action, first.judgement.surprise)
        if step is not None:
            self._observe(step)
        effect = self.spec.schema.features[self.spec.schema.column("effect_1")]
        self._line = describe([(each.judgement, each.undone) for each in attempts], by, self.options.feedback, effect)
        return Decided(decision, by, tuple(attempts), self._line, self.tally.steps)

    def _attempt(self, by: str, before: Row, shown: Any, action: Any) -> tuple[list[Attempt], Step | None]:
        """Train with an action, and with less of it as long as it does harm and may be undone."""
        old = self._info
        snapshot = self.env.snapshot() if self.undo == "restore" and self._left() else None
        attempts: list[Attempt] = []
        while True:
            received, reward, terminated, truncated, info = self.env.step(action)
            now = info["hpbench"]
            changes = {k: v for k, v in zip(old["values"], before, strict=True) if now["values"][k] != v}
            anchors = self.spec.task.anchors
            features = self.spec.schema.values(received)
            width = anchors.width(anchors.value(features.get("score", 0.0)))
            judgement = self._monitor.judge_features(features, width, bool(changes), bool(terminated))
            undone = snapshot is not None and bool(changes) and judgement.harmful and self._left()
            values, digest = dict(now["values"]), str(now["digest"])
            attempts.append(Attempt(values, changes, judgement, undone, float(now["score"]), digest))
            if not undone:
                break
            self.env.restore(snapshot)
            self.tally.thrown_away(now, old, self.options.charged)
            if self.tally.spent():
                self._over = True
                return attempts, None
            less = half_way(self.spec.hyperparameters, before, tuple(values.values()))
            action = self._towards(before, before if len(attempts) >= self.options.tries else less)
        self._observation, self._info = received, now
        self._monitor.accept(judgement)
        self.tally.kept(now, old)
        self._back = None
        if self.undo == "reverse" and by == "agent" and changes and judgement.harmful and self._left():
            self._back = before
            self.tally.reversed += not terminated and not truncated
        self._over = bool(terminated or truncated) or self.tally.spent()
        return attempts, Step(shown, action, float(reward), bool(terminated), self._over, received, info)

    def _left(self) -> bool:
        return self.tally.undone < self.options.limit

    def _values(self) -> Row:
        return tuple(float(value) for value in self._info["values"].values())

    def _towards(self, current: Row, target: Row) -> Any:
        return action_towards(self._kind, self.spec.hyperparameters, current, target, list(self._info["values"]))

    # -- the agent -----------------------------------------------------------------------------------------------------

    def _reset_agent(self, seed: int) -> None:
        if isinstance(self.agent, BatchAgent):
            self.agent.reset_batch([self.spec], [seed])
        else:
            self.agent.reset(self.spec, seed)

    def _ask(self, shown: Any) -> Any:
        return self.agent.act_batch([shown])[0] if isinstance(self.agent, BatchAgent) else self.agent.act(shown)

    def _observe(self, step: Step) -> None:
        one, many = getattr(self.agent, "observe", None), getattr(self.agent, "observe_batch", None)
        if isinstance(self.agent, BatchAgent):
            if many is not None:
                many([step])
        elif one is not None:
            one(step)
