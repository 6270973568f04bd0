"""Who an agent is: settings that tell two apart, and nothing that differs from process to process."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.evaluation.identity import identify, labels, make_entrants


class Base:
    def reset(self, spec: Any, seed: int) -> None:
        self._memory = [seed]

    def act(self, observation: Any) -> Any:
        return observation


class Public(Base):
    def __init__(self, rate: Any = 0.1) -> None:
        self.rate = rate


class Private(Base):
    """Keeps its argument, and something else, under an underscore."""

    def __init__(self, rate: Any = 0.1) -> None:
        self._rate = rate
        self._cache = object()


@dataclasses.dataclass
class Data(Base):
    rate: float = 0.1
    name: str = "data"


class Inner:
    def __init__(self, width: int) -> None:
        self.width = width


def test_settings_are_arguments_and_public_attributes() -> None:
    assert identify(Public(0.2)).settings == {"rate": 0.2}
    assert identify(Private(0.2)).settings == {"rate": 0.2}
    assert identify(Data(0.2)).settings == {"rate": 0.2}
    assert identify(Base()).settings == {}


def test_names_and_paths() -> None:
    assert identify(Public()).name == "Public"
    assert identify(Public(), "public-agent").name == "public-agent"
    assert identify(Data(name="mine")).name == "mine"
    assert identify(Public()).path.endswith("test_identity:Public")


def test_what_an_agent_remembers_is_not_what_it_is() -> None:
    used = Private()
    used.reset(None, 3)
    assert identify(used) == identify(Private())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.1, 0.2),
        (1, True),
        (1, "1"),
        (float("nan"), 0.0),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 2}),
        (np.zeros(3), np.array([0.0, 0.0, 1.0])),
        (np.zeros(4), np.zeros((2, 2))),
        (torch.zeros(2), torch.ones(2)),
        (Inner(1), Inner(2)),
        (dict, list),
        (Path("a"), Path("b")),
        ({1, 2}, {1, 3}),
        (deque([1]), deque([2])),
        (torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)),
    ],
)
def test_different_settings_are_different_agents(one: Any, other: Any) -> None:
    assert identify(Public(one)).digest != identify(Public(other)).digest
    assert identify(Public(one)).digest == identify(Public(one)).digest
    json.dumps(identify(Public(one)).settings, allow_nan=False)


def test_equal_settings_are_the_same_agent() -> None:
    words = [f"word-{i}" for i in range(50)]
    assert identify(Public(set(words))) == identify(Public(frozenset(words[::-1])))
    assert identify(Public({"a": 1, "b": 2})).digest == identify(Public({"b": 2, "a": 1})).digest
    assert identify(Public(Inner(1))) == identify(Public(Inner(1)))
    # Made without a seed: what comes out of it differs, but it is no setting.
    assert identify(Public(np.random.default_rng())) == identify(Public(np.random.default_rng()))
    assert identify(Public(threading.Lock())) == identify(Public(threading.Lock()))


def test_settings_that_contain_themselves_end() -> None:
    agent = Public()
    agent.rate = agent
    assert "Public" in json.dumps(identify(agent).settings)


def test_source_code_is_part_of_the_identity_but_not_of_the_folder() -> None:
    assert len(identify(Public()).source) == 64
    assert identify(Public()).source != identify(Private()).source
    made_up = type("MadeUp", (), {"reset": Base.reset, "act": Base.act})
    assert identify(made_up()).source == ""


def test_labels_show_digests_only_where_needed() -> None:
    one, two, three = identify(Public(1)), identify(Public(2)), identify(Private())
    assert labels([one, three]) == ["Public", "Private"]
    assert labels([one, two, three]) == [f"Public ({one.digest[:4]})", f"Public ({two.digest[:4]})", "Private"]


def test_entrants_come_from_names_classes_and_objects() -> None:
    entrants = make_entrants([Public, Private(2)])
    assert [entrant.identity.name for entrant in entrants] == ["Public", "Private"]
    assert [entrant.identity.name for entrant in make_entrants(Public())] == ["Public"]
    with pytest.raises(UnknownName):
        make_entrants("no-such-agent")
    with pytest.raises(InvalidConfiguration, match="twice"):
        make_entrants([Public(1), Public(1)])
