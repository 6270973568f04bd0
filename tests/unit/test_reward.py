"""Rewards and the meta-score, on numbers that can be checked by hand."""

from __future__ import annotations

import itertools
import math

import pytest

from hpbench.control.reward import INVALID_PENALTY, floor, meta_score, reward


@pytest.mark.parametrize(("kind", "expected"), [("progress", 0.4), ("auc", 0.06), ("uplift", 0.1)])
def test_rewards(kind: str, expected: float) -> None:
    assert reward(kind, before=0.2, after=0.6, unchanged=0.5, decisions=10, invalid=False) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "expected"), [("progress", -0.4), ("auc", 0.01), ("uplift", -0.2)])
def test_losses_are_negative(kind: str, expected: float) -> None:
    assert reward(kind, before=0.5, after=0.1, unchanged=0.3, decisions=10, invalid=False) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["progress", "auc", "uplift"])
def test_an_invalid_text_costs_the_same_in_every_reward(kind: str) -> None:
    valid, invalid = (reward(kind, 0.2, 0.6, 0.5, 10, flag) for flag in (False, True))
    assert valid - invalid == pytest.approx(INVALID_PENALTY)


def test_losing_and_regaining_earns_nothing() -> None:
    scores = [0.1, 0.8, 0.0, 0.8, 0.0, 0.8]
    total = sum(reward("progress", a, b, 0.0, 5, False) for a, b in itertools.pairwise(scores))
    assert total == pytest.approx(0.7)


def test_meta_score_is_half_final_and_half_mean() -> None:
    assert meta_score([0.2, 0.4, 0.9], 3) == pytest.approx(0.5 * 0.9 + 0.5 * 0.5)


def test_meta_score_counts_what_a_diverged_learner_never_did_as_its_floor() -> None:
    assert meta_score([0.8, 0.0], 4) == pytest.approx(0.5 * 0.2)
    assert meta_score([-0.4, -0.4], 4) == pytest.approx(-0.4)


@pytest.mark.parametrize(("before", "expected"), [(0.7, 0.0), (0.0, 0.0), (-0.4, -0.4), (math.nan, 0.0)])
def test_divergence_never_pays(before: float, expected: float) -> None:
    assert floor(before) == expected
