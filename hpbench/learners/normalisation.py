"""Running moments of observations and returns, one set per member, in the population's state."""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT = 10.0
"""Normalised numbers are clipped to this size, as in Gymnasium's wrappers."""
EPSILON = 1e-8


def initial_moments(name: str, members: int, size: int) -> dict[str, Tensor]:
    """State entries ``<name>_mean``, ``<name>_variance`` ``[members, size]`` and ``<name>_count`` ``[members]``."""
    return {
        f"{name}_mean": torch.zeros(members, size, dtype=torch.float64),
        f"{name}_variance": torch.ones(members, size, dtype=torch.float64),
        f"{name}_count": torch.full((members,), 1e-4, dtype=torch.float64),
    }


def update_moments(state: dict[str, Tensor], name: str, values: Tensor, apart: bool = False) -> None:
    """Merge float64 ``[members, batch, size]`` into the running moments (Chan, Golub and LeVeque 1983).

    Args:
        apart: sum member by member, so that the last bits do not depend on who else is there. They may otherwise:
            PyTorch chooses the order of a sum by the shape of the whole.
    """
    count, mean, variance = state[f"{name}_count"][:, None], state[f"{name}_mean"], state[f"{name}_variance"]
    batch = values.shape[1]
    parts = [values[m : m + 1] for m in range(len(values))] if apart else [values]
    delta = torch.cat([part.mean(dim=1) for part in parts]) - mean
    spread = torch.cat([part.var(dim=1, correction=0) for part in parts])
    total = count + batch
    second = variance * count + spread * batch + delta**2 * count * batch / total
    state[f"{name}_mean"] = mean + delta * batch / total
    state[f"{name}_variance"] = second / total
    state[f"{name}_count"] = total[:, 0]


def standardised(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    """Zero mean and unit variance: float32 ``[members, batch, size]``, clipped to ``LIMIT``."""
    mean, variance = state[f"{name}_mean"][:, None], state[f"{name}_variance"][:, None]
    return ((values.double() - mean) / torch.sqrt(variance + EPSILON)).clamp(-LIMIT, LIMIT).float()


def scaled(state: dict[str, Tensor], name: str, values: Tensor) -> Tensor:
    """Unit variance, mean kept: float32 ``[members, ...]``, clipped to ``LIMIT``. Moments of size 1."""
    deviation = torch.sqrt(state[f"{name}_variance"] + EPSILON).view(-1, *[1] * (values.dim() - 1))
    return (values.double() / deviation).clamp(-LIMIT, LIMIT).float()
