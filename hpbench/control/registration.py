"""Environment ids. Rows are strings: importing this imports no learner, no task and no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

ENVIRONMENTS: Mapping[str, str] = {
    "HPControl-Classic-v0": "classic",
    "HPControl-Grid-v0": "grid",
    "HPControl-Procgen-v0": "procgen",
    "HPControl-NetHack-v0": "nethack",
    "HPControl-MuJoCo-v0": "mujoco",
    "HPControl-PettingZoo-v0": "pettingzoo",
    "HPControl-Doom-v0": "doom",
    "HPControl-DMLab-v0": "dmlab",
}
"""Gymnasium ids and the task family of each."""

ENTRY_POINT = "hpbench.control.env:HPControlEnv"
VECTOR_ENTRY_POINT = "hpbench.control.vector:HPControlVectorEnv"

PARALLEL_ENVIRONMENTS: Mapping[str, str] = {
    "HPControl-Population-v0": "hpbench.control.parallel:HPControlPopulationEnv",
}
"""Ids of PettingZoo environments, and their classes. They take a task of any family."""


def register_environments() -> None:
    """Register all ids with Gymnasium; those that are registered already are left alone."""
    for name, family in ENVIRONMENTS.items():
        if name not in gym.registry:
            gym.register(
                name, entry_point=ENTRY_POINT, vector_entry_point=VECTOR_ENTRY_POINT, kwargs={"family": family}
            )


def parallel_env(name: str, **options: Any) -> Any:
    """A PettingZoo ``ParallelEnv`` by its id, as ``gym.make`` for Gymnasium's.

    ```python
    env = hpbench.parallel_env("HPControl-Population-v0", task="classic/cartpole", members=8, track="random")
    ```

    Args:
        name: a key of :data:`PARALLEL_ENVIRONMENTS`.
        **options: of :class:`~hpbench.control.parallel.HPControlPopulationEnv`.

    Raises:
        UnknownName: if there is no such id, or option.
        InvalidConfiguration: for options that cannot work.
        MissingExtra: if PettingZoo is not installed.
    """
    from hpbench.errors import UnknownName
    from hpbench.registry import load_object

    if name not in PARALLEL_ENVIRONMENTS:
        raise UnknownName("parallel environment", name, PARALLEL_ENVIRONMENTS)
    return load_object(PARALLEL_ENVIRONMENTS[name])(**options)
