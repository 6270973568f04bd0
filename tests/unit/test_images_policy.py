"""Actor and critic on images in the native engine do what the torch implementation, the reference, does: outputs,
activations, PPO's gradient and its statistics, up to rounding; and the same bits whatever the threads, the vectors and
what was computed before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hpbench.learners import images_native, images_policy, native
from hpbench.learners.encoders import EncodedActorCritic
from hpbench.learners.external import ExternalEnvironments
from hpbench.learners.impala import IMPALA, IMPALA_SMALL, Impala
from hpbench.learners.ppo import LEARNED_FROM, PPO, PPOConfig

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")

TINY = Impala((4,), 1, 8, side=8, colours=1)
WEIGHTS = {"clip_range": 0.1, "entropy_coefficient": 0.02, "value_coefficient": 0.7}
Result = tuple[Tensor, Tensor]


def networks_of(sizes: Impala, threads: int = 1, actions: int = 5) -> EncodedActorCritic:
    return EncodedActorCritic.build(replace(sizes, threads=threads), actions, discrete=True)


def row_of(networks: EncodedActorCritic) -> Tensor:
    row = networks.initial(torch.tensor([1]), torch.zeros(1, dtype=torch.int64))[0]
    return row + 0.01 * torch.sin(torch.arange(len(row)))  # an actor that prefers something, biases that are not zero


def rollout_of(sizes: Impala, steps: int, actions: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(steps)
    images = torch.randint(256, (steps, sizes.observation_size), generator=generator, dtype=torch.uint8)
    action = torch.randint(actions, (steps, 1), generator=generator).float()
    log_prob, advantage, target = torch.randn(3, steps, generator=generator).unbind()
    return {
        "observation": images,
        "action": action,
        "log_prob": 0.2 * log_prob - 1.6,
        "advantage": advantage,
        "return": target,
    }


def native_gradient(networks: EncodedActorCritic, rollout: dict[str, Tensor], index: Tensor) -> Result:
    return images_policy.gradient(networks, row_of(networks), rollout, index, **WEIGHTS)


def reference_gradient(networks: EncodedActorCritic, rollout: dict[str, Tensor], index: Tensor) -> Result:
    """From the population's own loss, in torch."""
    population = PPO.__new__(PPO)
    population.networks = networks
    table = torch.tensor([[WEIGHTS.get(name, 1.0) for name in PPO.hyperparameters]], dtype=torch.float64)
    row = row_of(networks)[None].requires_grad_()
    batch = {name: rollout[name][index][None] for name in LEARNED_FROM}
    loss, statistics = population._loss(row, batch, table)
    (gradient,) = torch.autograd.grad(loss.sum(), row)
    numbers = torch.cat(statistics).double()
    numbers[2] *= networks.entropy_unit
    return gradient[0], numbers


