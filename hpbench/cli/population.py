"""``hpbench population``: population agents play, and their records become a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpbench.agent import make_population_agent
from hpbench.cli.listing import console, table
from hpbench.errors import InvalidConfiguration
from hpbench.evaluation.population import run_population


def show_population(agents: Sequence[str], seeds: str, output: Path | None, quiet: bool, **options: Any) -> None:
    """Play all games and print one line per agent.

    Args:
        agents: names or import paths.
        seeds: ``first-last``, or one number.
        output: file that gets one record per line, as JSON; None: no file.
        quiet: no line per game.
        **options: of :func:`~hpbench.evaluation.population.run_population`; None: left out.

    Raises:
        InvalidConfiguration: if the seeds are malformed, or the file exists already.
    """
    chosen = parse_seeds(seeds)
    options = {name: value for name, value in options.items() if value is not None}
    # Everything is checked before the first game starts.
    games = [run_population(agent, seeds=chosen, **options) for agent in map(make_population_agent, agents)]
    if output is not None:
        if output.exists():
            raise InvalidConfiguration(f"{str(output)!r} exists already: choose another file, or remove it")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
    out, rows = console(), []
    for agent, records in zip(agents, games, strict=True):
        played = []
        for record in records:
            played.append(record)
            if output is not None:
                with output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record.to_dict(), allow_nan=False) + "\n")
            if not quiet:
                line = f"{agent} seed {record.seed}: best {record.best_score:.3f} mean {record.mean_score:.3f}"
                out.print(line, markup=False)
        count = len(played)
        rows.append(
            (
                agent,
                count,
                round(sum(record.best_score for record in played) / count, 3),
                round(sum(record.mean_score for record in played) / count, 3),
                round(sum(record.copies for record in played) / count, 1),
                sum(record.steps for record in played),
            )
        )
    columns = ("agent", "games", "best member", "mean of members", "copies per game", "training steps")
    out.print(table("Final evaluation scores", columns, rows))


def parse_seeds(text: str) -> list[int]:
    """``3`` or ``0-9`` as numbers.

    Raises:
        InvalidConfiguration: for anything else.
    """
    first, _, last = text.partition("-")
    if not first.isdecimal() or (last and not last.isdecimal()) or text.endswith("-"):
        raise InvalidConfiguration(f'write seeds as "first-last" or as one number, got {text!r}')
    seeds = list(range(int(first), int(last or first) + 1))
    if not seeds:
        raise InvalidConfiguration(f"the seeds {text!r} are none: the last is below the first")
    return seeds
