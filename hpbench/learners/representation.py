"""Plasticity of a network, measured on the observations of the last rollout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLE = 256
"""Observations that the measures look at."""
DORMANT = 0.025
"""A unit is dormant below this share of its layer's mean activity: the threshold of Sokar et al. 2023."""


def sample(observations: Tensor) -> Tensor:
    """Evenly spaced, at least ``SAMPLE`` of them if there are: ``[members, batch, size] -> [members, some, size]``."""
    return observations[:, :: max(1, observations.shape[1] // SAMPLE)]


def plasticity(layers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Dormant share of all layers and feature rank of the last, each float64 ``[members]``.

    Args:
        layers: activations ``[members, batch, width]`` of each.
    """
    covariances = [covariance(layer) for layer in layers]
    return dormant_share(covariances), feature_rank(covariances[-1])


def covariance(activations: Tensor) -> Tensor:
    """Covariance over the batch: ``[members, batch, width] -> [members, width, width]``."""
    centred = activations - activations.mean(dim=1, keepdim=True)
    return (centred.mT @ centred) / activations.shape[1]


def dormant_share(covariances: Sequence[Tensor]) -> Tensor:
    """Share of dormant hidden units, float64 ``[members]`` in [0, 1].

    After Sokar et al. 2023 ("The dormant neuron phenomenon"), with the standard deviation over the batch in place of
    the mean
    size of the activation: a saturated tanh unit is as useless as a ReLU unit stuck at zero.

    Args:
        covariances: of each hidden layer, ``[members, width, width]``.
    """
    shares = []
    for matrix in covariances:
        activity = matrix.diagonal(dim1=1, dim2=2).sqrt()
        shares.append(activity <= DORMANT * activity.mean(dim=1, keepdim=True))
    return torch.cat(shares, dim=1).double().mean(dim=1)


def feature_rank(matrix: Tensor) -> Tensor:
    """Effective rank of features with covariance ``[members, width, width]``: float64 ``[members]`` from 1 up to the
    width.

    The participation ratio of the eigenvalues, (their sum)^2 / (sum of their squares) (Gao et al. 2017), which needs
    two sums instead of a decomposition. 0 where the features do not vary at all.
    """
    trace = matrix.diagonal(dim1=1, dim2=2).double().sum(dim=1)
    square = torch.linalg.vector_norm(matrix, dim=(1, 2), dtype=torch.float64).square()
    return torch.where(square > 0, trace**2 / square, 0.0)
