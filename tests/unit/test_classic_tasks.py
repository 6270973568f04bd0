"""The classic tasks equal Gymnasium's, step for step, with standard and with changed physics."""

from __future__ import annotations

import dataclasses
import math
import pickle
import types
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray

from hpbench import tasks
from hpbench.errors import UnknownName
from hpbench.learners import make
from hpbench.tasks.base import COMMON_PHYSICS, Task

GYMNASIUM = {
    "classic/cartpole": "CartPole-v1",
    "classic/acrobot": "Acrobot-v1",
    "classic/mountaincar": "MountainCar-v0",
    "classic/mountaincar-continuous": "MountainCarContinuous-v0",
    "classic/pendulum": "Pendulum-v1",
}
STATES = {  # box that random states are drawn from, a little beyond the terminal ones
    "classic/cartpole": ([-2.5, -3.0, -0.22, -3.0], [2.5, 3.0, 0.22, 3.0]),
    "classic/acrobot": ([-math.pi, -math.pi, -4 * math.pi, -9 * math.pi], [math.pi, math.pi, 4 * math.pi, 9 * math.pi]),
    "classic/mountaincar": ([-1.2, -0.07], [0.6, 0.07]),
    "classic/mountaincar-continuous": ([-1.2, -0.07], [0.6, 0.07]),
    "classic/pendulum": ([-10.0, -8.0], [10.0, 8.0]),
}
BASES = sorted(GYMNASIUM)

# One step: PyTorch's and NumPy's sin and cos differ in the last bit, Acrobot's stiffest states amplify that tenfold.
STEP_TOLERANCE = 1e-13
# Whole episodes: Acrobot is chaotic and amplifies the last bit to some 1e-10 within 500 steps.
EPISODE_TOLERANCE = 1e-7


def as_float64(env: Any) -> None:
    """Gymnasium keeps some states in float32, and NumPy 2 would go on computing in float32. This changes no value."""
    env.state = np.array(env.state, dtype=np.float64)


def reference(task: Task) -> Any:
    """Gymnasium's environment with the physics of the task."""
    env: Any = gym.make(GYMNASIUM[task.base]).unwrapped
    env.reset(seed=0)
    physics = task.physics
    if task.base == "classic/cartpole":
        env.gravity, env.masscart, env.masspole = physics["gravity"], physics["cart_mass"], physics["pole_mass"]
        env.length, env.force_mag = physics["pole_half_length"], physics["force"]
        env.total_mass = env.masspole + env.masscart
        env.polemass_length = env.masspole * env.length
    elif task.base == "classic/acrobot":
        env.LINK_MASS_1, env.LINK_MASS_2 = physics["link_1_mass"], physics["link_2_mass"]
        env.LINK_LENGTH_1, env.LINK_MOI = physics["link_1_length"], physics["inertia"]
        env.LINK_COM_POS_1, env.LINK_COM_POS_2 = physics["link_1_center"], physics["link_2_center"]
        env.AVAIL_TORQUE = [-physics["torque"], 0.0, physics["torque"]]
        env._dsdt = with_constant(env._dsdt, 9.8, physics["gravity"])
    elif task.base == "classic/mountaincar":
        env.gravity, env.force, env.max_speed = physics["gravity"], physics["force"], physics["max_speed"]
    elif task.base == "classic/mountaincar-continuous":
        env.power, env.max_speed = physics["force"], physics["max_speed"]
        env.step = with_constant(env.step, 0.0025, physics["gravity"])
    else:
        env.g, env.m, env.l = physics["gravity"], physics["mass"], physics["length"]
    return env


def with_constant(method: Any, old: float, new: float) -> Callable[..., Any]:
    """The method with one number in its code replaced: Gymnasium writes some physics as numbers."""
    code = method.__code__
    assert code.co_consts.count(old) == 1
    constants = tuple(new if constant == old else constant for constant in code.co_consts)
    function = types.FunctionType(code.replace(co_consts=constants), method.__globals__)
    return types.MethodType(function, method.__self__)


def physics_table(*members: Task) -> torch.Tensor:
    return torch.tensor([task.physics_row() for task in members], dtype=torch.float64)


