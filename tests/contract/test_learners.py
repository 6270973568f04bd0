"""What every learner guarantees, for every registered learner and engine."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpbench import tasks
from hpbench.errors import InvalidConfiguration, SnapshotError, UnknownName
from hpbench.learners import LEARNERS, make, native
from hpbench.learners.dqn import DQNConfig
from hpbench.learners.population import Population
from hpbench.learners.ppo import PPOConfig
from hpbench.learners.sac import SACConfig
from hpbench.learners.snapshot import Snapshot

TASK = "classic/cartpole"
CONFIGS: dict[str, Any] = {
    "ppo": PPOConfig(num_envs=4, num_steps=32),
    "dqn": DQNConfig(num_envs=4, num_steps=32, buffer_size=400, learning_starts=40),
    "sac": SACConfig(num_envs=2, num_steps=24, buffer_size=60, learning_starts=40),
}
ACTUATION: dict[str, dict[str, float]] = {
    "ppo": {"learning_rate": 5e-3, "clip_range": 0.02, "max_gradient_norm": 0.05, "entropy_coefficient": 0.05},
    "dqn": {"learning_rate": 1e-3, "epsilon": 0.3, "tau": 0.1, "max_gradient_norm": 0.1},
    "sac": {"batch_size": 16, "updates_per_step": 0.3},
}
"""Where every bound is felt from: large steps, a narrow clip range, gradients longer than the limit."""
LEARNING_RATE = {"sac": "critic_learning_rate"}
"""The name of a learning rate, where it is not ``learning_rate``."""
ENGINES = ["torch"] if native.unavailable() else ["native", "torch"]


def population(
    learner: str, engine: str, seeds: range | list[int] = range(3), task: str = TASK, **options: object
) -> Population:
    return make(learner)(tasks.make(task), seeds, CONFIGS[learner], engine=engine, **options)  # type: ignore[call-arg, arg-type]


def fits(learner: str, task: str) -> bool:
    return learner != "dqn" or tasks.make(task).discrete


pytestmark = [pytest.mark.parametrize("learner", list(LEARNERS)), pytest.mark.parametrize("engine", ENGINES)]


def test_same_seed_same_digest(learner: str, engine: str) -> None:
    first, second = population(learner, engine), population(learner, engine)
    first.train(2)
    second.train(2)
    assert first.digests() == second.digests()
    assert len(set(first.digests())) == 3


def test_same_seed_same_digest_in_another_process(learner: str, engine: str) -> None:
    script = (
        "import sys, json, torch; torch.set_num_threads(1)\n"
        "from hpbench import tasks; from hpbench.learners import make\n"
        f"learner = make({learner!r}); config = learner.config_type(**{asdict(CONFIGS[learner])!r})\n"
        f"p = learner(tasks.make({TASK!r}), range(3), config, engine={engine!r}); p.train(2)\n"
        "print(json.dumps(p.digests()))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    here = population(learner, engine)
    here.train(2)
    assert json.loads(output) == here.digests()


@pytest.mark.parametrize("task", tasks.task_ids("classic"))
def test_member_alone_equals_member_among_many(learner: str, engine: str, task: str) -> None:
    """Bit for bit with the native engine; the torch engine's batched products may round by the batch size."""
    if not fits(learner, task):
        pytest.skip(f"{learner} has no continuous actions")
    many, alone = population(learner, engine, range(64), task), population(learner, engine, [41], task)
    many_metrics, alone_metrics = many.train(1), alone.train(1)
    if engine == "native":
        assert many.fork([41]).digests() == alone.digests()
        for name in ("return_mean", "update_ratio", "gradient_norm"):
            np.testing.assert_array_equal(many_metrics[name][41], alone_metrics[name][0])
        assert np.array_equal(many.evaluate(2).returns[41], alone.evaluate(2).returns[0], equal_nan=True)
    for name, tensor in many.fork([41]).state.items():
        torch.testing.assert_close(tensor, alone.state[name], rtol=1e-4, atol=1e-5)


