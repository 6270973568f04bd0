"""PPO on NetHack: how fast, next to Gymnasium's AsyncVectorEnv with Stable-Baselines3, and to the machine's best.

    python benchmarks/nethack_speed.py             # about 15 minutes
    python benchmarks/nethack_speed.py --quick     # tiny sizes, to see that it works

The task ``score`` with the glyph encoder and the rollouts and hyperparameters of the small tier: 32 environments of 128
steps, an epoch of one minibatch. Stable-Baselines3 gets NLE's own Gymnasium environments in Gymnasium's
``AsyncVectorEnv``, a process for each, with the observations that our encoder reads, the same network and settings. The
subjects, each with all its processes on one core and on two:

- ``hpbench``, whose simulators have a process for each core; its encoder learns on as many threads, PyTorch on one;
- ``stable-baselines3``, with PyTorch on one thread and on two;
- ``simulator`` alone: as many processes as cores that do not wait for each other, with random actions;
- ``lockstep``: the same through the pool of processes, step by step;
- ``matrix``: products of 1024 x 1024 matrices in PyTorch, as floating-point operations per second.

The bound is the time of the simulator alone plus that of the network's operations, counted, at the speed of the matrix
product. Each subject lives in a process of its own; they are measured in turn, round after round.

Needs the extras ``nethack`` and ``sb3``: pip install "hpbench[nethack,sb3]"
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
from nethack_alone import Alone, AloneMaker

from hpbench.learners.glyphs import GLYPHS, PATCH
from hpbench.learners.ppo import PPO, PPOConfig
from hpbench.learners.simulator_pool import SimulatorPool
from hpbench.tasks.nethack import ROLLOUTS, TASKS
from hpbench.tasks.nethack_layout import CELLS
from hpbench.tasks.simulator import SimulatorMaker

TASK = TASKS["score"]
VALUES = TASK.hand_tuned["ppo"].values
PEER, OURS, SIMULATOR, LOCKSTEP, MATRICES = "stable-baselines3", "hpbench", "simulator", "lockstep", "matrix"


@dataclass(frozen=True)
class Subject:
    """What is measured, on how many cores, with how many threads of PyTorch, and the sizes of a rollout."""

    kind: str
    cores: int
    threads: int = 1
    envs: int = ROLLOUTS["num_envs"]
    steps: int = ROLLOUTS["num_steps"]

    @property
    def label(self) -> str:
        """For tables."""
        threads = f", {self.threads} threads" if self.threads > 1 and self.kind == PEER else ""
        return f"{self.kind}, {self.cores} core{'s' if self.cores > 1 else ''}{threads}"


def operations() -> float:
    """Floating-point operations of the network per environment step: one pass to act and, in each epoch, one forth and
    two back, but for the gradient of the status. A multiplication and an addition are two. The smaller rest is left
    out: embeddings, biases, losses, Adam, the values of the last observations."""
    patches, status, message, together = (2.0 * math.prod(shape) for shape in GLYPHS.shapes[2::2])
    heads = 2.0 * GLYPHS.features * (TASK.action_count + 1)
    forward = CELLS // PATCH**2 * patches + status + message + together + heads
    return forward + int(VALUES["update_epochs"]) * (3.0 * forward - status)


def maker() -> SimulatorMaker:
    assert TASK.simulator is not None
    return TASK.simulator


def ours(subject: Subject) -> Train:
    torch.set_num_threads(1)
    config = PPOConfig(**{**ROLLOUTS, "num_envs": subject.envs, "num_steps": subject.steps})
    population = PPO(TASK, [0], config, dict(VALUES), threads=subject.cores)

    def train(rollouts: int) -> int:
        population.train(rollouts)
        return rollouts * population.steps_per_rollout

    return train


def peer(subject: Subject) -> Train:
    from nethack_peer import make_peer

    model = make_peer(TASK, subject.envs, subject.steps, subject.threads)

    def train(rollouts: int) -> int:
        model.learn(rollouts * subject.envs * subject.steps, reset_num_timesteps=False)
        return rollouts * subject.envs * subject.steps

    return train


def simulator(subject: Subject) -> Train:
    running = SimulatorPool(subject.cores).make(AloneMaker(maker(), subject.steps), subject.envs)
    running.reset(range(subject.envs), range(subject.envs))
    nothing = np.zeros(subject.envs, dtype=np.int64)

    def train(rollouts: int) -> int:
        for _ in range(rollouts):
            running.step(nothing)
            assert running.terminated.shape == (subject.envs,)  # reading it waits for the step
        return rollouts * subject.envs * subject.steps

    return train


def lockstep(subject: Subject) -> Train:
    running = Alone(SimulatorPool(subject.cores).make(maker(), subject.envs), subject.envs, subject.steps)
    running.reset(range(subject.envs), range(subject.envs))

    def train(rollouts: int) -> int:
        for _ in range(rollouts):
            running.step(np.zeros(0))
        return rollouts * subject.envs * subject.steps

    return train


KINDS: Mapping[str, Callable[[Subject], Train]] = {
    OURS: ours,
    PEER: peer,
    SIMULATOR: simulator,
    LOCKSTEP: lockstep,
    MATRICES: lambda subject: matrices(subject.cores),
}


def answers(subject: Subject) -> Answer:
    """Builds the subject; what comes back works as asked."""
    return timed(KINDS[subject.kind](subject))


def comparison(rates: Mapping[str, Sequence[float]], cores: int) -> dict[str, Any]:
    """What the rates say of PPO on so many cores. Ratios are medians of round-wise ratios. Stable-Baselines3 is allowed
    the better number of PyTorch's threads."""
    mine = rates[Subject(OURS, cores).label]
    theirs = max((rates[Subject(PEER, cores, n).label] for n in {1, cores}), key=statistics.median)
    alone, together = (rates[Subject(kind, cores).label] for kind in (SIMULATOR, LOCKSTEP))
    speed = rates[Subject(MATRICES, cores).label]
    bounds, in_steps = (
        [1.0 / (1.0 / a + operations() / s) for a, s in zip(simulators, speed, strict=True)]
        for simulators in (alone, together)
    )
    return {
        "cores": cores,
        "steps_per_second": round(statistics.median(mine), 1),
        "bound": round(statistics.median(bounds), 1),
        "share_of_bound": round(statistics.median(a / b for a, b in zip(mine, bounds, strict=True)), 3),
        "bound_in_lockstep": round(statistics.median(in_steps), 1),
        "share_of_bound_in_lockstep": round(statistics.median(a / b for a, b in zip(mine, in_steps, strict=True)), 3),
        "times_stable_baselines3": round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 2),
    }


