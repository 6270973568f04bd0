"""Tracks, tasks drawn from a split, options and budgets."""

from __future__ import annotations

import dataclasses
import json

import pytest

from hpbench import tasks
from hpbench.control.options import AUTO_CUDA_MEMBERS, EnvOptions, make_plan, resolve_device
from hpbench.control.tracks import (
    CONFIGURATIONS,
    INITIAL_RANGES,
    configurations,
    initial_values,
    shift_decision,
    shifted_task,
    starting_task,
)
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.learners.ppo import PPO

SPACE = PPO.hyperparameters


def test_random_draws_from_a_fixed_list_inside_the_ranges() -> None:
    rows = configurations("ppo", SPACE)
    assert len(rows) == CONFIGURATIONS == len({tuple(row.values()) for row in rows})
    for row in rows:
        for name, value in row.items():
            low, high = INITIAL_RANGES["ppo"][name]
            assert low <= value <= high
            assert SPACE[name].canonical(value) == value
    drawn = [initial_values("random", "ppo", SPACE, seed) for seed in range(300)]
    assert all(values in rows for values in drawn)
    assert len({tuple(values.values()) for values in drawn}) > 0.9 * CONFIGURATIONS


def test_random_covers_each_scale_evenly() -> None:
    for name in ("learning_rate", "discount"):
        low, high = (SPACE[name].to_unit(bound) for bound in INITIAL_RANGES["ppo"][name])
        shares = [(SPACE[name].to_unit(row[name]) - low) / (high - low) for row in configurations("ppo", SPACE)]
        assert 0.4 < sum(shares) / len(shares) < 0.6
        assert min(shares) < 0.1
        assert max(shares) > 0.9


def test_the_ranges_of_ppo_cover_all_its_hyperparameters() -> None:
    assert tuple(INITIAL_RANGES["ppo"]) == SPACE.hot


def test_a_learner_without_ranges_draws_from_the_whole_range_and_keeps_frozen_values() -> None:
    space = HyperparameterSpace(
        Hyperparameter("rate", 1e-5, 1e-1, 1e-3, "log"), Hyperparameter("size", 1, 9, 3, integer=True, hot=False)
    )
    values = [initial_values("random", "other", space, seed) for seed in range(100)]
    assert {row["size"] for row in values} == {3.0}
    assert min(row["rate"] for row in values) < 1e-4
    assert max(row["rate"] for row in values) > 1e-2


@pytest.mark.parametrize("track", ["default", "shift"])
def test_the_other_tracks_start_from_the_defaults(track: str) -> None:
    assert initial_values(track, "ppo", SPACE, 5) == SPACE.defaults()


@pytest.mark.parametrize("decisions", [2, 3, 4, 5, 10, 20, 40])
def test_the_shift_comes_between_three_and_seven_tenths(decisions: int) -> None:
    drawn = {shift_decision(decisions, seed) for seed in range(200)}
    inside = {d for d in range(1, decisions) if 0.3 - 1e-9 <= d / decisions <= 0.7 + 1e-9}
    assert drawn == inside


def test_the_shift_leads_to_another_variant_of_the_same_task() -> None:
    standard = tasks.make("classic/cartpole")
    names = {shifted_task(standard, "standard", seed).id for seed in range(300)}
    assert all(name.startswith("classic/cartpole@test-") for name in names)
    assert len(names) > 50
    assert shifted_task(standard, "train", 0).id.startswith("classic/cartpole@train-")
    variant = tasks.make("classic/cartpole@validation-3")
    names = {shifted_task(variant, "train", seed).id for seed in range(300)}
    assert all(name.startswith("classic/cartpole@validation-") for name in names)
    assert variant.id not in names


def test_without_a_task_the_seed_draws_one_of_the_split() -> None:
    drawn = {starting_task(EnvOptions(), seed).id for seed in range(60)}
    assert drawn == set(tasks.task_ids("classic"))
    variants = {starting_task(EnvOptions(split="validation"), seed).id for seed in range(60)}
    assert variants <= set(tasks.task_ids("classic", "validation"))
    assert len(variants) > 30
    assert starting_task(EnvOptions(task="classic/acrobot@train-4", split="test"), 0).id == "classic/acrobot@train-4"


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"track": "shfit"}, "shift"),
        ({"tier": "smal"}, "small"),
        ({"observation": "vectr"}, "vector"),
        ({"action": "Delta"}, "delta"),
        ({"reward": "progres"}, "progress"),
        ({"names": "anonymos"}, "anonymous"),
        ({"split": "tests"}, "test"),
        ({"device": "cdua"}, "cuda"),
        ({"trak": "shift"}, "track"),
    ],
)
def test_unknown_words_name_the_near_misses(options: dict[str, str], near: str) -> None:
    with pytest.raises(UnknownName, match=near):
        EnvOptions.parse(options)


