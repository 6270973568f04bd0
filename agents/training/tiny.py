"""``hpbench train tiny``: a small Llama-style model from nothing, pretrained on whole trajectories.

    hpbench collect --output collected
    hpbench train tiny collected --output tiny
    hpbench run --agent "hf:tiny/best?sample=true"

The model that is kept, ``OUTPUT/best``, is the one with the smallest loss on trajectories of the split ``validation``
(other tasks, other runs), in bfloat16, as ``save_pretrained`` writes it. It imitates the behaviours of the collection,
bad ones too; ``hpbench train sft`` makes a controller of it.

On a GPU, matrix products are bfloat16 and weights float32. Batches follow from the recipe's seed and the number of the
step alone, so that a run that goes on from its checkpoint sees what it would have seen.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.language.causal import load_transformers
from agents.training.architecture import SIZES, UNKNOWN, make_model, make_tokenizer
from agents.training.collect import SETTINGS_FILE
from agents.training.recipes import TinyRecipe, Trained, settle
from agents.training.sequences import Sequences, read_sequences
from agents.training.settings import load_settings
from hpbench import tasks
from hpbench.errors import InvalidConfiguration, UnknownName

BEST, CHECKPOINT, LOG = "best", "checkpoint.pt", "log.jsonl"
"""What a folder of a training run holds: the model that is kept, what training goes on from, a line per evaluation."""

Say = Callable[[str], None]


def train_tiny(recipe: TinyRecipe, collection: Path, folder: Path, say: Say = lambda line: None) -> Trained:
    """Pretrain, or go on where it stopped.

    Args:
        recipe: how.
        collection: folder of ``hpbench collect``.
        folder: of the training run.
        say: gets a line after each evaluation.

    Raises:
        InvalidConfiguration: if the collection lacks a split, or the folder holds something else.
        UnknownName: if there is no such size.
        MissingExtra: if a package is not installed.
    """
    if recipe.size not in SIZES:
        raise UnknownName("size", recipe.size, SIZES)
    if not (collection / SETTINGS_FILE).exists():
        raise InvalidConfiguration(f"{str(collection)!r} is no collection: make one with hpbench collect")
    settings = load_settings(collection / SETTINGS_FILE)
    tokenizer = make_tokenizer(known={base for base, _ in settings.combinations()} - set(recipe.without))
    model = make_model(recipe.size, tokenizer, recipe.seed)
    rendering = recipe.show.rendering()
    data = {
        split: read_sequences(collection, split, tokenizer, recipe.length, rendering, recipe.without)
        for split in ("train", "validation")
    }
    settle(recipe, folder, collection=str(collection))
    run = _Pretraining(recipe, folder, tokenizer, model, data["train"], data["validation"])
    run.resume()
    say(
        f"{sum(weight.numel() for weight in model.parameters()):,} parameters, {len(tokenizer)} words, "
        f"{data['train'].tokens:,} tokens, on {run.device}"
    )
    run.train(say)
    return Trained(folder / BEST, run.step, {"loss": run.best})


class _Pretraining:
    """State of a pretraining run."""

    def __init__(
        self, recipe: TinyRecipe, folder: Path, tokenizer: Any, model: Any, train: Sequences, held_out: Sequences
    ) -> None:
        self.recipe, self.folder, self.tokenizer = recipe, folder, tokenizer
        self.device = choose_device(recipe.device)
        self.model = model.to(self.device)
        self._forward = torch.compile(self.model) if recipe.compile else self.model
        decayed = [weight for weight in model.parameters() if weight.ndim > 1]
        others = [weight for weight in model.parameters() if weight.ndim == 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.95),
        )
        self.train_rows, self.held_out = train, held_out.spread(recipe.evaluation_sequences)
        self._tasks = torch.tensor(
            [tokenizer.convert_tokens_to_ids(name) for name in tasks.task_ids()], device=self.device
        )
        self._unknown = tokenizer.convert_tokens_to_ids(UNKNOWN)
        self.step, self.best = 0, math.inf

    def train(self, say: Say) -> None:
        """To the last step, with an evaluation and a checkpoint every so often."""
        recipe, losses = self.recipe, []
        started, first = time.monotonic(), self.step
        while self.step < recipe.steps:
            losses.append(self._take_step())
            if self.step % recipe.evaluate_every == 0 or self.step == recipe.steps:
                held_out, trained = self.evaluate(), float(torch.stack(losses).mean())
                losses = []
                pace = (self.step - first) * recipe.batch * recipe.length / (time.monotonic() - started)
                if held_out < self.best:
                    self.best = held_out
                    save_model(self.model, self.tokenizer, self.folder / BEST)
                self._note({"step": self.step, "loss": trained, "validation_loss": held_out})
                self._save()
                say(
                    f"step {self.step} of {recipe.steps}: loss {trained:.4f}, validation {held_out:.4f} "
                    f"(best {self.best:.4f}), {pace:,.0f} tokens/s"
                )

    @torch.no_grad()
    def evaluate(self) -> float:
        """Loss per token on the held-out rows."""
        self.model.eval()
        total, count = 0.0, 0
        for rows in torch.split(self.held_out, self.recipe.batch):
            loss, tokens = self._loss(rows.to(self.device), self.model)
            total, count = total + float(loss) * tokens, count + tokens
        return total / count

    def _take_step(self) -> Tensor:
        generator = np.random.default_rng([self.recipe.seed, self.step])
        rows = self.train_rows.draw(self.recipe.batch, generator).to(self.device)
        hidden = torch.from_numpy(generator.random(self.recipe.batch) < self.recipe.hidden_tasks).to(self.device)
        rows = torch.where(hidden[:, None] & torch.isin(rows, self._tasks), self._unknown, rows)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * schedule(self.step, self.recipe.steps, self.recipe.warmup)
        self.model.train()
        loss, _ = self._loss(rows, self._forward)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return loss.detach()

    def _loss(self, rows: Tensor, model: Any) -> tuple[Tensor, int]:
        """Cross entropy of the next token, mean over all that are no padding, and how many these are."""
        # Padding stands at the end only, so causal attention never sees it.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
        targets = rows[:, 1:]
        targets = targets.masked_fill(targets == self.tokenizer.pad_token_id, -100)
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        return loss, int((targets != -100).sum())

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        path = self.folder / CHECKPOINT
        if path.exists():
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.best = state["step"], state["best"]

    def _save(self) -> None:
        path = self.folder / CHECKPOINT
        temporary = path.with_suffix(".tmp")
        state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}
        torch.save(state | {"step": self.step, "best": self.best}, temporary)
        os.replace(temporary, path)

    def _note(self, line: dict[str, float]) -> None:
        path = self.folder / LOG
        # A run that was killed after its last checkpoint takes some steps again.
        old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [each for each in old if json.loads(each)["step"] < line["step"]]
        path.write_text("\n".join([*kept, json.dumps(line)]) + "\n", encoding="utf-8")


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate: linear warm-up, then half a cosine to 0."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes a GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextlib.contextmanager
def quiet_bars() -> Iterator[None]:
    """No progress bars of transformers; they would tear our own lines."""
    bars = load_transformers().utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Model (bfloat16) and tokenizer in a folder that appears whole, readable for everyone."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    kind = model.config.dtype
    weights = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    model.config.dtype = torch.bfloat16
    try:
        with quiet_bars():
            model.save_pretrained(temporary, state_dict=weights)
    finally:
        model.config.dtype = kind
    tokenizer.save_pretrained(temporary)
    for path in temporary.iterdir():
        path.chmod(0o644)  # weights are written as private files
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
