"""PettingZoo's pursuit, any number of worlds in one pass of NumPy, which is much faster than one by one.

Pursuers have to surround evaders, who walk at random, on a grid with a block in the middle. PettingZoo's own class
begins episodes, and says what surrounds an evader where; its random generators go on here. The rules are its own to the
last bit, which the tests compare over whole episodes.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpbench.errors import MissingExtra

Rows = slice | NDArray[np.int64]
"""Of worlds."""
Cells = NDArray[np.int64]
"""Places on the grid as one number: ``x * height + y``. One more than there are is nowhere."""

_GENERATOR = struct.Struct("<BI")
_SIDES = np.array([[-1, 0], [1, 0], [0, 1], [0, -1]])
"""What the first four choices add to a place; the fifth stays."""


class Pursuits:
    """Worlds of it. See :class:`~hpbench.tasks.pettingzoo_worlds.Worlds`.

    Args:
        count: worlds.
        options: of PettingZoo's class, of a grid of at most 256 cells.

    Raises:
        MissingExtra: if PettingZoo, or what it needs for this, is not installed.
    """

    def __init__(self, count: int, **options: Any) -> None:
        self._game = game = _pursuit_class()(**options)
        assert game.local_ratio == 0.0, "rewards are shared"
        assert game.surround, "evaders are caught by surrounding them"
        width, height, self._nowhere = game.x_size, game.y_size, game.x_size * game.y_size
        places = np.stack(np.meshgrid(np.arange(width), np.arange(height), indexing="ij"), axis=-1).reshape(-1, 2)
        beside = places[:, None] + _SIDES
        clipped = beside.clip(0, [width - 1, height - 1])
        inside = (beside == clipped).all(axis=2)
        cells, clipped = np.arange(len(places)), clipped @ [height, 1]
        built = game.map_matrix.ravel() == -1
        self._beside: Cells = np.where(inside, clipped, self._nowhere)
        self._felt: Cells = clipped  # at the border, pursuers feel their own cell instead of what would be outside
        stay = ~inside | built[clipped]
        self._moves: Cells = np.column_stack([np.where(stay, cells[:, None], clipped), cells])
        self._needed = np.array([game.need_to_surround(x, y) for x, y in places])
        # What is seen: rows are y, as in PettingZoo's observations, and around the grid there is wall.
        margin, side = game.obs_offset, game.obs_range
        padded = np.ones((height + 2 * margin, width + 2 * margin))
        padded[margin:-margin, margin:-margin] = np.abs(game.map_matrix.T)
        self._walls, across = padded.ravel(), padded.shape[1]
        window = (np.arange(side)[:, None] * across + np.arange(side)).ravel()
        self._windows = (places[:, 1] * across + places[:, 0])[:, None] + window
        self._padded = (places[:, 1] + margin) * across + places[:, 0] + margin
        self._generators: list[Any] = [None] * count
        self._pursuers = np.zeros((count, game.n_pursuers), np.int64)
        self._evaders = np.zeros((count, game.n_evaders), np.int64)
        self._free = np.zeros((count, game.n_evaders), np.bool_)

    def begin(self, world: int, seed: int) -> None:
        """A new episode, as PettingZoo begins it."""
        game = self._game
        game._seed(seed)
        game.reset()
        self._generators[world] = game.np_random
        for cells, agents in ((self._pursuers, game.pursuers), (self._evaders, game.evaders)):
            cells[world] = [x * game.y_size + y for x, y in (agent.current_position() for agent in agents)]
        self._free[world] = True

    def act(self, rows: Rows, actions: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """One step: pursuers move one after the other and each move is rewarded, then evaders are caught or move."""
        game, before, evaders, free = self._game, self._pursuers[rows], self._evaders[rows], self._free[rows]
        after = self._moves[before, actions]
        crowd = self._count(evaders, free)
        felt = [np.take_along_axis(crowd[:, None], self._felt[cells], axis=2).sum(axis=2) for cells in (before, after)]
        moved = np.tri(actions.shape[1], dtype=np.bool_)  # after each move: by whom
        rewards = game.tag_reward * np.where(moved, felt[1][:, None], felt[0][:, None]) / actions.shape[1]
        caught = self._caught(after, evaders, free)
        held = np.take_along_axis(self._count(evaders, caught)[:, None], self._beside[after], axis=2).any(axis=2)
        rewards[:, -1] += game.catch_reward * held
        rewards[:, -1] += game.urgency_reward
        total = np.zeros(len(after))
        for move in rewards.mean(axis=2).T:
            total += move
        free = free & ~caught
        chosen = np.full(free.shape, len(_SIDES))
        chosen[free] = np.concatenate(
            [
                generator.integers(len(_SIDES) + 1, size=left)
                for generator, left in zip(self._chosen(rows), free.sum(axis=1).tolist(), strict=True)
            ]
        )
        self._pursuers[rows], self._evaders[rows], self._free[rows] = after, self._moves[evaders, chosen], free
        return total, ~free.any(axis=1)

    def write(self, rows: Rows, seen: NDArray[np.float32]) -> None:
        """A square around each pursuer: walls, pursuers, evaders."""
        pursuers, evaders, free = self._pursuers[rows], self._evaders[rows], self._free[rows]
        board = np.zeros((len(pursuers), len(self._walls), 3), np.float32)
        board[..., 0] = self._walls
        board[:, self._padded, 1] = self._count(pursuers, np.ones_like(pursuers, np.bool_))[:, :-1]
        board[:, self._padded, 2] = self._count(evaders, free)[:, :-1]
        shown = board[np.arange(len(board))[:, None, None], self._windows[pursuers]]
        size = shown.shape[2] * shown.shape[3]
        seen[..., :size] = shown.reshape(*pursuers.shape, size)

    def save(self, world: int) -> bytes:
        """The random generator, and the cells of pursuers and of the evaders that are left."""
        generator = self._generators[world].bit_generator.state
        assert generator["bit_generator"] == "PCG64"
        whole = [generator["state"][name].to_bytes(16, "little") for name in ("state", "inc")]
        rest = _GENERATOR.pack(generator["has_uint32"], generator["uinteger"])
        cells = np.concatenate([self._pursuers[world], self._evaders[world][self._free[world]]])
        return b"".join((*whole, rest, cells.astype(np.uint8).tobytes()))

    def load(self, world: int, state: bytes) -> None:
        """Become what was saved."""
        whole = {name: int.from_bytes(state[i : i + 16], "little") for name, i in (("state", 0), ("inc", 16))}
        has_uint32, uinteger = _GENERATOR.unpack_from(state, 32)
        bits: Any = np.random.PCG64()
        bits.state = {"bit_generator": "PCG64", "state": whole, "has_uint32": has_uint32, "uinteger": uinteger}
        self._generators[world] = np.random.Generator(bits)
        cells = np.frombuffer(state, np.uint8, offset=32 + _GENERATOR.size)
        pursuers, evaders = np.split(cells, [self._pursuers.shape[1]])
        self._pursuers[world], self._evaders[world, : len(evaders)] = pursuers, evaders
        self._free[world] = np.arange(self._free.shape[1]) < len(evaders)

    def _count(self, cells: Cells, which: NDArray[np.bool_]) -> NDArray[np.float64]:
        """How many of those there are in each cell: ``[worlds, cells + 1]``; nobody is nowhere."""
        width = self._nowhere + 1
        index = (np.arange(len(cells))[:, None] * width + cells).ravel()
        count: Any = np.bincount(index, which.ravel(), len(cells) * width)  # float64, as there are weights
        counted: NDArray[np.float64] = count.reshape(len(cells), width)
        return counted

    def _caught(self, pursuers: Cells, evaders: Cells, free: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which evaders have a pursuer on every side that is open."""
        taken = self._count(pursuers, np.ones_like(pursuers, np.bool_)) > 0
        around = np.take_along_axis(taken[:, None], self._beside[evaders], axis=2).sum(axis=2)
        caught: NDArray[np.bool_] = free & (around == self._needed[evaders])
        return caught

    def _chosen(self, rows: Rows) -> list[Any]:
        return self._generators[rows] if isinstance(rows, slice) else [self._generators[row] for row in rows]


def _pursuit_class() -> Any:
    try:
        from pettingzoo.sisl.pursuit.pursuit_base import Pursuit
    except ImportError as error:
        missing = "pettingzoo" if error.name is None else error.name.partition(".")[0]
        raise MissingExtra(missing, "pettingzoo") from None
    return Pursuit
