"""The PettingZoo family: cooperative tasks of several agents, all played by one policy.

Each agent is an environment to the learner, and a step is one action of one agent: a world of three agents takes three
steps at once. All agents of a world get the same reward, the mean of what PettingZoo gives to each. So the return of an
episode is that mean, summed up; published results often sum over agents instead.

Time limits cut episodes and are bootstrapped, as everywhere here. With these short episodes that makes the discount the
hyperparameter to watch: near 1, most of a value is about what comes after the limit, which is never seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpbench.tasks.base import Anchors, Budget, HandTuned, Task
from hpbench.tasks.pettingzoo_simulator import PettingZooMaker
from hpbench.tasks.simulator import ExternalDynamics

ANCHORS = "examples/pettingzoo_anchors.py, mpe2 1.1.1, PettingZoo 1.27.0"
TOLD = f"a random policy and a scripted one that is told who should go where ({ANCHORS})"
LEARNED = (
    f"a random policy ({ANCHORS}), and PPO after 6.5 million steps, the best of three runs"
    " (reproduce/pettingzoo/long_runs.py)"
)

MAPPO = (
    "MAPPO (Yu et al. 2022, arXiv 2103.01955), scripts/train_mpe_scripts and config.py of"
    " github.com/marlbenchmark/on-policy"
)


def _mappo(epochs: int, note: str = "") -> Mapping[str, HandTuned]:
    """Published values, in our words. There, a minibatch is the whole rollout, of 128 worlds, and a time limit counts
    as an end."""
    values = {
        "learning_rate": 7e-4,
        "entropy_coefficient": 0.01,
        "value_coefficient": 1.0,
        "clip_range": 0.2,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "max_gradient_norm": 10.0,
        "update_epochs": epochs,
        "minibatches": 1,
    }
    return {"ppo": HandTuned(values, MAPPO + note)}


def _budgets(small: int, standard: int, paper: int) -> Mapping[str, Budget]:
    """Steps by tier, of all agents together."""
    return {"small": Budget(small, 20), "standard": Budget(standard, 40), "paper": Budget(paper, 50)}


def _task(
    name: str,
    sizes: tuple[int, int, int],
    anchors: tuple[float, float],
    budgets: Mapping[str, Budget],
    rollout: tuple[int, int],
    hand_tuned: Mapping[str, HandTuned],
    summary: str,
    limit: int = 25,
) -> Task:
    """A row.

    Args:
        name: a key of :data:`~hpbench.tasks.pettingzoo_worlds.WORLDS`.
        sizes: agents, numbers that the one with the longest observation sees, and choices of the one that has most.
        anchors: low and high.
        rollout: PPO's worlds, and steps of each.
    """
    agents, seen, actions = sizes
    configurations: Mapping[str, Mapping[str, Any]] = {
        "ppo": {"num_envs": rollout[0] * agents, "num_steps": rollout[1], "normalize_reward": True},
        "dqn": {"num_envs": agents, "num_steps": 400, "buffer_size": 48_000},
    }
    return Task(
        id=f"pettingzoo/{name}",
        observation_size=seen + agents,
        discrete=True,
        action_count=actions,
        max_episode_steps=limit,
        anchors=Anchors(*anchors, LEARNED if name == "pursuit" else TOLD),
        success_return=None,
        budgets=budgets,
        dynamics=ExternalDynamics(),
        physics=ExternalDynamics.physics,
        hand_tuned=hand_tuned,
        simulator=PettingZooMaker(name, agents, seen),
        agents=agents,
        learner_config=dict.fromkeys(budgets, configurations),
        summary=summary,
    )


# The paper tier has MAPPO's number of steps, where it was run: 2, 20 and 3 million of a world, so times the agents.
_TASKS = (
    _task(
        "simple-speaker-listener", (2, 11, 5), (-39.8, -7.4), _budgets(480_000, 4_800_000, 4_000_000), (32, 25),
        _mappo(15, ": simple_speaker_listener (there with a policy for each role)"),
        "tell a listener that moves, but does not know where to, which of three landmarks is the goal",
    ),
    _task(
        "simple-spread", (3, 18, 5), (-26.5, -7.6), _budgets(480_000, 4_800_000, 60_000_000), (32, 25),
        _mappo(10, ": simple_spread"), "cover three landmarks with three agents that should not collide",
    ),
    _task(
        "simple-reference", (2, 21, 50), (-28.5, -7.4), _budgets(480_000, 4_800_000, 6_000_000), (32, 25),
        _mappo(15, ": simple_reference"),
        "move to one of three landmarks that only the other agent knows, and tell it about its own",
    ),
    _task(
        "simple-line", (4, 8, 5), (-22.4, -5.2), _budgets(512_000, 5_120_000, 80_000_000), (32, 25),
        {}, "spread four agents evenly over the line between two landmarks, without seeing each other",
    ),
    _task(
        "pursuit", (8, 147, 5), (-46.2, 19.0), _budgets(832_000, 8_320_000, 8_320_000), (8, 50),
        {}, "surround evaders on a grid with eight pursuers", limit=500,
    ),
)  # fmt: skip

TASKS: Mapping[str, Task] = {task.id.partition("/")[2]: task for task in _TASKS}
