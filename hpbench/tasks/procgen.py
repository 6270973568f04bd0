"""The Procgen family: sixteen games whose levels are generated (Cobbe et al. 2020), easy and hard.

Training has a fixed set of levels, evaluation the others, so agents see how well a policy generalises. The names are
``procgen/coinrun`` for the easy and ``procgen/coinrun-hard`` for the hard distribution of levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from hpbench.tasks.base import Anchors, Budget, HandTuned, Task
from hpbench.tasks.procgen_simulator import ACTIONS, CHANNELS, SIDE, ProcgenMaker
from hpbench.tasks.simulator import ExactDynamics

Mode = Literal["easy", "hard"]

PAPER = "Cobbe et al. 2020, Leveraging Procedural Generation to Benchmark Reinforcement Learning (arXiv 1912.01588)"

LEVELS: Mapping[Mode, int] = {"easy": 200, "hard": 500}
"""Training levels of the published protocols for generalisation (section 3.1 of the paper)."""

BOUNDS: Mapping[str, tuple[float, float, float, float]] = {
    "coinrun": (5.0, 10.0, 5.0, 10.0),
    "starpilot": (2.5, 64.0, 1.5, 35.0),
    "caveflyer": (3.5, 12.0, 2.0, 13.4),
    "dodgeball": (1.5, 19.0, 1.5, 19.0),
    "fruitbot": (-1.5, 32.4, -0.5, 27.2),
    "chaser": (0.5, 13.0, 0.5, 14.2),
    "miner": (1.5, 13.0, 1.5, 20.0),
    "jumper": (3.0, 10.0, 1.0, 10.0),
    "leaper": (3.0, 10.0, 1.5, 10.0),
    "maze": (5.0, 10.0, 4.0, 10.0),
    "bigfish": (1.0, 40.0, 0.0, 40.0),
    "heist": (3.5, 10.0, 2.0, 10.0),
    "climber": (2.0, 12.6, 1.0, 12.6),
    "plunder": (4.5, 30.0, 3.0, 30.0),
    "ninja": (3.5, 10.0, 2.0, 10.0),
    "bossfight": (0.5, 13.0, 0.5, 13.0),
}
"""Of returns: easy low and high, hard low and high, from the paper's table of normalisation constants. Low is what an
agent reaches that does not see, high what is possible or, where nobody knows, what the best agents reached."""

TIME_LIMITS: Mapping[str, int] = {"bigfish": 6000, "bossfight": 4000, "plunder": 4000, "leaper": 500, "maze": 500}
"""Steps after which the game itself ends an episode; the other games: 1000. Read from saved states of Procgen."""

ALL_OR_NOTHING = ("coinrun", "heist", "jumper", "leaper", "maze", "ninja")
"""Games whose episodes give 10 for reaching the goal, and otherwise nothing."""

GAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("coinrun", "starpilot", "caveflyer", "dodgeball", "fruitbot", "chaser", "miner", "jumper"),
    "validation": ("leaper", "maze", "bigfish", "heist"),
    "test": ("climber", "plunder", "ninja", "bossfight"),
}
"""Which games agents that learn over tasks may learn from, be chosen by, and be tested on."""

_PART = len(GAMES["test"])


def rotation(index: int) -> Mapping[str, tuple[str, ...]]:
    """The split of the games after ``index`` turns, 0 (:data:`GAMES`) to 3: every game is a test game in one of them.

    In the order train, validation, test, each turn moves the last four games to the front.
    """
    order = [game for part in GAMES.values() for game in part]
    moved = _PART * index % len(order)
    order = order[len(order) - moved :] + order[: len(order) - moved]
    train, validation, test = order[: 2 * _PART], order[2 * _PART : -_PART], order[-_PART:]
    return {"train": tuple(train), "validation": tuple(validation), "test": tuple(test)}


BUDGETS: Mapping[str, Budget] = {
    "small": Budget(491_520, 20),
    "standard": Budget(5_242_880, 40),
    # The published protocol for hyperparameters that change: 25 M steps, a decision every 500 k, to the next rollout.
    "paper": Budget(25_395_200, 50),
}

ROLLOUTS: Mapping[str, Mapping[str, Any]] = {
    "small": {"num_envs": 32, "num_steps": 128, "normalize_reward": True},
    "standard": {"num_envs": 64, "num_steps": 256, "normalize_reward": True, "encoder": "impala"},
    "paper": {"num_envs": 64, "num_steps": 256, "normalize_reward": True, "encoder": "impala"},
}
"""PPO's frozen options by tier. Published: 64 environments of 256 steps, rewards normalised, the large network."""

PUBLISHED = HandTuned(
    {
        "learning_rate": 5e-4,
        "entropy_coefficient": 0.01,
        "value_coefficient": 0.5,
        "clip_range": 0.2,
        "discount": 0.999,
        "gae_lambda": 0.95,
        "max_gradient_norm": 0.5,
        "update_epochs": 3,
        "minibatches": 8,
    },
    f"{PAPER}, appendix on hyperparameters: one setting for all games",
)


SUMMARIES: Mapping[str, str] = {
    "bigfish": "eat fish smaller than oneself to grow, and avoid larger ones",
    "bossfight": "dodge the shots of a starship with a shield, and shoot back when the shield is down",
    "caveflyer": "fly a ship through caves to the exit, with obstacles to go round and targets to shoot",
    "chaser": "collect all orbs of a maze, hunted by enemies that can be eaten after a large orb",
    "climber": "climb platforms upwards, collect stars and avoid flying monsters",
    "coinrun": "run and jump to the coin at the far right, past saws, enemies and chasms",
    "dodgeball": "hit all enemies with balls without being hit or touching walls, then leave",
    "fruitbot": "steer a robot down a lane, collect fruit and avoid other food",
    "heist": "open locks with keys of their colours to reach a gem in a maze",
    "jumper": "jump through a cave to a carrot, led by a compass, past spikes",
    "leaper": "cross lanes of cars and a river on logs to the finish",
    "maze": "find the cheese in a maze",
    "miner": "dig for all diamonds and reach the exit without being crushed by boulders",
    "ninja": "jump across ledges to a mushroom and throw stars at bombs",
    "plunder": "shoot enemy ships with cannonballs, spare friendly ones",
    "starpilot": "fly a ship through waves of enemies and shoot them",
}


def _task(game: str, mode: Mode) -> Task:
    low, high = BOUNDS[game][:2] if mode == "easy" else BOUNDS[game][2:]
    return Task(
        id=f"procgen/{game}" if mode == "easy" else f"procgen/{game}-hard",
        observation_size=SIDE * SIDE * CHANNELS,
        discrete=True,
        action_count=ACTIONS,
        max_episode_steps=TIME_LIMITS.get(game, 1000),
        anchors=Anchors(low, high, f"{PAPER}, normalisation constants, {mode}"),
        success_return=10.0 if game in ALL_OR_NOTHING else None,
        budgets=BUDGETS,
        dynamics=ExactDynamics(),
        physics=ExactDynamics.physics,
        hand_tuned={"ppo": PUBLISHED},
        simulator=ProcgenMaker(game, mode, LEVELS[mode]),
        observation_dtype="uint8",
        encoder="impala-small",
        held_out_levels=True,
        learner_config={tier: {"ppo": options} for tier, options in ROLLOUTS.items()},
        summary=f"{SUMMARIES[game]}, on generated {mode} levels",
    )


_TASKS = [_task(game, mode) for mode in LEVELS for part in GAMES.values() for game in part]
TASKS: Mapping[str, Task] = {task.id.partition("/")[2]: task for task in _TASKS}
