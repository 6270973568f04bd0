"""Labels on made-up gains whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.training.labels import (
    ENOUGH,
    KEEP_LABEL,
    LabelRule,
    Measured,
    Posterior,
    Prior,
    choose,
    fit_prior,
    fit_priors,
    label_measured,
    label_sets,
    measure,
    paired_gains,
    shrink,
)
from agents.training.noise import noise_of
from agents.training.schema import read_rows
from hpbench.errors import InvalidConfiguration

RULE = LabelRule()
Floats = NDArray[np.float64]


def made_up(
    sets: int, mean: float, true: float, noise: float, seeds: int = 4, updates: int = 8, seed: int = 0
) -> tuple[Floats, list[Floats]]:
    """True gains ``[sets, K]`` and paired differences ``[K, M]`` of each set."""
    generator = np.random.default_rng(seed)
    truth = mean + true * generator.standard_normal((sets, updates))
    truth[:, KEEP_LABEL] = 0.0
    samples = truth[:, :, None] + noise * generator.standard_normal((sets, updates, seeds))
    samples[:, KEEP_LABEL] = 0.0
    return truth, list(samples)


def test_gains_are_paired_by_continuation() -> None:
    """What a continuation does to all updates alike cancels."""
    generator = np.random.default_rng(1)
    gains = np.array([0.0, 0.1, -0.2])
    luck = generator.normal(0.0, 5.0, (4, 3))
    row: dict[str, Any] = {"scores": (gains[:, None, None] + luck).tolist(), "training_scores": None}
    for horizon in (1, 3, 9):
        found = paired_gains(row, LabelRule(horizon=horizon))
        np.testing.assert_allclose(found, np.tile(gains[:, None], (1, 4)), atol=1e-12)
    assert measure(found).noise.max() < 1e-20


def test_the_horizon_and_the_source_decide_what_counts() -> None:
    row = {
        "scores": [[[0.0, 0.0], [0.0, 0.0]], [[1.0, 3.0], [2.0, 4.0]]],
        "training_scores": [[[0.0, 0.0], [0.0, np.nan]], [[0.0, 2.0], [4.0, 4.0]]],
    }
    cases = {
        (1, "evaluation"): [1.0, 2.0],
        (2, "evaluation"): [2.0, 3.0],
        (1, "training"): [0.0, 4.0],
        (2, "both"): [1.5, 3.0],  # where a training score is missing, the evaluation alone
    }
    for (horizon, source), expected in cases.items():
        gains = paired_gains(row, LabelRule(horizon=horizon, source=source))  # type: ignore[arg-type]
        assert gains.tolist() == [[0.0, 0.0], expected]


def test_the_prior_is_found_and_shrinking_takes_the_curse_out() -> None:
    truth, samples = made_up(4000, mean=-0.02, true=0.05, noise=0.1)
    measured = [measure(each) for each in samples]
    prior = fit_prior(measured)
    assert prior.mean == pytest.approx(-0.02, abs=0.002)
    assert np.sqrt(prior.variance) == pytest.approx(0.05, abs=0.002)
    noise = np.mean([each.noise[1:].mean() for each in measured])
    assert noise == pytest.approx(0.1**2 / 4, rel=0.02)
    shrunk = np.array([shrink(each, prior).means for each in measured])
    raw = np.array([each.gains for each in measured])
    # The formula of the module, on its own terms.
    k = 3
    share = prior.variance / (prior.variance + measured[7].noise[k])
    assert shrunk[7, k] == pytest.approx(prior.mean + share * (raw[7, k] - prior.mean))
    assert ((shrunk - truth) ** 2).mean() < 0.6 * ((raw - truth) ** 2).mean()
    sets = np.arange(len(truth))
    best_raw, best = raw.argmax(axis=1), shrunk.argmax(axis=1)
    curse = raw[sets, best_raw].mean() - truth[sets, best_raw].mean()
    assert curse > 0.03
    assert shrunk[sets, best].mean() == pytest.approx(truth[sets, best].mean(), abs=0.004)


def test_confidence_is_a_probability() -> None:
    """Of the updates that are said to be better with 80 to 90 %, about 85 % are."""
    truth, samples = made_up(2000, mean=0.0, true=0.05, noise=0.1, seed=2)
    measured = [measure(each) for each in samples]
    prior = fit_prior(measured)
    confidence = np.array([shrink(each, prior).confidence for each in measured])
    for low in (0.1, 0.5, 0.8):
        chosen = (confidence > low) & (confidence < low + 0.1)
        chosen[:, KEEP_LABEL] = False
        assert (truth[chosen] > 0.0).mean() == pytest.approx(confidence[chosen].mean(), abs=0.03)


def test_labels_keep_unless_a_gain_is_sure_and_matters() -> None:
    rule = LabelRule(confidence=0.9, material=0.01)
    cases = {
        ((0.0, 0.1, 0.2), (0.0, 0.01, 0.01)): 2,
        ((0.0, 0.1, 0.2), (0.0, 0.01, 0.50)): 1,  # the larger one is not sure
        ((0.0, 0.1, 0.2), (0.0, 0.50, 0.50)): 0,
        ((0.0, -0.1, -0.2), (0.0, 0.01, 0.01)): 0,
        ((0.0, 0.009, 0.0), (0.0, 0.0, 0.0)): 0,  # certain, but nothing
        ((0.0, 0.02, 0.0), (0.0, 0.0, 0.0)): 1,
    }
    for (means, deviations), expected in cases.items():
        assert choose(Posterior(np.array(means), np.array(deviations)), rule) == expected


def test_what_does_not_vary_is_kept() -> None:
    """At the top of a task nothing gains and nothing is noisy."""
    measured = measure(np.zeros((8, 4)))
    (label,) = label_measured([measured], ["x"], RULE)
    assert label.index == KEEP_LABEL
    assert label.posterior.means.tolist() == [0.0] * 8
    posterior = shrink(Measured(np.array([0.0, 0.3]), np.zeros(2)), Prior(-0.1, 0.0))
    assert posterior.means.tolist() == [0.0, 0.3]
    assert posterior.confidence.tolist() == [0.5, 1.0]


def test_without_true_differences_everything_is_kept() -> None:
    _, samples = made_up(300, mean=-0.01, true=0.0, noise=0.1, seed=3)
    labels = label_measured([measure(each) for each in samples], ["x"] * 300, RULE)
    assert np.mean([label.index != KEEP_LABEL for label in labels]) < 0.02


def test_tasks_have_priors_of_their_own() -> None:
    _, calm = made_up(200, mean=0.0, true=0.0, noise=0.1, seed=4)
    _, lively = made_up(200, mean=0.0, true=0.5, noise=0.1, seed=5)
    measured = [measure(each) for each in [*calm, *lively]]
    labels = label_measured(measured, ["calm"] * 200 + ["lively"] * 200, RULE)
    edits = np.array([label.index != KEEP_LABEL for label in labels])
    assert edits[:200].mean() < 0.1
    assert edits[200:].mean() > 0.9


def test_a_task_with_few_sets_uses_the_common_prior() -> None:
    _, lively = made_up(ENOUGH, mean=0.1, true=0.5, noise=0.1, seed=5)
    _, few = made_up(ENOUGH - 1, mean=0.0, true=0.0, noise=0.1, seed=6)
    measured, strata = [measure(each) for each in [*lively, *few]], ["lively"] * ENOUGH + ["few"] * (ENOUGH - 1)
    priors = fit_priors(measured, strata)
    assert priors["lively"] == fit_prior(measured[:ENOUGH])
    assert priors["few"] == fit_prior(measured)


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
def test_the_ceiling_is_what_knowing_the_truth_reaches(noise: float) -> None:
    """Two estimates from what was measured against the real thing, which only made-up data allow: labels of two
    independent measurements of the same true gains."""
    sets = 150
    truth, samples = made_up(sets, mean=-0.02, true=0.06, noise=noise, seeds=8, seed=6)
    found = noise_of(samples, ["x"] * sets, RULE)
    generator = np.random.default_rng(7)
    votes = []
    for _ in range(60):
        again = truth[:, :, None] + noise * generator.standard_normal((sets, 8, 8))
        again[:, KEEP_LABEL] = 0.0
        labels = label_measured([measure(each) for each in again], ["x"] * sets, RULE)
        votes.append([label.index for label in labels])
    counts = (np.array(votes)[:, :, None] == np.arange(8)).sum(axis=0)
    reachable = counts.max(axis=1).mean() / len(votes)
    best = np.where(truth.max(axis=1) >= RULE.material, truth.argmax(axis=1), KEEP_LABEL)
    right = (np.array(votes) == best).mean()
    gained = np.mean([truth[np.arange(sets), vote].mean() for vote in votes])
    assert found.ceiling == pytest.approx(reachable, abs=0.05)
    assert found.right == pytest.approx(right, abs=0.05)
    assert found.possible == pytest.approx(truth.max(axis=1).mean(), abs=0.01)
    assert found.best_shrunk == pytest.approx(gained, abs=0.006)
    assert found.honest_measured < found.best_measured < found.honest_measured + 3.0 * noise


def test_without_noise_labels_are_right() -> None:
    truth, samples = made_up(50, mean=0.0, true=0.1, noise=0.0, seed=8)
    found = noise_of(samples, ["x"] * 50, RULE)
    assert (found.agreement, found.ceiling, found.right) == (1.0, 1.0, 1.0)
    assert found.best_measured == pytest.approx(found.honest) == pytest.approx(truth.max(axis=1).mean())


def test_few_continuations() -> None:
    _, samples = made_up(20, mean=0.0, true=0.1, noise=0.1, seeds=2)
    assert np.isnan(noise_of(samples, ["x"] * 20, RULE).agreement)
    with pytest.raises(InvalidConfiguration, match=r"branches\.seeds >= 2"):
        measure(np.zeros((8, 1)))


@pytest.mark.parametrize(
    "arguments", [{"horizon": 0}, {"confidence": 0.4}, {"confidence": 1.0}, {"material": -1.0}, {"source": "luck"}]
)
def test_rules_that_cannot_work(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfiguration):
        LabelRule(**arguments)


def test_labels_of_a_collection(collection: Any) -> None:
    rows = read_rows(collection, "branches", "train")
    labels = label_sets(rows)
    assert len(labels) == len(rows)
    for row, label in zip(rows, labels, strict=True):
        assert label.measured.gains[KEEP_LABEL] == label.posterior.means[KEEP_LABEL] == 0.0
        assert 0 <= label.index < len(row["choices"])
