"""The network that reads NetHack on a CPU, in C++ (``cpp/glyphs*``): the same as the torch implementation up to
rounding, several times as fast; and a step of acting in one call.

Results do not depend on how many threads compute them, on the observations in the same batch, or on other members.
"""

from __future__ import annotations

import ctypes
import functools
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


ROLLOUT = ("observation", "action", "log_prob", "value")
"""What acting leaves in the rollout buffer."""


class _Acting(ctypes.Structure):
    """``Acting`` of ``cpp/glyphs.hpp``."""

    _fields_ = (
        ("network", _Arguments),
        ("stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("shown", "head", "head_bias", "draws", *ROLLOUT, "choice")),
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
    library.hpbench_glyphs_act.argtypes = (ctypes.c_void_p, ctypes.c_int64)
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
    """The steps of a rollout of some environments of one member, a call each.

    Args:
        head: of the member.
        shown: the observations of those environments, int16 ``[envs, OBSERVATION_SIZE]``, which change in place.
        draws: uniform float32 ``[steps, all envs]``.
        buffer: of the member's rollout, what :data:`ROLLOUT` names, each ``[steps, all envs, ...]``.
        first: of all environments, the first of those.

    Attributes:
        choice: the actions of the last step, int64 ``[envs]``.
    """

    def __init__(
        self, head: Head, shown: NDArray[np.int16], draws: Tensor, buffer: dict[str, Tensor], first: int
    ) -> None:
        arrays = {"draws": draws, **{name: buffer[name] for name in ROLLOUT}}
        assert shown.flags.c_contiguous
        assert all(array.is_contiguous() for array in arrays.values())
        self.choice = np.zeros(len(shown), dtype=np.int64)
        self._kept = head, shown, arrays
        network = _arguments(head.sizes, head.row, len(shown))
        network.threads, network.choices, network.heads = 1, head.choices, len(head.bias)
        self._acting = _Acting(
            network=network, stride=draws.shape[1], shown=shown.ctypes.data, choice=self.choice.ctypes.data,
            head=head.weight.data_ptr(), head_bias=head.bias.data_ptr(),
            **{name: array[0, first].data_ptr() for name, array in arrays.items()},
        )  # fmt: skip
        self._address, self._act = ctypes.addressof(self._acting), _library().hpbench_glyphs_act

    def act(self, step: int) -> NDArray[np.int64]:
        """Look, choose, and write all that into the buffer. Returns the actions."""
        self._act(self._address, step)
        return self.choice
