"""Classic control as batched tensor environments, step for step equal to Gymnasium 1.2's own classes.

The arithmetic follows ``gymnasium/envs/classic_control`` operation by operation in float64, so results differ from
Gymnasium's by no more than the last bit of ``sin`` and ``cos``. What a variant may change is a column of the physics
table. Nothing in this file waits for the device: no value is read back, no Python branch depends on one.

Shapes and dtypes are those of :class:`~hpbench.tasks.base.Dynamics`; docstrings name the components of the state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hpbench.tasks.base import COMMON_PHYSICS

Range = tuple[float, float]
Stepped = tuple[Tensor, Tensor, Tensor]


def _common_variation(noise: float, delay: int) -> dict[str, Range]:
    """How far ``COMMON_PHYSICS`` vary.

    Args:
        noise: the largest standard deviation, about 5 % of the typical size of the narrowest component.
        delay: the longest action delay in steps, at most ``MAX_DELAY``.
    """
    return {"reward_scale": (0.1, 10.0), "observation_noise": (0.0, noise), "action_delay": (0.0, delay)}


def _columns(physics: Tensor) -> tuple[Tensor, ...]:
    """The task's own parameters, each ``[members, 1]``."""
    return physics[:, len(COMMON_PHYSICS) :, None].unbind(1)


def _between(low: float, high: float, uniforms: Tensor) -> Tensor:
    return low + (high - low) * uniforms


@dataclass(frozen=True)
class CartPole:
    """CartPole-v1. State: cart position and velocity, pole angle and angular velocity. Actions: push left, right."""

    native: ClassVar[str] = "cartpole"
    physics: ClassVar[Mapping[str, float]] = {
        **COMMON_PHYSICS,
        "gravity": 9.8,
        "cart_mass": 1.0,
        "pole_mass": 0.1,
        "pole_half_length": 0.5,
        "force": 10.0,
    }
    variation: ClassVar[Mapping[str, Range]] = {
        **_common_variation(noise=0.01, delay=2),
        "gravity": (0.6, 1.5),
        "cart_mass": (0.7, 1.5),
        "pole_mass": (0.4, 2.5),
        "pole_half_length": (0.6, 2.0),
        "force": (0.7, 1.4),
    }
    state_size: ClassVar[int] = 4
    reset_draws: ClassVar[int] = 4

    SECONDS: ClassVar[float] = 0.02
    POSITION_LIMIT: ClassVar[float] = 2.4
    ANGLE_LIMIT: ClassVar[float] = 12 * 2 * math.pi / 360

    def reset(self, uniforms: Tensor, physics: Tensor) -> Tensor:
        """All components uniform in ±0.05."""
        return _between(-0.05, 0.05, uniforms)

    def observe(self, state: Tensor, physics: Tensor) -> Tensor:
        """The state."""
        return state.float()

    def step(self, state: Tensor, action: Tensor, physics: Tensor) -> Stepped:
        """Explicit Euler; reward 1 for every step. Equations: https://coneural.org/florian/papers/05_cart_pole.pdf"""
        gravity, cart_mass, pole_mass, half_length, force = _columns(physics)
        position, velocity, angle, spin = state.unbind(-1)
        total_mass = pole_mass + cart_mass
        mass_length = pole_mass * half_length
        push = torch.where(action == 1, force, -force)
        cosine, sine = angle.cos(), angle.sin()

        thrust = (push + mass_length * spin.square() * sine) / total_mass
        spin_change = (gravity * sine - cosine * thrust) / (
            half_length * (4.0 / 3.0 - pole_mass * cosine.square() / total_mass)
        )
        velocity_change = thrust - mass_length * spin_change * cosine / total_mass

        position = position + self.SECONDS * velocity
        velocity = velocity + self.SECONDS * velocity_change
        angle = angle + self.SECONDS * spin
        spin = spin + self.SECONDS * spin_change
        terminated = (position.abs() > self.POSITION_LIMIT) | (angle.abs() > self.ANGLE_LIMIT)
        return torch.stack((position, velocity, angle, spin), dim=-1), torch.ones_like(position), terminated


