"""The work that CUDA graphs record, without recording it: masks in place of groups give what the torch engine gives."""

from __future__ import annotations

from collections.abc import Callable

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
    chosen = [tasks.make(name) for name in (task_id, f"{task_id}@train-1", f"{task_id}@train-5", task_id)]
    return PPO(chosen, range(4), PPOConfig(num_envs=3, num_steps=20), values, engine="torch")


@pytest.mark.parametrize("task_id", ["classic/cartpole", "classic/pendulum"])
def test_masked_epochs_equal_grouped_ones(task_id: str) -> None:
    values = {"update_epochs": [2, 4, 1, 3], "minibatches": [4, 3, 4, 32], "learning_rate": [1e-3, 3e-3, 1e-2, 1e-3]}
    reference, found = population(task_id, **values), population(task_id, **values)
    graphs = graph.Graphs(found, repeat)
    for _ in range(2):
        expected = reference._segment(2)
        totals = graphs.train(found, 2)
        torch.testing.assert_close(totals, expected, rtol=1e-4, atol=1e-5)
        for name, tensor in reference.state.items():
            torch.testing.assert_close(
                found.state[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
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
    found.set_values("minibatches", [8, 2, 8, 8])
    graphs.train(found, 1)
    assert graphs._work.keys() - recorded.keys() == {2}


def test_graphs_belong_to_shapes_not_to_populations() -> None:
    found = population("classic/cartpole")
    graphs = graph.Graphs(found, repeat)
    fork = found.fork([0, 1, 2, 3])
    graphs.train(found, 1)
    graphs.train(fork, 1)
    assert fork.digests() == found.digests()


def test_no_graphs_without_a_gpu() -> None:
    with pytest.raises(InvalidConfiguration, match="CUDA graphs need a CUDA device.*engine='auto'"):
        PPO(tasks.make("classic/cartpole"), [0], engine="graph")
