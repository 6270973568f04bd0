"""The commands ``hpbench train ...``. Everything heavy is imported when a command runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from agents.training.recipes import AnyRecipe, Trained

train = typer.Typer(
    no_args_is_help=True,
    help="Train a language model to control hyperparameters, from a collection of hpbench collect: "
    "tiny, then sft, then grpo or ppo, then multistep.",
)

Collection = Annotated[Path, typer.Argument(help="Folder of a collection, as hpbench collect makes it.")]
Start = Annotated[str, typer.Argument(help="Model to go on from: a folder, or a name on the Hugging Face hub.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="TOML or JSON instead of the package's own.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Rows per step.")]
Rate = Annotated[float | None, typer.Option(help="Peak of the learning rate.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of all that is random.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Show = Annotated[bool, typer.Option("--show", help="Print the recipe in force, train nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@train.command()
def tiny(
    collection: Collection,
    output: Annotated[Path, typer.Option(help="Folder of the training run; the same again resumes.")] = Path("tiny"),
    recipe: RecipeFile = None,
    size: Annotated[str | None, typer.Option(help="0.3M, 0.4M, 0.8M, 5M or 10M parameters.")] = None,
    steps: Steps = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    device: Device = None,
    show: Show = False,
    quiet: Quiet = False,
) -> None:
    """Make a small model from nothing and pretrain it on whole trajectories.

    It learns how training runs go and what updates do to them, by predicting the
    recorded runs token by token. Then make a controller of it with hpbench train sft.

    \b
    hpbench train tiny collected --output tiny
    hpbench train tiny collected --size 0.8M --steps 2000 --output small
    hpbench train tiny --show collected > my.json     the recipe, to be changed
    """
    from agents.training.recipes import TinyRecipe

    changes = {"size": size, "steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    settings = _settings(TinyRecipe, recipe, changes | {"device": device}, show)
    from agents.training.tiny import train_tiny

    _finish(train_tiny(settings, collection, output, _say(quiet)), f"hpbench train sft {output / 'best'} {collection}")


@train.command()
def sft(
    model: Start,
    collection: Collection,
    output: Annotated[Path, typer.Option(help="Folder of the training run; the same again resumes.")] = Path("sft"),
    recipe: RecipeFile = None,
    steps: Steps = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    lora: Annotated[int | None, typer.Option(min=0, help="Rank of adapters; 0 trains all weights.")] = None,
    seed: Seed = None,
    device: Device = None,
    show: Show = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model on the updates that branch sets speak for (TRL's SFTTrainer).

    Only the answer is learnt, not the prompt. On the way it is asked about held-out
    states: how often it answers as the label does, how often it keeps everything,
    and what the updates it prefers had gained when they were tried.

    \b
    hpbench train sft tiny/best collected --output sft
    hpbench train sft a/large-model collected --lora 16 --learning-rate 2e-4
    hpbench run --agent hf:sft/best --suite classic-small-v0
    """
    from agents.training.recipes import SftRecipe

    changes: dict[str, Any] = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    changes |= {} if lora is None else {"lora": {"rank": lora}}
    settings = _settings(SftRecipe, recipe, changes | {"device": device}, show)
    from agents.training.sft import train_sft

    _finish(train_sft(settings, model, collection, output, _say(quiet)), _run(model, output, settings.lora.rank))


@train.command()
def grpo(
    model: Start,
    collection: Collection,
    output: Annotated[Path, typer.Option(help="Folder of the training run; the same again resumes.")] = Path("grpo"),
    recipe: RecipeFile = None,
    steps: Steps = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    device: Device = None,
    show: Show = False,
    quiet: Quiet = False,
) -> None:
    """Improve a model by what updates really gained (TRL's GRPOTrainer).

    The completions of a prompt are branches of one training run that were really
    trained; the model draws among them by its own probabilities, and the reward is
    the gain over the branch that kept everything, in units of its noise.

    \b
    hpbench train grpo sft/best collected --output grpo
    hpbench run --agent hf:grpo/best --suite classic-small-v0
    """
    from agents.training.recipes import GrpoRecipe

    changes = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    settings = _settings(GrpoRecipe, recipe, changes | {"device": device}, show)
    from agents.training.grpo import train_grpo

    _finish(train_grpo(settings, model, collection, output, _say(quiet)), _run(model, output, settings.lora.rank))


