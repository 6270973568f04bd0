"""PPO learns the grid worlds: what it is tested on are levels that it has not trained on."""

from __future__ import annotations

import pytest

from hpbench import tasks
from hpbench.learners import native
from hpbench.learners.ppo import PPO


@pytest.mark.slow
@pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")
@pytest.mark.parametrize(
    ("task_id", "steps", "success"), [("doorkey-5x5", 61_440, 0.95), ("fourrooms-9x9", 102_400, 0.8)]
)
def test_ppo_learns(task_id: str, steps: int, success: float) -> None:
    task = tasks.make(f"grid/{task_id}")
    assert steps <= task.budgets["small"].steps
    population = PPO(task, range(3), values=task.hand_tuned["ppo"].values)
    untrained = population.evaluate(100).returns
    population.train(steps // population.steps_per_rollout)
    trained = population.evaluate(100).returns
    assert ((untrained > 0).mean(axis=1) < 0.6).all()
    assert ((trained > 0).mean(axis=1) >= success).all()
