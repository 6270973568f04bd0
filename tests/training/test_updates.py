"""What is tried, what is done, and what it comes to: candidates, schedules, tagged actions, continuations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agents.training.branch_sets import try_updates
from agents.training.candidates import draw_candidates
from agents.training.schedule import RandomSchedule
from agents.training.tagged import Tagged, TaggedReader, apply, discrete, keep, nearest
from hpbench import learners
from hpbench.control.episode import EnvOptions, EpisodeBatch
from hpbench.errors import InvalidAction, InvalidConfiguration
from hpbench.hyperparameter import KEEP, MULTIPLIERS, HyperparameterSpace

SPACE = learners.make("ppo").hyperparameters
DEFAULTS = list(SPACE.defaults().values())
OPTIONS = {"task": "classic/cartpole", "decisions": 4, "steps": 2048, "evaluation_episodes": 4, "device": "cpu"}


def make_batch(seeds: list[int]) -> EpisodeBatch:
    batch = EpisodeBatch(EnvOptions.parse(OPTIONS), seeds)
    batch.setting.reader = TaggedReader(batch.setting.hyperparameters)
    batch.reset()
    return batch


def test_every_kind_of_action_in_one_batch() -> None:
    batch = make_batch([0, 1, 2, 3])
    halve = {
        "delta": np.array([-0.5, *[0.0] * 8], dtype=np.float32),
        "absolute": np.array(
            [
                item.to_action(v / 2 if i == 0 else v)
                for i, (item, v) in enumerate(zip(SPACE.values(), DEFAULTS, strict=True))
            ],
            dtype=np.float32,
        ),
        "discrete": np.array([1, *[KEEP] * 8]),
        "text": '{"learning_rate": "x0.5"}',
    }
    batch.step([Tagged(kind, action) for kind, action in halve.items()])
    assert batch.population.values()["learning_rate"].tolist() == [DEFAULTS[0] / 2] * 4
    with pytest.raises(InvalidAction, match="expected a tagged action"):
        batch.step([halve["delta"]] * 4)


def test_choices_are_found_again() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        choices = generator.integers(0, len(MULTIPLIERS), len(SPACE.hot)).astype(np.int8)
        after = apply(SPACE, DEFAULTS, choices)
        again = nearest(SPACE, DEFAULTS, after)
        assert apply(SPACE, DEFAULTS, again) == after
    assert nearest(SPACE, DEFAULTS, DEFAULTS).tolist() == [KEEP] * 9
    target = list(DEFAULTS)
    target[0] *= 1.9
    assert nearest(SPACE, DEFAULTS, target).tolist() == [MULTIPLIERS.index(2.0), *[KEEP] * 8]


def test_candidates_differ_in_what_they_do() -> None:
    batch = make_batch([0])
    spec = batch.specs[0]
    low = [item.low for item in SPACE.values()]  # half of all changes are cut there
    own = apply(SPACE, low, np.array([6, *[KEEP] * 8], dtype=np.int8))
    seen: set[str] = set()
    for seed in range(20):
        found = draw_candidates(np.random.default_rng(seed), spec, low, own, 12)
        effects = [apply(SPACE, low, choices) for choices in found.choices]
        assert len(set(effects)) == 12
        assert found.origins[:2] == ("keep", "own")
        assert effects[0] == tuple(low)
        assert effects[1] == own
        seen |= set(found.origins)
    assert seen == {"keep", "own", "default", "tuned", "single", "several"}
    kept = draw_candidates(np.random.default_rng(0), spec, low, low, 12)
    assert "own" not in kept.origins
    again = draw_candidates(np.random.default_rng(0), spec, low, low, 12)
    assert all(map(np.array_equal, kept.choices, again.choices))


def test_more_candidates_than_there_are() -> None:
    spec = replace(make_batch([0]).specs[0], hyperparameters=HyperparameterSpace(SPACE["clip_range"]))
    assert len(draw_candidates(np.random.default_rng(0), spec, [0.1], [0.1], 7).choices) == 7
    with pytest.raises(InvalidConfiguration, match="fewer than 8 updates"):
        draw_candidates(np.random.default_rng(0), spec, [0.1], [0.1], 8)


def test_schedules_hold_drift_jitter_destroy_and_recover() -> None:
    spec = make_batch([0]).specs[0]
    schedule, broken, mended, kept = RandomSchedule(), 0, 0, 0
    for seed in range(60):
        schedule.reset(spec, seed)
        updates = [schedule.act(None) for _ in range(20)]
        schedule.reset(spec, seed)
        assert all(np.array_equal(schedule.act(None), update) for update in updates)
        assert all(update.min() >= 0 and update.max() <= 6 for update in updates)
        kept += sum((update == KEEP).all() for update in updates)
        extreme = [
            i for i, update in enumerate(updates) if set(update.tolist()) <= {0, KEEP, 6} and (update != KEEP).any()
        ]
        broken += bool(extreme)
        mended += any(np.array_equal(6 - updates[i], updates[j]) for i in extreme for j in extreme if j > i)
    assert broken > 30
    assert mended > 20
    assert 300 < kept < 900


def test_equal_updates_gain_nothing_in_any_continuation() -> None:
    """Common random numbers: two branches with one update are the same, continuation by continuation."""
    batch = make_batch([5, 6])
    batch.step([discrete(keep(SPACE))] * 2)
    double = keep(SPACE)
    double[0] = MULTIPLIERS.index(2.0)
    before = batch.population.digests()
    found = try_updates(batch, [[keep(SPACE), keep(SPACE), double]] * 2, seeds=3, horizon=2, evaluation_episodes=4)
    assert batch.population.digests() == before
    for branches in found:
        assert branches.scores.shape == (3, 3, 2)
        np.testing.assert_array_equal(branches.scores[0], branches.scores[1])
        np.testing.assert_array_equal(branches.training_scores[0], branches.training_scores[1])
        assert len({tuple(row) for row in branches.scores[0].tolist()}) == 3  # continuations are different futures
        assert not np.array_equal(branches.scores[0], branches.scores[2])
        assert branches.steps == 3 * 3 * 2 * 512
    after = batch.spawn([0, 1])
    result: Any = after.step([discrete(keep(SPACE)), discrete(double)])
    scores = [info["hpbench"]["score"] for info in result.infos]
    assert np.float32(scores[0]) == found[0].scores[0, 0, 0]
    assert np.float32(scores[1]) == found[1].scores[2, 0, 0]
    np.testing.assert_array_equal(np.float32(after.training_scores()[1]), found[1].training_scores[2, 0, 0])
