"""Reading free text: by example, and for anything at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents.language import answer, prompt
from agents.language.generate import read_decision
from agents.language.prompt import Shown
from hpbench.control.action import TextReader
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace

SPACE = HyperparameterSpace(
    Hyperparameter("learning_rate", 1e-5, 1e-1, 3e-4, "log"),
    Hyperparameter("discount", 0.8, 0.9999, 0.99, "log1m"),
    Hyperparameter("minibatches", 1, 32, 8, "log", integer=True),
)
SHOWN = {name: Shown(item.default, item.low, item.high) for name, item in SPACE.items()}
READER = TextReader(SPACE)
VALUES = tuple(SPACE.defaults().values())

WISH = {"learning_rate": "x0.5"}
WANTED = json.dumps(WISH)


@pytest.mark.parametrize(
    "text",
    [
        WANTED,
        f"Sure! Here it is:\n```json\n{WANTED}\n```\nGood luck {{really}}.",
        f"<think>maybe {{}} or {{'learning_rate': 4}}</think>{WANTED}",
        f'the prompt had opened it: {{"discount": "x2"}}</think>\n{WANTED}',
        f'{{"discount": "x2"}} no, better {WANTED}',
        f"{{ {WANTED}",
        f"}}}} {WANTED} {{",
        '{"learning_rate": " X0.5 ", "learning_rat": "x2"}',
        '{"learning_rate": "0.5x", "discount": [1], "minibatches": null}',
        '{"learning_rate": "* 0.5", "discount": true}',
        '{"learning_rate": "\N{MULTIPLICATION SIGN}0.50", "minibatches": {"x": 1}}',
    ],
)
def test_one_wish_in_many_spellings(text: str) -> None:
    assert answer.read_answer(text, SHOWN) == WISH


@pytest.mark.parametrize(
    ("value", "wish"),
    [
        (0.001, 0.001),
        ("0.001", 0.001),
        (5, 0.1),
        (-1, 1e-5),
        (10**400, 0.1),
        ("keep", "x1"),
        ("", "x1"),
        ("x2.50", "x2.5"),
        ("x1e-3", "x0.001"),
        ("x1e300", "x999999"),
        ("x1e-300", "x0.000000001"),
    ],
)
def test_values(value: Any, wish: str | float) -> None:
    assert answer.read_answer(json.dumps({"learning_rate": value}), SHOWN) == {"learning_rate": wish}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I would keep everything.",
        '{"learning_rate": "x0.5"',
        '{"learning_rate": "a lot"}',
        '{"learning_rate": "x0"}',
        '{"learning_rate": NaN}',
        '{"learning_rate": "nan", "discount": "-inf"}',
        '{"epsilon": "x2"}',
        '["learning_rate", "x2"]',
        '<think>{"learning_rate": "x2"}',
    ],
)
def test_no_answer(text: str) -> None:
    """The environment sees what was written, and treats it as invalid: nothing changes."""
    assert answer.read_answer(text, SHOWN) is None
    action = answer.printable(text)
    assert READER.space().contains(action)
    assert READER.read(action, VALUES).values == VALUES


def test_an_empty_object_keeps_everything() -> None:
    assert answer.read_answer("{}", SHOWN) == {}


def test_directions() -> None:
    wishes: answer.Wishes = {"learning_rate": "x0.5", "discount": 0.995, "minibatches": "x1"}
    assert answer.directions(wishes, SHOWN) == {"learning_rate": -1, "discount": 1}
    assert answer.directions({"minibatches": 8.0}, SHOWN) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SPACE, "other"]), inner, max_size=4),
    max_leaves=8,
)


@given(st.text() | JSON.map(json.dumps) | st.tuples(st.text(), JSON.map(json.dumps), st.text()).map("".join))
@example("{" * 5000)
@example('{"a":' * 5000)
@example("<think>" * 500)
@example("```" * 500)
def test_any_text_gives_an_action_that_the_environment_takes(text: str) -> None:
    """Never an exception; what counts as an answer is valid there and stays inside the bounds."""
    wishes = answer.read_answer(text, SHOWN)
    action = answer.printable(text) if wishes is None else answer.to_action(wishes)
    assert READER.space().contains(action)
    update = READER.read(action, VALUES)
    if wishes is not None:
        assert update.invalid == ""
        assert wishes.keys() <= SHOWN.keys()
    for value, item in zip(update.values, SPACE.values(), strict=True):
        assert item.low <= value <= item.high


CHOICE = st.sampled_from(prompt.CHOICES)
AROUND = st.text(st.characters(exclude_characters="{}<>"), max_size=40)


@given(st.lists(CHOICE, min_size=len(SPACE), max_size=len(SPACE)), AROUND, AROUND)
def test_completions_are_found_in_any_surroundings(choices: list[str], before: str, after: str) -> None:
    text = prompt.completion([prompt.CHOICES.index(choice) for choice in choices], tuple(SPACE))
    assert answer.read_answer(before + text + after, SHOWN) == dict(zip(SPACE, choices, strict=True))


def test_decisions(short_run: Callable[..., Any]) -> None:
    observation, _ = short_run().reset(seed=0)
    good = read_decision('Well: {"learning_rate": "x2"}', observation, calls=2)
    assert (good.action, good.raw, good.valid, good.calls) == ('{"learning_rate": "x2"}', good.raw, True, 2)
    bad = read_decision("caf\N{LATIN SMALL LETTER E WITH ACUTE} " + "a" * 2000, observation)
    assert (len(bad.action), bad.action[:6], bad.valid) == (1024, "caf? a", False)
