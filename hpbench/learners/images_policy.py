"""Actor and critic on the residual CNN, on a CPU, in C++ (``cpp/images_policy.cpp``): their outputs, and the gradient
of PPO's loss, the same as those of the torch implementation up to rounding.

Results do not depend on how many threads compute them, on the width of the processor's vectors, or on the members
around.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hpbench.learners import images_native
from hpbench.learners.impala import Impala

if TYPE_CHECKING:
    from hpbench.learners.encoders import EncodedActorCritic

_ROLLOUT = ("action", "log_prob", "advantage", "return")
_STATISTICS = 5
WEIGHTS = ("clip_range", "entropy_coefficient", "value_coefficient")
"""Hyperparameters of the loss."""


class _Policy(images_native._Arguments):
    """``Policy`` of ``cpp/images_policy.hpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("features", "actions")),
        *((name, ctypes.c_void_p) for name in ("activations", "logits", "values", *_ROLLOUT)),
        *((name, ctypes.c_double) for name in WEIGHTS),
        ("statistics", ctypes.c_void_p),
    )


def suits(networks: EncodedActorCritic, images: Tensor) -> bool:
    """Whether the engine can compute these networks for these images."""
    sizes = networks.encoder
    return (
        isinstance(sizes, Impala)
        and not networks.log_std
        and images_native.suits(sizes, images)
        and sizes.features % 8 == 0
        and sizes.shapes[-1][0] % 8 == 0
    )


def outputs(networks: EncodedActorCritic, row: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Actor output ``[batch, outputs]`` and values ``[batch]``, float32.

    Args:
        networks: of the member.
        row: its parameters, float32 ``[size]``.
        images: uint8 ``[batch, observation_size]``.
    """
    images = images.contiguous()  # has to live as long as the call
    arguments, tensors = _arguments(networks, row, images, len(images))
    _call("outputs", arguments, networks)
    return tensors["logits"], tensors["values"]


def activations(networks: EncodedActorCritic, row: Tensor, images: Tensor) -> Sequence[Tensor]:
    """Means over the image of each stage's channels, ``[batch, channels]``, and the features ``[batch, features]``.
    Arguments as of :func:`outputs`."""
    assert isinstance(networks.encoder, Impala)
    channels, images = networks.encoder.channels, images.contiguous()
    arguments, tensors = _arguments(networks, row, images, len(images))
    means = torch.empty(len(images), sum(channels))
    arguments.means = means.data_ptr()
    _call("outputs", arguments, networks)
    return [*torch.split(means, list(channels), dim=1), tensors["activations"]]


def gradient(
    networks: EncodedActorCritic,
    row: Tensor,
    rollout: dict[str, Tensor],
    index: Tensor,
    clip_range: float,
    entropy_coefficient: float,
    value_coefficient: float,
) -> tuple[Tensor, Tensor]:
    """The gradient of PPO's loss on some steps of a rollout.

    Args:
        networks: of the member.
        row: its parameters, float32 ``[size]``.
        rollout: ``observation`` uint8 ``[steps, observation_size]``, ``action`` float32 ``[steps, 1]``, ``log_prob``,
            ``advantage`` (scaled here), and ``return``, float32 ``[steps]``.
        index: the steps, int64 ``[batch]``.
        clip_range, entropy_coefficient, value_coefficient: hyperparameters.

    Returns:
        The gradient, float32 ``[size]``; and policy loss, value loss, entropy in nats, KL and clip fraction, float64
        ``[5]``.
    """
    arguments, tensors = _arguments(networks, row, rollout["observation"], len(index))
    sizes = networks.encoder
    assert isinstance(sizes, Impala)
    index, result, statistics = index.contiguous(), torch.empty_like(row), torch.empty(_STATISTICS, dtype=torch.float64)
    for name, tensor in (("rows", index), ("gradient", result), ("statistics", statistics)):
        setattr(arguments, name, tensor.data_ptr())
    for name in _ROLLOUT:
        assert rollout[name].is_contiguous()
        setattr(arguments, name, rollout[name].data_ptr())
    arguments.clip_range, arguments.entropy_coefficient = clip_range, entropy_coefficient
    arguments.value_coefficient = value_coefficient
    _call("ppo", arguments, networks)
    del tensors  # until now: the arguments point at them
    return result, statistics


def _arguments(networks: EncodedActorCritic, row: Tensor, images: Tensor, batch: int) -> tuple[Any, dict[str, Tensor]]:
    """What goes over, and the tensors that it writes to."""
    sizes, actions = networks.encoder, networks.actor.sizes[-1]
    assert isinstance(sizes, Impala)
    assert row.is_contiguous()
    assert images.is_contiguous()
    tensors = {
        "flat": torch.empty(batch, sizes.shapes[-1][0]),
        "activations": torch.empty(batch, sizes.features),
        "logits": torch.empty(batch, actions),
        "values": torch.empty(batch),
    }
    arguments = images_native._arguments(sizes, row, images, sizes.threads, _Policy)
    arguments.batch, arguments.features, arguments.actions = batch, sizes.features, actions
    for name, tensor in tensors.items():
        setattr(arguments, name, tensor.data_ptr())
    return arguments, tensors


def _call(function: str, arguments: Any, networks: EncodedActorCritic) -> None:
    library, key = images_native._library(), (networks.encoder, "policy")
    assert library.hpbench_images_policy_size() == ctypes.sizeof(_Policy), "cpp/images_policy.hpp differs: build again"
    workspace = images_native._memory.take(key, library.hpbench_images_policy_workspace(ctypes.byref(arguments)))
    arguments.workspace = workspace.data_ptr()
    getattr(library, f"hpbench_images_{function}")(ctypes.byref(arguments))
    images_native._memory.give(key, workspace)