@dataclass(frozen=True)
class Acrobot:
    """Acrobot-v1. State: both joint angles, both angular velocities. Actions: torque -1, 0 or 1 times ``torque``.

    Sutton (1996) with the equations of the book, as Gymnasium's default has them.
    """

    native: ClassVar[str] = "acrobot"
    physics: ClassVar[Mapping[str, float]] = {
        **COMMON_PHYSICS,
        "gravity": 9.8,
        "link_1_mass": 1.0,
        "link_2_mass": 1.0,
        "link_1_length": 1.0,
        "link_1_center": 0.5,
        "link_2_center": 0.5,
        "inertia": 1.0,
        "torque": 1.0,
    }
    variation: ClassVar[Mapping[str, Range]] = {
        **_common_variation(noise=0.05, delay=2),
        "gravity": (0.7, 1.1),
        "link_1_mass": (0.7, 1.15),
        "link_2_mass": (0.7, 1.15),
        "link_1_length": (0.8, 1.1),
        "link_1_center": (0.8, 1.15),
        "link_2_center": (0.8, 1.15),
        "inertia": (0.7, 1.15),
        "torque": (0.9, 1.5),
    }
    state_size: ClassVar[int] = 4
    reset_draws: ClassVar[int] = 4

    SECONDS: ClassVar[float] = 0.2
    SPEED_LIMITS: ClassVar[tuple[float, float]] = (4 * math.pi, 9 * math.pi)

    def reset(self, uniforms: Tensor, physics: Tensor) -> Tensor:
        """All components uniform in ±0.1. Gymnasium rounds start states, and only these, to float32."""
        return _between(-0.1, 0.1, uniforms).float().double()

    def observe(self, state: Tensor, physics: Tensor) -> Tensor:
        """Cosine and sine of both angles, then both velocities."""
        first, second, *speeds = state.unbind(-1)
        return torch.stack((first.cos(), first.sin(), second.cos(), second.sin(), *speeds), dim=-1).float()

    def step(self, state: Tensor, action: Tensor, physics: Tensor) -> Stepped:
        """One step of Runge-Kutta 4; reward -1 until the tip is one link above the base, which terminates."""
        *links, torque_size = _columns(physics)
        torque = (action - 1) * torque_size
        half = self.SECONDS / 2.0
        k1 = self._derivative(state, torque, links)
        k2 = self._derivative(state + half * k1, torque, links)
        k3 = self._derivative(state + half * k2, torque, links)
        k4 = self._derivative(state + self.SECONDS * k3, torque, links)
        state = state + self.SECONDS / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)

        first, second, *speeds = state.unbind(-1)
        first, second = _wrap(first), _wrap(second)
        bounded = (speed.clamp(-limit, limit) for speed, limit in zip(speeds, self.SPEED_LIMITS, strict=True))
        terminated = -first.cos() - (second + first).cos() > 1.0
        return torch.stack((first, second, *bounded), dim=-1), terminated.double() - 1.0, terminated

    @staticmethod
    def _derivative(state: Tensor, torque: Tensor, links: list[Tensor]) -> Tensor:
        """Time derivative of the state. Both links have the same moment of inertia."""
        g, m1, m2, l1, lc1, lc2, inertia = links
        angle1, angle2, speed1, speed2 = state.unbind(-1)
        cos2, sin2 = angle2.cos(), angle2.sin()
        d1 = m1 * lc1.square() + m2 * (l1.square() + lc2.square() + 2 * l1 * lc2 * cos2) + inertia + inertia
        d2 = m2 * (lc2.square() + l1 * lc2 * cos2) + inertia
        phi2 = m2 * lc2 * g * (angle1 + angle2 - math.pi / 2.0).cos()
        phi1 = (
            -m2 * l1 * lc2 * speed2.square() * sin2
            - 2 * m2 * l1 * lc2 * speed2 * speed1 * sin2
            + (m1 * lc1 + m2 * l1) * g * (angle1 - math.pi / 2).cos()
            + phi2
        )
        acceleration2 = (torque + d2 / d1 * phi1 - m2 * l1 * lc2 * speed1.square() * sin2 - phi2) / (
            m2 * lc2.square() + inertia - d2.square() / d1
        )
        acceleration1 = -(d2 * acceleration2 + phi1) / d1
        return torch.stack((speed1, speed2, acceleration1, acceleration2), dim=-1)


def _wrap(angle: Tensor) -> Tensor:
    """The angle plus whole turns that bring it into ±pi; an angle already inside stays as it is, bit for bit."""
    turns = ((angle.abs() - math.pi) / (2 * math.pi)).ceil().clamp(min=0.0)
    return angle - turns.copysign(angle) * (2 * math.pi)


@dataclass(frozen=True)
class MountainCar:
    """MountainCar-v0. State: position, velocity. Actions: push left, none, push right."""

    native: ClassVar[str] = "mountaincar"
    physics: ClassVar[Mapping[str, float]] = {**COMMON_PHYSICS, "gravity": 0.0025, "force": 0.001, "max_speed": 0.07}
    variation: ClassVar[Mapping[str, Range]] = {
        **_common_variation(noise=0.002, delay=2),
        "gravity": (0.8, 1.05),
        "force": (0.95, 1.4),
        "max_speed": (0.8, 1.25),
    }
    state_size: ClassVar[int] = 2
    reset_draws: ClassVar[int] = 1

    GOAL: ClassVar[float] = 0.5

    def reset(self, uniforms: Tensor, physics: Tensor) -> Tensor:
        """Position uniform in [-0.6, -0.4], at rest."""
        return _at_rest(uniforms)

    def observe(self, state: Tensor, physics: Tensor) -> Tensor:
        """The state."""
        return state.float()

    def step(self, state: Tensor, action: Tensor, physics: Tensor) -> Stepped:
        """Reward -1 until the goal is reached, which terminates."""
        gravity, force, max_speed = _columns(physics)
        position, velocity = state.unbind(-1)
        velocity = velocity + ((action - 1) * force + (3 * position).cos() * -gravity)
        position, velocity = _drive(position, velocity, max_speed)
        terminated = (position >= self.GOAL) & (velocity >= 0.0)
        return torch.stack((position, velocity), dim=-1), torch.full_like(position, -1.0), terminated


