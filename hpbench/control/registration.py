"""Environment ids. Rows are strings: importing this imports no learner, no task and no PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym

ENVIRONMENTS: Mapping[str, str] = {"HPControl-Classic-v0": "classic", "HPControl-Grid-v0": "grid"}
"""Gymnasium ids and the task family of each."""

ENTRY_POINT = "hpbench.control.env:HPControlEnv"


def register_environments() -> None:
    """Register all ids with Gymnasium; those that are registered already are left alone."""
    for name, family in ENVIRONMENTS.items():
        if name not in gym.registry:
            gym.register(name, entry_point=ENTRY_POINT, kwargs={"family": family})
