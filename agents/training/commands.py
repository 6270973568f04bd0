"""The commands ``hpbench collect`` and ``hpbench dataset``. Everything heavy is imported when a command runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, cast

import typer


def collect(
    config: Annotated[
        Path | None,
        typer.Argument(help="Settings, TOML or JSON.", show_default="collect.toml of the package"),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder of the collection; the same again resumes.")] = Path("collected"),
    shards: Annotated[int | None, typer.Option(min=1, help="Pieces of work; more may follow later.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="All random numbers follow from it.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A family or task instead of those in the settings. Repeat it for several.")
    ] = None,
    learner: Annotated[list[str] | None, typer.Option(help="A learner instead of those in the settings.")] = None,
    behaviour: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME=SHARE instead of those in the settings: static, schedule, pbt, agent:NAME."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Worker processes.", show_default="one per CPU core; 1 on a GPU")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the settings in force, collect nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Collect meta-episodes and branch sets to train meta-agents on.

    Whole training runs on training variants, under many behaviours; from states
    on the way, several updates tried side by side. They become shards of parquet
    files, with a dataset card. Interrupted, the same command goes on.

    \b
    hpbench collect --shards 32 --output collected
    hpbench collect --show > my.json       the settings, to be changed
    hpbench collect my.json --output mine
    hpbench dataset report collected       what is in it, how noisy it is

    A second round with the model so far:

    \b
    hpbench collect --behaviour schedule --behaviour agent:hyperprompt=3
    """
    from agents.training.collect import collect as collect_all
    from agents.training.settings import dump_settings, read_settings

    changes: dict[str, Any] = {"shards": shards, "seed": seed, "tasks": task, "learners": learner, "device": device}
    if behaviour:
        changes["behaviours"] = dict(map(_share, behaviour))
    settings = read_settings(config, {name: value for name, value in changes.items() if value not in (None, [])})
    if show:
        typer.echo(dump_settings(settings), nl=False)
        return
    if processes is None:
        processes = 1 if settings.device.startswith("cuda") else os.cpu_count() or 1
    done = collect_all(settings, output, processes, progress=not quiet)
    typer.echo(f"{done.shards} of {done.planned} shards are in {done.folder}, {done.made} of them new.")
    typer.echo(f"Next: hpbench dataset report {done.folder}")


dataset = typer.Typer(no_args_is_help=True, help="Look into a collection of hpbench collect, and hand it on.")

Folder = Annotated[Path, typer.Argument(help="Folder of a collection.")]


@dataset.command()
def report(
    folder: Folder,
    horizon: Annotated[
        list[int] | None, typer.Option(min=1, help="Segments that gains are taken over.", show_default="1, 3")
    ] = None,
    split: Annotated[str, typer.Option(help="train or validation.")] = "train",
    confidence: Annotated[float, typer.Option(help="Surety that a gain is positive, to prefer it to keeping.")] = 0.8,
    material: Annotated[float, typer.Option(help="Smallest shrunk gain worth an update, in score.")] = 0.005,
    source: Annotated[str, typer.Option(help="Scores of evaluation or training episodes, or both.")] = "evaluation",
) -> None:
    """What a collection holds, and how noisy its labels are."""
    from agents.training.labels import LabelRule
    from agents.training.report import show_report

    rules = [LabelRule(each, confidence, material, cast("Any", source)) for each in horizon or (1, 3)]
    show_report(folder, split, rules)


@dataset.command()
def load(
    folder: Folder,
    table: Annotated[str, typer.Option(help="episodes, states or branches.")] = "states",
    rows: Annotated[int, typer.Option(min=0, help="How many rows to print.")] = 1,
) -> None:
    """Load a table as Hugging Face datasets do, and show it.

    In Python: agents.training.dataset.load(folder, table)
    """
    from agents.training.dataset import load as load_table

    found = load_table(folder, table)
    typer.echo(str(found))
    for split, data in found.items():
        for row in data.select(range(min(rows, len(data)))):
            typer.echo(f"\n{split}:")
            for name, value in row.items():
                typer.echo(f"  {name}: {value}")


@dataset.command()
def export(
    folder: Folder,
    target: Annotated[Path, typer.Argument(help="Gets a folder per table, for datasets.load_from_disk.")],
) -> None:
    """Write the tables in the form of datasets.save_to_disk."""
    from agents.training.dataset import export as export_tables

    for table, path in export_tables(folder, target).items():
        typer.echo(f"{table}: {path}")


@dataset.command()
def push(
    folder: Folder,
    repository: Annotated[str, typer.Argument(help="owner/name on the Hugging Face hub.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
) -> None:
    """Push the tables to the Hugging Face hub; the token comes from the environment variable HF_TOKEN."""
    from agents.training.dataset import push as push_tables

    for table in push_tables(folder, repository, private=not public):
        typer.echo(f"{table}: pushed to {repository}")


@dataset.command()
def examples(
    folder: Folder,
    target: Annotated[Path, typer.Argument(help="Gets KIND-SPLIT.jsonl for each split.")],
    kind: Annotated[str, typer.Option(help="sft: the label's completion; pool: all that were tried; runs.")] = "sft",
    form: Annotated[str, typer.Option(help="plain or messages.")] = "plain",
    horizon: Annotated[int, typer.Option(min=1, help="Segments that gains are taken over.")] = 3,
    confidence: Annotated[float, typer.Option(help="Surety that a gain is positive, to prefer it to keeping.")] = 0.8,
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Hide task and hyperparameter names.")] = False,
    trends: Annotated[bool, typer.Option(help="Show trend fields.")] = True,
    history: Annotated[bool, typer.Option(help="Show the last updates.")] = True,
    without: Annotated[list[str] | None, typer.Option(help="A base task to leave out. Repeat it for several.")] = None,
) -> None:
    """Write prompts and completions, one line of JSON each."""
    from agents.language.rendering import Rendering
    from agents.training.export import write_examples
    from agents.training.labels import LabelRule

    rendering = Rendering(anonymous=anonymous, trends=trends, history=history)
    rule = LabelRule(horizon, confidence)
    written = write_examples(folder, target, kind, form, rule, rendering, without or ())
    for path, count in written.items():
        typer.echo(f"{count} examples in {path}")


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name, float(share) if share else 1.0
    except ValueError:
        raise typer.BadParameter(f"{text!r}: write NAME or NAME=SHARE, such as schedule=3") from None
