"""Plasticity of a network, measured on the observations of the last rollout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hpbench.learners.networks import Weights, hidden_layers
from hpbench.learners.population import Floats

SAMPLE = 256
"""Observations that the measures look at."""
DORMANT = 0.025
"""A unit is dormant below this share of its layer's mean activity: the threshold of Sokar et al. 2023."""


def plasticity(network: Weights, observations: Tensor) -> dict[str, Floats]:
    """Both measures below for the actor on ``[members, batch, observation_size]``, each float64 ``[members]``."""
    stride = max(1, observations.shape[1] // SAMPLE)
    layers = hidden_layers(network, observations[:, ::stride])
    return {"dormant_share": dormant_share(layers), "feature_rank": feature_rank(layers[-1])}


def dormant_share(layers: Sequence[Tensor]) -> Floats:
    """Share of dormant hidden units, float64 ``[members]`` in [0, 1].

    After Sokar et al. 2023 ("The dormant neuron phenomenon"), with the standard deviation over the batch in place of the mean
    size of the activation: a saturated tanh unit is as useless as a ReLU unit stuck at zero.

    Args:
        layers: activations of the hidden layers, each ``[members, batch, width]``.
    """
    shares = []
    for layer in layers:
        activity = layer.std(dim=1, correction=0)
        shares.append(activity <= DORMANT * activity.mean(dim=1, keepdim=True))
    return torch.cat(shares, dim=1).double().mean(dim=1).cpu().numpy()


def feature_rank(features: Tensor) -> Floats:
    """Effective rank of a layer's activations ``[members, batch, width]``: float64 ``[members]`` from 1 up to the width.

    The participation ratio of the covariance's eigenvalues, (sum of them)^2 / (sum of their squares) (Gao et al. 2017), which
    needs two traces instead of a decomposition. 0 where the features do not vary at all.
    """
    features = features.double()
    centred = features - features.mean(dim=1, keepdim=True)
    covariance = centred.mT @ centred
    trace = covariance.diagonal(dim1=1, dim2=2).sum(dim=1)
    square = covariance.square().sum(dim=(1, 2))
    return torch.where(square > 0, trace**2 / square, 0.0).cpu().numpy()
