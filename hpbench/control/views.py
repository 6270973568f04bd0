"""What there is to see of running meta-episodes: observations, texts, infos."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from hpbench.agent import AgentSpec
from hpbench.control.history import History
from hpbench.control.observation import Frame
from hpbench.control.options import EnvOptions, Plan
from hpbench.control.reward import meta_score
from hpbench.control.setting import Setting
from hpbench.control.text import Snippet
from hpbench.learners.population import Population

Info = dict[str, Any]


class BatchView:
    """The state of a batch of meta-episodes, and all that can be read off it without changing it.

    Attributes:
        setting: what follows from options and seeds alone.
        population: the learners.
        plan: the exact step account.
    """

    setting: Setting
    population: Population
    plan: Plan
    _specs: list[AgentSpec] | None
    """What the members' agents are told, once somebody asked."""
    _names: dict[str, str]
    """What each hyperparameter is called."""
    _histories: list[History]
    """One per member; empty before the first reset."""

    @property
    def options(self) -> EnvOptions:
        """What the batch was made from."""
        return self.setting.options

    @property
    def seeds(self) -> tuple[int, ...]:
        """One per member."""
        return self.setting.seeds

    @property
    def specs(self) -> list[AgentSpec]:
        """What the members' agents are told."""
        # Made when asked for: spaces take milliseconds, and batches of branches need none.
        if self._specs is None:
            self._specs = self.setting.specs(self.plan)
        return self._specs

    @property
    def members(self) -> int:
        """Number of meta-episodes."""
        return len(self.setting.seeds)

    @property
    def device(self) -> str:
        """Where the population lives."""
        return str(self.population.device)

    @property
    def engine(self) -> str:
        """Which implementation of the learner runs."""
        return str(getattr(self.population, "engine", "torch"))

    # -- views ---------------------------------------------------------------------------------------------------------

    def observe(self) -> list[Any]:
        """The current observations, one per member."""
        frame, snippet = self._frame()
        if self.options.observation == "vector":
            return frame.vectors()
        texts = self._render(frame, snippet)
        if self.options.observation == "text":
            return texts
        return [{"vector": vector, "text": text} for vector, text in zip(frame.vectors(), texts, strict=True)]

    def texts(self) -> list[str]:
        """The current text views, one per member, whatever the ``observation`` option is."""
        return self._render(*self._frame())

    def training_scores(self) -> list[float]:
        """Normalised mean returns of the members' training episodes in the last segment; NaN where none ended."""
        self._require_reset()
        return [history.training_scores[-1] for history in self._histories]

    def infos(self) -> list[Info]:
        """The current infos, one per member, each ``{"hpbench": {...}}`` of plain JSON values."""
        self._require_reset()
        steps, digests = self.population.array("steps").tolist(), self.population.digests()
        return [{"hpbench": self._info(m, steps[m], digests[m])} for m in range(len(self._histories))]

    def ended(self, m: int) -> bool:
        """Whether the meta-episode of a member is over."""
        return self._histories[m].diverged or self._histories[m].decision == self.plan.decisions

    def _require_reset(self) -> None:
        if not self._histories:
            raise gym.error.ResetNeeded("call reset() first")

    def _frame(self) -> tuple[Frame, Snippet | None]:
        self._require_reset()
        snippet = self._snippet() if any(history.decision for history in self._histories) else None
        raw = self.setting.features.raw(self._histories, self.plan.decisions, snippet)
        return self.setting.schema.encode(raw), snippet

    def _snippet(self) -> Snippet:
        parts = ("snippet_observation", "snippet_action", "snippet_reward")
        snippet = Snippet(*(self.population.array(name).tolist() for name in parts))
        for m, history in enumerate(self._histories):
            if history.decision == 0:
                snippet.rewards[m] = []
        describe = getattr(self.setting.tasks[0].simulator, "describe", None)
        if describe is not None:
            snippet.words.extend(describe(states[-1]) for states in snippet.states)
        return snippet

    def _render(self, frame: Frame, snippet: Snippet | None) -> list[str]:
        tasks = [task.id for task in self.setting.tasks]
        values = [history.values for history in self._histories]
        feedback = [history.feedback for history in self._histories]
        return self.setting.view.render(frame, tasks, values, snippet, feedback)

    def _info(self, m: int, steps: int, digest: str) -> Info:
        history = self._histories[m]
        info: Info = {
            "task": self.setting.tasks[m].id,
            "seed": self.seeds[m],
            "decision": history.decision,
            "steps": steps,
            "evaluation_steps": history.evaluation_steps,
            "score": history.scores[-1],
            "return": history.evaluation_return,
            "values": dict(zip(self._names, history.values, strict=True)),
            "clipped": list(history.clipped),
            "invalid": history.invalid,
            "shifted": history.shifted,
            "diverged": history.diverged,
            "digest": digest,
        }
        if self.options.reward == "uplift":
            info["counterfactual_steps"] = history.counterfactual_steps
            info["counterfactual_evaluation_steps"] = history.counterfactual_evaluation_steps
        if self.ended(m):
            info["meta_score"] = meta_score(history.scores[1:], self.plan.decisions)
        return info
