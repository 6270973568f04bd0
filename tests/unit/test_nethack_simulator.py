"""NetHack in the simulator interface: equal to NLE, deterministic whatever runs beside it, and saved by replay."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from hpbench.errors import UnknownName
from hpbench.tasks.nethack_layout import (
    CELLS,
    CONDITIONS,
    CONDITIONS_START,
    CROP,
    GLYPHS,
    MESSAGE,
    MESSAGE_START,
    OBSERVATION_SIZE,
    OUTSIDE,
    STATUS,
    STATUS_START,
)
from hpbench.tasks.nethack_simulator import ACTIONS, CLASSES, PENALTY, NetHackMaker, NetHackSimulator
from replayed import record

nle_tasks = pytest.importorskip("nle.env.tasks", reason='needs pip install "hpbench[nethack]"')

LIMIT = 300


def plan(seed: int, steps: int = LIMIT) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(ACTIONS, size=steps)


def simulator(task: str = "score", seeds: Sequence[int] = (0,)) -> NetHackSimulator:
    made = NetHackMaker(task, LIMIT).make(len(seeds))
    made.reset(range(len(seeds)), seeds)
    return made


@pytest.mark.parametrize(
    ("task", "seed", "ends"),
    [(task, seed, seed == 14) for task in CLASSES for seed in (11, 14)] + [("staircase", 0, True)],  # a goal
)
def test_steps_are_those_of_nle(task: str, seed: int, ends: bool) -> None:
    ours = simulator(task, [seed])
    # What is observed changes the game: NLE's default keys have screen descriptions, for which it looks at things.
    keys = ("glyphs", "blstats", "message")
    options = {"fix_moon_phase": True, "max_episode_steps": 10**6, "observation_keys": keys}
    theirs = getattr(nle_tasks, CLASSES[task])(penalty_step=PENALTY, **options)
    theirs.seed(core=seed, disp=seed ^ 0x5DEECE66D, reseed=False)
    shown, _ = theirs.reset()
    assert theirs.action_space.n == ACTIONS
    assert theirs.observation_space["glyphs"].high.max() == GLYPHS
    for action in plan(seed, LIMIT if seed else 20_000):
        column, row = (int(value) for value in shown["blstats"][:2])
        crop = ours.observation[0, :CELLS].reshape(CROP)
        assert crop[CROP[0] // 2, CROP[1] // 2] == shown["glyphs"][row, column]
        np.testing.assert_array_equal(ours.observation[0, MESSAGE_START:], shown["message"][:MESSAGE])
        ours.step(np.array([action]))
        shown, reward, over, _, _ = theirs.step(action)
        assert (ours.reward[0], ours.terminated[0]) == (reward, over)
        np.testing.assert_array_equal(ours.buffers["message"][0], shown["message"])
        if over:
            break
    assert over == ends  # the end of a game, too, is NLE's
    ours.close()
    theirs.close()


def test_observations_are_what_the_layout_says() -> None:
    one = simulator(seeds=[5])
    assert one.observation.shape == (1, OBSERVATION_SIZE)
    assert one.observation.dtype == np.int16
    shown = {key: buffer[0] for key, buffer in one.buffers.items()}
    column, row = (int(value) for value in shown["blstats"][:2])
    crop = one.observation[0, :CELLS].reshape(CROP)
    for y in range(CROP[0]):
        for x in range(CROP[1]):
            there = row + y - CROP[0] // 2, column + x - CROP[1] // 2
            inside = 0 <= there[0] < 21 and 0 <= there[1] < 79
            assert crop[y, x] == (shown["glyphs"][there] if inside else OUTSIDE)
    status = dict(zip(STATUS, one.observation[0, STATUS_START:CONDITIONS_START].tolist(), strict=True))
    assert (status["column"], status["row"]) == (column, row)
    assert (status["depth"], status["experience_level"], status["time"], status["hunger"]) == (1, 1, 1, 1)
    assert status["hit_points"] == status["hit_points_maximum"] > 0
    assert not one.observation[0, CONDITIONS_START:MESSAGE_START].any()
    message = bytes(one.observation[0, MESSAGE_START:].astype(np.uint8)).rstrip(b"\0").decode()
    text = NetHackMaker.describe(one.observation[0].tolist())
    assert message.strip() in text
    assert f"Dlvl:1 $:{status['gold']} HP:{status['hit_points']}({status['hit_points_maximum']})" in text
    one.close()


def test_games_are_deterministic_whatever_else_runs_in_the_process() -> None:
    seeds = (1, 6, 9)
    alone = [record(one := simulator(seeds=[seed]), plan(seed)) for seed in seeds]
    one.close()
    together = simulator(seeds=seeds)
    busy = simulator("gold", [77, 78])
    shown: list[list[tuple[bytes, float, bool]]] = [[], [], []]
    for step in range(LIMIT):  # copies are stepped in turn, others begin and end on the way
        for env, seed in enumerate(seeds):
            shown[env] += record(together, plan(seed)[step : step + 1], env)
        busy.step(np.array([step % ACTIONS, (3 * step) % ACTIONS]))
        if step % 100 == 50:
            busy.close()
            busy = simulator("eat", [step, step + 1])
    assert shown == alone
    assert len({trace[-1] for trace in alone}) == len(seeds)
    together.reset([1], [seeds[0]])  # a copy that has played is as good as a new one
    assert record(together, plan(seeds[0]), 1) == alone[0]
    together.close()
    busy.close()


def test_nothing_in_a_game_depends_on_the_clock() -> None:
    one = simulator(seeds=[42])
    loaded = ctypes.CDLL(one.games[0].env.nethack.dlpath, mode=os.RTLD_LAZY | os.RTLD_NOLOAD)
    assert ctypes.c_long.in_dll(loaded, "ubirthday").value == 42
    import _ctypes

    _ctypes.dlclose(loaded._handle)
    one.reset([0], [43])  # the library could be loaded anew: nobody held on to it
    assert one.games[0].env.nethack.get_current_seeds()[2] is False  # no reseeding
    one.close()


@pytest.mark.parametrize("task", ["score", "scout", "staircase"])
def test_a_loaded_game_goes_on_as_the_saved_one(task: str) -> None:
    one, other = simulator(task, [3]), simulator(task, [8, 9])
    record(one, plan(3)[:150])
    state = one.save(0)
    assert len(state) == 8 + 150 <= NetHackMaker(task, LIMIT).state_bytes
    other.load(1, state)
    np.testing.assert_array_equal(other.observation[1], one.observation[0])
    assert (other.reward[1], other.terminated[1]) == (one.reward[0], one.terminated[0])
    assert other.save(1) == state
    assert record(other, plan(3)[150:], 1) == record(one, plan(3)[150:])
    other.load(1, state)  # back, from further on
    other.load(0, state)
    assert record(other, plan(4)[:50], 0) == record(other, plan(4)[:50], 1)
    one.close()
    other.close()


def test_a_game_that_is_over_stays_so_until_it_is_reset() -> None:
    one = simulator("staircase", [0, 0])
    for action in plan(0, 20_000):
        one.step(np.array([action, 0]))
        if one.terminated[0]:
            break
    assert one.terminated.tolist() == [True, False]
    state, shown = one.save(0), one.observation[0].copy()
    one.step(np.array([1, 1]))
    assert (one.terminated[0], one.reward[0], one.save(0)) == (True, 0.0, state)
    np.testing.assert_array_equal(one.observation[0], shown)
    assert NetHackMaker.describe(one.observation[0].tolist())
    other = simulator("staircase", [5])
    other.load(0, state)
    assert other.terminated.tolist() == [True]
    one.reset([0], [1])
    assert one.terminated.tolist() == [False, False]
    one.close()
    other.close()


def test_unknown_tasks_are_named() -> None:
    with pytest.raises(UnknownName, match="staircase"):
        NetHackMaker("staircas", LIMIT).make(1)


def test_copies_are_many_and_small() -> None:
    one = simulator(seeds=range(40))
    assert len(np.unique(one.observation[:, :CELLS], axis=0)) == 40
    one.step(np.arange(40) % ACTIONS)
    one.close()


def test_an_observation_in_words_is_message_and_status() -> None:
    one = simulator(seeds=[5])
    row = one.observation[0].tolist()
    row[CONDITIONS_START + CONDITIONS.index("blind")] = 1
    row[STATUS_START + list(STATUS).index("hunger")] = 2
    assert NetHackMaker.describe(row).endswith(" hungry blind")
    row[MESSAGE_START:] = [*b"It is a wall.", *[0] * (MESSAGE - 13)]
    assert NetHackMaker.describe(row).startswith("It is a wall. | Dlvl:1 $:")
    assert NetHackMaker.describe([0] * OBSERVATION_SIZE) == "the game is over"
    one.close()
