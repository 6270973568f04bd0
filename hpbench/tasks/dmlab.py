"""The DMLab family: the thirty tasks of DMLab-30, in DeepMind Lab (Beattie et al. 2016, arXiv 1612.03801).

Data and adapter only: DeepMind Lab has to be built from source, and **none of this was run here with it**
(:mod:`hpbench.tasks.dmlab_simulator`). Names are those of DMLab-30 with hyphens, without ``_train``.

The policy sees the image. Instructions of the four ``language`` tasks are words, which no network here reads; without
them those tasks can only be guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from hpbench.tasks.base import Anchors, Budget, Task
from hpbench.tasks.dmlab_simulator import ACTIONS, CHANNELS, SIDE, DMLabMaker
from hpbench.tasks.simulator import ExactDynamics

SCORES = (
    "random and human scores of DMLab-30 (Espeholt et al. 2018, arXiv 1802.01561), as in dmlab30.py of "
    "google-deepmind/scalable_agent, commit cd66d00914d5"
)

TIME_LIMIT = 9_000
"""Steps: ten minutes. Levels end their episodes themselves, and sooner; it bounds what a saved episode takes."""


class Level(NamedTuple):
    """A row of DMLab-30.

    Args:
        random: return of a random policy.
        human: return of people.
        held_out: whether there is a level ``_test`` besides ``_train``; scores are then of the former, as published.
    """

    random: float
    human: float
    held_out: bool = False


LEVELS: Mapping[str, Level] = {
    "rooms_collect_good_objects": Level(0.073, 10.0, True),
    "rooms_exploit_deferred_effects": Level(8.501, 85.65, True),
    "rooms_select_nonmatching_object": Level(0.312, 65.9),
    "rooms_watermaze": Level(4.065, 54.0),
    "rooms_keys_doors_puzzle": Level(4.135, 53.8),
    "language_select_described_object": Level(-0.07, 389.5),
    "language_select_located_object": Level(1.929, 280.7),
    "language_execute_random_task": Level(-5.913, 254.05),
    "language_answer_quantitative_question": Level(-0.33, 184.5),
    "lasertag_one_opponent_small": Level(-0.224, 12.65),
    "lasertag_three_opponents_small": Level(-0.214, 18.55),
    "lasertag_one_opponent_large": Level(-0.083, 18.6),
    "lasertag_three_opponents_large": Level(-0.102, 31.5),
    "natlab_fixed_large_map": Level(2.173, 36.9),
    "natlab_varying_map_regrowth": Level(2.989, 24.45),
    "natlab_varying_map_randomized": Level(7.346, 42.35),
    "skymaze_irreversible_path_hard": Level(0.1, 100.0),
    "skymaze_irreversible_path_varied": Level(14.4, 100.0),
    "psychlab_arbitrary_visuomotor_mapping": Level(0.163, 58.75),
    "psychlab_continuous_recognition": Level(0.224, 58.3),
    "psychlab_sequential_comparison": Level(0.129, 39.5),
    "psychlab_visual_search": Level(0.085, 78.5),
    "explore_object_locations_small": Level(3.575, 74.45),
    "explore_object_locations_large": Level(4.673, 65.65),
    "explore_obstructed_goals_small": Level(6.76, 206.0),
    "explore_obstructed_goals_large": Level(2.61, 119.5),
    "explore_goal_locations_small": Level(7.66, 267.5),
    "explore_goal_locations_large": Level(3.14, 194.5),
    "explore_object_rewards_few": Level(2.073, 77.7),
    "explore_object_rewards_many": Level(2.438, 106.7),
}
"""The thirty tasks, in their usual order, and the numbers that scores are normalised by."""

BUDGETS: Mapping[str, Budget] = {
    "small": Budget(512_000, 20),
    "standard": Budget(5_242_880, 40),
    "paper": Budget(102_400_000, 50),
}
"""A segment is a whole number of rollouts of 512 and of 4,096 steps. Not measured: nothing was trained."""

ROLLOUTS: Mapping[str, Mapping[str, object]] = {
    "small": {"num_envs": 4, "num_steps": 128, "normalize_reward": True},
    "standard": {"num_envs": 32, "num_steps": 128, "normalize_reward": True, "encoder": "impala"},
    "paper": {"num_envs": 32, "num_steps": 128, "normalize_reward": True, "encoder": "impala"},
}
"""PPO's frozen options by tier."""


def _task(name: str, level: Level) -> Task:
    scripts = (f"{name}_train", f"{name}_test") if level.held_out else (name, name)
    return Task(
        id=f"dmlab/{name.replace('_', '-')}",
        observation_size=SIDE * SIDE * CHANNELS,
        discrete=True,
        action_count=len(ACTIONS),
        max_episode_steps=TIME_LIMIT,
        anchors=Anchors(level.random, level.human, SCORES),
        success_return=None,
        budgets=BUDGETS,
        dynamics=ExactDynamics(),
        physics=ExactDynamics.physics,
        simulator=DMLabMaker(*scripts, TIME_LIMIT),
        observation_dtype="uint8",
        encoder="impala-small",
        held_out_levels=True,
        learner_config={tier: {"ppo": options} for tier, options in ROLLOUTS.items()},
        summary=f"DMLab-30's {name}; needs DeepMind Lab, built from source",
    )


TASKS: Mapping[str, Task] = {
    task.id.partition("/")[2]: task for task in (_task(name, level) for name, level in LEVELS.items())
}
