"""``hpbench train sft``: supervised fine-tuning on labels, by TRL's ``SFTTrainer``.

    hpbench train sft tiny/best collected --output sft
    hpbench run --agent hf:sft/best --suite classic-small-v0

An example is a state of a branch set with the completion that its label speaks for (:mod:`agents.training.labels`), or,
if the recipe has a teacher, any recorded state with the choices that lead to the teacher's settings; in exactly the
tokens that the slot policy scores. The loss is on the completion only. The checkpoint that is kept is the
best one on the split ``validation``.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from agents.language.causal import CausalModel
from agents.language.slot import SlotPolicy
from agents.training.examples import sft_rows, taught_rows, thin
from agents.training.held_out import HeldOut, completion_ids, read_states
from agents.training.recipes import SftRecipe, Trained, settle
from agents.training.teacher import Teacher
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


def train_sft(recipe: SftRecipe, start: str, collection: Path, folder: Path, say: Say = lambda line: None) -> Trained:
    """Fine-tune, or go on where it stopped.

    Args:
        recipe: how.
        start: model to go on from: a folder, or a name on the hub.
        collection: folder of ``hpbench collect``.
        folder: of the training run.
        say: gets lines on the progress.

    Raises:
        MissingExtra: if a package is not installed.
        InvalidConfiguration: if there is no such model, the collection lacks branch sets, or the folder holds something
            else.
    """
    require_trl()
    model, tokenizer = load_start(start, recipe.device, recipe.lora.rank)
    given = arguments(recipe, folder, recipe.best)
    policy = SlotPolicy(CausalModel(model, tokenizer))
    tables = {split: _examples(recipe, collection, split, policy) for split in ("train", "validation")}
    held_out = HeldOut(read_states(collection, "validation", recipe), recipe.evaluation_states)
    if settle(recipe, folder, model=start, collection=str(collection)) and is_over(folder):
        return outcome(folder, recipe.best)
    say(
        f"{len(tables['train'])} examples, {len(tables['validation'])} held out; labels there: "
        + ", ".join(f"{name} {value:.4g}" for name, value in held_out.references().items())
    )
    with calm():
        from datasets import Dataset

        trl = import_module("trl")
        trainer = with_held_out(trl.SFTTrainer, held_out, tokenizer, own_loss=True)(
            model=model,
            args=trl.SFTConfig(**given, completion_only_loss=True, max_length=None),
            train_dataset=Dataset.from_list(tables["train"]),
            eval_dataset=Dataset.from_list(tables["validation"]),
            processing_class=tokenizer,
            peft_config=adapters(recipe),
            callbacks=[narrator(say)],
        )
        return run_trainer(trainer, recipe, tokenizer, start, folder, recipe.best)


def _examples(recipe: SftRecipe, collection: Path, split: str, policy: SlotPolicy) -> list[dict[str, Any]]:
    """Rows that need no more preparation: token ids, and which of them are the completion."""
    teacher, show, form = Teacher(recipe.teacher, recipe.teacher_tolerance), recipe.show.rendering(), "messages"
    if teacher:
        rows = taught_rows(
            collection, teacher, split, show, form, recipe.without, hidden=recipe.hidden_tasks, seed=recipe.seed
        )
        rows = rows if recipe.keep_share is None else thin(rows, recipe.keep_share, recipe.seed)
    else:
        rule, kept = recipe.label.rule(), recipe.keep_share
        rows = sft_rows(collection, split, rule, show, form, recipe.without, keep_share=kept, seed=recipe.seed)
    found = []
    for row in rows:
        observation = row["prompt"][-1]["content"]
        prompt = policy.model.prompt_ids(observation)
        answer = completion_ids(policy, observation, row["completion"][0]["content"])
        found.append({"input_ids": [*prompt, *answer], "completion_mask": [0] * len(prompt) + [1] * len(answer)})
    return found
