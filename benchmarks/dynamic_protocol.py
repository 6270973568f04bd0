"""What does it cost to change hyperparameters while a run goes on?

    python benchmarks/dynamic_protocol.py            # about 10 minutes
    python benchmarks/dynamic_protocol.py --quick    # tiny sizes, to see that it works

The dynamic protocol: CartPole, 20 decisions, after each a segment of 5,000 environment steps (10 rollouts of 4
environments x 125 steps, 4 epochs x 4 minibatches, 64-64 tanh). One run sets a new learning rate, clip range, entropy
coefficient, discount and lambda at every decision, the other keeps them; each run starts from a fresh learner.
Subjects: the population directly (both engines, 1 and 10 members), the whole meta-environment through ``gym.make``,
and Stable-Baselines3, whose schedules and coefficients are set between calls of ``learn``. One thread each, a process
each, measured in turn, medians over rounds.

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
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from harness import RESULTS, Answer, Grid, Worker, serve, thousands, write_results
from subjects import WORKLOAD, Ours, Setting, Trainer, make_peer

from hpbench.learners.ppo import HYPERPARAMETERS

TASK = "classic/cartpole"
PEER, ENVIRONMENT = "sb3", "gym.make"


@dataclass(frozen=True)
class DynamicProtocol:
    """The dynamic protocol's numbers."""

    decisions: int = 20
    rollouts: int = 10
    num_envs: int = 4
    num_steps: int = 125

    @property
    def steps(self) -> int:
        """Of one member over the whole run."""
        return self.decisions * self.rollouts * self.num_envs * self.num_steps

    def values(self, decision: int) -> dict[str, float]:
        """What a run with changes sets at a decision; every value differs from the one before."""
        share = decision / self.decisions
        wish = {
            "learning_rate": 1e-3 * (1.0 - 0.9 * share),
            "clip_range": 0.3 - 0.2 * share,
            "entropy_coefficient": 0.01 * (1.0 - 0.9 * share),
            "discount": 0.98 + 0.015 * share,
            "gae_lambda": 0.9 + 0.08 * share,
        }
        return HYPERPARAMETERS.check(wish)


@dataclass(frozen=True)
class Subject:
    """What is measured: ``kind`` is ``native``, ``torch``, ``gym.make`` or ``sb3``."""

    kind: str
    members: int = 1

    @property
    def label(self) -> str:
        """For tables."""
        if self.kind == PEER:
            return "Stable-Baselines3"
        if self.kind == ENVIRONMENT:
            return "hpbench gym.make, with 10 evaluation episodes per decision"
        return f"hpbench population, {self.kind}, {self.members} member{'s' if self.members > 1 else ''}"


class Run(Protocol):
    """One training run under the protocol, ready to start."""

    def decide(self, values: Mapping[str, float]) -> None:
        """Set the values (none: keep all) and train for one segment."""
        ...


class TrainerRun:
    """A run of a learner without a meta-environment."""

    def __init__(self, trainer: Trainer, rollouts: int) -> None:
        self._trainer, self._rollouts = trainer, rollouts

    def decide(self, values: Mapping[str, float]) -> None:
        """Set the values and train for one segment."""
        self._trainer.set_values(values)
        self._trainer.train(self._rollouts)


class EnvironmentRun:
    """A run through ``gym.make`` with absolute actions: evaluation, observation, reward and digest included."""

    def __init__(self, protocol: DynamicProtocol) -> None:
        import hpbench  # noqa: F401 - registers the ids

        self._env: Any = gym.make(
            "HPControl-Classic-v0",
            task=TASK,
            action="absolute",
            device="cpu",
            decisions=protocol.decisions,
            steps=protocol.steps,
            learner_config={"num_envs": protocol.num_envs, "num_steps": protocol.num_steps},
        )
        self._env.reset(seed=0)
        self._values = HYPERPARAMETERS.defaults() | WORKLOAD

    def decide(self, values: Mapping[str, float]) -> None:
        """One step of the environment."""
        self._values.update(values)
        items = (HYPERPARAMETERS[name] for name in HYPERPARAMETERS.hot)
        self._env.step(np.array([item.to_action(self._values[item.name]) for item in items], dtype=np.float32))


