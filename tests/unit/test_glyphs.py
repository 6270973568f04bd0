"""The network that reads NetHack: every part of an observation matters, every parameter has a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hpbench.learners.glyphs import LETTERS, Glyphs, status_features
from hpbench.tasks.nethack_layout import (
    CELLS,
    CONDITIONS,
    CONDITIONS_START,
    GLYPHS,
    MESSAGE_START,
    OBSERVATION_SIZE,
    STATUS,
    STATUS_START,
)

NETWORK = Glyphs(features=24, glyph_width=4, channels=6, letter_width=2, side=8)


def observations(count: int) -> Tensor:
    generator = np.random.default_rng(0)
    made = np.zeros((count, OBSERVATION_SIZE), dtype=np.int16)
    made[:, :CELLS] = generator.integers(GLYPHS + 1, size=(count, CELLS))
    made[:, STATUS_START:CONDITIONS_START] = generator.integers(-3, 30, size=(count, len(STATUS)))
    made[:, CONDITIONS_START:MESSAGE_START] = generator.integers(2, size=(count, len(CONDITIONS)))
    made[:, MESSAGE_START:] = generator.integers(256, size=(count, OBSERVATION_SIZE - MESSAGE_START))
    return torch.from_numpy(made)


def row(key: int) -> Tensor:
    return NETWORK.initial(torch.tensor([key]), torch.zeros(1, dtype=torch.int64))[0]


def features(row: Tensor, shown: Tensor) -> Tensor:
    return NETWORK.activations(torch.split(row, NETWORK.parts), shown)[-1]


def test_members_start_from_their_own_streams() -> None:
    keys, calls = torch.tensor([5, 9, 5]), torch.tensor([0, 3, 0])
    rows = NETWORK.initial(keys, calls)
    assert rows.shape == (3, sum(NETWORK.parts))
    assert rows.dtype == torch.float32
    assert calls.tolist() == [6, 9, 6]
    assert torch.equal(rows[0], row(5))
    assert torch.equal(rows[0], rows[2])
    assert not torch.equal(rows[0], rows[1])
    for piece, shape in zip(torch.split(rows[0], NETWORK.parts), NETWORK.shapes, strict=True):
        assert piece.std() > 0 if len(shape) > 1 else not piece.any()


@pytest.mark.parametrize("network", [Glyphs(), NETWORK])
def test_shapes(network: Glyphs) -> None:
    parameters = network.initial(torch.tensor([1]), torch.zeros(1, dtype=torch.int64))[0]
    patches, out = network.activations(torch.split(parameters, network.parts), observations(3))
    assert patches.shape == (3, network.channels, 25)
    assert out.shape == (3, network.features)
    assert out.dtype == torch.float32
    assert (out >= 0).all()
    assert out.std() > 0
    assert network.observation_size == OBSERVATION_SIZE


def test_every_part_of_an_observation_matters() -> None:
    shown, parameters = observations(1), row(3)
    out = features(parameters, shown)
    for place in (0, CELLS - 1, STATUS_START, CONDITIONS_START - 1, CONDITIONS_START, MESSAGE_START, -1):
        changed = shown.clone()
        changed[0, place] = 1 - changed[0, place] if CONDITIONS_START <= place < MESSAGE_START else 7
        assert not torch.equal(features(parameters, changed), out), place


def test_patches_are_a_convolution_whose_stride_is_its_width() -> None:
    shown, parameters = observations(2), row(3)
    pieces = [p.view(s) for p, s in zip(torch.split(parameters, NETWORK.parts), NETWORK.shapes, strict=True)]
    patches, _ = NETWORK.activations(torch.split(parameters, NETWORK.parts), shown)
    crop = pieces[0][shown[:, :CELLS].long()].view(2, 15, 15, 4).permute(0, 3, 1, 2)
    kernel = pieces[2].view(3, 3, 4, 6).permute(3, 2, 0, 1)
    expected = torch.relu(torch.nn.functional.conv2d(crop, kernel, pieces[3], stride=3))
    torch.testing.assert_close(patches, expected.flatten(2), rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_that_was_used() -> None:
    shown, parameters = observations(300), row(3).requires_grad_()
    (gradient,) = torch.autograd.grad(features(parameters, shown).sin().sum(), parameters)
    pieces = torch.split(gradient, NETWORK.parts)
    seen = torch.zeros(GLYPHS + 1, dtype=torch.bool)
    seen[shown[:, :CELLS].long().unique()] = True
    touched = pieces[0].view(GLYPHS + 1, -1).any(dim=1)
    assert not touched[~seen].any()
    assert touched[seen].float().mean() > 0.9
    assert pieces[1].view(LETTERS, -1).any(dim=1).all()
    for piece, shape in list(zip(pieces, NETWORK.shapes, strict=True))[2:]:
        assert (piece != 0).float().mean() > 0.5, shape


def test_the_status_comes_near_one() -> None:
    shown = torch.zeros(2, OBSERVATION_SIZE, dtype=torch.int16)
    place = STATUS_START + list(STATUS).index("gold")
    shown[:, place] = torch.tensor([32767, -3], dtype=torch.int16)
    shown[0, STATUS_START + list(STATUS).index("column")] = 79
    shown[1, CONDITIONS_START + CONDITIONS.index("blind")] = 1
    found = status_features(shown)
    assert found[0, list(STATUS).index("gold")] == pytest.approx(np.log(32768.0) / 10.0)
    assert found[1, list(STATUS).index("gold")] == pytest.approx(-np.log(4.0) / 10.0)
    assert found[0, list(STATUS).index("column")] == 1.0
    assert found[1, len(STATUS) + CONDITIONS.index("blind")] == 1.0
    assert found.count_nonzero() == 4