@pytest.mark.parametrize(("sizes", "batch"), [(IMPALA_SMALL, 37), (IMPALA, 3), (TINY, 16), (TINY, 1)])
def test_outputs_and_activations_are_those_of_torch(sizes: Impala, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, images = networks_of(sizes), rollout_of(sizes, batch)["observation"][None]
    row = row_of(networks)[None]
    assert images_policy.suits(networks, images[0])
    output, value, _ = networks.outputs(row, images)
    layers = networks.activations(row, images)
    monkeypatch.setattr(images_native, "suits", lambda sizes, images: False)
    reference = networks.outputs(row, images)
    torch.testing.assert_close(output, reference[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(value, reference[1], rtol=1e-4, atol=1e-5)
    for layer, expected in zip(layers, networks.activations(row, images), strict=True):
        torch.testing.assert_close(layer, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("sizes", "batch"), [(IMPALA_SMALL, 37), (IMPALA, 3), (TINY, 16), (TINY, 1), (TINY, 150)])
def test_the_gradient_is_that_of_torch(sizes: Impala, batch: int) -> None:
    networks, rollout = networks_of(sizes), rollout_of(sizes, batch + 20)
    index = torch.randperm(batch + 20, generator=torch.Generator().manual_seed(1))[:batch]
    gradient, statistics = native_gradient(networks, rollout, index)
    expected, numbers = reference_gradient(networks, rollout, index)
    torch.testing.assert_close(statistics, numbers, rtol=1e-4, atol=1e-5)
    assert 0.0 < float(statistics[4]) < 1.0 or batch == 1  # some rows were clipped, some not
    pieces = (torch.split(part, networks._parts) for part in (gradient, expected))
    for piece, expected_piece in zip(*pieces, strict=True):  # each layer's weights, and its biases, on their own scale
        if len(piece):
            size = float(expected_piece.abs().max())
            torch.testing.assert_close(piece, expected_piece, rtol=1e-3, atol=2e-5 * size)


@pytest.mark.parametrize("threads", [2, 3, 20])
def test_threads_change_no_bit(threads: int) -> None:
    rollout, index = rollout_of(IMPALA_SMALL, 150), torch.arange(149, -1, -1)
    one, many = networks_of(IMPALA_SMALL), networks_of(IMPALA_SMALL, threads)
    pairs = zip(native_gradient(one, rollout, index), native_gradient(many, rollout, index), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)
    images = rollout["observation"][None]
    assert torch.equal(one.outputs(row_of(one)[None], images)[0], many.outputs(row_of(one)[None], images)[0])


def test_vectors_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    if images_native.lanes() != 16:
        pytest.skip("this processor has no vectors of 16 numbers")
    networks, rollout, index = networks_of(IMPALA_SMALL), rollout_of(IMPALA_SMALL, 41), torch.arange(41)
    wide = native_gradient(networks, rollout, index)
    monkeypatch.setattr(images_native, "lanes", lambda: 8)
    monkeypatch.setattr(images_native, "_memory", images_native._Memory())
    for one, other in zip(wide, native_gradient(networks, rollout, index), strict=True):
        assert torch.equal(one, other)


def test_what_the_memory_was_used_for_changes_no_bit() -> None:
    networks, rollout = networks_of(TINY), rollout_of(TINY, 90)
    before = native_gradient(networks, rollout, torch.arange(20))
    native_gradient(networks, rollout, torch.arange(90))
    networks.outputs(row_of(networks)[None], rollout["observation"][None])
    native_gradient(networks, rollout, torch.arange(3))
    for one, other in zip(before, native_gradient(networks, rollout, torch.arange(20)), strict=True):
        assert torch.equal(one, other)


def test_an_image_does_not_depend_on_its_batch_and_on_where_it_lies() -> None:
    networks, images = networks_of(IMPALA_SMALL), rollout_of(IMPALA_SMALL, 40)["observation"]
    row = row_of(networks)[None]
    together, values, _ = networks.outputs(row, images[None])
    some = images[3:40:7]
    assert not some.is_contiguous()
    output, value, _ = networks.outputs(row, some[None])
    assert torch.equal(output, together[:, 3:40:7])
    assert torch.equal(value, values[:, 3:40:7])
    assert torch.equal(
        networks.activations(row, some[None])[-1], networks.activations(row, images[None])[-1][:, 3:40:7]
    )


def test_numbers_that_are_not_finite_stay_so() -> None:
    networks, rollout = networks_of(TINY), rollout_of(TINY, 20)
    rollout["return"][3] = float("nan")
    gradient, statistics = native_gradient(networks, rollout, torch.arange(20))
    assert bool(gradient.isnan().any())
    assert bool(statistics[1].isnan())


def test_what_the_engine_cannot_do_torch_does() -> None:
    images = rollout_of(TINY, 3)["observation"]
    continuous = EncodedActorCritic.build(TINY, 2, discrete=False)
    assert not images_policy.suits(continuous, images)
    assert not images_policy.suits(networks_of(replace(TINY, features=12)), images)
    assert not images_policy.suits(networks_of(TINY), images.float())
    row = continuous.initial(torch.tensor([1]), torch.zeros(1, dtype=torch.int64))
    assert continuous.outputs(row, images[None])[0].shape == (1, 3, 2)


def test_observations_that_go_straight_to_the_buffer_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("procgen")
    from hpbench.tasks.procgen import TASKS

    def train(straight: bool) -> PPO:
        config = PPOConfig(num_envs=4, num_steps=7)
        population = PPO(TASKS["coinrun"], [7, 8], config, {"update_epochs": 1, "minibatches": 2})
        assert isinstance(population.environments, ExternalEnvironments)
        assert population.environments.has_one_observation
        population.environments.has_one_observation = straight
        population.train(2)
        return population

    one, other = train(True), train(False)
    assert one.digests() == other.digests()
    for name, numbers in one.buffer.items():
        assert torch.equal(numbers, other.buffer[name]), name
    # What the population shows next is no longer what it keeps.
    one.buffer["observation"].zero_()
    assert torch.equal(one.state["env_observation"], other.state["env_observation"])
