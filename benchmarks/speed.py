"""Speed of the inner loop, side by side with Stable-Baselines3 in one run.

    python benchmarks/speed.py                   # about 15 minutes
    python benchmarks/speed.py --learners dqn    # one learner; the results of the others stay
    python benchmarks/speed.py --quick           # tiny sizes, to see that it works

PPO on CartPole with 64-64 tanh networks (actor and critic apart), 4 epochs x 4 minibatches, two rollout shapes; DQN on
CartPole and SAC on Pendulum with 64-64 relu networks. Subjects: Stable-Baselines3, and our learner with the native
engine at 1, 10 and 64 members on one thread, and 64 members on two; PPO with the torch engine, too. Each subject lives
in a process of its own with that many threads. They are measured in turn, round after round (A B C A B C), so that a
slow moment of the machine meets all of them; what is reported is the median over rounds, and the median of the
round-wise ratios to Stable-Baselines3. Start-up (construction, compilation, first rollout) is reported apart.

Needs the extra ``sb3``: pip install "hpbench[sb3]"
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from harness import RESULTS, Answer, Grid, Worker, serve, thousands, write_results
from subjects import WORKLOAD, Ours, Setting, Trainer, make_peer

PEER = "sb3"

_DQN = {"batch_size": 64, "train_frequency": 4}
_FROM_THE_START = {"learning_starts": 0}
WORKLOADS = {
    "PPO, CartPole-v1, 4 environments x 128 steps": Setting("classic/cartpole", 4, 128, WORKLOAD),
    "PPO, CartPole-v1, 64 environments x 32 steps": Setting("classic/cartpole", 64, 32, WORKLOAD),
    "DQN, CartPole-v1, a batch of 64 every 4 steps": Setting(
        "classic/cartpole", 1, 128, _DQN, "dqn", {**_FROM_THE_START, "double": False}
    ),
    "SAC, Pendulum-v1, a batch of 256 every step": Setting(
        "classic/pendulum", 1, 64, {"batch_size": 256}, "sac", _FROM_THE_START
    ),
    "SAC, Pendulum-v1, a batch of 64 every step": Setting(
        "classic/pendulum", 1, 64, {"batch_size": 64}, "sac", _FROM_THE_START
    ),
}
QUICK = {
    "ppo": Setting("classic/cartpole", 2, 16, WORKLOAD),
    "dqn": Setting("classic/cartpole", 1, 16, _DQN, "dqn", {**_FROM_THE_START, "double": False}),
    "sac": Setting("classic/pendulum", 1, 16, {"batch_size": 16}, "sac", _FROM_THE_START),
}


@dataclass(frozen=True)
class Subject:
    """What is measured: ``engine`` is ``sb3``, ``native`` or ``torch``; ``setting`` are the fields of its setting."""

    engine: str
    members: int
    threads: int
    setting: Mapping[str, Any]

    @property
    def label(self) -> str:
        """For tables."""
        if self.engine == PEER:
            return "Stable-Baselines3"
        plural = "s" if self.members > 1 else ""
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"hpbench {self.engine}, {self.members} member{plural}{threads}"


def subjects(setting: Setting, engines: Sequence[str], members: Sequence[int]) -> list[Subject]:
    """The peer first, then ours; the largest population also on two threads."""
    fields = asdict(setting)
    ours = [Subject(engine, count, 1, fields) for engine in engines for count in members]
    parallel = [Subject(engine, max(members), 2, fields) for engine in engines]
    return [Subject(PEER, 1, 1, fields), *ours, *parallel]


def answers(subject: Subject) -> Answer:
    """Builds the trainer; what comes back trains as asked."""
    setting = Setting(**subject.setting)
    started = time.perf_counter()
    trainer: Trainer
    if subject.engine == PEER:
        trainer = make_peer(setting, seed=0)
    else:
        trainer = Ours(setting, range(subject.members), subject.engine, subject.threads)
    trainer.train(1)
    startup = time.perf_counter() - started

    def answer(request: dict[str, Any]) -> Mapping[str, Any]:
        if "rollouts" not in request:
            return {"startup": startup}
        begin = time.perf_counter()
        trainer.train(request["rollouts"])
        seconds = time.perf_counter() - begin
        return {"rate": request["rollouts"] * trainer.steps_per_rollout * trainer.members / seconds, "seconds": seconds}

    return answer


def measure(everyone: Sequence[Subject], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Rates of all subjects of one shape: one dictionary each, with environment steps per second of every round."""
    with ExitStack() as stack:
        workers, rollouts, results = [], [], []
        for subject in everyone:
            worker = stack.enter_context(Worker(__file__, asdict(subject), subject.threads))
            startup = worker.ask()["startup"]
            once = worker.ask(rollouts=1)["seconds"]
            rollouts.append(max(1, round(seconds / once)))
            workers.append(worker)
            results.append({**asdict(subject), "label": subject.label, "startup_seconds": startup, "rates": []})
        for _ in range(rounds):
            for worker, count, result in zip(workers, rollouts, results, strict=True):
                result["rates"].append(worker.ask(rollouts=count)["rate"])
    reference = results[0]["rates"]
    for result in results:
        result["median_rate"] = statistics.median(result["rates"])
        result["ratio_to_sb3"] = statistics.median(a / b for a, b in zip(result["rates"], reference, strict=True))
        result["startup_seconds"] = round(result["startup_seconds"], 3)
        result["rates"] = [round(rate, 1) for rate in result["rates"]]
    return results


