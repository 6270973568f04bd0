"""The benchmarks run, keep what they measured, and compare like with like. Their numbers are not tested here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from short_benchmarks import FOLDER, ONLY_HERE, load, run

pytestmark = ONLY_HERE


@pytest.mark.slow
def test_speed(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    for learner in ("ppo", "dqn", "sac"):
        run(module("speed"), monkeypatch, "--engines", "torch", "--learners", learner, "--out", str(tmp_path))
    workloads = load(tmp_path / "speed.json")["workloads"]
    assert list(workloads) == ["ppo", "dqn", "sac"]
    for results in workloads.values():
        assert [(r["engine"], r["members"], r["threads"]) for r in results] == [
            ("sb3", 1, 1), ("torch", 1, 1), ("torch", 2, 1), ("torch", 2, 2)
        ]  # fmt: skip
        assert all(len(r["rates"]) == 2 and min(r["rates"]) > 0 for r in results)
        assert results[0]["ratio_to_sb3"] == 1.0
    assert "Stable-Baselines3" in (tmp_path / "speed.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_dynamic_protocol(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    run(module("dynamic_protocol"), monkeypatch, "--engines", "torch", "--out", str(tmp_path))
    results = load(tmp_path / "dynamic_protocol.json")["results"]
    assert [r["kind"] for r in results] == ["sb3", "torch", "torch", "gym.make"]
    assert all(r["median_changed"] > 0 and r["median_kept"] > 0 for r in results)


def test_overhead(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run(module("overhead"), monkeypatch, "--out", str(tmp_path))
    results = load(tmp_path / "overhead.json")["results"]
    assert len(results) == 5
    assert all(r["train_ms"] > r["digest_ms"] > 0 and r["overhead_ms"] > r["digest_ms"] for r in results)


def test_language_latency(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    run(module("language_latency"), monkeypatch, "--out", str(tmp_path))
    results = load(tmp_path / "language_latency.json")["results"]
    assert [(r["size"], r["members"]) for r in results] == [("tiny", 1), ("tiny", 3)]
    assert all(0.0 < r[f"{side}_p50"] <= r[f"{side}_p95"] for r in results for side in ("ours", "drafts", "in_turn"))


def test_language_overhead(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    run(module("language_overhead"), monkeypatch, "--out", str(tmp_path))
    found = load(tmp_path / "language_overhead.json")
    assert found["loading_seconds"] > 0.0
    (row,) = found["results"]
    assert row["decisions"] == 4
    assert min(row[part] for part in ("decide", "train", "evaluate")) > 0.0
    assert found["whole"]["of_training"] == pytest.approx(row["decide"] / row["train"], abs=1e-3)


@pytest.mark.slow
def test_learning_parity(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    parity = module("learning_parity")
    asked = []

    def curves_here(subject: str, problem: Any, seeds: list[int], processes: int) -> Any:
        asked.append((subject, seeds))
        if subject == "sb3":
            return [parity._peer_curve(problem, seed) for seed in seeds]
        return zip(seeds, parity._our_curves(problem, seeds, subject), strict=True)

    monkeypatch.setattr(parity, "curves_of", curves_here)
    arguments = ("--problems", "cartpole", "--subjects", "sb3", "torch", "--out", str(tmp_path))
    run(parity, monkeypatch, *arguments)
    document = load(tmp_path / "learning_parity.json")
    assert {(r["subject"], r["measure"]) for r in document["comparisons"]} == {("torch", "area"), ("torch", "final")}
    assert np.array(document["curves"]["cartpole"]["torch"]).shape == (3, 3)
    assert document["cartpole_solved"] == {"sb3": [0, 3], "torch": [0, 3]}
    assert (tmp_path / "learning_parity.svg").stat().st_size > 0
    assert (tmp_path / "learning_parity.png").stat().st_size > 0
    run(parity, monkeypatch, *arguments)
    assert asked == [("sb3", [0, 1, 2]), ("torch", [0, 1, 2])]  # the second run found all curves on the disk


WORKER_SCRIPT = """
import os, sys
sys.path.insert(0, {folder!r})
from harness import serve
if sys.argv[2] == '{{"dies": true}}':
    sys.exit(3)
