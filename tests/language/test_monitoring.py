"""Verdicts on histories whose right answer is known, and how often nothing is blamed on nobody."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import numpy as np
import pytest

from agents.language.monitoring import Judgement, Monitor, MonitorOptions
from hpbench.control.episode import EnvOptions, EpisodeBatch
from hpbench.errors import InvalidConfiguration

SMALL = {"evaluation_episodes": 1, "device": "cpu"}
FLAT = [0.5, 0.51, 0.49, 0.5]


def monitor_after(scores: list[float], error: float = 0.01, options: MonitorOptions | None = None) -> Monitor:
    monitor = Monitor(options)
    for score in scores:
        monitor.accept(monitor.judge(score, error))
    return monitor


@pytest.mark.parametrize(
    ("score", "verdict"), [(0.1, "harmful"), (0.45, "as expected"), (0.53, "as expected"), (0.9, "better")]
)
def test_verdicts_on_a_plateau(score: float, verdict: str) -> None:
    judgement = monitor_after(FLAT).judge(score, 0.01)
    assert judgement.verdict == verdict
    assert judgement.expected == pytest.approx(0.5, abs=0.01)
    assert judgement.effect == pytest.approx(score - judgement.expected)
    assert judgement.surprise == pytest.approx(judgement.effect / judgement.noise)
    assert judgement.harmful == (verdict == "harmful")


def test_the_trend_is_expected_to_go_on_in_part() -> None:
    rising = monitor_after([0.1, 0.2, 0.3, 0.4])
    assert rising.expectation() == pytest.approx(0.4 + 0.25 * 0.1)
    assert monitor_after([0.1, 0.2, 0.3, 0.4], options=MonitorOptions(shrink=0.0)).expectation() == 0.4
    # One jump is no trend.
    assert monitor_after([0.1, 0.1, 0.1, 0.4]).expectation() == pytest.approx(0.4)
    # Where training falls anyway, falling is no surprise.
    falling = monitor_after([0.9, 0.8, 0.7, 0.6], options=MonitorOptions(shrink=1.0))
    assert falling.judge(0.5).effect == pytest.approx(0.0)


def test_noisy_returns_excuse_a_drop() -> None:
    calm, noisy = monitor_after(FLAT, 0.01), monitor_after(FLAT, 0.2)
    assert calm.judge(0.3, 0.01).verdict == "harmful"
    assert noisy.judge(0.3, 0.2).verdict == "as expected"
    assert noisy.judge(0.3, 0.0).noise >= 0.2


def test_a_run_that_is_hard_to_predict_excuses_a_drop() -> None:
    wild = monitor_after([0.5, 0.3, 0.6, 0.35, 0.55, 0.3, 0.6])
    assert wild.judge(0.35, 0.01).verdict == "as expected"


def test_what_cannot_be_judged() -> None:
    fresh = Monitor()
    assert fresh.judge(0.3).verdict == "unknown"
    assert fresh.judge(0.3).surprise == 0.0
    monitor = monitor_after(FLAT)
    assert monitor.judge(0.0, edited=False).verdict == "unchanged"
    assert monitor.judge(0.0, edited=False).effect == pytest.approx(-0.5, abs=0.01)
    nothing = monitor.judge(math.nan)
    assert nothing.verdict == "unknown"
    broken = monitor.judge(0.5, diverged=True)
    assert broken.verdict == "diverged"
    assert broken.harmful
    assert broken.surprise == -math.inf
    for judgement in (nothing, broken):
        monitor.accept(judgement)
        assert monitor.expectation() == monitor_after(FLAT).expectation()


def test_judging_changes_nothing_until_it_is_accepted() -> None:
    monitor = monitor_after(FLAT)
    first = monitor.judge(0.1, 0.01)
    assert monitor.judge(0.1, 0.01) == first
    monitor.accept(first)
    assert monitor.expectation() < 0.2
    assert monitor.judge(0.1, 0.01).noise > first.noise


def test_chance_is_seldom_blamed() -> None:
    """Scores that only scatter, by their standard error: beyond 2 units of the difference's noise on one side."""
    generator, harmful, judged = np.random.default_rng(0), 0, 0
    for _ in range(50):
        monitor = Monitor()
        for score in 0.5 + 0.1 * generator.standard_normal(20):
            judgement = monitor.judge(float(score), 0.1)
            judged += judgement.verdict != "unknown"
            harmful += judgement.harmful
            monitor.accept(judgement)
    assert judged == 950
    assert 0 < harmful / judged < 0.04


def test_training_that_nobody_touches_is_seldom_blamed() -> None:
    options = EnvOptions.parse({"task": "classic/cartpole", "steps": 30_720, "decisions": 12, **SMALL})
    batch = EpisodeBatch(options, range(50, 58))
    batch.reset()
    monitors, harmful, judged = [Monitor() for _ in range(8)], 0, 0
    keep = np.zeros(len(batch.setting.hyperparameters.hot), dtype=np.float32)
    for _ in range(batch.plan.decisions):
        for monitor, observation in zip(monitors, batch.step([keep] * 8).observations, strict=True):
            features = batch.setting.schema.values(observation)
            judgement = monitor.judge_features(features, 500.0, edited=True, diverged=False)
            judged += judgement.verdict != "unknown"
            harmful += judgement.harmful
            monitor.accept(judgement)
    assert judged == 88
    assert harmful / judged < 0.08


def test_by_hand() -> None:
    """The loop of the documentation, on a training that an update ruins."""
    state = {"skill": 0.0, "rate": 1.0}
    generator = np.random.default_rng(1)
    monitor, undone = Monitor(MonitorOptions(material=5.0, prior=10.0)), []
    for segment in range(12):
        saved = dict(state)
        edited = segment == 8
        if edited:
            state["rate"] = -20.0
        state["skill"] += 5.0 * state["rate"]
        returns = [state["skill"] + float(noise) for noise in generator.standard_normal(10)]
        judgement = monitor.judge(fmean(returns), stdev(returns) / len(returns) ** 0.5, edited)
        if judgement.harmful:
            state = saved
            undone.append(segment)
        else:
            monitor.accept(judgement)
    assert undone == [8]
    assert state == {"skill": 55.0, "rate": 1.0}


def test_judgements_are_json() -> None:
    values = Judgement("unknown", 0.5).to_dict()
    assert values["expected"] is None
    assert values["effect"] is None
    assert values["score"] == 0.5


@pytest.mark.parametrize("wrong", [{"z": 0.0}, {"prior": math.nan}, {"shrink": 1.5}, {"window": 0}, {"material": -1.0}])
def test_options_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidConfiguration):
        MonitorOptions(**wrong)  # type: ignore[arg-type]
