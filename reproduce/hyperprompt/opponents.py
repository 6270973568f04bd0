"""Opponents whose settings were searched for by ``tune.py``, and what it plays them by.

cd reproduce/hyperprompt
hpbench run --agent opponents:BestStatic --agent opponents:TunedKL --suite held-out.toml
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.kl_adaptive import KLAdaptive
from hpbench import learners
from hpbench.agent import AgentSpec
from hpbench.control.episode import EpisodeBatch
from hpbench.control.options import EnvOptions
from hpbench.control.tracks import INITIAL_RANGES

HERE = Path(__file__).parent


class Static:
    """Jumps to given values at the first decision and keeps them.

    Args:
        values: of hot hyperparameters by name; others get the learner's default.
    """

    name = "static"
    observation = "vector"
    action = "absolute"

    def __init__(self, values: Mapping[str, float]) -> None:
        self.values = dict(values)

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode. ``seed`` is not used: nothing is random here."""
        self._action = absolute(spec, self.values)

    def act(self, observation: Any) -> NDArray[np.float32]:
        """The values as an ``absolute`` action, the same at every decision."""
        return self._action.copy()


class BestStatic(Static):
    """The best of many constant settings for the base task, found on its training variants: ``static.json``."""

    name = "static-512"

    def __init__(self) -> None:
        found = json.loads((HERE / "static.json").read_text(encoding="utf-8"))
        self.settings = {task: each["values"] for task, each in found["tasks"].items()}

    def reset(self, spec: AgentSpec, seed: int) -> None:
        """Start of a meta-episode.

        Raises:
            KeyError: if nothing was found for the task.
        """
        self._action = absolute(spec, self.settings[spec.task.base])


class TunedKL(KLAdaptive):
    """The KL-adaptive learning rate with the target and factor that were best on training variants: ``kl.json``."""

    name = "kl-adaptive-tuned"

    def __init__(self) -> None:
        best = json.loads((HERE / "kl.json").read_text(encoding="utf-8"))["best"]
        super().__init__(best["target"], best["factor"])


def absolute(spec: AgentSpec, values: Mapping[str, float]) -> NDArray[np.float32]:
    """An ``absolute`` action: float32 ``[hot hyperparameters]``."""
    chosen = spec.hyperparameters.defaults() | dict(values)
    space = spec.hyperparameters
    return np.array([space[name].to_action(chosen[name]) for name in space.hot], dtype=np.float32)


def draw_settings(count: int, *entropy: int) -> list[dict[str, float]]:
    """PPO settings, uniform on each hyperparameter's own scale inside the ranges of the track ``random``."""
    space, generator = learners.make("ppo").hyperparameters, np.random.default_rng(entropy)
    settings = []
    for _ in range(count):
        values = {}
        for name in space.hot:
            low, high = (space[name].to_unit(bound) for bound in INITIAL_RANGES["ppo"][name])
            values[name] = float(space[name].from_unit(low + (high - low) * generator.random()))
        settings.append(values)
    return settings


@dataclass(frozen=True)
class Job:
    """Meta-episodes that are played side by side: one agent each.

    Args:
        key: what the result is filed under.
        task, track: of all of them; the task may be a split, from which each seed draws a variant.
        agents: ``("static", values)`` or ``("kl", target, factor)``, one for each seed.
        seeds: of the meta-episodes.
        small: overrides of the budget, for tests.
    """

    key: str
    task: str
    track: str
    agents: Sequence[tuple[Any, ...]]
    seeds: Sequence[int]
    small: Mapping[str, int]


def play(job: Job, report: Any) -> list[float]:
    """Meta-scores of the job's meta-episodes."""
    kinds = {"static": lambda values: Static(values), "kl": KLAdaptive}
    agents = [kinds[kind](*arguments) for kind, *arguments in job.agents]
    options = EnvOptions(
        task=job.task, track=job.track, observation="vector", action=agents[0].action, device="cpu",
        split=job.task.rpartition("@")[2].partition("-")[0], **job.small,
    )  # fmt: skip
    batch = EpisodeBatch(options, list(job.seeds))
    observations, _ = batch.reset()
    for agent, spec in zip(agents, batch.specs, strict=True):
        agent.reset(spec, 0)
    scores: dict[int, float] = {}
    while len(scores) < len(agents):
        step = batch.step([agent.act(seen) for agent, seen in zip(agents, observations, strict=True)])
        observations = step.observations
        for i, info in enumerate(step.infos):
            if "meta_score" in info["hpbench"]:
                scores[i] = float(info["hpbench"]["meta_score"])
    return [scores[i] for i in range(len(agents))]
