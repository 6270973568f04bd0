"""Branches on demand: training states of a collection, brought back to life, and what any update really gains there.

A shard follows from the settings of its collection, so its meta-episodes can be lived through again, bit for bit on the
same platform. The states that were branched then are kept, and from them any completion can be tried: under the same
continuations as the recorded branches, so a completion that was recorded gains exactly what was recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.language.prompt import names_in, read_completion
from agents.language.rendering import Rendering
from agents.training.branch_sets import try_updates
from agents.training.collect import SETTINGS_FILE
from agents.training.labels import LabelRule, measure, paired_gains
from agents.training.plan import plan_shards
from agents.training.schema import read_rows
from agents.training.settings import load_settings
from agents.training.shard import Progress, ShardRun
from agents.training.tagged import keep
from hpbench.control.episode import EpisodeBatch
from hpbench.errors import InvalidAction, InvalidConfiguration

Choices = tuple[int, ...]


@dataclass(frozen=True)
class Alive:
    """A state that can be branched.

    Args:
        episode, decision: which one of the collection.
        observation: as prompts show it.
        batch: a batch of one that stands there.
        unit: deviation of measured gains on its task, which rewards are counted in.
    """

    episode: str
    decision: int
    observation: str
    batch: EpisodeBatch
    unit: float


class LivePool:
    """States of the split ``train`` that answer what completions gain.

    Args:
        collection: folder of ``hpbench collect``, with branch sets.
        shards: how many of its shards are lived through again, the first ones.
        rule: whose horizon and source gains are measured by.
        rendering: what prompts show.
        without: tasks whose states are left out.
        progress: called with the number of shards that are done.

    Raises:
        InvalidConfiguration: if the collection has no branch sets.
    """

    def __init__(
        self,
        collection: Path,
        shards: int,
        rule: LabelRule | None = None,
        rendering: Rendering | None = None,
        without: Collection[str] = (),
        progress: Progress = lambda done: None,
    ) -> None:
        self.settings, self.rule = load_settings(collection / SETTINGS_FILE), LabelRule() if rule is None else rule
        rendering = Rendering() if rendering is None else rendering
        units = _units(collection, self.rule)
        self.states: list[Alive] = []
        for shard in plan_shards(self.settings)[:shards]:
            replay = _Replay(self.settings, shard)
            tables = replay.collect()["train"]
            texts = {(row["episode"], row["decision"]): row["text"] for row in tables["states"]}
            for batch, row in replay.kept:
                episode, decision = row["episode"], row["decision"]
                if row["base"] in without:
                    continue
                unit = units[row["base"], row["learner"]]
                self.states.append(Alive(episode, decision, rendering(texts[episode, decision]), batch, unit))
            progress(float(shard.index + 1))
        if not self.states:
            raise InvalidConfiguration("these shards have no branched states: take more, or collect with branches")
        self._known: dict[tuple[int, Choices], NDArray[np.float64]] = {}
        self.tried = 0

    def gains(self, states: Sequence[int], completions: Sequence[str]) -> list[float | None]:
        """What completions gain over keeping everything, in normalised score; None for text that is no completion.

        Args:
            states: indices into :attr:`states`.
            completions: one for each.
        """
        found: list[float | None] = []
        for index, text in zip(states, completions, strict=True):
            state = self.states[index]
            try:
                choices = read_completion(text, names_in(state.observation))
            except InvalidAction:
                found.append(None)
                continue
            noop = tuple(keep(state.batch.setting.hyperparameters).tolist())
            scores = [self._scores(index, each) for each in (choices, noop)]
            found.append(float((scores[0] - scores[1]).mean()))
        return found

    def rewards(self, states: Sequence[int], completions: Sequence[str], clip: float, invalid: float) -> list[float]:
        """Gains in units of their noise, cut at ``clip``; ``invalid`` for text that is no completion."""
        gains = self.gains(states, completions)
        return [
            invalid if gain is None else _in_units(gain, self.states[i].unit, clip)
            for i, gain in zip(states, gains, strict=True)
        ]

    def _scores(self, index: int, choices: Choices) -> NDArray[np.float64]:
        """Mean score over the horizon after an update, in every continuation; float64 ``[M]``."""
        if (index, choices) not in self._known:
            branching = self.settings.branches
            update = np.array(choices, dtype=np.int8)
            found = try_updates(
                self.states[index].batch,
                [[update]],
                branching.seeds,
                branching.horizon,
                branching.evaluation_episodes,
            )[0]
            scores = found.training_scores if self.rule.source == "training" else found.scores
            self._known[index, choices] = scores[0, :, : self.rule.horizon].astype(np.float64).mean(axis=1)
            self.tried += 1
        return self._known[index, choices]


class _Replay(ShardRun):
    """Lives through a shard again and, in place of branching states, keeps them."""

    @property
    def kept(self) -> list[tuple[EpisodeBatch, Mapping[str, Any]]]:
        """Training states and their rows."""
        return [(batch, row) for batch, _, row in self._held["train"]]

    def _flush(self, progress: Progress, everything: bool) -> None:
        pass


def _units(collection: Path, rule: LabelRule) -> dict[tuple[str, str], float]:
    """Root mean square of the noise of measured gains, by task and learner."""
    noise: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for row in read_rows(collection, "branches", "train"):
        noise.setdefault((row["base"], row["learner"]), []).append(measure(paired_gains(row, rule)).noise[1:])
    return {name: float(np.sqrt(np.concatenate(values).mean())) for name, values in noise.items()}


def _in_units(gain: float, unit: float, clip: float) -> float:
    return float(np.clip(gain / unit, -clip, clip)) if unit > 0.0 else 0.0
