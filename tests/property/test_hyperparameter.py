"""Properties of the hyperparameter maps, over many spaces and over the learners' own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpbench import learners
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import DELTA_FACTOR, KEEP, MULTIPLIERS, Hyperparameter, HyperparameterSpace

LEARNING_RATE = Hyperparameter("learning_rate", 1e-6, 1e-1, 3e-4, scale="log")
DISCOUNT = Hyperparameter("discount", 0.8, 0.9999, 0.99, scale="log1m")
COEFFICIENT = Hyperparameter("coefficient", 0.0, 0.2, 0.01)
EPOCHS = Hyperparameter("epochs", 1, 32, 4, scale="log", integer=True)
FEW = Hyperparameter("few", 1, 4, 2, integer=True)
CENTRED = Hyperparameter("centred", -2.0, 3.0, 0.5)
LONG = Hyperparameter("long", 0.0, 0.999999, 0.5, scale="log1m")
WIDE = Hyperparameter("wide", 1e-10, 1e4, 1.0, scale="log")
INVENTED = [LEARNING_RATE, DISCOUNT, COEFFICIENT, EPOCHS, FEW, CENTRED, LONG, WIDE]
REAL = [item for name in learners.LEARNERS for item in learners.make(name).hyperparameters.values()]
ITEMS = [*INVENTED, *REAL]


def drawn_item(draw: st.DrawFn) -> Hyperparameter:
    """Any hyperparameter with sane bounds."""
    scale = draw(st.sampled_from(["linear", "log", "log1m"]))
    integer = draw(st.booleans()) and scale != "log1m"
    if scale == "log":
        start = draw(st.integers(0, 3) if integer else st.integers(-8, 3))
        low, high = float(f"1e{start}"), float(f"1e{start + draw(st.integers(1, 8))}")
    elif scale == "log1m":
        low = draw(st.sampled_from([-1.0, 0.0, 0.5, 0.9]))
        high = draw(st.sampled_from([0.99, 0.999, 0.9999, 0.99999, 0.999999]))
    else:
        low = float(draw(st.integers(-1000, 1000)))
        high = low + float(draw(st.integers(1, 1000)))
    return Hyperparameter("drawn", low, high, low, scale=scale, integer=integer)


items = st.one_of(st.sampled_from(ITEMS), st.composite(drawn_item)())
units = st.floats(0.0, 1.0)
actions = st.floats(-1.0, 1.0, width=32)


def value_at(item: Hyperparameter, unit: float) -> float:
    """A canonical value; ``from_unit`` itself is under test, so by a plain map of the bounds."""
    if item.scale == "log":
        return item.canonical(item.low * (item.high / item.low) ** unit)
    if item.scale == "log1m":
        return item.canonical(1.0 - (1.0 - item.low) * ((1.0 - item.high) / (1.0 - item.low)) ** unit)
    return item.canonical(item.low + unit * (item.high - item.low))


@given(items, units)
def test_round_trip_through_a_float32_action_is_exact(item: Hyperparameter, unit: float) -> None:
    value = value_at(item, unit)
    assert item.from_unit(item.to_unit(value)) == value
    action = np.float32(item.to_action(value))
    assert -1.0 <= action <= 1.0
    assert item.from_action(float(action)) == value


@given(items, units)
def test_canonical_is_idempotent_inside_and_near(item: Hyperparameter, unit: float) -> None:
    raw = item.low + unit * (item.high - item.low)
    value = item.canonical(raw)
    assert item.canonical(value) == value
    assert item.low <= value <= item.high
    rounding = 0.5 if item.integer else 0.0
    if item.integer:
        assert value.is_integer()
    if item.scale == "linear":
        assert abs(value - raw) <= max(0.5e-5 * (item.high - item.low), rounding) * (1 + 1e-9)
    elif item.scale == "log":
        assert math.isclose(value, raw, rel_tol=0.5001e-4, abs_tol=rounding)
    else:
        assert math.isclose(1.0 - value, 1.0 - raw, rel_tol=0.5001e-4)


@given(items, st.floats(allow_nan=False))
def test_canonical_clips_to_the_bounds(item: Hyperparameter, value: float) -> None:
    assert item.low <= item.canonical(value) <= item.high
    if value <= item.low:
        assert item.canonical(value) == item.low
    if value >= item.high:
        assert item.canonical(value) == item.high


@given(items, units, units)
def test_every_map_is_monotone(item: Hyperparameter, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert item.from_unit(small) <= item.from_unit(large)
    assert value_at(item, small) <= value_at(item, large)
    low, high = value_at(item, small), value_at(item, large)
    assert item.to_unit(low) <= item.to_unit(high)
    assert (item.to_unit(low) < item.to_unit(high)) == (low < high)


@given(items)
def test_the_ends_of_the_scale_are_the_bounds(item: Hyperparameter) -> None:
    assert (item.to_unit(item.low), item.to_unit(item.high)) == (0.0, 1.0)
    assert (item.from_action(-1.0), item.from_action(1.0)) == (item.low, item.high)
    assert (item.from_unit(-0.3), item.from_unit(1.7)) == (item.low, item.high)


@given(items, units)
def test_action_zero_and_factor_one_keep_the_value(item: Hyperparameter, unit: float) -> None:
    value = value_at(item, unit)
    assert item.shift(value, 0.0) == (value, False)
    assert item.shift(value, -0.0) == (value, False)
    assert item.multiply(value, MULTIPLIERS[KEEP]) == (value, False)


@given(items, units, actions, actions)
def test_shift_is_monotone_in_the_action(item: Hyperparameter, unit: float, one: float, other: float) -> None:
    value = value_at(item, unit)
    small, large = sorted((one, other))
    assert item.shift(value, small)[0] <= item.shift(value, large)[0]
    assert item.shift(value, min(small, 0.0))[0] <= value <= item.shift(value, max(large, 0.0))[0]


@given(items, units, units, actions)
def test_shift_is_monotone_in_the_value(item: Hyperparameter, one: float, other: float, action: float) -> None:
    small, large = sorted((one, other))
    assert item.shift(value_at(item, small), action)[0] <= item.shift(value_at(item, large), action)[0]


@given(items, units, actions)
def test_shift_stays_canonical_and_reports_the_bound(item: Hyperparameter, unit: float, action: float) -> None:
    value, clipped = item.shift(value_at(item, unit), action)
    assert item.canonical(value) == value
    if clipped:
        assert value == (item.high if action > 0 else item.low)


@given(items, st.sampled_from([f for f in MULTIPLIERS if f != 1.0]))
def test_a_bound_that_cuts_is_reported(item: Hyperparameter, factor: float) -> None:
    end, start = (item.high, item.low) if factor > 1 else (item.low, item.high)
    assert item.multiply(end, factor) == (end, True)
    assert not item.multiply(start, 1.0 + (factor - 1.0) * 1e-3)[1]


@given(st.sampled_from([EPOCHS, FEW, Hyperparameter("linear", -3, 40, 0, integer=True)]), units)
def test_every_multiplier_moves_an_integer_by_a_whole_step(item: Hyperparameter, unit: float) -> None:
    value = value_at(item, unit)
    for factor in MULTIPLIERS:
        moved, clipped = item.multiply(value, factor)
        if factor > 1 and value < item.high:
            assert moved >= value + 1
        elif factor < 1 and value > item.low:
            assert moved <= value - 1
        else:
            assert moved == value
            assert clipped == (factor != 1)


@given(items, units, st.sampled_from(MULTIPLIERS))
def test_a_float32_delta_stands_for_its_multiplier(item: Hyperparameter, unit: float, factor: float) -> None:
    value = value_at(item, unit)
    action = float(np.float32(math.log(factor) / math.log(DELTA_FACTOR)))
    shifted, multiplied = item.shift(value, action)[0], item.multiply(value, factor)[0]
    if item.integer:
        assert abs(shifted - multiplied) <= max(1.0, 1e-4 * multiplied)
        assert (shifted == value) == (multiplied == value)
    else:
        assert abs(item.to_unit(shifted) - item.to_unit(multiplied)) <= 1e-4


def test_delta_means_what_the_documentation_says() -> None:
    assert LEARNING_RATE.shift(3e-4, 1.0) == (1.2e-3, False)
    assert LEARNING_RATE.shift(3e-4, -1.0) == (7.5e-5, False)
    assert LEARNING_RATE.shift(0.05, 1.0) == (0.1, True)
    assert DISCOUNT.multiply(0.98, 2.0) == (0.99, False)
    assert DISCOUNT.multiply(0.96, 4.0) == (0.99, False)
    assert DISCOUNT.multiply(0.9, 0.5) == (0.8, False)
    assert DISCOUNT.multiply(0.9, 0.25) == (0.8, True)
    assert COEFFICIENT.shift(0.01, 1.0) == (0.06, False)
    assert COEFFICIENT.shift(0.01, -1.0) == (0.0, True)
    assert COEFFICIENT.multiply(0.05, 2.0) == (0.075, False)
    assert EPOCHS.multiply(4.0, 1.25) == (5.0, False)
    assert EPOCHS.multiply(1.0, 1.25) == (2.0, False)
    assert EPOCHS.multiply(4.0, 1.1) == (4.0, False)


def test_the_noise_of_floating_point_is_no_bound() -> None:
    item = Hyperparameter("x", 0.05, 0.3, 0.1, scale="log")
    assert 0.1 * 3.0 > 0.3
    assert item.multiply(0.1, 3.0) == (0.3, False)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_nan_and_impossible_factors_are_refused(item: Hyperparameter) -> None:
    for call in (item.canonical, lambda x: item.shift(item.default, x), lambda x: item.multiply(item.default, x)):
        with pytest.raises(InvalidConfiguration, match=item.name):
            call(math.nan)
    for factor in (0.0, -2.0, math.inf):
        with pytest.raises(InvalidConfiguration, match="positive finite"):
            item.multiply(item.default, factor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 1.0, "high": 1.0}, "below high"),
        ({"low": 0.0, "high": math.inf}, "both finite"),
        ({"low": math.nan, "high": 1.0}, "below high"),
        ({"low": 0.0, "high": 1.0, "scale": "log"}, "low > 0"),
        ({"low": 0.0, "high": 1.0, "scale": "log1m"}, "high < 1"),
        ({"low": 0.0, "high": 1.0, "default": 1.5}, "outside"),
        ({"low": 0.0, "high": 1.0, "default": math.nan}, "outside"),
        ({"low": 0.0, "high": 1.0, "default": 1 / 3}, "0.33333 is the nearest"),
        ({"low": 0.1234567, "high": 1.0}, "too many digits"),
        ({"low": 0.5, "high": 4.0, "default": 1.0, "integer": True}, "whole bounds"),
        ({"low": 0.0, "high": 4.0, "default": 1.5, "integer": True}, "2.0 is the nearest"),
        ({"low": -4.0, "high": 0.0, "default": 0.0, "integer": True, "scale": "log1m"}, "no whole numbers"),
    ],
)
def test_impossible_definitions_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidConfiguration, match=message):
        Hyperparameter(**{"name": "x", "default": 0.5, **arguments})  # type: ignore[arg-type]


def test_space_keeps_its_order() -> None:
    space = HyperparameterSpace(DISCOUNT, Hyperparameter("size", 1, 9, 3, hot=False), EPOCHS)
    assert list(space) == ["discount", "size", "epochs"]
    assert space.hot == ("discount", "epochs")
    assert (space.index("discount"), space.index("epochs")) == (0, 2)
    assert space.defaults() == {"discount": 0.99, "size": 3, "epochs": 4}
    assert len(space) == 3


def test_space_is_a_mapping_and_names_near_misses() -> None:
    space = HyperparameterSpace(LEARNING_RATE, DISCOUNT)
    assert "discount" in space
    assert "gamma" not in space
    assert space.get("gamma") is None
    with pytest.raises(UnknownName, match="Unknown hyperparameter 'learning'. Did you mean 'learning_rate'"):
        space["learning"]
    with pytest.raises(UnknownName, match="'discont'"):
        space.index("discont")
    with pytest.raises(InvalidConfiguration, match="unique"):
        HyperparameterSpace(DISCOUNT, DISCOUNT)


def test_space_checks_values() -> None:
    space = HyperparameterSpace(LEARNING_RATE, EPOCHS)
    assert space.check({"epochs": 3.4, "learning_rate": 1.234567e-4}) == {"epochs": 3.0, "learning_rate": 1.2346e-4}
    for bad in (0.2, -1.0, math.nan):
        with pytest.raises(InvalidConfiguration, match="learning_rate"):
            space.check({"learning_rate": bad})
    with pytest.raises(UnknownName):
        space.check({"lr": 1e-3})
