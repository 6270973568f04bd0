"""Suites as data: what is read, what is refused, what the hash covers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hpbench.errors import HPBenchError, InvalidConfiguration, UnknownName
from hpbench.evaluation.suite import load_suite, parse_suite, suite_names

TEXT = """
format = 1
name = "mine-v0"
title = "Mine"

[[rows]]
env = "HPControl-Classic-v0"
tasks = ["classic/cartpole", "classic/acrobot"]
tracks = ["default", "random"]
learner = "ppo"
tier = "small"
seeds = "100-102"
decisions = 10
"""


def test_rows_are_tasks_times_tracks() -> None:
    suite = parse_suite(TEXT, "mine.toml")
    assert [(row.task, row.track) for row in suite.rows] == [
        ("classic/cartpole", "default"),
        ("classic/cartpole", "random"),
        ("classic/acrobot", "default"),
        ("classic/acrobot", "random"),
    ]
    assert suite.rows[0].seeds == (100, 101, 102)
    assert suite.rows[0].overrides == {"decisions": 10}
    assert len({row.key for row in suite.rows}) == 4
    assert suite.tasks == ("classic/cartpole", "classic/acrobot")
    assert suite.tracks == ("default", "random")


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_survives_being_written_and_read(name: str, tmp_path: Path) -> None:
    suite = load_suite(name)
    assert suite.name == name
    path = tmp_path / "suite.json"
    path.write_text(suite.dumps())
    again = load_suite(path)
    assert again == suite
    assert again.hash == suite.hash


def test_own_suites_are_loaded_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    assert load_suite(str(path)) == load_suite(path) == parse_suite(TEXT, "x")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"mine-v0"', '"mine-v1"'),
        ('"classic/acrobot"', '"classic/pendulum"'),
        ('["default", "random"]', '["random", "default"]'),
        ('"100-102"', '"100-103"'),
        ("decisions = 10", "decisions = 20"),
        ("decisions = 10", ""),
        ("decisions = 10", "decisions = 10\nsteps = 20480"),
        ('tier = "small"', 'tier = "standard"'),
    ],
)
def test_hash_covers_what_decides_scores(old: str, new: str) -> None:
    assert old in TEXT
    assert parse_suite(TEXT.replace(old, new), "x").hash != parse_suite(TEXT, "x").hash


def test_hash_leaves_words_alone() -> None:
    assert parse_suite(TEXT.replace('"Mine"', '"Other words"'), "x").hash == parse_suite(TEXT, "x").hash
    assert parse_suite(TEXT.replace('"100-102"', "[100, 101, 102]"), "x").hash == parse_suite(TEXT, "x").hash


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ('"classic/acrobot"', '"classic/acrobat"', "'classic/acrobot'"),
        ('"classic/acrobot"', '"clasic/acrobot"', "'classic'"),
        ('["default", "random"]', '["defualt"]', "'default'"),
        ('learner = "ppo"', 'learner = "pp0"', "'ppo'"),
        ('tier = "small"', 'tier = "smal"', "'small'"),
        ("HPControl-Classic-v0", "HPControl-Clasic-v0", "'HPControl-Classic-v0'"),
        ("decisions = 10", "decision = 10", "'decisions'"),
        ('title = "Mine"', 'titel = "Mine"', "'title'"),
    ],
)
def test_misspelt_names_come_with_near_misses(old: str, new: str, hint: str) -> None:
    assert old in TEXT
    with pytest.raises(UnknownName) as caught:
        parse_suite(TEXT.replace(old, new), "mine.toml")
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('"100-102"', '"100..102"', "first-last"),
        ('"100-102"', "[1, 1]", "distinct"),
        ('"100-102"', '"102-100"', "at least one"),
        ('"100-102"', "[-1]", "greater than or equal to 0"),
        ("decisions = 10", "decisions = 0", "greater than 0"),
        ("decisions = 10", 'decisions = "10"', "rows.0.decisions"),
        ('"mine-v0"', '"mine"', "name"),
        ("format = 1", "format = 2", "format"),
        ("format = 1", "format = ", "not TOML"),
        ('["classic/cartpole", "classic/acrobot"]', "[]", "tasks"),
        ('["default", "random"]', '["default", "default"]', "another row"),
    ],
)
def test_broken_files_say_where(old: str, new: str, part: str) -> None:
    assert old in TEXT
    with pytest.raises(InvalidConfiguration, match=r"mine\.toml") as caught:
        parse_suite(TEXT.replace(old, new), "mine.toml")
    assert part in str(caught.value)


def test_unknown_suites_and_files(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="'quick-v0'"):
        load_suite("quik-v0")
    with pytest.raises(InvalidConfiguration, match=r"nothing\.toml"):
        load_suite(tmp_path / "nothing.toml")
    with pytest.raises(HPBenchError):
        load_suite("../quick-v0")


def test_suites_cannot_be_changed() -> None:
    suite = load_suite("quick-v0")
    with pytest.raises(dataclasses.FrozenInstanceError):
        suite.rows[0].tier = "paper"  # type: ignore[misc]
