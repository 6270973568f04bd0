"""The account of a live run: steps to the last one, scores, and how often what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.language.monitoring import Judgement
from hpbench.agent import AgentSpec


class Tally:
    """Counts while a run goes on.

    Args:
        spec: of the run.
        score: evaluation score before training.
        evaluation_steps: environment steps of that evaluation.
    """

    def __init__(self, spec: AgentSpec, score: float, evaluation_steps: int) -> None:
        self._spec = spec
        self.start = score
        self.scores: list[float] = []
        self.seconds: list[float] = []
        self.told = self.undone = self.reversed = 0
        self.rolled_back_steps = self.extra_steps = self.rolled_back_evaluation_steps = 0
        self._kept_steps, self._kept_evaluation_steps = 0, evaluation_steps
        self._edits = self._reversals = self._updates = self._judged = self._harmful = self._better = 0
        self._moved: dict[str, int] = {}
        self._invalid = 0

    @property
    def steps(self) -> int:
        """Environment steps of training, thrown-away ones included."""
        return self._kept_steps + self.rolled_back_steps

    def spent(self) -> bool:
        """Whether the budget, and what was granted on top of it, is used up."""
        return self.steps >= self._spec.steps + self.extra_steps

    def thrown_away(self, info: Mapping[str, Any], before: Mapping[str, Any], charged: bool) -> None:
        """A segment that was undone: the infos after it and before it."""
        steps = int(info["steps"]) - int(before["steps"])
        self.undone += 1
        self.rolled_back_steps += steps
        self.rolled_back_evaluation_steps += int(info["evaluation_steps"]) - int(before["evaluation_steps"])
        if charged:
            self.scores.append(float(before["score"]))
        else:
            self.extra_steps += steps

    def kept(self, info: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        """A segment that stays: the infos after it and before it."""
        self._kept_steps, self._kept_evaluation_steps = int(info["steps"]), int(info["evaluation_steps"])
        self._invalid += int(info["invalid"]) - int(before["invalid"])
        self.scores.append(float(info["score"]))

    def updated(self, changes: Mapping[str, float], values: Mapping[str, float], judgement: Judgement) -> None:
        """What the agent did at a decision: old values of all that it changed, new values of all, the judgement."""
        self._updates += bool(changes)
        self._judged += judgement.verdict not in ("unchanged", "unknown")
        self._harmful += bool(changes) and judgement.harmful
        self._better += judgement.verdict == "better"
        for name, old in changes.items():
            direction = 1 if values[name] > old else -1
            self._edits += 1
            self._reversals += self._moved.get(name, direction) != direction
            self._moved[name] = direction

    def report(self) -> dict[str, Any]:
        """JSON values. Rates are shares: of decisions (``invalid_rate``), of all hyperparameters at all decisions
        (``edit_rate``), of edits (``reversal_rate``: against the direction of the same hyperparameter's edit before),
        of judged updates (``harmful_rate``), and undone segments per update (``roll_back_rate``)."""
        asked = len(self.seconds)
        slots = asked * len(self._spec.hyperparameters.hot)
        return {
            "start_score": self.start,
            "final_score": self.scores[-1] if self.scores else self.start,
            "scores": list(self.scores),
            "steps": self.steps,
            "budget": self._spec.steps,
            "rolled_back_steps": self.rolled_back_steps,
            "extra_steps": self.extra_steps,
            "evaluation_steps": self._kept_evaluation_steps + self.rolled_back_evaluation_steps,
            "rolled_back_evaluation_steps": self.rolled_back_evaluation_steps,
            "decisions": asked,
            "invalid": self._invalid,
            "invalid_rate": _rate(self._invalid, asked),
            "updates": self._updates,
            "edits": self._edits,
            "edit_rate": _rate(self._edits, slots),
            "reversals": self._reversals,
            "reversal_rate": _rate(self._reversals, self._edits),
            "judged": self._judged,
            "better": self._better,
            "harmful": self._harmful,
            "harmful_rate": _rate(self._harmful, self._judged),
            "roll_backs": self.undone,
            "roll_back_rate": _rate(self.undone, self._updates),
            "reversed_updates": self.reversed,
            "feedback_lines": self.told,
            "latency_p50": float(np.quantile(self.seconds, 0.5)) if asked else 0.0,
            "latency_p95": float(np.quantile(self.seconds, 0.95)) if asked else 0.0,
        }


def _rate(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
