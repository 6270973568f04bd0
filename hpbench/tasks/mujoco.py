"""The MuJoCo family: eight of Gymnasium's continuous-control tasks, version 5, on the simulator itself."""

from __future__ import annotations

from collections.abc import Mapping

from hpbench.tasks.base import Anchors, Budget, HandTuned, Task
from hpbench.tasks.mujoco_simulator import MujocoMaker
from hpbench.tasks.simulator import ExternalDynamics
from hpbench.tasks.zoo import zoo_ppo, zoo_sac

ENVIRONMENTS: Mapping[str, str] = {
    "inverted-pendulum": "InvertedPendulum-v5",
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "ant": "Ant-v5",
    "swimmer": "Swimmer-v5",
    "inverted-double-pendulum": "InvertedDoublePendulum-v5",
    "reacher": "Reacher-v5",
}
"""Gymnasium's ids."""

RANDOM = "a random policy over 100 episodes (examples/mujoco_anchors.py, MuJoCo 4.0.0)"
D4RL = "the expert of D4RL (Fu et al. 2020, arXiv 2004.07219), on an older version of the task"
THRESHOLD = "Gymnasium's reward_threshold"

BUDGETS: Mapping[str, Budget] = {
    "small": Budget(102_400, 20),
    "standard": Budget(1_024_000, 40),
    "paper": Budget(1_024_000, 50),
}
"""A segment is a whole number of rollouts of 512 steps. A million steps are what is usual in publications."""

_PPO = {"normalize_observation": True, "normalize_reward": True}
_LARGE_SAC = {"hidden": (256, 256), "buffer_size": 200_000, "learning_starts": 10_000}
CONFIGURATIONS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "small": {"ppo": _PPO, "sac": {"learning_starts": 1_000}},
    "standard": {"ppo": _PPO, "sac": _LARGE_SAC},
    "paper": {"ppo": _PPO, "sac": _LARGE_SAC},
}
"""Frozen options by tier. PPO normalises as the Zoo does; SAC has its networks and warm-up where there is time."""


def _task(
    name: str,
    sizes: tuple[int, int],
    low: float,
    high: tuple[float, str],
    success: float | None,
    hand_tuned: Mapping[str, HandTuned],
    summary: str,
    limit: int = 1000,
    bound: float = 1.0,
) -> Task:
    """A row.

    Args:
        name: a key of :data:`ENVIRONMENTS`.
        sizes: of observations and of actions.
        low, high: anchors, the latter with its source.
        success: Gymnasium's reward_threshold.
        bound: largest action.
    """
    return Task(
        id=f"mujoco/{name}",
        observation_size=sizes[0],
        discrete=False,
        action_count=sizes[1],
        max_episode_steps=limit,
        anchors=Anchors(low, high[0], f"{RANDOM}, and {high[1]}"),
        success_return=success,
        budgets=BUDGETS,
        dynamics=ExternalDynamics(),
        physics=ExternalDynamics.physics,
        hand_tuned=hand_tuned,
        action_low=-bound,
        action_high=bound,
        simulator=MujocoMaker(ENVIRONMENTS[name]),
        learner_config=CONFIGURATIONS,
        summary=summary,
    )


_HALFCHEETAH = zoo_ppo(
    "HalfCheetah-v3", learning_rate=2.0633e-5, entropy_coefficient=4.01762e-4, value_coefficient=0.58096,
    clip_range=0.1, discount=0.98, gae_lambda=0.92, max_gradient_norm=0.8, update_epochs=20,
)  # fmt: skip
_HOPPER = zoo_ppo(
    "Hopper-v3", learning_rate=9.80828e-5, entropy_coefficient=2.29519e-3, value_coefficient=0.835671,
    discount=0.999, gae_lambda=0.99, max_gradient_norm=0.7, update_epochs=5, minibatches=16,
)  # fmt: skip
_WALKER = zoo_ppo(
    "Walker2d-v3", learning_rate=5.05041e-5, entropy_coefficient=5.85045e-4, value_coefficient=0.871923,
    clip_range=0.1, max_gradient_norm=1.0, update_epochs=20, minibatches=16,
)  # fmt: skip
_PENDULUM = zoo_ppo(
    "InvertedPendulum-v3", learning_rate=2.22425e-4, value_coefficient=0.19816, clip_range=0.4, discount=0.999,
    gae_lambda=0.9, max_gradient_norm=0.3, update_epochs=5,
)  # fmt: skip
_DOUBLE_PENDULUM = zoo_ppo(
    "InvertedDoublePendulum-v3", learning_rate=1.55454e-4, value_coefficient=0.695929, clip_range=0.4, discount=0.98,
    gae_lambda=0.8, minibatches=1,
)  # fmt: skip
_REACHER = zoo_ppo(
    "Reacher-v2", learning_rate=1.04019e-4, value_coefficient=0.950368, clip_range=0.3, discount=0.9,
    gae_lambda=0.999, max_gradient_norm=0.9, update_epochs=5, minibatches=16,
)  # fmt: skip

_TASKS = (
    _task(
        "inverted-pendulum", (4, 1), 5.6, (1000.0, "the time limit"), 950.0, _PENDULUM,
        "balance a pole on a cart by pushing the cart", bound=3.0,
    ),
    _task(
        "halfcheetah", (17, 6), -268.0, (12135.0, D4RL), 4800.0, _HALFCHEETAH | zoo_sac("HalfCheetah-v3"),
        "make a planar animal with two legs run forward as fast as it can",
    ),
    _task(
        "hopper", (11, 3), 17.0, (3234.0, D4RL), 3800.0, _HOPPER | zoo_sac("Hopper-v3"),
        "make a planar leg hop forward without falling",
    ),
    _task(
        "walker2d", (17, 6), 1.9, (4592.0, D4RL), None, _WALKER | zoo_sac("Walker2d-v3"),
        "make a planar figure with two legs walk forward without falling",
    ),
    _task(
        "ant", (105, 8), -47.0, (3880.0, D4RL), 6000.0, zoo_ppo("Ant-v3") | zoo_sac("Ant-v3"),
        "make a body on four legs walk forward, with contact forces in view",
    ),
    _task(
        "swimmer", (8, 2), 3.2, (360.0, THRESHOLD), 360.0,
        zoo_ppo("Swimmer-v3", discount=0.9999) | zoo_sac("Swimmer-v3", discount=0.9999),
        "make a chain of three links swim forward",
    ),
    _task(
        "inverted-double-pendulum", (9, 1), 50.0, (9100.0, THRESHOLD), 9100.0, _DOUBLE_PENDULUM,
        "balance two poles, one on top of the other, on a cart",
    ),
    _task(
        "reacher", (10, 2), -42.9, (-3.75, THRESHOLD), -3.75, _REACHER,
        "move the tip of an arm with two joints to a target", limit=50,
    ),
)  # fmt: skip

TASKS: Mapping[str, Task] = {task.id.partition("/")[2]: task for task in _TASKS}
