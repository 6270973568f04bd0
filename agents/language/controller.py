"""A language model as a meta-agent: all members of a batch at once, now or one decision later."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agents.language import answer, prompt
from agents.language.decision import Backend, Decision
from agents.language.view import View
from hpbench.agent import AgentSpec, Step
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.seeding import derive_seed

TIMING = ("now", "next", "free")
"""When decisions are made; see :class:`LanguageAgent`."""

KEEP_ALL = "{}"


@dataclass
class _Member:
    """What is known of one member's meta-episode."""

    seed: int
    over: bool = False
    action: str = KEEP_ALL
    decisions: list[Decision] = field(default_factory=list)
    unanswered: int = 0
    edits: int = 0
    reversals: int = 0
    slots: int = 0
    told: int = 0
    moved: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Question:
    """A question that is being answered while training goes on."""

    members: list[int]
    observations: list[str]
    asked: int
    answer: Future[list[Decision]]


class LanguageAgent:
    """Asks a back end at every decision, for all members that still run.

    Args:
        backend: where decisions come from.
        name: what tables show.
        timing: ``now``: training waits for the answer. ``next``: the model thinks while the next segment trains, and
            its answer to the state before it is applied after it, waiting if need be; the first decision keeps
            everything. ``free``: as ``next``, but training never waits: until the answer is there, everything is kept.
            Only with ``free`` does the result depend on how fast the machine is.
        view: what the model is shown of the observations.

    Raises:
        UnknownName: if there is no such timing.
    """

    observation = "text"
    action = "text"

    def __init__(self, backend: Backend, name: str = "language", timing: str = "now", view: View | None = None) -> None:
        if timing not in TIMING:
            raise UnknownName("timing", timing, TIMING)
        self.name, self.timing = name, timing
        self.view = View() if view is None else view
        self.model = backend.identity()
        self.prompt = prompt.FORMAT
        self._source = backend
        self._members: list[_Member] = []
        self._question: _Question | None = None
        self._thread: ThreadPoolExecutor | None = None

    @property
    def decisions(self) -> list[list[Decision]]:
        """Every member's decisions in this meta-episode, as they were applied."""
        return [list(member.decisions) for member in self._members]

    @property
    def source(self) -> Backend:
        """Where decisions come from."""
        return self._source

    def reset_batch(self, specs: Sequence[AgentSpec], seeds: Sequence[int]) -> None:
        """Start of a batch of meta-episodes, all of one learner."""
        if self._question is not None:
            self._question.answer.cancel()
            self._question = None
        self._members = [_Member(seed) for seed in seeds]
        self._planned = specs[0].decisions
        self._now = 0

    def act_batch(self, observations: Sequence[str]) -> list[str]:
        """One ``text`` action per member; members that have ended repeat their last one.

        Raises:
            ModelUnavailable: if the model cannot be reached. Nothing is ever decided in its place.
        """
        if len(observations) != len(self._members):
            raise InvalidConfiguration(
                f"expected observations of {len(self._members)} members: reset_batch comes first"
            )
        running = [i for i, member in enumerate(self._members) if not member.over]
        shown = [str(observations[i]) for i in running]
        if self.timing == "now":
            for i, observation, decision in zip(running, shown, self._decide(running, shown), strict=True):
                self._apply(i, observation, decision)
        else:
            self._act_late(running, shown)
        self._now += 1
        return [member.action for member in self._members]

    def observe_batch(self, steps: Sequence[Step]) -> None:
        """Learn which members have ended."""
        for member, step in zip(self._members, steps, strict=True):
            member.over = member.over or step.terminated or step.truncated

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a single meta-episode."""
        self.reset_batch([spec], [seed])

    def act(self, observation: str) -> str:
        """The ``text`` action of a single meta-episode."""
        return self.act_batch([observation])[0]

    def costs(self) -> dict[str, float]:
        """What the decisions of this batch came to, over all members.

        ``edits`` counts hyperparameters that were asked to change, ``edit_rate`` their share of all those there are;
        ``reversals`` counts edits against the direction of the same hyperparameter's previous edit, and
        ``reversal_rate`` is their share of edits. ``invalid_rate`` is the share of decisions that could not be read.
        Quantiles are over decisions; ``staleness`` is a mean. ``feedback_lines`` counts observations that said
        something about the last action or update.
        """
        taken = [decision for member in self._members for decision in member.decisions]
        seconds = [decision.seconds for decision in taken]
        edits = sum(member.edits for member in self._members)
        slots = sum(member.slots for member in self._members)
        invalid = sum(not decision.valid for decision in taken)
        reversals = sum(member.reversals for member in self._members)
        return {
            "decisions": len(taken),
            "unanswered": sum(member.unanswered for member in self._members),
            "calls": sum(decision.calls for decision in taken),
            "prompt_tokens": sum(decision.prompt_tokens for decision in taken),
            "completion_tokens": sum(decision.completion_tokens for decision in taken),
            "price": sum(decision.price for decision in taken),
            "invalid": invalid,
            "invalid_rate": invalid / len(taken) if taken else 0.0,
            "edits": edits,
            "edit_rate": edits / slots if slots else 0.0,
            "reversals": reversals,
            "reversal_rate": reversals / edits if edits else 0.0,
            "feedback_lines": sum(member.told for member in self._members),
            "staleness": float(np.mean([decision.staleness for decision in taken])) if taken else 0.0,
            "latency_p50": float(np.quantile(seconds, 0.5)) if taken else 0.0,
            "latency_p95": float(np.quantile(seconds, 0.95)) if taken else 0.0,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles do not take questions along that are being answered."""
        return self.__dict__ | {"_thread": None, "_question": None}

    def _decide(self, members: Sequence[int], observations: Sequence[str]) -> list[Decision]:
        return self._ask(observations, self._seeds(members)) if members else []

    def _ask(self, observations: Sequence[str], seeds: Sequence[int]) -> list[Decision]:
        """The model's decisions about what it is shown, in the words of the environment."""
        decisions = self._source.decide(self.view.show(observations), seeds)
        return [
            replace(decision, action=self.view.translate(decision.action, observation))
            for decision, observation in zip(decisions, observations, strict=True)
        ]

    def _seeds(self, members: Sequence[int]) -> list[int]:
        """Of the present decision of these members."""
        return [derive_seed(self._members[i].seed, self._now) for i in members]

    def _act_late(self, running: list[int], observations: list[str]) -> None:
        question = self._question
        for i in running:
            self._members[i].action = KEEP_ALL
        if question is not None and (self.timing == "next" or question.answer.done()):
            self._question = None
            staleness = self._now - question.asked
            for i, observation, decision in zip(
                question.members, question.observations, question.answer.result(), strict=True
            ):
                if not self._members[i].over:
                    self._apply(i, observation, replace(decision, staleness=staleness))
        answered = set() if question is None or self._question is not None else set(question.members)
        for i in running:
            self._members[i].unanswered += i not in answered
        if self._question is None and running and self._now + 1 < self._planned:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="language-agent")
            future = self._thread.submit(self._ask, observations, self._seeds(running))
            self._question = _Question(running, observations, self._now, future)

    def _apply(self, i: int, observation: str, decision: Decision) -> None:
        """Make a decision a member's action, and count what it asks for."""
        member = self._members[i]
        member.action = decision.action
        member.decisions.append(decision)
        shown = prompt.shown_in(observation)
        member.slots += len(shown)
        member.told += "\nfeedback: " in observation
        wishes = answer.read_answer(decision.action, shown) if decision.valid else None
        for name, direction in answer.directions(wishes or {}, shown).items():
            member.edits += 1
            member.reversals += member.moved.get(name, direction) != direction
            member.moved[name] = direction
