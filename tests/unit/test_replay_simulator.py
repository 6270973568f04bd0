"""Games that are saved as what was played: exact, and played again no further than needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hpbench.errors import SnapshotError
from hpbench.tasks.replay import ReplaySimulator, replay_bytes


class Dice:
    """Adds throws of a die to the actions; over beyond 100."""

    def __init__(self) -> None:
        self.begun = self.played = 0

    def begin(self, seed: int) -> None:
        self.generator, self.total = np.random.default_rng(seed), 0
        self.begun += 1

    def act(self, action: int) -> tuple[float, bool]:
        gain = action * int(self.generator.integers(1, 7))
        self.total += gain
        self.played += 1
        return float(gain), self.total > 100

    def write(self, row: NDArray[Any]) -> None:
        row[0] = self.total

    def close(self) -> None:
        pass


def make(*seeds: int) -> ReplaySimulator:
    simulator = ReplaySimulator([Dice() for _ in seeds], 1, np.int16)
    simulator.reset(range(len(seeds)), seeds)
    return simulator


def play(simulator: ReplaySimulator, actions: list[int], env: int = 0) -> list[tuple[int, float, bool]]:
    shown = []
    for action in actions:
        simulator.step(np.full(len(simulator.games), action), [env])
        shown.append((int(simulator.observation[env, 0]), simulator.reward[env], simulator.terminated[env]))
    return shown


def test_a_loaded_episode_shows_and_does_what_the_saved_one_does() -> None:
    one, other = make(3), make(8, 9)
    play(one, [1, 2, 3, 1])
    state = one.save(0)
    assert len(state) == replay_bytes(4)
    other.load(1, state)
    assert (other.observation[1, 0], other.reward[1]) == (one.observation[0, 0], one.reward[0])
    assert other.save(1) == state
    assert play(other, [2, 0, 5], 1) == play(one, [2, 0, 5])
    assert other.save(0) == make(8).save(0)  # the others stay as they are


def test_no_more_is_played_than_is_missing() -> None:
    one = make(3)
    states = []
    for actions in ([1, 2], [3, 0], [2, 1]):
        play(one, actions)
        states.append(one.save(0))
    other = make(4)
    game: Any = other.games[0]
    for state, begun, played in ((states[0], 1, 2), (states[0], 0, 0), (states[2], 0, 4), (states[1], 1, 4)):
        game.begun = game.played = 0
        other.load(0, state)
        assert (game.begun, game.played) == (begun, played)
        assert other.save(0) == state


def test_an_episode_that_is_over_stays_so() -> None:
    one = make(3, 3)
    play(one, [9] * 30)
    assert one.terminated.tolist() == [True, False]
    state, shown = one.save(0), one.observation[0, 0]
    assert shown > 100
    one.step(np.array([1, 1]))
    assert (one.terminated[0], one.reward[0], one.observation[0, 0], one.save(0)) == (True, 0.0, shown, state)
    other = make(5)
    other.load(0, state)
    assert (other.terminated[0], other.observation[0, 0]) == (True, shown)
    one.reset([0], [1])
    assert (one.terminated[0], one.save(0)) == (False, make(1).save(0))


def test_damaged_states_are_refused() -> None:
    with pytest.raises(SnapshotError, match="at least 8 bytes"):
        make(1).load(0, b"123")
