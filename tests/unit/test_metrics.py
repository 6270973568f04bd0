"""Metrics of one meta-episode against values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpbench.errors import UnknownName
from hpbench.evaluation.metrics import METRICS, Episode, episode_of, is_lower_better, load_metric
from hpbench.evaluation.records import Member


def member(scores: tuple[float, ...]) -> Member:
    empty: dict[str, Any] = dict.fromkeys(Member.__dataclass_fields__, ())
    return Member(**(empty | {"scores": scores}))


def episode(*scores: float, decisions: int = 4) -> Episode:
    return episode_of(member(scores), decisions, steps=1000 * decisions)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("final_score", 0.7),
        ("mean_score", 0.5),
        ("meta_score", 0.6),
        ("best_score", 0.9),
        ("steps_to_half", 3000.0),
        ("steps_to_80", 3000.0),
    ],
)
def test_value(metric: str, expected: float) -> None:
    """The score before training (0.99 here) is nobody's doing, except that nothing needs to be reached any more."""
    assert load_metric(metric)(episode(0.3, 0.1, 0.3, 0.9, 0.7)) == pytest.approx(expected, abs=1e-12)


def test_the_start_does_not_count() -> None:
    assert load_metric("best_score")(episode(0.99, 0.1, 0.2, 0.3, 0.4)) == 0.4
    assert load_metric("mean_score")(episode(0.99, 0.1, 0.2, 0.3, 0.4)) == pytest.approx(0.25)


def test_what_never_gets_there_takes_the_whole_budget() -> None:
    assert load_metric("steps_to_80")(episode(0.0, 0.1, 0.2, 0.3, 0.79)) == 4000.0
    assert load_metric("steps_to_half")(episode(0.0, 0.5, 0.2, 0.3, 0.1)) == 1000.0


def test_after_a_divergence_the_floor_counts() -> None:
    cut = episode(0.1, 0.8, 0.0)
    assert cut.scores.tolist() == [0.1, 0.8, 0.0, 0.0, 0.0]
    assert cut.steps.tolist() == [0, 1000, 2000, 3000, 4000]
    assert load_metric("meta_score")(cut) == pytest.approx(0.5 * 0.8 / 4)
    assert episode(-0.4, -0.5, -0.5).scores.tolist() == [-0.4, -0.5, -0.5, -0.5, -0.5]


@pytest.mark.parametrize("name", list(METRICS))
def test_every_registered_metric_is_a_finite_number(name: str) -> None:
    for scores in ((0.1, 0.2, 0.3, 0.4, 0.5), (0.0, 0.0), (-3.0, -2.0, -2.0, -1.0, -1.0)):
        value = load_metric(name)(episode(*scores))
        assert isinstance(value, float)
        assert np.isfinite(value)


def test_direction_and_names() -> None:
    assert is_lower_better(load_metric("steps_to_half"))
    assert not is_lower_better(load_metric("meta_score"))
    with pytest.raises(UnknownName, match="'meta_score'"):
        load_metric("metascore")
