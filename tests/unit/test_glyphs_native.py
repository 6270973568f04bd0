"""The native network for NetHack does what the torch implementation, the reference, does: outputs and gradients, up to
rounding; and the same bits whatever the threads and the batch around."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpbench.learners import glyphs_acting, glyphs_native, native
from hpbench.learners.encoders import EncodedActorCritic
from hpbench.learners.glyphs import GLYPHS, Glyphs
from hpbench.tasks.nethack_layout import (
    CELLS,
    CONDITIONS,
    CONDITIONS_START,
    MESSAGE_START,
    OBSERVATION_SIZE,
    STATUS_START,
)
from hpbench.tasks.nethack_layout import (
    GLYPHS as GLYPH_COUNT,
)

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"native engine: {native.unavailable()}")

OTHER = Glyphs(features=24, glyph_width=16, channels=8, letter_width=3, side=40)
CHOICES = 23


def observations(count: int, seed: int = 0) -> Tensor:
    """Few glyphs, as a game shows, and all kinds of numbers."""
    generator = np.random.default_rng(seed)
    made = np.zeros((count, OBSERVATION_SIZE), dtype=np.int16)
    made[:, :CELLS] = generator.choice([0, 397, 2359, 2378, GLYPH_COUNT], size=(count, CELLS))
    made[:, STATUS_START:CONDITIONS_START] = generator.integers(-40, 100, size=(count, CONDITIONS_START - CELLS))
    made[:, CONDITIONS_START:MESSAGE_START] = generator.integers(2, size=(count, len(CONDITIONS)))
    made[:, MESSAGE_START:] = generator.integers(256, size=(count, OBSERVATION_SIZE - MESSAGE_START))
    return torch.from_numpy(made)


def row_of(sizes: Glyphs) -> Tensor:
    row = sizes.initial(torch.tensor([1]), torch.zeros(1, dtype=torch.int64))[0]
    return row + 0.01 * torch.sin(torch.arange(len(row)))  # biases that are not zero


def both(sizes: Glyphs, shown: Tensor, reference: bool = False) -> tuple[Tensor, Tensor]:
    """Features, and the gradient of a weighted sum of them."""
    row = row_of(sizes).requires_grad_()
    pieces = torch.split(row, sizes.parts)
    found = sizes.activations(pieces, shown)[-1] if reference else sizes.encode(pieces, shown)
    weights = torch.sin(torch.arange(found.numel(), dtype=torch.float32)).view_as(found)
    (gradient,) = torch.autograd.grad((found * weights).sum(), row)
    return found.detach(), gradient


@pytest.mark.parametrize(("sizes", "batch"), [(GLYPHS, 1), (GLYPHS, 37), (GLYPHS, 700), (OTHER, 70)])
def test_features_and_gradients_are_those_of_torch(sizes: Glyphs, batch: int) -> None:
    shown = observations(batch)
    assert glyphs_native.suits(sizes, shown)
    found, gradient = both(sizes, shown)
    expected, expected_gradient = both(sizes, shown, reference=True)
    assert (expected > 0).float().mean() > 0.2
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))
    pieces = zip(*(torch.split(part, sizes.parts) for part in (gradient, expected_gradient)), strict=True)
    for piece, expected_piece in pieces:  # each on its own scale
        assert expected_piece.any()
        torch.testing.assert_close(piece, expected_piece, rtol=1e-3, atol=2e-5 * float(expected_piece.abs().max()))


@pytest.mark.parametrize("threads", [2, 3, 20])
def test_threads_change_no_bit(threads: int) -> None:
    shown = observations(400)
    for one, other in zip(both(GLYPHS, shown), both(replace(GLYPHS, threads=threads), shown), strict=True):
        assert torch.equal(one, other)


def test_an_observation_does_not_depend_on_its_batch() -> None:
    shown = observations(70)
    found, _ = both(GLYPHS, shown)
    for rows in (slice(0, 1), slice(5, 40), slice(69, 70)):
        assert torch.equal(both(GLYPHS, shown[rows])[0], found[rows])


def test_numbers_that_are_not_finite_stay_so() -> None:
    row = row_of(GLYPHS)
    row[sum(GLYPHS.parts[:-2])] = float("nan")  # of the last layer
    assert bool(GLYPHS.encode(torch.split(row, GLYPHS.parts), observations(2)).isnan().any())


def test_what_the_engine_cannot_do_torch_does() -> None:
    sizes = Glyphs(channels=6)
    shown = observations(3)
    assert not glyphs_native.suits(sizes, shown)
    pieces = torch.split(row_of(sizes), sizes.parts)
    assert torch.equal(sizes.encode(pieces, shown), sizes.activations(pieces, shown)[-1])
    assert not glyphs_native.suits(GLYPHS, shown.float())
    assert not glyphs_native.suits(GLYPHS, shown.to("meta"))


def test_acting_is_looking_and_sampling() -> None:
    networks = EncodedActorCritic.build(GLYPHS, CHOICES, discrete=True)
    row = networks.initial(torch.tensor([3]), torch.zeros(1, dtype=torch.int64))
    row[0, sum(GLYPHS.parts) :] += 0.01 * torch.sin(torch.arange(networks.size - sum(GLYPHS.parts)))  # biases, too
    steps, envs, first, count, slots, delay, limit = 5, 12, 2, 7, 4, 2, 6
    shape, rows, random = (steps, envs), slice(first, first + count), np.random.default_rng(1)
    simulator = {
        "shown": np.zeros((count, OBSERVATION_SIZE), np.int16), "gained": np.zeros(count),
        "over": np.zeros(count, np.bool_), "given": np.zeros(count, np.int64),
    }  # fmt: skip
    rollout: dict[str, NDArray[Any]] = {
        "observation": np.zeros((*shape, OBSERVATION_SIZE), np.int16),
        "action": np.full((*shape, 1), -1.0, np.float32),
        "draws": random.random(shape, dtype=np.float32),
        "elapsed": np.arange(envs) % 5,
        "queue": random.integers(CHOICES, size=(envs, slots)).astype(np.float32),
    }
    rollout |= {name: np.full(shape, -1.0, np.float32) for name in ("log_prob", "value")}
    rollout |= {name: np.zeros(shape, dtype) for name, dtype in glyphs_acting.RECORDS.items()}
    begin = {name: rollout[name].copy() for name in ("elapsed", "queue")}
    sizes = glyphs_native.sizes_of(GLYPHS) | {"choices": CHOICES}
    head = glyphs_acting.Head(sizes, row[0].numpy(), sum(GLYPHS.parts))
    acting = glyphs_acting.Acting(glyphs_native._library(), head, simulator, rollout, first, limit, delay)
    chosen: set[int] = set()
    for step in range(steps):
        shown = observations(count, seed=step)
        simulator["shown"][:] = shown.numpy()
        history = rollout["queue"][rows].copy()
        acting.act(step)
        output, value, log_std = networks.outputs(row, shown[None])
        draws = torch.from_numpy(rollout["draws"])[None, step, rows, None]
        action, log_prob = networks.sample(output, log_std, draws)
        assert torch.equal(torch.from_numpy(rollout["observation"][step, rows]), shown)
        np.testing.assert_array_equal(rollout["action"][step, rows], action[0])
        np.testing.assert_array_equal(rollout["queue"][rows], np.hstack([action[0], history[:, :-1]]))
        np.testing.assert_array_equal(simulator["given"], history[:, delay - 1])
        np.testing.assert_allclose(rollout["log_prob"][step, rows], log_prob[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rollout["value"][step, rows], value[0], rtol=1e-4, atol=1e-5)
        chosen |= set(action.flatten().tolist())
        simulator["gained"][:], simulator["over"][:] = random.random(count), np.arange(count) == step
        elapsed = begin["elapsed"][rows] + step + 1
        cut = (elapsed >= limit) & ~simulator["over"]
        assert acting.record(step) == int((cut | simulator["over"]).sum())
        expected = {"reward": simulator["gained"], "truncated": cut, "done": cut | simulator["over"], "length": elapsed}
        for name, array in expected.items():
            np.testing.assert_array_equal(rollout[name][step, rows], array, err_msg=name)
        np.testing.assert_array_equal(rollout["elapsed"][rows], elapsed)
    assert len(chosen) > 5
    others = [index for index in range(envs) if not first <= index < first + count]
    for name, array in begin.items():  # the others' places are left alone
        np.testing.assert_array_equal(rollout[name][others], array[others])
    for name in ("action", "log_prob", "value"):
        assert (rollout[name][:, others] == -1.0).all()
