"""Random updates that are made as often as the model makes them.

    python reproduce/hyperprompt/controls.py RESULTS/hyperprompt-held-out-v0      writes edit_rate.json beside this file
    hpbench run --agent reproduce.hyperprompt.controls:MatchedRandom --suite reproduce/hyperprompt/held-out.toml

The second command is given in the root of the repository. What the model gains over this agent is what its choices are
worth, apart from how often it chooses.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from agents.random_updates import RandomMatched
from hpbench.errors import InvalidConfiguration
from hpbench.evaluation.results import Results, load_results

RATE = Path(__file__).with_name("edit_rate.json")
MODEL = "hyperprompt"


class MatchedRandom(RandomMatched):
    """Random updates at the edit rate that was measured of the model.

    Args:
        rate: the file that :func:`main` writes.

    Raises:
        InvalidConfiguration: if it has not been measured yet.
    """

    name = "random-matched-to-model"

    def __init__(self, rate: str | Path = RATE) -> None:
        if not Path(rate).exists():
            raise InvalidConfiguration(
                f"The model's edit rate has not been measured: run the model, then python {Path(__file__).name} RESULTS"
            )
        super().__init__(json.loads(Path(rate).read_text(encoding="utf-8"))["edit_rate"])


def edit_rate(results: Results, agent: str = MODEL) -> float:
    """The share of hyperparameters that an agent edits per decision, over all its rows.

    Raises:
        UnknownName: if there is no such agent.
        InvalidConfiguration: if its rows have no such costs beside them.
    """
    found = [results.costs(agent, row) for row in results.rows(agent)]
    costs = [each.agent for each in found if each is not None and "edit_rate" in each.agent]
    # Every decision is about the same number of hyperparameters, so rows weigh by their decisions.
    decisions = sum(cost["decisions"] for cost in costs)
    if not decisions:
        raise InvalidConfiguration(f"There are no costs beside the rows of {agent!r}: run it again with this version")
    return sum(cost["decisions"] * cost["edit_rate"] for cost in costs) / decisions


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a folder of results that has the model's rows")
    parser.add_argument("--agent", default=MODEL, help="whose rate (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RATE)
    given = parser.parse_args(arguments)
    rate = edit_rate(load_results(given.results), given.agent)
    given.output.write_text(json.dumps({"agent": given.agent, "edit_rate": rate}, indent=1) + "\n", encoding="utf-8")
    print(f"{given.agent} edits {rate:.1%} of all hyperparameters at a decision: {given.output}")


if __name__ == "__main__":
    main()
