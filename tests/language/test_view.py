"""What a language agent is shown: other names, less, or what somebody else sees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from agents.language.controller import LanguageAgent
from agents.language.decision import Decision
from agents.language.prompt import names_in, shown_in
from agents.language.rendering import Rendering
from agents.language.schemes import hub_agent
from agents.language.view import NAMES, View
from hpbench.control.episode import EpisodeBatch
from hpbench.control.options import EnvOptions
from hpbench.errors import InvalidConfiguration, UnknownName


@pytest.fixture(scope="module")
def batch() -> EpisodeBatch:
    """Three members after two decisions."""
    options = EnvOptions(
        task="classic/cartpole", track="random", observation="text", action="text", steps=2048, decisions=4,
        evaluation_episodes=2, device="cpu",
    )  # fmt: skip
    batch = EpisodeBatch(options, [0, 1, 2])
    batch.reset()
    for factor in ("x2", "x0.5"):
        batch.step([json.dumps({"clip_range": factor})] * 3)
    return batch


class Recorder:
    """Sees what it is shown, and doubles the first hyperparameter by the name that it sees."""

    def __init__(self, answer: str = "") -> None:
        self.seen: list[list[str]] = []
        self._answer = answer

    def identity(self) -> dict[str, Any]:
        return {}

    def decide(self, observations: Sequence[str], seeds: Sequence[int]) -> list[Decision]:
        self.seen.append(list(observations))
        actions = [self._answer if self._answer else json.dumps({names_in(text)[0]: "x2"}) for text in observations]
        return [Decision(action, action, True) for action in actions]


def ask(view: View, texts: Sequence[str], batch: EpisodeBatch, answer: str = "") -> tuple[list[str], list[str]]:
    """What the model is shown, and the actions that come of it."""
    recorder = Recorder(answer)
    agent = LanguageAgent(recorder, view=view)
    agent.reset_batch(batch.specs, [0] * len(texts))
    actions = agent.act_batch(texts)
    return recorder.seen[0], actions


def test_everything_is_shown_as_it_is_unless_told_otherwise(batch: EpisodeBatch) -> None:
    texts = batch.texts()
    assert ask(View(), texts, batch)[0] == texts


@pytest.mark.parametrize("names", NAMES)
def test_answers_come_back_by_the_names_of_the_environment(batch: EpisodeBatch, names: str) -> None:
    shown, actions = ask(View(names=names), batch.texts(), batch)
    assert actions == ['{"learning_rate": "x2"}'] * 3
    first = {"real": "learning_rate", "anonymous": "h1", "rotated": "entropy_coefficient"}[names]
    assert names_in(shown[0])[0] == first
    assert ("task classic/cartpole " in shown[0]) == (names != "anonymous")
    copy = batch.spawn([0, 1, 2])
    before = copy.population.table()[:, 0]
    copy.step(actions)
    assert copy.population.table()[:, 0] == pytest.approx(2 * before, rel=1e-3)  # values are rounded


def test_rotated_names_keep_values_and_rename_updates(batch: EpisodeBatch) -> None:
    text = batch.texts()[0]
    rotated = Rendering(rotated=True)(text)
    real, shown = shown_in(text), shown_in(rotated)
    assert [item.value for item in real.values()] == [item.value for item in shown.values()]
    assert sorted(real) == sorted(shown)
    assert list(shown) == [*list(real)[1:], next(iter(real))]
    assert "update 1 clip_range x0.5" in text
    assert "update 1 discount x0.5" in rotated  # what comes after clip_range
    with pytest.raises(InvalidConfiguration, match="either"):
        Rendering(anonymous=True, rotated=True)


def test_permuted_members_see_each_other(batch: EpisodeBatch) -> None:
    texts = batch.texts()
    assert len(set(texts)) == 3
    assert ask(View(permuted=True), texts, batch)[0] == [texts[1], texts[2], texts[0]]
    assert ask(View(permuted=True), texts[:1], batch)[0] == texts[:1]


def test_less_is_shown(batch: EpisodeBatch) -> None:
    texts = batch.texts()
    assert "update 1" in texts[0]
    assert "update 1" not in ask(View(history=False), texts, batch)[0][0]
    assert " d1 " not in ask(View(trends=False), texts, batch)[0][0]
    assert "trajectory" not in ask(View(trajectory=False), texts, batch)[0][0]


def test_what_is_no_answer_stays_as_it_came(batch: EpisodeBatch) -> None:
    for answer in ("nothing", "[1]", '"x2"'):
        assert ask(View(names="anonymous"), batch.texts(), batch, answer)[1] == [answer] * 3


def test_options_of_addresses(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{}")
    agent = hub_agent(f"{tmp_path}?names=rotated&history=false&sample=true")
    assert agent.view == View(names="rotated", history=False)
    with pytest.raises(UnknownName, match="Did you mean 'rotated'"):
        hub_agent(f"{tmp_path}?names=rotate")
