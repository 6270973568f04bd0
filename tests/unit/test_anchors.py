"""Scores: linear between the anchors, or on a logarithmic scale."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpbench.tasks.base import Anchors


@pytest.mark.parametrize(
    "anchors", [Anchors(-20.0, 100.0, ""), Anchors(5.0, 3245.0, "", log=True), Anchors(-3, 50, "", log=True)]
)
def test_scores_and_returns_belong_to_each_other(anchors: Anchors) -> None:
    assert anchors.score(anchors.low) == 0.0
    assert anchors.score(anchors.high) == 1.0
    for value in (-30.0, -1.0, 0.0, 7.0, 99.0, 4e4):
        assert anchors.value(anchors.score(value)) == pytest.approx(value, abs=1e-9)
        step = 1e-4
        slope = (anchors.score(value + step) - anchors.score(value - step)) / (2 * step)
        assert anchors.width(value) == pytest.approx(1.0 / slope, rel=1e-3)


def test_a_logarithmic_scale_counts_factors() -> None:
    anchors = Anchors(0.0, math.expm1(4.0), "", log=True)
    for logarithm in (-1.0, 1.0, 2.0, 3.0):
        value = math.copysign(math.expm1(abs(logarithm)), logarithm)
        assert anchors.score(value) == pytest.approx(logarithm / 4.0)
    assert math.isnan(anchors.score(np.nan))
