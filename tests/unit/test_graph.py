"""The work that CUDA graphs record, without recording it: masks and padding in place of groups give what the torch
engine gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.errors import InvalidConfiguration
from hpbench.learners import graph, make
from hpbench.learners.dqn import DQNConfig
from hpbench.learners.ppo import PPOConfig
from hpbench.learners.sac import SACConfig
from hpbench.learners.tensor import TensorPopulation

CONFIGS: dict[str, Any] = {
    "ppo": PPOConfig(num_envs=3, num_steps=20),
    "dqn": DQNConfig(num_envs=3, num_steps=20, buffer_size=90, learning_starts=20),
    "dqn-prioritized": DQNConfig(
        num_envs=3, num_steps=20, buffer_size=90, learning_starts=20, prioritized=True, dueling=True, double=False
    ),
    "sac": SACConfig(num_envs=3, num_steps=20, buffer_size=90, learning_starts=20),
    "sac-fixed": SACConfig(num_envs=3, num_steps=20, buffer_size=90, learning_starts=20, temperature=0.2),
}
MIXED: dict[str, dict[str, list[float]]] = {
    "ppo": {"update_epochs": [2, 4, 1], "minibatches": [4, 32, 4], "learning_rate": [1e-3, 3e-3, 1e-2]},
    "dqn": {"batch_size": [9, 32, 16], "n_step": [1, 5, 2], "train_frequency": [1, 4, 7], "tau": [1.0, 0.1, 0.01]},
    "sac": {"batch_size": [9, 32, 16], "updates_per_step": [0.1, 1.0, 1.3], "discount": [0.9, 0.99, 0.999]},
}
SUBJECTS = [
    ("ppo", "classic/cartpole"),
    ("ppo", "classic/pendulum"),
    ("dqn", "classic/cartpole"),
    ("dqn-prioritized", "classic/cartpole"),
    ("sac", "classic/cartpole"),
    ("sac", "classic/pendulum"),
    ("sac-fixed", "classic/pendulum"),
]
LEARNERS = [(case, task_id) for case, task_id in SUBJECTS if case in ("ppo", "dqn", "sac")]


def repeat(graphs: graph.Graphs, work: Callable[[], None]) -> Callable[[], None]:
    """In place of a graph: do the work again, in the same memory."""
    return lambda: graphs.perform(work)


def population(case: str, task_id: str, **values: list[float]) -> TensorPopulation:
    chosen = [tasks.make(name) for name in (task_id, f"{task_id}@train-1", f"{task_id}@train-5")]
    made: Any = make(case.split("-")[0])
    return made(chosen, range(3), CONFIGS[case], values, engine="torch")  # type: ignore[no-any-return]


def on_graphs(
    monkeypatch: pytest.MonkeyPatch, case: str, task_id: str, **values: list[float]
) -> tuple[TensorPopulation, graph.Graphs]:
    """A population that trains as the graph engine does, but for the recording."""
    found = population(case, task_id, **values)
    graphs = graph.Graphs(found, repeat)
    monkeypatch.setattr(graph, "train", graphs.train)
    found.engine = "graph"
    return found, graphs


@pytest.mark.parametrize(("case", "task_id"), SUBJECTS)
def test_masked_work_equals_grouped_work(monkeypatch: pytest.MonkeyPatch, case: str, task_id: str) -> None:
    values = MIXED[case.split("-")[0]]
    reference, (found, _) = population(case, task_id, **values), on_graphs(monkeypatch, case, task_id, **values)
    for _ in range(2):
        expected, metrics = reference.train(2), found.train(2)
        for name, numbers in expected.items():
            np.testing.assert_allclose(metrics[name], numbers, rtol=2e-3, atol=1e-4, err_msg=name)
        for name, tensor in reference.state.items():
            torch.testing.assert_close(
                found.state[name], tensor, rtol=1e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize(("case", "task_id"), [("dqn", "classic/cartpole"), ("sac", "classic/pendulum")])
def test_batches_may_differ_by_any_factor(monkeypatch: pytest.MonkeyPatch, case: str, task_id: str) -> None:
    """Those whose turn it is not have batches that do not fit into the work."""
    values = {"batch_size": [8.0, 512.0, 9.0]}
    reference, (found, _) = population(case, task_id, **values), on_graphs(monkeypatch, case, task_id, **values)
    expected, metrics = reference.train(2), found.train(2)
    for name, numbers in expected.items():
        np.testing.assert_allclose(metrics[name], numbers, rtol=2e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("case", "task_id"), LEARNERS)
def test_changed_hyperparameters_act_without_new_work(monkeypatch: pytest.MonkeyPatch, case: str, task_id: str) -> None:
    found, graphs = on_graphs(monkeypatch, case, task_id)
    # Of 60 steps: 8 minibatches have up to 8, 2 and 3 have up to 32. Batches of 33 to 64 share one graph.
    shape, start, new, added = "batch_size", [17, 20, 32], [33, 60, 64], {64}
    if case == "ppo":
        shape, start, new = "minibatches", [8, 10, 14], [8, 2, 3]
        added = {"shuffle 32", "minibatch 32 padded"}
    found.set_values(shape, start)
    found.train(2)
    recorded = dict(graphs._work)
    assert not added & recorded.keys()
    for name in found.hyperparameters:
        if name != shape:
            found.set_values(name, found.hyperparameters[name].multiply(found.values()[name][0], 2.0)[0])
    found.train(1)
    assert graphs._work == recorded
    found.set_values(shape, new)
    found.train(1)
    assert graphs._work.keys() - recorded.keys() == added


@pytest.mark.parametrize(("case", "task_id"), LEARNERS)
def test_graphs_belong_to_shapes_not_to_populations(monkeypatch: pytest.MonkeyPatch, case: str, task_id: str) -> None:
    found, graphs = on_graphs(monkeypatch, case, task_id)
    assert graphs.worker.members == 4
    fork, more = found.fork([0, 1, 2]), found.fork([0, 1, 2, 0])
    for each in (found, fork, more):
        each.train(1)
    assert fork.digests() == found.digests()
    assert more.digests() == [*found.digests(), found.digests()[0]]


@pytest.mark.parametrize(("case", "task_id"), LEARNERS)
def test_diverged_members_stay_as_they_are_without_other_graphs(
    monkeypatch: pytest.MonkeyPatch, case: str, task_id: str
) -> None:
    found, _ = on_graphs(monkeypatch, case, task_id)
    found.state["diverged"][1] = True
    before = found.digests()
    metrics = found.train(1)
    after = found.digests()
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, True, False]
    assert np.isnan(metrics["gradient_norm"]).tolist() == [False, True, False]
    assert found.steps.tolist() == [60, 0, 60]


@pytest.mark.parametrize(("members", "size"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_room_is_the_next_power_of_two(members: int, size: int) -> None:
    assert graph.room(members) == size


@pytest.mark.parametrize(("case", "task_id"), LEARNERS)
def test_no_graphs_without_a_gpu(case: str, task_id: str) -> None:
    made: Any = make(case)
    with pytest.raises(InvalidConfiguration, match="CUDA graphs need a CUDA device.*engine='auto'"):
        made(tasks.make(task_id), [0], engine="graph")
