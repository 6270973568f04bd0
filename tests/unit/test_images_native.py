"""The native convolutions do what the torch implementation, the reference, does: outputs and gradients, up to rounding;
and the same bits whatever the threads, the vectors and the batch around."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpbench.learners import images_native, native
from hpbench.learners.impala import IMPALA, IMPALA_SMALL, Impala
from hpbench.learners.ppo import PPO, PPOConfig

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")

TINY = Impala((4,), 1, 8, side=8, colours=1)
WIDE = Impala((8, 12), 2, 16, stride=1, side=16, colours=3)


def row_of(sizes: Impala) -> Tensor:
    row = sizes.initial(torch.tensor([1]), torch.zeros(1, dtype=torch.int64))[0]
    return row + 0.01 * torch.sin(torch.arange(len(row)))  # biases that are not zero


def images(sizes: Impala, batch: int, seed: int = 0) -> Tensor:
    random = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(random.integers(256, size=(batch, sizes.observation_size), dtype=np.uint8))


def both(sizes: Impala, seen: Tensor, threads: int = 1) -> tuple[Tensor, Tensor]:
    """What the dense layer reads, and the gradient of a weighted sum of it."""
    parameters = row_of(sizes)[: sum(sizes.parts[:-2])].requires_grad_()
    flat = images_native.convolutions(sizes, parameters, seen, threads)
    weights = torch.sin(torch.arange(flat.numel(), dtype=torch.float32)).view_as(flat)
    (gradient,) = torch.autograd.grad((flat * weights).sum(), parameters)
    return flat.detach(), gradient


def expected(sizes: Impala, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The same from PyTorch's own operations."""
    row = row_of(sizes)
    row.requires_grad_()
    stage = sizes.activations(torch.split(row, sizes.parts), seen)[-2]
    flat = torch.relu(stage).permute(0, 2, 3, 1).flatten(1)
    weights = torch.sin(torch.arange(flat.numel(), dtype=torch.float32)).view_as(flat)
    (gradient,) = torch.autograd.grad((flat * weights).sum(), row)
    return flat.detach(), gradient[: sum(sizes.parts[:-2])]


@pytest.mark.parametrize(("sizes", "batch"), [(IMPALA_SMALL, 37), (IMPALA, 3), (TINY, 16), (TINY, 1), (WIDE, 150)])
def test_outputs_and_gradients_are_those_of_torch(sizes: Impala, batch: int) -> None:
    seen = images(sizes, batch)
    assert images_native.suits(sizes, seen)
    flat, gradient = both(sizes, seen)
    expected_flat, expected_gradient = expected(sizes, seen)
    torch.testing.assert_close(flat, expected_flat, rtol=1e-4, atol=1e-5)
    pieces = zip(*(torch.split(part, sizes.parts[:-2]) for part in (gradient, expected_gradient)), strict=True)
    for piece, expected_piece in pieces:  # each layer's weights, and its biases, on their own scale
        torch.testing.assert_close(piece, expected_piece, rtol=1e-3, atol=2e-5 * float(expected_piece.abs().max()))


def test_features_are_the_last_of_the_activations() -> None:
    row, seen = row_of(IMPALA_SMALL).requires_grad_(), images(IMPALA_SMALL, 5)
    pieces = torch.split(row, IMPALA_SMALL.parts)
    features, reference = IMPALA_SMALL.encode(pieces, seen), IMPALA_SMALL.activations(pieces, seen)[-1]
    torch.testing.assert_close(features, reference, rtol=1e-4, atol=1e-5)
    (one,), (two,) = (torch.autograd.grad(f.square().sum(), row, retain_graph=True) for f in (features, reference))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * float(two.abs().max()))


@pytest.mark.parametrize("threads", [2, 3, 20])
def test_threads_change_no_bit(threads: int) -> None:
    seen = images(WIDE, 200)
    for one, other in zip(both(WIDE, seen), both(WIDE, seen, threads), strict=True):
        assert torch.equal(one, other)


def test_vectors_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    if images_native.lanes() != 16:
        pytest.skip("this processor has no vectors of 16 numbers")
    seen = images(IMPALA_SMALL, 41)
    wide = both(IMPALA_SMALL, seen)
    monkeypatch.setattr(images_native, "lanes", lambda: 8)
    monkeypatch.setattr(images_native, "_memory", images_native._Memory())
    for one, other in zip(wide, both(IMPALA_SMALL, seen), strict=True):
        assert torch.equal(one, other)


def test_what_the_memory_was_used_for_changes_no_bit() -> None:
    seen = images(WIDE, 20)
    before = both(WIDE, seen)
    both(WIDE, images(WIDE, 77, seed=1))
    with torch.no_grad():
        images_native.convolutions(WIDE, row_of(WIDE)[: sum(WIDE.parts[:-2])], images(WIDE, 3, seed=2))
    for one, other in zip(before, both(WIDE, seen), strict=True):
        assert torch.equal(one, other)


def test_an_image_does_not_depend_on_its_batch() -> None:
    seen = images(IMPALA_SMALL, 37)
    flat, _ = both(IMPALA_SMALL, seen)
    for rows in (slice(0, 1), slice(5, 30), slice(36, 37)):
        assert torch.equal(both(IMPALA_SMALL, seen[rows])[0], flat[rows])


def test_two_passes_at_once_have_memory_of_their_own() -> None:
    parameters = row_of(TINY)[: sum(TINY.parts[:-2])].requires_grad_()
    batches = [images(TINY, 20, seed) for seed in range(2)]
    outputs = [images_native.convolutions(TINY, parameters, seen) for seen in batches]
    together = [torch.autograd.grad(output.sum(), parameters)[0] for output in outputs]
    for seen, gradient in zip(batches, together, strict=True):
        alone = images_native.convolutions(TINY, parameters, seen).sum()
        assert torch.equal(torch.autograd.grad(alone, parameters)[0], gradient)


def test_numbers_that_are_not_finite_stay_so() -> None:
    parameters = row_of(TINY)[: sum(TINY.parts[:-2])]
    parameters[3] = float("nan")
    assert bool(images_native.convolutions(TINY, parameters, images(TINY, 2)).isnan().any())


def test_what_the_engine_cannot_do_torch_does() -> None:
    sizes = Impala((6,), 1, 8, side=8, colours=1)
    seen = images(sizes, 3)
    assert not images_native.suits(sizes, seen)
    pieces = torch.split(row_of(sizes), sizes.parts)
    assert torch.equal(sizes.encode(pieces, seen), sizes.activations(pieces, seen)[-1])
    assert not images_native.suits(TINY, images(TINY, 1).float())
    assert not images_native.suits(TINY, images(TINY, 1).to("meta"))


def test_training_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("procgen")
    from hpbench.tasks.procgen import TASKS

    def train(threads: int) -> Any:
        # Few images, so that no rounding turns an action into another one.
        config = PPOConfig(num_envs=4, num_steps=4, normalize_reward=True)
        values = {"update_epochs": 2, "minibatches": 2, "learning_rate": 1e-4}
        population = PPO(TASKS["coinrun"], [7, 8], config, values, threads=threads)
        population.train(1)
        return population.state["parameters"]

    one, two = train(1), train(2)
    assert torch.equal(one, two)
    monkeypatch.setattr(images_native, "suits", lambda sizes, images: False)
    reference = train(1)
    assert not torch.equal(one, reference)  # the engine had been in use
    # Adam's first steps have the size of the learning rate, whatever that of a gradient: rounding can turn a sign.
    close = (one - reference).abs() <= 1e-6
    assert float(close.float().mean()) > 0.99
