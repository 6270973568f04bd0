"""``hpbench train grpo``: group-relative policy optimisation against branches, by TRL's ``GRPOTrainer``.

    hpbench train grpo sft/best collected --output grpo
    hpbench run --agent hf:grpo/best --suite classic-small-v0

The K completions of a prompt are K branches of one inner checkpoint that were really trained; the reward is the gain
over the branch that kept everything, in units of the noise of these gains, cut at a bound.

What was not tried from a state has no reward, and none is made up: gains of single changes do not add up to the gain of
several. So the policy that is trained is the model's choice *among the recorded branches*: with ``p`` the model's
probability of a completion, ``q(k) = p(k) / sum_j p(j)``. A group is all K branches, each once, and what TRL is given
as the reward of branch ``k`` is ``K q(k) A(k)``, with ``A(k) = r(k) - sum_j q(j) r(j)`` its advantage under the policy.
These have mean 0, so TRL's own baseline, the mean of the group (Shao et al., "DeepSeekMath", 2024), changes nothing,
and its gradient, the mean over the group, is

    sum_k q(k) A(k) grad log p(k) = sum_k q(k) A(k) grad log q(k):

the policy gradient of the restricted policy, without the noise of sampling. Advantages are not divided by the
deviation of the group, which would blow up groups where nothing matters (Liu et al., "Understanding R1-Zero-like
training", 2025).

The divergence from the model that training starts from is penalised (on all branches alike, as TRL estimates it),
entropy is logged, and training stops when it falls below a floor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.language.causal import CausalModel, load_transformers
from agents.language.slot import SlotPolicy
from agents.training.held_out import HeldOut, State, branch_logs, completion_ids, read_states
from agents.training.recipes import GrpoRecipe, Trained, settle
from agents.training.tuning import (
    Say,
    adapters,
    arguments,
    calm,
    is_over,
    load_start,
    narrator,
    outcome,
    require_trl,
    run_trainer,
    with_held_out,
)
from hpbench.errors import InvalidConfiguration


def train_grpo(recipe: GrpoRecipe, start: str, collection: Path, folder: Path, say: Say = lambda line: None) -> Trained:
    """Train, or go on where it stopped.

    Args:
        recipe: how.
        start: model to go on from, usually ``best`` of ``hpbench train sft``.
        collection: folder of ``hpbench collect``.
        folder: of the training run.
        say: gets lines on the progress.

    Raises:
        MissingExtra: if a package is not installed.
        InvalidConfiguration: if there is no such model, the collection lacks branch sets or has some of different
            sizes or fewer than a batch, or the folder holds something else.
    """
    require_trl()
    model, tokenizer = load_start(start, recipe.device, recipe.lora.rank)
    pool = BranchPool(read_states(collection, "train", recipe), recipe.clip)
    if len(pool.states) < recipe.batch:
        # The trainer would take no step at all.
        raise InvalidConfiguration(f"{len(pool.states)} states are no batch of {recipe.batch}: make the batch smaller")
    given = arguments(recipe, folder, recipe.best)
    given |= {key: given[key] * pool.size for key in given if key.endswith("_batch_size")}
    held_out = HeldOut(read_states(collection, "validation", recipe), recipe.evaluation_states)
    if settle(recipe, folder, model=start, collection=str(collection)) and is_over(folder):
        return outcome(folder, recipe.best)
    say(
        f"{len(pool.states)} states with branches, {len(held_out.states)} held out; labels there: "
        + ", ".join(f"{name} {value:.4g}" for name, value in held_out.references().items())
    )
    with calm():
        from datasets import Dataset

        trl = import_module("trl")
        longest = max(len(completion_ids(SlotPolicy(CausalModel(model, tokenizer)), *pool.longest())), 1)
        rows = Dataset.from_list([{"prompt": state.observation} for state in pool.states])
        trainer = with_held_out(trl.GRPOTrainer, held_out, tokenizer, own_loss=False)(
            model=model,
            reward_funcs=weighted_advantage,
            args=trl.GRPOConfig(
                **given,
                num_generations=pool.size,
                max_completion_length=longest,
                beta=recipe.kl,
                entropy_coef=recipe.entropy,
                scale_rewards="none",
            ),
            train_dataset=rows,
            eval_dataset=rows.select([0]),  # never read: held-out states are measured in its place
            processing_class=tokenizer,
            peft_config=adapters(recipe),
            rollout_func=pool.rollout(tokenizer),
            callbacks=[narrator(say), entropy_floor(recipe.entropy_floor, say)],
        )
        return run_trainer(trainer, recipe, tokenizer, start, folder, recipe.best)


class BranchPool:
    """Recorded branches, by the observation of their state.

    Args:
        states: with their branches.
        clip: rewards are cut at plus and minus this.

    Raises:
        InvalidConfiguration: if some states have more branches than others.
    """

    def __init__(self, states: Sequence[State], clip: float) -> None:
        self.states, self.clip = list(states), clip
        sizes = sorted({len(state.completions) for state in states})
        if len(sizes) != 1:
            raise InvalidConfiguration(f"branch sets of {sizes} updates cannot be one pool: collect with one number")
        self.size = sizes[0]
        self._by_observation = {state.observation: state for state in states}

    def longest(self) -> tuple[str, str]:
        """Observation and completion with the most characters to write."""
        state = max(self.states, key=lambda state: max(map(len, state.completions)))
        return state.observation, max(state.completions, key=len)

    def rollout(self, tokenizer: Any) -> Callable[[list[str], Any], dict[str, Any]]:
        """What TRL asks for completions: all branches of each prompt's state, with their weighted advantages."""

        def play(prompts: list[str], trainer: Any) -> dict[str, Any]:
            model = trainer.accelerator.unwrap_model(trainer.model)
            training = model.training
            policy = SlotPolicy(CausalModel(model, tokenizer))
            groups = prompts[:: self.size]  # each stands there once for each of its branches
            states = [self._by_observation[prompt] for prompt in groups]
            logs = branch_logs(policy, states)
            model.train(training)
            found: dict[str, Any] = {"prompt_ids": [], "completion_ids": [], "logprobs": None}
            found |= {"worth": [], "expected": []}
            for state, log in zip(states, logs, strict=True):
                worth, expected = weighted_advantages(log, state.rewards, self.clip)
                found["prompt_ids"] += [policy.model.prompt_ids(state.observation)] * self.size
                found["completion_ids"] += [completion_ids(policy, state.observation, c) for c in state.completions]
                found["worth"] += worth
                found["expected"] += [expected] * self.size
            return found

        return play


