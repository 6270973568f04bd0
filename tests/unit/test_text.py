"""The text view: levels, trends, masks, updates, snippet, feedback and anonymous names."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hpbench.control.observation import Schema, UnitScale
from hpbench.control.text import CHARSET, FORMAT, MAX_LENGTH, Snippet, TextView, text_space
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.learners.ppo import PPO

SPACE = HyperparameterSpace(
    Hyperparameter("rate", 1e-5, 1e-1, 1e-3, "log"),
    Hyperparameter("discount", 0.8, 0.9999, 0.99, "log1m"),
    Hyperparameter("weight", 0.0, 2.0, 1.0),
)
SCHEMA = Schema("ppo", SPACE)
VALUES = [[1e-3, 0.99, 1.0]]


def render(names: str = "real", snippet: Snippet | None = None, feedback: str = "", **features: float) -> str:
    raw = np.full((1, len(SCHEMA)), np.nan)
    raw[0, SCHEMA.group("hyperparameters")] = UnitScale(SPACE)(np.array(VALUES))[0]
    for name, value in features.items():
        raw[0, SCHEMA.column(name)] = value
    view = TextView(SCHEMA, names)
    return view.render(SCHEMA.encode(raw), ["classic/cartpole"], VALUES, snippet, [feedback])[0]


def update(k: int, rate: float = 0.0, discount: float = 0.0, weight: float = 0.0) -> dict[str, float]:
    return {f"update_{k}_rate": rate, f"update_{k}_discount": discount, f"update_{k}_weight": weight}


def snippet(states: list[list[float]], actions: list[list[float]], rewards: list[float]) -> Snippet:
    return Snippet([states], [actions], [rewards])


def test_the_first_line_names_the_format_and_the_second_the_task() -> None:
    assert render().split("\n")[:2] == [FORMAT, "task classic/cartpole learner ppo"]


@pytest.mark.parametrize(
    ("feature", "value", "words"),
    [
        ("budget_fraction", 0.0, "budget_fraction 0[00]"),
        ("budget_fraction", 0.29, "budget_fraction 0.29[29]"),
        ("budget_fraction", 1.0, "budget_fraction 1[99]"),
        ("approx_kl", 0.0131, "approx_kl 0.0131[42]"),
        ("return_mean", -1234.56, "return_mean -1235[24]"),
        ("return_slope_1", 0.121, "d1 +12.1%[74]"),
        ("return_slope_3", 0.0, "d3 +0%[50]"),
        ("return_from_best", -0.18, "vsbest -18%[22]"),
        ("policy_loss", -0.0, "policy_loss 0[50]"),
        ("score", 99.0, "score 2[99]"),
    ],
)
def test_numbers_are_shown_raw_and_as_levels(feature: str, value: float, words: str) -> None:
    assert re.search(rf"(^| ){re.escape(words)}( |$)", render(**{feature: value}), re.MULTILINE)


def test_what_has_no_value_is_a_dash() -> None:
    assert "score - return_mean - return_sem - d1 - d3 -" in render()
    assert "score 0.5[50] return_mean - return_sem - d1 -" in render(score=0.5)


def test_hyperparameters_are_shown_exactly_with_their_position_and_bounds() -> None:
    lines = render().split("\n")
    assert lines[-3:] == [
        "rate 0.001[50] in 1e-05..0.1",
        "discount 0.99[39] in 0.8..0.9999",
        "weight 1[50] in 0..2",
    ]


def test_updates_are_shown_as_factors_in_their_own_sense_newest_first() -> None:
    span = UnitScale(SPACE).span
    text = render(
        **update(1, rate=-np.log(2.0) / span[0], discount=np.log(4.0) / span[1]),
        effect_1=0.031,
        **update(2),
        effect_2=-0.5,
        **update(3, weight=0.25),
    )
    assert text.split("\n")[-3:] == [
        "update 1 rate x0.5[46] discount x4[59] effect +3.1%[63]",
        "update 2 keep effect -50%[12]",
        "update 3 weight +0.5[62] effect -",
    ]


def test_the_last_transitions_are_shown_raw_oldest_first() -> None:
    parts = snippet([[i / 8, -0.0] for i in range(8)], [[i % 2] for i in range(8)], [1.0] * 7 + [-0.5])
    assert render(snippet=parts).split("\n")[-5:] == [
        "trajectory: state | action | reward",
        "0.5 0 | 0 | 1",
        "0.625 0 | 1 | 1",
        "0.75 0 | 0 | 1",
        "0.875 0 | 1 | -0.5",
    ]


def test_long_states_are_summarised() -> None:
    parts = snippet([[float(i) for i in range(100)]] * 4, [[0.25, -1.0]] * 4, [0.0] * 4)
    assert render(snippet=parts).split("\n")[-1] == "49.5 28.9 0 99 | 0.25 -1 | 0"


def test_a_diverged_snippet_is_still_text() -> None:
    text = render(snippet=snippet([[np.nan, np.inf]] * 4, [[np.nan]] * 4, [0.0] * 4))
    assert text in text_space()


def test_feedback_is_one_last_line() -> None:
    lines = render(feedback="the last action was cut at the bounds of rate").split("\n")
    assert lines[-1] == "feedback: the last action was cut at the bounds of rate"
    assert len(lines) == len(render().split("\n")) + 1


def test_anonymous_names_hide_task_and_hyperparameters() -> None:
    text = render("anonymous", **update(1, rate=0.1, weight=-0.1), effect_1=0.1)
    assert "task hidden learner ppo" in text
    assert "h1 0.001[50] in" in text
    assert "update 1 h1 x2.51[55] h3 -0.2[45] effect" in text
    for word in ("classic", "cartpole", *SPACE):
        assert not re.search(rf"\b{word}\b", text)
    assert text.count("\n") == render(**update(1, rate=0.1, weight=-0.1), effect_1=0.1).count("\n")


def test_texts_differ_only_where_vectors_do() -> None:
    """Text never knows more than the vector: what the vector clips or masks, the text does not tell apart either."""
    assert render(score=5.0) == render(score=2.0)
    assert render(approx_kl=np.inf) == render(approx_kl=np.nan)
    assert render(value_loss=1e6) == render(value_loss=1e12)


def test_the_longest_text_fits_the_space() -> None:
    schema = Schema("ppo", PPO.hyperparameters)
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (20, len(schema)))
    frame = schema.encode(signs * 10.0 ** rng.uniform(-9.0, 9.0, signs.shape))
    values = np.tile([0.123456789012] * 9, (20, 1))
    parts = Snippet(
        *(rng.normal(0, 1e20, (20, 8, width)).astype(np.float32) for width in (8, 8)), np.ones((20, 8), "f")
    )
    texts = TextView(schema, "real").render(frame, ["f/" + "n" * 100] * 20, values, parts, ["x" * 300] * 20)
    assert max(map(len, texts)) < MAX_LENGTH / 2
    assert all(text in text_space() for text in texts)


def test_the_character_set_is_ordered_so_that_samples_do_not_depend_on_hash_seeds() -> None:
    assert isinstance(CHARSET, str)
    assert "".join(text_space().character_list) == CHARSET
