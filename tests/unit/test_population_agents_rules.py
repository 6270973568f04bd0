"""The rules of PBT and PB2 on standings whose right answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from agents.pb2 import PB2
from agents.pbt import PBT
from hpbench import learners, tasks
from hpbench.agent import PopulationSpec
from hpbench.control.observation import Schema
from hpbench.control.population_view import PopulationSchema, Standing, standings
from hpbench.errors import InvalidConfiguration, MissingExtra
from hpbench.hyperparameter import HyperparameterSpace

PPO = learners.make("ppo").hyperparameters
HOT = [PPO[name] for name in PPO.hot]
STARTS = [
    {name: item.from_unit(0.2 + 0.05 * m) for name, item in PPO.items()} for m in range(8)
]  # a prior from 0.2 to 0.55


def make_spec(members: int = 8, space: HyperparameterSpace = PPO) -> PopulationSpec:
    return PopulationSpec(
        task=tasks.make("classic/cartpole"),
        learner="ppo",
        hyperparameters=space,
        observation_space=spaces.Discrete(1),
        action_space=spaces.Discrete(1),
        schema=PopulationSchema(Schema("ppo", space), members),
        decisions=10,
        steps=1024,
        track="random",
        members=tuple(f"member_{m}" for m in range(members)),
    )


def observe(
    spec: PopulationSpec, scores: list[float], values: Any, running: list[bool] | None = None
) -> dict[str, Any]:
    """Observations of all running members."""
    running = [True] * len(scores) if running is None else running
    single = spec.schema.single
    raw = np.full((len(scores), len(single)), math.nan)
    for m, row in enumerate(values):
        for name, value in row.items():
            raw[m, single.column(f"hp_{name}")] = spec.hyperparameters[name].to_unit(value)
    encoded = spec.schema.encode(single.encode(raw).vectors(), standings(scores, running))
    return {name: o for name, o, alive in zip(spec.members, encoded, running, strict=True) if alive}


def start(agent: Any, seed: int = 0, **options: Any) -> PopulationSpec:
    spec = make_spec(**options)
    agent.reset_population(spec, seed)
    first = agent.act_population(observe(spec, [math.nan] * len(spec.members), STARTS[: len(spec.members)]))
    assert [action["copy_from"] for action in first.values()] == list(range(len(spec.members)))
    return spec


def values_of(action: Any) -> list[float]:
    return [item.from_action(float(x)) for item, x in zip(HOT, action["update"], strict=True)]


SCORES = [0.1, 0.8, 0.3, 0.4, 0.2, 0.7, 0.5, 0.6]


@pytest.mark.parametrize("agent_type", [PBT, PB2])
def test_the_lower_quarter_copies_the_upper_quarter(agent_type: Any) -> None:
    sources: dict[int, set[int]] = {0: set(), 4: set()}
    for seed in range(20):
        agent = agent_type()
        spec = start(agent, seed)
        actions = list(agent.act_population(observe(spec, SCORES, STARTS)).values())
        for m, action in enumerate(actions):
            if m in sources:
                sources[m].add(action["copy_from"])
            else:
                assert action["copy_from"] == m
                assert values_of(action) == [STARTS[m][item.name] for item in HOT]
    assert sources == {0: {1, 5}, 4: {1, 5}}


def test_pbt_perturbs_what_it_copied() -> None:
    agent = PBT(resample_probability=0.0)
    spec = start(agent)
    actions = list(agent.act_population(observe(spec, SCORES, STARTS)).values())
    seen = set()
    for m in (0, 4):
        copied = STARTS[actions[m]["copy_from"]]
        for item, value in zip(HOT, values_of(actions[m]), strict=True):
            factors = {item.multiply(copied[item.name], factor)[0]: factor for factor in (0.8, 1.25)}
            assert value in factors
            seen.add(factors[value])
    assert seen == {0.8, 1.25}


def test_pbt_resamples_inside_the_range_of_the_initial_values() -> None:
    agent = PBT(resample_probability=1.0)
    spec = start(agent)
    drawn = []
    for _ in range(50):
        actions = list(agent.act_population(observe(spec, SCORES, STARTS)).values())
        drawn += [
            [item.to_unit(v) for item, v in zip(HOT, values_of(actions[m]), strict=True) if not item.integer]
            for m in (0, 4)
        ]
    units = np.array(drawn)
    assert units.min() >= 0.2 - 1e-4
    assert units.max() <= 0.55 + 1e-4
    assert units.min() < 0.23
    assert units.max() > 0.52


@pytest.mark.parametrize("agent_type", [PBT, PB2])
def test_where_all_start_alike_copies_are_perturbed(agent_type: Any) -> None:
    agent, spec = agent_type(), make_spec()
    agent.resample_probability = 1.0
    agent.reset_population(spec, 0)
    for k in range(4):
        actions = list(agent.act_population(observe(spec, [k * score for score in SCORES], STARTS[:1] * 8)).values())
    for m in (0, 4):
        assert actions[m]["copy_from"] in (1, 5)
        assert not set(values_of(actions[m])) & {STARTS[0][item.name] for item in HOT}


def test_nobody_copies_equals_or_members_without_a_score() -> None:
    agent = PBT()
    spec = start(agent)
    for scores in ([1.0] * 8, [math.nan] * 8, [math.nan] * 7 + [0.5]):
        actions = agent.act_population(observe(spec, scores, STARTS))
        assert [action["copy_from"] for action in actions.values()] == list(range(8))


def test_ended_members_take_no_part() -> None:
    agent = PBT(quantile=0.5)
    spec = start(agent)
    running = [True, False, True, False, False, False, False, False]
    actions = agent.act_population(observe(spec, SCORES, STARTS, running))
    assert {name: action["copy_from"] for name, action in actions.items()} == {"member_0": 2, "member_2": 2}


def test_the_interval_counts_decisions() -> None:
    agent = PBT(interval=3)
    spec = start(agent)
    copied = []
    for _ in range(6):
        actions = list(agent.act_population(observe(spec, SCORES, STARTS)).values())
        copied.append(actions[0]["copy_from"] != 0)
    assert copied == [False, False, True, False, False, True]


@pytest.mark.parametrize("quantile", [0.2, 0.25])
def test_small_populations_have_one_of_each(quantile: float) -> None:
    agent = PBT(quantile)
    spec = start(agent, members=3)
    actions = list(agent.act_population(observe(spec, [0.3, 0.1, 0.2], STARTS[:3])).values())
    assert [action["copy_from"] for action in actions] == [0, 0, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        {"quantile": 0.0},
        {"quantile": 0.6},
        {"interval": 0},
        {"interval": 1.5},
        {"interval": True},
        {"resample_probability": 1.1},
        {"factors": ()},
        {"factors": (0.0, 1.25)},
    ],
)
def test_pbt_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfiguration, match=next(iter(arguments))):
        PBT(**arguments)


@pytest.mark.parametrize("arguments", [{"candidates": 0}, {"candidates": 1.0}, {"window": 1}, {"window": 2.5}])
def test_pb2_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfiguration, match=next(iter(arguments))):
        PB2(**arguments)


# -- PB2 ---------------------------------------------------------------------------------------------------------------


def learned_learning_rates(agent: PB2, best: float, seed: int, decisions: int = 8) -> list[float]:
    """Positions, in the prior, of the learning rates that PB2 chooses where the score rises the faster the nearer the
    learning rate is to ``best``, and nothing else matters."""
    spec = start(agent, seed)
    settings = [dict(row) for row in STARTS]
    scores, chosen = [0.0] * 8, []
    for decision in range(decisions):
        positions = [(PPO["learning_rate"].to_unit(row["learning_rate"]) - 0.2) / 0.35 for row in settings]
        scores = [s + 0.05 * (1.0 - (p - best) ** 2) for s, p in zip(scores, positions, strict=True)]
        before = list(scores)
        for m, action in enumerate(agent.act_population(observe(spec, scores, settings)).values()):
            settings[m] = dict(zip(PPO.hot, values_of(action), strict=True))
            if action["copy_from"] != m:
                scores[m] = before[action["copy_from"]]
                if decision >= 3:
                    chosen.append((PPO["learning_rate"].to_unit(settings[m]["learning_rate"]) - 0.2) / 0.35)
    return chosen


@pytest.mark.parametrize("best", [0.1, 0.9])
def test_pb2_finds_what_raises_the_score(best: float) -> None:
    pytest.importorskip("sklearn")
    chosen = np.concatenate([learned_learning_rates(PB2(), best, seed) for seed in range(3)])
    assert len(chosen) > 10
    assert abs(np.mean(chosen) - best) < 0.25 < abs(0.5 - best)
    assert chosen.min() >= -1e-3
    assert chosen.max() <= 1.001


def test_pb2_copies_of_one_step_are_not_alike() -> None:
    pytest.importorskip("sklearn")
    agent = PB2()
    spec = start(agent)
    for k in range(1, 4):
        scores = [k * score for score in SCORES]
        actions = list(agent.act_population(observe(spec, [s / 3 for s in scores], STARTS)).values())
    first, second = (np.asarray(actions[m]["update"]) for m in (0, 4))
    assert np.abs(first - second).max() > 0.1


def test_pb2_counts_a_copys_change_from_the_copied_score() -> None:
    pytest.importorskip("sklearn")
    agent = PB2()
    spec = start(agent)
    actions = list(agent.act_population(observe(spec, SCORES, STARTS)).values())
    source = actions[0]["copy_from"]
    agent.act_population(observe(spec, [0.9, *SCORES[1:]], STARTS))
    changes = [change for _, _, change in agent._data]
    assert len(changes) == 8
    assert changes[0] == pytest.approx(0.9 - SCORES[source], abs=1e-6)
    # Member 4 copied as well, and then scored less than what it copied.
    assert changes[4] == pytest.approx(SCORES[4] - SCORES[actions[4]["copy_from"]], abs=1e-6)
    assert [changes[m] for m in (1, 2, 3, 5, 6, 7)] == [0.0] * 6


def test_pb2_keeps_a_window_of_data() -> None:
    pytest.importorskip("sklearn")
    agent = PB2(window=2)
    spec = start(agent)
    for k in range(6):
        agent.act_population(observe(spec, [score + 0.01 * k for score in SCORES], STARTS))
    assert {time for time, *_ in agent._data} == {5, 6}


def test_pb2_without_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtra, match=r"hpbench\[pb2\]"):
        PB2().reset_population(make_spec(), 0)


def test_the_kernel_is_the_papers_and_its_gradient_is_right() -> None:
    pytest.importorskip("sklearn")
    from agents.time_kernel import TimeVaryingKernel

    generator = np.random.default_rng(0)
    points = np.column_stack((np.arange(6.0), generator.uniform(size=(6, 3))))
    kernel = TimeVaryingKernel(0.7, 0.2)
    covariance, gradient = kernel(points, eval_gradient=True)
    squared = float(((points[1, 1:] - points[4, 1:]) ** 2).sum())
    assert covariance[1, 4] == pytest.approx(math.exp(-squared / (2 * 0.7**2)) * 0.8 ** (3 / 2))
    np.testing.assert_allclose(np.diag(covariance), kernel.diag(points))
    np.testing.assert_array_equal(covariance, kernel(points, points))
    for column in range(2):
        moved = []
        for step in (1e-5, -1e-5):
            theta = kernel.theta.copy()
            theta[column] += step
            moved.append(kernel.clone_with_theta(theta)(points))
        np.testing.assert_allclose((moved[0] - moved[1]) / 2e-5, gradient[..., column], atol=1e-7)


# -- the view ----------------------------------------------------------------------------------------------------------


def test_ranks() -> None:
    rows = standings([0.5, math.nan, 0.9, 0.5, 2.0], [True, True, True, True, False])
    assert [row.rank for row in rows] == [2, 4, 1, 2, 4]
    assert [row.running for row in rows] == [True] * 4 + [False]


def test_the_schema_gives_back_what_was_encoded() -> None:
    schema = make_spec(4).schema
    rows = standings([0.123456, math.nan, -3.0, 7.0], [True, True, True, False])
    vectors = schema.single.encode(np.full((4, len(schema.single)), math.nan)).vectors()
    for m, observation in enumerate(schema.encode(vectors, rows)):
        assert observation in schema.box()
        found = schema.standings(observation)
        assert [(row.rank, row.running, row.own) for row in found] == [
            (row.rank, row.running, i == m) for i, row in enumerate(rows)
        ]
        scores = [row.score for row in found]
        assert scores == pytest.approx([0.123456, math.nan, -1.0, 2.0], abs=1e-6, nan_ok=True)
        assert schema.values(observation) == {}
    with pytest.raises(InvalidConfiguration, match="shape"):
        schema.standings(vectors[0])


def test_standings_are_plain_data() -> None:
    assert Standing(0.5, 1, True) == Standing(0.5, 1, True, own=False)
