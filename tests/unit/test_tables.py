"""Ranked tables: order, places, intervals, and the three ways to show them."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.evaluation import records
from hpbench.evaluation.results import Results, load_results, record_path
from hpbench.evaluation.statistics import Interval, iqm
from hpbench.evaluation.tables import Table, against, by_row, costs, format_cell, ranking

MakeResults = Callable[[Mapping[str, float]], Results]


def column(table: Table, name: str) -> list[object]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_agents_are_ranked_by_iqm(make_results: MakeResults) -> None:
    results = make_results({"worse": 0.4, "library-default": 0.6, "better": 0.9})
    table = ranking(results)
    assert column(table, "agent") == ["better", "library-default", "worse"]
    assert column(table, "rank") == [1, 2, 3]
    assert column(table, "rows") == ["2/2"] * 3
    best = column(table, "meta-score IQM")[0]
    assert isinstance(best, Interval)
    assert best.estimate == iqm(*results.strata("better"))
    assert best.low < best.estimate < best.high
    assert column(table, "cartpole")[0] == pytest.approx(
        np.mean([results.values("better", row) for row in results.suite.rows[:1]])
    )


def test_probability_of_improvement_is_over_the_baseline(make_results: MakeResults) -> None:
    table = ranking(make_results({"worse": 0.4, "library-default": 0.6, "better": 0.9}))
    better, default, worse = column(table, "P(better than library-default)")
    assert better == Interval(1.0, 1.0, 1.0)
    assert default is None
    assert worse == Interval(0.0, 0.0, 0.0)


def test_equal_agents_share_a_place(make_results: MakeResults) -> None:
    table = ranking(make_results({"a": 0.9, "b": 0.9, "c": 0.5}))
    assert column(table, "rank") == [1, 1, 3]
    assert column(table, "P(better than library-default)") == [None] * 3


def test_unfinished_agents_come_last_without_a_place(make_results: MakeResults) -> None:
    table = ranking(make_results({"quitter!": 0.95, "library-default": 0.6, "worse": 0.4}))
    assert column(table, "agent") == ["library-default", "worse", "quitter"]
    assert column(table, "rank") == [1, 2, None]
    assert column(table, "rows") == ["2/2", "2/2", "1/2"]
    assert column(table, "acrobot")[2] is None
    assert column(table, "P(better than library-default)")[2] == Interval(1.0, 1.0, 1.0)


def test_any_metric_can_be_shown_and_ranked(make_results: MakeResults) -> None:
    results = make_results({"slow": 0.6, "fast": 0.9})
    table = ranking(results, "steps_to_half", also=("best_score",))
    assert column(table, "agent") == ["fast", "slow"]
    assert column(table, "best score")[0] > column(table, "best score")[1]  # type: ignore[operator]
    with pytest.raises(UnknownName, match="steps_to_half"):
        ranking(results, "steps_to_hal")


def test_paired_comparison(make_results: MakeResults) -> None:
    table = against(make_results({"worse": 0.4, "library-default": 0.6, "better": 0.9, "quitter!": 0.9}))
    assert table is not None
    assert column(table, "agent")[-1] == "worse"
    assert dict(zip(column(table, "agent"), column(table, "wins"), strict=True)) == {
        "better": 12,
        "quitter": 6,
        "worse": 0,
    }
    assert against(make_results({"alone": 0.4}), baseline="nobody") is None


def test_by_row_has_a_dash_where_nothing_was_run(make_results: MakeResults) -> None:
    table = by_row(make_results({"a": 0.9, "b!": 0.5}))
    assert table.columns == ("task", "track", "seeds", "a", "b")
    assert [value is None for value in column(table, "b")] == [False, True]


def test_costs_add_up(make_results: MakeResults) -> None:
    table = costs(make_results({"a": 0.9}))
    assert table.rows == (("a", "4.0", "5.00 %", "12.0", 156100),)


def test_markdown_and_csv_say_the_same(make_results: MakeResults) -> None:
    table = ranking(make_results({"a|b": 0.9, "library-default": 0.5}))
    lines = table.to_markdown().splitlines()
    assert len(lines) == 4
    assert "a\\|b" in lines[2]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert rows[0]["agent"] == "a|b"
    interval = column(table, "meta-score IQM")[0]
    assert isinstance(interval, Interval)
    assert [float(rows[0][f"meta-score IQM{part}"]) for part in ("", " low", " high")] == [
        interval.estimate,
        interval.low,
        interval.high,
    ]
    assert rows[1]["P(better than library-default)"] == ""
    assert "a|b" in table.to_text()


def test_narrow_terminals_get_fewer_columns_instead_of_broken_ones(make_results: MakeResults) -> None:
    table = ranking(make_results({"library-default": 0.6, "a-rather-long-name": 0.9}))
    for width in (80, 100, 140):
        text = table.to_text(width)
        assert max(len(line) for line in text.splitlines()) <= width
        assert "a-rather-long-name" in text
        assert len(text.splitlines()) == 8
        assert ("cartpole" in text) == ("acrobot" in text) == (width == 140)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "-"),
        (3, "3"),
        (0.12345, "0.123"),
        (-1.5, "-1.500"),
        (0.0, "0.000"),
        (1e-5, "1e-05"),
        (51200.0, "51,200"),
        (12.34, "12.3"),
        (Interval(0.5, 0.4, 0.6), "0.500 [0.400, 0.600]"),
        (Interval(0.5, float("nan"), float("nan")), "0.500"),
        (float("nan"), "-"),
    ],
)
def test_cells_are_readable(cell: object, text: str) -> None:
    assert format_cell(cell) == text  # type: ignore[arg-type]


def test_agents_of_one_name_stay_apart(make_results: MakeResults) -> None:
    results = make_results({"a": 0.9})
    other = dataclasses.replace(results.records[0].agent, settings={"level": 0.1})
    record = dataclasses.replace(results.records[0], agent=other)
    records.write(record_path(results.folder, record), record)
    again = load_results(results.folder)
    assert len(again.agents) == 2
    assert all(agent.startswith("a (") for agent in again.agents)


def test_files_that_do_not_count_are_named(make_results: MakeResults) -> None:
    results = make_results({"a": 0.9, "b": 0.5})
    paths = [record_path(results.folder, record) for record in results.records]
    paths[0].write_text(paths[0].read_text()[:-30])
    foreign = dataclasses.replace(results.records[1], suite_hash="f" * 64)
    records.write(paths[1], foreign)
    paths[2].rename(paths[2].with_name("renamed.json"))
    again = load_results(results.folder.parent)
    assert len(again.records) == 1
    assert len(again.notes) == 3
    assert any(str(paths[0]) in note and "damaged" in note for note in again.notes)
    assert any(str(paths[1]) in note and "this version of" in note for note in again.notes)


def test_mixed_conditions_are_noted(make_results: MakeResults) -> None:
    results = make_results({"a": 0.9})
    record = dataclasses.replace(results.records[0], device="cuda (some)")
    records.write(record_path(results.folder, record), record)
    assert load_results(results.folder).notes == ("These rows come from different devices: cpu, cuda (some)",)


def test_results_must_be_there_and_unambiguous(make_results: MakeResults) -> None:
    results = make_results({"a": 0.9})
    with pytest.raises(InvalidConfiguration, match="no results"):
        load_results(results.folder / "a")
    other = results.folder.parent / "other-v0"
    records.write_atomically(other / "suite.json", results.suite.dumps())
    with pytest.raises(InvalidConfiguration, match="several suites"):
        load_results(results.folder.parent)
    with pytest.raises(UnknownName, match="'a'"):
        results.rows("aa")
