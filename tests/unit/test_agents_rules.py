"""What each agent does, decision by decision, on observations with known numbers and the environment's own actions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from agents.decay import CosineDecay, LinearDecay
from agents.delta import delta_towards
from agents.fixed import HandTuned, LibraryDefault
from agents.kl_adaptive import KLAdaptive
from agents.plateau import Plateau
from agents.random_search import StaticRandom
from agents.random_updates import RandomMatched, RandomUpdates
from hpbench import tasks
from hpbench.agent import AgentSpec
from hpbench.control.action import make_reader
from hpbench.control.observation import Schema
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.learners.ppo import HYPERPARAMETERS

SCHEMA = Schema("ppo", HYPERPARAMETERS)
START = HYPERPARAMETERS.check(
    HYPERPARAMETERS.defaults() | {"learning_rate": 2.345e-3, "discount": 0.97, "update_epochs": 7}
)


def spec_of(action: str, decisions: int = 10, task: str = "classic/cartpole") -> AgentSpec:
    """What the environment would tell the agent."""
    return AgentSpec(
        task=tasks.make(task),
        learner="ppo",
        hyperparameters=HYPERPARAMETERS,
        observation_space=SCHEMA.box(),
        action_space=make_reader(action, HYPERPARAMETERS).space(),
        schema=SCHEMA,
        decisions=decisions,
        steps=decisions * 1000,
        track="default",
    )


def observation_of(values: Mapping[str, float], **features: float) -> Any:
    """A vector observation with these hyperparameters and features; all others are masked."""
    raw = np.full((1, len(SCHEMA)), np.nan)
    for name, value in features.items():
        raw[0, SCHEMA.column(name)] = value
    for name, value in values.items():
        raw[0, SCHEMA.column(f"hp_{name}")] = HYPERPARAMETERS[name].to_unit(value)
    return SCHEMA.encode(raw).vectors()[0]


class Episode:
    """A meta-episode without a learner: actions change the values as the environment would change them."""

    def __init__(self, agent: Any, decisions: int = 10, start: Mapping[str, float] = START, seed: int = 0) -> None:
        self.agent, self.decisions, self.values = agent, decisions, dict(start)
        self.reader = make_reader(agent.action, HYPERPARAMETERS)
        self.done = 0
        agent.reset(spec_of(agent.action, decisions), seed)

    def step(self, **features: float) -> dict[str, float]:
        """One decision; the values afterwards."""
        progress = {"budget_fraction": self.done / self.decisions}
        action = self.agent.act(observation_of(self.values, **progress, **features))
        assert self.reader.space().contains(action)
        update = self.reader.read(action, list(self.values.values()))
        assert update.clipped == ()
        self.values = dict(zip(self.values, update.values, strict=True))
        self.done += 1
        return self.values

    def others_are_kept(self, start: Mapping[str, float] = START) -> bool:
        """Whether everything but the learning rate is exactly as at the start."""
        return all(self.values[name] == start[name] for name in start if name != "learning_rate")


def test_library_default_keeps_every_start_exactly() -> None:
    episode = Episode(LibraryDefault())
    for _ in range(3):
        assert episode.step() == START


@pytest.mark.parametrize("name", tasks.task_ids("classic"))
def test_hand_tuned_jumps_to_the_published_values_and_stays(name: str) -> None:
    agent = HandTuned()
    agent.reset(spec_of("absolute", task=name), 0)
    reader = make_reader("absolute", HYPERPARAMETERS)
    published = HYPERPARAMETERS.check(tasks.make(name).hand_tuned["ppo"].values)
    expected = HYPERPARAMETERS.defaults() | published
    for start in (START, HYPERPARAMETERS.defaults()):
        update = reader.read(agent.act(observation_of(start)), list(start.values()))
        assert dict(zip(HYPERPARAMETERS, update.values, strict=True)) == expected


def test_hand_tuned_on_a_variant_uses_the_values_of_its_base() -> None:
    base, variant = HandTuned(), HandTuned()
    base.reset(spec_of("absolute"), 0)
    variant.reset(spec_of("absolute", task="classic/cartpole@train-3"), 0)
    np.testing.assert_array_equal(base.act(None), variant.act(None))
    bare = dataclasses.replace(tasks.make("classic/cartpole@train-3"), hand_tuned={})
    variant.reset(dataclasses.replace(spec_of("absolute"), task=bare), 0)
    np.testing.assert_array_equal(base.act(None), variant.act(None))


def test_hand_tuned_without_values_names_task_and_learner() -> None:
    bare = dataclasses.replace(tasks.make("classic/cartpole"), hand_tuned={})
    with pytest.raises(InvalidConfiguration, match=r"classic/cartpole.*'ppo'"):
        HandTuned().reset(dataclasses.replace(spec_of("absolute"), task=bare), 0)


def test_static_random_draws_once_per_seed_and_keeps_it() -> None:
    episode = Episode(StaticRandom(), seed=5)
    first = episode.step()
    assert first != START
    assert all(episode.step() == first for _ in range(3))
    assert Episode(StaticRandom(), seed=5, start=HYPERPARAMETERS.defaults()).step() == first
    assert Episode(StaticRandom(), seed=6).step() != first


def test_static_random_is_uniform_in_unit_scale() -> None:
    agent, draws = StaticRandom(), []
    for seed in range(2000):
        agent.reset(spec_of("absolute"), seed)
        draws.append(agent.act(None))
    deciles = np.quantile(np.array(draws), np.linspace(0.1, 0.9, 9), axis=0)
    # The standard error of a decile of 2000 uniforms on [-1, 1] is at most 0.022.
    np.testing.assert_allclose(deciles, np.broadcast_to(np.linspace(-0.8, 0.8, 9)[:, None], deciles.shape), atol=0.1)


def test_random_updates_moves_everything_within_the_action_bounds() -> None:
    agent = RandomUpdates()
    agent.reset(spec_of("delta"), 0)
    deltas = np.array([agent.act(None) for _ in range(500)])
    assert deltas.dtype == np.float32
    assert (deltas != 0.0).all()
    assert -1.0 <= deltas.min() < -0.98
    assert 0.98 < deltas.max() <= 1.0
    assert abs(deltas.mean()) < 0.05


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.6, 1.0])
def test_random_matched_edits_at_the_given_rate(rate: float) -> None:
    agent = RandomMatched(edit_rate=rate)
    agent.reset(spec_of("delta"), 3)
    edited = np.array([agent.act(None) for _ in range(1000)]) != 0.0
    tolerance = 4.0 * math.sqrt(rate * (1.0 - rate) / edited.size)
    assert edited.mean() == pytest.approx(rate, abs=tolerance)
    if 0.0 < rate < 1.0:
        per_decision = edited.sum(axis=1)
        binomial = edited.shape[1] * rate * (1.0 - rate)
        assert per_decision.var() == pytest.approx(binomial, rel=0.2)  # edits are independent of one another


def test_random_matched_defaults_to_a_quarter() -> None:
    assert RandomMatched().edit_rate == 0.25


@pytest.mark.parametrize("final_fraction", [0.0, 0.1, 1.0])
def test_linear_decay_follows_its_formula(final_fraction: float) -> None:
    episode = Episode(LinearDecay(final_fraction))
    start = START["learning_rate"]
    for k in range(10):
        expected = start * (1.0 - (1.0 - final_fraction) * k / 10)
        assert episode.step()["learning_rate"] == pytest.approx(expected, rel=1e-4)
    assert episode.others_are_kept()


@pytest.mark.parametrize("final_fraction", [0.0, 0.3])
def test_cosine_decay_follows_its_formula(final_fraction: float) -> None:
    episode = Episode(CosineDecay(final_fraction))
    start = START["learning_rate"]
    for k in range(10):
        share = final_fraction + (1.0 - final_fraction) * (1.0 + math.cos(math.pi * k / 10)) / 2.0
        assert episode.step()["learning_rate"] == pytest.approx(start * share, rel=1e-4)
    assert episode.others_are_kept()


def test_decay_keeps_the_start_in_the_first_segment_exactly() -> None:
    for agent in (LinearDecay(), CosineDecay()):
        assert Episode(agent).step() == START


def test_decay_stops_at_the_bound_without_being_clipped() -> None:
    start = START | {"learning_rate": 2e-5}
    episode = Episode(CosineDecay(), decisions=20, start=start)
    rates = [episode.step()["learning_rate"] for _ in range(20)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == HYPERPARAMETERS["learning_rate"].low


def test_decay_that_falls_faster_than_a_delta_reaches_catches_up() -> None:
    episode = Episode(LinearDecay(), decisions=10)
    episode.step()
    episode.done = 9
    start = START["learning_rate"]
    assert episode.step()["learning_rate"] == pytest.approx(start / 4.0, rel=1e-4)
    assert episode.step()["learning_rate"] < start / 4.0


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(0.0, 1.5), (0.0049, 1.5), (0.0051, 1.0), (0.01, 1.0), (0.0199, 1.0), (0.0201, 1 / 1.5), (3.0, 1 / 1.5)],
)
def test_kl_adaptive_reacts_outside_its_band_only(kl: float, factor: float) -> None:
    episode = Episode(KLAdaptive())
    values = episode.step(approx_kl=kl)
    assert values["learning_rate"] == pytest.approx(START["learning_rate"] * factor, rel=1e-4)
    assert (values["learning_rate"] == START["learning_rate"]) == (factor == 1.0)
    assert episode.others_are_kept()


def test_kl_adaptive_uses_target_and_factor() -> None:
    episode = Episode(KLAdaptive(target=0.1, factor=3.0))
    assert episode.step(approx_kl=0.04)["learning_rate"] == pytest.approx(START["learning_rate"] * 3.0, rel=1e-4)
    assert episode.step(approx_kl=0.21)["learning_rate"] == pytest.approx(START["learning_rate"], rel=1e-4)


def test_kl_adaptive_keeps_all_before_anything_is_measured() -> None:
    assert Episode(KLAdaptive()).step() == START


def test_kl_adaptive_stays_inside_the_bounds() -> None:
    for kl, bound in ((0.0, HYPERPARAMETERS["learning_rate"].high), (1.0, HYPERPARAMETERS["learning_rate"].low)):
        episode = Episode(KLAdaptive(factor=4.0))
        for _ in range(12):
            values = episode.step(approx_kl=kl)
        assert values["learning_rate"] == bound


def test_plateau_cuts_after_its_patience_and_counts_anew() -> None:
    episode, start = Episode(Plateau(patience=1, factor=0.5, threshold=0.01)), START["learning_rate"]
    scores = [0.10, 0.30, 0.305, 0.30, 0.29, 0.28, 0.50, 0.50]
    shares = [1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25]
    for score, share in zip(scores, shares, strict=True):
        assert episode.step(score=score)["learning_rate"] == pytest.approx(start * share, rel=1e-3)
    assert episode.others_are_kept()


def test_plateau_agrees_with_the_scheduler_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    scores = np.random.default_rng(0).uniform(-1.0, 1.0, 40).round(3).tolist()
    for patience, factor, threshold in ((0, 0.5, 0.0), (2, 0.25, 0.05), (3, 0.9, 0.2)):
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=START["learning_rate"])
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, "max", factor=factor, patience=patience, threshold=threshold, threshold_mode="abs", min_lr=1e-5
        )
        episode = Episode(Plateau(patience, factor, threshold), decisions=40)
        for score in scores:
            scheduler.step(score)
            ours = episode.step(score=score)["learning_rate"]
            assert ours == pytest.approx(optimiser.param_groups[0]["lr"], rel=2e-3)


def test_plateau_leaves_out_segments_without_a_finished_episode() -> None:
    episode = Episode(Plateau(patience=0))
    episode.step(score=0.5)
    for _ in range(4):
        assert episode.step() == START
    assert episode.step(score=0.5)["learning_rate"] < START["learning_rate"]


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (RandomMatched, {"edit_rate": -0.1}),
        (RandomMatched, {"edit_rate": 1.1}),
        (RandomMatched, {"edit_rate": math.nan}),
        (LinearDecay, {"final_fraction": -0.1}),
        (LinearDecay, {"final_fraction": 1.5}),
        (CosineDecay, {"final_fraction": math.nan}),
        (KLAdaptive, {"target": 0.0}),
        (KLAdaptive, {"target": math.nan}),
        (KLAdaptive, {"target": math.inf}),
        (KLAdaptive, {"factor": 1.0}),
        (KLAdaptive, {"factor": 4.5}),
        (Plateau, {"patience": -1}),
        (Plateau, {"patience": 1.5}),
        (Plateau, {"patience": True}),
        (Plateau, {"factor": 1.0}),
        (Plateau, {"factor": 0.1}),
        (Plateau, {"threshold": -0.1}),
        (Plateau, {"threshold": math.inf}),
    ],
)
def test_arguments_outside_their_range_are_refused_by_name(make: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfiguration, match=next(iter(arguments))):
        make(**arguments)


@pytest.mark.parametrize("agent", [LinearDecay(), CosineDecay(), KLAdaptive(), Plateau()])
def test_learners_without_a_hot_learning_rate_are_refused(agent: Any) -> None:
    frozen = HyperparameterSpace(
        *(dataclasses.replace(item, hot=item.name != "learning_rate") for item in HYPERPARAMETERS.values())
    )
    with pytest.raises(InvalidConfiguration, match="learning_rate"):
        agent.reset(dataclasses.replace(spec_of("delta"), hyperparameters=frozen), 0)


def test_kl_adaptive_needs_a_learner_that_measures_a_divergence() -> None:
    spec = dataclasses.replace(spec_of("delta"), schema=Schema("dqn", HYPERPARAMETERS))
    with pytest.raises(UnknownName, match="approx_kl"):
        KLAdaptive().reset(spec, 0)


@pytest.mark.parametrize(
    "item",
    [
        Hyperparameter("a", 1e-5, 1e-1, 1e-3, "log"),
        Hyperparameter("b", 0.8, 0.9999, 0.99, "log1m"),
        Hyperparameter("c", -1.0, 3.0, 0.0, "linear"),
    ],
    ids=lambda item: str(item.scale),
)
def test_delta_towards_is_the_inverse_of_shift(item: Hyperparameter) -> None:
    for unit in np.linspace(0.05, 0.95, 7).tolist():
        value = item.from_unit(unit)
        assert delta_towards(item, value, value) == 0.0
        for action in (-0.9, -0.2, 0.1, 0.7):
            target, clipped = item.shift(value, action)
            if not clipped:
                reached, _ = item.shift(value, delta_towards(item, value, target))
                assert reached == pytest.approx(target, rel=1e-4)
    assert delta_towards(item, item.low, item.high * 100.0) == delta_towards(item, item.low, item.high)
    assert isinstance(spec_of("delta").action_space, gym.spaces.Box)