@dataclass(frozen=True)
class MountainCarContinuous:
    """MountainCarContinuous-v0. State: position, velocity. Action: push in [-1, 1].

    As in Gymnasium, the state is rounded to float32 after every step. (Under NumPy 2, Gymnasium also computes the step
    in float32; under NumPy 1, and here, in float64.)
    """

    native: ClassVar[str] = "mountaincar-continuous"
    physics: ClassVar[Mapping[str, float]] = {**COMMON_PHYSICS, "gravity": 0.0025, "force": 0.0015, "max_speed": 0.07}
    variation: ClassVar[Mapping[str, Range]] = MountainCar.variation
    state_size: ClassVar[int] = 2
    reset_draws: ClassVar[int] = 1

    GOAL: ClassVar[float] = 0.45

    def reset(self, uniforms: Tensor, physics: Tensor) -> Tensor:
        """Position uniform in [-0.6, -0.4], at rest."""
        return _at_rest(uniforms)

    def observe(self, state: Tensor, physics: Tensor) -> Tensor:
        """The state."""
        return state.float()

    def step(self, state: Tensor, action: Tensor, physics: Tensor) -> Stepped:
        """Reward 100 at the goal, which terminates, minus 0.1 times the squared push."""
        gravity, force, max_speed = _columns(physics)
        position, velocity = state.unbind(-1)
        push = action[..., 0].double()
        velocity = velocity + (push.clamp(-1.0, 1.0) * force - gravity * (3 * position).cos())
        position, velocity = _drive(position, velocity, max_speed)
        terminated = (position >= self.GOAL) & (velocity >= 0.0)
        reward = terminated.double() * 100.0 - push.square() * 0.1
        return torch.stack((position, velocity), dim=-1).float().double(), reward, terminated


def _at_rest(uniforms: Tensor) -> Tensor:
    position = _between(-0.6, -0.4, uniforms)
    return torch.cat((position, torch.zeros_like(position)), dim=-1)


def _drive(position: Tensor, velocity: Tensor, max_speed: Tensor) -> tuple[Tensor, Tensor]:
    """Move on the track [-1.2, 0.6], whose left end is a wall that stops the car."""
    velocity = velocity.clamp(-max_speed, max_speed)
    position = (position + velocity).clamp(-1.2, 0.6)
    return position, torch.where((position == -1.2) & (velocity < 0.0), 0.0, velocity)


@dataclass(frozen=True)
class Pendulum:
    """Pendulum-v1. State: angle from upright (not wrapped), angular velocity. Action: torque in [-2, 2]."""

    native: ClassVar[str] = "pendulum"
    physics: ClassVar[Mapping[str, float]] = {**COMMON_PHYSICS, "gravity": 10.0, "mass": 1.0, "length": 1.0}
    variation: ClassVar[Mapping[str, Range]] = {
        **_common_variation(noise=0.05, delay=2),
        "gravity": (0.7, 1.15),
        "mass": (0.75, 1.15),
        "length": (0.75, 1.15),
    }
    state_size: ClassVar[int] = 2
    reset_draws: ClassVar[int] = 2

    SECONDS: ClassVar[float] = 0.05
    MAX_SPEED: ClassVar[float] = 8.0
    MAX_TORQUE: ClassVar[float] = 2.0

    def reset(self, uniforms: Tensor, physics: Tensor) -> Tensor:
        """Angle uniform in ±pi, velocity in ±1."""
        angle, spin = uniforms.unbind(-1)
        return torch.stack((_between(-math.pi, math.pi, angle), _between(-1.0, 1.0, spin)), dim=-1)

    def observe(self, state: Tensor, physics: Tensor) -> Tensor:
        """Cosine and sine of the angle, velocity."""
        angle, spin = state.unbind(-1)
        return torch.stack((angle.cos(), angle.sin(), spin), dim=-1).float()

    def step(self, state: Tensor, action: Tensor, physics: Tensor) -> Stepped:
        """Semi-implicit Euler; reward is minus the squared distance from resting upright. Never terminates."""
        gravity, mass, length = _columns(physics)
        angle, spin = state.unbind(-1)
        torque = action[..., 0].double().clamp(-self.MAX_TORQUE, self.MAX_TORQUE)
        from_upright = (angle + math.pi).remainder(2 * math.pi) - math.pi
        cost = from_upright.square() + 0.1 * spin.square() + 0.001 * torque.square()

        spin_change = 3 * gravity / (2 * length) * angle.sin() + 3.0 / (mass * length.square()) * torque
        spin = (spin + spin_change * self.SECONDS).clamp(-self.MAX_SPEED, self.MAX_SPEED)
        angle = angle + spin * self.SECONDS
        return torch.stack((angle, spin), dim=-1), -cost, torch.zeros_like(cost, dtype=torch.bool)
