"""The feature schema: transforms that invert, masks instead of NaN, and the features that a history leads to."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpbench.control.history import FeatureBuilder, History
from hpbench.control.observation import FEATURES, Feature, Schema, UnitScale
from hpbench.control.text import Snippet
from hpbench.errors import InvalidConfiguration, SnapshotError, UnknownName
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.learners.ppo import PPO
from hpbench.tasks.base import Anchors

SPACE = HyperparameterSpace(
    Hyperparameter("rate", 1e-5, 1e-1, 1e-3, "log"),
    Hyperparameter("discount", 0.8, 0.9999, 0.99, "log1m"),
    Hyperparameter("weight", 0.0, 2.0, 1.0),
)
SCHEMA = Schema("ppo", SPACE)
UNIT = UnitScale(SPACE)
Values = dict[str, float]


def encode_one(**values: float) -> np.ndarray:
    raw = np.full((1, len(SCHEMA)), np.nan)
    for name, value in values.items():
        raw[0, SCHEMA.column(name)] = value
    return SCHEMA.encode(raw).vectors()[0]


def plain(feature: Feature) -> bool:
    return feature.transform != "hyperparameter"


@pytest.mark.parametrize("feature", [f for f in SCHEMA.features if plain(f)], ids=lambda f: f.name)
def test_bounds_map_to_the_ends_of_the_scale_and_back(feature: Feature) -> None:
    for value, end in ((feature.low, -1.0), (feature.high, 1.0)):
        vector = encode_one(**{feature.name: value})
        assert vector[SCHEMA.column(feature.name)] == end
        assert SCHEMA.values(vector) == {feature.name: pytest.approx(value, rel=1e-6, abs=1e-9)}


@pytest.mark.parametrize("feature", [f for f in SCHEMA.features if plain(f)], ids=lambda f: f.name)
def test_values_inside_the_bounds_come_back(feature: Feature) -> None:
    rng = np.random.default_rng(0)
    for sample in rng.uniform(feature.low, feature.high, 20):
        back = SCHEMA.values(encode_one(**{feature.name: sample}))[feature.name]
        assert back == pytest.approx(sample, rel=1e-5, abs=1e-6 * min(feature.resolution, feature.high))


@given(st.floats(1e-7, 10.0))
def test_small_values_of_a_log_scale_come_back(kl: float) -> None:
    assert SCHEMA.values(encode_one(approx_kl=kl))["approx_kl"] == pytest.approx(kl, rel=1e-4, abs=1e-10)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_the_scale_keeps_the_order(first: float, second: float) -> None:
    column = SCHEMA.column("return_mean")
    a, b = (encode_one(return_mean=value)[column] for value in (first, second))
    assert (a <= b) if first <= second else (a >= b)


@pytest.mark.parametrize("name", SPACE)
def test_hyperparameters_come_back_exactly(name: str) -> None:
    item = SPACE[name]
    for unit in np.linspace(0.0, 1.0, 101):
        value = item.from_unit(float(unit))
        units = UNIT(np.array([[value if other == name else SPACE[other].default for other in SPACE]]))
        vector = encode_one(**{f"hp_{name}": units[0, SPACE.index(name)]})
        assert SCHEMA.values(vector) == {f"hp_{name}": value}


def test_unit_scale_agrees_with_the_hyperparameters() -> None:
    rows = np.array([[item.from_unit(u) for item in PPO.hyperparameters.values()] for u in (0.0, 0.3, 0.77, 1.0)])
    expected = [[i.to_unit(v) for i, v in zip(PPO.hyperparameters.values(), row, strict=True)] for row in rows.tolist()]
    np.testing.assert_allclose(UnitScale(PPO.hyperparameters)(rows), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("unknown", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_masked(unknown: float) -> None:
    vector = encode_one(score=0.5, approx_kl=unknown)
    assert np.isfinite(vector).all()
    assert vector[SCHEMA.column("approx_kl")] == 0.0
    assert vector[len(SCHEMA) + SCHEMA.column("approx_kl")] == 0.0
    assert vector[len(SCHEMA) + SCHEMA.column("score")] == 1.0
    assert SCHEMA.values(vector) == {"score": pytest.approx(0.5, abs=1e-6)}


def test_values_outside_the_bounds_are_clipped() -> None:
    values = SCHEMA.values(encode_one(score=17.0, value_loss=1e300, return_mean=-1e300))
    assert values == {"score": pytest.approx(2.0), "value_loss": pytest.approx(1e6), "return_mean": pytest.approx(-1e6)}


def test_vectors_lie_in_the_box() -> None:
    box = SCHEMA.box()
    rng = np.random.default_rng(0)
    raw = rng.normal(0.0, 1.0, (50, len(SCHEMA))) * 10.0 ** rng.uniform(-8.0, 8.0, (50, len(SCHEMA)))
    raw[rng.random(raw.shape) < 0.2] = np.nan
    for vector in SCHEMA.encode(raw).vectors():
        assert vector in box


def test_encoding_is_the_formula_of_the_schema() -> None:
    """Position by position against whole arrays; rows may come as an array or as lists."""
    rng = np.random.default_rng(1)
    raw = rng.normal(0.0, 1.0, (20, len(SCHEMA))) * 10.0 ** rng.uniform(-8.0, 8.0, (20, len(SCHEMA)))
    raw[rng.random(raw.shape) < 0.2] = rng.choice([math.nan, math.inf, -math.inf])
    unit = np.array([not plain(feature) for feature in SCHEMA.features])
    low = np.where(unit, 0.0, [feature.low for feature in SCHEMA.features])
    high = np.where(unit, 1.0, [feature.high for feature in SCHEMA.features])
    log = np.array([feature.transform == "log" for feature in SCHEMA.features])
    resolution = np.array([feature.resolution for feature in SCHEMA.features])

    def scale(x: np.ndarray) -> np.ndarray:
        return np.where(log, np.sign(x) * np.log(1.0 + np.abs(x) / resolution), x)

    known = np.isfinite(raw)
    inside = np.clip(np.where(known, raw, 0.0), low, high)
    position = (scale(inside) - scale(low)) / (scale(high) - scale(low))
    frame = SCHEMA.encode(raw)
    assert frame == SCHEMA.encode(raw.tolist())
    assert frame.known == known.tolist()
    np.testing.assert_array_equal(np.array(frame.raw)[known], inside[known])
    np.testing.assert_allclose(frame.scaled, np.where(known, 2.0 * position - 1.0, 0.0), rtol=0, atol=1e-12)
    assert frame.vectors()[0].dtype == np.float32
    np.testing.assert_array_equal(np.stack(frame.vectors()), np.hstack((frame.scaled, known)).astype(np.float32))


def test_values_reads_dict_observations_and_says_what_it_cannot_read() -> None:
    vector = encode_one(score=0.25)
    assert SCHEMA.values({"vector": vector, "text": "..."}) == SCHEMA.values(vector)
    with pytest.raises(InvalidConfiguration, match="'vector' and 'dict'"):
        SCHEMA.values("hpbench-text/1")
    with pytest.raises(InvalidConfiguration, match=r"shape \(3,\)"):
        SCHEMA.values(np.zeros(3, dtype=np.float32))


def test_unknown_features_are_named_with_near_misses() -> None:
    with pytest.raises(UnknownName, match="approx_kl"):
        SCHEMA.column("aprox_kl")


def test_features_of_other_learners_are_left_out() -> None:
    names = {feature.name for feature in Schema("other", SPACE).features}
    assert "approx_kl" not in names
    assert {"score", "gradient_norm", "hp_rate", "update_4_weight", "effect_4"} <= names


def test_every_feature_says_what_it_means_and_names_are_unique() -> None:
    names = [feature.name for feature in SCHEMA.features]
    assert len(set(names)) == len(names)
    for feature in SCHEMA.features:
        assert feature.meaning
        assert feature.group
        assert feature.low < feature.high
    assert len({feature.label or feature.name for feature in FEATURES}) == len(FEATURES)


def test_all_metrics_of_ppo_but_the_episode_count_are_features() -> None:
    assert set(PPO.metric_names()) - {"episodes"} <= {feature.name for feature in FEATURES}


class Run:
    """A history that is fed by hand: anchors 0 and 100, six decisions."""

    builder = FeatureBuilder(SCHEMA)
    anchors = Anchors(0.0, 100.0, "")

    def __init__(self) -> None:
        self.history = self.builder.start([1e-3, 0.99, 1.0])

    def segment(self, mean_return: float, values: Sequence[float] = (1e-3, 0.99, 1.0), **metrics: float) -> Values:
        self.history.decision += 1
        measured = {"return_mean": mean_return, **metrics}
        row = [measured.get(name, math.nan) for name in self.builder.metric_names]
        self.builder.record(self.history, self.anchors, values, row)
        return self.features()

    def features(self, snippet: Snippet | None = None) -> Values:
        return features_of([self], snippet)[0]


def features_of(runs: list[Run], snippet: Snippet | None = None) -> list[Values]:
    raw = Run.builder.raw([run.history for run in runs], 6, snippet)
    return [SCHEMA.values(vector) for vector in SCHEMA.encode(raw).vectors()]


def test_before_the_first_segment_only_budget_and_hyperparameters_are_known() -> None:
    assert Run().features() == {
        "budget_fraction": 0.0,
        "decisions_left": pytest.approx(6.0),
        "action_invalid": 0.0,
        "action_clipped": 0.0,
        "hp_rate": 1e-3,
        "hp_discount": 0.99,
        "hp_weight": 1.0,
    }


def test_trends_and_best() -> None:
    run = Run()
    first = run.segment(10.0)
    assert first["score"] == pytest.approx(0.1, abs=1e-6)
    assert first["decisions_since_best"] == 0.0
    assert "return_slope_1" not in first, "there is no training return before the first segment"
    for value in (40.0, 30.0, 25.0):
        last = run.segment(value)
    assert last["budget_fraction"] == pytest.approx(4 / 6)
    assert last["return_slope_1"] == pytest.approx(-0.05, abs=1e-6)
    assert last["return_slope_3"] == pytest.approx((0.25 - 0.10) / 3, abs=1e-6)
    assert last["return_best"] == pytest.approx(40.0, rel=1e-5)
    assert last["return_from_best"] == pytest.approx(-0.15, abs=1e-6)
    assert last["decisions_since_best"] == pytest.approx(2.0, abs=1e-5)


def test_the_last_four_updates_and_their_effects_newest_first() -> None:
    run = Run()
    for i, (rate, score) in enumerate([(1e-3, 10.0), (2e-3, 20.0), (1e-3, 15.0), (1e-3, 16.0), (1e-2, 30.0)]):
        last = run.segment(score, (rate, 0.99, 1.0 + 0.1 * i))
    span = math.log(1e4)
    assert last["update_1_rate"] == pytest.approx(math.log(10.0) / span, abs=1e-6)
    assert last["update_2_rate"] == 0.0
    assert last["update_3_rate"] == pytest.approx(-math.log(2.0) / span, abs=1e-6)
    assert last["update_4_rate"] == pytest.approx(math.log(2.0) / span, abs=1e-6)
    assert last["update_1_weight"] == pytest.approx(0.05, abs=1e-6)
    assert last["update_1_discount"] == 0.0
    effects = [last[f"effect_{k}"] for k in (1, 2, 3, 4)]
    assert effects == pytest.approx([0.14, 0.01, -0.05, 0.10], abs=1e-6)


def test_a_segment_without_an_episode_has_unknown_returns_and_keeps_the_best() -> None:
    run = Run()
    run.segment(50.0)
    features = run.segment(math.nan, entropy=0.5)
    assert "score" not in features
    assert "return_slope_1" not in features
    assert "effect_1" not in features
    assert features["entropy"] == pytest.approx(0.5, abs=1e-6)
    assert features["return_best"] == pytest.approx(50.0, rel=1e-5)
    assert features["decisions_since_best"] == pytest.approx(1.0, abs=1e-5)


def test_members_at_different_decisions_do_not_mix() -> None:
    ahead, behind = Run(), Run()
    ahead.segment(10.0)
    behind.segment(10.0)
    ahead.segment(60.0, (1e-2, 0.99, 1.0))
    first, second = features_of([ahead, behind])
    assert (first["budget_fraction"], second["budget_fraction"]) == (pytest.approx(2 / 6), pytest.approx(1 / 6))
    assert first["hp_rate"] == 1e-2
    assert second["hp_rate"] == 1e-3
    assert first["return_slope_1"] == pytest.approx(0.5, abs=1e-6)
    assert "return_slope_1" not in second


def test_feedback_features() -> None:
    run = Run()
    run.history.last_invalid, run.history.clipped = True, ("rate", "weight")
    features = run.segment(1.0)
    assert features["action_invalid"] == 1.0
    assert features["action_clipped"] == pytest.approx(2.0, abs=1e-5)


def test_snippet_statistics() -> None:
    snippet = Snippet([[[3.0, 4.0], [0.0, 0.0]]], [[[1.0], [0.0]]], [[1.0, -3.0]])
    assert snippet.statistics(0) == pytest.approx((-1.0, 2.0, -3.0, 1.0, 2.5, 0.5))
    assert Run().features(snippet)["snippet_reward_min"] == pytest.approx(-3.0, rel=1e-5)
    constant = Snippet([[[0.0]] * 3], [[[0.0]] * 3], [[-0.1] * 3])
    assert constant.statistics(0)[1] == 0.0


def test_a_snippet_of_a_diverged_learner_is_masked() -> None:
    snippet = Snippet([[[math.nan, math.inf]]], [[[math.nan]]], [[1.0]])
    features = Run().features(snippet)
    assert "snippet_state_norm" not in features
    assert "snippet_action_mean" not in features
    assert features["snippet_reward_mean"] == pytest.approx(1.0, rel=1e-5)


def test_histories_survive_json_and_copies_are_independent() -> None:
    run = Run()
    run.history.scores.append(0.5)
    run.history.clipped = ("rate",)
    run.segment(10.0, (1e-2, 0.99, 1.0))
    again = History.from_dict(json.loads(json.dumps(run.history.to_dict())))
    assert repr(again) == repr(run.history), "NaN is not equal to itself, but its text is"
    clone = run.history.copy()
    run.segment(20.0, (1e-3, 0.99, 1.0))
    assert repr(clone) == repr(again)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("decision", 1.0),
        ("decision", True),
        ("diverged", 0),
        ("feedback", None),
        ("scores", 3),
        ("scores", ["a"]),
        ("metrics", [None]),
        ("changes", [1.0]),
    ],
)
def test_damaged_histories_are_errors(name: str, value: object) -> None:
    with pytest.raises(SnapshotError):
        History.from_dict({**Run().history.to_dict(), name: value})


def test_histories_with_other_fields_are_errors_that_name_them() -> None:
    fields = Run().history.to_dict()
    with pytest.raises(SnapshotError, match="surplus"):
        History.from_dict({**fields, "surplus": 1})
    del fields["units"]
    with pytest.raises(SnapshotError, match="units"):
        History.from_dict(fields)


@pytest.mark.parametrize(
    "change",
    [{"decision": 2}, {"decision": 7}, {"values": (1.0,)}, {"metrics": ()}, {"changes": []}, {"scores": [0.1]}],
)
def test_inconsistent_histories_are_errors(change: dict[str, object]) -> None:
    run = Run()
    run.segment(10.0)
    run.history.scores = [0.1, 0.2]
    run.builder.check(run.history, 6)
    with pytest.raises(SnapshotError):
        run.builder.check(dataclasses.replace(run.history, **change), 6)
