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
from dataclasses import dataclass, field
from typing import Any

from gymnasium import spaces

from hpbench.control.observation import UPDATES, Frame, Schema, UnitScale
from hpbench.hyperparameter import HyperparameterSpace

FORMAT = "hpbench-text/1"
"""First line of every text. The number goes up with any change of words, order, scales or levels."""

CHARSET = string.ascii_letters + string.digits + string.punctuation + " \n"
"""All characters that observations and text actions may hold. A string, not a set: sampling must not depend on hash
seeds."""

MAX_LENGTH = 8192
TRANSITIONS = 4
"""Transitions shown in full."""
LONGEST_LINE = 200
"""Characters of a state in words."""
FULL_WIDTH = 8
"""States and actions with more numbers than this are summarised by mean, deviation, minimum and maximum."""

LINES = ("budget", "performance", "losses", "optimiser", "plasticity", "snippet")
"""Groups of the schema that make one line each."""

_LEVELS = (*(f"[{level:02d}]" for level in range(100)), "[99]")  # the top of the scale counts as 99
_HALF = 50.0 + 1e-9
"""The middle level. The small summand keeps 0.29 * 100 from becoming level 28."""


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
        states: what the policy saw, ``[members][transitions][observation_size]``.
        actions: ``[members][transitions][width]``; discrete actions as numbers.
        rewards: ``[members][transitions]``; empty for a member that has not trained yet.
        words: the last state in words, ``[members]``; of tasks that have words for it.
    """

    states: list[list[list[float]]]
    actions: list[list[list[float]]]
    rewards: list[list[float]]
    words: list[str] = field(default_factory=list)

    def statistics(self, member: int) -> tuple[float, ...]:
        """Summary of a member in the order of the schema's ``snippet`` group."""
        states, actions, rewards = self.states[member], self.actions[member], self.rewards[member]
        count, low, high = len(rewards), min(rewards), max(rewards)
        mean = sum(rewards) / count
        # The mean of equal numbers may be off by a rounding.
        spread = (
            0.0 if low == high else math.sqrt(sum([(reward - mean) * (reward - mean) for reward in rewards]) / count)
        )
        norm = sum([math.hypot(*state) for state in states]) / count
        return mean, spread, low, high, norm, sum(map(sum, actions)) / (count * len(actions[0]))


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
        self._values = schema.group("hyperparameters")
        # The pattern of known features hardly ever changes, and one long template is much faster than many short ones.
        self._template = functools.lru_cache(maxsize=64)(self._make_template)
        # An update is shown several times, each time one line further down.
        self._update = functools.lru_cache(maxsize=1024)(self._make_update)
        hot = schema.hyperparameters.hot
        spans = dict(zip(schema.hyperparameters, UnitScale(schema.hyperparameters).span.tolist(), strict=True))
        self._hot = [(self._shown[name], spans[name], schema.hyperparameters[name].scale == "linear") for name in hot]
        ends = [schema.column(f"effect_{k}") + 1 for k in range(1, UPDATES + 1)]
        self._updates = [slice(end - len(hot) - 1, end) for end in ends]

    def render(
        self,
        frame: Frame,
        tasks: Sequence[str],
        values: Sequence[Sequence[float]],
        snippet: Snippet | None,
        feedback: Sequence[str],
    ) -> list[str]:
        """The texts of all members.

        Args:
            frame: their features.
            tasks: their tasks' ids.
            values: their effective hyperparameters, ``[members][hyperparameters]``.
            snippet: their last transitions; None before the first segment.
            feedback: one line each on the last action, or empty.
        """
        texts = []
        rows = zip(tasks, values, frame.raw, frame.scaled, frame.known, strict=True)
        for member, (task, current, raw, scaled, known) in enumerate(rows):
            template, shown = self._template(bytes(known))
            cells: list[Any] = [None] * (2 * len(shown))
            cells[::2] = [raw[column] * factor + 0.0 for column, factor in shown]
            cells[1::2] = [_LEVELS[int(50.0 * scaled[column] + _HALF)] for column, _ in shown]
            # Hyperparameters come last: the effective values instead of positions.
            cells[-2 * len(current) :: 2] = current
            named = "hidden" if self._anonymous else task
            lines = [f"{FORMAT}\ntask {named} learner {self._schema.learner}", template % tuple(cells)]
            for k, columns in enumerate(self._updates, start=1):
                if known[columns.start]:
                    effect = columns.stop - 1
                    shown_update = self._update((*raw[columns], scaled[effect], known[effect]))
                    lines.append(f"update {k} {shown_update}")
            if snippet is not None and len(snippet.rewards[member]) > 0:
                lines.append(self._trajectory(snippet, member))
                if snippet.words and not self._anonymous:  # words would tell which task it is
                    lines.append(f"shown: {_printable(snippet.words[member])}")
            if feedback[member]:
                lines.append(f"feedback: {feedback[member]}")
            texts.append("\n".join(lines))
        return texts

    def _make_template(self, known: bytes) -> tuple[str, list[tuple[int, float]]]:
        """Format string of the lines of features and hyperparameters, and what fills it: columns and factors.

        Args:
            known: one byte for each column of the schema.
        """
        lines = []
        for line in self._lines:
            words = []
            for column in line:
                feature = self._schema.features[column]
                number = "%+.3g%%%s" if feature.percent else "%.4g%s"
                words.append(f"{feature.label or feature.name} {number if known[column] else '-'}")
            lines.append(" ".join(words))
        for name, item in self._schema.hyperparameters.items():
            lines.append(f"{self._shown[name]} %.12g%s in {item.low:.5g}..{item.high:.5g}")
        shown = [*(column for line in self._lines for column in line), *self._values]
        factors = {column: 100.0 if self._schema.features[column].percent else 1.0 for column in shown}
        return "\n".join(lines), [(column, factors[column]) for column in shown if known[column]]

    def _make_update(self, numbers: tuple[float, ...]) -> str:
        """What an update did, as factors in each hyperparameter's own sense (or differences on linear scales).

        Args:
            numbers: each change in turn, which is its position, too; the effect, its position, and whether it is known.
        """
        *changes, effect, position, known = numbers
        words = []
        for (label, span, linear), change in zip(self._hot, changes, strict=True):
            if change != 0.0:
                size = f"{change * span:+.3g}" if linear else f"x{math.exp(change * span):.3g}"
                words.append(f"{label} {size}{_level(change)}")
        result = f"{100.0 * effect + 0.0:+.3g}%{_level(position)}" if known else "-"
        return f"{' '.join(words) if words else 'keep'} effect {result}"

    @staticmethod
    def _trajectory(snippet: Snippet, member: int) -> str:
        states, actions = snippet.states[member][-TRANSITIONS:], snippet.actions[member][-TRANSITIONS:]
        rewards = snippet.rewards[member][-TRANSITIONS:]
        numbers: list[float] = []
        for state, action, reward in zip(states, actions, rewards, strict=True):
            numbers += (*_brief(state), *_brief(action), reward)
        template = _transitions(len(_brief(states[0])), len(_brief(actions[0])), len(rewards))
        return template % tuple([number + 0.0 for number in numbers])


@functools.cache
def _transitions(state: int, action: int, count: int) -> str:
    """Format string of transitions with that many numbers in a state and in an action."""
    line = " | ".join([" ".join(["%.3g"] * width) for width in (state, action, 1)])
    return "\n".join(["trajectory: state | action | reward", *[line] * count])


def _printable(words: str) -> str:
    """Words of a simulator as one line of characters that texts may hold."""
    return "".join(letter if letter in CHARSET else "?" for letter in words.replace("\n", " "))[:LONGEST_LINE]


def _level(scaled: float) -> str:
    """Level of a position in [-1, 1]."""
    return _LEVELS[int(50.0 * scaled + _HALF)]


def _brief(numbers: Sequence[float]) -> Sequence[float]:
    """The numbers themselves, or their mean, deviation, minimum and maximum if they are many."""
    if len(numbers) <= FULL_WIDTH:
        return numbers
    mean = sum(numbers) / len(numbers)
    spread = math.sqrt(sum([(number - mean) * (number - mean) for number in numbers]) / len(numbers))
    return mean, spread, min(numbers), max(numbers)