def start(subject: Subject, protocol: DynamicProtocol) -> Run:
    """A fresh run."""
    setting = Setting(TASK, protocol.num_envs, protocol.num_steps, WORKLOAD)
    if subject.kind == ENVIRONMENT:
        return EnvironmentRun(protocol)
    if subject.kind == PEER:
        return TrainerRun(make_peer(setting, seed=0), protocol.rollouts)
    return TrainerRun(Ours(setting, range(subject.members), subject.kind), protocol.rollouts)


def answers(subject: Subject, protocol: DynamicProtocol) -> Answer:
    """Does a whole run whenever asked."""

    def answer(request: dict[str, Any]) -> Mapping[str, Any]:
        run = start(subject, protocol)
        begin = time.perf_counter()
        for decision in range(protocol.decisions):
            run.decide(protocol.values(decision) if request["change"] else {})
        return {"rate": protocol.steps * subject.members / (time.perf_counter() - begin)}

    return answer


def measure(everyone: Sequence[Subject], protocol: DynamicProtocol, rounds: int) -> list[dict[str, Any]]:
    """Rates with and without changes, round by round."""
    results: list[dict[str, Any]] = []
    with ExitStack() as stack:
        workers = []
        for subject in everyone:
            workers.append(stack.enter_context(Worker(__file__, {**asdict(subject), "protocol": asdict(protocol)})))
            results.append({**asdict(subject), "label": subject.label, "changed": [], "kept": []})
        for number in range(rounds):
            for worker, result in zip(workers, results, strict=True):
                # Which of the two comes first alternates, so that neither always finds the warmer cache.
                for change in (True, False) if number % 2 else (False, True):
                    result["changed" if change else "kept"].append(worker.ask(change=change)["rate"])
    peer = results[0]["changed"]
    for result in results:
        result["median_changed"] = statistics.median(result["changed"])
        result["median_kept"] = statistics.median(result["kept"])
        result["ratio_to_sb3"] = statistics.median(a / b for a, b in zip(result["changed"], peer, strict=True))
        result["cost_of_changing"] = statistics.median(
            kept / changed - 1.0 for kept, changed in zip(result["kept"], result["changed"], strict=True)
        )
        for column in ("changed", "kept"):
            result[column] = [round(rate, 1) for rate in result[column]]
    return results


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default 3)")
    parser.add_argument("--engines", nargs="+", default=["native", "torch"], choices=["native", "torch"])
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder for dynamic_protocol.json and dynamic_protocol.md"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        described = json.loads(options.worker)
        protocol = DynamicProtocol(**described.pop("protocol"))
        torch.set_num_threads(1)
        serve(answers(Subject(**described), protocol))
        return
    many, protocol = 10, DynamicProtocol()
    if options.quick:
        many, protocol, options.rounds = 2, DynamicProtocol(decisions=2, rollouts=1, num_envs=2, num_steps=16), 2
    ours = [Subject(engine, members) for engine in options.engines for members in (1, many)]
    everyone = [Subject(PEER), *ours, Subject(ENVIRONMENT)]
    results = measure(everyone, protocol, options.rounds)
    rows = [
        [
            result["label"],
            thousands(result["median_changed"]),
            thousands(result["median_kept"]),
            f"{100.0 * result['cost_of_changing']:+.1f} %",
            f"{result['ratio_to_sb3']:.1f}x",
        ]
        for result in results
    ]
    columns = ("subject", "steps/s, changed at every decision", "steps/s, kept", "cost of changing", "ratio to SB3")
    title = f"{protocol.decisions} decisions of {protocol.steps // protocol.decisions:,} steps, CartPole"
    data = {"protocol": asdict(protocol), "rounds": options.rounds, "results": results}
    notes = (
        "Training steps per second of all members together, one thread. Evaluation steps of the meta-environment cost "
        "time here but are not counted. The cost of changing is the extra time of a run with changes over one without, "
        "median over rounds."
    )
    write_results(
        options.out,
        "dynamic_protocol",
        "python benchmarks/dynamic_protocol.py",
        data,
        [Grid(title, columns, rows)],
        notes,
    )


if __name__ == "__main__":
    main()
