"""PettingZoo tasks: PettingZoo's own worlds number for number, exact copies, agents that live and end together."""

from __future__ import annotations

import builtins
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpbench.errors import MissingExtra
from hpbench.learners import LEARNERS
from hpbench.tasks.pettingzoo import TASKS
from hpbench.tasks.pettingzoo_pursuit import Pursuits
from hpbench.tasks.pettingzoo_simulator import PettingZooSimulator

pytest.importorskip("mpe2", reason="mpe2 is not installed")
pytest.importorskip("pygame", reason="pygame is not installed")

MODULES = {
    "simple-spread": "mpe2.simple_spread.simple_spread",
    "simple-speaker-listener": "mpe2.simple_speaker_listener.simple_speaker_listener",
    "simple-reference": "mpe2.simple_reference.simple_reference",
    "simple-line": "mpe2.simple_line.simple_line",
    "pursuit": "pettingzoo.sisl.pursuit.pursuit",
}
SEED = 7


def simulator(name: str, worlds: int = 2) -> PettingZooSimulator:
    made = TASKS[name].simulator
    assert made is not None
    result = made.make(worlds * TASKS[name].agents)
    assert isinstance(result, PettingZooSimulator)
    return result


def start(name: str, *seeds: int) -> PettingZooSimulator:
    """Worlds with those seeds; what is given to other agents than the first must not matter."""
    agents, running = TASKS[name].agents, simulator(name, len(seeds))
    given = [seed if agent == 0 else 1000 * agent for seed in seeds for agent in range(agents)]
    running.reset(range(len(given)), given)
    return running


def actions(name: str, steps: int, worlds: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    task = TASKS[name]
    return np.random.default_rng(SEED).integers(task.action_count, size=(steps, worlds * task.agents))


@pytest.mark.parametrize("name", TASKS)
def test_number_for_number_pettingzoos(name: str) -> None:
    """Observations to the last bit, and the mean of all rewards; beside another world, which must not matter."""
    env, task, generator = importlib.import_module(MODULES[name]).parallel_env(), TASKS[name], np.random.default_rng(1)
    spaces = [(env.observation_space(agent), env.action_space(agent)) for agent in env.possible_agents]
    assert len(spaces) == task.agents
    assert max(int(np.prod(seen.shape)) for seen, _ in spaces) + task.agents == task.observation_size
    assert max(chosen.n for _, chosen in spaces) == task.action_count
    for episode in range(1 if name == "pursuit" else 6):
        seen, _ = env.reset(seed=episode)
        running = start(name, episode, 99)
        for step in range(task.max_episode_steps):
            chosen = [int(generator.integers(space.n)) for _, space in spaces]
            both = np.array(chosen + [0] * len(chosen))
            seen, rewards, _, truncated, _ = env.step(dict(zip(env.possible_agents, chosen, strict=True)))
            running.step(both)
            for row, agent in enumerate(env.possible_agents):
                flat = seen[agent].ravel()
                assert np.array_equal(running.observation[row, : flat.size], flat), (step, agent)
                assert not running.observation[row, flat.size : -task.agents].any()
                assert running.observation[row, -task.agents :].tolist() == np.eye(task.agents)[row].tolist()
            expected = float(np.mean([rewards[agent] for agent in env.possible_agents]))
            assert running.reward[: task.agents].tolist() == [expected] * task.agents
            assert all(truncated.values()) == (step + 1 == task.max_episode_steps)
    assert not running.terminated.any()


@pytest.mark.parametrize("evaders", [1, 3])
def test_pursuit_to_the_last_evader(evaders: int) -> None:
    """On a small grid random pursuers catch somebody now and then, and an episode may end."""
    from pettingzoo.sisl.pursuit.pursuit import parallel_env

    options = {"x_size": 7, "y_size": 7, "n_evaders": evaders, "n_pursuers": 6}
    env, worlds, generator = parallel_env(**options), Pursuits(1, **options), np.random.default_rng(0)
    ends = catches = 0
    for episode in range(5):
        env.reset(seed=episode)
        worlds.begin(0, episode)
        for _ in range(200):
            chosen = generator.integers(5, size=(1, 6))
            seen, rewards, terminated, _, _ = env.step(dict(zip(env.agents, chosen[0].tolist(), strict=True)))
            reward, ended = worlds.act(slice(None), chosen)
            assert list(rewards.values()) == [reward[0]] * 6
            assert ended[0] == all(terminated.values())
            catches += reward[0] > 0.5
            shown = np.zeros((1, 6, 147), np.float32)
            worlds.write(slice(None), shown)
            for row, each in zip(shown[0], seen.values(), strict=True):
                assert np.array_equal(row, each.ravel())
            if ended[0]:
                ends += 1
                break
    assert catches >= 2
    assert ends >= (2 if evaders == 1 else 0)


@pytest.mark.parametrize("name", TASKS)
def test_a_loaded_world_goes_on_bit_for_bit(name: str) -> None:
    agents = TASKS[name].agents
    one, other = start(name, 1, 2), start(name, 3, 4)
    given = actions(name, 20, worlds=2)
    first, second = slice(agents), slice(agents, None)
    for action in given[:9]:
        one.step(action)
        other.step(action[::-1])
    saved = [one.save(env) for env in range(agents)]
    assert [len(each) > 0 for each in saved] == [agent == 0 for agent in range(agents)]
    assert len(saved[0]) <= TASKS[name].simulator.state_bytes  # type: ignore[union-attr]
    for agent in range(agents):
        other.load(agents + agent, saved[agent])
    assert np.array_equal(other.observation[second], one.observation[first])
    assert other.save(agents) == saved[0]
    for action in given[9:]:
        one.step(action)
        other.step(np.concatenate([action[::-1][first], action[first]]))
        assert np.array_equal(other.observation[second], one.observation[first])
        assert other.reward[second].tolist() == one.reward[first].tolist()
        assert other.save(agents) == one.save(0)
    one.close()
    one.close()


@pytest.mark.parametrize("name", TASKS)
def test_only_those_worlds_are_stepped_that_matter(name: str) -> None:
    agents = TASKS[name].agents
    some, all_of_them = start(name, 1, 2, 3), start(name, 1, 2, 3)
    before = some.observation.copy()
    chosen, middle = actions(name, 1, worlds=3)[0], range(agents, 2 * agents)
    some.step(chosen, list(middle))
    all_of_them.step(chosen)
    assert np.array_equal(some.observation[middle], all_of_them.observation[middle])
    assert np.array_equal(np.delete(some.observation, middle, 0), np.delete(before, middle, 0))
    some.reset(list(middle), [2] * agents)
    assert np.array_equal(some.observation, before)


def test_what_an_agent_cannot_choose_is_its_first_choice() -> None:
    """The speaker has three words for five choices."""
    one, other = start("simple-speaker-listener", 5), start("simple-speaker-listener", 5)
    one.step(np.array([4, 1]))
    other.step(np.array([0, 1]))
    assert np.array_equal(one.observation, other.observation)
    assert one.observation[1, 8:11].tolist() == [1.0, 0.0, 0.0]


def test_observations_in_words() -> None:
    running = start("simple-speaker-listener", 5)
    describe = TASKS["simple-speaker-listener"].simulator.describe  # type: ignore[union-attr]
    colour = " ".join(f"{number:.2f}" for number in running.observation[0, :3])
    assert describe(running.observation[0].tolist()) == f"the first agent: colour of the goal {colour}"
    running = start("simple-line", 5)
    words = TASKS["simple-line"].simulator.describe(running.observation[0].tolist())  # type: ignore[union-attr]
    assert words.startswith("the first agent: velocity 0.00 0.00, place ")
    assert words.count(" ") == 16
    running = start("pursuit", 5)
    seen = running.observation[0, :147].reshape(-1, 3).sum(axis=0).astype(int).tolist()
    words = TASKS["pursuit"].simulator.describe(running.observation[0].tolist())  # type: ignore[union-attr]
    assert words == (
        f"the first pursuer sees {seen[1]} pursuers with itself, {seen[2]} evaders, {seen[0]} cells of wall"
    )
    assert seen[1] >= 1


def test_a_missing_package_is_an_error_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "pettingzoo":
            raise ImportError(name=name)
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingExtra, match=r"'pettingzoo' is not installed. Run: pip install \"hpbench\[pettingzoo\]\""
    ):
        simulator("pursuit")

    def nothing(name: str) -> Any:
        raise ImportError(name="mpe2")

    monkeypatch.setattr(importlib, "import_module", nothing)
    with pytest.raises(MissingExtra, match=r"'mpe2' is not installed. Run: pip install \"hpbench\[pettingzoo\]\""):
        simulator("simple-line")


