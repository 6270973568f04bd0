"""The network that reads NetHack on a CPU, in C++ (``cpp/glyphs*``): the same as the torch implementation up to
rounding, several times as fast. Acting with it is in :mod:`~hpbench.learners.glyphs_acting`.

Results do not depend on how many threads compute them, on the observations in the same batch, or on other members.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hpbench.learners import glyphs_acting, native
from hpbench.learners.glyphs_acting import LANES
from hpbench.tasks.nethack_layout import CELLS, CONDITIONS, MESSAGE, OBSERVATION_SIZE, STATUS
from hpbench.tasks.nethack_layout import GLYPHS as GLYPH_COUNT

if TYPE_CHECKING:
    from hpbench.learners.glyphs import Glyphs


@functools.cache
def _library() -> Any:
    """The compiled engine; None if there is none."""
    library = native._library()
    if isinstance(library, str):
        return None
    return glyphs_acting.bind(library)


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


def sizes_of(encoder: Glyphs) -> dict[str, int]:
    """Of the network and the layout, as :func:`~hpbench.learners.glyphs_acting.arguments` takes them."""
    from hpbench.learners import glyphs

    return {
        "threads": encoder.threads, "observation": OBSERVATION_SIZE, "cells": CELLS, "patch": glyphs_acting.PATCH**2,
        "statuses": len(STATUS), "conditions": len(CONDITIONS), "message": MESSAGE, "letters": glyphs.LETTERS,
        "glyphs": GLYPH_COUNT + 1, "glyph_width": encoder.glyph_width, "letter_width": encoder.letter_width,
        "channels": encoder.channels, "side": encoder.side, "features": encoder.features,
    }  # fmt: skip


def _arguments(sizes: Glyphs, parameters: Tensor, batch: int) -> Any:
    return glyphs_acting.arguments(sizes_of(sizes), parameters.data_ptr(), batch)
