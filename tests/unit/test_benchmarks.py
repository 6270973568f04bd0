"""The benchmarks run, keep what they measured, and compare like with like. Their numbers are not tested here."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hpbench.learners.encoders import EncodedActorCritic, make_encoder

FOLDER = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are part of the source checkout only")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark as its own command would: with the folder on the path."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def run(benchmark: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command a user would type, with workers in this process."""

    class Here:
        """Answers as the process of a worker would."""

        def __init__(self, script: str, subject: dict[str, Any], threads: int = 1) -> None:
            described = dict(subject)
            more = [benchmark.DynamicProtocol(**described.pop("protocol"))] if "protocol" in described else []
            self._answer = benchmark.answers(benchmark.Subject(**described), *more)

        def ask(self, **request: Any) -> Any:
            return json.loads(json.dumps(self._answer(request)))

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(benchmark, "Worker", Here, raising=False)
    monkeypatch.setattr(sys, "argv", ["benchmark", "--quick", *arguments])
    benchmark.main()


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


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
    assert [(r["case"], r["members"]) for r in results] == [
        (case, members) for case in ("trained", "right", "edits", "chaos") for members in (1, 3)
    ]
    assert all(0.0 < r[f"{side}_p50"] <= r[f"{side}_p95"] for r in results for side in ("after", "before"))
    assert [r["passes"] for r in results[2:4]] == [2, 2]
    assert all(2 < r["passes"] <= 10 for r in results[4:])


