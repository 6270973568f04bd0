"""How meta-episodes begin and go on: resets, decisions, and the tracks that change what is trained."""

from __future__ import annotations

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import hpbench
from control_env import ACTIONS, OBSERVATIONS, actions_of, make, play, same
from hpbench.control.env import HPControlEnv
from hpbench.control.episode import EpisodeBatch
from hpbench.control.reward import INVALID_PENALTY
from hpbench.control.tracks import CONFIGURATIONS, configurations, shift_decision
from hpbench.errors import InvalidAction, InvalidConfiguration, UnknownName

# -- reset -------------------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_episode_and_seeds_np_random() -> None:
    env, other = make(), make()
    first, again = env.reset(seed=0), other.reset(seed=0)
    assert first[1]["hpbench"]["seed"] == 0
    assert same(first, again)
    drawn = env.reset()[1]["hpbench"]["seed"], env.reset()[1]["hpbench"]["seed"]
    assert drawn[0] != drawn[1]
    assert drawn == (other.reset()[1]["hpbench"]["seed"], other.reset()[1]["hpbench"]["seed"])
    info = env.reset(seed=drawn[0])[1]["hpbench"]
    assert info["digest"] == EpisodeBatch(env.options, [drawn[0]]).reset()[1][0]["hpbench"]["digest"]


def test_reset_measures_decision_zero() -> None:
    _, info = make().reset(seed=3)
    info = info["hpbench"]
    assert (info["decision"], info["steps"], info["invalid"]) == (0, 0, 0)
    assert info["evaluation_steps"] > 0
    assert info["score"] == pytest.approx(info["return"] / 500.0)
    assert info["values"] == hpbench.learners.make("ppo").hyperparameters.defaults()


def test_reset_chooses_the_task_by_options_for_one_episode() -> None:
    env = make(task=None)
    seen = {env.reset(seed=seed)[1]["hpbench"]["task"] for seed in range(6)}
    assert len(seen) > 1
    _, info = env.reset(seed=0, options={"task": "classic/acrobot@train-3"})
    assert info["hpbench"]["task"] == "classic/acrobot@train-3"
    assert env.agent_spec.task.id == "classic/acrobot@train-3"
    snapshot = env.snapshot()
    assert env.reset(seed=0)[1]["hpbench"]["task"] == make(task=None).reset(seed=0)[1]["hpbench"]["task"]
    env.restore(snapshot)
    assert env.agent_spec.task.id == "classic/acrobot@train-3"


def test_bad_reset_options_are_errors() -> None:
    env = make()
    with pytest.raises(UnknownName, match="task"):
        env.reset(options={"taks": "classic/acrobot"})
    with pytest.raises(UnknownName, match="classic/acrobot"):
        env.reset(options={"task": "classic/acrobt"})
    with pytest.raises(gym.error.Error):
        env.reset(seed=-1)


def test_steps_need_a_running_episode() -> None:
    env = make()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(actions_of(env)[0])
    with pytest.raises(gym.error.ResetNeeded):
        env.snapshot()
    play(env, actions_of(env), seed=0)
    with pytest.raises(gym.error.ResetNeeded, match="ended"):
        env.step(actions_of(env)[0])


# -- steps -------------------------------------------------------------------------------------------------------------


def test_steps_are_counted_exactly() -> None:
    env = make()
    outcomes = play(env, actions_of(env), seed=2)
    infos = [outcome[-1]["hpbench"] for outcome in outcomes]
    assert [info["steps"] for info in infos] == [0, 128, 256, 384, 512]
    assert [info["decision"] for info in infos] == [0, 1, 2, 3, 4]
    assert [outcome[3] for outcome in outcomes[1:]] == [False, False, False, True]
    assert not any(outcome[2] for outcome in outcomes[1:])
    evaluation = np.diff([0] + [info["evaluation_steps"] for info in infos])
    for steps, info in zip(evaluation, infos, strict=True):
        assert steps == pytest.approx(2 * info["return"]), "a CartPole return is an episode length"
    assert "meta_score" not in infos[-2]
    scores = [info["score"] for info in infos[1:]]
    assert infos[-1]["meta_score"] == pytest.approx(0.5 * scores[-1] + 0.5 * np.mean(scores))


def test_the_standard_budget_is_the_tasks() -> None:
    for tier in ("small", "standard", "paper"):
        env = gym.make("HPControl-Classic-v0", task="classic/pendulum", tier=tier).unwrapped
        env.reset(seed=0)
        budget = env.agent_spec.task.budgets[tier]
        assert (env.agent_spec.steps, env.agent_spec.decisions) == (budget.steps, budget.decisions)


