"""The network that reads NetHack on a CPU, in C++ (``cpp/glyphs*``): the same as the torch implementation up to
rounding, several times as fast; and a step of acting in one call.

Results do not depend on how many threads compute them, on the observations in the same batch, or on other members.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpbench.learners import native
from hpbench.tasks.nethack_layout import CELLS, CONDITIONS, MESSAGE, OBSERVATION_SIZE, STATUS
from hpbench.tasks.nethack_layout import GLYPHS as GLYPH_COUNT

if TYPE_CHECKING:
    from hpbench.learners.glyphs import Glyphs

LANES = 8
"""Numbers of a vector: widths are multiples of it."""
_SIZES = (
    "batch", "threads",
    "observation", "cells", "patch", "statuses", "conditions", "message", "letters",
    "glyphs", "glyph_width", "letter_width", "channels", "side", "features", "choices", "heads",
)  # fmt: skip
_POINTERS = (
    "order", "scales", "log", "observations", "parameters", "joined", "out", "out_gradient", "gradient",
)  # fmt: skip


class _Arguments(ctypes.Structure):
    """``Arguments`` of ``cpp/glyphs.hpp``."""

    _fields_ = (*((name, ctypes.c_int64) for name in _SIZES), *((name, ctypes.c_void_p) for name in _POINTERS))


SHOWN = ("shown", "gained", "over", "given")
"""What acting shares with a simulator."""
ROLLOUT = ("observation", "action", "log_prob", "value")
"""What acting leaves in the rollout buffer."""
RECORDS = {"reward": np.float64, "done": np.bool_, "truncated": np.bool_, "length": np.int64}
"""What recording leaves, of which types."""


class _Acting(ctypes.Structure):
    """``Acting`` of ``cpp/glyphs.hpp``."""

    _fields_ = (
        ("network", _Arguments),
        *((name, ctypes.c_int64) for name in ("stride", "limit", "delay", "slots")),
        *(
            (name, ctypes.c_void_p)
            for name in (*SHOWN, "head", "head_bias", "draws", "elapsed", "queue", *ROLLOUT, *RECORDS)
        ),
    )


@functools.cache
def _library() -> Any:
    """The compiled engine; None if there is none."""
    library = native._library()
    if isinstance(library, str):
        return None
    for name, structure in (("arguments", _Arguments), ("acting", _Acting)):
        size = getattr(library, f"hpbench_glyphs_{name}_size")
        size.restype = ctypes.c_int64
        assert size() == ctypes.sizeof(structure), "cpp/glyphs.hpp differs: build again"
    for name in ("forward", "backward", "act"):
        getattr(library, f"hpbench_glyphs_{name}").restype = None
    library.hpbench_glyphs_record.restype = ctypes.c_int64
    for name in ("act", "record"):
        getattr(library, f"hpbench_glyphs_{name}").argtypes = (ctypes.c_void_p, ctypes.c_int64)
    return library


def suits(sizes: Glyphs, observations: Tensor) -> bool:
    """Whether the engine can compute the network for these observations."""
    widths = (sizes.glyph_width, sizes.channels, sizes.side, sizes.features)
    return (
        observations.device.type == "cpu"
        and observations.dtype == torch.int16
        and not any(width % LANES for width in widths)
        and _library() is not None
    )


def features(sizes: Glyphs, parameters: Tensor, observations: Tensor) -> Tensor:
    """What the last layer makes of observations, ``[batch, features]``.

    Args:
        sizes: of the network.
        parameters: float32, a member's row up to the end of the encoder.
        observations: int16 ``[batch, OBSERVATION_SIZE]``.
    """
    found: Tensor = _Features.apply(parameters, observations.contiguous(), sizes)  # type: ignore[no-untyped-call]
    return found


class _Features(torch.autograd.Function):
    """Both passes. Observations have no gradient."""

    @staticmethod
    def forward(ctx: Any, parameters: Tensor, observations: Tensor, sizes: Glyphs) -> Tensor:
        parameters = parameters.contiguous()
        out = torch.empty(len(observations), sizes.features)
        arguments = _arguments(sizes, parameters, len(observations))
        arguments.observations, arguments.out = observations.data_ptr(), out.data_ptr()
        if ctx.needs_input_grad[0]:
            joined = torch.empty(len(observations), sizes.shapes[-2][0])
            arguments.joined = joined.data_ptr()
            ctx.sizes = sizes
            ctx.save_for_backward(parameters, observations, joined, out)
        _library().hpbench_glyphs_forward(ctypes.byref(arguments))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        parameters, observations, joined, out = ctx.saved_tensors
        arguments = _arguments(ctx.sizes, parameters, len(observations))
        out_gradient, gradient = gradients[0].contiguous(), torch.empty_like(parameters)
        pointers = {
            "observations": observations, "joined": joined, "out": out, "out_gradient": out_gradient,
            "gradient": gradient,
        }  # fmt: skip
        for name, tensor in pointers.items():
            setattr(arguments, name, tensor.data_ptr())
        _library().hpbench_glyphs_backward(ctypes.byref(arguments))
        return gradient, None, None


def _arguments(sizes: Glyphs, parameters: Tensor, batch: int) -> Any:
    from hpbench.learners import glyphs

    return _Arguments(
        batch=batch, threads=sizes.threads, observation=OBSERVATION_SIZE, cells=CELLS, patch=glyphs.PATCH**2,
        statuses=len(STATUS), conditions=len(CONDITIONS), message=MESSAGE, letters=glyphs.LETTERS,
        glyphs=GLYPH_COUNT + 1, glyph_width=sizes.glyph_width, letter_width=sizes.letter_width,
        channels=sizes.channels, side=sizes.side, features=sizes.features, order=glyphs._ORDER.data_ptr(),
        scales=glyphs._SCALES.data_ptr(), log=glyphs._LOG.data_ptr(), parameters=parameters.data_ptr(),
    )  # fmt: skip


class Head:
    """What acting reads of a member's row: the encoder, and the actor and the critic as one layer.

    Args:
        sizes: of the encoder.
        row: float32, contiguous: encoder, actor (weights and biases), critic.
        choices: of the actor.
    """

    def __init__(self, sizes: Glyphs, row: Tensor, choices: int) -> None:
        wide = -(-(choices + 1) // LANES) * LANES
        self.sizes, self.row, self.choices = sizes, row, choices
        actor, actor_bias, critic, critic_bias = torch.split(
            row[sum(sizes.parts) :], [sizes.features * choices, choices, sizes.features, 1]
        )
        self.weight, self.bias = torch.zeros(sizes.features, wide), torch.zeros(wide)
        self.weight[:, :choices], self.weight[:, choices] = actor.view(sizes.features, choices), critic
        self.bias[:choices], self.bias[choices] = actor_bias, critic_bias[0]


class Acting:
    """The steps of a rollout of some environments of one member, two calls each.

    Args:
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
        network = _arguments(head.sizes, head.row, envs)
        network.threads, network.choices, network.heads = 1, head.choices, len(head.bias)
        self._acting = _Acting(
            network=network, stride=rollout["draws"].shape[1], limit=limit, delay=delay,
            slots=rollout["queue"].shape[1], head=head.weight.data_ptr(), head_bias=head.bias.data_ptr(),
            **{name: array.ctypes.data for name, array in parts.items()},
        )  # fmt: skip
        self._address = ctypes.addressof(self._acting)
        self._act, self._record = _library().hpbench_glyphs_act, _library().hpbench_glyphs_record

    def act(self, step: int) -> None:
        """Look, choose, and write all that into the rollout, and the actions where the simulator reads them."""
        self._act(self._address, step)

    def record(self, step: int) -> int:
        """Write what the simulator made of the step into the rollout. Returns how many episodes have ended."""
        ended: int = self._record(self._address, step)
        return ended
