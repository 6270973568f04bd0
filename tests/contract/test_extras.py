"""Each family needs its extra and no other, and says so when it is missing.

Both in a fresh interpreter, whose processes for simulators are as restricted as itself: a module that is first on the
path refuses imports. What an extra brings is read from the metadata of the installed packages.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

FAMILIES = {
    "doom": ("HPControl-Doom-v0", "doom/predict-position", "vizdoom"),
    "mujoco": ("HPControl-MuJoCo-v0", "mujoco/inverted-pendulum", "mujoco"),
    "nethack": ("HPControl-NetHack-v0", "nethack/gold", "nle"),
    "pettingzoo": ("HPControl-PettingZoo-v0", "pettingzoo/simple-speaker-listener", "mpe2"),
    "procgen": ("HPControl-Procgen-v0", "procgen/starpilot", "procgen"),
}
"""By extra: the meta-environment, a task of it, and the module that it cannot do without."""

PLAY = """
import gymnasium as gym
import hpbench
try:
    env = gym.make({env!r}, task={task!r}, steps=64, decisions=1, evaluation_episodes=1,
                   learner_config={{"num_envs": 2, "num_steps": 32}})
    env.reset(seed=100)
    print("PLAYED", env.step(env.action_space.sample())[4]["hpbench"]["steps"])
except hpbench.errors.MissingExtra as error:
    print("MISSING", error)
"""

GUARD = '''
"""Python imports this module when it starts."""
import sys

REFUSED = {refused!r}


class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        return None


sys.meta_path.insert(0, Guard())
'''


def run_without(refused: set[str], extra: str, folder: Path) -> str:
    """What ``PLAY`` prints where those modules cannot be imported."""
    env, task, _ = FAMILIES[extra]
    (folder / "sitecustomize.py").write_text(GUARD.format(refused=refused))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    environment["PYTHONWARNINGS"] = "ignore"  # of packages about each other, at the start
    command = [sys.executable, "-c", PLAY.format(env=env, task=task)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def brought_by(name: str, extra: str = "") -> set[str]:
    """Distributions that come with an installation of a package, itself included, by normalised name."""
    found: set[str] = set()
    waiting = [(name, extra)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        package, chosen = waiting.pop()
        if (package, chosen) in seen:
            continue
        seen.add((package, chosen))
        try:
            lines = metadata.requires(package) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(normalised(package))
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": chosen}):
                waiting += [(requirement.name, "")] + [(requirement.name, each) for each in requirement.extras]
    return found


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def others(extra: str) -> set[str]:
    """Top-level modules of installed packages that neither hpbench nor its extra brings."""
    allowed = brought_by("hpbench", extra)
    owners = metadata.packages_distributions()
    return {module for module, names in owners.items() if allowed.isdisjoint(map(normalised, names))}


@pytest.mark.parametrize("extra", FAMILIES)
def test_a_family_needs_its_own_extra_and_no_other(extra: str, tmp_path: Path) -> None:
    module = FAMILIES[extra][2]
    pytest.importorskip(module, reason=f'needs pip install "hpbench[{extra}]"')
    refused = others(extra)
    assert module not in refused
    assert "pytest" in refused
    assert {each for _, _, each in FAMILIES.values() if each != module and find_spec(each)} <= refused
    assert "PLAYED 64" in run_without(refused, extra, tmp_path)


@pytest.mark.parametrize("extra", FAMILIES)
def test_a_family_without_its_extra_gives_the_install_line(extra: str, tmp_path: Path) -> None:
    module = FAMILIES[extra][2]
    said = run_without({module}, extra, tmp_path)
    assert said.strip().endswith(f'Run: pip install "hpbench[{extra}]"')
    assert said.startswith("MISSING")
