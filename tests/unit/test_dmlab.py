"""The DMLab family: its data; the adapter against a double of the module; and, where it can be imported, the real one.

Nothing but the last section says anything about DeepMind Lab itself.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from hpbench import tasks
from hpbench.errors import MissingBuild
from hpbench.learners.encoders import make_encoder
from hpbench.tasks.dmlab import LEVELS, ROLLOUTS, TASKS
from hpbench.tasks.dmlab_simulator import ACTION_REPEAT, ACTIONS, DATASETS, SIDE, DMLabMaker

QUICK = DMLabMaker("rooms_watermaze", "rooms_watermaze", 100)


# -- data


def test_thirty_tasks_with_their_published_scores() -> None:
    assert len(LEVELS) == len(TASKS) == 30
    for name, level in LEVELS.items():
        task = tasks.make(f"dmlab/{name.replace('_', '-')}")
        assert task.anchors.score(level.random) == 0.0
        assert task.anchors.score(level.human) == 1.0
        assert task.action_count == len(ACTIONS) == 9
    # Sums of the two published tables.
    assert sum(level.human for level in LEVELS.values()) == pytest.approx(3110.15)
    assert sum(level.random for level in LEVELS.values()) == pytest.approx(72.617)


def test_two_tasks_have_another_level_for_evaluation() -> None:
    held_out = {
        name: (task.simulator.level, task.simulator.evaluation_level)  # type: ignore[union-attr]
        for name, task in TASKS.items()
        if task.simulator.level != task.simulator.evaluation_level  # type: ignore[union-attr]
    }
    assert held_out == {
        f"rooms-{name.replace('_', '-')}": (f"rooms_{name}_train", f"rooms_{name}_test")
        for name in ("collect_good_objects", "exploit_deferred_effects")
    }


@pytest.mark.parametrize("tier", ROLLOUTS)
def test_segments_are_whole_rollouts(tier: str) -> None:
    options: Any = ROLLOUTS[tier]
    task = TASKS["rooms-watermaze"]
    assert task.budgets[tier].steps % (task.budgets[tier].decisions * options["num_envs"] * options["num_steps"]) == 0
    assert make_encoder(options.get("encoder", task.encoder), task.observation_size)


def test_what_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepmind_lab", None)
    with pytest.raises(MissingBuild, match=r"Build it from source .*github.com/google-deepmind/lab"):
        QUICK.make(1)


@pytest.mark.skipif(importlib.util.find_spec("deepmind_lab") is not None, reason="DeepMind Lab is there")
def test_the_environment_says_so_too() -> None:
    with pytest.raises(MissingBuild, match="no package index has it"):
        gym.make("HPControl-DMLab-v0", task="dmlab/rooms-watermaze").reset(seed=0)


# -- the adapter, against a double


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the module: see there how little it is."""
    path = Path(__file__).with_name("deepmind_lab_double.py")
    spec = importlib.util.spec_from_file_location("deepmind_lab_double", path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "deepmind_lab", module)
    monkeypatch.delenv(DATASETS, raising=False)
    return module


def image(simulator: Any, env: int = 0) -> Any:
    return simulator.observation[env].reshape(SIDE, SIDE, 3)


def test_double_settings_are_those_of_training_and_of_evaluation(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = DMLabMaker("rooms_collect_good_objects_train", "rooms_collect_good_objects_test", 100)
    maker.make(2)
    monkeypatch.setenv(DATASETS, "/data/brady")
    maker.make(1, evaluation=True)
    train, _, evaluation = double.Lab.made
    assert train.level == "contributed/dmlab30/rooms_collect_good_objects_train"
    assert evaluation.level == "contributed/dmlab30/rooms_collect_good_objects_test"
    size = {"width": "64", "height": "64", "logLevel": "WARN"}
    assert train.config == size
    held_out = {"allowHoldOutLevels": "true", "mixerSeed": str(0x600D5EED), "datasetPath": "/data/brady"}
    assert evaluation.config == size | held_out
    assert train.names == ["RGB_INTERLEAVED"]


def test_double_actions_are_those_of_impala(double: Any) -> None:
    simulator = QUICK.make(1)
    simulator.reset([0], [5])
    for action in range(9):
        simulator.step(np.array([action]))
        assert image(simulator)[0, :7, 2].tolist() == [number % 256 for number in list(ACTIONS.values())[action]]
        assert simulator.reward[0] == 0.5 * ACTION_REPEAT * (action + 1) + 1005 % 7
    steps = [call for call in double.Lab.made[0].calls if call[0] == "step"]
    assert steps == [("step", action, 4) for action in ACTIONS.values()]
    assert steps[6][1] == (-20, 0, 0, 1, 0, 0, 0)


def test_double_episodes_depend_on_their_seed_only_and_end(double: Any) -> None:
    simulator = QUICK.make(2)
    simulator.reset([0, 1], [5, 6])
    assert image(simulator)[0, 0].tolist() == [1005 % 256, 0, 0]
    assert image(simulator, 1)[0, 0].tolist() == [1006 % 256, 0, 0]
    for _ in range(10):
        assert not simulator.terminated.any()
        simulator.step(np.array([0, 0]), [0])
    assert simulator.terminated.tolist() == [True, False]
    assert simulator.reward[0] > 0
    assert not simulator.observation[0].any()
    simulator.reset([0], [6])  # the second episode of this copy is the first one of the other
    np.testing.assert_array_equal(simulator.observation[0], simulator.observation[1])
    simulator.close()
    simulator.close()


def test_double_saved_episodes_go_on(double: Any) -> None:
    one, other = QUICK.make(1), QUICK.make(1)
    one.reset([0], [7])
    for action in (1, 4, 7):
        one.step(np.array([action]))
    other.load(0, one.save(0))
    np.testing.assert_array_equal(one.observation, other.observation)
    for simulator in (one, other):
        simulator.step(np.array([2]))
    np.testing.assert_array_equal(one.observation, other.observation)
    assert one.reward == other.reward


# -- DeepMind Lab itself, where it can be imported


@pytest.fixture
def real() -> Any:
    return pytest.importorskip("deepmind_lab", reason="DeepMind Lab has to be built from source")


def test_real_actions_fit_the_specification(real: Any) -> None:
    lab = real.Lab("contributed/dmlab30/rooms_select_nonmatching_object", ["RGB_INTERLEAVED"])
    spec = lab.action_spec()
    assert len(spec) == 7
    for action in ACTIONS.values():
        for number, limits in zip(action, spec, strict=True):
            assert limits["min"] <= number <= limits["max"]
    lab.close()


def test_real_episodes_are_deterministic_and_loaded_ones_go_on(real: Any) -> None:
    maker = DMLabMaker("rooms_select_nonmatching_object", "rooms_select_nonmatching_object", 400)
    one, other = maker.make(2), maker.make(1)
    one.reset([0, 1], [3, 4])
    other.reset([0], [9])
    assert one.observation.any(axis=1).all()
    assert (one.observation[0] != one.observation[1]).any()
    actions = np.random.default_rng(0).integers(len(ACTIONS), size=300)
    for action in actions[:60]:
        one.step(np.array([action, 0]))
    other.load(0, one.save(0))
    for action in actions[60:]:
        np.testing.assert_array_equal(other.observation[0], one.observation[0])
        assert (other.reward[0], other.terminated[0]) == (one.reward[0], one.terminated[0])
        one.step(np.array([action, 0]))
        other.step(np.array([action]))
    assert one.terminated[0], "an episode of this level takes 12 seconds: 180 steps"
    one.close()
    other.close()
