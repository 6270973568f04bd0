"""hpbench train multistep: whole meta-episodes on threads, advantages, updates, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.language.prompt import CHOICES, completion, names_in
from agents.training.episodes import Answer, Episode, EpisodesFailed, Job, Playground, live
from agents.training.multistep import _Run, train_multistep
from agents.training.multistep_recipe import MultistepRecipe
from agents.training.recipes import read_recipe
from agents.training.value import estimate
from hpbench import make_agent
from hpbench.cli import main
from hpbench.control.episode import EpisodeBatch
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import KEEP

FAST: dict[str, Any] = {
    "tasks": ["classic/cartpole"],
    "steps": 2,
    "batch": 4,
    "members": 2,
    "processes": 2,
    "decisions": 3,
    "inner_steps": 1536,
    "evaluation_episodes": 2,
    "temperature": 1.0,
    "minibatch": 6,
    "value_first": 0,
    "evaluate_every": 2,
    "evaluation_seeds": 1,
    "device": "cpu",
}


def recipe(**changes: Any) -> MultistepRecipe:
    return read_recipe(MultistepRecipe, changes=FAST | changes)


def keeping(observations: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
    names = names_in(observations[0])
    choices = np.full(len(names), KEEP)
    return [Answer(completion(choices.tolist(), names), choices, np.zeros(len(names))) for _ in observations]


def job(seeds: Sequence[int], hidden: bool = False, policy: str = "keep", **changes: Any) -> Job:
    options = recipe(**changes).options("classic/cartpole", "ppo", "random", "train")
    return Job(policy, options, tuple(seeds), (hidden,) * len(seeds))


# -- playing -----------------------------------------------------------------------------------------------------------


def test_episodes_are_those_of_the_environment_and_rewards_sum_to_the_meta_score() -> None:
    jobs = [job([1, 2]), job([3])]
    with Playground(iter(jobs), processes=2) as ground:
        found = ground.play({"keep": keeping}, "keep", 10)
    assert len(found) == 3
    expected = []
    for each in jobs:
        batch = EpisodeBatch(each.options, each.seeds)
        batch.reset()
        for _ in range(3):
            step = batch.step(["{}"] * len(each.seeds))
        expected += [info["hpbench"]["meta_score"] for info in step.infos]
    assert sorted(episode.score for episode in found) == sorted(expected)
    for episode in found:
        assert len(episode.observations) == len(episode.answers) == len(episode.rewards) == 3
        assert sum(episode.rewards) == pytest.approx(episode.score, abs=1e-12)
        assert episode.label == "classic/cartpole random"


def test_a_broken_learner_is_paid_its_floor_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    diverged = []

    def step(self: EpisodeBatch, actions: Sequence[Any]) -> Any:
        result = real(self, actions)
        if self._histories[0].decision == 1:
            self.population.state["parameters"][0] = float("nan")
        diverged.append(list(result.diverged))
        return result

    real = EpisodeBatch.step
    monkeypatch.setattr(EpisodeBatch, "step", step)
    broken, whole = live(job([1, 2]), lambda observations, seeds: keeping(observations, seeds))
    assert diverged == [[False, False], [True, False], [True, False]]
    assert (len(broken.rewards), len(whole.rewards)) == (2, 3)
    # The mean counts the first score and the floor twice; the final score is the floor, 0.
    assert broken.score == pytest.approx(broken.rewards[0])
    assert sum(broken.rewards) == pytest.approx(broken.score, abs=1e-12)


def test_hidden_tasks_are_not_named() -> None:
    shown, hidden = (live(job([1], hidden=hide), keeping)[0] for hide in (False, True))
    assert shown.observations[0].split("\n")[1].startswith("task classic/cartpole@train-")
    assert hidden.observations[0].split("\n")[1] == "task unnamed learner ppo"
    assert shown.observations[0].split("\n")[2:] == hidden.observations[0].split("\n")[2:]


def test_urgent_jobs_come_first_and_leaving_abandons_the_rest() -> None:
    asked = []

    def other(observations: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        asked.append(len(observations))
        return keeping(observations, seeds)

    with Playground((job([i]) for i in range(1000)), processes=2) as ground:
        policies = {"keep": keeping, "other": other}
        assert len(ground.play(policies, "keep", 2)) == 2
        urgent = ground.play_first([job([1, 2], policy="other"), job([3], policy="other")], policies)
        assert len(urgent) == 3
        assert sum(asked) == 9
        assert len(ground.play(policies, "keep", 2)) == 2
        workers = [worker.process for worker in ground._workers]
    assert not any(worker.is_alive() for worker in workers)


def test_what_goes_wrong_is_said() -> None:
    def fail(observations: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        raise ZeroDivisionError("in the policy")

    with pytest.raises(ZeroDivisionError), Playground(iter([job([1])]), processes=1) as ground:
        ground.play({"keep": fail}, "keep", 1)
    with (
        pytest.raises(EpisodesFailed, match=r"(?s)classic/cartpole random, seeds \(1,\).*whole rollouts"),
        Playground(iter([job([1], inner_steps=1000)]), processes=1) as ground,
    ):
        ground.play({"keep": keeping}, "keep", 1)

    def kill(observations: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        ground._workers[0].process.kill()
        return keeping(observations, seeds)

    with Playground(iter([job([7])]), processes=1) as ground, pytest.raises(EpisodesFailed, match="exit code -9"):
        ground.play({"keep": kill}, "keep", 1)


# -- learning ----------------------------------------------------------------------------------------------------------


def test_advantages() -> None:
    rewards, values = np.array([1.0, 0.0, 2.0]), np.array([0.5, 1.5, 1.0])
    assert estimate(rewards, values, 0.0).tolist() == [2.0, -0.5, 1.0]
    assert estimate(rewards, values, 1.0).tolist() == [2.5, 0.5, 1.0]
    assert estimate(rewards, values, 0.5).tolist() == [2.0, 0.0, 1.0]


def hand_made(run: _Run, text: str, reward: Callable[[list[Answer]], float]) -> None:
    """Five updates on episodes of three decisions in the same state, rewarded at their end."""
    names = names_in(text)
    generator = np.random.default_rng(0)
    for _ in range(5):
        episodes = []
        for seed in range(32):
            seeds = generator.integers(1 << 31, size=3).tolist()
            answers = []
            for decision in run.sampling.decide([text] * 3, seeds):
                choices = np.array([decision.probabilities and _choice(decision.action, name) for name in names])
                logs = np.log(np.array(decision.probabilities)[np.arange(len(names)), choices])
                answers.append(Answer(decision.action, choices, logs))
            paid = reward(answers)
            episodes.append(Episode(f"classic/cartpole default {seed}", [text] * 3, answers, [0.0, 0.0, paid], paid))
        run._update(episodes)
        run.step += 1


def new_run(start: Path, folder: Path, **changes: Any) -> tuple[_Run, str]:
    """A run that learns fast, and an observation."""
    from agents.training.tuning import load_start

    usual = {"learning_rate": 3e-3, "value_learning_rate": 3e-3, "warmup": 0.0, "minibatch": 96, "target_kl": 10.0}
    settings = recipe(**(usual | {"steps": 100} | changes))
    batch = EpisodeBatch(settings.options("classic/cartpole", "ppo", "default", "train"), [0])
    (text,), _ = batch.reset()
    assert isinstance(text, str)
    return _Run(settings, folder, *load_start(str(start), "cpu")), text


def test_an_update_prefers_what_was_followed_by_reward(start: Path, tmp_path: Path) -> None:
    """In hand-made episodes, doubling the learning rate pays two decisions later, and nothing else does."""
    run, text = new_run(start, tmp_path)
    double = CHOICES.index("x2")

    def chance() -> float:
        return run.greedy.decide([text], [0])[0].probabilities[0][double]

    before = chance()
    hand_made(run, text, lambda answers: float(answers[0].choices[0] == double))
    assert chance() > before + 0.1


def test_a_price_on_edits_makes_them_rarer(start: Path, tmp_path: Path) -> None:
    """Nothing pays in these episodes, so all that is learned is what edits cost."""
    kept = {}
    for price in (0.0, 0.05):
        run, text = new_run(start, tmp_path, edit_price=price)
        before = np.array(run.greedy.decide([text], [0])[0].probabilities)[:, KEEP].mean()
        hand_made(run, text, lambda answers: 0.0)
        kept[price] = np.array(run.greedy.decide([text], [0])[0].probabilities)[:, KEEP].mean() - before
    assert kept[0.05] > 0.05 > abs(kept[0.0])


def _choice(action: str, name: str) -> int:
    return CHOICES.index(json.loads(action)[name])


# -- runs --------------------------------------------------------------------------------------------------------------


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_two_updates_and_on_from_the_checkpoint(start: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    done = train_multistep(recipe(), str(start), tmp_path / "run", lines.append)
    assert done.steps == 2
    log = log_of(tmp_path / "run")
    updates = [line for line in log if "edit_rate" in line]
    assert [line["step"] for line in updates] == [1, 2]
    assert all(line["optimiser_steps"] > 0 and line["kl"] >= 0.0 and line["entropy"] > 0.0 for line in updates)
    tests = [line["test_mean"] for line in log if "test_mean" in line]
    assert len(tests) == 2
    assert done.metrics["score"] == max(tests)
    assert [line["step"] for line in log if "kept_mean" in line] == [0]
    assert "kept_classic/cartpole shift" in log[0]
    assert any(line.startswith("update 2 of 2") for line in lines)
    assert getattr(make_agent(f"hf:{done.folder}"), "observation", None) == "text"
    again = train_multistep(recipe(), str(start), tmp_path / "run", lines.append)
    assert (again.steps, again.metrics) == (2, done.metrics)
    assert log_of(tmp_path / "run") == log
    with pytest.raises(InvalidConfiguration, match="another recipe"):
        train_multistep(recipe(seed=1), str(start), tmp_path / "run")


def test_a_run_that_was_killed_takes_up_where_it_was(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, seen = _Run._update, []

    def killed(self: _Run, episodes: Sequence[Episode]) -> dict[str, float]:
        if self.step == 1:
            seen.append(self.jobs)
            raise KeyboardInterrupt
        return update(self, episodes)

    monkeypatch.setattr(_Run, "_update", killed)
    with pytest.raises(KeyboardInterrupt):
        train_multistep(recipe(), str(start), tmp_path / "run")
    monkeypatch.setattr(_Run, "_update", update)
    lines: list[str] = []
    assert train_multistep(recipe(), str(start), tmp_path / "run", lines.append).steps == 2
    assert [line.split(":")[0] for line in lines if line.startswith("update")] == ["update 2 of 2"]
    assert sum("kept_mean" in line for line in log_of(tmp_path / "run")) == 1
    # Killed after the last update, before its test: only the test is left to do.
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    (tmp_path / "run" / "log.jsonl").write_text("\n".join(log[:-1]) + "\n")
    train_multistep(recipe(), str(start), tmp_path / "run")
    assert (tmp_path / "run" / "log.jsonl").read_text().splitlines() == log


def test_a_run_may_end_early_and_go_on(start: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    assert train_multistep(recipe(), str(start), tmp_path / "run", lines.append, stop_after=1).steps == 1
    assert "test_mean" in log_of(tmp_path / "run")[-1]
    assert train_multistep(recipe(), str(start), tmp_path / "run", lines.append).steps == 2
    assert [line.split(":")[0] for line in lines if line.startswith("update")] == ["update 1 of 2", "update 2 of 2"]


def test_what_is_trained_on() -> None:
    places = recipe(tasks=["classic"], without=["classic/acrobot"], tracks={"random": 2}).places()
    assert len(places) == 8
    assert {track for _, _, track in places} == {"random"}
    assert "classic/acrobot" not in {base for base, _, _ in places}
    both = recipe(learners=["ppo", "dqn"]).places()
    assert {learner for _, learner, _ in both} == {"ppo", "dqn"}
    with pytest.raises(InvalidConfiguration, match="nothing is left"):
        recipe(without=["classic/cartpole"]).places()
    with pytest.raises(UnknownName, match="track"):
        recipe(tracks={"radom": 1}).places()


def test_the_command(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def shell(*arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert end.value.code in (0, None)
        return capsys.readouterr().out

    shown = json.loads(shell("train", "multistep", "--show", start, "--without", "classic/acrobot", "--steps", 7))
    assert shown["without"] == ["classic/acrobot"]
    assert shown["steps"] == 7
    (tmp_path / "fast.json").write_text(json.dumps(shown | FAST | {"steps": 1, "without": []}))
    arguments = ("train", "multistep", start, "--recipe", tmp_path / "fast.json", "--output", tmp_path / "run", "-q")
    assert "1 steps; the model that is kept is in" in shell(*arguments)
