"""The runner: agents on a suite, resumable, over processes.

Every row is a batch (its seeds), rows are spread over worker processes, and every finished row is written at once.
Killing the runner at any moment loses at most the rows in flight; the next run of the same command does those and no
others, and ends with the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hpbench
from hpbench import tasks
from hpbench.errors import HPBenchError, InvalidConfiguration, RecordError
from hpbench.evaluation import records
from hpbench.evaluation.identity import Entrant, make_entrants
from hpbench.evaluation.leftovers import remove_leftovers
from hpbench.evaluation.progress import Reporter
from hpbench.evaluation.records import Costs, Record
from hpbench.evaluation.results import SUITE_FILE, Results, load_results, suite_folder
from hpbench.evaluation.row import Job, row_options, work_on_row
from hpbench.evaluation.suite import Row, Suite, load_suite
from hpbench.evaluation.workers import Event, Workers, pack, run_here


@dataclass(frozen=True)
class Failure:
    """A row that could not be finished.

    Args:
        agent, row: which one, as tables show them.
        reason: the agent's traceback, or what happened to the process.
    """

    agent: str
    row: str
    reason: str


class RunFailed(HPBenchError, RuntimeError):
    """Some rows failed. All others are finished and kept: in ``results``, and on the disk for the next run."""

    def __init__(self, failures: list[Failure], results: Results) -> None:
        self.failures, self.results = failures, results
        listed = "\n".join(f"  {failure.agent} on {failure.row}" for failure in failures)
        super().__init__(
            f"{len(failures)} of the rows failed; all others are kept.\n{listed}\n"
            f"The first one, {failures[0].agent} on {failures[0].row}:\n{failures[0].reason.rstrip()}"
        )


def run(
    agents: Any,
    suite: str | Path | Suite = "quick-v0",
    output: str | Path = "results",
    processes: int | None = None,
    progress: bool = True,
    *,
    device: str = "auto",
    engine: str = "auto",
    threads: int = 1,
    privileged: bool = False,
) -> Results:
    """Run agents on a suite, except for what is finished already.

    Args:
        agents: one agent or several: registered names, import paths (``my_package.my_module:MyAgent``), classes or
            objects.
        suite: name of a suite, path of a suite file, or a suite.
        output: results go to ``output/<suite>/<agent>/``. Finished rows found there are not run again, if suite,
            agent (its settings and source code), options and version of hpbench are the same.
        processes: worker processes; None: as many as there are CPU cores, or 1 if an agent cannot be sent to another
            process.
        progress: show what is going on, on standard error.
        device, engine: of the inner loop, as in ``gym.make``.
        threads: CPU threads of the inner loop, per process.
        privileged: let in agents that need more than others (``needs = "branch"``: they try actions on copies of the
            run). Tables show what they used, and do not rank them.

    Returns:
        All results in the folder, those of earlier runs and other agents included.

    Raises:
        UnknownName: for a suite or an agent that does not exist.
        InvalidConfiguration: for options that do not fit, an agent that cannot be sent to ``processes > 1``
            processes, or a privileged agent that was not let in.
        RunFailed: at the end, if rows failed (an exception in an agent, a killed process); the other rows are kept.
        KeyboardInterrupt: on Ctrl-C, after all processes have been stopped. The same call resumes.
    """
    if processes is not None and processes < 1:
        raise InvalidConfiguration(f"processes must be at least 1, got {processes}")
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    entrants = make_entrants(agents)
    for entrant in entrants:
        if entrant.identity.privileged and not privileged:
            raise InvalidConfiguration(
                f"agent {entrant.identity.name!r} is privileged: it needs {entrant.identity.needs!r}, which others do "
                "not get. Let it in with privileged=True (--privileged); its results are shown and not ranked"
            )
    folder = suite_folder(output, suite)
    planned = _plan(suite, entrants, device, engine, threads)
    reasons = [_why_run(task.path(folder), task.job) for task in planned]
    todo = [task for task, reason in zip(planned, reasons, strict=True) if reason is not None]
    for task in planned:
        records.remove_leftovers(task.path(folder))
    _write_suite(folder, suite)
    todo.sort(key=lambda task: -task.work)
    payloads, processes, more = _payloads(todo, processes, threads)
    failures: list[Failure] = []
    done = len(planned) - len(todo)
    with Reporter(progress, len(planned), done, [task.work for task in todo]) as reporter:
        for note in [*filter(None, reasons), *more]:
            reporter.say(note)
        handler = _Handler(todo, folder, reporter, failures)
        try:
            if processes == 1:
                run_here(work_on_row, payloads, handler)
            else:
                with Workers(work_on_row, processes) as workers:
                    workers.run(payloads, handler)
        except KeyboardInterrupt:
            kept = done + handler.finished
            reporter.say(f"Interrupted: {kept} of {len(planned)} rows are finished and kept in {folder}.")
            reporter.say("Run the same again to resume.")
            raise
    results = load_results(folder)
    if failures:
        raise RunFailed(failures, results)
    return results


@dataclass(frozen=True)
class _Task:
    """A row under an agent, and what it takes to run it."""

    job: Job
    entrant: Entrant
    work: float

    @property
    def label(self) -> str:
        return f"{self.job.agent.name} on {self.job.row.label}"

    def path(self, folder: Path) -> Path:
        return folder / self.job.agent.key / (self.job.row.key + records.SUFFIX)


class _Handler:
    """Writes finished rows and reports the rest."""

    def __init__(self, todo: list[_Task], folder: Path, reporter: Reporter, failures: list[Failure]) -> None:
        self._todo, self._folder, self._reporter, self._failures = todo, folder, reporter, failures
        self.finished = 0

    def __call__(self, event: Event) -> None:
        task = self._todo[event.job]
        if event.kind == "started":
            self._reporter.advance(event.job, 0.0, task.label)
        elif event.kind == "report":
            share, score = event.value
            self._reporter.advance(event.job, share, f"{task.label}: score {score:.2f}")
        elif event.kind == "finished":
            self._keep(event.job, task, *event.value)
        else:
            reason = event.value if event.kind == "failed" else f"Not finished: {event.value}"
            self._failures.append(Failure(task.job.agent.name, task.job.row.label, reason))
            self._reporter.end(event.job, f"{task.label}: FAILED: {reason.strip().splitlines()[-1]}")

    def _keep(self, index: int, task: _Task, record: Record, costs: Costs) -> None:
        path = task.path(self._folder)
        records.write_costs(path, costs)
        records.write(path, record)
        self.finished += 1
        score = sum(member.meta_score for member in record.members) / len(record.members)
        diverged = sum(member.diverged for member in record.members)
        lost = f", {diverged} diverged" if diverged else ""
        self._reporter.end(index, f"{task.label}: meta-score {score:.3f}{lost}, {costs.seconds:.1f} s")


def _plan(suite: Suite, entrants: list[Entrant], device: str, engine: str, threads: int) -> list[_Task]:
    planned = []
    for row in suite.rows:
        steps, _ = _budget(row)
        for entrant in entrants:
            options = row_options(row, entrant.agent, device, engine)
            job = Job(suite.name, suite.hash, row, entrant.identity, options, threads)
            planned.append(_Task(job, entrant, float(steps * len(row.seeds))))
    return planned


def _budget(row: Row) -> tuple[int, int]:
    """Steps and decisions of a meta-episode."""
    budget = tasks.of_split(row.task).budgets[row.tier]
    steps = budget.steps if row.steps is None else row.steps
    return steps, budget.decisions if row.decisions is None else row.decisions


def _why_run(path: Path, job: Job) -> str | None:
    """None if the record at ``path`` is what the job would give; otherwise why it must run, empty if there is none."""
    if not path.exists():
        return ""
    try:
        record = records.read(path)
    except RecordError as error:
        return f"Running again: {error}"
    expected = {
        "another version of the suite": (record.suite_hash, job.suite_hash),
        "another version of hpbench": (record.hpbench, hpbench.__version__),
        "other source code of the agent": (record.agent.source, job.agent.source),
        "another agent": (record.agent.key, job.agent.key),
        "other options": (record.options, job.options.to_dict()),
        "another budget": ((record.steps, record.decisions), _budget(job.row)),
    }
    different = [what for what, (found, wanted) in expected.items() if found != wanted]
    return f"Running again: {path} was made with {' and '.join(different)}" if different else None


def _payloads(todo: list[_Task], processes: int | None, threads: int) -> tuple[list[Any], int, list[str]]:
    """What goes to ``work_on_row``, the processes to use, and what to say about it."""
    wanted = processes if processes is not None else max(1, _cores() // threads)
    here = [(task.job, task.entrant.agent) for task in todo]
    if min(wanted, len(todo)) <= 1:
        return here, 1, []
    try:
        packed = [
            pack((task.job, task.entrant.origin or task.entrant.agent), f"Agent {task.job.agent.name!r}")
            for task in todo
        ]
    except InvalidConfiguration as error:
        if processes is not None:
            raise
        return here, 1, [f"Using one process: {error}"]
    return packed, wanted, []


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _write_suite(folder: Path, suite: Suite) -> None:
    path = folder / SUITE_FILE
    remove_leftovers(path)
    if not path.exists() or path.read_text(encoding="utf-8") != suite.dumps():
        records.write_atomically(path, suite.dumps())
