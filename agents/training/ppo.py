"""``hpbench train ppo``: proximal policy optimisation with the environment as reward model, by TRL's ``PPOTrainer``.

    hpbench train ppo sft/best collected --output ppo
    hpbench run --agent hf:ppo/best --suite classic-small-v0

The model writes freely, whatever it likes. What it wrote is tried: from the very state of the prompt, brought back to
life (:mod:`agents.training.live`), copies of the learner train on with and without the update, under common random
numbers. The reward is the gain over the copy without, in units of the noise of such gains, cut at a bound; a fixed
penalty for text that is no completion. So one decision is an episode; credit over the horizon comes from the branches.

The value model is a copy of the start with a new head. TRL's trainer cannot go on from a checkpoint, so an interrupted
run begins anew; a run that is over is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from agents.language.causal import CausalModel, load_transformers
from agents.language.slot import SlotPolicy
from agents.training.held_out import HeldOut, completion_ids, read_states
from agents.training.live import LivePool
from agents.training.recipes import PpoRecipe, Trained, settle
from agents.training.tiny import BEST, LOG, choose_device, quiet_bars, save_model
from agents.training.tuning import Say, calm, is_over, load_start, outcome, require_trl
from hpbench.errors import InvalidConfiguration
from hpbench.evaluation.records import write_atomically


def train_ppo(recipe: PpoRecipe, start: str, collection: Path, folder: Path, say: Say = lambda line: None) -> Trained:
    """Train.

    Args:
        recipe: how.
        start: model to go on from, usually ``best`` of ``hpbench train sft``.
        collection: folder of ``hpbench collect``.
        folder: of the training run.
        say: gets lines on the progress.

    Raises:
        MissingExtra: if a package is not installed.
        InvalidConfiguration: if there is no such model, the collection has no branch sets or fewer states than a batch,
            or the folder holds something else.
    """
    require_trl()
    model, tokenizer = load_start(start, recipe.device, recipe.lora.rank)
    held_out = HeldOut(read_states(collection, "validation", recipe), recipe.evaluation_states)
    if settle(recipe, folder, model=start, collection=str(collection)) and is_over(folder):
        return outcome(folder, recipe.best)
    pool = LivePool(collection, recipe.shards, recipe.label.rule(), recipe.show.rendering(), recipe.without)
    if len(pool.states) < recipe.batch:
        raise InvalidConfiguration(f"{len(pool.states)} states are no batch of {recipe.batch}: take more shards")
    say(f"{len(pool.states)} states alive, {len(held_out.states)} held out")
    policy = SlotPolicy(CausalModel(model, tokenizer))
    tokenizer.padding_side = "left"  # the trainer lets the model write behind the padded prompts
    prompts = [policy.model.prompt_ids(state.observation) for state in pool.states]
    longest = max(
        len(completion_ids(policy, state.observation, text)) for state in held_out.states for text in state.completions
    )
    with calm():
        from datasets import Dataset

        ppo = import_module("trl.experimental.ppo")
        with quiet_bars():
            value = load_transformers().AutoModelForSequenceClassification.from_pretrained(
                start, num_labels=1, dtype=torch.float32
            )
        value.config.pad_token_id = tokenizer.pad_token_id
        rows = Dataset.from_list([{"input_ids": ids} for ids in prompts])
        keeper = _keeper(recipe, held_out, tokenizer, folder, say)
        trainer = ppo.PPOTrainer(
            args=ppo.PPOConfig(**_arguments(recipe, folder, longest)),
            processing_class=tokenizer,
            model=model,
            ref_model=load_start(start, recipe.device, recipe.lora.rank)[0],
            reward_model=BranchReward(pool, prompts, tokenizer, recipe.clip, recipe.penalty),
            value_model=value.to(model.device),
            train_dataset=rows,
            eval_dataset=rows.select(range(1)),  # held-out states are measured in its place
            callbacks=[keeper],
        )
        trainer.remove_callback(load_transformers().PrinterCallback)
        trainer.accelerator.print = lambda *words: None  # it would announce itself on standard output
        trainer.train()
        write_atomically(folder / LOG, "".join(json.dumps(line) + "\n" for line in trainer.state.log_history))
    return outcome(folder, recipe.best)


class BranchReward(nn.Module):
    """The environment in the form of a reward model: a backbone whose last hidden state is the reward.

    Args:
        pool: that tries completions.
        prompts: of its states, as token ids.
        tokenizer: of the model.
        clip: where rewards are cut.
        penalty: for text that is no completion.
    """

    base_model_prefix = "branches"

    def __init__(
        self, pool: LivePool, prompts: Sequence[Sequence[int]], tokenizer: Any, clip: float, penalty: float
    ) -> None:
        super().__init__()
        self.branches, self.score = self._try, nn.Identity()
        self._pool, self._tokenizer, self._clip, self._penalty = pool, tokenizer, clip, penalty
        self._index = {tuple(ids): i for i, ids in enumerate(prompts)}
        self._lengths = sorted({len(ids) for ids in prompts})

    def read(self, ids: Sequence[int]) -> tuple[int, str]:
        """State and answer of a prompt with what was written behind it."""
        for length in self._lengths:
            index = self._index.get(tuple(ids[:length]))
            if index is not None:
                return index, str(self._tokenizer.decode(ids[length:], skip_special_tokens=True))
        raise InvalidConfiguration("a text that begins with no prompt of the pool")

    def _try(self, input_ids: Tensor, attention_mask: Tensor, **others: Any) -> Any:
        texts = [ids[valid].tolist() for ids, valid in zip(input_ids, attention_mask.bool(), strict=True)]
        states, answers = zip(*map(self.read, texts), strict=True)
        rewards = self._pool.rewards(states, answers, self._clip, -self._penalty)
        shape = (*input_ids.shape, 1)
        hidden = torch.tensor(rewards, device=input_ids.device)[:, None, None].expand(shape)
        return SimpleNamespace(hidden_states=(hidden,))


def _arguments(recipe: PpoRecipe, folder: Path, longest: int) -> dict[str, Any]:
    """Of the trainer's configuration."""
    on_cpu = choose_device(recipe.device).type == "cpu"
    return {
        "output_dir": str(folder),
        "seed": recipe.seed,
        "total_episodes": recipe.steps * recipe.batch,
        "per_device_train_batch_size": recipe.batch // recipe.accumulate,
        "gradient_accumulation_steps": recipe.accumulate,
        "local_rollout_forward_batch_size": recipe.batch,
        "num_mini_batches": 1,
        "num_ppo_epochs": recipe.epochs,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(recipe.warmup * recipe.steps),
        "weight_decay": recipe.weight_decay,
        "kl_coef": recipe.kl,
        "response_length": longest,
        "temperature": 1.0,
        "stop_token": "eos",
        "num_sample_generations": 0,
        "bf16": not on_cpu,
        "use_cpu": on_cpu,
        "activation_checkpointing": False,
        "gradient_checkpointing": None,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
    }


