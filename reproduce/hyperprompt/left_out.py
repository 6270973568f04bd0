"""Models that have never seen the task they control: one for each base task, from which that task was left out.

    reproduce/hyperprompt/left_out.sh                        trains them, into the folder left-out
    hpbench run --agent reproduce.hyperprompt.left_out:LeftOut --suite reproduce/hyperprompt/held-out.toml

Both commands are given in the root of the repository. The task was left out of pretraining and of the teacher; the
other four were there. There is no reinforcement learning in them, so ``hyperprompt-sft`` is what they compare to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.language.controller import LanguageAgent
from agents.language.decision import Decision
from agents.language.hub import HubModel
from agents.language.view import View

FOLDER = Path("left-out")
TASKS = ("acrobot", "cartpole", "mountaincar", "mountaincar-continuous", "pendulum")


class LeftOutModels:
    """A back end that gives each observation to the model which does not know its task.

    Args:
        folder: with a training run of ``hpbench train sft`` for every task, by its name.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._models = {f"classic/{task}": HubModel(str(folder / task / "best")) for task in TASKS}

    def identity(self) -> dict[str, Any]:
        """What the models are, by task."""
        return {task: model.identity() for task, model in self._models.items()}

    def decide(self, observations: Sequence[str], seeds: Sequence[int]) -> list[Decision]:
        """Decisions on observations of one base task."""
        task = observations[0].split("\n")[1].split(" ")[1].partition("@")[0]
        return self._models[task].decide(observations, seeds)


class LeftOut(LanguageAgent):
    """The agent. Reads the folder ``left-out``; like ``hyperprompt``, the models are not shown their last updates."""

    def __init__(self) -> None:
        super().__init__(LeftOutModels(), name="hyperprompt-left-out", view=View(history=False))
