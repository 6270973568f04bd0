"""The convolutions of the residual CNN on a CPU, in C++ (``cpp/images*``): the same as the torch implementation up to
rounding, several times as fast with as few channels as these networks have.

Results do not depend on how many threads compute them, on the width of the processor's vectors, or on the members
around. What a pass over a batch needs in memory is kept for the next one.
"""

from __future__ import annotations

import ctypes
import functools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hpbench.learners import native

if TYPE_CHECKING:
    from hpbench.learners.impala import Impala

UNIT = 16
"""Images that are computed together."""
_LARGEST = 8
_SIZES = ("batch", "side", "colours", "stride", "stages", "blocks", "threads", "lanes")
_POINTERS = ("pixels", "rows", "parameters", "workspace", "tape", "flat", "flat_gradient", "gradient", "means")


class _Arguments(ctypes.Structure):
    """``Arguments`` of ``cpp/images.hpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        ("channels", ctypes.c_int64 * _LARGEST),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    )


@functools.cache
def _library() -> Any:
    """The compiled engine; None if there is none."""
    library = native._library()
    if isinstance(library, str):
        return None
    for name in ("arguments_size", "lanes", "tape", "workspace", "policy_size", "policy_workspace"):
        getattr(library, f"hpbench_images_{name}").restype = ctypes.c_int64
    assert library.hpbench_images_arguments_size() == ctypes.sizeof(_Arguments), "cpp/images.hpp differs: build again"
    return library


def lanes() -> int:
    """How many numbers a vector of this processor holds: 16 with AVX-512, otherwise 8. 0: there is no engine."""
    library = _library()
    return 0 if library is None else int(library.hpbench_images_lanes())


def suits(sizes: Impala, images: Tensor) -> bool:
    """Whether the engine can compute the convolutions for these images."""
    return (
        images.device.type == "cpu"
        and images.dtype == torch.uint8
        and sizes.stride in (1, 2)
        and sizes.side * sizes.colours % 8 == 0
        and sizes.colours <= _LARGEST
        and len(sizes.channels) <= _LARGEST
        and sizes.blocks <= _LARGEST
        and not any(channels % 4 for channels in sizes.channels)
        and _library() is not None
    )


def convolutions(sizes: Impala, parameters: Tensor, images: Tensor, threads: int = 1) -> Tensor:
    """What the dense layer reads: the last stage's output, rectified, ``[batch, side * side * channels]``.

    Args:
        sizes: of the network.
        parameters: float32, weights and biases of all convolutions in their order in a row.
        images: uint8 ``[batch, observation_size]``.
        threads: of the CPU.
    """
    flat: Tensor = _Convolutions.apply(parameters, images.contiguous(), sizes, threads)  # type: ignore[no-untyped-call]
    return flat


class _Memory:
    """Zeros at first, then whatever the last pass left: allocating tens of megabytes takes as long as some passes."""

    def __init__(self) -> None:
        self._free: defaultdict[Any, list[Tensor]] = defaultdict(list)

    def take(self, key: Any, size: int) -> Tensor:
        """At least that many floats that nobody else has. What has the same key is laid out in the same way."""
        while self._free[key]:
            memory = self._free[key].pop()
            if len(memory) >= size:
                return memory
        return torch.zeros(size)

    def give(self, key: Any, memory: Tensor) -> None:
        """Hand it back."""
        self._free[key].append(memory)


_memory = _Memory()


class _Convolutions(torch.autograd.Function):
    """Both passes. Images have no gradient."""

    @staticmethod
    def forward(ctx: Any, parameters: Tensor, images: Tensor, sizes: Impala, threads: int) -> Tensor:
        parameters = parameters.contiguous()
        side = sizes.side // sizes.stride // 2 ** len(sizes.channels)
        flat = torch.empty(len(images), side * side * sizes.channels[-1])
        arguments = _arguments(sizes, parameters, images, threads)
        arguments.flat = flat.data_ptr()
        ctx.sizes, ctx.threads, ctx.tape = sizes, threads, None
        if ctx.needs_input_grad[0]:
            library = _library()
            units = -(-len(images) // UNIT)
            ctx.tape = _memory.take((sizes, "tape"), units * library.hpbench_images_tape(ctypes.byref(arguments)))
            arguments.tape = ctx.tape.data_ptr()
            ctx.save_for_backward(parameters, images)
        _call("forward", arguments, sizes)
        return flat

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        assert ctx.tape is not None, "the way back can be gone once"
        parameters, images = ctx.saved_tensors
        arguments = _arguments(ctx.sizes, parameters, images, ctx.threads)
        flat_gradient, gradient = gradients[0].contiguous(), torch.empty_like(parameters)
        arguments.tape, arguments.flat_gradient = ctx.tape.data_ptr(), flat_gradient.data_ptr()
        arguments.gradient = gradient.data_ptr()
        _call("backward", arguments, ctx.sizes)
        _memory.give((ctx.sizes, "tape"), ctx.tape)
        ctx.tape = None
        return gradient, None, None, None


def _arguments(sizes: Impala, parameters: Tensor, images: Tensor, threads: int, kind: Any = _Arguments) -> Any:
    assert images.shape[1] == sizes.observation_size
    arguments = kind(
        batch=len(images), side=sizes.side, colours=sizes.colours, stride=sizes.stride, stages=len(sizes.channels),
        blocks=sizes.blocks, threads=threads, lanes=lanes(), pixels=images.data_ptr(), parameters=parameters.data_ptr(),
    )  # fmt: skip
    arguments.channels[: len(sizes.channels)] = sizes.channels
    return arguments


def _call(function: str, arguments: Any, sizes: Impala) -> None:
    library, key = _library(), (sizes, arguments.threads)
    workspace = _memory.take(key, library.hpbench_images_workspace(ctypes.byref(arguments)))
    arguments.workspace = workspace.data_ptr()
    getattr(library, f"hpbench_images_{function}")(ctypes.byref(arguments))
    _memory.give(key, workspace)
