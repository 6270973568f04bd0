"""Short suites, agents that take part in them, and what is left of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hpbench
from hpbench.evaluation import records
from hpbench.evaluation.results import Results
from hpbench.evaluation.suite import Suite, parse_suite

ROWS = """
[[rows]]
env = "HPControl-Classic-v0"
tasks = {tasks}
tracks = ["default"]
learner = "ppo"
tier = "small"
seeds = "{seeds}"
decisions = {decisions}
steps = {steps}
evaluation_episodes = 1
"""

CONTESTANTS = '''
"""Agents of the tests, in a module of their own: worker processes import it."""

import os
import signal
import time

import numpy as np


class Keep:
    name = "keep"

    def reset(self, spec, seed):
        self.size = len(spec.hyperparameters.hot)

    def act(self, observation):
        return np.zeros(self.size, dtype=np.float32)


class Wander(Keep):
    """Random updates, with a memory that must not leak from one member to the next."""

    name = "wander"

    def __init__(self, width=0.3):
        self.width = width

    def reset(self, spec, seed):
        super().reset(spec, seed)
        self.spec, self.seed, self.seen = spec, seed, []
        self.generator = np.random.default_rng(seed)

    def act(self, observation):
        assert len(self.seen) == round(self.spec.schema.values(observation)["budget_fraction"] * self.spec.decisions)
        return self.generator.uniform(-self.width, self.width, self.size).astype(np.float32)

    def observe(self, step):
        self.seen.append(step)


class Slow(Wander):
    """Takes its time, so that there is some to be killed in."""

    name = "slow"

    def act(self, observation):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return super().act(observation)


class FailsOnAcrobot(Keep):
    name = "fails-on-acrobot"

    def reset(self, spec, seed):
        super().reset(spec, seed)
        if spec.task.id == "classic/acrobot":
            raise RuntimeError("no acrobats")


class DiesOnAcrobot(Keep):
    name = "dies-on-acrobot"

    def reset(self, spec, seed):
        super().reset(spec, seed)
        if spec.task.id == "classic/acrobot":
            os.kill(os.getpid(), signal.SIGKILL)


class Talks(Keep):
    """Prints and reads, which must not get into the way of the runner's own messages."""

    name = "talks"

    def act(self, observation):
        print("x" * 100_000)
        try:
            input()
        except EOFError:
            pass
        return super().act(observation)


class Together:
    """A batch agent."""

    name = "together"

    def reset_batch(self, specs, seeds):
        self.specs, self.seeds, self.steps = specs, seeds, []

    def act_batch(self, observations):
        return [np.full(len(s.hyperparameters.hot), 0.01 * i, dtype=np.float32) for i, s in enumerate(self.specs)]

    def observe_batch(self, steps):
        self.steps.append(steps)
'''


def make_suite(tasks: str = '["classic/cartpole"]', seeds: str = "100-101", decisions: int = 2) -> Suite:
    rows = ROWS.format(tasks=tasks, seeds=seeds, decisions=decisions, steps=512 * decisions)
    return parse_suite(f'format = 1\nname = "short-v0"\n{rows}', "short.toml")


TWO_TASKS = '["classic/cartpole", "classic/acrobot"]'
CLASSIC = ("cartpole", "acrobot", "pendulum", "mountaincar", "mountaincar-continuous")
FIVE_TASKS = str([f"classic/{name}" for name in CLASSIC])


def run(agents: Any, suite: Suite, output: Path, processes: int = 1, **options: Any) -> Results:
    return hpbench.run(agents, suite, output=output, processes=processes, progress=False, **options)


def bytes_of(output: Path) -> dict[str, bytes]:
    """All records below a folder, without the costs."""
    files = [path for path in sorted(output.rglob("*.json")) if not path.name.endswith(records.COSTS_SUFFIX)]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}
