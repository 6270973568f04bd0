"""Encoders: equal to the published network in PyTorch's own modules, and one member's business each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.learners.encoders import ENCODERS, EncodedActorCritic, make_encoder
from hpbench.learners.impala import IMPALA, IMPALA_SMALL, Impala


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(torch.relu(x))))
        return x + y


class Reference(nn.Module):
    """The network of Espeholt et al. 2018 as usually written."""

    def __init__(self, sizes: Impala) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs, stride = sizes.colours, sizes.stride
        for channels in sizes.channels:
            layers += [nn.Conv2d(inputs, channels, 3, stride, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            layers += [Residual(channels) for _ in range(sizes.blocks)]
            inputs, stride = channels, 1
        side = sizes.side // sizes.stride // 2 ** len(sizes.channels)
        self.layers = nn.Sequential(*layers)
        self.dense = nn.Linear(side * side * inputs, sizes.features)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.layers(images.permute(0, 3, 1, 2).float() / 255.0))
        features: Tensor = torch.relu(self.dense(x.permute(0, 2, 3, 1).flatten(1)))
        return features

    def load(self, sizes: Impala, row: Tensor) -> None:
        pieces = list(torch.split(row, sizes.parts))
        modules = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for module, shape, weight, bias in zip(modules, sizes.shapes, pieces[::2], pieces[1::2], strict=True):
            shaped = weight.view(shape)
            module.weight.data = shaped.permute(0, 3, 1, 2) if len(shape) > 2 else shaped.T
            module.bias.data = bias


def rows(sizes: Impala, *keys: int) -> Tensor:
    row = sizes.initial(torch.tensor(keys), torch.zeros(len(keys), dtype=torch.int64))
    return row + 0.01 * torch.sin(torch.arange(row.shape[1]))  # biases that are not zero


def images(*shape: int) -> Tensor:
    random = np.random.Generator(np.random.PCG64(0))
    return torch.from_numpy(random.integers(256, size=shape, dtype=np.uint8))


@pytest.mark.parametrize("sizes", [IMPALA, IMPALA_SMALL, Impala((4,), 1, 8, side=8, colours=1)])
def test_features_and_gradients_are_those_of_the_published_network(sizes: Impala) -> None:
    row = rows(sizes, 1)[0].requires_grad_()
    seen = images(5, sizes.observation_size)
    reference = Reference(sizes)
    reference.load(sizes, row.detach())
    *_, features = sizes.activations(torch.split(row, sizes.parts), seen)
    expected = reference(seen.view(5, sizes.side, sizes.side, sizes.colours))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(features.square().sum(), row)
    expected.square().sum().backward()
    pieces = list(torch.split(gradient, sizes.parts))
    modules = [m for m in reference.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for module, shape, weight, bias in zip(modules, sizes.shapes, pieces[::2], pieces[1::2], strict=True):
        shaped = weight.view(shape)
        expected_weight, expected_bias = module.weight.grad, module.bias.grad
        assert expected_weight is not None
        assert expected_bias is not None
        shaped = shaped.permute(0, 3, 1, 2) if len(shape) > 2 else shaped.T
        scale = float(expected_weight.abs().max())
        torch.testing.assert_close(shaped, expected_weight, rtol=1e-3, atol=1e-4 * scale)
        torch.testing.assert_close(bias, expected_bias, rtol=1e-3, atol=1e-4 * float(expected_bias.abs().max()))


def test_the_published_size_is_that_of_the_paper() -> None:
    assert len(IMPALA.shapes) == 16  # fifteen convolutions and a dense layer
    assert IMPALA.shapes[-1] == (2048, 256)
    assert sum(IMPALA.parts) == 622_144


def test_initial_weights_are_glorots_and_the_members_own() -> None:
    keys, calls = torch.tensor([1, 2, 3]), torch.zeros(3, dtype=torch.int64)
    together = IMPALA.initial(keys, calls)
    assert calls.tolist() == [16] * 3
    alone = IMPALA.initial(torch.tensor([2]), torch.zeros(1, dtype=torch.int64))
    assert torch.equal(together[1:2], alone)
    pieces = torch.split(alone[0], IMPALA.parts)
    first, dense = pieces[0], pieces[-2]
    limit = math.sqrt(6.0 / (9 * (3 + 16)))
    assert 0.95 * limit < float(first.abs().max()) <= limit
    assert float(dense.std()) == pytest.approx(math.sqrt(2.0 / (2048 + 256)), rel=0.01)
    assert all(bool((bias == 0).all()) for bias in pieces[1::2])


@pytest.mark.parametrize(("actions", "discrete"), [(15, True), (2, False)])
def test_actor_and_critic_share_an_encoder(actions: int, discrete: bool) -> None:
    networks = EncodedActorCritic.build(IMPALA_SMALL, actions, discrete)
    parameters = networks.initial(torch.tensor([1, 2]), torch.zeros(2, dtype=torch.int64))
    assert parameters.shape == (2, networks.size)
    seen = images(2, 7, IMPALA_SMALL.observation_size)
    output, value, log_std = networks.outputs(parameters, seen)
    assert output.shape == (2, 7, actions)
    assert value.shape == (2, 7)
    assert log_std.shape == (2, 1, 0 if discrete else actions)
    assert float(output.abs().max()) < 0.1  # the first policy is nearly uniform
    layers = networks.activations(parameters, seen)
    assert [tuple(layer.shape) for layer in layers] == [(2, 7, 8), (2, 7, 16), (2, 7, 16), (2, 7, 128)]
    alone = networks.outputs(parameters[1:], seen[1:])
    assert torch.equal(alone[0], output[1:])  # whoever else is there
    assert torch.equal(alone[1], value[1:])


def test_summary_says_what_an_image_is_like() -> None:
    image = torch.zeros(64, 64, 3, dtype=torch.uint8)
    image[:, 32:] = torch.tensor((255, 0, 0), dtype=torch.uint8)
    seen = torch.stack((torch.zeros(64 * 64 * 3, dtype=torch.uint8), image.flatten()))
    expected = [[0.0] * 7, [0.5, 0.0, 0.0, 1 / 6, 1 / 63 / 6, 1 / 3, 0.0]]
    torch.testing.assert_close(IMPALA.summary(seen), torch.tensor(expected))
    assert IMPALA.summary_size == 7
    lower = image.transpose(0, 1).flatten()
    torch.testing.assert_close(IMPALA.summary(lower)[-2:], torch.tensor([0.0, 1 / 3]))


def test_unknown_encoders_and_observations_that_do_not_fit() -> None:
    with pytest.raises(UnknownName, match="'impala'"):
        make_encoder("impalla", 12288)
    with pytest.raises(InvalidConfiguration, match="reads 12288 numbers, the task's observations have 4"):
        make_encoder("impala", 4)
    for name in ENCODERS:
        assert ENCODERS.load(name).features > 0
