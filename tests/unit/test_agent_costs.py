"""The table of what agents say that they used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from hpbench.evaluation import records
from hpbench.evaluation.agent_costs import TITLE, agent_costs
from hpbench.evaluation.report import write_report
from hpbench.evaluation.results import Results, load_results, record_path

MakeResults = Callable[[Mapping[str, float]], Results]

FIRST = {"decisions": 10.0, "calls": 12.0, "price": 0.5, "edit_rate": 0.5, "latency_p50": 1.0, "latency_p95": 2.0}
SECOND = {"decisions": 30.0, "calls": 30.0, "price": 1.5, "edit_rate": 0.1, "latency_p50": 3.0, "latency_p95": 9.0}


@pytest.fixture
def results(make_results: MakeResults) -> Results:
    """Of two agents, of which one has costs of its own, different ones for each row."""
    made = make_results({"talker": 0.9, "library-default": 0.5})
    for row, own in zip(made.suite.rows, (FIRST, SECOND), strict=True):
        path = record_path(made.folder, made.record("talker", row))
        costs = records.read_costs(path)
        assert costs is not None
        records.write_costs(path, replace(costs, agent=own))
    return load_results(made.folder)


def test_totals_means_and_quantiles(results: Results) -> None:
    table = agent_costs(results)
    (row,) = table.rows
    found = dict(zip(table.columns, row, strict=True))
    assert (found["agent"], found["decisions"], found["calls"], found["price"]) == ("talker", 40, 42, 2.0)
    assert found["edit rate"] == pytest.approx((10 * 0.5 + 30 * 0.1) / 40)
    assert (found["latency p50 (s)"], found["latency p95 (s)"]) == (2.0, 9.0)
    assert found["tokens read"] is None


def test_the_report_shows_it_where_there_is_something_to_show(results: Results, make_results: MakeResults) -> None:
    page = write_report(results)
    assert TITLE in page.read_text()
    assert "| tokens read |" in page.with_name("report.md").read_text()
    assert agent_costs(make_results({"quiet": 0.5})).rows[1:] == ()


def test_older_files_have_none(results: Results) -> None:
    path = record_path(results.folder, results.record("library-default", results.suite.rows[0]))
    assert '"agent": {}' in path.with_name(path.stem + records.COSTS_SUFFIX).read_text()
    path.with_name(path.stem + records.COSTS_SUFFIX).write_text(
        '{"seconds": 1.0, "agent_seconds": 0.1, "decisions": 4, "steps": 10, "evaluation_steps": 5}'
    )
    costs = records.read_costs(path)
    assert costs is not None
    assert costs.agent == {}
