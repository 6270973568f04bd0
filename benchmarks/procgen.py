"""PPO on Procgen: its parts alone, the whole, and Stable-Baselines3 with the same network and settings.

    python -m benchmarks.procgen --seconds 20 --rounds 3 --output benchmarks/results/procgen.json

Everything on one thread. The sides take turns; what is told is the median of the rounds. The parts are
``simulator`` alone, ``inference`` (one batch of all environments), ``training`` (forward and backward on a minibatch;
PPO makes ``update_epochs`` passes), ``grouped``, which is the same for four members with their convolutions as one
grouped convolution, and ``looped`` with one member after the other.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpbench.learners.impala import IMPALA_SMALL
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.procgen import PUBLISHED, TASKS

TASK = TASKS["coinrun"]
ENVS, STEPS, EPOCHS, MINIBATCHES, MEMBERS = 32, 128, 3, 8, 4


def rate(work: Callable[[], int], seconds: float) -> float:
    """Units of work per second, after a first time that does not count."""
    work()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        done += work()
    return done / (time.perf_counter() - start)


def simulator() -> Callable[[], int]:
    assert TASK.simulator is not None
    running = TASK.simulator.make(ENVS)
    running.reset(range(ENVS), range(ENVS))
    random = np.random.Generator(np.random.PCG64(0))

    def work() -> int:
        running.step(random.integers(15, size=ENVS))
        return ENVS

    return work


def images(count: int) -> Tensor:
    random = np.random.Generator(np.random.PCG64(0))
    return torch.from_numpy(random.integers(256, size=(count, IMPALA_SMALL.observation_size), dtype=np.uint8))


def rows(members: int) -> Tensor:
    return IMPALA_SMALL.initial(torch.arange(members), torch.zeros(members, dtype=torch.int64))


def inference() -> Callable[[], int]:
    row, seen = rows(1)[0], images(ENVS)

    @torch.no_grad()
    def work() -> int:
        IMPALA_SMALL.activations(torch.split(row, IMPALA_SMALL.parts), seen)
        return ENVS

    return work


def training(members: int = 1) -> Callable[[], int]:
    parameters, batch = rows(members), ENVS * STEPS // MINIBATCHES
    seen = images(batch)

    def work() -> int:
        for row in parameters:
            leaf = row.clone().requires_grad_()
            features = IMPALA_SMALL.activations(torch.split(leaf, IMPALA_SMALL.parts), seen)[-1]
            torch.autograd.grad(features.square().sum(), leaf)
        return batch * members

    return work


def grouped() -> Callable[[], int]:
    """The network of :data:`MEMBERS` members as one: convolutions in groups, dense layers as a batched product."""
    sizes, batch, parameters = IMPALA_SMALL, ENVS * STEPS // MINIBATCHES, rows(MEMBERS)
    seen = images(batch).view(-1, sizes.side, sizes.side, sizes.colours).permute(0, 3, 1, 2).repeat(1, MEMBERS, 1, 1)

    def work() -> int:
        leaf = parameters.clone().requires_grad_()
        pieces = torch.split(leaf, sizes.parts, dim=1)
        layers = iter(zip(pieces[::2], pieces[1::2], sizes.shapes, strict=True))

        def convolve(x: Tensor, stride: int = 1) -> Tensor:
            weight, bias, shape = next(layers)
            kernel = weight.reshape(MEMBERS * shape[0], *shape[1:]).permute(0, 3, 1, 2)
            return functional.conv2d(x, kernel, bias.flatten(), stride, padding=1, groups=MEMBERS)

        x = seen.float() / 255.0
        for stage in range(len(sizes.channels)):
            x = functional.max_pool2d(convolve(x, sizes.stride if stage == 0 else 1), 3, 2, padding=1)
            for _ in range(sizes.blocks):
                x = x + convolve(functional.relu(convolve(functional.relu(x))))
        weight, bias, shape = next(layers)
        flat = functional.relu(x).unflatten(1, (MEMBERS, -1)).movedim(1, 0).flatten(2)
        dense = torch.relu(torch.baddbmm(bias.unsqueeze(1), flat, weight.view(MEMBERS, *shape)))
        torch.autograd.grad(dense.square().sum(), leaf)
        return batch * MEMBERS

    return work


def ours(members: int = 1) -> Callable[[], int]:
    config = PPOConfig(num_envs=ENVS, num_steps=STEPS, normalize_reward=True)
    population = PPO(TASK, list(range(members)), config, dict(PUBLISHED.values))

    def work() -> int:
        population.train(1)
        return members * population.steps_per_rollout

    return work


class Features(nn.Module):
    """The same network, as a features extractor of Stable-Baselines3: images come in transposed and scaled."""

    def __init__(self, space: Any, features_dim: int = IMPALA_SMALL.features) -> None:
        super().__init__()
        del space
        self.features_dim, sizes = features_dim, IMPALA_SMALL
        inputs, stages, stride = sizes.colours, [], sizes.stride
        for channels in sizes.channels:
            convolutions = [nn.Conv2d(inputs, channels, 3, stride, padding=1)]
            convolutions += [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2 * sizes.blocks)]
            stages.append(nn.ModuleList(convolutions))
            inputs, stride = channels, 1
        self.stages = nn.ModuleList(stages)
        self.dense = nn.Linear(sizes.shapes[-1][0], features_dim)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            first, *others = list(stage)  # type: ignore[call-overload]
            x = functional.max_pool2d(first(x), 3, 2, padding=1)
            for one, two in zip(others[::2], others[1::2], strict=True):
                x = x + two(functional.relu(one(functional.relu(x))))
        return torch.relu(self.dense(torch.relu(x).flatten(1)))


def theirs() -> Callable[[], int]:
    import stable_baselines3
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnv, VecNormalize

    class Games(VecEnv):
        """The same simulator."""

        def __init__(self) -> None:
            assert TASK.simulator is not None
            self.running = TASK.simulator.make(ENVS)
            super().__init__(ENVS, spaces.Box(0, 255, (64, 64, 3), np.uint8), spaces.Discrete(15))

        def reset(self) -> Any:
            self.running.reset(range(ENVS), range(ENVS))
            return self._images()

        def step_async(self, actions: Any) -> None:
            self.running.step(actions)

        def step_wait(self) -> Any:
            infos: list[dict[str, Any]] = [{} for _ in range(ENVS)]
            return self._images(), self.running.reward.astype(np.float32), self.running.terminated.copy(), infos

        def _images(self) -> Any:
            return self.running.observation.reshape(ENVS, 64, 64, 3).copy()

        def close(self) -> None:
            self.running.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * ENVS

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            pass

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return [None] * ENVS

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * ENVS

    values = PUBLISHED.values
    model = stable_baselines3.PPO(
        "CnnPolicy",
        VecNormalize(Games(), norm_obs=False, gamma=values["discount"]),
        n_steps=STEPS,
        batch_size=ENVS * STEPS // MINIBATCHES,
        n_epochs=EPOCHS,
        learning_rate=values["learning_rate"],
        gamma=values["discount"],
        ent_coef=values["entropy_coefficient"],
        policy_kwargs={"features_extractor_class": Features, "net_arch": []},
        device="cpu",
    )

    def work() -> int:
        model.learn(ENVS * STEPS, reset_num_timesteps=False)
        return ENVS * STEPS

    return work


SUBJECTS: dict[str, Callable[[], Callable[[], int]]] = {
    "simulator": simulator,
    "inference": inference,
    "training": training,
    "looped": lambda: training(MEMBERS),
    "grouped": grouped,
    "hpbench": ours,
    "hpbench, 4 members": lambda: ours(MEMBERS),
    "stable-baselines3": theirs,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0, help="of each subject in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    works = {name: make() for name, make in SUBJECTS.items()}
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        for name, work in works.items():
            whole = name.startswith(("hpbench", "stable"))
            rates[name].append(rate(work, arguments.seconds if whole else arguments.seconds / 5))
    medians = {name: round(statistics.median(numbers), 1) for name, numbers in rates.items()}
    bound = 1.0 / (1.0 / medians["simulator"] + 1.0 / medians["inference"] + EPOCHS / medians["training"])
    result = {
        "unit": "environment steps or images per second, one thread, medians",
        "rates": medians,
        "all": {name: [round(number, 1) for number in numbers] for name, numbers in rates.items()},
        "bound": round(bound, 1),
        "share_of_bound": round(medians["hpbench"] / bound, 3),
        "times_stable_baselines3": round(medians["hpbench"] / medians["stable-baselines3"], 2),
        "machine": {"processor": platform.processor(), "torch": torch.__version__, "shared": True},
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
