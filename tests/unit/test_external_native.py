"""The native engine on simulators: what the torch engine does, and what it has to refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from drift import ENGINES, Drift, DriftMaker, Make, dqn, needs_native, ppo, sac, task
from hpbench.learners import native


@needs_native
@pytest.mark.parametrize("make", [ppo, sac, dqn])
@pytest.mark.parametrize("changed", [{}, {"reward_scale": 3.0, "observation_noise": 0.02, "action_delay": 2.0}])
def test_the_native_engine_does_what_the_torch_engine_does(make: Make, changed: dict[str, float]) -> None:
    """Ends of episodes are drawn by the simulators, whatever the actions: everything whole must be the same."""
    of = task(discrete=False) if make is sac else task()
    of = replace(of, physics={**of.physics, **changed})
    reference, fast = (make(of=of, engine=engine) for engine in ("torch", "native"))
    for _ in range(2):
        expected, found = reference.train(1), fast.train(1)
        reference.settle()
        fast.settle()
        for name, tensor in reference.state.items():
            if name == "env_simulator" and make is sac:
                continue  # holds positions that differ in their last bits
            close = 0.0 if not tensor.dtype.is_floating_point else 2e-3
            torch.testing.assert_close(
                fast.state[name], tensor, rtol=close, atol=close, msg=lambda m, n=name: f"{n}: {m}"
            )
        for name in ("episodes", "return_mean", "episode_length"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3)
    one, two = reference.evaluate(4), fast.evaluate(4)
    assert np.array_equal(one.lengths, two.lengths)
    np.testing.assert_allclose(one.returns, two.returns, rtol=1e-3)


@needs_native
@pytest.mark.parametrize("make", [ppo, sac])
def test_threads_change_nothing(make: Make) -> None:
    one, two = make(engine="native"), make(engine="native", threads=2)
    for population in (one, two):
        population.train(2)
        population.evaluate(3)
    assert one.digests() == two.digests()


class Broken(Exception):
    pass


class Fragile(Drift):
    def step(self, actions: NDArray[Any], which: Sequence[int] | None = None) -> None:
        super().step(actions, which)
        if len(self.path[0]) > 9:
            raise Broken


@dataclass(frozen=True)
class FragileMaker(DriftMaker):
    def make(self, envs: int, evaluation: bool = False) -> Drift:
        return Fragile(self, envs, evaluation)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_simulator_that_fails_is_heard_of(engine: str, threads: int) -> None:
    fragile = replace(task(), simulator=FragileMaker(hazard=0.0))
    population = ppo(of=fragile, engine=engine, threads=threads)
    with pytest.raises(Broken):
        population.train(1)
    with pytest.raises(Broken):
        population.evaluate(2)


@needs_native
def test_the_native_engine_refuses_what_it_cannot_read() -> None:
    bytes_, encoded = replace(task(), observation_dtype="uint8"), replace(task(), encoder="impala")
    for of in (bytes_, encoded):
        assert "flat float32" in str(native.obstacle(of, (64, 64), torch.device("cpu")))
    assert native.obstacle(task(), (64, 64), torch.device("cpu")) is None
