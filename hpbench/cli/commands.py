"""The commands and their options."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_AGENTS = ("library-default", "hand-tuned", "static-random", "random", "cosine-decay", "kl-adaptive")
"""Who takes part if nobody is named: both references, both kinds of chance, a schedule and a rule that adapts."""

OVERVIEW = """
Training runs as Gymnasium environments, for agents that change the hyperparameters while a run goes on.

[bold]Start here[/bold]

\b
hpbench run            six agents on the quick suite: minutes on two cores
hpbench population     agents whose runs copy each other, on one task
hpbench report         ranked table, learning curves and schedules as HTML

[bold]Train a meta-agent[/bold]

\b
hpbench collect        runs and branch sets as training data
hpbench dataset        report on it, load, export, push
hpbench train          a language model: tiny, then sft, then grpo or ppo

[bold]Use one[/bold]

\b
hpbench deploy         one live run, watched: harmful updates are undone

[bold]Look around[/bold]

\b
hpbench list           ids, tasks, learners, hyperparameters, agents, suites
hpbench info NAME      one of them in detail, such as kl-adaptive or ppo
hpbench doctor         is the installation complete, and how to mend it

[bold]Your own agent[/bold]: a class with reset(spec, seed) and act(observation)

\b
hpbench run --agent my_file:MyAgent --agent library-default
python -c "import hpbench, my_file; hpbench.run(my_file.MyAgent())"
"""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        import hpbench

        typer.echo(f"hpbench {hpbench.__version__}")
        raise typer.Exit


@app.callback(help=OVERVIEW)
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command("list")
def list_command(
    what: Annotated[
        str, typer.Argument(help="ids, tasks, learners, hyperparameters, agents or suites; everything if left out.")
    ] = "all",
) -> None:
    """What there is: ids, tasks, learners, hyperparameters, agents, suites."""
    from hpbench.cli.listing import show_list

    show_list(what)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="An environment id, task, learner, hyperparameter, agent or suite.")],
) -> None:
    """One thing in detail, by its name."""
    from hpbench.cli.details import show_details

    _see_working_folder()
    show_details(name)


@app.command()
def run(
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="A name from 'hpbench list agents', an address such as hf:folder_of_a_model, or package.module:Class. "
            "Repeat it for several.",
            show_default=", ".join(DEFAULT_AGENTS),
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="A name from 'hpbench list suites', or the path of a suite file.")
    ] = "quick-v0",
    output: Annotated[Path, typer.Option(help="Where results go, in a folder per suite.")] = Path("results"),
    processes: Annotated[
        int | None, typer.Option(min=1, help="Worker processes.", show_default="one per CPU core")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the inner loop, per process.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    engine: Annotated[
        str, typer.Option(help="auto, native (C++, on the CPU), graph (CUDA graphs, on a GPU) or torch.")
    ] = "auto",
    privileged: Annotated[
        bool, typer.Option("--privileged", help="Let in agents that look ahead on copies of the run; not ranked.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the table.")] = False,
) -> None:
    """Run agents on a suite; interrupted, the same command resumes."""
    from hpbench.cli.results import show_results
    from hpbench.evaluation.runner import run as run_suite

    _see_working_folder()
    results = run_suite(
        agent if agent else DEFAULT_AGENTS,
        suite=suite,
        output=output,
        processes=processes,
        progress=not quiet,
        device=device,
        engine=engine,
        threads=threads,
        privileged=privileged,
    )
    show_results(results)
    typer.echo(f"Records are in {results.folder}. Next: hpbench report --results {results.folder}")


@app.command()
def population(
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="A population agent: a name, or package.module:Class. Repeat it for several.",
            show_default="independent, pbt",
        ),
    ] = None,
    task: Annotated[str, typer.Option(help="A task, as in 'hpbench list tasks'.")] = "classic/cartpole",
    seeds: Annotated[str, typer.Option(help="Of the populations, one game each: 0-9, or one number.")] = "0-4",
    members: Annotated[int, typer.Option(min=2, help="Members of a population.")] = 8,
    track: Annotated[str, typer.Option(help="default, random or shift.")] = "random",
    tier: Annotated[str, typer.Option(help="small, standard or paper.")] = "small",
    learner: Annotated[str, typer.Option(help="A learner, as in 'hpbench list learners'.")] = "ppo",
    steps: Annotated[int | None, typer.Option(help="Training steps per member.", show_default="the tier's")] = None,
    decisions: Annotated[int | None, typer.Option(help="Decisions per game.", show_default="the tier's")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    output: Annotated[
        Path | None, typer.Option(help="File for the records, one line of JSON each.", show_default="none")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the table.")] = False,
) -> None:
    """Let population agents (PBT, PB2, ...) play: members may copy each other."""
    from hpbench.cli.population import show_population

    _see_working_folder()
    show_population(
        agent if agent else ("independent", "pbt"),
        seeds,
        output,
        quiet,
        task=task,
        members=members,
        track=track,
        tier=tier,
        learner=learner,
        steps=steps,
        decisions=decisions,
        device=device,
    )


@app.command()
def report(
    results: Annotated[
        Path, typer.Option(help="The folder of a suite's results, or one that holds a single suite.")
    ] = Path("results"),
    output: Annotated[
        Path | None, typer.Option(help="Where the report goes.", show_default="the folder of the results")
    ] = None,
) -> None:
    """Show the ranked table, and write the report: Markdown, CSV and HTML."""
    from hpbench.cli.results import show_results
    from hpbench.evaluation.report import write_report
    from hpbench.evaluation.results import load_results

    found = load_results(results)
    show_results(found)
    page = write_report(found, output)
    typer.echo(f"Wrote {page}, and report.md and table.csv beside it.")


@app.command()
def doctor() -> None:
    """Check the installation and say how to mend it; exits with 1 if something is wrong."""
    from hpbench.cli.listing import console
    from hpbench.doctor import run_checks

    marks = {"ok": "[green]ok[/green]     ", "note": "[yellow]note[/yellow]   ", "problem": "[red]problem[/red]"}
    checks = run_checks()
    out = console()
    for check in checks:
        out.print(f"{marks[check.status]}  ", end="")
        out.print(f"{check.name}: {check.detail}", markup=False, highlight=False, soft_wrap=True)
        if check.fix:
            out.print(f"         {check.fix}", markup=False, highlight=False, soft_wrap=True)
    problems = sum(check.status == "problem" for check in checks)
    typer.echo(f"{problems} problem{'' if problems == 1 else 's'}." if problems else "All is well.")
    if problems:
        raise typer.Exit(1)


def _see_working_folder() -> None:
    """Let ``--agent my_file:MyAgent`` find files beside the user, after everything that is installed."""
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def _add_installed_commands() -> None:
    """Commands of other packages, entry points of the group ``hpbench.commands``: each a function, or a Typer app with
    commands of its own, in a module that imports what is heavy only when the command runs."""
    for entry in sorted(entry_points(group="hpbench.commands"), key=lambda entry: entry.name):
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)


_add_installed_commands()
