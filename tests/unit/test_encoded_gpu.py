"""What a GPU's rollouts are made of, as far as it shows without one, and the rest where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from hpbench import tasks
from hpbench.errors import InvalidConfiguration
from hpbench.learners import encoded, encoded_gpu, encoded_graphs, images_native
from hpbench.learners.encoders import EncodedActorCritic
from hpbench.learners.external import ExternalEnvironments
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.learners.simulator_split import SplitSimulator
from hpbench.tasks.base import Task
from hpbench.tasks.procgen import PUBLISHED, TASKS

pytest.importorskip("procgen")
CONFIG = PPOConfig(num_envs=4, num_steps=12, normalize_reward=True)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def population(
    spread: bool,
    device: str = "cpu",
    seeds: tuple[int, ...] = (3, 4),
    task: Task = TASKS["fruitbot"],
    config: PPOConfig = CONFIG,
) -> PPO:
    made = PPO(task, seeds, config, dict(PUBLISHED.values), device=device)
    if spread:
        assert isinstance(made.environments, ExternalEnvironments)
        made.settle()
        made.environments.spread = True
        made.environments = made.environments.separate(made.members)
    return made


@pytest.fixture(autouse=True)
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even so few copies are split in halves."""
    monkeypatch.setattr("hpbench.learners.external.SPLIT", 2)


def replayed(work: Callable[[], None]) -> Callable[[], None]:
    """Stands for recording on a GPU: the work is done before, and done again whenever it is asked for."""
    work()
    return work


