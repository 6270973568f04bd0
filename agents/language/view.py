"""What a language agent is shown of its observations: everything as it is, or less, for ablations and controls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agents.language.prompt import names_in
from agents.language.rendering import Rendering
from hpbench.errors import UnknownName

NAMES = ("real", "anonymous", "rotated")
"""What hyperparameters are called: by their names, ``h1``, ``h2``, ... (and the task is hidden), or each by the name of
the next one."""


@dataclass(frozen=True)
class View:
    """What is shown.

    Args:
        names: one of :data:`NAMES`.
        trends, history, trajectory: as in :class:`~agents.language.rendering.Rendering`.
        permuted: every member of a batch is shown what the next one sees, so that only what all of them have in common
            (the task, the time, what updates usually do) can be used. A member that is alone sees itself.

    Raises:
        UnknownName: if there are no such names.
    """

    names: str = "real"
    trends: bool = True
    history: bool = True
    trajectory: bool = True
    permuted: bool = False

    def __post_init__(self) -> None:
        if self.names not in NAMES:
            raise UnknownName("names", self.names, NAMES)

    @property
    def rendering(self) -> Rendering:
        """The part that concerns a single text."""
        return Rendering(self.names == "anonymous", self.trends, self.history, self.trajectory, self.names == "rotated")

    def show(self, observations: Sequence[str]) -> list[str]:
        """The observations as the model sees them."""
        if self == View():
            return list(observations)
        texts = [self.rendering(text) for text in observations]
        return [*texts[1:], *texts[:1]] if self.permuted else texts

    def translate(self, action: str, observation: str) -> str:
        """An answer by the names shown, as an action by the names of the observation.

        What is no JSON object stays as it is: an invalid action.
        """
        if self.names == "real":
            return action
        real, shown = names_in(observation), names_in(self.rendering(observation))
        try:
            wishes = json.loads(action)
            renamed = {dict(zip(shown, real, strict=True)).get(name, name): wish for name, wish in wishes.items()}
        except (ValueError, AttributeError):
            return action
        # In the order of the observation, as the model would have said it.
        return json.dumps({name: renamed[name] for name in sorted(renamed, key=_order(real))})


def _order(names: Sequence[str]) -> Callable[[str], int]:
    return lambda name: names.index(name) if name in names else len(names)
