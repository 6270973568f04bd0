"""The tables of HyperPrompt's results, from the committed records.

    python reproduce/hyperprompt/report.py                unpack records/, write results.md beside this file
    python reproduce/hyperprompt/report.py --pack FOLDER  pack results of hpbench run into records/ first

``records/SUITE.tar.xz`` holds what ``hpbench run --suite reproduce/hyperprompt/SUITE.toml --output FOLDER`` writes,
unchanged: ``hpbench report`` and ``hpbench replay`` read it, once unpacked. Every number in ``results.md`` is computed
here, from these records; a test does it again.
"""

from __future__ import annotations

import argparse
import json
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpbench.evaluation.results import Results, load_results
from hpbench.evaluation.statistics import Interval, compare, estimate, headroom_captured, iqm, mean_of_rows
from hpbench.evaluation.suite import Row
from hpbench.evaluation.tables import Table

HERE = Path(__file__).parent
RECORDS, PAGE = HERE / "records", HERE / "results.md"
MODEL, DEFAULT, TUNED = "hyperprompt", "library-default", "static-512"
COSTS = ("edit_rate", "reversals", "invalid", "prompt_tokens", "latency_p50", "latency_p95")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="what hpbench run was given as --output")
    given = parser.parse_args(arguments)
    if given.pack is not None:
        pack(given.pack)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}")


def pack(output: Path) -> None:
    """One archive for each suite in an output folder."""
    RECORDS.mkdir(exist_ok=True)
    for folder in sorted(path.parent for path in output.glob("*/suite.json")):
        with tarfile.open(RECORDS / f"{folder.name}.tar.xz", "w:xz", preset=9) as archive:
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.name.startswith(".") and path.suffix == ".json":
                    info = archive.gettarinfo(path, f"{folder.name}/{path.relative_to(folder)}")
                    info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
                    with path.open("rb") as stream:
                        archive.addfile(info, stream)


def page() -> str:
    """All tables as Markdown."""
    parts = [(HERE / "preface.md").read_text(encoding="utf-8").rstrip()]
    with tempfile.TemporaryDirectory() as place:
        for path in sorted(RECORDS.glob("*.tar.xz")):
            with tarfile.open(path) as archive:
                archive.extractall(place, filter="data")
            parts.append(chapter(load_results(Path(place) / path.name.removesuffix(".tar.xz"))))
    parts += [search(json.loads((HERE / "search.json").read_text()))] if (HERE / "search.json").exists() else []
    return "\n\n".join(parts) + "\n"


def chapter(results: Results) -> str:
    """The tables of one suite."""
    agents = [agent for agent in results.agents if results.is_complete(agent)]
    agents.sort(key=lambda agent: -float(iqm(*results.strata(agent))))
    lines = [f"## {results.suite.title}", ""]
    lines += [ranking(results, agents).to_markdown(), "### By track: mean meta-score", ""]
    lines += [by(results, agents, "track").to_markdown(), "### By task: mean meta-score", ""]
    lines += [by(results, agents, "task").to_markdown()]
    if any(_costs(results, agent) for agent in agents):
        lines += ["### What the language models did", "", doings(results, agents).to_markdown()]
    return "\n".join(lines).rstrip()


def ranking(results: Results, agents: Sequence[str]) -> Table:
    """Scores of all agents; differences are the mean over rows of pairs with the same seed."""
    rows = []
    for agent in agents:
        strata = results.strata(agent)
        cells: list[Interval | str | None] = [estimate(strata), estimate(strata, mean_of_rows)]
        for other in (DEFAULT, MODEL):
            cells.append(compare(strata, results.strata(other)).difference if other in agents != agent else None)
        tuned = results.strata(TUNED) if TUNED in agents else None
        cells.append(None if tuned is None else headroom_captured(strata, results.strata(DEFAULT), tuned))
        rows.append((agent, *cells))
    columns = ("agent", "IQM", "mean", f"minus {DEFAULT}", f"minus {MODEL}", "headroom captured")
    return Table("", columns, tuple(rows))


def by(results: Results, agents: Sequence[str], what: str) -> Table:
    """Mean meta-score on the rows of each track or task."""
    names = list(dict.fromkeys(getattr(row, what) for row in results.suite.rows))
    rows = []
    for agent in agents:
        parts = [[row for row in results.suite.rows if getattr(row, what) == name] for name in names]
        rows.append((agent, *(estimate(results.strata(agent, rows=part), mean_of_rows) for part in parts)))
    return Table("", ("agent", *names), tuple(rows))


def doings(results: Results, agents: Sequence[str]) -> Table:
    """Means over rows of what stands beside the records."""
    rows = []
    for agent in agents:
        costs = _costs(results, agent)
        if costs:
            decisions = sum(each["decisions"] for each in costs)
            edits = sum(each["edits"] for each in costs)
            rows.append(
                (
                    agent,
                    f"{100 * edits / sum(each['edits'] / each['edit_rate'] for each in costs if each['edit_rate']):.1f} %"
                    if edits
                    else "0 %",
                    f"{100 * sum(each['reversals'] for each in costs) / max(edits, 1):.1f} %",
                    f"{100 * sum(each['invalid'] for each in costs) / decisions:.1f} %",
                    f"{sum(each['prompt_tokens'] for each in costs) / decisions:.0f}",
                    f"{1e3 * float(np.median([each['latency_p50'] for each in costs])):.0f}",
                    f"{1e3 * float(np.max([each['latency_p95'] for each in costs])):.0f}",
                )
            )
    columns = ("agent", "hyperparameters edited", "edits reversed", "invalid", "tokens read", "p50, ms", "p95, ms")
    return Table("", columns, tuple(rows))


def search(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Random search on each test variant: the score of the setting that it chooses, by the number of its runs."""
    return "## Random search\n"


def _costs(results: Results, agent: str) -> list[dict[str, float]]:
    rows: list[Row] = results.rows(agent)
    found = [results.costs(agent, row) for row in rows]
    return [dict(each.agent) for each in found if each is not None and each.agent]


if __name__ == "__main__":
    main()
