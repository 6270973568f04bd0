"""The command ``hpbench deploy``. Everything heavy is imported when it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def deploy(
    task: Annotated[str, typer.Argument(help="A task, as in 'hpbench list tasks'.")] = "classic/cartpole",
    agent: Annotated[
        str, typer.Option(help="A name from 'hpbench list agents', hf:folder_of_a_model, or package.module:Class.")
    ] = "kl-adaptive",
    seed: Annotated[int, typer.Option(min=0, help="Of the run and of the agent.")] = 0,
    track: Annotated[str, typer.Option(help="default, random or shift.")] = "default",
    tier: Annotated[str, typer.Option(help="small, standard or paper.")] = "small",
    learner: Annotated[str, typer.Option(help="A learner, as in 'hpbench list learners'.")] = "ppo",
    steps: Annotated[int | None, typer.Option(help="Training steps.", show_default="the tier's")] = None,
    decisions: Annotated[int | None, typer.Option(help="Decisions.", show_default="the tier's")] = None,
    undo: Annotated[
        str, typer.Option(help="What becomes of harmful updates: restore, reverse, never, or auto.")
    ] = "auto",
    no_roll_back: Annotated[bool, typer.Option("--no-roll-back", help="The same as --undo never.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="Most updates that are undone.")] = 5,
    granted: Annotated[
        bool, typer.Option("--granted", help="What is thrown away comes on top of the budget, instead of out of it.")
    ] = False,
    z: Annotated[float | None, typer.Option(help="Units of noise from which a loss is harm.", show_default="2")] = None,
    feedback: Annotated[str, typer.Option(help="What the agent is told of its updates: all, harmful or none.")] = "all",
    refine: Annotated[
        bool, typer.Option("--refine", help="Let the model (hf:...) learn from the effects of its updates as it goes.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    output: Annotated[Path | None, typer.Option(help="File for the log, JSON.", show_default="none")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No line per decision.")] = False,
) -> None:
    """Let an agent steer one live run, and undo what does harm.

    One line per decision: what was changed, the return, what was to be
    expected, the verdict. Harmful updates are undone: back to before the
    update, then half of it. What that throws away comes out of the budget.
    Interrupted, the same command starts again from the beginning.

    \b
    hpbench deploy classic/cartpole --agent kl-adaptive --track random
    hpbench deploy classic/acrobot --agent hf:path/to/model --output log.json
    hpbench deploy --agent my_file:MyAgent --no-roll-back
    """
    from agents.language.deployment import DeploymentOptions
    from agents.language.live_run import deploy_agent
    from agents.language.monitoring import MonitorOptions

    folder = os.getcwd()  # an agent may be in a file of the user's
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    monitor = MonitorOptions() if z is None else MonitorOptions(z=z)
    options = DeploymentOptions(
        undo="never" if no_roll_back else undo, limit=limit, charged=not granted, feedback=feedback, monitor=monitor
    )
    environment: dict[str, str | int] = {"track": track, "tier": tier, "learner": learner, "device": device}
    environment |= {name: number for name, number in (("steps", steps), ("decisions", decisions)) if number is not None}
    deploy_agent(agent, task, seed, options, environment, refine=refine, output=output, quiet=quiet)
