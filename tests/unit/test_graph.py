"""The work that CUDA graphs record, without recording it: masks in place of groups give what the torch engine gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.errors import InvalidConfiguration
from hpbench.learners import graph
from hpbench.learners.ppo import PPO, PPOConfig


def repeat(graphs: graph.Graphs, work: Callable[[], None]) -> Callable[[], None]:
    """In place of a graph: do the work again, in the same memory."""
    return lambda: graphs.perform(work)


def population(task_id: str, **values: list[float]) -> PPO:
    chosen = [tasks.make(name) for name in (task_id, f"{task_id}@train-1", f"{task_id}@train-5")]
    return PPO(chosen, range(3), PPOConfig(num_envs=3, num_steps=20), values, engine="torch")


@pytest.mark.parametrize("task_id", ["classic/cartpole", "classic/pendulum"])
def test_masked_epochs_equal_grouped_ones(task_id: str) -> None:
    values = {"update_epochs": [2, 4, 1], "minibatches": [4, 32, 4], "learning_rate": [1e-3, 3e-3, 1e-2]}
    reference, found = population(task_id, **values), population(task_id, **values)
    graphs = graph.Graphs(found, repeat)
    for _ in range(2):
        expected = reference._segment(2)
        totals = graphs.train(found, 2)
        torch.testing.assert_close(totals, expected, rtol=1e-3, atol=1e-4)
        for name, tensor in reference.state.items():
            torch.testing.assert_close(
                found.state[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_changed_hyperparameters_act_without_new_work() -> None:
    found = population("classic/cartpole")
    graphs = graph.Graphs(found, repeat)
    graphs.train(found, 1)
    recorded = dict(graphs._work)
    for name in found.hyperparameters:
        if name != "minibatches":
            found.set_values(name, found.hyperparameters[name].multiply(found.values()[name][0], 2.0)[0])
    graphs.train(found, 1)
    assert graphs._work == recorded
    found.set_values("minibatches", [8, 2, 8])
    graphs.train(found, 1)
    assert graphs._work.keys() - recorded.keys() == {2}


def test_graphs_belong_to_shapes_not_to_populations() -> None:
    found = population("classic/cartpole")
    graphs = graph.Graphs(found, repeat)
    assert graphs.worker.members == 4
    fork, more = found.fork([0, 1, 2]), found.fork([0, 1, 2, 0])
    for each in (found, fork, more):
        graphs.train(each, 1)
    assert fork.digests() == found.digests()
    assert more.digests() == [*found.digests(), found.digests()[0]]


def test_diverged_members_stay_as_they_are_without_other_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = population("classic/cartpole")
    graphs = graph.Graphs(found, repeat)
    monkeypatch.setattr(graph, "train", graphs.train)
    found.engine = "graph"
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


def test_no_graphs_without_a_gpu() -> None:
    with pytest.raises(InvalidConfiguration, match="CUDA graphs need a CUDA device.*engine='auto'"):
        PPO(tasks.make("classic/cartpole"), [0], engine="graph")