def _keeper(recipe: PpoRecipe, held_out: HeldOut, tokenizer: Any, folder: Path, say: Say) -> Any:
    """A callback that measures held-out states every so often, and keeps the best model."""
    callback: Any = load_transformers().TrainerCallback

    class Keeper(callback):  # type: ignore[misc]
        best = -float("inf")

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
            line = state.log_history[-1]
            shown = ("objective/scores", "objective/kl", "objective/entropy")
            words = [f"{name.rpartition('/')[2]} {line[name]:.4g}" for name in shown]
            say(f"step {state.global_step} of {state.max_steps}: {', '.join(words)}")
            if state.global_step % recipe.evaluate_every and state.global_step != state.max_steps:
                return
            self._measure(state, model)

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
            self._measure(state, model)  # the start may be the best there is

        def _measure(self, state: Any, model: Any) -> None:
            policy = model.policy
            found = held_out.measure(policy, tokenizer)
            model.train()
            state.log_history.append({f"eval_{k}": v for k, v in found.items()} | {"step": state.global_step})
            say(f"step {state.global_step}, held out: " + ", ".join(f"{k} {v:.4g}" for k, v in found.items()))
            if found[recipe.best] > self.best:
                self.best = found[recipe.best]
                save_model(policy, tokenizer, folder / BEST)

    return Keeper()
