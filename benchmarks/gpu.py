"""Throughput of the torch engine on a GPU: PPO on CartPole, 64-64 tanh, 16 environments x 64 steps, 4 epochs x 4
minibatches.

python benchmarks/gpu.py --output benchmarks/results/gpu.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

from hpbench import tasks
from hpbench.learners.ppo import PPO, PPOConfig


def measure(members: int, rollouts: int) -> dict[str, float]:
    """Aggregate environment steps per second, after a warm-up of one rollout."""
    values = {"update_epochs": 4, "minibatches": 4}
    config = PPOConfig(num_envs=16, num_steps=64)
    torch.cuda.reset_peak_memory_stats()
    population = PPO(tasks.make("classic/cartpole"), range(members), config, values, device="cuda", engine="torch")
    started = time.perf_counter()
    population.train(1)
    warm_up = time.perf_counter() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    population.train(rollouts)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return {
        "members": members,
        "steps_per_second": members * population.steps_per_rollout * rollouts / seconds,
        "warm_up_seconds": warm_up,
        "peak_memory_mib_per_member": torch.cuda.max_memory_allocated() / members / 2**20,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 64, 1024, 4096])
    parser.add_argument("--rollouts", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu.json"))
    arguments = parser.parse_args()
    rows = [measure(members, arguments.rollouts) for members in arguments.members]
    for row in rows:
        print({name: round(value, 3) for name, value in row.items()})
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "python": platform.python_version()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