def test_infos_are_plain_json_and_tell_the_effective_values() -> None:
    env = make(action="text", observation="text", track="shift", reward="uplift")
    env.reset(seed=0)
    *_, info = env.step('{"learning_rate": 7, "clip_range": "x0.5", "update_epochs": 3}')
    assert json.loads(json.dumps(info, allow_nan=False)) == info
    values = info["hpbench"]["values"]
    assert (values["learning_rate"], values["clip_range"], values["update_epochs"]) == (0.1, 0.1, 3.0)
    assert info["hpbench"]["clipped"] == ["learning_rate"]
    assert env.snapshot().population.state["hyperparameters"][0].tolist() == list(values.values())


@pytest.mark.parametrize("action", ACTIONS)
def test_the_neutral_action_changes_nothing(action: str) -> None:
    env, other = make(action=action, reward="uplift"), make(action="absolute")
    hyperparameters = hpbench.learners.make("ppo").hyperparameters
    keep = {
        "delta": np.zeros(9, dtype=np.float32),
        "discrete": np.full(9, 3),
        "text": "{}",
        "absolute": np.array([item.to_action(item.default) for item in hyperparameters.values()], dtype=np.float32),
    }
    ours, theirs = play(env, [keep[action]] * 3, seed=5), play(other, [keep["absolute"]] * 3, seed=5)
    assert [o[-1]["hpbench"]["digest"] for o in ours] == [o[-1]["hpbench"]["digest"] for o in theirs]
    assert [o[1] for o in ours[1:]] == [0.0] * 3, "the uplift of no update is exactly zero"
    assert ours[-1][-1]["hpbench"]["counterfactual_steps"] == 0


@pytest.mark.parametrize(
    "bad", [np.full(9, np.nan), np.full(9, np.inf), np.zeros(8), np.zeros((9, 1)), np.zeros(9, int), "{}", None]
)
def test_actions_without_meaning_are_errors_and_nothing_happens(bad: Any) -> None:
    env, other = make(track="shift"), make(track="shift")
    actions = actions_of(env)
    env.reset(seed=1)
    for action in actions:
        with pytest.raises(InvalidAction, match=r"\[-1, 1\]"):
            env.step(bad)
        last = env.step(action)
    assert same(last, play(other, actions, seed=1)[-1])


def test_a_bad_action_in_a_batch_names_its_member() -> None:
    batch = EpisodeBatch(make().options, [0, 1])
    batch.reset()
    with pytest.raises(InvalidAction, match="member 1"):
        batch.step([np.zeros(9), np.full(9, np.nan)])
    with pytest.raises(InvalidAction, match="1 actions for 2 members"):
        batch.step([np.zeros(9)])


def test_an_invalid_text_is_a_no_op_with_a_penalty_a_count_and_feedback() -> None:
    env, other = make(action="text", observation="dict"), make(action="text", observation="dict")
    bad = play(env, ['{"learning_rate": "fast"}', "nonsense", "{}"], seed=8)
    good = play(other, ["{}"] * 3, seed=8)
    for i in (1, 2, 3):
        assert bad[i][4]["hpbench"]["digest"] == good[i][4]["hpbench"]["digest"]
    penalties = [good[i][1] - bad[i][1] for i in (1, 2, 3)]
    assert penalties == pytest.approx([INVALID_PENALTY, INVALID_PENALTY, 0.0])
    assert [bad[i][4]["hpbench"]["invalid"] for i in (1, 2, 3)] == [1, 2, 2]
    feedback = [bad[i][0]["text"].split("\n")[-1] for i in (1, 2, 3)]
    assert feedback[0].startswith("feedback: the last action was invalid")
    assert "learning_rate needs a number" in feedback[0]
    assert "not a JSON object" in feedback[1]
    assert not feedback[2].startswith("feedback")
    flags = [env.schema.values(bad[i][0])["action_invalid"] for i in (1, 2, 3)]
    assert flags == [1.0, 1.0, 0.0]


def test_clipped_actions_get_a_line_of_feedback() -> None:
    env = make(action="text", observation="text", names="anonymous")
    env.reset(seed=0)
    observation, _, _, _, info = env.step('{"h1": 5, "h8": "x0.01"}')
    assert observation.endswith("feedback: the last action was cut at the bounds of h1, h8")
    assert info["hpbench"]["clipped"] == ["learning_rate", "update_epochs"]
    assert "learning_rate" not in observation
    assert "cartpole" not in observation


