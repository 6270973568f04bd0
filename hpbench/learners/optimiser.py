"""Adam and the clipping of gradients, for a population: every member has its own learning rate and limit."""

from __future__ import annotations

import torch
from torch import Tensor

BETAS = (0.9, 0.999)

Moments = tuple[Tensor, Tensor]
"""Running means of the gradient and of its square, each ``[members, parameters]``."""


def adam(
    parameters: Tensor, moments: Moments, steps: Tensor, gradient: Tensor, rate: Tensor, epsilon: float
) -> tuple[Tensor, Moments]:
    """One step of Adam (Kingma and Ba 2015, algorithm 1). Changes nothing in place.

    Args:
        parameters, gradient: float32 ``[members, parameters]``.
        moments: from the step before.
        steps: how many steps this one makes, int64 ``[members]``.
        rate: learning rates, float64 ``[members]``.
        epsilon: added to the root of the second moment after its bias is corrected.

    Returns:
        Parameters and moments after the step.
    """
    beta1, beta2 = BETAS
    count = steps.double()
    mean = torch.add(moments[0] * beta1, gradient, alpha=1.0 - beta1)
    square = torch.addcmul(moments[1] * beta2, gradient, gradient, value=1.0 - beta2)
    step = (rate / (1.0 - beta1**count)).float()[:, None]
    correction = torch.sqrt(1.0 - beta2**count).float()[:, None]
    return parameters - step * mean / (square.sqrt() / correction + epsilon), (mean, square)


def clip(gradient: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale gradients down whose norm is above a limit (Pascanu et al. 2013).

    Args:
        gradient: ``[members, parameters]``.
        limit: ``[members]``.

    Returns:
        The gradients, their norms before, and whether they were scaled as 0 or 1, the last two ``[members]``.
    """
    norm = torch.linalg.vector_norm(gradient, dim=1)
    scale = limit / (norm + 1e-6)
    return gradient * scale.clamp(max=1.0)[:, None], norm, (scale < 1.0).float()
