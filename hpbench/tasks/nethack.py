"""The NetHack family: the tasks of the NetHack Learning Environment (Küttler et al. 2020, arXiv 2006.13760).

Games are those of NLE: rules, actions, rewards and character (:mod:`hpbench.tasks.nethack_simulator`). What differs:

- Observations are the glyphs around the hero, the status and the message (:mod:`hpbench.tasks.nethack_layout`).
- All tasks but ``score`` end after 1,000 steps (NLE: 5,000), and a step in which no time passes costs 0.001 (NLE:
  0.01). So an episode of a task with a goal has a positive return if, and only if, the goal was reached.
- What the learner sees of a reward is scaled, by ``reward_scale`` of the physics; returns and scores are not.

**Anchors.** Low is the mean return of a uniformly random policy over 200 episodes, measured by
``examples/nethack_anchors.py`` (``examples/results/nethack_anchors.json``). High is the goal at once for tasks with a
goal. For the others there is no agreed number; theirs is what a policy trained for 2e9 steps on the full game reached
with the same character, in episodes of 2,370 steps on average, with more actions and without the penalty. Scores of
``score`` and ``eat`` are logarithmic, as those numbers lie orders of magnitude apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpbench.tasks.base import Anchors, Budget, HandTuned, Task
from hpbench.tasks.nethack_layout import OBSERVATION_SIZE
from hpbench.tasks.nethack_simulator import ACTIONS, NetHackMaker
from hpbench.tasks.simulator import ExactDynamics

RANDOM = "a random policy (200 episodes, examples/nethack_anchors.py)"
GOAL = f"{RANDOM}, and the goal at once"
APPO = (
    f"{RANDOM}, and Sample Factory's APPO after 2e9 steps of NetHackChallenge (its documentation, "
    "docs/09-environment-integrations/nethack.md at commit 1355efa37c1f: means of 1,024 episodes)"
)
GOAL_RETURN = 0.0005
"""Between 0, the most that an episode without the goal can return, and 0.001, the least with it."""

_HAND_TUNED = {
    "ppo": HandTuned(
        {
            "learning_rate": 1e-4,
            "entropy_coefficient": 1e-3,
            "value_coefficient": 1.0,
            "clip_range": 0.1,
            "discount": 0.999,
            "gae_lambda": 0.999,  # 1.0
            "max_gradient_norm": 4.0,
            "update_epochs": 1,
            "minibatches": 1,  # batches of 1,024 to 4,096: our rollout has 4,096 steps
        },
        "Sample Factory, sf_examples/nethack/nethack_params.py (commit 26c4daa1f1ed): for 2e9 steps",
    )
}


BUDGETS: Mapping[str, Budget] = {
    "small": Budget(122_880, 10),
    "standard": Budget(983_040, 20),
    "paper": Budget(25_600_000, 50),
}
"""By tier; a segment is a whole number of rollouts. Small: where the curves of ``reproduce/nethack`` have left random
play behind."""

ROLLOUTS: Mapping[str, Any] = {"num_envs": 32, "num_steps": 128, "normalize_reward": True}
"""PPO's frozen options. An episode of an unskilled player takes 750 steps, and one in seven reaches a staircase: most
smaller rollouts see no goal at all."""


def _task(
    name: str, low: float, high: float, source: str, summary: str, scale: float = 1.0, limit: int = 1_000
) -> Task:
    """A task.

    Args:
        name: after the slash.
        low, high, source: of the anchors.
        summary: one line.
        scale: of rewards for the learner.
        limit: time limit in steps.
    """
    goal = source == GOAL
    return Task(
        id=f"nethack/{name}",
        observation_size=OBSERVATION_SIZE,
        discrete=True,
        action_count=ACTIONS,
        max_episode_steps=limit,
        anchors=Anchors(low, high, source, log=name in ("score", "eat")),
        success_return=GOAL_RETURN if goal else None,
        budgets=BUDGETS,
        dynamics=ExactDynamics(),
        physics={**ExactDynamics.physics, "reward_scale": scale},
        hand_tuned=_HAND_TUNED,
        simulator=NetHackMaker(name, limit),
        observation_dtype="int16",
        encoder="glyphs",
        learner_config={tier: {"ppo": ROLLOUTS} for tier in BUDGETS},
        summary=summary,
    )


TASKS: Mapping[str, Task] = {
    task.id.partition("/")[2]: task
    for task in (
        _task("score", 28.395, 3245.47, APPO, "raise the score of the game", 0.05, limit=5_000),
        _task("staircase", -0.3707, 1.0, GOAL, "step on a staircase that leads down"),
        _task("staircase-pet", -0.4659, 1.0, GOAL, "step on a staircase that leads down, with the pet beside"),
        _task("oracle", -0.5651, 1.0, GOAL, "stand beside the Oracle, some levels below"),
        _task("gold", 1.631, 76.03, APPO, "collect gold", 0.1),
        _task("eat", 346.01, 14063.26, APPO, "eat what nourishes", 0.005),
        _task("scout", 163.06, 499.05, APPO, "see as much of the dungeon as possible", 0.02),
    )
}
