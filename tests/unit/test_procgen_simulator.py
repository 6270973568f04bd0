"""Procgen as a simulator: determinism, exact fork, levels kept for evaluation, errors that name the fix."""

from __future__ import annotations

import multiprocessing
import operator
import pickle
import sys
import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from hpbench.errors import InvalidConfiguration, MissingExtra, MissingLibrary
from hpbench.tasks import procgen_simulator
from hpbench.tasks.procgen_simulator import LEVELS, ProcgenMaker, ProcgenSimulator

GAMES = (
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot",
    "heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    try:
        ProcgenMaker("coinrun").make(1).close()
    except (MissingExtra, MissingLibrary) as error:
        pytest.skip(str(error))


def started(maker: ProcgenMaker, seeds: list[int], evaluation: bool = False) -> ProcgenSimulator:
    simulator = maker.make(len(seeds), evaluation)
    simulator.reset(range(len(seeds)), seeds)
    return simulator


def played(simulator: ProcgenSimulator, steps: int, seed: int = 0) -> list[NDArray[np.generic]]:
    """Everything that is shown on the way, stacked."""
    random = np.random.Generator(np.random.PCG64(seed))
    shown = []
    for _ in range(steps):
        simulator.step(random.integers(15, size=len(simulator.reward)))
        shown.append((simulator.observation.copy(), simulator.reward.copy(), simulator.terminated.copy()))
    return [np.stack(each) for each in zip(*shown, strict=True)]


def assert_equal(some: list[NDArray[np.generic]], others: list[NDArray[np.generic]]) -> None:
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


def test_equal_seeds_give_equal_episodes_whoever_else_runs() -> None:
    maker = ProcgenMaker("starpilot", levels=200)
    together, alone = started(maker, [3, 4]), started(maker, [4])
    random = np.random.Generator(np.random.PCG64(0))
    ended = 0
    for _ in range(300):
        actions = random.integers(15, size=2)
        together.step(actions)
        alone.step(actions[1:])
        np.testing.assert_array_equal(together.observation[1:], alone.observation)
        assert together.reward[1] == alone.reward[0]
        assert together.terminated[1] == alone.terminated[0]
        ended += int(alone.terminated[0])
    assert ended > 0  # restarts follow from the seed, too
    assert not np.array_equal(together.observation[0], together.observation[1])


def test_threads_change_nothing() -> None:
    one, two = (started(ProcgenMaker("bossfight", threads=threads), [1, 2, 3]) for threads in (0, 2))
    assert_equal(played(one, 50), played(two, 50))


def test_a_step_on_threads_has_ended_when_anything_is_asked() -> None:
    one, two = (started(maker, [1, 2]) for maker in (ProcgenMaker("chaser"), ProcgenMaker("chaser").on_threads(2)))
    for actions in np.random.Generator(np.random.PCG64(0)).integers(15, size=(20, 2)):
        one.step(actions)
        two.step(actions)
    assert two.save(1) == one.save(1)
    state = one.save(0)
    for simulator in (one, two):
        simulator.step(np.array([3, 4]))
        simulator.load(0, state)
    np.testing.assert_array_equal(two.observation, one.observation)
    for simulator in (one, two):
        simulator.step(np.array([5, 6]))
        simulator.reset([1], [9])
    np.testing.assert_array_equal(two.observation, one.observation)
    assert two.save(0) == one.save(0)
    for simulator in (one, two):
        simulator.step(np.array([7, 8]))
    np.testing.assert_array_equal(two.terminated, one.terminated)
    two.step(np.array([7, 8]))
    two.close()


@pytest.mark.parametrize("mode", ["easy", "hard"])
@pytest.mark.parametrize("game", GAMES)
def test_a_loaded_copy_continues_as_the_saved_one(game: str, mode: str) -> None:
    maker = ProcgenMaker(game, mode, levels=200)
    original = started(maker, [7, 8])
    played(original, 40)
    states = [original.save(env) for env in range(2)]
    shown = original.observation.copy()
    other = started(maker, [1, 2])
    played(other, 11)
    for env, state in enumerate(states):
        other.load(1 - env, state)  # into the other place
    np.testing.assert_array_equal(other.observation, shown[::-1])
    assert [other.save(1 - env) for env in range(2)] == states
    random = np.random.Generator(np.random.PCG64(1))
    for _ in range(60):
        actions = random.integers(15, size=2)
        original.step(actions)
        other.step(actions[::-1])
        np.testing.assert_array_equal(original.observation, other.observation[::-1])
        np.testing.assert_array_equal(original.reward, other.reward[::-1])
        np.testing.assert_array_equal(original.terminated, other.terminated[::-1])


def test_reset_leaves_the_other_copies_alone() -> None:
    simulator, same = (started(ProcgenMaker("coinrun"), [1, 2]) for _ in range(2))
    played(simulator, 10)
    played(same, 10)
    simulator.reset([1], [9])
    np.testing.assert_array_equal(simulator.observation[1:], started(ProcgenMaker("coinrun"), [9]).observation)
    assert simulator.save(0) == same.save(0)


def levels_seen(maker: ProcgenMaker, evaluation: bool) -> set[bytes]:
    """First images of many episodes: leaper is short, and a level's first image is its own."""
    simulator = started(maker, list(range(64)), evaluation)
    return {image.tobytes() for image in simulator.observation}


def test_evaluation_has_the_levels_that_training_has_not() -> None:
    maker = ProcgenMaker("coinrun", levels=3)
    training, held_out = levels_seen(maker, evaluation=False), levels_seen(maker, evaluation=True)
    assert len(training) == 3
    assert len(held_out) > 50
    assert not training & held_out


def test_without_a_number_of_levels_there_are_all() -> None:
    assert levels_seen(ProcgenMaker("coinrun"), evaluation=False) == levels_seen(ProcgenMaker("coinrun"), True)
    assert len(levels_seen(ProcgenMaker("coinrun"), evaluation=False)) > 50


@pytest.mark.parametrize("levels", [-1, LEVELS])
def test_levels_that_are_none(levels: int) -> None:
    with pytest.raises(InvalidConfiguration, match=f"levels={levels} is outside"):
        ProcgenMaker("coinrun", levels=levels)


def test_arrays_stay_in_place() -> None:
    simulator = started(ProcgenMaker("maze"), [0])
    arrays = simulator.observation, simulator.reward, simulator.terminated
    played(simulator, 3)
    assert all(map(operator.is_, arrays, (simulator.observation, simulator.reward, simulator.terminated)))
    assert [a.dtype for a in arrays] == [np.uint8, np.float64, np.bool_]
    assert arrays[0].shape == (1, 64 * 64 * 3)


def test_closing_twice() -> None:
    simulator = ProcgenMaker("maze").make(1)
    simulator.close()
    simulator.close()


def test_makers_are_data() -> None:
    maker = ProcgenMaker("maze", "hard", levels=500)
    assert pickle.loads(pickle.dumps(maker)) == maker
    assert hash(maker) == hash(ProcgenMaker("maze", "hard", levels=500))


def test_a_missing_package_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "procgen", None)
    with pytest.raises(MissingExtra, match=r'pip install "hpbench\[procgen\]"'):
        ProcgenMaker("coinrun").make(1)


def test_a_missing_system_library_names_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise OSError("cannot load library '/x/libenv.so': libGL.so.1: cannot open shared object file: No such file")

    monkeypatch.setattr(procgen_simulator._procgen(), "ProcgenGym3Env", refuse)
    with pytest.raises(MissingLibrary, match="needs libGL.so.1 .* apt-get install libgl1 libglib2.0-0"):
        ProcgenMaker("coinrun").make(1)


def test_an_environment_can_be_collected_while_another_loads_the_library() -> None:
    native = ProcgenMaker("coinrun").native(1, evaluation=False, seed=0)
    with native._ffi._lock:  # as cffi does while it loads
        collected = threading.Thread(target=native.close, daemon=True)
        collected.start()
        collected.join(timeout=10)
        assert not collected.is_alive()


def test_a_fork_does_not_wait_for_the_threads_of_its_parent() -> None:
    native = ProcgenMaker("coinrun", threads=2).native(1, evaluation=False, seed=0)
    child = multiprocessing.get_context("fork").Process(target=native.close)
    child.start()
    child.join(timeout=10)
    assert child.exitcode == 0
    native.observe()  # still there for the parent
