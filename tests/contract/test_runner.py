"""The runner on real, short meta-episodes: what it records, what it runs again, what it refuses."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import hpbench
from hpbench.control.episode import BatchStep, EpisodeBatch
from hpbench.control.reward import meta_score
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.evaluation import records, row
from hpbench.evaluation.metrics import load_metric
from hpbench.evaluation.results import load_results, record_path
from short_runs import CONTESTANTS, TWO_TASKS, make_suite, run


def test_a_record_holds_the_whole_trace(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite()
    results = run(contestants.Wander(0.2), suite, tmp_path)
    (record,) = results.records
    assert (record.decisions, record.steps, record.engine, record.device) == (2, 1024, record.engine, "cpu")
    assert record.agent.settings == {"width": 0.2}
    assert [member.seed for member in record.members] == [100, 101]
    first, second = record.members
    assert first.actions != second.actions
    assert first.agent_seed != second.agent_seed
    for member in record.members:
        assert member.steps == (0, 512, 1024)
        assert member.meta_score == pytest.approx(meta_score(np.array(member.scores[1:]), 2), abs=1e-12)
    expected = [load_metric("meta_score")(episode) for episode in results.episodes("wander", suite.rows[0])]
    assert expected == pytest.approx([member.meta_score for member in record.members], abs=1e-12)
    costs = results.costs("wander", suite.rows[0])
    assert costs is not None
    assert (costs.decisions, costs.steps) == (4, 2048)


def test_a_trace_replays_in_the_environment(contestants: Any, tmp_path: Path) -> None:
    """Alone, through Gymnasium, with the recorded actions: the same learner, bit for bit."""
    (record,) = run(contestants.Wander(), make_suite(), tmp_path).records
    member = record.members[1]
    env = gym.make(record.row.env, **record.options)
    _, info = env.reset(seed=member.seed)
    digests = [info["hpbench"]["digest"]]
    scores = [info["hpbench"]["score"]]
    for action in member.actions:
        _, _, _, _, info = env.step(np.array(action, dtype=np.float32))
        digests.append(info["hpbench"]["digest"])
        scores.append(info["hpbench"]["score"])
    env.close()
    assert tuple(digests) == member.digests
    assert tuple(scores) == member.scores
    assert info["hpbench"]["values"] == {name: column[-1] for name, column in member.values.items()}


def test_finished_rows_are_not_run_again(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite(TWO_TASKS)
    first = run(contestants.Keep(), suite, tmp_path)
    paths = [record_path(first.folder, record) for record in first.records]
    times = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    second = run([contestants.Keep(), contestants.Wander()], suite, tmp_path)
    assert paths[0].stat().st_mtime_ns == times[0]
    assert set(second.agents) == {"keep", "wander"}
    assert [record for record in second.records if record.agent.name == "keep"] == list(first.records)


def test_damaged_records_are_redone_and_named(
    contestants: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = make_suite()
    first = run(contestants.Keep(), suite, tmp_path)
    path = record_path(first.folder, first.records[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert load_results(tmp_path).records == ()
    hpbench.run(contestants.Keep(), suite, output=tmp_path, processes=1)
    assert path.read_bytes() == whole
    said = capsys.readouterr().err
    assert "Running again" in said
    assert path.name in said
    assert "[1/1] keep on classic/cartpole default: meta-score" in said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"suite_hash": "0" * 64}, "another version of the suite"),
        ({"hpbench": "0.0.1"}, "another version of hpbench"),
        ({"options": {}}, "other options"),
        ({"steps": 512}, "another budget"),
    ],
)
def test_records_of_something_else_are_redone(
    contestants: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], reason: str
) -> None:
    suite = make_suite()
    (record,) = run(contestants.Keep(), suite, tmp_path).records
    path = record_path(tmp_path / suite.name, record)
    records.write(path, dataclasses.replace(record, **change))
    assert hpbench.run(contestants.Keep(), suite, output=tmp_path, processes=1).records == (record,)
    assert reason in capsys.readouterr().err


def test_edited_agents_are_run_again(contestants: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = make_suite()
    (before,) = run("contestants:Keep", suite, tmp_path / "out").records
    source = Path(contestants.__file__)
    source.write_text(CONTESTANTS.replace("np.zeros(self.size", "0.5 * np.ones(self.size"))
    sys.modules.pop("contestants")
    importlib.invalidate_caches()
    (after,) = hpbench.run("contestants:Keep", suite, output=tmp_path / "out", processes=1).records
    assert "other source code" in capsys.readouterr().err
    assert after.agent.key == before.agent.key
    assert after.members[0].actions != before.members[0].actions


def test_batch_agents_act_for_all_members_at_once(contestants: Any, tmp_path: Path) -> None:
    agent = contestants.Together()
    (record,) = run(agent, make_suite(), tmp_path).records
    assert record.members[0].actions[0] == [0.0] * 9
    assert record.members[1].actions[0] == pytest.approx([0.01] * 9)
    assert [len(steps) for steps in agent.steps] == [2, 2]
    assert agent.steps[1][0].truncated
    assert agent.steps[0][1].info["hpbench"]["seed"] == 101


def test_a_diverged_member_ends_alone(contestants: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Poisoned(EpisodeBatch):
        """The first member's parameters become NaN before the second decision."""

        def step(self, actions: Any) -> BatchStep:
            if self.infos()[0]["hpbench"]["decision"] == 1:
                self.population.state["parameters"][0] = float("nan")
            return super().step(actions)

    monkeypatch.setattr(row, "EpisodeBatch", Poisoned)
    suite = make_suite(decisions=4)
    (record,) = run(contestants.Wander(), suite, tmp_path).records
    first, second = record.members
    assert first.diverged
    assert len(first.actions) == 2
    assert first.scores[-1] == 0.0
    assert not second.diverged
    assert len(second.actions) == 4
    results = load_results(tmp_path)
    assert results.diverged("wander") == 1
    assert results.values("wander", suite.rows[0]) == pytest.approx([m.meta_score for m in record.members])
    monkeypatch.undo()
    (healthy,) = run(contestants.Wander(), suite, tmp_path / "healthy").records
    assert healthy.members[1] == second


