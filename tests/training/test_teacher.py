"""A teacher of constant settings: what it says where, as examples, and in reinforcement learning."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.language.prompt import names_in, plain, read_completion, shown_in
from agents.language.rendering import hide_task
from agents.training.episodes import Playground
from agents.training.examples import taught_rows, thin
from agents.training.multistep import _Run, train_multistep
from agents.training.multistep_recipe import MultistepRecipe
from agents.training.recipes import SftRecipe, read_recipe
from agents.training.schema import read_rows
from agents.training.sft import train_sft
from agents.training.tagged import apply
from agents.training.teacher import Teacher
from hpbench import learners
from hpbench.control.episode import EpisodeBatch
from hpbench.control.options import EnvOptions
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import KEEP, MULTIPLIERS

SPACE = learners.make("ppo").hyperparameters
SETTINGS = {
    "classic/cartpole": SPACE.defaults() | {"learning_rate": 0.01, "minibatches": 2.0},
    "classic/acrobot": SPACE.defaults() | {"learning_rate": 1e-4, "discount": 0.999},
}
RECIPES = Path(__file__).parents[2] / "reproduce" / "hyperprompt" / "recipes"

other_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def observation(**options: Any) -> str:
    chosen = {"task": "classic/cartpole@train-1", "track": "random", "observation": "text", "device": "cpu"} | options
    (text,), _ = EpisodeBatch(EnvOptions(**chosen), [3]).reset()
    assert isinstance(text, str)
    return text


def distances(values: Sequence[float], goal: Sequence[float]) -> list[float]:
    """On each hyperparameter's own scale."""
    pairs = zip(SPACE.values(), values, goal, strict=True)
    return [abs(item.to_unit(value) - item.to_unit(wanted)) for item, value, wanted in pairs]


@pytest.mark.parametrize("hidden", [False, True])
def test_following_it_leads_to_its_settings_and_stays_there(hidden: bool) -> None:
    text, teacher = observation(), Teacher(SETTINGS)
    values = tuple(shown.value for shown in shown_in(text).values())
    goal = tuple(SETTINGS["classic/cartpole"].values())
    assert values != goal
    far = distances(values, goal)
    for _ in range(12):
        shown = text
        for name, value in zip(SPACE, values, strict=True):
            line = next(line for line in text.split("\n") if line.startswith(f"{name} "))
            shown = shown.replace(line, f"{name} {value:g}[00] in {line.partition(' in ')[2]}")
        choices = teacher.choices(hide_task(shown) if hidden else shown, "classic/cartpole")
        assert choices is not None
        values = apply(SPACE, values, choices)
    near = distances(values, goal)
    assert (choices == KEEP).all()
    assert max(near) < 0.08  # half a step of the finest factor
    assert max(near) < max(far)


def test_within_its_tolerance_it_keeps_a_value_and_beyond_it_goes_all_the_way() -> None:
    text, goal = observation(), SETTINGS["classic/cartpole"]["learning_rate"]
    line = next(line for line in text.split("\n") if line.startswith("learning_rate "))
    where = list(SPACE.hot).index("learning_rate")
    found = {}
    for tolerance in (1.0, 1.6):
        teacher = Teacher(SETTINGS, tolerance)
        for ratio in (0.6, 0.7, 1.5, 1.7):
            shown = text.replace(line, f"learning_rate {ratio * goal:g}[00] in {line.partition(' in ')[2]}")
            choices = teacher.choices(shown, "classic/cartpole")
            assert choices is not None
            found[tolerance, ratio] = float(MULTIPLIERS[choices[where]])
    assert [found[1.0, ratio] for ratio in (0.6, 0.7, 1.5, 1.7)] == [2.0, 1.25, 0.8, 0.5]
    assert [found[1.6, ratio] for ratio in (0.6, 0.7, 1.5, 1.7)] == [2.0, 1.0, 1.0, 0.5]
    with pytest.raises(InvalidConfiguration, match="at least 1"):
        Teacher(SETTINGS, 0.9)


