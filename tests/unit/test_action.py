"""Every kind of action, and everything that is not one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hpbench.control.action import TEXT_LENGTH, make_reader
from hpbench.errors import InvalidAction
from hpbench.hyperparameter import MULTIPLIERS, Hyperparameter, HyperparameterSpace

SPACE = HyperparameterSpace(
    Hyperparameter("rate", 1e-5, 1e-1, 1e-3, "log"),
    Hyperparameter("frozen", 0.0, 1.0, 0.5, hot=False),
    Hyperparameter("discount", 0.8, 0.9999, 0.99, "log1m"),
    Hyperparameter("weight", 0.0, 2.0, 1.0),
    Hyperparameter("epochs", 1, 20, 4, "log", integer=True),
)
START = [1e-3, 0.5, 0.99, 1.0, 4.0]


def read(kind: str, action: Any, names: str = "real", start: list[float] = START) -> Any:
    return make_reader(kind, SPACE, names).read(action, start)


def array(*components: float) -> np.ndarray:
    return np.array(components, dtype=np.float32)


def test_spaces_hold_the_hot_hyperparameters_only() -> None:
    for kind in ("delta", "absolute", "discrete"):
        assert make_reader(kind, SPACE).space().shape == (4,)
    assert make_reader("discrete", SPACE).space().nvec.tolist() == [len(MULTIPLIERS)] * 4
    assert make_reader("delta", SPACE).space().dtype == np.float32


def test_every_space_is_a_new_object_with_its_own_random_state() -> None:
    reader = make_reader("delta", SPACE)
    first, second = reader.space(), reader.space()
    assert first is not second
    first.seed(0)
    state = second.np_random.bit_generator.state
    first.sample()
    assert second.np_random.bit_generator.state == state


@pytest.mark.parametrize("kind", ["delta", "absolute", "discrete", "text"])
def test_every_sample_of_the_space_is_accepted(kind: str) -> None:
    space = make_reader(kind, SPACE).space()
    space.seed(1)
    for _ in range(50):
        update = read(kind, space.sample())
        for (_, item), value in zip(SPACE.items(), update.values, strict=True):
            assert item.low <= value <= item.high
            assert item.canonical(value) == value


@pytest.mark.parametrize(
    ("kind", "action"),
    [("delta", np.zeros(4, np.float32)), ("discrete", np.full(4, 3)), ("text", "{}"), ("text", " {\n} ")],
)
def test_the_neutral_action_keeps_every_value_exactly(kind: str, action: Any) -> None:
    assert read(kind, action) == type(read(kind, action))(tuple(START))


def test_delta_is_relative_in_each_own_scale_and_leaves_the_frozen_alone() -> None:
    update = read("delta", array(1.0, 1.0, 1.0, -1.0))
    assert update.values == (4e-3, 0.5, 0.9975, 1.5, 1.0)
    assert update.clipped == ()


def test_delta_reports_what_a_bound_cuts() -> None:
    update = read("delta", array(1.0, 0.0, 0.0, 0.0), start=[0.09, 0.5, 0.99, 1.0, 4.0])
    assert update.values[0] == 0.1
    assert update.clipped == ("rate",)


def test_components_out_of_bounds_are_clipped_and_reported() -> None:
    update = read("delta", array(2.0, -0.5, 0.0, 0.0))
    assert update.values[0] == 4e-3
    assert update.clipped == ("rate",)
    assert read("absolute", array(-7.0, 0.0, 0.0, 0.0)).values[0] == 1e-5
    assert read("delta", np.array([1e300, 0.0, 0.0, 0.0])) == read("delta", array(2.0, 0.0, 0.0, 0.0))
    assert read("discrete", np.array([9, 3, 3, -2])).clipped == ("rate", "epochs")
    assert read("discrete", np.array([9, 3, 3, -2])).values[0] == 4e-3


def test_absolute_spans_the_range() -> None:
    low = read("absolute", array(-1, -1, -1, -1)).values
    high = read("absolute", array(1, 1, 1, 1)).values
    assert low == (1e-5, 0.5, 0.8, 0.0, 1.0)
    assert high == (1e-1, 0.5, 0.9999, 2.0, 20.0)


def test_absolute_can_keep_every_value() -> None:
    components = [item.to_action(START[i]) for i, item in enumerate(SPACE.values()) if item.hot]
    assert read("absolute", array(*components)).values == tuple(START)


def test_discrete_multiplies() -> None:
    update = read("discrete", np.array([0, 5, 3, 6]))
    assert update.values == (2.5e-4, 0.5, 0.995, 1.0, 16.0)


def test_float64_means_the_same_as_float32() -> None:
    action = np.array([0.3, -0.7, 0.1, 0.9])
    assert read("delta", action) == read("delta", action.astype(np.float32)) == read("delta", action.tolist())


@pytest.mark.parametrize(
    "action",
    [
        np.zeros(5, np.float32),
        np.zeros((1, 4), np.float32),
        np.float32(0.0),
        np.zeros(4, np.int64),
        np.zeros(4, bool),
        np.array(["a"] * 4),
        [0.0, [1.0], 0.0, 0.0],
        None,
        "{}",
        {"rate": 1.0},
    ],
)
def test_wrong_shapes_and_types_are_errors_that_name_what_is_expected(action: Any) -> None:
    with pytest.raises(InvalidAction, match=r"float32 array of shape \(4,\)"):
        read("delta", action)


@pytest.mark.parametrize("action", [np.zeros(4), np.zeros(3, int), np.zeros(4, bool), None])
def test_wrong_discrete_actions_are_errors(action: Any) -> None:
    with pytest.raises(InvalidAction, match=r"integer array of shape \(4,\)"):
        read("discrete", action)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["delta", "absolute"])
def test_nan_and_infinity_are_errors_that_name_the_hyperparameter(kind: str, bad: float) -> None:
    with pytest.raises(InvalidAction, match="discount"):
        read(kind, np.array([0.0, bad, 0.0, 0.0]))


@pytest.mark.parametrize("action", [None, 3, b"{}", ["{}"], {"rate": 0.1}])
def test_a_text_action_must_be_a_text(action: Any) -> None:
    with pytest.raises(InvalidAction, match="text"):
        read("text", action)


@pytest.mark.parametrize(
    ("text", "values", "clipped"),
    [
        ('{"rate": 0.002}', (2e-3, 0.5, 0.99, 1.0, 4.0), ()),
        ('{"rate": "x0.5"}', (5e-4, 0.5, 0.99, 1.0, 4.0), ()),
        ('{"discount": "x2", "weight": 1}', (1e-3, 0.5, 0.995, 1.0, 4.0), ()),
        ('\n { "epochs" :\t7 }\r\n', (1e-3, 0.5, 0.99, 1.0, 7.0), ()),
        ('{"rate": 5}', (0.1, 0.5, 0.99, 1.0, 4.0), ("rate",)),
        ('{"epochs": -3, "rate": "x1000"}', (0.1, 0.5, 0.99, 1.0, 1.0), ("rate", "epochs")),
        ('{"rate": 1' + "0" * 400 + "}", (0.1, 0.5, 0.99, 1.0, 4.0), ("rate",)),
        ('{"weight": 0}', (1e-3, 0.5, 0.99, 0.0, 4.0), ()),
        ('{"weight": 5e-1}', (1e-3, 0.5, 0.99, 0.5, 4.0), ()),
        ('{"rate": "x1"}', (1e-3, 0.5, 0.99, 1.0, 4.0), ()),
    ],
)
def test_text_sets_or_multiplies(text: str, values: tuple[float, ...], clipped: tuple[str, ...]) -> None:
    update = read("text", text)
    assert (update.values, update.clipped, update.invalid) == (values, clipped, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a JSON object"),
        ("rate 0.1", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{} {}", "not a JSON object"),
        ('{"rate": 0.1', "not a JSON object"),
        ("{'rate': 0.1}", "not a JSON object"),
        ('{"rate": 0.1,}', "not a JSON object"),
        ('{"rate": .5}', "not a JSON object"),
        ('```json\n{"rate": 0.1}\n```', "not a JSON object"),
        ('{"rate": 0.1} because', "not a JSON object"),
        ("\u00a0{}", "not a JSON object"),
        ("[" * 900, "not a JSON object"),
        ('{"a":' * 200, "not a JSON object"),
        ('{"lr": 0.1}', 'unknown name "lr"'),
        ('{"Rate": 0.1}', 'unknown name "Rate"'),
        ('{"frozen": 0.1}', 'unknown name "frozen"'),
        ('{"h1": 0.1}', 'unknown name "h1"'),
        ('{"rate": 0.1, "rate": 0.1}', "rate appears twice"),
        ('{"rate": NaN}', "NaN"),
        ('{"rate": -Infinity}', "Infinity"),
        ('{"rate": 1e999}', "rate is not finite"),
        ('{"rate": true}', "rate needs a number"),
        ('{"rate": null}', "rate needs a number"),
        ('{"rate": [0.1]}', "rate needs a number"),
        ('{"rate": {}}', "rate needs a number"),
        ('{"rate": {"x": 1}}', "rate needs a number"),
        ('{"rate": "0.5"}', "rate needs a number"),
        ('{"rate": "x0"}', "rate needs a number"),
        ('{"rate": "x0.0"}', "rate needs a number"),
        ('{"rate": "x-2"}', "rate needs a number"),
        ('{"rate": "X2"}', "rate needs a number"),
        ('{"rate": "x 2"}', "rate needs a number"),
        ('{"rate": "x1e3"}', "rate needs a number"),
        ('{"rate": "xinf"}', "rate needs a number"),
        ('{"rate": "x\u0662"}', "rate needs a number"),
        ("{}" + " " * TEXT_LENGTH, "longer than"),
    ],
)
def test_malformed_texts_are_invalid_and_change_nothing(text: str, reason: str) -> None:
    update = read("text", text)
    assert update.values == tuple(START)
    assert update.clipped == ()
    assert reason in update.invalid


def test_a_valid_part_of_an_invalid_text_does_not_count() -> None:
    assert read("text", '{"rate": 0.05, "epochs": "many"}').values == tuple(START)


def test_feedback_on_foreign_words_is_short_and_printable() -> None:
    update = read("text", '{"\u00e9\\n\u4e2d' + "a" * 500 + '": 1}')
    assert update.invalid.isascii()
    assert update.invalid.isprintable()
    assert len(update.invalid) < 120


def test_anonymous_names_count_all_hyperparameters_in_order() -> None:
    assert read("text", '{"h1": 0.01, "h5": "x2"}', names="anonymous").values == (0.01, 0.5, 0.99, 1.0, 8.0)
    assert read("text", '{"h1": 5}', names="anonymous").clipped == ("rate",)
    assert "unknown name" in read("text", '{"rate": 0.01}', names="anonymous").invalid
    assert "unknown name" in read("text", '{"h2": 0.01}', names="anonymous").invalid, "h2 is frozen"
