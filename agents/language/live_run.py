"""What ``hpbench deploy`` does: run, show a line per decision, keep a log."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

import hpbench
from agents.language.deployment import Attempt, Decided, Deployment, DeploymentOptions, live_environment
from agents.language.refinement import refiner_of
from hpbench.agent import make_agent
from hpbench.cli.listing import console, table
from hpbench.errors import InvalidConfiguration
from hpbench.evaluation.identity import identify
from hpbench.evaluation.records import write_atomically
from hpbench.tasks.base import Anchors

FORMAT = "hpbench-deployment/1"
"""Version of the log."""

_STYLES = {"better": "green", "harmful": "red", "diverged": "red"}
_SUMMARY = (
    *("meta_score", "final_score", "steps", "rolled_back_steps", "extra_steps", "updates", "edit_rate"),
    *("reversal_rate", "invalid_rate", "harmful_rate", "roll_backs", "roll_back_rate", "reversed_updates"),
    *("feedback_lines", "latency_p50", "latency_p95"),
)


def deploy_agent(
    agent: str,
    task: str,
    seed: int,
    options: DeploymentOptions,
    environment: Mapping[str, Any],
    *,
    refine: bool = False,
    output: Path | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Run to the end, and print and log what happens.

    Args:
        agent: anything that :func:`hpbench.make_agent` takes.
        task: its id.
        seed: of the run.
        options: how it is looked after.
        environment: further options of the meta-environment.
        refine: whether the agent's model learns from the effects.
        output: file of the log, which is complete after every decision; None: no log.
        quiet: no lines.

    Returns:
        The log, as it is in the file.

    Raises:
        InvalidConfiguration: if the file holds a finished log, or options do not work together.
    """
    _check(output)
    made = make_agent(agent)
    identity = identify(made, agent)
    env = live_environment(made, task, **environment)
    live = Deployment(env, made, options, refiner_of(made) if refine else None)
    log: dict[str, Any] = {
        "format": FORMAT,
        "hpbench": hpbench.__version__,
        "agent": asdict(identity),
        "environment": env.options.to_dict(),
        "options": asdict(options),
        "refine": refine,
        "seed": seed,
        "finished": False,
        "decisions": [],
    }
    out = console()
    if not quiet:
        out.print(f"{identity.name} on {task}, seed {seed}; harmful updates: {live.undo}", markup=False)
        out.print(f"{'#':>3}  {'return':>9} {'expected':>9} {'effect':>8}  {'verdict':<20} changes", style="bold")
    for decided in live.run(seed):
        log["decisions"].append(decided.to_dict())
        if not quiet:
            _show(out, decided, live.spec.task.anchors)
        _save(output, log | {"report": live.report()})
    log |= {"finished": True, "report": live.report()}
    _save(output, log)
    report = live.report()
    rows = [(name.replace("_", " "), report[name]) for name in _SUMMARY]
    rows += [(f"agent: {name.replace('_', ' ')}", number) for name, number in report["agent"].items()]
    out.print(table("What the run came to", ("", "value"), rows))
    if output is not None:
        out.print(f"The log is in {output}", markup=False, soft_wrap=True)
    return log


def _show(out: Console, decided: Decided, anchors: Anchors) -> None:
    for number, attempt in enumerate(decided.attempts):
        judgement = attempt.judgement
        undone = ", undone" if attempt.undone else " (reversal)" if decided.by == "monitor" else ""
        label = "" if number else str(decided.decision)
        numbers = f"{_return(judgement.score, anchors):>9} {_return(judgement.expected, anchors):>9}"
        effect = "-" if math.isnan(judgement.effect) else f"{100.0 * judgement.effect:+.1f}%"
        out.print(f"{label:>3}  {numbers} {effect:>8}  ", end="", markup=False)
        out.print(f"{judgement.verdict + undone:<20} ", end="", style=_STYLES.get(judgement.verdict), markup=False)
        out.print(_changes(attempt), markup=False, soft_wrap=True)


def _return(score: float, anchors: Anchors) -> str:
    return "-" if math.isnan(score) else f"{anchors.value(score):.4g}"


def _changes(attempt: Attempt) -> str:
    return ", ".join(f"{name} {old:g} -> {attempt.values[name]:g}" for name, old in attempt.changes.items())


def _check(output: Path | None) -> None:
    if output is None or not output.exists():
        return
    try:
        finished = json.loads(output.read_text(encoding="utf-8")).get("finished", True)
    except (ValueError, AttributeError):
        finished = True  # not a log of ours, so not ours to overwrite
    if finished:
        raise InvalidConfiguration(f"{str(output)!r} exists already: choose another file, or remove it")


def _save(output: Path | None, log: Mapping[str, Any]) -> None:
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, json.dumps(log, allow_nan=False, indent=1) + "\n")
