"""Results in a terminal."""

from __future__ import annotations

from hpbench.cli.listing import console
from hpbench.evaluation.results import Results
from hpbench.evaluation.tables import ranking


def show_results(results: Results) -> None:
    """Print the ranked table and what a reader should know about it."""
    out = console()
    out.print(ranking(results))
    for note in results.notes:
        out.print(note, markup=False)
