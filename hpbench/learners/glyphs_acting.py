"""Acting with the network that reads NetHack, in C++ (``cpp/glyphs*``): steps of a rollout, and whole ones.

The processes of simulators act by themselves: a rollout takes no message but the one that asks for it. Therefore this
module does not import torch, which they do without.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpbench.tasks.base import MAX_DELAY
from hpbench.tasks.nethack_layout import CELLS, CROP, OBSERVATION_SIZE, STATUS

if TYPE_CHECKING:
    from hpbench.learners.simulator_worker import Hosted

LANES = 8
"""Numbers of a vector: widths are multiples of it."""
PATCH = 3
"""Cells a side of what is read together."""
_HIGH, _WIDE = (size // PATCH for size in CROP)
ORDER = np.arange(CELLS).reshape(_HIGH, PATCH, _WIDE, PATCH).transpose(0, 2, 1, 3).reshape(-1)
"""Places of the glyphs in an observation, patch by patch."""
SCALES = np.array([status.scale for status in STATUS.values()], dtype=np.float32)
LOG = np.array([status.log for status in STATUS.values()])

SIZES = (
    "batch", "threads",
    "observation", "cells", "patch", "statuses", "conditions", "message", "letters",
    "glyphs", "glyph_width", "letter_width", "channels", "side", "features", "choices", "heads",
)  # fmt: skip
_POINTERS = (
    "order", "scales", "log", "observations", "parameters", "joined", "out", "out_gradient", "gradient",
)  # fmt: skip


class Arguments(ctypes.Structure):
    """``Arguments`` of ``cpp/glyphs.hpp``."""

    _fields_ = (*((name, ctypes.c_int64) for name in SIZES), *((name, ctypes.c_void_p) for name in _POINTERS))


SHOWN = ("shown", "gained", "over", "given")
"""What acting shares with a simulator."""
ROLLOUT = ("observation", "action", "log_prob", "value")
"""What acting leaves in the rollout buffer."""
RECORDS = {"reward": np.float64, "done": np.bool_, "truncated": np.bool_, "length": np.int64}
"""What recording leaves, of which types."""


class _Acting(ctypes.Structure):
    """``Acting`` of ``cpp/glyphs.hpp``."""

    _fields_ = (
        ("network", Arguments),
        *((name, ctypes.c_int64) for name in ("stride", "limit", "delay", "slots")),
        *(
            (name, ctypes.c_void_p)
            for name in (*SHOWN, "head", "head_bias", "draws", "elapsed", "queue", *ROLLOUT, *RECORDS)
        ),
    )


def bind(library: ctypes.CDLL) -> Any:
    """The compiled engine, with the types of its functions."""
    for name, structure in (("arguments", Arguments), ("acting", _Acting)):
        size = getattr(library, f"hpbench_glyphs_{name}_size")
        size.restype = ctypes.c_int64
        assert size() == ctypes.sizeof(structure), "cpp/glyphs.hpp differs: build again"
    for name in ("forward", "backward", "act"):
        getattr(library, f"hpbench_glyphs_{name}").restype = None
    library.hpbench_glyphs_record.restype = ctypes.c_int64
    for name in ("act", "record"):
        getattr(library, f"hpbench_glyphs_{name}").argtypes = (ctypes.c_void_p, ctypes.c_int64)
    return library


@functools.cache
def _engine(path: str) -> Any:
    return bind(ctypes.CDLL(path))


def arguments(sizes: Mapping[str, int], parameters: int, batch: int) -> Arguments:
    """For so many observations.

    Args:
        sizes: of the network and the layout, the rest of :data:`SIZES`.
        parameters: where a member's row is.
        batch: observations.
    """
    return Arguments(
        batch=batch, parameters=parameters, order=ORDER.ctypes.data, scales=SCALES.ctypes.data, log=LOG.ctypes.data,
        **sizes,
    )  # fmt: skip


class Cut(NamedTuple):
    """An episode that the time limit cut: in which step and environment, and its last observation."""

    step: int
    env: int
    observation: NDArray[np.int16]


@dataclass(frozen=True)
class Player:
    """What the processes of a member's simulators have to know to play a rollout by themselves.

    Args:
        library: where the compiled engine lies.
        sizes: of the network, with ``choices``.
        encoder: length of the encoder's part of a row of parameters, the first; then the actor and the critic come.
        limit: of an episode's steps.
        delay: of actions, in steps.
    """

    library: str
    sizes: Mapping[str, int]
    encoder: int
    limit: int
    delay: int

    @staticmethod
    def room(steps: int, envs: int, parameters: int) -> np.dtype[np.void]:
        """Of the record in shared memory: what a rollout needs, ``parameters`` to ``queue`` (the last two change), and
        what it leaves."""
        shape = (steps, envs)
        fields: list[tuple[str, Any, tuple[int, ...]]] = [
            ("parameters", np.float32, (parameters,)), ("draws", np.float32, shape), ("seeds", np.int64, shape),
            ("elapsed", np.int64, (envs,)), ("queue", np.float32, (envs, MAX_DELAY)),
            ("observation", np.int16, (*shape, OBSERVATION_SIZE)),
        ]  # fmt: skip
        fields += [(name, np.float32, shape) for name in ROLLOUT[1:]]
        fields += [(name, kind, shape) for name, kind in RECORDS.items()]
        return np.dtype(fields, align=True)

    def __call__(self, hosted: Hosted, first: int) -> list[Cut]:
        """Play, with the copies of the simulator that live in this process.

        Args:
            hosted: the copies.
            first: of all environments of the member, the first of those.

        Returns:
            What time limits cut.
        """
        simulator, (record,), seeds = hosted.simulator, hosted.rows["record"], hosted.rows["seeds"]
        rollout = {name: record[name] for name in record.dtype.names}
        given = np.zeros(len(seeds), dtype=np.int64)
        shown = {
            "shown": simulator.observation, "gained": simulator.reward, "over": simulator.terminated, "given": given,
        }  # fmt: skip
        parameters, restarts = rollout.pop("parameters"), rollout.pop("seeds")
        head = Head(self.sizes, parameters, self.encoder)
        acting = Acting(_engine(self.library), head, shown, rollout, first, self.limit, self.delay)
        own, cut = slice(first, first + len(given)), list[Cut]()
        for step in range(len(restarts)):
            acting.act(step)
            simulator.step(given)
            if acting.record(step):
                for env in np.flatnonzero(rollout["truncated"][step, own]).tolist():
                    cut.append(Cut(step, first + env, simulator.observation[env].copy()))
                ended = np.flatnonzero(rollout["done"][step, own])
                for name in ("elapsed", "queue"):
                    rollout[name][first + ended] = 0
                seeds[ended] = restarts[step, first + ended]
                simulator.reset(ended.tolist(), seeds[ended].tolist())
        return cut


class Head:
    """What acting reads of a member's row: the encoder, and the actor and the critic as one layer.

    Args:
        sizes: of the network, with ``choices``, those of the actor.
        row: float32, contiguous: encoder, actor (weights and biases), critic.
        encoder: length of its part.
    """

    def __init__(self, sizes: Mapping[str, int], row: NDArray[np.float32], encoder: int) -> None:
        choices, features = sizes["choices"], sizes["features"]
        wide = -(-(choices + 1) // LANES) * LANES
        self.sizes, self.row = {**sizes, "heads": wide, "threads": 1}, row
        self.weight = np.zeros((features, wide), dtype=np.float32)
        self.bias = np.zeros(wide, dtype=np.float32)
        ends = np.cumsum([features * choices, choices, features])
        actor, actor_bias, critic, critic_bias = np.split(row[encoder:], ends)
        self.weight[:, :choices], self.weight[:, choices] = actor.reshape(features, choices), critic
        self.bias[:choices], self.bias[choices] = actor_bias, critic_bias[0]


class Acting:
    """The steps of a rollout of some environments of one member, two calls each.

    Args:
        engine: the compiled engine, bound.
        head: of the member.
        simulator: of those environments, what :data:`SHOWN` names, which change in place: observations int16 ``[envs,
            OBSERVATION_SIZE]``, rewards float64, whether the episode is over, bool, and the actions to give, int64,
            each ``[envs]``.
        rollout: of all environments of the member: ``draws``, uniform float32 ``[steps, all envs]``; ``elapsed`` int64
            ``[all envs]`` and ``queue`` float32 ``[all envs, slots]`` of the state, which change in place; and what
            :data:`ROLLOUT` and :data:`RECORDS` name, each ``[steps, all envs, ...]``, which is written.
        first: of all environments, the first of those.
        limit: of an episode's steps.
        delay: of actions, in steps.
    """

    def __init__(
        self,
        engine: Any,
        head: Head,
        simulator: Mapping[str, NDArray[Any]],
        rollout: Mapping[str, NDArray[Any]],
        first: int,
        limit: int,
        delay: int,
    ) -> None:
        envs = len(simulator["shown"])
        parts = dict(simulator)
        for name, array in rollout.items():
            parts[name] = array[first:] if name in ("elapsed", "queue") else array[0, first:]
            assert array.flags.c_contiguous, name
        assert all(array.flags.c_contiguous for array in simulator.values())
        self._kept = head, parts
        self._acting = _Acting(
            network=arguments(head.sizes, head.row.ctypes.data, envs), stride=rollout["draws"].shape[1], limit=limit,
            delay=delay, slots=rollout["queue"].shape[1], head=head.weight.ctypes.data,
            head_bias=head.bias.ctypes.data, **{name: array.ctypes.data for name, array in parts.items()},
        )  # fmt: skip
        self._address = ctypes.addressof(self._acting)
        self._act, self._record = engine.hpbench_glyphs_act, engine.hpbench_glyphs_record

    def act(self, step: int) -> None:
        """Look, choose, and write all that into the rollout, and the actions where the simulator reads them."""
        self._act(self._address, step)

    def record(self, step: int) -> int:
        """Write what the simulator made of the step into the rollout. Returns how many episodes have ended."""
        ended: int = self._record(self._address, step)
        return ended