def test_fork_is_exact_and_independent(learner: str, engine: str) -> None:
    original = population(learner, engine)
    original.train(1)
    before = original.digests()
    fork = original.fork([2, 0, 2])
    assert fork.digests() == [before[2], before[0], before[2]]
    fork.train(1)
    assert original.digests() == before
    original.train(1)
    after = original.digests()
    assert fork.digests() == [after[2], after[0], after[2]]


def test_join_is_the_inverse_of_fork(learner: str, engine: str) -> None:
    """Members that have trained for different times live on side by side."""
    original, ahead = population(learner, engine), population(learner, engine)
    ahead.train(1)
    joined = original.fork([0]).join([ahead.fork([1, 2])])
    assert joined.digests() == [original.digests()[0], *ahead.digests()[1:]]
    joined.fork([1, 0]).train(1)
    assert joined.fork([0]).join([joined.fork([1, 2])]).digests() == joined.digests()
    steps = joined.steps
    joined.train(1)
    ahead.train(1)
    assert (joined.steps - steps).tolist() == [original.steps_per_rollout] * 3
    if engine == "native":  # the torch engine's batched products may round by the batch size
        assert joined.digests()[1:] == ahead.digests()[1:]
    with pytest.raises(InvalidConfiguration, match="cannot share a population"):
        original.join([population(learner, engine, task="classic/acrobot")])


def test_restore_continues_bit_for_bit(learner: str, engine: str, tmp_path: Path) -> None:
    original = population(learner, engine)
    original.train(1)
    assert (original.state["env_elapsed"] > 0).any(), "the snapshot should hold running episodes"
    snapshot = original.snapshot()
    snapshot.save(tmp_path / "snapshot.npz")
    original.train(2)
    original.evaluate(2)
    expected = original.digests()
    for source in (snapshot, Snapshot.load(tmp_path / "snapshot.npz")):
        other = population(learner, engine, [7, 8, 9])
        other.restore(source)
        other.train(2)
        other.evaluate(2)
        assert other.digests() == expected


def test_restore_refuses_what_does_not_fit(learner: str, engine: str, tmp_path: Path) -> None:
    snapshot = population(learner, engine).snapshot()
    with pytest.raises(SnapshotError, match="members"):
        population(learner, engine, [1]).restore(snapshot)
    path = tmp_path / "snapshot.npz"
    snapshot.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SnapshotError, match="not a readable snapshot"):
        Snapshot.load(path)
    np.savez(path, header=np.array({"code": print}, dtype=object))
    with pytest.raises(SnapshotError, match="not a readable snapshot"):
        Snapshot.load(path)


def test_copy_moves_everything_but_the_random_streams(learner: str, engine: str) -> None:
    original = population(learner, engine)
    original.train(1)
    rate = LEARNING_RATE.get(learner, "learning_rate")
    original.set_values(rate, [1e-3, 1e-4, 1e-5])
    original.copy([0], [2])
    assert torch.equal(original.state["parameters"][0], original.state["parameters"][2])
    assert original.values()[rate].tolist() == [1e-3, 1e-4, 1e-3]
    original.train(1)
    assert not torch.equal(original.state["parameters"][0], original.state["parameters"][2])
    with pytest.raises(InvalidConfiguration, match="distinct"):
        original.copy([0, 1], [2, 2])


def test_evaluation_does_not_touch_training(learner: str, engine: str) -> None:
    watched, unwatched = population(learner, engine), population(learner, engine)
    watched.evaluate(3)
    watched.train(2)
    unwatched.train(2)
    for name, tensor in unwatched.state.items():
        if name != "rng_calls":
            assert torch.equal(tensor, watched.state[name]), name
    assert watched.steps.tolist() == unwatched.steps.tolist() == [2 * watched.steps_per_rollout] * 3


def test_every_hyperparameter_acts(learner: str, engine: str) -> None:
    """Actuation: change one value, and the parameters after a segment differ; change nothing, and nothing does."""
    space = make(learner).hyperparameters
    base = population(learner, engine, [5], values=ACTUATION[learner])
    base.train(1)
    same, forks = base.fork([0]), base.fork([0] * (len(space.hot) + 1))
    for member, name in enumerate(space.hot):
        values = forks.values()[name]
        values[member], clipped = space[name].multiply(values[member], 2.0)
        assert not clipped
        forks.set_values(name, values)
        assert forks.values()[name][member] == values[member] != base.values()[name][0]
    for each in (base, same, forks):
        each.train(2)
    assert same.digests() == base.digests()
    unchanged = forks.state["parameters"][-1]
    assert engine == "torch" or torch.equal(unchanged, base.state["parameters"][0])
    for member, name in enumerate(space.hot):
        assert not torch.equal(forks.state["parameters"][member], unchanged), name


