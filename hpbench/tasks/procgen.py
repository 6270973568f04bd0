"""The Procgen family: sixteen games whose levels are generated (Cobbe et al. 2020), easy and hard.

Training has a fixed set of levels, evaluation the others, so agents see how well a policy generalises. The names are
``procgen/coinrun`` for the easy and ``procgen/coinrun-hard`` for the hard distribution of levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

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
    return {"train": tuple(order[: 2 * _PART]), "validation": tuple(order[2 * _PART : -_PART]), "test": tuple(order[-_PART:])}


BUDGETS: Mapping[str, Budget] = {
    "small": Budget(491_520, 20),
    "standard": Budget(4_915_200, 40),
    # The published protocol for hyperparameters that change: 25 M steps, a decision every 500 k, to the next rollout.
    "paper": Budget(25_395_200, 50),
}

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
        summary=f"{SUMMARIES[game]}, on {mode} levels that are generated",
    )