def test_halves_in_processes_give_the_same_rollouts_as_one_simulator_here(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, halved = population(spread=False, seeds=(3,)), population(spread=True, seeds=(3,))
    assert not encoded_gpu.suits(plain)
    assert encoded_gpu.suits(halved)
    assert isinstance(halved.environments, ExternalEnvironments)
    for each, collect in ((plain, encoded.collect), (halved, encoded_gpu.collect)):
        totals = torch.zeros(each.members, len(each.totals), dtype=torch.float64)
        for recorded in (False, True):
            with monkeypatch.context() as patch:
                patch.setattr(encoded_graphs, "suits", lambda _, answer=recorded: answer)
                patch.setattr(encoded_graphs, "record_graph", replayed)
                collect(each, totals)
        each.state["totals"] = totals
        each.settle()
    assert isinstance(halved.environments._simulator(0), SplitSimulator)
    for name, expected in plain.state.items():
        assert torch.equal(halved.state[name], expected), name
    for name in ("observation", "action", "log_prob", "value", "reward", "done", "truncated", "last_value"):
        torch.testing.assert_close(halved.buffer[name], plain.buffer[name], msg=name)


def test_halves_restart_and_value_last_observations_as_one_simulator_does() -> None:
    """NetHack does not restart by itself, and here it is cut off after a few steps."""
    pytest.importorskip("nle")
    task = replace(tasks.make("nethack/score"), max_episode_steps=5)
    plain, halved = population(spread=False, task=task), population(spread=True, task=task)
    for each, collect in ((plain, encoded.collect), (halved, encoded_gpu.collect)):
        totals = torch.zeros(each.members, len(each.totals), dtype=torch.float64)
        for _ in range(2):
            collect(each, totals)
        each.settle()
    assert float(plain.buffer["truncated"].sum()) > 0
    for name, expected in plain.state.items():
        assert torch.equal(halved.state[name], expected), name
    for name in ("observation", "action", "reward", "done", "truncated", "value", "final_value", "last_value"):
        torch.testing.assert_close(halved.buffer[name], plain.buffer[name], msg=name)


def test_recorded_optimiser_steps_are_those_of_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    recording: list[PPO] = []
    monkeypatch.setattr(encoded_graphs, "record_graph", replayed)
    monkeypatch.setattr(encoded_graphs, "suits", recording.__contains__)
    plain, recorded = population(spread=False), population(spread=False)
    recording.append(recorded)
    for each in (plain, recorded):
        each.train(1)
        each.set_values("learning_rate", [1e-4, 3e-4])
        each.set_values("minibatches", 4)
        each.train(1)
        each.restore(each.snapshot())
        each.train(1)
    for name, expected in plain.state.items():
        assert torch.equal(recorded.state[name], expected), name
    for name, tensor in encoded_graphs._recorded[recorded].static.items():
        assert recorded.state[name] is not tensor


def test_what_is_recorded_is_compiled_if_the_configuration_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noted(networks: EncodedActorCritic, parameters: Tensor, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Stands for the compiled pass."""
        seen.append(observation.shape[1])
        return EncodedActorCritic.outputs(networks, parameters, observation)

    monkeypatch.setattr(encoded_graphs, "record_graph", replayed)
    monkeypatch.setattr(encoded_graphs, "suits", lambda _: True)
    monkeypatch.setattr(encoded_graphs, "_compiled_outputs", lambda: noted)
    monkeypatch.setattr(images_native, "suits", lambda sizes, images: False)  # as it is on a GPU
    plain = population(spread=True, seeds=(3,))
    plain.train(1)
    assert seen == []
    compiled = population(spread=True, seeds=(3,), config=replace(CONFIG, compile=True))
    compiled.train(1)
    assert set(seen) == {2, 6}  # half of the copies; a minibatch
    assert compiled.digests() == plain.digests()


def test_networks_that_are_not_recorded_cannot_be_compiled() -> None:
    with pytest.raises(InvalidConfiguration, match=r"compile=True is for .* not for 'impala-small' with 'cpu'"):
        population(spread=False, config=replace(CONFIG, compile=True))
    with pytest.raises(InvalidConfiguration, match=r"compile=True is for .* not for 'mlp' with 'cpu'"):
        PPO(tasks.make("classic/cartpole"), [0], PPOConfig(compile=True))


def different(one: PPO, other: PPO) -> list[str]:
    """Which entries of the states differ, and by how much at most."""
    one.settle()
    pairs = [(name, tensor.double(), other.state[name].double()) for name, tensor in one.state.items()]
    return [f"{name} by {float((a - b).abs().max())}" for name, a, b in pairs if not torch.equal(a, b)]


@gpu
def test_training_on_a_gpu_repeats_exactly_and_forks_go_on_as_their_parent() -> None:
    first, second = population(False, "cuda"), population(False, "cuda")
    for each in (first, second):
        each.train(1)
    assert first.digests() == second.digests()
    fork = first.fork([1])
    first.train(2)
    fork.train(2)
    assert different(fork, first.fork([1])) == []
    np.testing.assert_array_equal(first.evaluate(3).returns[1:], fork.evaluate(3).returns)


@gpu
def test_a_member_trains_alone_as_among_others_on_a_gpu() -> None:
    both, alone = population(False, "cuda"), population(False, "cuda", seeds=(4,))
    for each in (both, alone):
        each.train(2)
    assert different(alone, both.fork([1])) == []


@gpu
def test_one_optimiser_step_on_a_gpu_is_close_to_the_cpu() -> None:
    """bfloat16 has 8 bits: gradients agree in direction, and losses to a few per cent."""
    on_gpu, on_cpu = population(False, "cuda"), population(False, "cpu")
    encoded.collect(on_cpu, torch.zeros(2, len(PPO.totals), dtype=torch.float64))
    on_cpu.buffer["advantage"].normal_(generator=torch.Generator().manual_seed(0))
    on_gpu.buffer = {name: tensor.to("cuda") for name, tensor in on_cpu.buffer.items()}
    gradients = []
    for each in (on_cpu, on_gpu):
        names = ("observation", "action", "log_prob", "advantage", "return")
        batch = {name: each.buffer[name].flatten(1, 2)[:1] for name in names}
        gradient, statistics = each._gradient(slice(0, 1), batch)
        gradients.append(gradient.cpu())
        assert all(bool(torch.isfinite(each).all()) for each in statistics)
    cosine = torch.cosine_similarity(*gradients)
    assert float(cosine) > 0.99


@gpu
def test_observations_are_read_from_pinned_memory() -> None:
    made = population(False, "cuda")
    made.train(1)
    assert isinstance(made.environments, ExternalEnvironments)
    (half, *_) = encoded_gpu.halves(made.environments)
    assert torch.from_numpy(half._simulator(0).observation).is_pinned()