def test_it_says_nothing_of_other_tasks_and_learners() -> None:
    teacher = Teacher({"classic/cartpole": SETTINGS["classic/cartpole"]})
    assert teacher.choices(observation(task="classic/acrobot"), "classic/acrobot") is None
    assert teacher.choices(observation(learner="dqn"), "classic/cartpole") is None
    assert teacher.choices(observation(names="anonymous"), "classic/cartpole") is None
    assert not Teacher({})


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"classic/cartpol": SETTINGS["classic/cartpole"]}, UnknownName, "classic/cartpole"),
        ({"classic/cartpole": {"learning_rat": 0.1}}, UnknownName, "learning_rate"),
        ({"classic/cartpole": {"learning_rate": 0.1}}, InvalidConfiguration, "all hot hyperparameters"),
    ],
)
def test_mistakes_are_named(settings: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Teacher(settings)


def test_every_recorded_state_becomes_an_example(collection: Path) -> None:
    states = read_rows(collection, "states", "train")
    rows = taught_rows(collection, Teacher(SETTINGS), hidden=0.5)
    assert len(rows) == len(states)
    shown = [row["prompt"] == plain(state["text"]) for row, state in zip(rows, states, strict=True)]
    assert 0 < sum(shown) < len(rows)
    for row, state, named in zip(rows, states, shown, strict=True):
        assert named or row["prompt"] == plain(hide_task(state["text"]))
        choices = read_completion(row["completion"], names_in(state["text"]))
        goal = SETTINGS[row["base"]]["learning_rate"]
        before = state["values"][SPACE.index("learning_rate")]
        after = apply(SPACE, state["values"], np.array(choices, dtype=np.int8))[SPACE.index("learning_rate")]
        assert abs(np.log(after / goal)) <= abs(np.log(before / goal)) + 1e-9
    left = taught_rows(collection, Teacher(SETTINGS), without=("classic/acrobot",))
    assert {row["base"] for row in left} == {"classic/cartpole"}
    assert len(thin(rows, 0.0, 0)) == sum(not row["keep"] for row in rows)
    with pytest.raises(InvalidConfiguration, match="knows none"):
        taught_rows(collection, Teacher({"classic/pendulum": SETTINGS["classic/cartpole"]}))


@other_warnings
def test_sft_learns_from_it(start: Path, collection: Path, tmp_path: Path) -> None:
    changes = {
        "steps": 30, "batch": 8, "evaluate_every": 15, "evaluation_states": 2, "device": "cpu", "learning_rate": 3e-3,
        "teacher": SETTINGS, "hidden_tasks": 0.25,
    }  # fmt: skip
    done = train_sft(read_recipe(SftRecipe, changes=changes), str(start), collection, tmp_path / "sft")
    lines = [json.loads(line) for line in (tmp_path / "sft" / "log.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert done.metrics["loss"] == min(losses) < 0.7 * losses[0]
    assert json.loads((tmp_path / "sft" / "recipe.json").read_text())["teacher"] == SETTINGS


def test_its_pull_fades(start: Path, tmp_path: Path) -> None:
    """With nothing else to go by, the policy comes to choose as the teacher does; after its steps there is no pull."""
    changes = {
        "tasks": ["classic/cartpole"], "steps": 4, "batch": 2, "members": 2, "processes": 1, "decisions": 2,
        "inner_steps": 1024, "evaluation_episodes": 1, "value_first": 0, "evaluate_every": 4, "evaluation_seeds": 1,
        "learning_rate": 3e-3, "epochs": 2, "target_kl": 100.0, "temperature": 1.0, "device": "cpu",
        "teacher": SETTINGS, "teacher_steps": 3, "teacher_weight": 5.0, "tracks": {"random": 1},
    }  # fmt: skip
    train_multistep(read_recipe(MultistepRecipe, changes=changes), str(start), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    pulls = [line["pull"] for line in lines if "pull" in line]
    assert len(pulls) == 4
    assert pulls[0] > pulls[1] > pulls[2] > pulls[3] == 0.0


def test_the_pull_is_the_loss_of_imitation(start: Path, tmp_path: Path) -> None:
    from agents.training.tuning import load_start

    changes = {"tasks": ["classic/cartpole"], "device": "cpu", "teacher": SETTINGS, "teacher_steps": 4, "batch": 2,
               "members": 2, "processes": 1, "decisions": 2, "inner_steps": 1024, "evaluation_episodes": 1}  # fmt: skip
    run = _Run(read_recipe(MultistepRecipe, changes=changes), tmp_path, *load_start(str(start), "cpu", 0))
    with Playground(run._endless(), 1) as ground:
        episodes = ground.play(run.policies, "train", 2)
    (group,), _ = run._flatten(episodes)
    scores = torch.randn(len(group.rows), len(group.names), 7, dtype=torch.float64)
    index, run.step = torch.arange(len(group.rows)), 1
    chosen = scores.softmax(dim=-1).gather(-1, group.taught[..., None]).squeeze(-1)
    torch.testing.assert_close(run._pull(group, index, scores), -0.75 * chosen.log().mean())
    group.taught[:] = -1
    assert float(run._pull(group, index, scores)) == 0.0


def test_the_committed_recipes_have_the_settings_that_the_search_found() -> None:
    found = json.loads((RECIPES.parent / "static.json").read_text())["tasks"]
    settings = {task: each["values"] for task, each in found.items()}
    for stage in ("sft", "multistep"):
        assert tomllib.loads((RECIPES / f"{stage}.toml").read_text())["teacher"] == settings
