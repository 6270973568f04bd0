"""The prompt format is frozen: models are trained on it to the character."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from agents.language import prompt
from hpbench.errors import InvalidAction, InvalidConfiguration
from hpbench.hyperparameter import KEEP, MULTIPLIERS

NAMES = ("learning_rate", "discount", "minibatches")


def test_golden() -> None:
    """Whoever changes a character here changes ``FORMAT``, too."""
    everything = "\n".join(
        [
            prompt.FORMAT,
            prompt.plain("OBSERVATION"),
            str(prompt.messages("OBSERVATION")),
            prompt.completion([0, 3, 6], NAMES),
        ]
    )
    assert prompt.FORMAT == "hyperprompt/1"
    assert (
        hashlib.sha256(everything.encode()).hexdigest()
        == "8df503ed04019ffd6c23611b1fb413cc574c9c8562a77ba57a9d1f1249a6e1a2"
    )


def test_completion_by_example() -> None:
    assert prompt.completion([1, 3, 4], NAMES) == '{"learning_rate": "x0.5", "discount": "x1", "minibatches": "x1.25"}'
    assert prompt.CHOICES == ("x0.25", "x0.5", "x0.8", "x1", "x1.25", "x2", "x4")


def test_reading_is_the_inverse_of_writing() -> None:
    for choices in itertools.product(range(len(prompt.CHOICES)), repeat=2):
        assert prompt.read_completion(prompt.completion(choices, NAMES[:2]), NAMES[:2]) == choices


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"learning_rate": "x0.5", "discount": "x1"}',
        '{"learning_rate": "x0.5", "discount": "x1", "minibatches": "x3"}',
        '{"learning_rate":"x0.5", "discount": "x1", "minibatches": "x1"}',
        '{"learning_rate": "x0.5", "discount": "x1", "minibatches": "x1"} ',
        '{"discount": "x0.5", "learning_rate": "x1", "minibatches": "x1"}',
    ],
)
def test_other_texts_are_no_completions(text: str) -> None:
    with pytest.raises(InvalidAction):
        prompt.read_completion(text, NAMES)


def test_wrong_choices() -> None:
    with pytest.raises(InvalidAction, match="3 names, got 2"):
        prompt.completion([0, 1], NAMES)
    with pytest.raises(InvalidAction, match="from 0 to 6"):
        prompt.completion([0, 1, 7], NAMES)


@pytest.mark.parametrize("names", ["real", "anonymous"])
@pytest.mark.parametrize("learner", ["ppo", "dqn"])
def test_the_environment_takes_completions_as_they_are(short_run: Callable[..., Any], names: str, learner: str) -> None:
    """Choice by choice they do what the discrete action does."""
    options: dict[str, Any] = {"learner": learner, "names": names}
    if learner == "dqn":
        options |= {"learner_config": None, "steps": None, "decisions": None}
    texts, numbers = short_run(**options), short_run(**options, action="discrete")
    observation, _ = texts.reset(seed=1)
    numbers.reset(seed=1)
    shown = prompt.shown_in(observation)
    hot = texts.unwrapped.agent_spec.hyperparameters.hot
    assert len(shown) == len(hot)
    assert tuple(shown) == (hot if names == "real" else tuple(f"h{i + 1}" for i in range(len(hot))))
    choices = [i % len(MULTIPLIERS) for i in range(len(hot))]
    info = texts.step(prompt.completion(choices, tuple(shown)))[4]["hpbench"]
    other = numbers.step(choices)[4]["hpbench"]
    assert info["invalid"] == 0
    assert list(info["values"].values()) == list(other["values"].values())
    kept = texts.step(prompt.completion([KEEP] * len(hot), tuple(shown)))[4]["hpbench"]
    assert kept["values"] == info["values"]
    assert kept["clipped"] == []


def test_what_observations_show(short_run: Callable[..., Any]) -> None:
    env = short_run()
    observation, info = env.reset(seed=0)
    space = env.unwrapped.agent_spec.hyperparameters
    for name, shown in prompt.shown_in(observation).items():
        assert (shown.value, shown.low, shown.high) == (
            info["hpbench"]["values"][name],
            space[name].low,
            space[name].high,
        )
    with pytest.raises(InvalidConfiguration, match="text form"):
        prompt.names_in("score 0.3[45]")


def test_both_prompts_hold_the_same() -> None:
    system, user = prompt.messages("OBSERVATION")
    assert (system["role"], user["role"]) == ("system", "user")
    text = prompt.plain("OBSERVATION")
    assert text.startswith(system["content"])
    assert f"\n{user['content']}\n" in text
    assert all(choice in system["content"] for choice in prompt.CHOICES)