serve(lambda request: {{**request, "subject": sys.argv[2], "threads": os.environ["OMP_NUM_THREADS"]}})
"""


def test_workers_answer_from_a_process_of_their_own(module: Any, tmp_path: Path) -> None:
    harness = module("harness")
    script = tmp_path / "script.py"
    script.write_text(WORKER_SCRIPT.format(folder=str(FOLDER)), encoding="utf-8")
    with harness.Worker(script, {"name": "x"}, threads=2) as worker:
        for number in (1, 2):
            assert worker.ask(number=number) == {"number": number, "subject": '{"name": "x"}', "threads": "2"}
    with pytest.raises(RuntimeError, match="status 3"), harness.Worker(script, {"dies": True}) as worker:
        worker.ask(number=1)


def test_parity_statistics_tell_worse_from_equal(module: Any) -> None:
    parity = module("learning_parity")
    problem = parity.PROBLEMS[0]
    generator = np.random.default_rng(0)
    peer = 300.0 + 20.0 * generator.standard_normal((10, 6))
    tables = {"sb3": peer, "native": peer[::-1], "torch": peer - 100.0}
    verdicts = {(row["subject"], row["measure"]): row for row in parity.analyse(problem, tables)}
    for measure in ("area", "final"):
        assert verdicts["native", measure]["verdict"] == "no difference"
        assert verdicts["native", measure]["difference"] == pytest.approx(0.0)
        assert verdicts["torch", measure]["verdict"] == "worse"
        assert verdicts["torch", measure]["difference"] == pytest.approx(-100.0)
        assert verdicts["torch", measure]["welch_p"] < 1e-6


def test_solved_counts_seeds_with_any_checkpoint_above_the_threshold(module: Any) -> None:
    curves = np.array([[100.0, 480.0, 200.0], [100.0, 475.0, 475.0], [500.0, 500.0, 500.0]])
    assert module("learning_parity").solved(curves) == 2


def test_curves_survive_and_are_dropped_when_the_setting_changes(module: Any, tmp_path: Path) -> None:
    parity = module("learning_parity")
    problem = parity.PROBLEMS[2]
    parity.Curves(tmp_path, "sb3", problem).add(4, [1.0, 2.0])
    first, second = (parity.Curves(tmp_path, "sb3", problem) for _ in range(2))
    assert first.by_seed == {4: [1.0, 2.0]}
    first.add(5, [3.0, 4.0])
    second.add(6, [5.0, 6.0])
    kept = {4: [1.0, 2.0], 5: [3.0, 4.0], 6: [5.0, 6.0]}
    assert parity.Curves(tmp_path, "sb3", problem).by_seed == kept
    changed = parity.replace(problem, values={**problem.values, "learning_rate": 2e-3})
    assert parity.Curves(tmp_path, "sb3", changed).by_seed == {}


def test_both_sides_get_the_same_network_and_numbers(module: Any) -> None:
    pytest.importorskip("stable_baselines3")
    subjects = module("subjects")
    setting = subjects.Setting("classic/pendulum", 4, 64, {"learning_rate": 1e-3, "minibatches": 8})
    ours, peer = subjects.Ours(setting, [0], "torch"), subjects.make_peer(setting, 0)
    assert ours.population.networks.size == sum(p.numel() for p in peer.model.policy.parameters())
    assert ours.steps_per_rollout == peer.steps_per_rollout == 256
    assert peer.model.batch_size == 32
    values = {name: float(value[0]) for name, value in ours.population.values().items()}
    assert values == setting.all_values()
    model = peer.model
    assert values == {
        "learning_rate": model.lr_schedule(1.0),
        "entropy_coefficient": model.ent_coef,
        "value_coefficient": model.vf_coef,
        "clip_range": model.clip_range(1.0),
        "discount": model.gamma,
        "gae_lambda": model.gae_lambda,
        "max_gradient_norm": model.max_grad_norm,
        "update_epochs": model.n_epochs,
        "minibatches": peer.steps_per_rollout / model.batch_size,
    }


def test_changes_reach_the_peer_where_they_act(module: Any) -> None:
    pytest.importorskip("stable_baselines3")
    subjects = module("subjects")
    peer = subjects.make_peer(subjects.Setting("classic/cartpole", 2, 16), 0)
    wish = {"learning_rate": 7e-3, "clip_range": 0.11, "discount": 0.9, "gae_lambda": 0.8, "update_epochs": 2}
    peer.set_values({**wish, "minibatches": 2, "entropy_coefficient": 0.05, "value_coefficient": 0.7})
    peer.set_values({"max_gradient_norm": 0.3})
    before = peer.model._n_updates
    peer.train(1)
    model = peer.model
    assert model.policy.optimizer.param_groups[0]["lr"] == 7e-3
    assert model._n_updates - before == 2
    assert (model.gamma, model.rollout_buffer.gamma) == (0.9, 0.9)
    assert (model.gae_lambda, model.rollout_buffer.gae_lambda) == (0.8, 0.8)
    assert (model.batch_size, model.ent_coef, model.vf_coef, model.max_grad_norm) == (16, 0.05, 0.7, 0.3)
    assert model.clip_range(0.5) == 0.11


def test_evaluation_of_the_peer_leaves_its_training_environment_alone(module: Any) -> None:
    pytest.importorskip("stable_baselines3")
    subjects = module("subjects")
    peer = subjects.make_peer(subjects.Setting("classic/cartpole", 2, 16), 0)
    peer.train(1)
    before, steps = peer.model._last_obs.copy(), peer.model.num_timesteps
    returns = peer.evaluate(5)
    assert returns.shape == (1, 5)
    assert (returns >= 1.0).all()
    assert peer.model.num_timesteps == steps
    np.testing.assert_array_equal(peer.model._last_obs, before)


def test_the_machine_is_described_without_saying_whose_it_is(module: Any) -> None:
    described = module("harness").machine()
    assert described["cores"] >= 1
    assert described["torch"][0].isdigit()
    assert not any("/" in str(value) for value in described.values())


def test_dynamic_protocol_changes_every_value_at_every_decision(module: Any) -> None:
    protocol = module("dynamic_protocol").DynamicProtocol()
    assert protocol.steps == 100_000
    rows = [protocol.values(decision) for decision in range(protocol.decisions)]
    for name in rows[0]:
        values = [row[name] for row in rows]
        assert len(set(values)) == len(values)
