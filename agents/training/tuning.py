"""What the stages built on TRL have in common: loading a model to train, trainer arguments, evaluation on held-out
states, and keeping the best checkpoint.

Checkpoints are those of the trainer (``OUTPUT/checkpoint-STEP``), with optimiser, scheduler and random states; the same
command goes on from the last one. ``OUTPUT/log.jsonl`` has a line for everything that was logged.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from agents.language.causal import load_transformers
from agents.training.held_out import HeldOut
from agents.training.recipes import Trained, TunedRecipe
from agents.training.tiny import BEST, LOG, choose_device, quiet_bars, save_model
from hpbench.errors import InvalidConfiguration, MissingExtra
from hpbench.evaluation.records import write_atomically

Say = Callable[[str], None]


def require_trl() -> None:
    """Whether TRL can be imported; doing so takes many seconds, so it is done last.

    Raises:
        MissingExtra: if it, or what it needs, is not installed.
    """
    for package in ("transformers", "datasets", "accelerate", "trl"):
        if find_spec(package) is None:
            raise MissingExtra(package, "training")


def load_start(path: str, device: str, lora: int = 0) -> tuple[Any, Any]:
    """The model to go on from, and its tokenizer. Weights that are trained are float32.

    Args:
        path: folder, or name on the hub.
        device: ``auto`` takes a GPU if there is one.
        lora: rank of the adapters that will be trained in place of the weights; 0: none.

    Raises:
        MissingExtra: if adapters are asked for and PEFT is not installed.
        InvalidConfiguration: if there is no such model.
    """
    transformers = load_transformers()
    if lora and find_spec("peft") is None:
        raise MissingExtra("peft", "training")
    place = choose_device(device)
    frozen = lora > 0 and place.type == "cuda"
    try:
        with quiet_bars():
            tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.bfloat16 if frozen else torch.float32
            )
    except (OSError, ValueError) as error:
        raise InvalidConfiguration(f"No language model at {path!r}: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(place), tokenizer


def adapters(recipe: TunedRecipe) -> Any:
    """PEFT's configuration of the adapters; None for none."""
    if not recipe.lora.rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules=recipe.lora.targets,
        task_type="CAUSAL_LM",
    )