def test_language_overhead(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    run(module("language_overhead"), monkeypatch, "--out", str(tmp_path))
    found = load(tmp_path / "language_overhead.json")
    assert found["loading_seconds"] > 0.0
    (row,) = found["results"]
    assert row["decisions"] == 4
    assert min(row[part] for part in ("decide", "train", "evaluate")) > 0.0
    assert found["whole"]["of_training"] == pytest.approx(row["decide"] / row["train"], abs=1e-3)


def test_pettingzoo_speed(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pettingzoo.sisl.pursuit", reason='needs pip install "hpbench[pettingzoo]"')
    pytest.importorskip("mpe2", reason='needs pip install "hpbench[pettingzoo]"')
    speed = module("pettingzoo_speed")
    run(speed, monkeypatch, "--out", str(tmp_path / "rates.json"))
    rows = load(tmp_path / "rates.json")["rows"]
    assert [row["task"] for row in rows] == [task.id for task in speed.TASKS.values()]
    for row in rows:
        assert row["worlds"] == 2
        assert min(row["ours"], row["pettingzoo"]) > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["pettingzoo"], abs=0.05001)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Subjects set how many threads torch has: what comes after them has one again."""
    yield
    torch.set_num_threads(1)


@pytest.mark.usefixtures("one_thread")
def test_procgen_speed(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("procgen", reason='needs pip install "hpbench[procgen]"')
    pytest.importorskip("stable_baselines3", reason='needs pip install "hpbench[sb3]"')
    speed = module("procgen_speed")
    monkeypatch.setattr(speed.images_native, "suits", speed.images_native.suits)  # a subject changes it for its process
    run(speed, monkeypatch, "--out", str(tmp_path))
    document = load(tmp_path / "procgen_speed.json")
    labels = [f"{kind}, {count} thread{'s' * (count > 1)}" for kind in speed.KINDS for count in (1, 2)]
    labels.remove("hpbench torch, 2 threads")
    assert list(document["rates"]) == [*labels, "hpbench, 4 members, 2 threads"]
    assert all(len(rates) == 1 and rates[0] > 0 for rates in document["rates"].values())
    for row in document["comparison"]:
        label = f"hpbench, {row['threads']} thread{'s' * (row['threads'] > 1)}"
        assert row["steps_per_second"] == document["medians"][label]
        assert 0.0 < row["share_of_bound"] < 1.0
    assert "of the bound" in (tmp_path / "procgen_speed.md").read_text(encoding="utf-8")
    assert not (tmp_path / "procgen_speed_partial.json").exists()


def test_operations_of_the_network_are_those_that_torch_counts(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass to act; in each epoch one forth and one back, which images have no part in."""
    speed = module("procgen_speed")
    monkeypatch.setattr(speed.images_native, "suits", lambda sizes, images: False)  # torch cannot look into those
    networks = EncodedActorCritic.build(make_encoder("impala-small", speed.TASK.observation_size), 15, True)
    row = networks.initial(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    seen = torch.zeros(1, 1, speed.TASK.observation_size, dtype=torch.uint8)
    with FlopCounterMode(display=False) as forth:
        output, value, _ = networks.outputs(row.requires_grad_(), seen)
    with FlopCounterMode(display=False) as back:
        (output.sum() + value.sum()).backward()
    counted = [mode.get_total_flops() for mode in (forth, back)]
    assert speed.operations() == counted[0] + speed.EPOCHS * sum(counted)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")),
    ],
)
def test_procgen_gpu(device: str, module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a GPU, graphs are left out."""
    pytest.importorskip("procgen", reason='needs pip install "hpbench[procgen]"')
    run(module("procgen_gpu"), monkeypatch, "--device", device, "--output", str(tmp_path / "rates.json"))
    document = load(tmp_path / "rates.json")
    ways = ["written", "graph"] if device == "cuda" else ["written"]
    for part in ("training", "inference"):
        assert [(row["way"], row["encoder"]) for row in document[part]] == [(way, "impala-small") for way in ways]
        assert all(row["per_second"] > 0 for row in document[part])
    assert [row["halves"] for row in document["simulator"]] == [False, True]
    assert all(row["steps_per_second"] > 0 for row in document["simulator"])
    (whole,) = document["whole"]
    assert (whole["envs"], whole["steps"]) == (4, 8)
    parts = whole["seconds_of_parts_per_rollout"]
    assert 0.0 < parts["collect"] + parts["update"] < 1.05 * 32 / whole["steps_per_second"]  # which is rounded
    assert list(document["transfers"][0]) == ["pageable", "pinned"]
    assert document["done"]


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


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_nethack_speed(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3", reason='needs pip install "hpbench[sb3]"')
    pytest.importorskip("nle", reason='needs pip install "hpbench[nethack]"')
    speed = module("nethack_speed")
    run(speed, monkeypatch, "--cores", "2", "--out", str(tmp_path))
    measured = load(tmp_path / "nethack_speed.json")
    assert list(measured["rates"]) == [
        f"{kind}, 2 cores" for kind in ("hpbench", "stable-baselines3", "simulator", "lockstep", "matrix")
    ] + ["stable-baselines3, 2 cores, 2 threads"]
    assert all(rate > 0 for rates in measured["rates"].values() for rate in rates)
    (row,) = measured["comparison"]
    rates = {label: rates[0] for label, rates in measured["rates"].items()}
    bound = 1 / (1 / rates["simulator, 2 cores"] + measured["operations_per_step"] / rates["matrix, 2 cores"])
    assert row["share_of_bound"] == pytest.approx(rates["hpbench, 2 cores"] / bound, abs=1e-3)
    assert "of the bound" in (tmp_path / "nethack_speed.md").read_text(encoding="utf-8")
    assert not (tmp_path / "nethack_speed_partial.json").exists()


@pytest.mark.slow
def test_mujoco_speed(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3", reason='needs pip install "hpbench[sb3]"')
    pytest.importorskip("mujoco", reason='needs pip install "hpbench[mujoco]"')
    speed, out = module("mujoco_speed"), tmp_path / "mujoco_speed.json"
    arguments = ["--tasks", "inverted-pendulum", "--rounds", "1", "--rollouts", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["mujoco_speed", *arguments])
    speed.main()
    (row,) = load(out)["rows"]
    rates = row["steps_per_second"]
    assert min(rates.values()) > 0
    bound = 1 / (1 / rates["simulator alone"] + row["operations_per_step"] / row["matrix_operations_per_second"])
    assert row["bound"] == pytest.approx(bound, rel=1e-2)
    assert row["share_of_bound"] == pytest.approx(rates["hpbench native"] / bound, rel=1e-2)
    # 4 numbers in, 64, 64, and 1 out, for actor and critic; ten epochs, without the gradients of what comes in.
    forward = 2 * 2 * (4 * 64 + 64 * 64 + 64)
    assert row["operations_per_step"] == forward + 10 * (3 * forward - 2 * 2 * 4 * 64)


def test_the_peer_on_nethack_reads_what_we_read(module: Any) -> None:
    pytest.importorskip("stable_baselines3", reason='needs pip install "hpbench[sb3]"')
    pytest.importorskip("nle", reason='needs pip install "hpbench[nethack]"')
    torch = pytest.importorskip("torch")
    from hpbench.learners.glyphs import GLYPHS
    from hpbench.tasks.nethack_simulator import NetHackMaker

    simulator = NetHackMaker("score", 300).make(6)
    simulator.reset(range(6), range(6))
    for actions in np.random.default_rng(0).integers(23, size=(150, 6)):
        simulator.step(actions)
    features = module("nethack_peer").Features(None)
    layers = (features.patches, features.status, features.message, features.all)
    pieces = [features.glyphs, features.letters, *(part for each in layers for part in (each.weight.T, each.bias))]
    assert [tuple(piece.shape) for piece in pieces] == GLYPHS.shapes
    with torch.no_grad():
        row = [piece.reshape(-1) for piece in pieces]
        ours = GLYPHS.encode(row, torch.from_numpy(simulator.observation))
        seen = {key: torch.from_numpy(simulator.buffers[key]).float() for key in ("glyphs", "blstats", "message")}
        torch.testing.assert_close(features(seen), ours)
    simulator.close()


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
