"""The commands ``hpbench collect`` and ``hpbench dataset``. Everything heavy is imported when a command runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

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


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name, float(share) if share else 1.0
    except ValueError:
        raise typer.BadParameter(f"{text!r}: write NAME or NAME=SHARE, such as schedule=3") from None


dataset = typer.Typer(no_args_is_help=True, help="Report on a collection, load, export and push it.")


@dataset.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a collection.")],
) -> None:
    """What is in a collection."""
