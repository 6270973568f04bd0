"""The seeded variants: what every one of them must be, and that they never change."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hpbench import tasks
from hpbench.errors import UnknownName
from hpbench.learners.rollout import Environments, physics_of
from hpbench.tasks.base import COMMON_PHYSICS, MAX_DELAY, VARIANTS, Task

BASES = tasks.task_ids("classic")
ids = st.sampled_from([i for split in VARIANTS for i in tasks.task_ids("classic", split)])


def all_variants(base: str) -> list[Task]:
    return [tasks.make(f"{base}@{split}-{i}") for split, count in VARIANTS.items() for i in range(count)]


@given(ids)
def test_a_variant_differs_from_its_base_in_physics_only(task_id: str) -> None:
    variant = tasks.make(task_id)
    base = tasks.make(variant.base)
    assert variant.id == task_id
    assert variant.split == task_id.partition("@")[2].partition("-")[0]
    assert dataclasses.replace(variant, id=base.id, split=base.split, physics=base.physics) == base
    assert tuple(variant.physics) == tuple(base.physics)


@given(ids)
def test_physics_stay_inside_their_ranges(task_id: str) -> None:
    task = tasks.make(task_id)
    for name, value in task.physics.items():
        low, high = task.dynamics.variation[name]
        standard = 1.0 if name in COMMON_PHYSICS else tasks.make(task.base).physics[name]
        assert standard * low * 0.999 <= value <= standard * high * 1.001  # four digits
        assert value == float(f"{value:.3e}")
    assert float(task.physics["action_delay"]).is_integer()
    assert task.physics["action_delay"] <= MAX_DELAY


@given(st.sampled_from(BASES), st.text(alphabet="train-0123456789 @/", max_size=12))
def test_only_well_formed_names_are_variants(base: str, name: str) -> None:
    match = re.fullmatch(r"train-(0|[1-9][0-9]*)", name)
    if match and int(match[1]) < VARIANTS["train"]:
        assert tasks.make(f"{base}@{name}").id == f"{base}@{name}"
    else:
        with pytest.raises(UnknownName):
            tasks.make(f"{base}@{name}")


def test_every_id_of_every_split_is_listed() -> None:
    for split, count in VARIANTS.items():
        listed = tasks.task_ids("classic", split)
        assert listed == [f"{base}@{split}-{i}" for base in BASES for i in range(count)]
        assert tasks.task_ids(split=split)[: len(listed)] == listed


@pytest.mark.parametrize("base", BASES)
def test_no_variant_occurs_twice(base: str) -> None:
    """In no split and in no other: they are disjoint. Nor do two parameters share their random number."""
    variants = all_variants(base)
    for name in tasks.make(base).physics:
        if name not in ("observation_noise", "action_delay"):
            values = {task.physics[name] for task in variants}
            assert len(values) > 0.5 * len(variants), name  # four digits make some equal ones
    assert len({tuple(task.physics.values()) for task in variants}) == len(variants)


@pytest.mark.parametrize("base", BASES)
def test_the_common_parameters_are_distributed_as_documented(base: str) -> None:
    variants = all_variants(base)
    count, variation = len(variants), variants[0].dynamics.variation
    scales = [math.log10(task.physics["reward_scale"]) for task in variants]
    assert abs(sum(scales) / count) < 0.12  # four standard errors
    assert min(scales) < -0.9
    assert max(scales) > 0.9
    noises = [task.physics["observation_noise"] for task in variants]
    assert 0.4 < noises.count(0.0) / count < 0.6
    assert max(noises) > 0.9 * variation["observation_noise"][1]
    delays = [task.physics["action_delay"] for task in variants]
    assert 0.6 < delays.count(0.0) / count < 0.8
    assert set(delays) == {float(d) for d in range(int(variation["action_delay"][1]) + 1)}


GOLDEN = {
    "classic/cartpole@train-0": {
        "reward_scale": 0.2865,
        "observation_noise": 0.0,
        "action_delay": 0.0,
        "gravity": 6.982,
        "cart_mass": 1.491,
        "pole_mass": 0.1493,
        "pole_half_length": 0.3049,
        "force": 11.19,
    },
    "classic/acrobot@validation-7": {
        "reward_scale": 4.398,
        "observation_noise": 0.02808,
        "action_delay": 0.0,
        "gravity": 7.6,
        "link_1_mass": 0.7668,
        "link_2_mass": 1.1,
        "link_1_length": 0.8565,
        "link_1_center": 0.533,
        "link_2_center": 0.4867,
        "inertia": 0.8602,
        "torque": 1.483,
    },
    "classic/mountaincar@test-63": {
        "reward_scale": 5.535,
        "observation_noise": 0.0,
        "action_delay": 0.0,
        "gravity": 0.002294,
        "force": 0.001083,
        "max_speed": 0.07206,
    },
    "classic/mountaincar-continuous@train-255": {
        "reward_scale": 2.117,
        "observation_noise": 0.0,
        "action_delay": 0.0,
        "gravity": 0.00257,
        "force": 0.001946,
        "max_speed": 0.07097,
    },
    "classic/pendulum@train-17": {
        "reward_scale": 4.524,
        "observation_noise": 0.0,
        "action_delay": 0.0,
        "gravity": 10.97,
        "mass": 0.8453,
        "length": 0.9578,
    },
}


@pytest.mark.parametrize("task_id", GOLDEN)
def test_variants_never_change(task_id: str) -> None:
    """A change here makes every score on a variant incomparable with earlier ones."""
    assert tasks.make(task_id).physics == GOLDEN[task_id]


def balance(observation: Tensor, physics: Tensor) -> Tensor:
    position, velocity, angle, spin = observation.unbind(-1)
    return (0.2 * position + 0.5 * velocity + 10.0 * angle + 2.5 * spin > 0).float()


def pump_acrobot(observation: Tensor, physics: Tensor) -> Tensor:
    """Torque against the swing of the first link."""
    return torch.where(observation[..., 4] < 0.0, 2.0, 0.0)


def pump_car(observation: Tensor, physics: Tensor) -> Tensor:
    return torch.where(observation[..., 1] >= 0.0, 2.0, 0.0)


def pump_car_continuous(observation: Tensor, physics: Tensor) -> Tensor:
    return torch.where(observation[..., 1] >= 0.0, 1.0, -1.0)


def swing_up(observation: Tensor, physics: Tensor) -> Tensor:
    """Bring the energy to a little more than that of resting upright, then hold by position and velocity."""
    cosine, sine, spin = observation.unbind(-1)
    gravity, _, length = physics[:, len(COMMON_PHYSICS) :, None].float().unbind(1)
    energy = spin.square() / 6.0 + gravity / (2.0 * length) * (cosine - 1.0) - 0.5
    near = (cosine > 0.6) & (spin.abs() < 3.5)
    return torch.where(near, -7.0 * sine - 1.7 * spin, -9.0 * spin.sign() * energy).clamp(-2.0, 2.0)


@pytest.mark.parametrize(
    ("base", "controller", "enough"),
    [
        ("classic/cartpole", balance, 475.0),
        ("classic/acrobot", pump_acrobot, -400.0),
        ("classic/mountaincar", pump_car, -170.0),
        ("classic/mountaincar-continuous", pump_car_continuous, 50.0),
        ("classic/pendulum", swing_up, -450.0),
    ],
)
def test_every_variant_can_be_solved(base: str, controller: Callable[[Tensor, Tensor], Tensor], enough: float) -> None:
    """One fixed controller that knows neither delay nor noise is far above the floor on all of them."""
    members, envs = all_variants(base), 2
    task, physics = members[0], physics_of(members, torch.device("cpu"))
    environments, generator = Environments(task, envs), torch.Generator().manual_seed(0)

    def draws(count: int) -> Tensor:
        return torch.rand(len(members), envs, count, generator=generator)

    reset, noise = environments.reset_draws, environments.noise_draws
    state = environments.start(physics, draws(reset), draws(noise))
    returns = torch.full((len(members), envs), math.nan, dtype=torch.float64)
    for _ in range(task.max_episode_steps):
        action = controller(state["env_observation"], physics)[..., None]
        step = environments.step(state, physics, action, draws(reset), draws(noise))
        first = (step.terminated | step.truncated) & returns.isnan()
        returns = torch.where(first, step.episode_return, returns)
        if not returns.isnan().any():
            break
    worst = int(returns.mean(dim=1).argmin())
    assert returns.mean(dim=1)[worst] >= enough, members[worst].id
