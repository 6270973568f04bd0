"""What copying means in the population game, and what members are that neither copy nor are copied."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from hpbench import tasks
from hpbench.control.episode import EnvOptions, EpisodeBatch
from hpbench.control.parallel import member_seeds
from hpbench.errors import InvalidAction, UnknownName
from population_env import HOT, KEEP, SMALL, hpbench_infos, keep, make, random_actions, same, seeded

pettingzoo = pytest.importorskip("pettingzoo.test")


# -- without copies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", ["progress", "auc", "uplift"])
@pytest.mark.parametrize("track", ["default", "random"])
def test_without_copies_a_member_is_the_single_environment_of_its_seed(track: str, reward: str) -> None:
    env = seeded(make(track=track, reward=reward))
    observations, infos = env.reset(seed=5)
    trails: dict[str, list[Any]] = {name: [] for name in env.agents}
    actions = []
    first = {name: (observations[name], infos[name]) for name in env.agents}
    while env.agents:
        chosen = random_actions(env)
        chosen = {name: {**action, "copy_from": env.possible_agents.index(name)} for name, action in chosen.items()}
        actions.append(chosen)
        observations, rewards, terminations, truncations, infos = env.step(chosen)
        for name, trail in trails.items():
            trail.append((observations[name], rewards[name], terminations[name], truncations[name], infos[name]))
    options = {key: value for key, value in SMALL.items() if key != "members"}
    single = gym.make("HPControl-Classic-v0", **options, track=track, reward=reward).unwrapped
    for name, seed in zip(env.possible_agents, member_seeds(5, 3), strict=True):
        observation, info = single.reset(seed=seed)
        size = len(observation)
        assert same(first[name][0][:size], observation)
        assert info["hpbench"].items() <= first[name][1]["hpbench"].items()
        for chosen, (seen, *rest, member_info) in zip(actions, trails[name], strict=True):
            observation, *expected, info = single.step(chosen[name]["update"])
            assert same(seen[:size], observation)
            assert rest == expected
            assert info["hpbench"].items() <= member_info["hpbench"].items()


def test_members_differ_and_share_the_task() -> None:
    env = make(track="random", task=None, split="train")
    tasks = set()
    for seed in range(3):
        _, infos = env.reset(seed=seed)
        found = hpbench_infos(infos)
        assert len({info["task"] for info in found.values()}) == 1
        assert len({info["digest"] for info in found.values()}) == 3
        assert {info["population_seed"] for info in found.values()} == {seed}
        tasks.add(found["member_0"]["task"])
    assert len(tasks) > 1


def test_the_task_shifts_for_all_members_at_once() -> None:
    env = make(track="shift", steps=1280, decisions=10)
    _, infos = env.reset(seed=0)
    seen = []
    while env.agents:
        *_, infos = env.step(keep(env, member_0=1))
        seen.append({info["shifted"] for info in hpbench_infos(infos).values()})
        assert len({task.id for task in env.batch.population.tasks}) == 1
    assert all(len(shifted) == 1 for shifted in seen)
    assert seen[0] == {False}
    assert seen[-1] == {True}


# -- copies ------------------------------------------------------------------------------------------------------------


def test_copies_act_at_once_on_the_state_before_the_decision() -> None:
    """0 becomes what 1 was, 1 what 2 was; each goes on with its own random streams."""
    env = make(track="random")
    env.reset(seed=2)
    env.step(keep(env))
    before = env.batch.population.fork([0, 1, 2])
    streams = before.fork([0, 1, 2])
    *_, infos = env.step(keep(env, member_0=1, member_1=2))
    expected = before.fork([1, 2, 2])
    for name in ("rng_keys", "rng_calls"):
        expected.state[name] = streams.state[name].clone()
    expected.train(env.batch.plan.rollouts)
    expected.evaluate(2)
    found = hpbench_infos(infos)
    assert [info["digest"] for info in found.values()] == expected.digests()
    assert [info["copied_from"] for info in found.values()] == ["member_1", "member_2", None]
    assert [list(info["values"].values()) for info in found.values()] == before.table()[[1, 2, 2]].tolist()
    assert len({info["digest"] for info in found.values()}) == 3


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("action", ["delta", "discrete"])
def test_updates_apply_to_the_copied_values(action: str, flat: bool) -> None:
    env = make(track="random", action=action, flat=flat)
    _, infos = env.reset(seed=3)
    before = [list(info["values"].values()) for info in hpbench_infos(infos).values()]
    assert before[0] != before[2]
    nothing = KEEP if action == "delta" else np.full(HOT, 3)
    update = nothing.copy()
    update[3] = -0.5 if action == "delta" else 1  # both halve the clip range
    choices = []
    for m, source in enumerate((2, 1, 2)):
        chosen = update if m == 0 else nothing
        if not flat:
            choices.append({"update": chosen, "copy_from": np.int64(source)})
        elif action == "discrete":
            choices.append(np.append(chosen, source))
        else:
            choices.append(np.append(chosen, np.eye(3)[source]).astype(np.float32))
    *_, infos = env.step(dict(zip(env.agents, choices, strict=True)))
    after = [list(info["values"].values()) for info in hpbench_infos(infos).values()]
    assert after[1:] == before[1:]
    assert [value for i, value in enumerate(after[0]) if i != 3] == [v for i, v in enumerate(before[2]) if i != 3]
    assert after[0][3] == pytest.approx(before[2][3] / 2, rel=1e-4)


def test_after_a_copy_the_past_is_that_of_the_copied_run() -> None:
    env = seeded(make(track="random"))
    env.reset(seed=4)
    for _ in range(2):
        actions = random_actions(env)
        for m, name in enumerate(env.agents):
            actions[name]["copy_from"] = m
        observations, *_ = env.step(actions)
    schema = env.agent_spec.schema
    source = schema.values(observations["member_2"])
    observations, *_ = env.step(keep(env, member_0=2))
    copied, original = (schema.values(observations[name]) for name in ("member_0", "member_2"))
    for name in SHARED_PAST:
        assert copied[name] == original[name]
    assert copied["update_2_learning_rate"] == source["update_1_learning_rate"] != 0.0
    assert copied["update_1_learning_rate"] == 0.0
    assert copied["return_mean"] != original["return_mean"]  # its own streams


SHARED_PAST = ("update_1_learning_rate", "update_2_learning_rate", "update_2_discount", "effect_2", "hp_learning_rate")


def test_a_copy_is_no_part_of_the_others() -> None:
    calm, busy = make(), make()
    calm.reset(seed=6)
    busy.reset(seed=6)
    for _ in range(4):
        expected, found = calm.step(keep(calm)), busy.step(keep(busy, member_0=2))
        for name in ("member_1", "member_2"):
            assert expected[1][name] == found[1][name]
            assert expected[4][name] == found[4][name]


def test_uplift_of_a_copy_is_counted_against_going_on_alone() -> None:
    env, other = make(reward="uplift"), make(reward="auc")
    env.reset(seed=7)
    other.reset(seed=7)
    _, rewards, *_, infos = env.step(keep(env, member_0=1))
    *_, alone = other.step(keep(other))
    found = hpbench_infos(infos)
    difference = found["member_0"]["score"] - hpbench_infos(alone)["member_0"]["score"]
    assert rewards == {"member_0": difference, "member_1": 0.0, "member_2": 0.0}
    assert [info["counterfactual_steps"] for info in found.values()] == [128, 0, 0]


def test_a_batch_refuses_copies_that_can_not_be() -> None:
    options = EnvOptions(**{key: value for key, value in SMALL.items() if key != "members"})
    batch = EpisodeBatch(options, [0, 1, 2])
    batch.reset()
    batch.population.state["diverged"][2] = True
    batch.step([KEEP] * 3)
    before = batch.population.digests()
    for copies in ({0: 2}, {2: 0}, {0: 3}):
        with pytest.raises(InvalidAction, match="both must be running"):
            batch.step([KEEP] * 3, copies)
    batch.population.set_tasks([tasks.make(f"classic/cartpole@test-{m}") for m in range(3)])
    with pytest.raises(InvalidAction, match="different tasks"):
        batch.step([KEEP] * 3, {0: 1})
    batch.population.set_tasks([tasks.make("classic/cartpole")] * 3)
    assert batch.population.digests() == before


# -- divergence --------------------------------------------------------------------------------------------------------


def test_a_diverged_member_leaves_and_can_not_be_copied() -> None:
    env = make()
    env.reset(seed=0)
    *_, infos = env.step(keep(env))
    before = hpbench_infos(infos)["member_1"]["score"]
    env.batch.population.state["parameters"][1] = float("nan")
    observations, rewards, terminations, truncations, infos = env.step(keep(env))
    assert terminations == {"member_0": False, "member_1": True, "member_2": False}
    assert not any(truncations.values())
    assert env.agents == ["member_0", "member_2"]
    assert rewards["member_1"] == -before
    assert hpbench_infos(infos)["member_1"]["diverged"] is True
    assert observations["member_1"] in env.observation_space("member_1")
    rows = env.agent_spec.schema.standings(observations["member_0"])
    assert [row.running for row in rows] == [True, False, True]
    assert rows[1].rank == 3
    with pytest.raises(UnknownName, match="member_1"):
        env.step({**keep(env), "member_1": {"update": KEEP, "copy_from": 0}})
    observations, rewards, _, truncations, infos = env.step(keep(env, member_0=1, member_2=0))
    found = hpbench_infos(infos)
    assert set(observations) == set(rewards) == set(found) == {"member_0", "member_2"}
    assert [info["copied_from"] for info in found.values()] == [None, "member_0"]
    assert [info["copy_ignored"] for info in found.values()] == [True, False]
    *_, truncations, _ = env.step(keep(env))
    assert truncations == {"member_0": True, "member_2": True}
    assert env.agents == []
    with pytest.raises(gym.error.ResetNeeded):
        env.step({})
    assert len(env.reset(seed=0)[0]) == 3
