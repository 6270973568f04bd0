"""PPO on Procgen: how fast, next to Stable-Baselines3 and to what the machine could do at best.

    python benchmarks/procgen_speed.py             # about 10 minutes
    python benchmarks/procgen_speed.py --quick     # tiny sizes, to see that it works

CoinRun with the small residual CNN; 32 environments of 128 steps, 3 epochs of 8 minibatches. Stable-Baselines3 gets the
same simulator, network and settings. The subjects, on one thread and on two:

- ``hpbench`` with the native convolutions, and with PyTorch's; ``stable-baselines3``;
- ``simulator`` alone, with random actions;
- ``matrix``: products of 1024 x 1024 matrices in PyTorch, as floating-point operations per second.

The bound is the time of the simulator alone plus that of the network's operations, counted, at the speed of the matrix
product. Each subject lives in a process of its own; they are measured in turn, round after round.

Needs the extras ``procgen`` and ``sb3``: pip install "hpbench[procgen,sb3]"
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import RESULTS, Answer, Grid, Train, Worker, matrices, serve, thousands, timed, write_results

from hpbench.learners import images_native
from hpbench.learners.impala import IMPALA_SMALL
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.tasks.procgen import PUBLISHED, TASKS

TASK = TASKS["coinrun"]
EPOCHS, MINIBATCHES = int(PUBLISHED.values["update_epochs"]), int(PUBLISHED.values["minibatches"])
PEER, OURS, OURS_IN_TORCH, SIMULATOR, MATRICES = "stable-baselines3", "hpbench", "hpbench torch", "simulator", "matrix"


@dataclass(frozen=True)
class Subject:
    """What is measured, with how many threads, and how many environments and steps a rollout has."""

    kind: str
    threads: int
    members: int = 1
    envs: int = 32
    steps: int = 128

    @property
    def label(self) -> str:
        """For tables."""
        members = f", {self.members} members" if self.members > 1 else ""
        return f"{self.kind}{members}, {self.threads} thread{'s' if self.threads > 1 else ''}"


def operations() -> float:
    """Floating-point operations of the network per environment step: one pass to act and, in each epoch, one forth and
    two back, but for the gradient of the image. A multiplication and an addition are two. The smaller rest is left out:
    biases, pooling, losses, Adam, the values of the last observations."""
    layers, side = [], IMPALA_SMALL.side // IMPALA_SMALL.stride
    for index, shape in enumerate(IMPALA_SMALL.shapes[:-1]):
        layers.append(2.0 * side * side * math.prod(shape))
        if index % (1 + 2 * IMPALA_SMALL.blocks) == 0:  # pooled
            side //= 2
    heads = IMPALA_SMALL.features * (TASK.action_count + 1)
    forward = sum(layers) + 2.0 * (math.prod(IMPALA_SMALL.shapes[-1]) + heads)
    return forward + EPOCHS * (3.0 * forward - layers[0])


def ours(subject: Subject) -> Train:
    if subject.kind == OURS_IN_TORCH:
        images_native.suits = lambda sizes, images: False
    torch.set_num_threads(1)
    config = PPOConfig(num_envs=subject.envs, num_steps=subject.steps, normalize_reward=True)
    seeds, values = list(range(subject.members)), dict(PUBLISHED.values)
    population = PPO(TASK, seeds, config, values, threads=subject.threads)

    def train(rollouts: int) -> int:
        population.train(rollouts)
        return rollouts * population.steps_per_rollout * subject.members

    return train


def peer(subject: Subject) -> Train:
    from procgen_peer import make_peer

    model = make_peer(TASK, subject.envs, subject.steps, subject.threads)

    def train(rollouts: int) -> int:
        model.learn(rollouts * subject.envs * subject.steps, reset_num_timesteps=False)
        return rollouts * subject.envs * subject.steps

    return train


def simulator(subject: Subject) -> Train:
    from procgen_peer import make_simulator

    running = make_simulator(TASK, subject.envs, subject.threads)
    actions = np.random.Generator(np.random.PCG64(0)).integers(15, size=(subject.steps, subject.envs))

    def train(rollouts: int) -> int:
        for _ in range(rollouts):
            for row in actions:
                running.step(row)
        return rollouts * subject.envs * subject.steps

    return train


KINDS: Mapping[str, Callable[[Subject], Train]] = {
    OURS: ours,
    PEER: peer,
    SIMULATOR: simulator,
    MATRICES: lambda subject: matrices(subject.threads),
    OURS_IN_TORCH: ours,
}


def answers(subject: Subject) -> Answer:
    """Builds the subject; what comes back works as asked."""
    return timed(KINDS[subject.kind](subject))


def comparison(rates: Mapping[str, Sequence[float]], threads: int) -> dict[str, Any]:
    """What the rates say of PPO on so many threads. Ratios are medians of round-wise ratios. Stable-Baselines3 is
    allowed the better of one thread and of as many."""
    mine = rates[Subject(OURS, threads).label]
    theirs = max((rates[Subject(PEER, n).label] for n in {1, threads}), key=statistics.median)
    alone = rates[Subject(SIMULATOR, threads).label]
    speed = rates[Subject(MATRICES, threads).label]
    bounds = [1.0 / (1.0 / a + operations() / s) for a, s in zip(alone, speed, strict=True)]
    return {
        "threads": threads,
        "steps_per_second": round(statistics.median(mine), 1),
        "bound": round(statistics.median(bounds), 1),
        "share_of_bound": round(statistics.median(a / b for a, b in zip(mine, bounds, strict=True)), 3),
        "times_stable_baselines3": round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 2),
    }


def write(folder: Path, rates: Mapping[str, Sequence[float]], threads: Sequence[int], show: bool) -> None:
    """Tables and files of what there is so far."""
    compared = [comparison(rates, count) for count in threads]
    data = {
        "operations_per_step": operations(),
        "vector_lanes": images_native.lanes(),
        "load": [round(value, 1) for value in os.getloadavg()],
        "comparison": compared,
        "medians": {label: round(statistics.median(values), 1) for label, values in rates.items()},
        "rates": {label: [round(value, 1) for value in values] for label, values in rates.items()},
    }
    rows = []
    for label, values in rates.items():
        scale, unit = (1e9, "Gflop/s") if label.startswith(MATRICES) else (1.0, "steps/s")
        low, middle, high = (f(values) / scale for f in (min, statistics.median, max))
        rows.append([label, f"{thousands(middle)} {unit}", f"{thousands(low)} - {thousands(high)}"])
    shares = [
        [
            str(row["threads"]), thousands(row["steps_per_second"]), f"{row['times_stable_baselines3']:.2f}x",
            thousands(row["bound"]), f"{100 * row['share_of_bound']:.0f} %",
        ]
        for row in compared
    ]  # fmt: skip
    grids = [
        Grid("PPO on Procgen CoinRun, 32 environments x 128 steps", ("subject", "median", "range"), rows),
        Grid("Of hpbench", ("threads", "steps/s", "to SB3", "bound, steps/s", "of the bound"), shares),
    ]
    notes = (
        f"{operations() / 1e6:.1f} million floating-point operations of the network per step, counted. The bound is "
        "the simulator alone plus these at the speed of the matrix product, on as many threads. Medians over rounds in "
        "which all subjects took turns; ratios are medians of round-wise ratios, to the better of Stable-Baselines3 on "
        "one thread and on as many. The load average of the machine is in the JSON file."
    )
    if show:
        write_results(folder, "procgen_speed", "python benchmarks/procgen_speed.py", data, grids, notes)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "procgen_speed_partial.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--rounds", type=int, default=5, help="how often every subject is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one measurement (default 10)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for procgen_speed.json and procgen_speed.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        serve(answers(Subject(**json.loads(options.worker))))
        return
    sizes = {}
    if options.quick:
        options.rounds, options.seconds, sizes = 1, 0.01, {"envs": 4, "steps": 8}
    kinds = [(kind, count, 1) for kind in KINDS for count in options.threads if kind != OURS_IN_TORCH or count == 1]
    kinds.append((OURS, max(options.threads), 4))
    everyone = [Subject(kind, count, members, **sizes) for kind, count, members in kinds]
    rates: dict[str, list[float]] = {subject.label: [] for subject in everyone}
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(__file__, asdict(subject), subject.threads)) for subject in everyone]
        for number in range(options.rounds):
            for subject, worker in zip(everyone, workers, strict=True):
                short = subject.kind in (SIMULATOR, MATRICES)
                rates[subject.label].append(worker.ask(seconds=options.seconds / (4 if short else 1))["rate"])
            write(options.out, rates, options.threads, show=number + 1 == options.rounds)
    (options.out / "procgen_speed_partial.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