def write(folder: Path, rates: Mapping[str, Sequence[float]], cores: Sequence[int], command: str) -> None:
    """Tables and files of what there is so far. Without a command: a file of what is not finished."""
    compared = [comparison(rates, count) for count in cores]
    data = {
        "operations_per_step": operations(),
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
            str(row["cores"]), thousands(row["steps_per_second"]), f"{row['times_stable_baselines3']:.2f}x",
            thousands(row["bound"]), f"{100 * row['share_of_bound']:.0f} %",
            thousands(row["bound_in_lockstep"]), f"{100 * row['share_of_bound_in_lockstep']:.0f} %",
        ]
        for row in compared
    ]  # fmt: skip
    columns = ("cores", "steps/s", "to SB3", "bound, steps/s", "of the bound", "in lockstep", "of that")
    grids = [
        Grid("PPO on NetHack score, 32 environments x 128 steps", ("subject", "median", "range"), rows),
        Grid("Of hpbench", columns, shares),
    ]
    notes = (
        f"{operations() / 1e6:.2f} million floating-point operations of the network per step, counted. The bound is "
        "the simulator alone plus these at the speed of the matrix product, on as many cores; in lockstep: with the "
        "simulator's processes waiting for each other after every step, as hpbench's do not. Medians "
        "over rounds in which all subjects took turns; ratios are medians of round-wise ratios, to "
        "Stable-Baselines3 with the better number of PyTorch's threads. The load average of the machine is in the "
        "JSON file; the 33 processes of Stable-Baselines3 are part of it."
    )
    if command:
        write_results(folder, "nethack_speed", command, data, grids, notes)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "nethack_speed_partial.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--rounds", type=int, default=5, help="how often every subject is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one measurement (default 10)")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for nethack_speed.json and nethack_speed.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        subject = Subject(**json.loads(options.worker))
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: subject.cores])
        serve(answers(subject))
        return
    command = f"python benchmarks/nethack_speed.py --rounds {options.rounds} --seconds {options.seconds:g}"
    sizes = {}
    if options.quick:
        options.rounds, options.seconds, sizes = 1, 0.01, {"envs": 4, "steps": 8}
    everyone = []
    for count in options.cores:
        everyone += [Subject(kind, count, **sizes) for kind in KINDS]
        everyone += [Subject(PEER, count, count, **sizes)] if count > 1 else []
    rates: dict[str, list[float]] = {subject.label: [] for subject in everyone}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(__file__, asdict(subject), max(subject.threads, subject.cores)))
            for subject in everyone
        ]
        for number in range(options.rounds):
            for subject, worker in zip(everyone, workers, strict=True):
                short = subject.kind in (SIMULATOR, LOCKSTEP, MATRICES)
                rates[subject.label].append(worker.ask(seconds=options.seconds / (4 if short else 1))["rate"])
            write(options.out, rates, options.cores, command if number + 1 == options.rounds else "")
    (options.out / "nethack_speed_partial.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
