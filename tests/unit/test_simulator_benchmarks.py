"""Benchmarks of tasks that run in simulators run, keep what they measured, and compare like with like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hpbench.learners.encoders import EncodedActorCritic, make_encoder
from short_benchmarks import ONLY_HERE, load, run

pytestmark = ONLY_HERE


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Subjects set how many threads torch has: what comes after them has one again."""
    yield
    torch.set_num_threads(1)


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
    run(module("mujoco_speed"), monkeypatch, "--tasks", "inverted-pendulum", "--out", str(tmp_path))
    rows = load(tmp_path / "mujoco_speed.json")["rows"]
    assert [row["cores"] for row in rows] == [1, 2]
    assert [len(row["steps_per_second"]) for row in rows] == [4, 6]
    for row in rows:
        rates = row["steps_per_second"]
        assert min(rates.values()) > 0
        bound = 1 / (1 / rates["simulator alone"] + row["operations_per_step"] / row["matrix_operations_per_second"])
        assert row["bound"] == pytest.approx(bound, rel=1e-2)
        ours = max(rate for kind, rate in rates.items() if kind.startswith("hpbench native"))
        assert row["share_of_bound"] == pytest.approx(ours / bound, rel=1e-2)
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