def random_actions(task: Task, rng: np.random.Generator, *shape: int) -> NDArray[Any]:
    if task.discrete:
        return rng.integers(task.action_count, size=shape)
    return rng.uniform(task.action_low, task.action_high, (*shape, task.action_count)).astype(np.float32)


def gymnasium_action(task: Task, action: NDArray[Any]) -> Any:
    # In float64, for the reason of `as_float64`.
    return int(action) if task.discrete else action.astype(np.float64)


def random_states(task: Task, rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    low, high = STATES[task.base]
    return rng.uniform(low, high, (*shape, len(low)))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("variant", ["", "@train-0", "@validation-1", "@test-2"])
def test_single_steps_equal_gymnasium(base: str, variant: str) -> None:
    task, rng, count = tasks.make(base + variant), np.random.default_rng(1), 1000
    states, actions = random_states(task, rng, 1, count), random_actions(task, rng, 1, count)
    physics, env = physics_table(task), reference(task)
    after, rewards, terminated = task.dynamics.step(torch.from_numpy(states), torch.from_numpy(actions), physics)
    observations = task.dynamics.observe(after, physics)
    assert observations.dtype == torch.float32
    assert observations.shape == (1, count, task.observation_size)
    assert after.dtype == rewards.dtype == torch.float64
    if base != "classic/pendulum":  # which never terminates
        assert 0 < terminated.sum() < count

    for i in range(count):
        env.state = states[0, i].copy()
        env.steps_beyond_terminated = None
        observation, reward, done, _, _ = env.step(gymnasium_action(task, actions[0, i]))
        scale = np.maximum(1.0, np.abs(env.state))
        assert np.abs(after[0, i].numpy() - env.state).max() <= (STEP_TOLERANCE * scale).max()
        assert rewards[0, i].item() == pytest.approx(reward, rel=STEP_TOLERANCE, abs=STEP_TOLERANCE)
        assert terminated[0, i].item() is done
        np.testing.assert_array_max_ulp(observations[0, i].numpy(), observation, maxulp=1)


@pytest.mark.parametrize("base", BASES)
def test_whole_episodes_equal_gymnasium(base: str) -> None:
    task, rng = tasks.make(base), np.random.default_rng(2)
    # Some 2,000 steps: CartPole falls after about 20 random ones, the others mostly reach their time limit.
    count = 100 if base == "classic/cartpole" else math.ceil(2000 / task.max_episode_steps)
    physics = physics_table(task)
    state = task.dynamics.reset(torch.from_numpy(rng.random((1, count, task.dynamics.reset_draws))), physics)
    envs = [reference(task) for _ in range(count)]
    for env, start in zip(envs, state[0].numpy(), strict=True):
        env.state = start.copy()
    running, steps = set(range(count)), 0
    for _ in range(task.max_episode_steps):
        actions = random_actions(task, rng, 1, count)
        state, rewards, terminated = task.dynamics.step(state, torch.from_numpy(actions), physics)
        observations = task.dynamics.observe(state, physics).numpy()
        for i in sorted(running):
            observation, reward, done, _, _ = envs[i].step(gymnasium_action(task, actions[0, i]))
            as_float64(envs[i])
            np.testing.assert_allclose(observations[0, i], observation, rtol=EPISODE_TOLERANCE, atol=EPISODE_TOLERANCE)
            assert rewards[0, i].item() == pytest.approx(reward, rel=EPISODE_TOLERANCE, abs=EPISODE_TOLERANCE)
            assert terminated[0, i].item() is done
            if done:
                running.remove(i)
            steps += 1
    assert steps >= 1500


@pytest.mark.parametrize("base", BASES)
def test_start_states_equal_gymnasium(base: str) -> None:
    """Both turn the same uniform numbers into the same state."""
    task, env, physics = tasks.make(base), gym.make(GYMNASIUM[base]).unwrapped, physics_table(tasks.make(base))
    for seed in range(100):
        observation, _ = env.reset(seed=seed)
        uniforms = np_random(seed)[0].random((1, 1, task.dynamics.reset_draws))
        state = task.dynamics.reset(torch.from_numpy(uniforms), physics)
        np.testing.assert_array_equal(state[0, 0].numpy(), np.asarray(env.state, dtype=np.float64))  # type: ignore[attr-defined]
        # Acrobot's first observation is computed in float32 there, from the state in float64 here.
        np.testing.assert_array_max_ulp(task.dynamics.observe(state, physics)[0, 0].numpy(), observation, maxulp=2)


@pytest.mark.parametrize("base", ["classic/mountaincar-continuous", "classic/pendulum"])
def test_continuous_actions_out_of_bounds_act_as_in_gymnasium(base: str) -> None:
    task = tasks.make(base)
    env, state = reference(task), random_states(task, np.random.default_rng(3), 1, 1)
    for value in (-7.5, 7.5):
        env.state = state[0, 0].copy()
        _, reward, _, _, _ = env.step(np.array([value]))
        after, rewards, _ = task.dynamics.step(
            torch.from_numpy(state), torch.full((1, 1, 1), value), physics_table(task)
        )
        np.testing.assert_allclose(after[0, 0].numpy(), env.state, rtol=STEP_TOLERANCE)
        assert rewards.item() == pytest.approx(reward, rel=STEP_TOLERANCE)


@pytest.mark.parametrize("base", BASES)
def test_task_data_equals_gymnasium(base: str) -> None:
    task, env = tasks.make(base), gym.make(GYMNASIUM[base])
    assert env.spec is not None
    assert task.max_episode_steps == env.spec.max_episode_steps
    assert task.success_return == env.spec.reward_threshold
    assert env.observation_space.shape == (task.observation_size,)
    if task.discrete:
        assert env.action_space == gym.spaces.Discrete(task.action_count)
    else:
        assert env.action_space == gym.spaces.Box(task.action_low, task.action_high, (task.action_count,))


@pytest.mark.parametrize("base", BASES)
def test_members_do_not_depend_on_the_batch(base: str) -> None:
    """A member's numbers are the same bits alone and in company."""
    members = [tasks.make(base), *(tasks.make(f"{base}@train-{i}") for i in range(6))]
    task, rng, envs, steps = members[0], np.random.default_rng(4), 9, 20
    physics = physics_table(*members)
    uniforms = torch.from_numpy(rng.random((len(members), envs, task.dynamics.reset_draws)))
    actions = torch.from_numpy(random_actions(task, rng, steps, len(members), envs))

    def play(select: slice) -> list[torch.Tensor]:
        table, trace = physics[select], []
        state = task.dynamics.reset(uniforms[select], table)
        for t in range(steps):
            state, reward, terminated = task.dynamics.step(state, actions[t, select], table)
            trace += [state, reward, terminated, task.dynamics.observe(state, table)]
        return trace

    together = play(slice(None))
    for i in range(len(members)):
        for batch, alone in zip(together, play(slice(i, i + 1)), strict=True):
            assert torch.equal(batch[i : i + 1], alone)


@pytest.mark.parametrize("base", BASES)
def test_dynamics_read_nothing_back(base: str) -> None:
    """Tensors without data suffice: no value is read back, no branch depends on one, so a CUDA graph can hold it."""
    task, members, envs = tasks.make(base), 3, 5
    physics = torch.empty(members, len(task.physics), dtype=torch.float64, device="meta")
    uniforms = torch.empty(members, envs, task.dynamics.reset_draws, dtype=torch.float64, device="meta")
    action = (
        torch.empty(members, envs, dtype=torch.int64, device="meta")
        if task.discrete
        else torch.empty(members, envs, task.action_count, device="meta")
    )
    state = task.dynamics.reset(uniforms, physics)
    assert state.shape == (members, envs, task.dynamics.state_size)
    after, reward, terminated = task.dynamics.step(state, action, physics)
    assert (after.shape, after.dtype) == (state.shape, torch.float64)
    assert (reward.shape, reward.dtype) == ((members, envs), torch.float64)
    assert (terminated.shape, terminated.dtype) == ((members, envs), torch.bool)
    assert task.dynamics.observe(after, physics).shape == (members, envs, task.observation_size)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("base", BASES)
def test_cuda_graph_equals_cpu(base: str) -> None:
    task, rng = tasks.make(base), np.random.default_rng(5)
    state, action = (
        torch.from_numpy(random_states(task, rng, 4, 50)),
        torch.from_numpy(random_actions(task, rng, 4, 50)),
    )
    physics = physics_table(*[task] * 4)
    inputs = [tensor.cuda() for tensor in (state, action, physics)]
    task.dynamics.step(*inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = task.dynamics.step(*inputs)
    graph.replay()
    for ours, expected in zip(captured, task.dynamics.step(state, action, physics), strict=True):
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-12, atol=1e-12)


def test_all_tasks_of_the_family_are_tested() -> None:
    assert tasks.task_ids("classic") == [*GYMNASIUM]


@pytest.mark.parametrize("base", BASES)
def test_task_data_is_complete(base: str) -> None:
    task = tasks.make(base)
    assert (task.id, task.base, task.family, task.split) == (base, base, "classic", "standard")
    assert task.physics == task.dynamics.physics
    assert list(task.physics)[: len(COMMON_PHYSICS)] == list(COMMON_PHYSICS)
    assert {name: task.physics[name] for name in COMMON_PHYSICS} == COMMON_PHYSICS
    assert task.dynamics.variation.keys() == task.physics.keys()
    assert task.summary
    assert task.anchors.source
    assert task.anchors.low < task.anchors.high
    assert task.budgets.keys() == {"small", "standard", "paper"}
    for budget in task.budgets.values():
        assert budget.steps % (budget.decisions * 512) == 0, "a segment must be a whole number of default rollouts"


@pytest.mark.parametrize("base", BASES)
def test_hand_tuned_values_are_canonical(base: str) -> None:
    task = tasks.make(base)
    assert task.hand_tuned.keys() >= {name for name in ("ppo", "dqn") if make(name).can_learn(task)}
    for learner, published in task.hand_tuned.items():
        space = make(learner).hyperparameters
        assert tuple(published.values) == space.hot
        assert space.check(published.values) == published.values
        assert GYMNASIUM[base] in published.source


@pytest.mark.parametrize("task_id", [*BASES, "classic/acrobot@test-63"])
def test_tasks_are_immutable_values(task_id: str) -> None:
    task = tasks.make(task_id)
    assert pickle.loads(pickle.dumps(task)) == task
    assert tasks.make(task_id) == task
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.max_episode_steps = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cartpole", "Unknown task 'cartpole'. Did you mean 'classic/cartpole'"),
        ("", "Unknown task ''. Known: classic/acrobot, "),
        ("clasic/cartpole", "Unknown task family 'clasic'. Did you mean 'classic'?"),
        ("os:path/cartpole", "Unknown task family 'os:path'. Known: classic"),
        ("classic/cartpol", "Unknown task 'classic/cartpol'. Did you mean 'classic/cartpole'"),
        ("classic/mountain-car", "Unknown task 'classic/mountain-car'. Did you mean 'classic/mountaincar' or "),
        ("classic/cartpol@train-1", "Unknown task 'classic/cartpol'. Did you mean 'classic/cartpole'"),
        ("classic/cartpole@trian-1", "split in classic/cartpole@trian-1, .* 'trian'. Did you mean 'train'?"),
        ("classic/cartpole@standard-0", "split in classic/cartpole@standard-0, .* 'standard'. Known: test, train, val"),
        ("classic/cartpole@train", "split in classic/cartpole@train, which must be split-index: "),
        ("classic/cartpole@", "split in classic/cartpole@, which must be split-index: "),
        ("classic/cartpole@train-256", "variant of classic/cartpole 'train-256'. .*'?train-0 to train-255"),
        ("classic/cartpole@test-64", "variant of classic/cartpole 'test-64'. .*'?test-0 to test-63"),
        ("classic/cartpole@train-01", "variant of classic/cartpole 'train-01'. .*'?train-0 to train-255"),
        ("classic/cartpole@train--1", "split in classic/cartpole@train--1, .* 'train-'. Did you mean 'train'?"),
        ("classic/cartpole@train-x", "variant of classic/cartpole 'train-x'. .*'?train-0 to train-255"),
    ],
)
def test_unknown_names_are_explained(name: str, expected: str) -> None:
    with pytest.raises(UnknownName, match=expected):
        tasks.make(name)


def test_task_ids_are_explained() -> None:
    with pytest.raises(UnknownName, match="Unknown task family 'clasic'. Did you mean 'classic'?"):
        tasks.task_ids("clasic")
    with pytest.raises(UnknownName, match="Unknown split 'tets'. Did you mean 'test'?"):
        tasks.task_ids("classic", split="tets")
