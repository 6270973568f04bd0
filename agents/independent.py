"""A population that does nothing: what copying has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.delta import keep_all
from hpbench.agent import PopulationSpec


class Independent:
    """Every member trains on alone, with the hyperparameters it started with.

    On the ``random`` track this is random search with as many runs as there are members, the reference at equal cost
    for every population method.
    """

    name = "independent"
    observation = "vector"
    action = "delta"

    def reset_population(self, spec: PopulationSpec, seed: int) -> None:
        """Start of a meta-episode. ``seed`` is not used: nothing is random here."""
        self._spec = spec

    def act_population(self, observations: Mapping[str, Any]) -> dict[str, Any]:
        """Keep and copy nobody, for every running member."""
        index = {name: m for m, name in enumerate(self._spec.members)}
        return {name: {"copy_from": index[name], "update": keep_all(self._spec)} for name in observations}