def arguments(recipe: TunedRecipe, folder: Path, best: str) -> dict[str, Any]:
    """Of a trainer's configuration.

    Raises:
        InvalidConfiguration: if a batch cannot be divided into parts.
    """
    if recipe.batch % recipe.accumulate:
        raise InvalidConfiguration(f"a batch of {recipe.batch} has no {recipe.accumulate} equal parts")
    every = min(recipe.evaluate_every, recipe.steps)
    return {
        "output_dir": str(folder),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "max_steps": recipe.steps,
        "per_device_train_batch_size": recipe.batch // recipe.accumulate,
        "per_device_eval_batch_size": recipe.batch // recipe.accumulate,
        "gradient_accumulation_steps": recipe.accumulate,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(recipe.warmup * recipe.steps),
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": 1.0,
        "bf16": choose_device(recipe.device).type == "cuda",
        "use_cpu": choose_device(recipe.device).type == "cpu",
        "activation_checkpointing": False,
        "gradient_checkpointing": None,  # TRL would set the old name, too
        "eval_strategy": "steps",
        "eval_on_start": recipe.lora.rank == 0,
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": f"eval_{best}",
        "greater_is_better": best != "loss",
        "logging_steps": max(1, every // 5),
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


def with_held_out(trainer: Any, held_out: HeldOut, tokenizer: Any, own_loss: bool) -> Any:
    """A trainer class whose evaluations also measure held-out states.

    Args:
        trainer: class of TRL.
        held_out: the states.
        tokenizer: of the model.
        own_loss: whether the trainer's own evaluation is made, too.
    """

    class HeldOutTrainer(trainer):  # type: ignore[misc]
        control: Any

        def evaluate(self, *given: Any, metric_key_prefix: str = "eval", **named: Any) -> dict[str, float]:
            metrics: dict[str, float] = (
                super().evaluate(*given, metric_key_prefix=metric_key_prefix, **named) if own_loss else {}
            )
            model = self.accelerator.unwrap_model(self.model)
            measured = {
                f"{metric_key_prefix}_{name}": value for name, value in held_out.measure(model, tokenizer).items()
            }
            self.model.eval()  # TRL sorts what it logs by the mode of the model
            self.log(dict(measured))
            metrics |= measured
            if not own_loss:
                self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            self.model.train()
            return metrics

    HeldOutTrainer.__name__ = HeldOutTrainer.__qualname__ = trainer.__name__
    return HeldOutTrainer


def narrator(say: Say) -> Any:
    """A callback that tells what is logged."""
    callback: Any = load_transformers().TrainerCallback

    class Narrator(callback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            shown = ("loss", "expected_reward", "entropy", "kl")
            words = [
                f"{name.removeprefix('eval_')} {value:.4g}"
                for name, value in (logs or {}).items()
                if isinstance(value, float) and (name in shown or name.startswith("eval_"))
                if not name.endswith(("_per_second", "_runtime", "num_tokens", "_epoch"))
            ]
            if words:
                place = ", held out" if any(name.startswith("eval_") for name in logs) else ""
                say(f"step {state.global_step} of {state.max_steps}{place}: {', '.join(words)}")

    return Narrator()


def last_checkpoint(folder: Path) -> str | None:
    """The checkpoint that training goes on from."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None


@contextmanager
def calm() -> Iterator[None]:
    """Without progress bars and hints that are not for users of this command."""
    levels = {name: logging.getLogger(name).level for name in ("trl", "transformers", "accelerate", "peft")}
    before = os.environ.get("TRL_EXPERIMENTAL_SILENCE")
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    import datasets

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with quiet_bars(), warnings.catch_warnings():
            # TRL uses names that transformers is about to give up.
            warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
            yield
    finally:
        if not bars:
            datasets.enable_progress_bars()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if before is None:
            del os.environ["TRL_EXPERIMENTAL_SILENCE"]


def run_trainer(trainer: Any, recipe: TunedRecipe, tokenizer: Any, start: str, folder: Path, best: str) -> Trained:
    """Train to the end, from the last checkpoint if there is one; keep the best, which may be the start itself."""
    trainer.remove_callback(load_transformers().PrinterCallback)  # there is a narrator
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    history = trainer.state.log_history
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if best_step(history, best) == 0:
        model = load_start(start, recipe.device, recipe.lora.rank)[0]
    if recipe.lora.rank:
        shutil.rmtree(folder / BEST, ignore_errors=True)
        model.save_pretrained(folder / BEST)
        tokenizer.save_pretrained(folder / BEST)
        for path in (folder / BEST).iterdir():
            path.chmod(0o644)
    else:
        save_model(model, tokenizer, folder / BEST)
    # The log comes last: where it is, training is over.
    write_atomically(folder / LOG, "".join(json.dumps(line) + "\n" for line in history))
    return outcome(folder, best)


def is_over(folder: Path) -> bool:
    """Whether a training run has come to its end."""
    return (folder / LOG).exists()


def best_step(history: Sequence[Mapping[str, Any]], best: str) -> int:
    """The step with the smallest loss, or the largest of another measure; the earliest of equal ones."""
    pick = min if best == "loss" else max
    return int(
        pick((line for line in history if f"eval_{best}" in line), key=lambda line: line[f"eval_{best}"])["step"]
    )


def outcome(folder: Path, best: str) -> Trained:
    """Of a training run that is over."""
    history = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    kept = best_step(history, best)
    found: dict[str, float] = {}
    for line in history:
        if line["step"] == kept:
            found |= {name.removeprefix("eval_"): value for name, value in line.items() if name.startswith("eval_")}
    shown = ("loss", "agreement", "edit_agreement", "keep_rate", "gain", "expected_gain", "slot_entropy")
    return Trained(folder / BEST, history[-1]["step"], {name: found[name] for name in shown if name in found})
