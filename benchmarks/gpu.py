"""Throughput of the learners on a GPU.

    python benchmarks/gpu.py                                       # PPO; writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --learners ppo dqn sac --members 1 64

PPO: CartPole, 64-64 tanh, 16 environments x 64 steps, 4 epochs x 4 minibatches. DQN: CartPole, one environment, a
gradient step on 32 transitions every 4 steps. SAC: Pendulum, one environment, a gradient step on 256 transitions every
step. Both torch engines are measured: eager, and CUDA graphs of compiled kernels.

The bound that PPO's rates are compared with is the larger of two times: for the counted floating-point operations at
the card's measured float32 matrix rate, and for the fewest bytes that must be moved at its measured copy rate.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from hpbench import tasks
from hpbench.learners import make
from hpbench.learners.dqn import DQNConfig
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.learners.sac import SACConfig

EPOCHS = MINIBATCHES = 4
WORKLOADS: dict[str, tuple[str, Any, dict[str, float]]] = {
    "ppo": ("classic/cartpole", PPOConfig(16, 64), {"update_epochs": EPOCHS, "minibatches": MINIBATCHES}),
    "dqn": ("classic/cartpole", DQNConfig(1, 256, learning_starts=0), {"batch_size": 32, "train_frequency": 4}),
    "sac": ("classic/pendulum", SACConfig(1, 256, learning_starts=0), {"batch_size": 256, "updates_per_step": 1.0}),
}
"""Task, configuration and hyperparameters of each learner."""


def operations(population: PPO) -> float:
    """Floating-point operations of the matrix products per environment step: 2 for every weight and sample.

    Acting takes one forward pass of the actor and two of the critic (value, and value of the final observation). Every
    sample of an epoch takes a forward pass of both, and twice that for the backward pass.
    """
    shapes = (population.networks.actor, population.networks.critic)
    actor, critic = (2.0 * sum(a * b for a, b in zip(net.sizes, net.sizes[1:], strict=False)) for net in shapes)
    return actor + 2.0 * critic + EPOCHS * 3.0 * (actor + critic)


def fewest_bytes(population: PPO) -> float:
    """Bytes per environment step that must pass through the card's memory if everything else stays on the chip.

    Every optimiser step reads and writes parameters and both moments of Adam; every sample of an epoch is read
    (observation, action, log-probability, advantage, return), having been written once.
    """
    sample = 4.0 * (population.tasks[0].observation_size + population.environments.width + 3)
    optimiser_step = 6.0 * 4.0 * population.networks.size
    return sample * (1 + EPOCHS) + EPOCHS * MINIBATCHES * optimiser_step / population.steps_per_rollout


def copy_rate(size: int = 2**30, repeats: int = 10) -> float:
    """Measured bytes per second of a copy on the device, read and written."""
    source = torch.empty(size, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        target.copy_(source)
    torch.cuda.synchronize()
    return repeats * 2.0 * size / (time.perf_counter() - started)


def matrix_rate(size: int = 8192, repeats: int = 10) -> float:
    """Measured float32 operations per second of a large matrix product."""
    a, b = (torch.randn(size, size, device="cuda") for _ in range(2))
    a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize()
    return repeats * 2.0 * size**3 / (time.perf_counter() - started)


def measure(learner: str, engine: str, members: int, seconds: float, rounds: int = 5) -> dict[str, Any]:
    """Aggregate environment steps per second: the median over rounds, after a warm-up that is reported apart."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    task, config, values = WORKLOADS[learner]
    made: Any = make(learner)
    population = made(tasks.make(task), range(members), config, values, device="cuda", engine=engine)

    def timed(rollouts: int) -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        population.train(rollouts)
        torch.cuda.synchronize()
        return time.perf_counter() - started

    warm_up = timed(1)
    rollouts = max(1, round(seconds / timed(1)))
    steps = rollouts * members * population.steps_per_rollout
    rates = sorted(steps / timed(rollouts) for _ in range(rounds))
    counted = {}
    if learner == "ppo":
        counted = {"operations_per_step": operations(population), "fewest_bytes_per_step": fewest_bytes(population)}
    return {
        "learner": learner,
        "engine": engine,
        "members": members,
        "steps_per_second": rates[rounds // 2],
        "range": [rates[0], rates[-1]],
        **counted,
        "warm_up_seconds": warm_up,
        "peak_memory_mib_per_member": torch.cuda.max_memory_allocated() / members / 2**20,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--learners", nargs="+", default=["ppo"], choices=list(WORKLOADS))
    parser.add_argument("--members", type=int, nargs="+", default=[1, 64, 1024, 4096])
    parser.add_argument("--engines", nargs="+", default=["graph", "torch"], choices=["graph", "torch"])
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement (default 1)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu.json"))
    arguments = parser.parse_args()
    operations_rate, bytes_rate, rows = matrix_rate(), copy_rate(), []
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "python": platform.python_version()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for learner, engine, members in itertools.product(arguments.learners, arguments.engines, arguments.members):
        row = measure(learner, engine, members, arguments.seconds)
        if learner == "ppo":
            floor = max(row["operations_per_step"] / operations_rate, row["fewest_bytes_per_step"] / bytes_rate)
            row["share_of_bound"] = row["steps_per_second"] * floor
        rows.append(row)
        print({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
        rates = {"float32_matrix_rate": operations_rate, "copy_rate": bytes_rate}
        document = {"command": " ".join(["python", *sys.argv]), "machine": machine, **rates, "rows": rows}
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
