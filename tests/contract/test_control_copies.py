"""Meta-environments give the same again for the same seed, and their copies go on exactly."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control_env import ACTIONS, CARTPOLE, OBSERVATIONS, actions_of, make, play, same
from hpbench.control.episode import EpisodeBatch, EpisodeSnapshot
from hpbench.errors import SnapshotError

PROGRAM = """
import json, sys, gymnasium as gym, torch
torch.set_num_threads(1)
out = []
for track in ("default", "random", "shift"):
    env = gym.make("hpbench:HPControl-Classic-v0", observation="text", track=track, **json.loads(sys.argv[1]))
    env.action_space.seed(5)
    out += [env.reset(seed=7), *(env.step(env.action_space.sample()) for _ in range(4))]
print(json.dumps(out))
"""


def test_same_seed_and_actions_give_the_same_in_two_processes() -> None:
    command = [sys.executable, "-c", PROGRAM, json.dumps(CARTPOLE)]
    there = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    here: list[Any] = []
    for track in ("default", "random", "shift"):
        env = make(observation="text", track=track)
        here += play(env, actions_of(env, seed=5), seed=7)
    assert there == json.loads(json.dumps(here))
    assert len({step[-1]["hpbench"]["digest"] for step in there}) > 10


@pytest.mark.parametrize(("observation", "action"), [*itertools.product(OBSERVATIONS, ACTIONS)])
@pytest.mark.parametrize("clone", ["pickle", "deepcopy", "spawn", "restore"])
def test_copies_in_mid_episode_continue_exactly(observation: str, action: str, clone: str) -> None:
    env = make(observation=observation, action=action, track="shift")
    actions = actions_of(env)
    env.action_space.seed(2)
    play(env, actions[:2], seed=1)
    if clone == "pickle":
        other = pickle.loads(pickle.dumps(env))
    elif clone == "deepcopy":
        other = copy.deepcopy(env)
    elif clone == "spawn":
        other = env.spawn(2)[1]
    else:
        other = make(observation=observation, action=action, track="shift")
        other.restore(env.snapshot())
    assert same(play(env, actions[2:]), play(other, actions[2:]))
    if clone != "restore":
        assert same(env.reset(), other.reset()), "np_random is copied as well"
        assert same(env.action_space.sample(), other.action_space.sample())


def test_restoring_goes_back_as_often_as_wanted() -> None:
    env = make(observation="dict", reward="uplift")
    actions = actions_of(env)
    play(env, actions[:1], seed=4)
    snapshot = env.snapshot()
    first = play(env, actions[1:])
    assert first[-1][3] is True
    for _ in range(2):
        env.restore(snapshot)
        assert same(play(env, actions[1:]), first)


def test_spawned_environments_are_independent() -> None:
    env = make()
    actions = actions_of(env, 6)
    play(env, actions[:1], seed=4)
    before = env.snapshot()
    first, second, third = env.spawn(3)
    a, b, c = first.step(actions[1]), second.step(actions[1]), third.step(actions[2])
    assert same(a, b)
    assert a[4]["hpbench"]["digest"] != c[4]["hpbench"]["digest"]
    digest = env.step(actions[1])[4]["hpbench"]["digest"]
    assert digest == a[4]["hpbench"]["digest"], "what the copies did left the original alone"
    assert before.population.state["steps"].tolist() == [128]


def test_snapshots_survive_a_file(tmp_path: Path) -> None:
    env = make(observation="text", track="random", learner_config={"num_envs": 4, "num_steps": 32, "hidden": (16, 16)})
    actions = actions_of(env)
    play(env, actions[:2], seed=6)
    env.snapshot().save(tmp_path / "snapshot.npz")
    rest = play(env, actions[2:])
    other = make(observation="text", track="random", learner_config=env.options.learner_config)
    other.restore(EpisodeSnapshot.load(tmp_path / "snapshot.npz"))
    assert same(play(other, actions[2:]), rest)


def test_damaged_and_foreign_snapshot_files_are_errors(tmp_path: Path) -> None:
    env = make()
    env.reset(seed=0)
    path = tmp_path / "snapshot.npz"
    env.snapshot().save(path)
    data = path.read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"hello",
        "cut": data[: len(data) // 2],
        "flipped": data[:2000] + bytes(b ^ 0xFF for b in data[2000:2100]) + data[2100:],
        "pickle": pickle.dumps({"header": 1}),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SnapshotError, match=name):
            EpisodeSnapshot.load(tmp_path / name)
    with open(tmp_path / "objects", "wb") as file:
        np.savez(file, header=np.array([{"format": 1}], dtype=object))
    with pytest.raises(SnapshotError, match="objects"):
        EpisodeSnapshot.load(tmp_path / "objects")
    with pytest.raises(FileNotFoundError):
        EpisodeSnapshot.load(tmp_path / "nowhere")


def test_a_snapshot_of_another_environment_is_an_error() -> None:
    env, other = make(), make(reward="auc")
    env.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(SnapshotError, match="auc"):
        other.restore(env.snapshot())
    batch = EpisodeBatch(env.options, [0, 1])
    batch.reset()
    with pytest.raises(SnapshotError):
        env.restore(batch.snapshot())
    with pytest.raises(SnapshotError, match="seeds"):
        EpisodeBatch(env.options, [0, 2]).restore(batch.snapshot())


def test_a_member_of_a_batch_lives_through_the_same_as_the_environment_alone() -> None:
    env = make(observation="dict", track="random")
    batch = EpisodeBatch(env.options, [11, 12, 13])
    actions = actions_of(env)
    alone = play(env, actions, seed=12)
    observations, infos = batch.reset()
    together: list[Any] = [(observations[1], infos[1])]
    others = actions_of(env, 4, seed=1)
    for action, other in zip(actions, others, strict=True):
        step = batch.step([other, action, other])
        together.append(
            (
                step.observations[1],
                float(step.rewards[1]),
                bool(step.terminated[1]),
                bool(step.truncated[1]),
                step.infos[1],
            )
        )
    assert same(alone, together)


def test_batches_fork_members() -> None:
    env = make()
    batch = EpisodeBatch(env.options, [11, 12])
    batch.reset()
    actions = actions_of(env)
    batch.step(actions[:2])
    other = batch.spawn([1, 1, 0])
    assert other.seeds == (12, 12, 11)
    expected = batch.step([actions[2], actions[3]])
    step = other.step([actions[3], actions[0], actions[2]])
    assert same(step.infos[0], expected.infos[1])
    assert same(step.infos[2], expected.infos[0])
    assert step.infos[1]["hpbench"]["digest"] != step.infos[0]["hpbench"]["digest"]
