"""The text view of an observation: compact, stable, readable by any language model.

One line per topic, every number as ``name raw[level]``: the raw value to four digits, and its position on the feature's
frozen scale from 00 to 99, so that a small model can compare numbers by one token each. ``-`` stands where a feature
has no value.

The text says what the vector says, with three exceptions: the name of the task, the bounds of the hyperparameters (both
constant, both in :class:`~hpbench.agent.AgentSpec`), and the last transitions of one training environment as raw
numbers, of which the vector holds summary statistics only.
"""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hpbench.control.observation import UPDATES, Floats, Frame, Schema, UnitScale
from hpbench.hyperparameter import HyperparameterSpace

FORMAT = "hpbench-text/1"
"""First line of every text. The number goes up with any change of words, order, scales or levels."""

CHARSET = string.ascii_letters + string.digits + string.punctuation + " \n"
"""All characters that observations and text actions may hold. A string, not a set: sampling must not depend on hash
seeds."""

MAX_LENGTH = 8192
TRANSITIONS = 4
"""Transitions shown in full."""
FULL_WIDTH = 8
"""States and actions with more numbers than this are summarised by mean, deviation, minimum and maximum."""

LINES = ("budget", "performance", "losses", "optimiser", "plasticity", "snippet")
"""Groups of the schema that make one line each."""


def text_space() -> spaces.Text:
    """Space of text observations."""
    return spaces.Text(MAX_LENGTH, charset=CHARSET)


def shown_names(hyperparameters: HyperparameterSpace, names: str) -> dict[str, str]:
    """What each hyperparameter is called in texts: its name, or ``h1``, ``h2``, ... in order if ``names`` is
    ``anonymous``."""
    if names == "anonymous":
        return {name: f"h{i}" for i, name in enumerate(hyperparameters, start=1)}
    return {name: name for name in hyperparameters}


@dataclass(frozen=True)
class Snippet:
    """The last transitions of the first training environment of each member, oldest first.

    Args:
        states: what the policy saw, float32 ``[members, transitions, observation_size]``.
        actions: float32 ``[members, transitions, width]``; discrete actions as numbers.
        rewards: float32 ``[members, transitions]``.
    """

    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]

    def statistics(self) -> Floats:
        """Summary of each member in the order of the schema's ``snippet`` group: float64 ``[members, 6]``."""
        # Bare ufuncs: on a few small arrays, mean() and std() would cost more than all other features together.
        count = self.rewards.shape[1]
        rewards = self.rewards.astype(np.float64)
        mean = np.add.reduce(rewards, axis=1) / count
        low, high = np.minimum.reduce(rewards, axis=1), np.maximum.reduce(rewards, axis=1)
        residual = rewards - mean[:, None]
        deviation = np.sqrt(np.einsum("mk,mk->m", residual, residual) / count)
        deviation[low == high] = 0.0  # the mean of equal numbers may be off by a rounding
        states = self.states.astype(np.float64)
        norm = np.add.reduce(np.sqrt(np.einsum("mks,mks->mk", states, states)), axis=1) / count
        action = np.add.reduce(self.actions, axis=(1, 2), dtype=np.float64) / (count * self.actions.shape[2])
        return np.array([mean, deviation, low, high, norm, action]).T


