"""The classic-control family: Gymnasium's five tasks with their anchors, budgets and published hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping

from hpbench.tasks.base import Anchors, Budget, HandTuned, Task
from hpbench.tasks.classic_dynamics import Acrobot, CartPole, MountainCar, MountainCarContinuous, Pendulum
from hpbench.tasks.zoo import zoo_ppo, zoo_sac

ZOO_DQN = "RL Baselines3 Zoo, hyperparams/dqn.yml (commit ce95481b041f)"
BENCHMARK = "RL Baselines3 Zoo, benchmark.md (commit 0088472b8cb6)"


def _budgets(small: int) -> Mapping[str, Budget]:
    """Budgets by tier; a segment is a whole number of rollouts of 512 steps in each."""
    return {"small": Budget(small, 20), "standard": Budget(4 * small, 40), "paper": Budget(1_024_000, 50)}


def _zoo_dqn(name: str, **values: float) -> dict[str, HandTuned]:
    """Values from the Zoo for DQN, which tunes all that is hot here but ``n_step`` and ``max_gradient_norm``.

    Translations, the same for all tasks: the final epsilon stands for its decay; ``train_frequency`` is the Zoo's
    ``train_freq / gradient_steps``; a target network that is copied every ``k`` gradient steps becomes ``tau = 1 / k``,
    the same mean age. (CartPole: it is due every 10 environment steps, but changes once per burst of 128 gradient
    steps.) What cannot change during training (network sizes, memory, warm-up) is left out.
    """
    defaults = {"n_step": 1, "max_gradient_norm": 10.0}
    return {"dqn": HandTuned({**values, **defaults}, f"{ZOO_DQN}: {name}")}


_CARTPOLE = Task(
    id="classic/cartpole",
    observation_size=4,
    discrete=True,
    action_count=2,
    max_episode_steps=500,
    anchors=Anchors(0.0, 500.0, "no step survived, and the time limit"),
    success_return=475.0,  # Gymnasium's reward_threshold, here and below
    budgets=_budgets(51_200),
    dynamics=CartPole(),
    physics=CartPole.physics,
    hand_tuned=zoo_ppo(
        "CartPole-v1",
        learning_rate=1e-3,  # lin_0.001
        clip_range=0.2,  # lin_0.2
        discount=0.98,
        gae_lambda=0.8,
        update_epochs=20,
        minibatches=2,  # batch_size 256
    )
    | _zoo_dqn(
        "CartPole-v1",
        learning_rate=2.3e-3,
        discount=0.99,
        epsilon=0.04,
        tau=0.0078,  # 1 / 128
        batch_size=64,
        train_frequency=2,  # 256 / 128
    ),
    summary="balance a pole on a cart by pushing the cart left or right",
)

_ACROBOT = Task(
    id="classic/acrobot",
    observation_size=6,
    discrete=True,
    action_count=3,
    max_episode_steps=500,
    anchors=Anchors(-500.0, -65.0, f"the time limit, and a little above the best of {BENCHMARK} (QR-DQN -69)"),
    success_return=-100.0,
    budgets=_budgets(102_400),
    dynamics=Acrobot(),
    physics=Acrobot.physics,
    hand_tuned=zoo_ppo("Acrobot-v1", gae_lambda=0.94, update_epochs=4)
    | _zoo_dqn(
        "Acrobot-v1",
        learning_rate=6.3e-4,
        discount=0.99,
        epsilon=0.1,
        tau=0.004,  # 1 / 250
        batch_size=128,
        train_frequency=1,
    ),
    summary="swing a two-link arm up by torque on its middle joint, in as few steps as possible",
)

_MOUNTAINCAR = Task(
    id="classic/mountaincar",
    observation_size=2,
    discrete=True,
    action_count=3,
    max_episode_steps=200,
    anchors=Anchors(-200.0, -95.0, f"the time limit, and a little above the best of {BENCHMARK} (DQN -101)"),
    success_return=-110.0,
    budgets=_budgets(102_400),
    dynamics=MountainCar(),
    physics=MountainCar.physics,
    hand_tuned=zoo_ppo("MountainCar-v0", gae_lambda=0.98, update_epochs=4)
    | _zoo_dqn(
        "MountainCar-v0",
        learning_rate=4e-3,
        discount=0.98,
        epsilon=0.07,
        tau=0.0033333,  # 1 / 300: every 600 environment steps
        batch_size=128,
        train_frequency=2,  # 16 / 8
    ),
    summary="drive a car that is too weak for the hill up to the goal by swinging, in as few steps as possible",
)

_MOUNTAINCAR_CONTINUOUS = Task(
    id="classic/mountaincar-continuous",
    observation_size=2,
    discrete=False,
    action_count=1,
    max_episode_steps=999,
    anchors=Anchors(0.0, 93.0, f"never pushing, and TD3 in {BENCHMARK} (93.5)"),
    success_return=90.0,
    budgets=_budgets(102_400),
    dynamics=MountainCarContinuous(),
    physics=MountainCarContinuous.physics,
    hand_tuned=zoo_ppo(
        "MountainCarContinuous-v0",
        learning_rate=7.77e-5,
        entropy_coefficient=0.00429,
        value_coefficient=0.19,
        clip_range=0.1,
        discount=0.9999,
        gae_lambda=0.9,
        max_gradient_norm=5.0,
        minibatches=2,  # batch_size 256, although the Zoo's rollout has 8 steps only
    )
    | zoo_sac("MountainCarContinuous-v0", learning_rate=3e-4, tau=0.01, discount=0.9999, batch_size=512),
    summary="drive a car that is too weak for the hill up to the goal by swinging, with little force",
)

_PENDULUM = Task(
    id="classic/pendulum",
    observation_size=3,
    discrete=False,
    action_count=1,
    max_episode_steps=200,
    anchors=Anchors(-1500.0, -150.0, f"below a random policy (-1220), and the best of {BENCHMARK} (TD3 -152)"),
    success_return=None,  # Gymnasium gives no threshold
    budgets=_budgets(102_400),
    dynamics=Pendulum(),
    physics=Pendulum.physics,
    hand_tuned=zoo_ppo("Pendulum-v1", learning_rate=1e-3, discount=0.9) | zoo_sac("Pendulum-v1", learning_rate=1e-3),
    action_low=-2.0,
    action_high=2.0,
    summary="swing a pendulum up and hold it upright with little torque",
)

TASKS: Mapping[str, Task] = {
    task.id.partition("/")[2]: task for task in (_CARTPOLE, _ACROBOT, _MOUNTAINCAR, _MOUNTAINCAR_CONTINUOUS, _PENDULUM)
}
