"""Rewards and the meta-score, on numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from hpbench.control.reward import INVALID_PENALTY, floor, meta_score, rewards

BEFORE, AFTER, UNCHANGED = np.array([0.2, 0.5]), np.array([0.6, 0.1]), np.array([0.5, 0.3])


@pytest.mark.parametrize(
    ("kind", "expected"), [("progress", [0.4, -0.4]), ("auc", [0.06, 0.01]), ("uplift", [0.1, -0.2])]
)
def test_rewards(kind: str, expected: list[float]) -> None:
    earned = rewards(kind, BEFORE, AFTER, UNCHANGED, 10, np.array([False, False]))
    np.testing.assert_allclose(earned, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", ["progress", "auc", "uplift"])
def test_an_invalid_text_costs_the_same_in_every_reward(kind: str) -> None:
    valid = rewards(kind, BEFORE, AFTER, UNCHANGED, 10, np.array([False, False]))
    mixed = rewards(kind, BEFORE, AFTER, UNCHANGED, 10, np.array([True, False]))
    np.testing.assert_allclose(valid - mixed, [INVALID_PENALTY, 0.0])


def test_losing_and_regaining_earns_nothing() -> None:
    scores = np.array([0.1, 0.8, 0.0, 0.8, 0.0, 0.8])
    no = np.array([False])
    total = sum(
        float(rewards("progress", scores[i : i + 1], scores[i + 1 : i + 2], scores[:1], 5, no)[0]) for i in range(5)
    )
    assert total == pytest.approx(0.7)


def test_meta_score_is_half_final_and_half_mean() -> None:
    assert meta_score(np.array([0.2, 0.4, 0.9]), 3) == pytest.approx(0.5 * 0.9 + 0.5 * 0.5)


def test_meta_score_counts_what_a_diverged_learner_never_did_as_its_floor() -> None:
    assert meta_score(np.array([0.8, 0.0]), 4) == pytest.approx(0.5 * 0.2)
    assert meta_score(np.array([-0.4, -0.4]), 4) == pytest.approx(-0.4)


def test_divergence_never_pays() -> None:
    np.testing.assert_array_equal(floor(np.array([0.7, 0.0, -0.4, np.nan])), [0.0, 0.0, -0.4, 0.0])