@train.command()
def ppo(
    model: Start,
    collection: Collection,
    output: Annotated[Path, typer.Option(help="Folder of the training run.")] = Path("ppo"),
    recipe: RecipeFile = None,
    shards: Annotated[int | None, typer.Option(min=1, help="Shards whose states are brought back to life.")] = None,
    steps: Steps = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    device: Device = None,
    show: Show = False,
    quiet: Quiet = False,
) -> None:
    """Improve a model by trying what it writes (TRL's PPOTrainer).

    States of the collection are brought back to life. Whatever the model answers is
    tried there, on copies that really train; the reward is the gain over a copy that
    keeps everything, in units of its noise. Begins anew if interrupted.

    \b
    hpbench train ppo sft/best collected --output ppo
    hpbench run --agent hf:ppo/best --suite classic-small-v0
    """
    from agents.training.recipes import PpoRecipe

    changes = {"shards": shards, "steps": steps, "batch": batch, "learning_rate": learning_rate, "seed": seed}
    settings = _settings(PpoRecipe, recipe, changes | {"device": device}, show)
    from agents.training.ppo import train_ppo

    _finish(train_ppo(settings, model, collection, output, _say(quiet)), _run(model, output, 0))


@train.command()
def multistep(
    model: Start,
    output: Annotated[Path, typer.Option(help="Folder of the training run; the same again resumes.")] = Path(
        "multistep"
    ),
    recipe: RecipeFile = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates of the policy.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Meta-episodes before each update.")] = None,
    processes: Annotated[int | None, typer.Option(min=0, help="That learners train in; 0: one a core.")] = None,
    stop_after: Annotated[int | None, typer.Option(min=1, help="End after this update; may go on later.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Task to leave out; may be given several times.")] = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    device: Device = None,
    show: Show = False,
    quiet: Quiet = False,
) -> None:
    """Improve a model by whole meta-episodes (own PPO with a value model and GAE).

    The model controls complete training runs on training variants, live; an update
    gets credit for what the score does until the very end. Greedy runs on validation
    variants decide which model is kept. Needs no collection.

    \b
    hpbench train multistep sft/best --output multistep
    hpbench train multistep sft/best --without classic/acrobot --output without-acrobot
    hpbench run --agent hf:multistep/best --suite classic-small-v0
    """
    from agents.training.multistep_recipe import MultistepRecipe

    changes: dict[str, Any] = {"steps": steps, "batch": batch, "processes": processes, "without": without or None}
    changes |= {"learning_rate": learning_rate, "seed": seed, "device": device}
    settings = _settings(MultistepRecipe, recipe, changes, show)
    from agents.training.multistep import train_multistep

    _finish(train_multistep(settings, model, output, _say(quiet), stop_after), _run(model, output, 0))


def _settings(kind: type[AnyRecipe], recipe: Path | None, changes: Mapping[str, Any], show: bool) -> AnyRecipe:
    """The recipe in force. To be shown only, it is printed, and the command is over."""
    from agents.training.recipes import dump_recipe, read_recipe

    settings = read_recipe(kind, recipe, {name: value for name, value in changes.items() if value is not None})
    if show:
        typer.echo(dump_recipe(settings), nl=False)
        raise typer.Exit
    return settings


def _say(quiet: bool) -> Any:
    return (lambda line: None) if quiet else (lambda line: typer.echo(line, err=True))


def _run(model: str, output: Path, rank: int) -> str:
    best = output / "best"
    return f"hpbench run --agent hf:{f'{model}+{best}' if rank else best}"


def _finish(done: Trained, following: str) -> None:
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in done.metrics.items())
    typer.echo(f"{done.steps} steps; the model that is kept is in {done.folder}: {metrics}.")
    typer.echo(f"Next: {following}")
