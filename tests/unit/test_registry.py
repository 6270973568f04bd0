"""Registries: rows of strings, entry points, import paths, and errors that help."""

from __future__ import annotations

import math
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest

from hpbench import registry
from hpbench.agent import make_agent
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.registry import Registry, load_object

TABLE = {"sine": "math:sin", "missing-module": "no_such_module_here:x", "missing-attribute": "math:no_such_thing"}


class Keep:
    """The smallest agent there is."""

    def __init__(self, size: int = 1) -> None:
        self.size = size

    def reset(self, spec: Any, seed: int) -> None:
        pass

    def act(self, observation: Any) -> list[float]:
        return [0.0] * self.size


def test_load_by_name_and_by_import_path() -> None:
    table = Registry("function", TABLE)
    assert table.load("sine") is math.sin
    assert table.load("math:cos") is math.cos


def test_unknown_name_names_the_near_miss() -> None:
    with pytest.raises(UnknownName, match="Unknown function 'sin'. Did you mean 'sine'"):
        Registry("function", TABLE).load("sin")


def test_is_a_mapping() -> None:
    table = Registry("function", TABLE)
    assert "sine" in table
    assert "sin" not in table
    assert table.get("sin") is None
    assert list(table) == list(TABLE)
    assert len(table) == 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module_here:x", "No module 'no_such_module_here'"),
        ("math:no_such_thing", "Module 'math' has no 'no_such_thing'"),
        ("math:", "has no ''"),
    ],
)
def test_bad_import_path(path: str, message: str) -> None:
    with pytest.raises(InvalidConfiguration, match=message):
        load_object(path)


def test_a_missing_import_inside_a_module_is_not_blamed_on_the_path(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hpbench_test_broken.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load_object("hpbench_test_broken:Agent")


def test_entry_points_extend_the_table_and_do_not_replace_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def entry_points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("sine", "math:cos", group), EntryPoint("root", "math:sqrt", group)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    table = Registry("function", TABLE, group="hpbench.functions")
    assert asked == []  # nothing is read before it is needed
    assert table.load("root") is math.sqrt
    assert table.load("sine") is math.sin
    assert asked == ["hpbench.functions"]


def test_make_agent_from_class_object_and_factory() -> None:
    assert isinstance(make_agent(Keep, size=3), Keep)
    agent = Keep()
    assert make_agent(agent) is agent
    made = make_agent(lambda size: Keep(size), size=2)
    assert isinstance(made, Keep)
    assert made.size == 2


def test_make_agent_from_import_path(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hpbench_test_agents.py").write_text(
        "class Mine:\n    def reset(self, spec, seed): ...\n    def act(self, observation): return [0.0]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    agent: Any = make_agent("hpbench_test_agents:Mine")
    assert agent.act(None) == [0.0]


@pytest.mark.parametrize(
    ("agent", "arguments", "message"),
    [
        (Keep, {"sise": 3}, "unexpected keyword argument 'sise'"),
        (Keep(), {"size": 3}, "takes no arguments, got \\['size'\\]"),
        (SimpleNamespace(), {}, "SimpleNamespace is not an agent"),
        (dict, {}, "agent dict: no signature"),
        (object, {}, "object is not an agent"),
        ("math:pi", {}, "'math:pi' is not an agent"),
    ],
)
def test_make_agent_says_what_is_wrong(agent: Any, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidConfiguration, match=message):
        make_agent(agent, **arguments)


def test_make_agent_names_the_near_miss() -> None:
    with pytest.raises(UnknownName, match="Unknown agent 'cosine'. Did you mean 'cosine-decay'"):
        make_agent("cosine")