def grid(title: str, results: Sequence[Mapping[str, Any]]) -> Grid:
    """The table of one workload."""
    rows = []
    for result in results:
        spread = f"{thousands(min(result['rates']))} - {thousands(max(result['rates']))}"
        rate, ratio = thousands(result["median_rate"]), f"{result['ratio_to_sb3']:.1f}x"
        rows.append([result["label"], rate, spread, ratio, f"{result['startup_seconds']:.2f}"])
    return Grid(title, ("subject", "steps/s (median)", "range", "ratio to SB3", "start-up, s"), rows)


def stored(path: Path) -> dict[str, Any]:
    """Results of an earlier run, by workload."""
    workloads: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["workloads"] if path.exists() else {}
    return workloads


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--rounds", type=int, default=5, help="how often every subject is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement (default 2)")
    parser.add_argument("--learners", nargs="+", default=list(QUICK), choices=list(QUICK), help="default: all")
    parser.add_argument("--engines", nargs="+", default=["native", "torch"], choices=["native", "torch"])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for speed.json and speed.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        subject = Subject(**json.loads(options.worker))
        torch.set_num_threads(subject.threads)
        serve(answers(subject))
        return
    workloads: Mapping[str, Setting] = WORKLOADS
    members: Sequence[int] = (1, 10, 64)
    if options.quick:
        workloads, members, options.rounds, options.seconds = QUICK, (1, 2), 2, 0.01
    measured = stored(options.out / "speed.json")
    for title, setting in workloads.items():
        if setting.learner not in options.learners:
            continue
        # The torch engine of the off-policy learners is their reference and their way onto a GPU, not meant to be fast.
        engines = options.engines if setting.learner == "ppo" or options.quick else ["native"]
        measured[title] = measure(subjects(setting, engines, members), options.rounds, options.seconds)
    measured = {title: measured[title] for title in workloads if title in measured}
    grids = [grid(title, results) for title, results in measured.items()]
    notes = (
        "Environment steps per second of all members together. Medians over rounds in which all subjects took turns; "
        "the ratio is the median of the round-wise ratios. Start-up is construction and the first rollout in a fresh "
        "process. Nothing is compiled at run time: the native engine is built at installation."
    )
    data = {"rounds": options.rounds, "workloads": measured}
    write_results(options.out, "speed", "python benchmarks/speed.py", data, grids, notes)


if __name__ == "__main__":
    main()