def test_agents_of_one_name_do_not_collide(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite()
    results = run([contestants.Wander(0.1), contestants.Wander(0.2)], suite, tmp_path)
    assert len(set(results.agents)) == 2
    assert len(results.records) == 2
    with pytest.raises(InvalidConfiguration, match="twice with the same settings"):
        run([contestants.Wander(0.1), contestants.Wander(0.1)], suite, tmp_path)


def test_an_agent_is_not_changed_by_being_run(contestants: Any, tmp_path: Path) -> None:
    agent = contestants.Wander()
    run(agent, make_suite(), tmp_path)
    assert vars(agent) == {"width": 0.3}


def test_bad_input_is_named(contestants: Any, tmp_path: Path) -> None:
    suite = make_suite()
    with pytest.raises(UnknownName, match="quick-v0"):
        hpbench.run(contestants.Keep(), "quick-v", output=tmp_path)
    with pytest.raises(InvalidConfiguration, match="no agent to run"):
        run([], suite, tmp_path)
    with pytest.raises(InvalidConfiguration, match="not an agent"):
        run(object(), suite, tmp_path)
    with pytest.raises(InvalidConfiguration, match="processes"):
        run(contestants.Keep(), suite, tmp_path, processes=0)
    with pytest.raises(UnknownName, match="device"):
        run(contestants.Keep(), suite, tmp_path, device="gpu")
    contestants.Keep.observation = "vectro"
    with pytest.raises(UnknownName, match="'vector'"):
        run(contestants.Keep(), suite, tmp_path)
    assert not (tmp_path / suite.name).exists()