def test_observations_tell_the_values_in_force_and_the_last_updates() -> None:
    env = make(action="text")
    env.reset(seed=0)
    env.step('{"learning_rate": "x2"}')
    observation, *_, info = env.step('{"discount": 0.98}')
    values = env.schema.values(observation)
    for name, value in info["hpbench"]["values"].items():
        assert values[f"hp_{name}"] == value
    assert values["update_1_discount"] < 0.0 == values["update_1_learning_rate"]
    assert values["update_2_learning_rate"] > 0.0 == values["update_2_discount"]
    assert "update_3_learning_rate" not in values
    assert values["budget_fraction"] == pytest.approx(0.5)
    assert {"return_mean", "approx_kl", "entropy", "gradient_norm", "dormant_share", "snippet_reward_mean"} <= set(
        values
    )
    assert "entropy_per_dimension" not in values
    assert "test_gap" not in values


def test_a_continuous_policy_has_its_own_entropy_feature() -> None:
    env = make(task="classic/pendulum")
    env.reset(seed=0)
    values = env.schema.values(env.step(np.zeros(9, dtype=np.float32))[0])
    assert "entropy" not in values
    assert values["entropy_per_dimension"] == pytest.approx(1.42, abs=0.1), "a standard deviation of about 1"


def test_evaluation_feeds_the_reward_and_not_the_observation() -> None:
    few, many = make(evaluation_episodes=1, observation="dict"), make(evaluation_episodes=7, observation="dict")
    actions = actions_of(few)
    ours, theirs = play(few, actions, seed=2), play(many, actions, seed=2)
    assert same([o[0] for o in ours], [o[0] for o in theirs])
    assert [o[1] for o in ours[1:]] != [o[1] for o in theirs[1:]]


def test_vector_text_and_dict_show_the_same_episode() -> None:
    runs = {name: play(make(observation=name), actions_of(make()), seed=3) for name in OBSERVATIONS}
    for vector, text, both in zip(*(runs[name] for name in OBSERVATIONS), strict=True):
        assert same(both[0], {"vector": vector[0], "text": text[0]})
        assert same(vector[1:], text[1:])


def test_render_shows_the_text_view_of_any_observation() -> None:
    env, other = make(render_mode="ansi"), make(observation="text")
    env.reset(seed=0)
    assert env.render() == other.reset(seed=0)[0]
    with pytest.raises(InvalidConfiguration, match="ansi"):
        other.render()
    with pytest.raises(UnknownName, match="ansi"):
        HPControlEnv(render_mode="rgb_array")


# -- tracks ------------------------------------------------------------------------------------------------------------


def test_random_starts_from_the_list() -> None:
    env = make(track="random")
    rows = configurations("ppo", hpbench.learners.make("ppo").hyperparameters)
    assert len(rows) == CONFIGURATIONS
    drawn = [env.reset(seed=seed)[1]["hpbench"]["values"] for seed in range(8)]
    assert all(values in rows for values in drawn)
    assert len({json.dumps(values) for values in drawn}) > 4


def test_shift_changes_the_task_in_mid_run_and_keeps_the_learner() -> None:
    shift, plain = make(track="shift", decisions=4), make(decisions=4)
    action = np.zeros(9, dtype=np.float32)
    seed = next(seed for seed in range(100) if shift_decision(4, seed) == 2)
    ours, theirs = play(shift, [action] * 2, seed=seed), play(plain, [action] * 2, seed=seed)
    assert same([o[0] for o in ours], [o[0] for o in theirs])
    assert [o[-1]["hpbench"]["digest"] for o in ours] == [o[-1]["hpbench"]["digest"] for o in theirs]
    before = shift.snapshot()
    observation, _, _, _, info = shift.step(action)
    assert info["hpbench"]["shifted"] is True
    assert info["hpbench"]["task"] == "classic/cartpole", "the info tells that the task has changed, not to what"
    assert info["hpbench"]["digest"] != plain.step(action)[-1]["hpbench"]["digest"]
    assert info["hpbench"]["steps"] == 384
    assert observation in shift.observation_space
    after = shift.snapshot()
    assert before.population.tasks == ("classic/cartpole",)
    assert after.population.tasks[0].startswith("classic/cartpole@test-")
    assert [o[-1]["hpbench"]["shifted"] for o in ours] == [False] * 3


def test_the_text_does_not_tell_that_the_task_has_shifted() -> None:
    env = make(track="shift", observation="text")
    texts = [outcome[0] for outcome in play(env, actions_of(env), seed=0)]
    assert all("task classic/cartpole learner ppo\n" in text and "@" not in text for text in texts)


def test_a_shift_survives_a_snapshot() -> None:
    env = make(track="shift")
    actions = actions_of(env)
    play(env, actions[:3], seed=0)
    other = make(track="shift")
    other.restore(env.snapshot())
    assert same(env.step(actions[3]), other.step(actions[3]))
