"""Text observations under other options: other names, without trends, without history.

Environments and collections show real names and everything there is. What an ablation must not see is taken out when
prompts are made, so one collection, and one kind of environment, serves all of them.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from hpbench import learners
from hpbench.control.text import shown_names
from hpbench.errors import InvalidConfiguration

TRENDS = ("d1", "d3", "vsbest", "return_best", "decisions_since_best")
"""Fields that compare segments with each other."""

_TASK = re.compile(r"task \S+ learner (\w+)")
_UPDATE = re.compile(r"update \d ")
_TRAJECTORY = "trajectory: "
_FEEDBACK = "feedback: "
_VALUE = re.compile(r"(\w+) \S+ in \S+\.\.\S+")
_TREND = re.compile(rf" (?:{'|'.join(TRENDS)}) \S+")


@dataclass(frozen=True)
class Rendering:
    """What of an observation is shown.

    Args:
        anonymous: hide the names of task and hyperparameters, as the environment does with ``names="anonymous"``.
        trends: show the fields :data:`TRENDS`.
        history: show the last updates with their effects.
        trajectory: show the last transitions.
        rotated: call each hyperparameter by the name of the next one, to see what names suggest.

    Raises:
        InvalidConfiguration: if names are to be both hidden and rotated.
    """

    anonymous: bool = False
    trends: bool = True
    history: bool = True
    trajectory: bool = True
    rotated: bool = False

    def __post_init__(self) -> None:
        if self.anonymous and self.rotated:
            raise InvalidConfiguration("names are either anonymous or rotated")

    def __call__(self, text: str) -> str:
        """The observation, with the rest left out.

        Args:
            text: a text observation with real names.

        Raises:
            InvalidConfiguration: if it is none.
        """
        head, *lines = text.split("\n")
        match = _TASK.fullmatch(lines[0]) if lines else None
        if match is None:
            raise InvalidConfiguration("not a text observation: its second line must name task and learner")
        if self.anonymous or self.rotated:
            lines = [_rename(line, match[1], self.rotated) for line in lines]
        shown, in_trajectory = [head], False
        for line in lines:
            in_trajectory = (in_trajectory or line.startswith(_TRAJECTORY)) and not line.startswith(_FEEDBACK)
            if (in_trajectory and not self.trajectory) or (_UPDATE.match(line) and not self.history):
                continue
            shown.append(line if self.trends or not line.startswith("score ") else _TREND.sub("", line))
        return "\n".join(shown)


def hide_task(observation: str) -> str:
    """The observation without the name of its task; hyperparameters keep theirs."""
    head, line, rest = observation.split("\n", 2)
    words = line.split(" ")
    words[1] = "unnamed"
    return "\n".join((head, " ".join(words), rest))


def _rename(line: str, learner: str, rotated: bool) -> str:
    if _TASK.fullmatch(line):
        return line if rotated else f"task hidden learner {learner}"
    if _UPDATE.match(line) or _VALUE.fullmatch(line) or line.startswith(_FEEDBACK):
        shown, pattern = _names(learner, rotated)
        return pattern.sub(lambda found: shown[found[0]], line)
    return line


@functools.cache
def _names(learner: str, rotated: bool) -> tuple[dict[str, str], re.Pattern[str]]:
    space = learners.make(learner).hyperparameters
    real = list(space)
    shown = dict(zip(real, [*real[1:], real[0]], strict=True)) if rotated else shown_names(space, "anonymous")
    return shown, re.compile(rf"\b(?:{'|'.join(shown)})\b")
