"""The Doom family: nine first-person scenarios of ViZDoom (Kempka et al. 2016, arXiv 1605.02097).

Rules and rewards are ViZDoom's, with one button at a time, held for four tics
(:mod:`hpbench.tasks.doom_simulator`). Images have the size of Procgen's and go through the same networks.

**Anchors.** Low is the mean return of a uniformly random policy over 500 episodes (``my-way-home``: 200), measured by
``examples/doom_anchors.py`` (``examples/results/doom_anchors.json``, with standard errors). What high is, each row
says: a bound that follows from the rules where there is one, which need not be within reach, or else what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping

from hpbench.tasks.base import Anchors, Budget, HandTuned, Task
from hpbench.tasks.doom_simulator import BUTTONS, CHANNELS, LIMITS, SIDE, DoomMaker
from hpbench.tasks.simulator import ExactDynamics

RANDOM = "a random policy (examples/doom_anchors.py)"

SCENARIOS: Mapping[str, tuple[str, ...]] = {
    "train": ("basic", "defend-the-center", "health-gathering", "take-cover", "predict-position"),
    "validation": ("defend-the-line", "my-way-home"),
    "test": ("deadly-corridor", "health-gathering-supreme"),
}
"""Which scenarios agents that learn over tasks may learn from, be chosen by, and be tested on."""

BUDGETS: Mapping[str, Budget] = {
    "small": Budget(163_840, 20),
    "standard": Budget(2_129_920, 40),
    "paper": Budget(10_240_000, 50),
}
"""By tier; a segment is a whole number of rollouts. Small: PPO reached the top of ``health-gathering`` within 50,000 to
100,000 steps and of ``basic`` within 50,000 to 80,000, while ``defend-the-center`` was still rising at the end;
``defend-the-line`` rose, too, ``take-cover`` did not in 80,000 (``reproduce/doom/curves.json``, one seed). The other
scenarios and tiers were not trained."""

ROLLOUTS: Mapping[str, Mapping[str, object]] = {
    "small": {"num_envs": 16, "num_steps": 128, "normalize_reward": True},
    "standard": {"num_envs": 32, "num_steps": 128, "normalize_reward": True, "encoder": "first-person"},
    "paper": {"num_envs": 32, "num_steps": 128, "normalize_reward": True, "encoder": "first-person"},
}
"""PPO's frozen options by tier."""

HAND_TUNED = HandTuned(
    {
        "learning_rate": 3e-4,
        "entropy_coefficient": 1e-3,
        "value_coefficient": 0.5,
        "clip_range": 0.2,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "max_gradient_norm": 0.5,
        "update_epochs": 10,
        "minibatches": 8,
    },
    "Stable-Baselines3's defaults as this library has them: of three published settings they were best "
    "(reproduce/doom; the others: Procgen's, and Sample Factory's for Doom)",
)


def _task(name: str, low: float, high: tuple[float, str], summary: str, success: float | None = None) -> Task:
    """A row.

    Args:
        name: after the slash.
        low, high: anchors, the latter with its source.
        summary: one line.
        success: returns from there on mean that the goal was reached.
    """
    scenario = name.replace("-", "_")
    return Task(
        id=f"doom/{name}",
        observation_size=SIDE * SIDE * CHANNELS,
        discrete=True,
        action_count=BUTTONS[scenario] + 1,
        max_episode_steps=LIMITS[scenario],
        anchors=Anchors(low, high[0], f"{RANDOM}, and {high[1]}"),
        success_return=success,
        budgets=BUDGETS,
        dynamics=ExactDynamics(),
        physics=ExactDynamics.physics,
        hand_tuned={"ppo": HAND_TUNED},
        simulator=DoomMaker(scenario, LIMITS[scenario]),
        observation_dtype="uint8",
        encoder="first-person-small",
        learner_config={tier: {"ppo": options} for tier, options in ROLLOUTS.items()},
        summary=summary,
    )


AIMED = "a player who knows where the monster is (500 episodes, examples/doom_anchors.py --scripted)"
TRAINED = (18.094, "PPO after 98,304 steps (the mean of 32 episodes, reproduce/doom); more is possible")
SURVIVAL = (2100.0, "the reward of 1 for every tic of the time limit")
WALKED = (2277.763, "the whole way for a player who cannot die (examples/doom_anchors.py --scripted)")

TASKS: Mapping[str, Task] = {
    task.id.partition("/")[2]: task
    for task in (
        _task("basic", -162.542, (78.432, AIMED), "walk sideways until the monster is in line, and shoot it", -287.0),
        _task("defend-the-center", 0.14, (26.0, "a kill with each of 26 bullets"), "turn and shoot what comes near"),
        _task("defend-the-line", 7.612, TRAINED, "turn and shoot monsters that stand in a line"),
        _task("health-gathering", 391.904, SURVIVAL, "live on poisoned ground by finding medical kits", 2100.0),
        _task("health-gathering-supreme", 306.656, SURVIVAL, "the same in a maze with poison among the kits", 2100.0),
        _task("deadly-corridor", -89.3434, WALKED, "reach a vest at the end of a corridor, past six enemies", 2000.0),
        _task("my-way-home", -0.1069, (1.0, "the vest at once"), "find a vest in a labyrinth of rooms", 0.5),
        _task("take-cover", 282.098, SURVIVAL, "dodge fireballs sideways", 2100.0),
        _task("predict-position", 0.0255, (1.0, "a hit at once"), "hit a moving monster with one slow rocket", 0.5),
    )
}