def test_the_anchors_are_those_that_were_measured() -> None:
    root = Path(__file__).parents[2]
    measured = json.loads((root / "examples" / "results" / "pettingzoo_anchors.json").read_text("utf-8"))["rows"]
    rows = {(row["task"], row["policy"]): row for row in measured}
    for name, task in TASKS.items():
        low = rows[name, "random"]
        assert low["episodes"] >= 1000
        assert task.anchors.low == pytest.approx(low["mean"], abs=0.06)
        if name != "pursuit":
            assert task.anchors.high == pytest.approx(rows[name, "scripted"]["mean"], abs=0.06)
    long_runs = json.loads((root / "reproduce" / "pettingzoo" / "long_runs.json").read_text("utf-8"))
    ends = [run["curve"][-1][1] for run in long_runs if run["task"] == "pettingzoo/pursuit"]
    assert TASKS["pursuit"].anchors.high == pytest.approx(max(ends), abs=0.06)


@pytest.mark.parametrize("name", TASKS)
def test_segments_are_whole_rollouts_of_whole_worlds(name: str) -> None:
    task = TASKS[name]
    for tier, budget in task.budgets.items():
        for learner in ("ppo", "dqn"):
            config = LEARNERS.load(learner).config_type(**task.learner_config[tier][learner])
            assert config.num_envs % task.agents == 0
            assert budget.steps % (budget.decisions * config.num_envs * config.num_steps) == 0
    for learner, tuned in task.hand_tuned.items():
        space = LEARNERS.load(learner).hyperparameters
        for hyperparameter, value in tuned.values.items():
            assert space[hyperparameter].low <= value <= space[hyperparameter].high, hyperparameter
