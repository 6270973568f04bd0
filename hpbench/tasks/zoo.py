"""Published hyperparameters: those of RL Baselines3 Zoo over the defaults of Stable-Baselines3, in our words.

Translations, the same for all families: a schedule becomes its initial value; an entropy coefficient below our bound
becomes 1e-5, a GAE lambda of 1 becomes 0.999; a batch size becomes the number of minibatches of that size in our
rollout of 512 steps. One learning rate of SAC stands for all three; ``updates_per_step`` is the Zoo's ``gradient_steps
/ train_freq``; the target entropy is minus the number of dimensions. What cannot change during training (environments,
steps, network sizes, memory, warm-up, normalisation, a fixed entropy coefficient, state-dependent exploration) is left
out.
"""

from __future__ import annotations

from hpbench.tasks.base import HandTuned

PPO_SOURCE = "RL Baselines3 Zoo, hyperparams/ppo.yml (commit 00128b5d46d4)"
SAC_SOURCE = "RL Baselines3 Zoo, hyperparams/sac.yml (commit 00128b5d46d4)"


def zoo_ppo(name: str, **values: float) -> dict[str, HandTuned]:
    """Of PPO, under the learner's name.

    Args:
        name: of the task in the Zoo.
        values: what the Zoo says of it; the others are Stable-Baselines3's defaults.
    """
    defaults = {
        "learning_rate": 3e-4,
        "entropy_coefficient": 1e-5,  # 0.0
        "value_coefficient": 0.5,
        "clip_range": 0.2,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "max_gradient_norm": 0.5,
        "update_epochs": 10,
        "minibatches": 8,  # batch_size 64
    }
    return {"ppo": HandTuned({**defaults, **values}, f"{PPO_SOURCE}: {name}")}


def zoo_sac(name: str, learning_rate: float = 3e-4, **values: float) -> dict[str, HandTuned]:
    """Of SAC, as :func:`zoo_ppo`."""
    defaults = {
        "actor_learning_rate": learning_rate,
        "critic_learning_rate": learning_rate,
        "temperature_learning_rate": learning_rate,
        "tau": 0.005,
        "discount": 0.99,
        "target_entropy": 0.5,
        "batch_size": 256,
        "updates_per_step": 1.0,
    }
    return {"sac": HandTuned({**defaults, **values}, f"{SAC_SOURCE}: {name}")}
