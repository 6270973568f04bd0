"""PBT and PB2 on the held-out variants, charged for all their members and not.

    python reproduce/hyperprompt/populations.py --processes 16 --output populations.jsonl
    python reproduce/hyperprompt/populations.py --agent pbt --members 4 --track random --output populations.jsonl

Charged, the members share the steps of one run: each trains for the budget divided by their number, rounded down to
whole rollouts. Not charged (``--uncharged``), each of them gets the whole budget, so the population takes ``members``
times what its opponents take. The score is that of the member that is handed over, chosen at the end by its *training*
score: half its final score, half its mean score over decisions. Seeds, variants and tracks are those of
``held-out.toml``. On the track ``random`` every member starts from values of its own; on the others all start alike.

Every finished game is one line of the output file, written at once; the same command again plays what is missing.
Needs the extras ``pettingzoo`` and ``pb2``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hpbench
from hpbench import tasks
from hpbench.cli.population import parse_seeds
from hpbench.errors import InvalidConfiguration
from hpbench.evaluation.results import Results
from hpbench.evaluation.statistics import Interval, compare, estimate, mean_of_rows
from hpbench.evaluation.suite import load_suite
from hpbench.evaluation.tables import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))
import lines

SUITE = Path(__file__).with_name("held-out.toml")
ROLLOUT = 512
"""Environment steps of one PPO rollout: a segment is a whole number of them."""
DECISIONS = 10


@dataclass(frozen=True)
class Game:
    """One population on one variant.

    Args:
        charged: whether the members share the steps of one run.
        steps, decisions: of each member.
    """

    agent: str
    members: int
    charged: bool
    task: str
    track: str
    seed: int
    steps: int
    decisions: int

    @property
    def key(self) -> tuple[str, int, bool, str, str, int]:
        """What tells games apart."""
        return self.agent, self.members, self.charged, self.task, self.track, self.seed


def budget(task: str, members: int, charged: bool) -> tuple[int, int]:
    """Steps and decisions of each member.

    Charged, the members together never take more steps than one run, and decide as often as whole rollouts allow, up to
    :data:`DECISIONS` times: in shorter segments too few episodes end to rank members by.

    Raises:
        InvalidConfiguration: if the members outnumber the rollouts of a run.
    """
    whole = tasks.of_split(task).budgets["small"]
    if not charged:
        return whole.steps, whole.decisions
    rollouts = whole.steps // members // ROLLOUT
    if rollouts < 1:
        raise InvalidConfiguration(f"{members} members cannot share {whole.steps} steps: take fewer members")
    return rollouts * ROLLOUT, max(count for count in range(1, DECISIONS + 1) if rollouts % count == 0)


def plan(
    agents: Sequence[str], members: int, charged: bool, tracks: Sequence[str], on: Sequence[str], seeds: Iterable[int]
) -> list[Game]:
    """All games of these choices."""
    return [
        Game(agent, members, charged, task, track, seed, *budget(task, members, charged))
        for agent, track, task, seed in itertools.product(agents, tracks, on, list(seeds))
    ]


def play(game: Game, **options: Any) -> dict[str, Any]:
    """Play a game to its end: what is kept of it, as JSON values."""
    torch.set_num_threads(1)
    (record,) = hpbench.run_population(
        game.agent,
        game.task,
        [game.seed],
        game.members,
        track=game.track,
        steps=game.steps,
        decisions=game.decisions,
        device="cpu",
        **options,
    )
    chosen = record.members[record.best_member]
    scores = np.array([*chosen.scores[1:], *chosen.scores[-1:] * (game.decisions + 1 - len(chosen.scores))])
    return {
        **game.__dict__,
        "variant": chosen.task,
        "meta_score": float(0.5 * scores[-1] + 0.5 * scores.mean()),
        "scores": list(chosen.scores),
        "final_scores": [member.scores[-1] for member in record.members],
        "copies": record.copies,
        "taken": record.steps,
        "digest": chosen.digest,
    }


def key_of(line: dict[str, Any]) -> tuple[Any, ...]:
    """The key of the game that a line is about."""
    return tuple(line[name] for name in ("agent", "members", "charged", "task", "track", "seed"))


def run(games: Sequence[Game], path: Path, processes: int = 1, **options: Any) -> int:
    """Play the games that the file does not have yet; how many these were."""
    return lines.run(games, path, play, key_of, processes, **options)


def table(games: Sequence[dict[str, Any]], results: Results, against: Sequence[str]) -> Table:
    """Populations next to agents of the held-out suite; differences are paired by variant and seed.

    Args:
        games: finished ones; a population counts once it has all rows and seeds of the suite.
        results: of the suite.
        against: agents of ``results`` to compare with.
    """
    scores = {key_of(game): float(game["meta_score"]) for game in games}
    rows: list[tuple[str | float | Interval | None, ...]] = []
    for agent, members, charged in sorted({key[:3] for key in scores}, key=lambda key: (key[2], *key[:2])):
        wanted = [
            [(agent, members, charged, row.task, row.track, seed) for seed in row.seeds] for row in results.suite.rows
        ]
        if not all(key in scores for keys in wanted for key in keys):
            continue
        strata = [np.array([scores[key] for key in keys]) for keys in wanted]
        taken = sum(game["taken"] for game in games if key_of(game)[:3] == (agent, members, charged))
        planned = sum(len(row.seeds) * tasks.of_split(row.task).budgets[row.tier].steps for row in results.suite.rows)
        rows.append(
            (
                f"{agent}, {members} members",
                f"{taken / planned:.2f}",
                estimate(strata),
                estimate(strata, mean_of_rows),
                *(compare(strata, results.strata(other)).difference for other in against),
            )
        )
    columns = ("population", "steps, in runs", "IQM", "mean", *(f"minus {other}" for other in against))
    return Table("", columns, tuple(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    suite = load_suite(SUITE)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", action="append", help="pbt, pb2 or independent; repeat it (default: pbt and pb2)")
    parser.add_argument("--members", type=int, action="append", help="repeat it (default: 4 and 8)")
    parser.add_argument("--track", action="append", choices=suite.tracks, help="repeat it (default: all)")
    parser.add_argument("--task", action="append", choices=suite.tasks, help="repeat it (default: all)")
    parser.add_argument("--seeds", default="100-119", help="first-last, or one number (default: %(default)s)")
    parser.add_argument("--uncharged", action="store_true", help="every member gets the steps of a whole run")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("populations.jsonl"))
    given = parser.parse_args(arguments)
    games = [
        game
        for members in given.members or (4, 8)
        for game in plan(
            given.agent or ("pbt", "pb2"),
            members,
            not given.uncharged,
            given.track or suite.tracks,
            given.task or suite.tasks,
            parse_seeds(given.seeds),
        )
    ]
    print(f"{len(games)} games, {run(games, given.output, given.processes)} of them played now: {given.output}")


if __name__ == "__main__":
    main()