def test_divergence_stays_with_its_member(learner: str, engine: str) -> None:
    sick, healthy = population(learner, engine), population(learner, engine)
    rate = LEARNING_RATE.get(learner, "learning_rate")
    # Past every bound, so that it cannot survive: the public setter refuses this.
    with pytest.raises(InvalidConfiguration, match="outside"):
        sick.set_values(rate, 1e3)
    sick.state["hyperparameters"][1, sick.hyperparameters.index(rate)] = 1e30
    sick.train(2)
    healthy.train(2)
    assert sick.diverged.tolist() == [False, True, False]
    frozen = sick.digests()[1]
    metrics, evaluation = sick.train(1), sick.evaluate(2)
    healthy.train(1)
    healthy.evaluate(2)
    assert sick.digests()[1] == frozen
    assert np.isnan(metrics["gradient_norm"][1])
    assert np.isnan(evaluation.returns[1]).all()
    assert np.isfinite(evaluation.returns[[0, 2]]).all()
    assert evaluation.steps[1] == 0
    assert sick.fork([0, 2]).digests() == healthy.fork([0, 2]).digests()
    assert sick.steps.tolist() == [3 * sick.steps_per_rollout, 2 * sick.steps_per_rollout, 3 * sick.steps_per_rollout]


def test_metrics_are_complete_and_finite(learner: str, engine: str) -> None:
    original = population(learner, engine)
    metrics = original.train(3)
    assert tuple(metrics) == original.metric_names()
    for name, values in metrics.items():
        assert values.shape == (3,), name
        assert values.dtype == np.float64, name
        assert np.isfinite(values).all(), name


def test_members_may_train_on_different_variants_but_not_dynamics(learner: str, engine: str) -> None:
    ids = ["classic/cartpole", "classic/cartpole@train-3", "classic/cartpole@test-9"]
    mixed = make(learner)([tasks.make(i) for i in ids], [0, 0, 0], CONFIGS[learner], engine=engine)  # type: ignore[call-arg]
    mixed.train(1)
    assert len(set(mixed.digests())) == 3
    with pytest.raises(InvalidConfiguration, match="same dynamics"):
        make(learner)([tasks.make("classic/cartpole"), tasks.make("classic/acrobot")], [0, 0], CONFIGS[learner])
    with pytest.raises(InvalidConfiguration, match="same dynamics"):
        mixed.set_tasks([tasks.make("classic/acrobot")] * 3)


def test_changing_the_task_mid_training(learner: str, engine: str) -> None:
    moved, stayed = population(learner, engine), population(learner, engine)
    for each in (moved, stayed):
        each.train(1)
    moved.set_tasks([tasks.make("classic/cartpole@train-3")] * 3)
    snapshot = moved.snapshot()
    for each in (moved, stayed):
        each.train(1)
    assert set(moved.digests()).isdisjoint(stayed.digests())
    stayed.restore(snapshot)
    assert stayed.tasks[0].id == "classic/cartpole@train-3"
    stayed.train(1)
    assert moved.digests() == stayed.digests()


def test_bad_input_is_named(learner: str, engine: str) -> None:
    with pytest.raises(UnknownName, match="learning_rate"):
        population(learner, engine, values={"learning_rat": 1e-3})
    with pytest.raises(InvalidConfiguration, match="outside"):
        population(learner, engine, values={LEARNING_RATE.get(learner, "learning_rate"): float("nan")})
    with pytest.raises(InvalidConfiguration, match="at least one"):
        population(learner, engine, [])
    with pytest.raises(InvalidConfiguration, match="at least one rollout"):
        population(learner, engine).train(0)
    with pytest.raises(InvalidConfiguration, match="outside 0"):
        population(learner, engine).fork([3])
    with pytest.raises(UnknownName, match="ppo"):
        make("pppo")