@pytest.mark.parametrize(
    "options",
    [
        {"decisions": 0},
        {"steps": -5},
        {"evaluation_episodes": 2.5},
        {"decisions": True},
        {"steps": "5000"},
        {"task": 3},
        {"family": None},
        {"track": None},
        {"engine": 1},
        {"learner_config": [1]},
        {"learner_config": {"hidden": {1, 2}}},
        {"learner_config": {"num_envs": float("nan")}},
    ],
)
def test_wrong_types_and_ranges_are_errors_that_name_the_option(options: dict[str, object]) -> None:
    with pytest.raises(InvalidConfiguration, match=next(iter(options))):
        EnvOptions.parse(options)


@pytest.mark.parametrize("task", ["classic/cartpol", "cartpole", "clasic/cartpole", "classic/cartpole@train-999"])
def test_unknown_tasks_are_errors_that_name_the_near_misses(task: str) -> None:
    with pytest.raises(UnknownName, match="classic|train"):
        starting_task(EnvOptions(task=task), 0)


def test_a_task_of_another_family_is_an_error() -> None:
    with pytest.raises(InvalidConfiguration, match="family"):
        starting_task(EnvOptions(task="classic/cartpole", family="grid"), 0)
    with pytest.raises(UnknownName, match="classic"):
        starting_task(EnvOptions(family="clasic"), 0)


def test_options_are_json_values() -> None:
    options = EnvOptions(task="classic/cartpole", decisions=4, learner_config={"hidden": (32, 32)})
    assert EnvOptions.parse(json.loads(json.dumps(options.to_dict()))) == options
    assert dataclasses.asdict(options) == options.to_dict()


def test_a_budget_of_whole_rollouts_is_met_to_the_step() -> None:
    plan = make_plan(EnvOptions(), 51_200, 20, 512)
    assert (plan.decisions, plan.rollouts, plan.steps, plan.evaluation_episodes) == (20, 5, 51_200, 10)
    assert make_plan(EnvOptions(steps=1024, decisions=2, evaluation_episodes=3), 51_200, 20, 512).rollouts == 1


@pytest.mark.parametrize(
    ("steps", "decisions", "words"),
    [
        (50_000, 20, ["steps=40960", "steps=51200"]),
        (100, 20, ["steps=10240"]),
        (51_200, 30, ["steps=46080", "steps=61440", "decisions=25", "decisions=50"]),
        (512, 3, ["steps=1536", "decisions=1"]),
    ],
)
def test_any_other_budget_is_an_error_that_names_the_nearest_valid_ones(
    steps: int, decisions: int, words: list[str]
) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        make_plan(EnvOptions(steps=steps, decisions=decisions), 1, 1, 512)
    for word in words:
        assert word in str(caught.value)
        name, value = word.split("=")
        fixed = {"steps": steps, "decisions": decisions, name: int(value)}
        assert make_plan(EnvOptions(**fixed), 1, 1, 512).steps == fixed["steps"]  # type: ignore[arg-type]


def test_shift_needs_two_decisions() -> None:
    with pytest.raises(InvalidConfiguration, match="decisions >= 2"):
        make_plan(EnvOptions(track="shift", decisions=1), 512, 1, 512)


def test_auto_runs_single_environments_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert resolve_device("auto", 1) == "cpu"
    assert resolve_device("auto", AUTO_CUDA_MEMBERS) == "cuda"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert resolve_device("auto", 1000) == "cpu"


def test_a_missing_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert resolve_device("cuda:0", 1) == "cuda:0"
    with pytest.raises(InvalidConfiguration, match="cuda:1"):
        resolve_device("cuda:1", 1)


def test_a_task_with_a_split_is_a_variant_drawn_by_the_seed() -> None:
    options = EnvOptions(task="classic/acrobot@validation")
    drawn = [starting_task(options, seed).id for seed in range(20)]
    assert drawn == [starting_task(options, seed).id for seed in range(20)]
    assert len(set(drawn)) > 10
    assert all(name.startswith("classic/acrobot@validation-") for name in drawn)
    assert starting_task(EnvOptions(task="classic/acrobot@validation-3"), 0).id == "classic/acrobot@validation-3"
    with pytest.raises(UnknownName, match="classic/acrobot"):
        starting_task(EnvOptions(task="classic/acrobt@train"), 0)
    with pytest.raises(UnknownName, match="train"):
        starting_task(EnvOptions(task="classic/acrobot@trian"), 0)
