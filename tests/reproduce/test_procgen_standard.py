"""The table of Procgen's learning curves beside the published ones."""

from __future__ import annotations

import json

import pytest

standard = pytest.importorskip("reproduce.procgen.standard", reason="part of the source checkout only")


def test_the_table_compares_equal_numbers_of_steps_and_leaves_out_what_was_not_reached() -> None:
    curve = [{"steps": 100, "return": 1.0, "held_out": 0.5}, {"steps": 210, "return": 2.0, "held_out": 1.5}]
    rows = [{"task": "procgen/a", "curve": curve}, {"task": "procgen/a", "curve": curve[:1]}]
    points = [{"steps": steps, "train": [3.0, 4.0], "test": []} for steps in (100, 200, 1000)]
    lines = standard.table(rows, {"games": {"procgen/a": points}}).splitlines()[2:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert [row[2] for row in cells] == ["1.00, 1.00", "2.00"]
    assert [row[3] for row in cells] == ["3.00, 4.00"] * 2
    assert [row[4:] for row in cells] == [["0.50, 0.50", "-"], ["1.50", "-"]]


def test_the_committed_table_is_that_of_the_committed_numbers() -> None:
    rows, published = (json.loads((standard.HERE / f"{name}.json").read_text()) for name in ("standard", "published"))
    assert (standard.HERE / "standard.md").read_text() == standard.table(rows, published)