def weighted_advantages(logs: Tensor, rewards: Sequence[float], clip: float) -> tuple[list[float], float]:
    """``K q(k) A(k)`` of the branches of one state, and the mean reward under ``q``.

    Args:
        logs: log-probabilities of the branches, float ``[K]``.
        rewards: gains over the no-op in units of noise, ``[K]``.
        clip: where they are cut.
    """
    shares = logs.double().softmax(dim=0).cpu()
    cut = torch.tensor(rewards, dtype=torch.float64).clamp(-clip, clip)
    expected = shares @ cut
    worth: list[float] = (len(cut) * shares * (cut - expected)).tolist()
    return worth, float(expected)


def weighted_advantage(
    prompts: Sequence[str],
    worth: Sequence[float],
    expected: Sequence[float],
    log_metric: Callable[[str, float], None],
    **others: Any,
) -> list[float]:
    """TRL's reward function. The mean reward under the policy is logged as ``expected_reward``; what TRL logs as
    ``reward`` is 0 by construction."""
    log_metric("expected_reward", float(np.mean(expected)))
    return list(worth)


def entropy_floor(floor: float, say: Say) -> Any:
    """A callback that stops training when the policy has lost its entropy."""
    callback: Any = load_transformers().TrainerCallback

    class EntropyFloor(callback):  # type: ignore[misc]
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **others: Any) -> None:
            if metrics and metrics.get("eval_slot_entropy", floor) < floor:
                say(f"The mean entropy of a slot is below {floor}: training stops here.")
                control.should_training_stop = True

    return EntropyFloor()
