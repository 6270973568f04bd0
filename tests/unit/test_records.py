"""Records on disk: exact, atomic, and nothing damaged ever counts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hpbench.errors import InvalidAction, RecordError
from hpbench.evaluation import records
from hpbench.evaluation.identity import AgentIdentity
from hpbench.evaluation.records import Costs, Member, Platform, Record, dumps, loads, to_json
from hpbench.evaluation.suite import Row

ROW = Row("HPControl-Classic-v0", "classic/cartpole", "ppo", "default", "small", (100, 101), decisions=2)


def member(seed: int, **changes: object) -> Member:
    values = {
        "seed": seed,
        "agent_seed": seed + 7,
        "task": "classic/cartpole",
        "initial_values": {"learning_rate": 3e-4},
        "actions": ([0.1, -1.0], "x0.5 \u2713"),
        "values": {"learning_rate": (1e-3, 1 / 3)},
        "clipped": ((), ("learning_rate",)),
        "invalid": (0, 1),
        "rewards": (0.1, 0.2),
        "shifted": (False, False, True),
        "scores": (0.0, 0.1, 0.30000000000000004),
        "returns": (None, 1.5, -2.0),
        "steps": (0, 512, 1024),
        "evaluation_steps": (10, 20, 30),
        "digests": ("aa", "bb", "cc"),
        "diverged": False,
        "meta_score": 0.25,
    }
    return Member(**(values | changes))  # type: ignore[arg-type]


def record(**changes: object) -> Record:
    values = {
        "format": records.FORMAT,
        "hpbench": "0.1.0",
        "suite": "some-v0",
        "suite_hash": "0" * 64,
        "row": ROW,
        "agent": AgentIdentity("mine", "package.module:Mine", {"rate": 0.1}, ""),
        "options": {"task": "classic/cartpole", "decisions": 2},
        "engine": "native",
        "device": "cpu",
        "platform": Platform.here(),
        "decisions": 2,
        "steps": 1024,
        "members": (member(100), member(101)),
    }
    return Record(**(values | changes))  # type: ignore[arg-type]


def resealed(text: str) -> str:
    """The text with a checksum that fits it."""
    body = text[: text.index(',\n "checksum"')]
    return f'{body},\n "checksum": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def test_round_trip_is_exact_and_canonical() -> None:
    text = dumps(record())
    assert loads(text) == record()
    assert dumps(loads(text)) == text
    assert list(json.loads(text))[:3] == ["format", "hpbench", "suite"]
    assert "0.30000000000000004" in text


def test_every_truncation_is_noticed() -> None:
    text = dumps(record())
    for length in range(len(text)):
        with pytest.raises(RecordError):
            loads(text[:length])


@pytest.mark.parametrize(
    ("old", "new"), [("0.25", "0.95"), ('"seed": 101', '"seed": 102'), ("true", "false"), ("cc", "cd")]
)
def test_every_edit_is_noticed(old: str, new: str) -> None:
    text = dumps(record())
    assert old in text
    with pytest.raises(RecordError, match="checksum"):
        loads(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"meta_score": 0.25', '"meta_score": NaN'),
        ('"meta_score": 0.25', '"meta_score": "0.25"'),
        ('"meta_score": 0.25', '"meta_score": 1e999'),
        ('"meta_score": 0.25', '"meta_score": 0.25, "bonus": 1'),
        ('"steps": [0, 512, 1024]', '"steps": [0, 512.5, 1024]'),
        ('"steps": [0, 512, 1024]', '"steps": [0, 512]'),
        ('"engine": "native",\n', ""),
        ('"format": 1', '"format": 2'),
        ('"tier": "small"', '"tier": "small", "more": 1'),
        ('"seed": 101', '"seed": 999'),
        ('"decisions": 2,\n "steps"', '"decisions": 3,\n "steps"'),
    ],
)
def test_a_fitting_checksum_does_not_make_a_record(old: str, new: str) -> None:
    text = dumps(record())
    assert old in text
    with pytest.raises(RecordError, match="not a record of format 1"):
        loads(resealed(text.replace(old, new, 1)))


def test_a_meta_episode_may_be_short_only_if_it_diverged() -> None:
    short = {
        "actions": ([0.1],),
        "values": {"learning_rate": (1e-3,)},
        "clipped": ((),),
        "invalid": (0,),
        "rewards": (0.1,),
        "shifted": (False, False),
        "scores": (0.0, 0.0),
        "returns": (1.0, None),
        "steps": (0, 512),
        "evaluation_steps": (10, 20),
        "digests": ("aa", "bb"),
    }
    diverged = record(members=(member(100), member(101, diverged=True, **short)))
    assert loads(dumps(diverged)) == diverged
    with pytest.raises(RecordError, match="1 of 2 decisions"):
        loads(dumps(record(members=(member(100), member(101, **short)))))


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    with pytest.raises(RecordError, match=r"row\.json cannot be read"):
        records.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match=r"row\.json"):
        records.read(path)
    path.write_text(dumps(record())[:-20])
    with pytest.raises(RecordError, match=r"row\.json is damaged"):
        records.read(path)


def test_numbers_that_do_not_exist_cannot_be_written() -> None:
    with pytest.raises(ValueError):
        dumps(record(members=(member(100, meta_score=math.nan), member(101))))


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "agent" / "row.json"
    records.write(path, record())
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        records.write(path, record(engine="torch"))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    monkeypatch.undo()
    records.write(path, record(engine="torch"))
    assert records.read(path).engine == "torch"


def test_costs_stand_beside_the_record_and_are_not_worth_failing_for(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    assert records.read_costs(path) is None
    costs = Costs(2.0, 0.5, 40, 1000, 200)
    records.write_costs(path, costs)
    assert records.read_costs(path) == costs
    assert (costs.decisions_per_second, costs.steps_per_second) == (20.0, 600.0)
    (tmp_path / "row.costs.json").write_text("{")
    assert records.read_costs(path) is None


def test_actions_become_plain_json_in_full_precision() -> None:
    action = np.array([0.1, -1.0], dtype=np.float32)
    assert (np.array(to_json(action), dtype=np.float32) == action).all()
    assert to_json({"a": (np.int64(3), True, None), "b": torch.tensor([1.5])}) == {"a": [3, True, None], "b": [1.5]}
    assert to_json('{"learning_rate": "x0.5"}') == '{"learning_rate": "x0.5"}'
    for bad in (float("nan"), np.array([np.inf]), object(), {1: 2}):
        with pytest.raises(InvalidAction):
            to_json(bad)


def test_agents_of_one_name_have_folders_of_their_own() -> None:
    first = record().agent
    second = dataclasses.replace(first, settings={"rate": 0.2})
    assert first.key != second.key
    assert first.key.startswith("mine-")
    assert dataclasses.replace(first, source="edited").key == first.key
    assert "/" not in dataclasses.replace(first, name="../../x y").key
