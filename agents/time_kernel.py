"""The kernel of PB2 for scikit-learn's Gaussian processes. Importing this module needs the extra ``pb2``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel, NormalizedKernelMixin, StationaryKernelMixin

Floats = NDArray[np.float64]


class TimeVaryingKernel(StationaryKernelMixin, NormalizedKernelMixin, Kernel):  # type: ignore[misc]
    """``exp(-|x - x'|^2 / (2 l^2)) * (1 - e) ** (|t - t'| / 2)``: the first input is the time ``t``, the others ``x``.

    Parker-Holder et al. 2020, section 4, after Bogunovic et al., "Time-varying Gaussian process bandit optimization",
    AISTATS 2016.

    Args:
        length_scale: ``l``.
        epsilon: ``e``, how fast the function changes with time: 0 not at all, 1 at once.
        length_scale_bounds, epsilon_bounds: for the fit.
    """

    def __init__(
        self,
        length_scale: float = 1.0,
        epsilon: float = 0.1,
        length_scale_bounds: tuple[float, float] = (0.1, 10.0),
        epsilon_bounds: tuple[float, float] = (1e-3, 0.9),
    ) -> None:
        self.length_scale = length_scale
        self.epsilon = epsilon
        self.length_scale_bounds = length_scale_bounds
        self.epsilon_bounds = epsilon_bounds

    @property
    def hyperparameter_length_scale(self) -> Any:
        """Read by scikit-learn."""
        return Hyperparameter("length_scale", "numeric", self.length_scale_bounds)

    @property
    def hyperparameter_epsilon(self) -> Any:
        """Read by scikit-learn."""
        return Hyperparameter("epsilon", "numeric", self.epsilon_bounds)

    def __call__(self, X: Floats, Y: Floats | None = None, eval_gradient: bool = False) -> Any:
        """Covariances ``[len(X), len(Y)]``.

        Args:
            X, Y: inputs ``[points, 1 + dimensions]``; ``Y=None`` means ``X``.
            eval_gradient: whether to return the gradient as well, ``[len(X), len(X), 2]``, with respect to the
                logarithms of epsilon and the length scale (scikit-learn sorts by name).
        """
        X = np.atleast_2d(X)
        other = X if Y is None else np.atleast_2d(Y)
        squared = cdist(X[:, 1:], other[:, 1:], "sqeuclidean") / self.length_scale**2
        halves = cdist(X[:, :1], other[:, :1], "cityblock") / 2.0
        covariance = np.exp(-0.5 * squared) * (1.0 - self.epsilon) ** halves
        if not eval_gradient:
            return covariance
        by_epsilon = -covariance * halves * self.epsilon / (1.0 - self.epsilon)
        return covariance, np.dstack((by_epsilon, covariance * squared))
