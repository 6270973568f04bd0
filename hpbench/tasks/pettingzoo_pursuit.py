"""PettingZoo's pursuit, stepped by code of our own: on one core, some fifty times as fast.

The rules are PettingZoo's to the last bit, which the tests compare over whole episodes. Its own class begins episodes,
and says what surrounds an evader where; its random generator goes on here.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import MissingExtra

_GENERATOR = struct.Struct("<BI")
_SIDES = ((-1, 0), (1, 0), (0, 1), (0, -1))
"""What the first four choices add to a place; the fifth stays."""

Rows = slice | NDArray[np.int64]

Place = tuple[int, int]


class Pursuits:
    """Worlds of it. See :class:`~hpbench.tasks.pettingzoo_worlds.Worlds`.

    Args:
        count: worlds.

    Raises:
        MissingExtra: if PettingZoo, or what it needs for this, is not installed.
    """

    def __init__(self, count: int) -> None:
        try:
            from pettingzoo.sisl.pursuit import pursuit_base
        except ImportError as error:
            missing = "pettingzoo" if error.name is None else error.name.partition(".")[0]
            raise MissingExtra(missing, "pettingzoo") from None
        self._worlds = [Pursuit(pursuit_base.Pursuit()) for _ in range(count)]

    def begin(self, world: int, seed: int) -> None:
        """A new episode."""
        self._worlds[world].begin(seed)

    def act(self, rows: Rows, actions: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """One step."""
        worlds = zip(self._chosen(rows), actions.tolist(), strict=True)
        rewards, ends = zip(*(world.act(chosen) for world, chosen in worlds), strict=True)
        return np.array(rewards), np.array(ends)

    def write(self, rows: Rows, seen: NDArray[np.float32]) -> None:
        """What the agents see ``[worlds, agents, seen]``, from the left."""
        for world, shown in zip(self._chosen(rows), seen, strict=True):
            world.write(shown)

    def save(self, world: int) -> bytes:
        """All there is to a world."""
        return self._worlds[world].save()

    def load(self, world: int, state: bytes) -> None:
        """Become what was saved."""
        self._worlds[world].load(state)

    def text(self, world: int) -> str:
        """How many evaders are left, and where everybody is."""
        return self._worlds[world].text()

    def _chosen(self, rows: Rows) -> list[Pursuit]:
        return self._worlds[rows] if isinstance(rows, slice) else [self._worlds[row] for row in rows]


class Pursuit:
    """Pursuers that have to surround evaders, who walk at random, on a grid with a block in the middle.

    Args:
        game: PettingZoo's ``pursuit_base.Pursuit``, with shared rewards and evaders that are surrounded.
    """

    def __init__(self, game: Any) -> None:
        assert game.local_ratio == 0.0
        assert game.surround
        self._game = game
        self._evaders_at_first = game.n_evaders
        places = [(x, y) for x in range(game.x_size) for y in range(game.y_size)]
        self._needed = {place: game.need_to_surround(*place) for place in places}
        self._beside = {(x, y): [(x + dx, y + dy) for dx, dy in _SIDES] for x, y in places}
        open_places = {place for place in places if game.map_matrix[place] != -1}
        self._moves = {
            place: [to if to in open_places else place for to in (*self._beside[place], place)] for place in places
        }
        # A pursuer at the border feels its own place instead of what would be outside.
        width, height = game.x_size - 1, game.y_size - 1
        self._felt = {
            place: [(min(max(x, 0), width), min(max(y, 0), height)) for x, y in self._beside[place]] for place in places
        }
        self._margin = game.obs_offset
        shape = (game.y_size + 2 * self._margin, game.x_size + 2 * self._margin, 3)
        self._board = np.zeros(shape, np.float32)  # rows are y, as in PettingZoo's observations
        self._board[..., 0] = 1.0
        inner = slice(self._margin, -self._margin)
        self._board[inner, inner, 0] = np.abs(game.map_matrix.T)
        self._pursuers: list[Place] = []
        self._evaders: list[Place] = []

    def begin(self, seed: int) -> None:
        """A new episode."""
        game = self._game
        game._seed(seed)
        game.reset()
        self._pursuers, self._evaders = (
            [(int(x), int(y)) for x, y in (agent.current_position() for agent in agents)]
            for agents in (game.pursuers, game.evaders)
        )

    def act(self, actions: Sequence[int]) -> tuple[float, bool]:
        """One step: pursuers move one after the other and each move is rewarded, then evaders are caught or move."""
        game, pursuers = self._game, self._pursuers
        crowd: dict[Place, int] = {}
        for place in self._evaders:
            crowd[place] = crowd.get(place, 0) + 1
        felt = [sum(crowd.get(beside, 0) for beside in self._felt[place]) for place in pursuers]
        history = []
        for index, action in enumerate(actions):
            pursuers[index] = place = self._moves[pursuers[index]][action]
            felt[index] = sum(crowd.get(beside, 0) for beside in self._felt[place])
            history.append(felt.copy())
        rewards = game.tag_reward * np.array(history) / len(pursuers)
        rewards[-1] += game.catch_reward * np.array(self._catch())
        rewards[-1] += game.urgency_reward
        draws = game.np_random.integers(len(_SIDES) + 1, size=len(self._evaders)).tolist()
        self._evaders = [self._moves[place][draw] for place, draw in zip(self._evaders, draws, strict=True)]
        return sum(rewards.mean(axis=1).tolist()), not self._evaders

    def _catch(self) -> list[bool]:
        """Take away the evaders that are surrounded: whether each pursuer has had a part in it."""
        taken, left = set(self._pursuers), []
        held: set[Place] = set()
        for place in self._evaders:
            around = taken.intersection(self._beside[place])
            if len(around) == self._needed[place]:
                held |= around
            else:
                left.append(place)
        self._evaders = left
        return [place in held for place in self._pursuers]

    def write(self, rows: NDArray[np.float32]) -> None:
        """A square around each pursuer: walls, pursuers, evaders."""
        board, margin, size = self._board, self._margin, self._game.obs_range
        board[..., 1:] = 0.0
        for channel, places in ((1, self._pursuers), (2, self._evaders)):
            for x, y in places:
                board[y + margin, x + margin, channel] += 1.0
        for row, (x, y) in zip(rows, self._pursuers, strict=True):
            seen = board[y : y + size, x : x + size]
            row[: seen.size] = seen.ravel()

    def save(self) -> bytes:
        """The random generator, and where everybody is."""
        generator = self._game.np_random.bit_generator.state
        assert generator["bit_generator"] == "PCG64"
        whole = [generator["state"][name].to_bytes(16, "little") for name in ("state", "inc")]
        rest = _GENERATOR.pack(generator["has_uint32"], generator["uinteger"])
        return b"".join((*whole, rest, np.array(self._pursuers + self._evaders, np.uint8).tobytes()))

    def load(self, state: bytes) -> None:
        """Become what was saved."""
        game = self._game
        whole = {name: int.from_bytes(state[i : i + 16], "little") for name, i in (("state", 0), ("inc", 16))}
        has_uint32, uinteger = _GENERATOR.unpack_from(state, 32)
        game.np_random.bit_generator.state = {
            "bit_generator": "PCG64", "state": whole, "has_uint32": has_uint32, "uinteger": uinteger,
        }  # fmt: skip
        numbers = state[32 + _GENERATOR.size :]
        places = list(zip(numbers[::2], numbers[1::2], strict=True))
        self._pursuers, self._evaders = places[: game.n_pursuers], places[game.n_pursuers :]

    def text(self) -> str:
        """How many evaders are left, and where everybody is."""
        pursuers, evaders = (" ".join(f"{x},{y}" for x, y in places) for places in (self._pursuers, self._evaders))
        left = f"{len(self._evaders)} of {self._evaders_at_first} evaders left"
        return f"{left}; pursuers at {pursuers}; evaders at {evaders}"
