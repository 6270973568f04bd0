"""The tables of HyperPrompt's results, from the committed records.

    python reproduce/hyperprompt/report.py                unpack records/, write results.md beside this file
    python reproduce/hyperprompt/report.py --pack FOLDER  pack results of hpbench run into records/ first

``records/SUITE.tar.xz`` holds what ``hpbench run --suite reproduce/hyperprompt/SUITE.toml --output FOLDER`` writes,
unchanged: ``hpbench report`` reads it, once unpacked. Every number in ``results.md`` is computed
here, from these records; a test does it again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.evaluation.results import Results, load_results
from hpbench.evaluation.statistics import Interval, compare, estimate, headroom_captured, iqm, mean_of_rows
from hpbench.evaluation.suite import Row
from hpbench.evaluation.tables import Table

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.resolve()))
Floats = NDArray[np.float64]
RECORDS, PAGE = HERE / "records", HERE / "results.md"
MODEL, DEFAULT, TUNED = "hyperprompt", "library-default", "static-512"
HELD_OUT, ORACLE = "hyperprompt-held-out-v0", "hyperprompt-oracle-v0"


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
        for path in sorted(RECORDS.glob("*.tar.xz"), key=lambda path: (HELD_OUT not in path.name, path.name)):
            with tarfile.open(path) as archive:
                archive.extractall(place, filter="data")
            results = load_results(Path(place) / path.name.removesuffix(".tar.xz"))
            if results.suite.name == ORACLE:
                parts.append(bound(results, load_results(Path(place) / HELD_OUT)))
                continue
            whole = all(results.is_complete(agent) for agent in results.agents)
            parts.append(chapter(results) if whole else by_row(results))
            if results.suite.name == HELD_OUT and (HERE / "search.json").exists():
                parts.append(search(json.loads((HERE / "search.json").read_text(encoding="utf-8")), results))
            if results.suite.name == HELD_OUT and (HERE / "populations.jsonl").exists():
                parts.append(populations(HERE / "populations.jsonl", results))
            if results.suite.name == HELD_OUT and (HERE / "live.jsonl").exists():
                parts.append(looked_after(HERE / "live.jsonl"))
    return "\n\n".join(parts) + "\n"


def chapter(results: Results) -> str:
    """The tables of one suite."""
    agents = [agent for agent in results.agents if results.is_complete(agent)]
    agents.sort(key=lambda agent: -float(iqm(*results.strata(agent))))
    lines = [f"## {results.suite.title}", ""]
    lines += [ranking(results, agents).to_markdown()]
    if MODEL in agents:
        lines += [f"### {MODEL} minus each of the others, pairs with the same seed", ""]
        lines += [against(results, agents).to_markdown()]
    if TUNED in agents and DEFAULT in agents:
        lines += ["### Headroom captured, by track", "", headroom(results, agents).to_markdown()]
    lines += ["### By track: mean meta-score", ""]
    lines += [by(results, agents, "track").to_markdown(), "### By task: mean meta-score", ""]
    lines += [by(results, agents, "task").to_markdown()]
    if any(_costs(results, agent) for agent in agents):
        lines += ["### What the language models did", "", doings(results, agents).to_markdown()]
    return "\n".join(lines).rstrip()


def by_row(results: Results) -> str:
    """A suite of which some agents have not played all rows; differences are of pairs with the same seed."""
    agents = [MODEL, *(agent for agent in results.agents if agent != MODEL)]
    played = {agent: results.rows(agent) for agent in agents}
    rows: list[tuple[str | Interval | None, ...]] = []
    for row in played[MODEL]:
        scores = {agent: results.strata(agent, rows=[row]) for agent in agents if row in played[agent]}
        cells = [estimate(scores[agent], mean_of_rows) if agent in scores else None for agent in agents]
        least = compare(scores[MODEL], scores[DEFAULT]).difference if DEFAULT in scores else None
        rows.append((row.task, row.learner, row.track, *cells, least))
    table = Table("", ("task", "learner", "track", *agents, f"{MODEL} minus {DEFAULT}"), tuple(rows))
    return f"## {results.suite.title}: mean meta-score\n\n{table.to_markdown()}".rstrip()


def ranking(results: Results, agents: Sequence[str]) -> Table:
    """Scores of all agents; differences are the mean over rows of pairs with the same seed."""
    rows = []
    for agent in agents:
        strata = results.strata(agent)
        cells: list[Interval | str | None] = [estimate(strata), estimate(strata, mean_of_rows)]
        for other in (DEFAULT, MODEL):
            cells.append(
                compare(strata, results.strata(other)).difference if other in agents and other != agent else None
            )
        tuned = results.strata(TUNED) if TUNED in agents else None
        cells.append(None if tuned is None else headroom_captured(strata, results.strata(DEFAULT), tuned))
        rows.append((agent, *cells))
    columns = ("agent", "IQM", "mean", f"minus {DEFAULT}", f"minus {MODEL}", "headroom captured")
    return Table("", columns, tuple(rows))


def against(results: Results, agents: Sequence[str]) -> Table:
    """Mean paired differences between the model and the others, by track."""
    tracks = list(dict.fromkeys(row.track for row in results.suite.rows))
    rows = []
    for agent in agents:
        if agent != MODEL:
            parts = [[row for row in results.suite.rows if row.track == track] for track in tracks]
            pairs = [(results.strata(MODEL, rows=part), results.strata(agent, rows=part)) for part in parts]
            rows.append((agent, *(compare(ours, theirs).difference for ours, theirs in pairs)))
    return Table("", ("agent", *tracks), tuple(rows))


def headroom(results: Results, agents: Sequence[str]) -> Table:
    """0 is ``library-default`` and 1 is ``static-512``, on the rows of each track."""
    tracks = list(dict.fromkeys(row.track for row in results.suite.rows))
    rows = []
    for agent in agents:
        if agent not in (DEFAULT, TUNED):
            cells = []
            for track in tracks:
                part = [row for row in results.suite.rows if row.track == track]
                sides = (results.strata(each, rows=part) for each in (agent, DEFAULT, TUNED))
                cells.append(headroom_captured(*sides))
            rows.append((agent, *cells))
    return Table("", ("agent", *tracks), tuple(rows))


def by(results: Results, agents: Sequence[str], what: str) -> Table:
    """Mean meta-score on the rows of each track or task."""
    names = list(dict.fromkeys(getattr(row, what) for row in results.suite.rows))
    rows = []
    for agent in agents:
        parts = [[row for row in results.suite.rows if getattr(row, what) == name] for name in names]
        rows.append((agent, *(estimate(results.strata(agent, rows=part), mean_of_rows) for part in parts)))
    return Table("", ("agent", *names), tuple(rows))


def doings(results: Results, agents: Sequence[str]) -> Table:
    """What the language models did, over all rows; latencies are of a decision for all 20 members of a row."""
    rows = []
    for agent in agents:
        costs = _costs(results, agent)
        if costs:
            total = {name: sum(each[name] for each in costs) for name in costs[0]}
            slots = sum(each["edits"] / each["edit_rate"] for each in costs if each["edit_rate"] > 0.0)
            rows.append(
                (
                    agent,
                    f"{total['edits'] / slots:.1%}" if slots else "0 %",
                    f"{total['reversals'] / max(total['edits'], 1.0):.1%}",
                    f"{total['invalid'] / total['decisions']:.1%}",
                    f"{total['prompt_tokens'] / total['decisions']:.0f}",
                    f"{1e3 * float(np.median([each['latency_p50'] for each in costs])):.0f}",
                    f"{1e3 * max(each['latency_p95'] for each in costs):.0f}",
                )
            )
    columns = ("agent", "hyperparameters edited", "edits reversed", "invalid", "tokens read", "p50, ms", "p95, ms")
    return Table("", columns, tuple(rows))


def search(found: dict[str, Any], scores: Results) -> str:
    """Random search on each test variant, next to agents that had a single run: track ``default`` only."""
    tasks = list(found["scores"])
    rows = []
    for n in found["scores"][tasks[0]]:
        strata = [np.array(found["scores"][task][n]) for task in tasks]
        rows.append((f"random search, {n} runs", int(n) + 1, *_cells(strata)))
    for agent in (MODEL, TUNED, DEFAULT):
        if agent in scores.agents:
            parts = [
                scores.values(agent, row)[: len(found["seeds"])]
                for task in tasks
                for row in scores.suite.rows
                if (row.task, row.track) == (f"{task}@test", "default")
            ]
            rows.append((agent, 1, *_cells(parts)))
    columns = ("how", "runs paid for", "mean", *tasks)
    title = "## Random search on each test variant, track default: mean meta-score"
    return f"{title}\n\n{Table('', columns, tuple(rows)).to_markdown()}".rstrip()


def populations(path: Path, results: Results) -> str:
    """Populations of learners, next to agents that had a single run."""
    from populations import lines, table

    others = [agent for agent in (MODEL, TUNED, DEFAULT) if agent in results.agents]
    title = "## Populations on held-out variants: the best member, by its training score"
    return f"{title}\n\n{table(lines.read(path), results, others).to_markdown()}".rstrip()


def looked_after(path: Path) -> str:
    """The model in live runs that are monitored: what feedback, roll-back and refinement change."""
    from live import lines, table

    return f"## Looked after: feedback, roll-back, refinement\n\n{table(lines.read(path)).to_markdown()}".rstrip()


def bound(oracle: Results, held_out: Results) -> str:
    """The branch oracle next to the agents, all on the few seeds that the oracle has played."""
    tracks = list(dict.fromkeys(row.track for row in oracle.suite.rows))
    agents = [agent for agent in oracle.agents if oracle.is_complete(agent)]
    rows = [(agent, *_few(oracle, agent, oracle, tracks)) for agent in agents]
    for agent in (MODEL, TUNED, "kl-adaptive-tuned", DEFAULT):
        if agent in held_out.agents:
            rows.append((agent, *_few(held_out, agent, oracle, tracks)))
    table = Table("", ("agent", "mean", *tracks), tuple(rows))
    return f"## {oracle.suite.title}\n\n{table.to_markdown()}".rstrip()


def _few(results: Results, agent: str, oracle: Results, tracks: Sequence[str]) -> list[Interval]:
    """Mean meta-scores, of all and by track, on the seeds of the oracle's rows."""
    scores: dict[tuple[str, str], list[float]] = {}
    wanted: dict[tuple[str, str], list[int]] = {(row.task, row.track): [] for row in oracle.suite.rows}
    for row in oracle.suite.rows:
        wanted[row.task, row.track] += row.seeds
    for row in results.suite.rows:
        for seed, score in zip(row.seeds, results.values(agent, row), strict=True):
            if seed in wanted[row.task, row.track]:
                scores.setdefault((row.task, row.track), []).append(float(score))
    parts = [list(scores)] + [[key for key in scores if key[1] == track] for track in tracks]
    return [estimate([np.array(scores[key]) for key in part], mean_of_rows) for part in parts]


def _cells(strata: Sequence[Floats]) -> list[Interval]:
    return [estimate(strata, mean_of_rows), *(estimate([each], mean_of_rows) for each in strata)]


def _costs(results: Results, agent: str) -> list[dict[str, float]]:
    rows: list[Row] = results.rows(agent)
    found = [results.costs(agent, row) for row in rows]
    return [dict(each.agent) for each in found if each is not None and each.agent]


if __name__ == "__main__":
    main()
