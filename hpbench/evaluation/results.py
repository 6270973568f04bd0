"""Results: the records of one suite, read back from their folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import InvalidConfiguration, RecordError, UnknownName
from hpbench.evaluation import records
from hpbench.evaluation.identity import AgentIdentity, labels
from hpbench.evaluation.metrics import Episode, episode_of, load_metric
from hpbench.evaluation.records import Costs, Record
from hpbench.evaluation.suite import Row, Suite, load_suite

if TYPE_CHECKING:
    from hpbench.evaluation.tables import Table

Floats = NDArray[np.float64]

SUITE_FILE = "suite.json"


@dataclass(frozen=True)
class Results:
    """Finished rows of one suite, under any number of agents.

    Args:
        suite: what was run.
        folder: holds ``suite.json`` and a folder of records per agent.
        records: finished rows.
        notes: what a reader should know: files that did not count, rows that do not quite compare.
    """

    suite: Suite
    folder: Path
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()
    _found: dict[tuple[str, Row], Record] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = dict(zip(self.identities, self.agents, strict=True))
        found = {(names[record.agent.key], record.row): record for record in self.records}
        object.__setattr__(self, "_found", found)

    @cached_property
    def identities(self) -> dict[str, AgentIdentity]:
        """Agents by key, in the order of their names."""
        return {record.agent.key: record.agent for record in sorted(self.records, key=lambda r: r.agent.key)}

    @cached_property
    def agents(self) -> tuple[str, ...]:
        """Labels of all agents: their names, and the start of a digest where two share one."""
        return tuple(labels(list(self.identities.values())))

    def rows(self, agent: str) -> list[Row]:
        """Rows of the suite that this agent has finished."""
        if agent not in self.agents:
            raise UnknownName("agent", agent, self.agents)
        return [row for row in self.suite.rows if (agent, row) in self._found]

    def is_complete(self, agent: str) -> bool:
        """Whether the agent has finished every row of the suite."""
        return len(self.rows(agent)) == len(self.suite.rows)

    def record(self, agent: str, row: Row) -> Record:
        """The record of a finished row.

        Raises:
            UnknownName: if there is no such agent, or it has not finished the row.
        """
        finished = {known.key: known for known in self.rows(agent)}
        if row.key not in finished:
            raise UnknownName(f"row of {agent!r}", row.key, finished)
        return self._found[agent, row]

    def episodes(self, agent: str, row: Row) -> list[Episode]:
        """The meta-episodes of a finished row, in the order of its seeds."""
        record = self.record(agent, row)
        return [episode_of(member, record.decisions, record.steps) for member in record.members]

    def values(self, agent: str, row: Row, metric: str = "meta_score") -> Floats:
        """A metric for each seed of a finished row, float64 ``[seeds]``."""
        function = load_metric(metric)
        return np.array([function(episode) for episode in self.episodes(agent, row)], dtype=np.float64)

    def strata(self, agent: str, metric: str = "meta_score", rows: Sequence[Row] | None = None) -> list[Floats]:
        """A metric for each seed, one array per row. ``rows``: None is all that the agent has finished."""
        return [self.values(agent, row, metric) for row in (self.rows(agent) if rows is None else rows)]

    def diverged(self, agent: str) -> int:
        """How many meta-episodes ended in divergence."""
        return sum(member.diverged for row in self.rows(agent) for member in self.record(agent, row).members)

    def privileged(self, agent: str) -> bool:
        """Whether the agent could do more than others, such as looking ahead on copies of the run."""
        return any(self.record(agent, row).agent.privileged for row in self.rows(agent))

    def steps_used(self, agent: str) -> float:
        """Environment steps of its meta-episodes and of the agent itself, as a multiple of the former."""
        members = [member for row in self.rows(agent) for member in self.record(agent, row).members]
        own = sum(member.steps[-1] + member.evaluation_steps[-1] for member in members)
        return 1.0 + sum(member.agent_steps[-1] for member in members if member.agent_steps) / own

    def costs(self, agent: str, row: Row) -> Costs | None:
        """What a finished row cost, if it was kept."""
        return records.read_costs(record_path(self.folder, self.record(agent, row)))

    def table(self, metric: str = "meta_score") -> Table:
        """The ranked table; ``print`` shows it. See :mod:`hpbench.evaluation.tables` for others."""
        from hpbench.evaluation.tables import ranking

        return ranking(self, metric)

    def report(self, folder: str | Path | None = None) -> Path:
        """Write the HTML report, beside the records or elsewhere: :func:`hpbench.evaluation.report.write_report`."""
        from hpbench.evaluation.report import write_report

        return write_report(self, folder)

    def __repr__(self) -> str:
        done = ", ".join(f"{agent} {len(self.rows(agent))}/{len(self.suite.rows)} rows" for agent in self.agents)
        return f"Results({self.suite.name}: {done or 'no finished rows'}; {str(self.folder)!r})"


def record_path(folder: Path, record: Record) -> Path:
    """Where a record belongs below the folder of its suite."""
    return folder / record.agent.key / (record.row.key + records.SUFFIX)


def suite_folder(output: str | Path, suite: Suite) -> Path:
    """Where the results of a suite belong below an output folder."""
    return Path(output) / suite.name


def load_results(path: str | Path) -> Results:
    """The results in a folder: of a suite, or of an output folder that holds one suite.

    Files that are damaged, or belong to another version of the suite, do not count; ``notes`` names them.

    Raises:
        InvalidConfiguration: if there are no results, or those of several suites.
    """
    folder = _find_folder(Path(path))
    suite = load_suite(folder / SUITE_FILE)
    found: list[Record] = []
    notes: list[str] = []
    for file in sorted(folder.glob(f"*/[!.]*{records.SUFFIX}")):
        if file.name.endswith(records.COSTS_SUFFIX):
            continue
        try:
            record = records.read(file)
        except RecordError as error:
            notes.append(f"Not counted: {error}")
            continue
        if record.suite_hash != suite.hash or record.row not in suite.rows or file != record_path(folder, record):
            notes.append(f"Not counted: {file} is not a record of this version of {suite.name}")
        else:
            found.append(record)
    order = {row: position for position, row in enumerate(suite.rows)}
    found.sort(key=lambda record: (record.agent.key, order[record.row]))
    return Results(suite, folder, tuple(found), (*notes, *_mixtures(found)))


def _find_folder(path: Path) -> Path:
    if (path / SUITE_FILE).is_file():
        return path
    below = sorted(file.parent for file in path.glob(f"*/{SUITE_FILE}"))
    if len(below) == 1:
        return below[0]
    if not below:
        raise InvalidConfiguration(f"There are no results in {str(path)!r}")
    raise InvalidConfiguration(f"{str(path)!r} holds several suites: {', '.join(map(str, below))}. Name one of them")


def _mixtures(found: Iterable[Record]) -> list[str]:
    """Notes on rows that were made under different conditions."""
    found = list(found)
    notes = []
    for what, conditions in (
        ("versions of hpbench", {record.hpbench for record in found}),
        ("devices", {record.device for record in found}),
        ("engines", {record.engine for record in found}),
        ("platforms", {record.platform for record in found}),
    ):
        if len(conditions) > 1:
            notes.append(f"These rows come from different {what}: {', '.join(sorted(map(str, conditions)))}")
    for key in sorted({record.agent.key for record in found}):
        if len({record.agent.source for record in found if record.agent.key == key}) > 1:
            notes.append(f"The source code of agent {key} changed between its rows; run it again to redo the old ones")
    return notes
