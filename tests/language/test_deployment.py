"""A live run under the loop: what is undone, what it costs, what the agent is told."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from agents.language import prompt
from agents.language.deployment import Decided, Deployment, DeploymentOptions, live_environment
from agents.language.monitoring import MonitorOptions
from agents.language.smaller import action_towards, half_way
from agents.random_updates import RandomUpdates
from hpbench import learners
from hpbench.control.action import make_reader
from hpbench.control.episode import EnvOptions, EpisodeBatch
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.evaluation.row import AGENT_STREAM
from hpbench.seeding import derive_seed

RUN: dict[str, Any] = {"steps": 25_600, "decisions": 10, "evaluation_episodes": 1, "device": "cpu"}
SHORT = RUN | {"steps": 640, "learner_config": {"num_envs": 2, "num_steps": 16, "hidden": (8, 8)}}
SEGMENT = 2560
AT = 6
BREAK = {"learning_rate": 0.1, "clip_range": 1.0}
"""Far beyond what the policy survives; the clip range is cut at its bound, 0.6."""


class Breaker:
    """Leaves a run alone that learns well, but breaks it at one decision."""

    observation = "text"
    action = "text"

    def __init__(self, at: int = AT) -> None:
        self.at = at

    def reset(self, spec: Any, seed: int) -> None:
        self.seen: list[str] = []
        self.steps: list[Any] = []

    def act(self, observation: str) -> str:
        self.seen.append(observation)
        return json.dumps(BREAK) if len(self.seen) == self.at else "{}"

    def observe(self, step: Any) -> None:
        self.steps.append(step)


class Watched:
    """An environment that notes the learner's digest before every step and after every restore."""

    def __init__(self, env: Any) -> None:
        self.env, self.stepped, self.restored = env, [], []

    @property
    def unwrapped(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def digest(self) -> str:
        return str(self.env.batch.population.digests()[0])

    def step(self, action: Any) -> Any:
        self.stepped.append(self.digest())
        return self.env.step(action)

    def restore(self, snapshot: Any) -> None:
        self.env.restore(snapshot)
        self.restored.append((self.digest(), self.env.batch.observe()))


class NoSnapshots:
    """A training that cannot go back."""

    def __init__(self, env: Any) -> None:
        self.reset, self.step, self._env = env.reset, env.step, env

    @property
    def unwrapped(self) -> Any:
        return self

    @property
    def agent_spec(self) -> Any:
        return self._env.agent_spec


def play(agent: Any, options: DeploymentOptions | None = None, seed: int = 0, **changes: Any) -> tuple[Any, list[Any]]:
    live = Deployment(live_environment(agent, "classic/cartpole", **RUN | changes), agent, options)
    return live, list(live.run(seed))


@pytest.fixture(scope="module")
def broken() -> tuple[Deployment, Breaker, Watched, list[Decided]]:
    """A run that its agent breaks at one decision, and that the loop puts right."""
    agent = Breaker()
    env = Watched(live_environment(agent, "classic/cartpole", **RUN))
    live = Deployment(env, agent)
    return live, agent, env, list(live.run(0))


def test_a_destructive_update_is_undone_bit_for_bit(broken: Any) -> None:
    live, _, env, decided = broken
    first, second = decided[AT - 1].attempts
    assert first.judgement.verdict == "harmful"
    assert first.undone
    assert not second.undone
    assert first.changes == {"learning_rate": 0.0003, "clip_range": 0.2}
    assert [len(each.attempts) for each in decided] == [1] * (AT - 1) + [2] + [1] * (len(decided) - AT)
    # Restored: the learner, and all that the agent sees of it.
    [(digest, [observation])] = env.restored
    before = decided[AT - 2].attempts[-1].digest
    assert digest == before == env.stepped[AT - 1] == env.stepped[AT]
    assert first.digest != before
    assert observation["text"] in live.agent.seen[AT - 1]


def test_then_half_of_it_is_tried(broken: Any) -> None:
    _, agent, _, decided = broken
    second = decided[AT - 1].attempts[1]
    assert second.values["learning_rate"] == pytest.approx(math.sqrt(0.0003 * 0.1), rel=1e-4)
    assert second.values["clip_range"] == pytest.approx(math.sqrt(0.2 * 0.6), rel=1e-4)  # of what the bound allowed
    assert second.score > decided[AT - 1].attempts[0].score
    assert json.loads(agent.steps[AT - 1].action) == {name: second.values[name] for name in BREAK}
    assert len(agent.steps) == len(decided)


def test_the_account_is_exact(broken: Any) -> None:
    live, _, _, decided = broken
    report = live.report()
    assert len(decided) == 9  # one of the ten segments was thrown away
    assert report["roll_backs"] == 1
    assert report["rolled_back_steps"] == SEGMENT
    assert report["steps"] == report["budget"] == 25_600
    assert report["extra_steps"] == 0
    assert [each.steps for each in decided] == [SEGMENT * n for n in (1, 2, 3, 4, 5, 7, 8, 9, 10)]
    scores = [each.attempts[-1].score for each in decided]
    # While a segment was wasted, the score stayed where it was.
    curve = [*scores[: AT - 1], scores[AT - 2], *scores[AT - 1 :]]
    assert report["scores"] == curve
    assert report["meta_score"] == pytest.approx(0.5 * curve[-1] + 0.5 * np.mean(curve))
    assert report["updates"] == report["judged"] == report["harmful"] == 1
    assert report["harmful_rate"] == report["roll_back_rate"] == 1.0
    assert report["edits"] == 2
    assert report["edit_rate"] == pytest.approx(2 / (9 * 9))
    assert report["rolled_back_evaluation_steps"] > 0
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_granted_steps_come_on_top() -> None:
    live, decided = play(Breaker(), DeploymentOptions(charged=False))
    report = live.report()
    assert len(decided) == 10
    assert report["extra_steps"] == report["rolled_back_steps"] == SEGMENT
    assert report["steps"] == 25_600 + SEGMENT
    assert report["scores"] == [each.attempts[-1].score for each in decided]


def test_the_next_prompt_tells(broken: Any) -> None:
    _, agent, _, decided = broken
    told = agent.seen[AT].splitlines()[-1]
    assert told.startswith("feedback: last update effect -")
    assert "% against expectation, undone, 1/2 of it effect" in told.replace("[13]", "")
    assert told == f"feedback: {decided[AT - 1].feedback}"
    assert all("feedback" not in text for text in agent.seen[:AT])
    assert prompt.names_in(agent.seen[AT]) == prompt.names_in(agent.seen[0])
    # Its own observation says what is in force: half of the update.
    assert "learning_rate 0.0054772[" in agent.seen[AT]


def test_never_and_without_an_update_it_is_the_plain_run() -> None:
    options = EnvOptions.parse({"task": "classic/cartpole", **RUN, "track": "random"})
    batch, agent = EpisodeBatch(options, [4]), RandomUpdates()
    observations, _ = batch.reset()
    agent.reset(batch.specs[0], derive_seed(4, AGENT_STREAM))
    digests = []
    for _ in range(10):
        step = batch.step([agent.act(observations[0])])
        observations = step.observations
        digests.append(step.infos[0]["hpbench"]["digest"])
    live, decided = play(RandomUpdates(), DeploymentOptions(undo="never"), seed=4, track="random")
    assert [each.attempts[0].digest for each in decided] == digests
    assert live.report()["meta_score"] == pytest.approx(step.infos[0]["hpbench"]["meta_score"])
    assert live.report()["judged"] == 9


def test_after_the_last_try_nothing_of_it_is_kept_and_the_limit_holds() -> None:
    """With a monitor that blames everything: each update is tried whole, by half, and not at all."""
    suspicious = MonitorOptions(z=1e-9, material=0.0, prior=1e-9)
    options = DeploymentOptions(monitor=suspicious, limit=4)
    agent = RandomUpdates()
    live = Deployment(live_environment(agent, "classic/cartpole", **SHORT), agent, options)
    decided = list(live.run(3))
    assert live.report()["roll_backs"] == 4
    assert live.report()["steps"] == 640
    thrice = [each.attempts for each in decided if len(each.attempts) == 3]
    assert thrice
    for whole, half, kept in thrice:
        assert whole.undone
        assert half.undone
        assert not kept.undone
        assert whole.changes
        assert half.changes
        assert not kept.changes
        assert kept.judgement.verdict == "unchanged"
    last = max(i for i, each in enumerate(decided) if each.attempts[0].undone)
    assert all(len(each.attempts) == 1 for each in decided[last + 1 :])


def test_a_budget_that_ends_with_a_roll_back_ends_before_the_update() -> None:
    live, decided = play(Breaker(at=10), DeploymentOptions(monitor=MonitorOptions(z=0.5)))
    (last,) = decided[-1].attempts
    assert last.undone
    report = live.report()
    assert report["steps"] == 25_600
    assert report["final_score"] == decided[-2].attempts[-1].score == report["scores"][-1]


def test_divergence_is_undone_too() -> None:
    class Poisoned(Watched):
        def step(self, action: Any) -> Any:
            if json.loads(action).get("learning_rate") == BREAK["learning_rate"]:
                self.env.batch.population.state["parameters"][:] = float("nan")
            return super().step(action)

    agent = Breaker(at=3)
    live = Deployment(Poisoned(live_environment(agent, "classic/cartpole", **SHORT)), agent)
    decided = list(live.run(0))
    attempts = decided[2].attempts
    assert attempts[0].judgement.verdict == "diverged"
    assert attempts[0].undone
    assert len(decided) == 9
    assert not any(math.isnan(attempt.score) for each in decided for attempt in each.attempts)
    assert decided[2].feedback.startswith("last update broke the learner, undone, 1/2 of it effect")
    poisoned = Poisoned(live_environment(agent, "classic/cartpole", **SHORT))
    untouched = Deployment(poisoned, Breaker(at=3), DeploymentOptions(limit=0))
    ended = list(untouched.run(0))
    report = untouched.report()
    assert len(ended) == 3
    assert report["scores"][-1] == 0.0
    assert report["meta_score"] == pytest.approx(0.5 * (sum(report["scores"])) / 10)


def test_without_snapshots_the_update_is_reversed() -> None:
    agent = Breaker()
    live = Deployment(NoSnapshots(live_environment(agent, "classic/cartpole", **RUN)), agent)
    assert live.undo == "reverse"
    decided = list(live.run(0))
    assert len(decided) == 10
    assert len(agent.seen) == 9
    harm, back = decided[AT - 1], decided[AT]
    assert (harm.by, back.by) == ("agent", "monitor")
    assert harm.attempts[0].judgement.verdict == "harmful"
    assert not harm.attempts[0].undone
    assert back.attempts[0].values == decided[AT - 2].attempts[0].values
    assert agent.seen[AT].splitlines()[-1] == "feedback: the update before did harm and was reversed"
    report = live.report()
    assert (report["reversed_updates"], report["roll_backs"], report["steps"]) == (1, 0, 25_600)


@pytest.mark.parametrize("told", ["none", "harmful", "all"])
def test_what_is_told_is_chosen(told: str) -> None:
    class Texting(RandomUpdates):
        observation = "dict"

        def act(self, observation: Any) -> Any:
            self.texts = [*getattr(self, "texts", []), observation["text"]]
            return super().act(observation)

    agent = Texting()
    live = Deployment(live_environment(agent, "classic/cartpole", **SHORT), agent, DeploymentOptions(feedback=told))
    list(live.run(0))
    lines = sum("feedback: last update" in text for text in agent.texts)
    assert lines == live.report()["feedback_lines"]
    assert (lines > 0) == (told == "all")


def test_wrong_use_is_explained() -> None:
    from agents.branch_oracle import BranchOracle

    agent = Breaker()
    env = live_environment(agent, "classic/cartpole", **SHORT)
    with pytest.raises(InvalidConfiguration, match="hpbench run"):
        Deployment(env, BranchOracle())
    with pytest.raises(InvalidConfiguration, match="reverse"):
        Deployment(NoSnapshots(env), agent, DeploymentOptions(undo="restore"))
    with pytest.raises(UnknownName, match="restore"):
        DeploymentOptions(undo="restoring")
    with pytest.raises(InvalidConfiguration):
        DeploymentOptions(tries=0)


# -- half of an update -------------------------------------------------------------------------------------------------


def test_half_way_is_the_square_root_of_the_factor() -> None:
    space = learners.make("ppo").hyperparameters
    old = tuple(space.defaults().values())
    new = list(old)
    for name, value in {"learning_rate": 0.0003 * 16, "discount": 0.9975, "minibatches": 9.0}.items():
        new[space.index(name)] = value
    half = dict(zip(space, half_way(space, old, new), strict=True))
    defaults = space.defaults()
    assert half["learning_rate"] == pytest.approx(0.0003 * 4)
    assert half["discount"] == pytest.approx(0.995)  # horizon 100, 400: 200
    assert half["minibatches"] == defaults["minibatches"]  # 8 and 9: nothing in between
    assert {name for name in space if half[name] != defaults[name]} == {"learning_rate", "discount"}


@pytest.mark.parametrize("kind", ["delta", "absolute", "discrete", "text"])
@pytest.mark.parametrize("learner", ["ppo", "dqn", "sac"])
def test_the_action_arrives_where_it_should(kind: str, learner: str) -> None:
    space = learners.make(learner).hyperparameters
    reader, generator = make_reader(kind, space), np.random.default_rng(0)
    delta = make_reader("delta", space)
    for _ in range(20):
        old = tuple(item.from_unit(generator.random()) for item in space.values())
        moved = delta.read(generator.uniform(-1, 1, len(space.hot)).astype(np.float32), old).values
        target = half_way(space, old, moved)
        reached = reader.read(action_towards(kind, space, old, target, list(space)), old)
        assert not reached.invalid
        for item, before, wished, after in zip(space.values(), old, target, reached.values, strict=True):
            step, wish = (item.to_unit(after) - item.to_unit(before)), (item.to_unit(wished) - item.to_unit(before))
            if kind in ("absolute", "text"):
                assert after == wished
            elif kind == "delta" and not item.integer:
                assert step == pytest.approx(wish, abs=1e-4)
            else:
                assert step * wish >= 0.0
                assert item.integer or abs(step) <= abs(wish) * 1.002 + 1e-9
        kept = reader.read(action_towards(kind, space, old, old, list(space)), old)
        assert kept.values == old