class TextView:
    """Renders frames as text.

    Args:
        schema: of the frames.
        names: ``real``, or ``anonymous`` to hide task and hyperparameter names.
    """

    def __init__(self, schema: Schema, names: str) -> None:
        self._schema, self._anonymous = schema, names == "anonymous"
        self._shown = shown_names(schema.hyperparameters, names)
        self._lines = [schema.group(name) for name in LINES]
        self._values = np.array(schema.group("hyperparameters"))
        self._columns = np.array([*(column for line in self._lines for column in line), *self._values.tolist()])
        self._scale = np.array([100.0 if feature.percent else 1.0 for feature in schema.features])
        # The pattern of known features hardly ever changes, and one long template is much faster than many short ones.
        self._template = functools.lru_cache(maxsize=64)(self._make_template)
        # An update is shown several times, each time one line further down.
        self._update = functools.lru_cache(maxsize=1024)(self._make_update)
        hot = schema.hyperparameters.hot
        spans = dict(zip(schema.hyperparameters, UnitScale(schema.hyperparameters).span.tolist(), strict=True))
        self._hot = [(self._shown[name], spans[name], schema.hyperparameters[name].scale == "linear") for name in hot]
        self._updates = [
            slice(schema.column(f"effect_{k}") - len(hot), schema.column(f"effect_{k}") + 1)
            for k in range(1, UPDATES + 1)
        ]

    def render(
        self,
        frame: Frame,
        tasks: Sequence[str],
        values: Floats,
        snippet: Snippet | None,
        feedback: Sequence[str],
    ) -> list[str]:
        """The texts of all members.

        Args:
            frame: their features.
            tasks: their tasks' ids.
            values: their effective hyperparameters, float64 ``[members, hyperparameters]``.
            snippet: their last transitions; None before the first segment.
            feedback: one line each on the last action, or empty.
        """
        table = np.empty((*frame.raw.shape, 2))
        np.multiply(frame.raw, self._scale, out=table[:, :, 0])
        table[:, self._values, 0] = values
        table += 0.0  # no -0.0
        # The small summand keeps 0.29 * 100 from becoming level 28.
        np.minimum(np.floor(100.0 * frame.position + 1e-9), 99.0, out=table[:, :, 1])
        texts = []
        for member, task in enumerate(tasks):
            known = frame.known[member]
            template, columns = self._template(known[self._columns].tobytes())
            lines = [FORMAT, f"task {'hidden' if self._anonymous else task} learner {self._schema.learner}"]
            lines.append(template % tuple(table[member, columns].ravel().tolist()))
            lines += self._history(table[member], known)
            if snippet is not None:
                lines.append("trajectory: state | action | reward")
                lines += self._trajectory(snippet, member)
            if feedback[member]:
                lines.append(f"feedback: {feedback[member]}")
            texts.append("\n".join(lines))
        return texts

    def _make_template(self, pattern: bytes) -> tuple[str, NDArray[np.intp]]:
        """Format string of the lines of features and hyperparameters, and the columns that fill it.

        Args:
            pattern: for each of ``self._columns``, one byte: whether it is known.
        """
        known = dict(zip(self._columns.tolist(), pattern, strict=True))
        lines = []
        for line in self._lines:
            words = []
            for column in line:
                feature = self._schema.features[column]
                number = ("%+.3g%%" if feature.percent else "%.4g") + "[%02d]"
                words.append(f"{feature.label or feature.name} {number if known[column] else '-'}")
            lines.append(" ".join(words))
        for name, item in self._schema.hyperparameters.items():
            lines.append(f"{self._shown[name]} %.12g[%02d] in {item.low:.5g}..{item.high:.5g}")
        return "\n".join(lines), np.array([column for column in self._columns.tolist() if known[column]])

    def _history(self, table: Floats, known: NDArray[np.bool_]) -> list[str]:
        """One line per update, the newest first."""
        return [
            f"update {k} {self._update(table[columns].tobytes(), bool(known[columns.stop - 1]))}"
            for k, columns in enumerate(self._updates, start=1)
            if known[columns.start]
        ]

    def _make_update(self, numbers: bytes, known: bool) -> str:
        """What an update did, as factors in each hyperparameter's own sense (or differences on linear scales).

        Args:
            numbers: raw value and level of each change, then of its effect; float64.
            known: whether the effect is known.
        """
        *changes, (effect, effect_level) = np.frombuffer(numbers).reshape(-1, 2).tolist()
        words = []
        for (label, span, linear), (change, level) in zip(self._hot, changes, strict=True):
            if change != 0.0:
                size = f"{change * span:+.3g}" if linear else f"x{math.exp(change * span):.3g}"
                words.append(f"{label} {size}[{level:02.0f}]")
        result = f"{effect:+.3g}%[{effect_level:02.0f}]" if known else "-"
        return f"{' '.join(words) if words else 'keep'} effect {result}"

    @staticmethod
    def _trajectory(snippet: Snippet, member: int) -> list[str]:
        parts = [snippet.states[member, -TRANSITIONS:], snippet.actions[member, -TRANSITIONS:]]
        parts = [part if part.shape[1] <= FULL_WIDTH else _summary(part) for part in parts]
        state, action = ("%.3g " * part.shape[1] for part in parts)
        line = f"{state}| {action}| %.3g"
        rows = np.concatenate((*parts, snippet.rewards[member, -TRANSITIONS:, None]), axis=1) + 0.0
        return [line % tuple(row) for row in rows.tolist()]


def _summary(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack((rows.mean(axis=1), rows.std(axis=1), rows.min(axis=1), rows.max(axis=1)), axis=1)
