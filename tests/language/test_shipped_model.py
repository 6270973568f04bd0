"""The language model that comes with the package: there, small, offline, and an agent like any other."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.language.hub import SHIPPED, locate
from agents.language.prompt import names_in, read_completion
from agents.language.view import View
from hpbench import make_agent, run
from hpbench.evaluation.suite import parse_suite

FOLDER = Path(locate(SHIPPED))


def suite(**changes: Any) -> Any:
    row = {
        "env": "HPControl-Classic-v0", "tasks": ["classic/cartpole"], "tracks": ["random"], "learner": "ppo",
        "tier": "small", "seeds": [100, 101, 102], "steps": 2048, "decisions": 4, "evaluation_episodes": 2,
    }  # fmt: skip
    return parse_suite(json.dumps({"format": 1, "name": "test-v0", "rows": [row | changes]}), "test", "json")


def test_it_is_small_and_has_its_card_and_logs() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 10_000_000
    card = (FOLDER / "README.md").read_text()
    for part in ("Data", "Training", "Results", "Limits"):
        assert f"## {part}" in card
    for stage in ("tiny", "sft", "multistep"):
        assert json.loads((FOLDER / "training" / f"{stage}-recipe.json").read_text())
        log = [json.loads(line) for line in (FOLDER / "training" / f"{stage}-log.jsonl").read_text().splitlines()]
        assert len(log) > 1


def test_it_runs_offline_and_every_decision_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    results = run("hyperprompt", suite(), tmp_path, processes=1, progress=False)
    (agent,) = results.agents
    assert agent == "hyperprompt"
    record = results.record(agent, results.suite.rows[0])
    costs = results.costs(agent, results.suite.rows[0])
    assert costs is not None
    assert costs.agent["invalid"] == 0.0
    assert costs.agent["decisions"] == 12.0
    assert 0.0 <= costs.agent["edit_rate"] <= 1.0
    assert record.agent.settings["model"]["path"] == SHIPPED  # no path of this machine
    again = run("hyperprompt", suite(), tmp_path / "again", processes=1, progress=False)
    assert again.record(agent, again.suite.rows[0]) == record


def test_its_name_stands_for_its_address_without_history() -> None:
    named, addressed = make_agent("hyperprompt"), make_agent(f"hf:{SHIPPED}?history=false")
    assert named.model == addressed.model  # type: ignore[union-attr]
    assert named.view == addressed.view == View(history=False)  # type: ignore[union-attr]


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate(SHIPPED) == str(FOLDER)
    (tmp_path / SHIPPED).mkdir()
    assert locate(SHIPPED) == SHIPPED


def test_it_does_something() -> None:
    """Not all answers keep everything, and they depend on what is seen."""
    from hpbench.control.episode import EpisodeBatch
    from hpbench.control.options import EnvOptions

    agent = make_agent("hyperprompt")
    options = EnvOptions(task="classic/cartpole", track="random", observation="text", action="text", device="cpu")
    batch = EpisodeBatch(options, list(range(16)))
    texts, _ = batch.reset()
    agent.reset_batch(batch.specs, list(range(16)))  # type: ignore[union-attr]
    answers = agent.act_batch(texts)  # type: ignore[union-attr]
    choices = np.array([read_completion(answer, names_in(text)) for answer, text in zip(answers, texts, strict=True)])
    assert (choices != 3).any()
    assert len(set(answers)) > 1
