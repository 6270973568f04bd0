"""Doom in the simulator interface: equal to ViZDoom's own, deterministic whatever runs beside it, saved by replay."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from hpbench.errors import MissingExtra, SimulatorCrash, UnknownName
from hpbench.learners.simulator_pool import SimulatorPool
from hpbench.tasks.doom_simulator import (
    BUTTONS,
    CHANNELS,
    FRAME_SKIP,
    LIMITS,
    SIDE,
    STATUS_ROWS,
    DoomMaker,
    shrink,
)
from hpbench.tasks.replay import ReplaySimulator
from replayed import record

vizdoom = pytest.importorskip("vizdoom", reason='needs pip install "hpbench[doom]"')

LIMIT = 60


def plan(seed: int, scenario: str = "defend_the_center", steps: int = LIMIT) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(BUTTONS[scenario] + 1, size=steps)


def simulator(scenario: str = "defend_the_center", seeds: Sequence[int] = (0,)) -> ReplaySimulator:
    made = DoomMaker(scenario, LIMIT).make(len(seeds))
    made.reset(range(len(seeds)), seeds)
    return made


def pixels(row: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return row.reshape(SIDE, SIDE, CHANNELS)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory that has to stay empty."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scenario", BUTTONS)
def test_steps_are_those_of_the_gymnasium_environment(
    scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At another resolution, so images cannot be compared; what it shows of the status can."""
    from vizdoom.gymnasium_wrapper.gymnasium_env_defns import VizdoomScenarioEnv

    monkeypatch.chdir(tmp_path)  # it leaves files
    status = vizdoom.GameVariable
    variables = [status.HEALTH, status.SELECTED_WEAPON_AMMO, status.KILLCOUNT]
    theirs = VizdoomScenarioEnv(f"{scenario}.cfg", frame_skip=FRAME_SKIP, max_buttons_pressed=1)
    assert isinstance(theirs.action_space, gym.spaces.Discrete)
    assert theirs.action_space.n == BUTTONS[scenario] + 1
    theirs.game.set_available_game_variables(variables)
    theirs.game.init()
    theirs.game.set_seed(11)
    theirs.game.new_episode()
    theirs.state = theirs.game.get_state()
    timeout = theirs.game.get_episode_timeout() - theirs.game.get_episode_start_time()
    if timeout > 0:
        assert LIMITS[scenario] == -(-timeout // FRAME_SKIP)
    ours = simulator(scenario, [11])
    buttons = [tuple(combination) for combination in theirs.button_map]
    for action in plan(11, scenario, 40):
        shown = np.clip(theirs.state.game_variables, 0, 255)
        np.testing.assert_array_equal(pixels(ours.observation[0])[-1, -1], shown)
        pressed = tuple(int(button == action - 1) for button in range(BUTTONS[scenario]))
        _, reward, over, cut, _ = theirs.step(buttons.index(pressed))
        ours.step(np.array([action]))
        assert (ours.reward[0], ours.terminated[0]) == (reward, over and not cut)
        if over:
            break
    ours.close()
    theirs.close()


def test_images_are_means_over_areas() -> None:
    screen = np.random.default_rng(0).integers(256, size=(120, 160, CHANNELS), dtype=np.uint8)
    rows = screen.repeat(SIDE, axis=0).reshape(SIDE, 120, 160, CHANNELS).mean(axis=1)
    exact = rows.repeat(SIDE, axis=1).reshape(SIDE, SIDE, 160, CHANNELS).mean(axis=2)
    assert np.abs(shrink(screen) - exact).max() <= 0.5
    assert shrink(np.full_like(screen, 255)).min() == 255.0


def test_an_observation_is_the_scene_and_the_status() -> None:
    one = simulator("basic", [5])
    assert (one.observation.shape, one.observation.dtype) == ((1, SIDE * SIDE * CHANNELS), np.dtype(np.uint8))
    image = pixels(one.observation[0])
    screen = one.games[0].game.get_state().screen_buffer  # type: ignore[attr-defined]
    np.testing.assert_array_equal(image[:-STATUS_ROWS], shrink(screen)[:-STATUS_ROWS])
    assert image[:-STATUS_ROWS].std() > 10.0
    assert (image[-STATUS_ROWS:] == (100, 50, 0)).all()
    for _ in range(10):
        one.step(np.array([3]))
    assert 40 <= pixels(one.observation[0])[-1, 0, 1] < 50
    one.close()


def test_games_are_deterministic_whatever_else_runs_beside_them(elsewhere: Path) -> None:
    seeds = (1, 6, 9)
    alone = []
    for seed in seeds:
        one = simulator(seeds=[seed])
        alone.append(record(one, plan(seed)))
        one.close()
    together = simulator(seeds=seeds)
    busy = simulator("basic", [77])
    shown: list[list[tuple[bytes, float, bool]]] = [[], [], []]
    for step in range(LIMIT):  # copies are stepped in turn, others begin and end on the way
        for env, seed in enumerate(seeds):
            shown[env] += record(together, plan(seed)[step : step + 1], env)
        busy.step(np.array([step % 4]))
        if step % 20 == 10:
            busy.close()
            busy = simulator("basic", [step])
    assert shown == alone
    assert len({trace[20] for trace in alone}) == len(seeds)
    together.reset([1], [seeds[0]])  # a copy that has played is as good as a new one
    assert record(together, plan(seeds[0]), 1) == alone[0]
    together.close()
    busy.close()


@pytest.mark.parametrize("scenario", ["defend_the_center", "health_gathering", "take_cover"])
def test_a_loaded_game_goes_on_as_the_saved_one(scenario: str) -> None:
    one, other = simulator(scenario, [3]), simulator(scenario, [8, 9])
    actions = plan(3, scenario)
    record(one, actions[:30])
    state = one.save(0)
    assert len(state) == 8 + 30 <= DoomMaker(scenario, LIMIT).state_bytes
    other.load(1, state)
    np.testing.assert_array_equal(other.observation[1], one.observation[0])
    assert (other.reward[1], other.terminated[1]) == (one.reward[0], one.terminated[0])
    assert other.save(1) == state
    assert record(other, actions[30:], 1) == record(one, actions[30:])
    one.close()
    other.close()


def test_a_game_that_is_over_shows_nothing_until_it_is_reset() -> None:
    one = simulator("predict_position", [0, 0])
    for step in range(LIMITS["predict_position"]):
        one.step(np.array([3 * (step % 4 == 3), 0]))  # the weapon does not fire if the button is down already
        if one.terminated[0]:
            break
    assert one.terminated.tolist() == [True, False]
    assert not one.observation[0].any()
    state = one.save(0)
    one.step(np.array([1, 1]))
    assert (one.terminated[0], one.reward[0], one.save(0)) == (True, 0.0, state)
    one.load(1, state)
    assert one.terminated.tolist() == [True, True]
    one.reset([0], [1])
    assert one.terminated.tolist() == [False, True]
    assert one.observation[0].any()
    one.close()


def test_closed_copies_make_room_for_others() -> None:
    one = simulator("basic", [5])
    game, shown = one.games[0].game, one.observation.copy()  # type: ignore[attr-defined]
    one.close()
    one.close()
    other = simulator("basic", [5, 5])
    assert [each.game for each in other.games].count(game) == 1  # type: ignore[attr-defined]
    np.testing.assert_array_equal(other.observation, np.vstack((shown, shown)))
    other.close()


def test_a_killed_worker_takes_its_games_along() -> None:
    pool = SimulatorPool(processes=1)
    playing = pool.make(DoomMaker("basic", LIMIT), 2, task="doom/basic")
    playing.reset([0, 1], [1, 2])
    assert playing.observation.any()
    worker = pool.workers[0].process.pid
    games = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _group(entry) == worker and int(entry.name) != worker
    ]
    assert len(games) == 2
    os.kill(worker, signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(SimulatorCrash, match="doom/basic"):
        record(playing, plan(0, "basic"))
    assert time.monotonic() - begin < 5.0  # soon: the games do not hold the connection
    while not all(_ended(game) for game in games):  # killed, but it takes a moment
        assert time.monotonic() - begin < 5.0
        time.sleep(0.01)


def _group(process: Path) -> int | None:
    try:
        return os.getpgid(int(process.name))
    except ProcessLookupError:
        return None


def _ended(process: int) -> bool:
    """Whether it is gone, or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_unknown_scenarios_are_named() -> None:
    with pytest.raises(UnknownName, match="defend_the_line"):
        DoomMaker("defend_line", LIMIT).make(1)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(MissingExtra, match=r'pip install "hpbench\[doom\]"'):
        DoomMaker("basic", LIMIT).make(1)
