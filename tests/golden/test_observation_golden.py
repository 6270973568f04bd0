"""Frozen formats. If one of these tests fails, scores or trained agents lose their meaning: raise the version instead.

The version is the number in ``hpbench.control.text.FORMAT`` for anything about observations, and the ``-vN`` of the
environment ids for the configurations of the ``random`` track.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from hpbench.control.observation import Schema, UnitScale
from hpbench.control.text import Snippet, TextView
from hpbench.control.tracks import configurations, initial_values, shift_decision
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.learners.ppo import PPO

SPACE = HyperparameterSpace(
    Hyperparameter("rate", 1e-5, 1e-1, 1e-3, "log"),
    Hyperparameter("discount", 0.8, 0.9999, 0.99, "log1m"),
    Hyperparameter("weight", 0.0, 2.0, 1.0),
)
VALUES = [2.5e-4, 0.9975, 1.5]
FEATURES = {
    "budget_fraction": 0.25,
    "decisions_left": 15.0,
    "score": 0.247,
    "return_mean": 123.4,
    "return_sem": 4.21,
    "return_slope_1": 0.121,
    "return_slope_3": 0.04,
    "return_best": 213.4,
    "return_from_best": -0.18,
    "decisions_since_best": 2.0,
    "episode_length": 123.4,
    "success_rate": 0.05,
    "policy_loss": -0.0123,
    "value_loss": 17.5,
    "entropy": 0.62,
    "approx_kl": 0.0131,
    "clip_fraction": 0.118,
    "explained_variance": 0.44,
    "gradient_norm": 1.07,
    "gradient_clipped": 0.91,
    "update_ratio": 0.0034,
    "dormant_share": 0.0156,
    "feature_rank": 9.4,
    "action_invalid": 0.0,
    "action_clipped": 1.0,
    "update_1_rate": -0.0753,
    "update_1_discount": 0.1824,
    "update_1_weight": 0.25,
    "effect_1": 0.121,
    "update_2_rate": 0.0,
    "update_2_discount": 0.0,
    "update_2_weight": 0.0,
    "effect_2": -0.02,
}
TEXT = """
hpbench-text/1
task classic/cartpole learner ppo
budget_fraction 0.25[25] decisions_left 15[40]
score 0.247[41] return_mean 123.4[67] return_sem 4.21[23] d1 +12.1%[74] d3 +4%[65] return_best 213.4[69] vsbest -18%[22] decisions_since_best 2[15] episode_length 123.4[34] success_rate 0.05[05]
policy_loss -0.0123[29] value_loss 17.5[52] entropy 0.62[62] entropy_per_dimension - approx_kl 0.0131[42] clip_fraction 0.118[11] explained_variance 0.44[72]
gradient_norm 1.07[33] gradient_clipped 0.91[91] update_ratio 0.0034[42]
dormant_share 0.0156[01] feature_rank 9.4[25] test_gap -
snippet_reward_mean 0.9375[71] snippet_reward_std 0.1654[31] snippet_reward_min 0.5[69] snippet_reward_max 1[71] snippet_state_norm 1.334[26] snippet_action_mean 0.5[67]
rate 0.00025[34] in 1e-05..0.1
discount 0.9975[57] in 0.8..0.9999
weight 1.5[75] in 0..2
update 1 rate x0.5[46] discount x4[59] weight +0.5[62] effect +12.1%[74]
update 2 keep effect -2%[39]
trajectory: state | action | reward
1 1.12 | 1 | 1
1.25 1.38 | 0 | 1
1.5 1.62 | 0 | 1
1.75 1.88 | 1 | 0.5
feedback: the last action was cut at the bounds of weight
"""  # noqa: E501
VECTOR = {
    "budget_fraction": -0.5,
    "decisions_left": -0.19737,
    "score": -0.16867,
    "return_mean": 0.34914,
    "return_sem": -0.53301,
    "return_slope_1": 0.4851,
    "return_slope_3": 0.30348,
    "return_best": 0.38854,
    "return_from_best": -0.55521,
    "decisions_since_best": -0.68197,
    "episode_length": -0.30173,
    "success_rate": -0.9,
    "policy_loss": -0.41868,
    "value_loss": 0.04861,
    "entropy": 0.24,
    "approx_kl": -0.15177,
    "clip_fraction": -0.764,
    "explained_variance": 0.44,
    "gradient_norm": -0.32671,
    "gradient_clipped": 0.82,
    "update_ratio": -0.15575,
    "dormant_share": -0.9688,
    "feature_rank": -0.49149,
    "snippet_reward_mean": 0.42463,
    "snippet_reward_std": -0.36542,
    "snippet_reward_min": 0.38569,
    "snippet_reward_max": 0.42863,
    "snippet_state_norm": -0.46794,
    "snippet_action_mean": 0.34151,
    "action_invalid": -1.0,
    "action_clipped": -0.69962,
    "hp_rate": -0.30103,
    "hp_discount": 0.15303,
    "hp_weight": 0.5,
    "update_1_rate": -0.0753,
    "update_1_discount": 0.1824,
    "update_1_weight": 0.25,
    "effect_1": 0.4851,
    "update_2_rate": 0.0,
    "update_2_discount": 0.0,
    "update_2_weight": 0.0,
    "effect_2": -0.20716,
}


def frame_and_view() -> tuple[Schema, np.ndarray, str]:
    schema = Schema("ppo", SPACE)
    states = [[[i / 8, (i + 1) / 8] for i in range(0, 16, 2)]]
    actions = [[[0.0], [1.0], [1.0], [0.0], [1.0], [0.0], [0.0], [1.0]]]
    snippet = Snippet(states, actions, [[1.0] * 7 + [0.5]])
    raw = np.full((1, len(schema)), np.nan)
    for name, value in FEATURES.items():
        raw[0, schema.column(name)] = value
    raw[0, schema.group("hyperparameters")] = UnitScale(SPACE)(np.array([VALUES]))[0]
    raw[0, schema.group("snippet")] = snippet.statistics(0)
    frame = schema.encode(raw)
    feedback = ["the last action was cut at the bounds of weight"]
    text = TextView(schema, "real").render(frame, ["classic/cartpole"], [VALUES], snippet, feedback)[0]
    return schema, frame.vectors()[0], text


def test_text() -> None:
    assert frame_and_view()[2] == TEXT.strip("\n")


def test_vector() -> None:
    schema, vector, _ = frame_and_view()
    shown = {f.name: float(vector[i]) for i, f in enumerate(schema.features) if vector[len(schema) + i]}
    assert shown == pytest.approx(VECTOR, abs=2e-5)


def test_layout_of_the_ppo_vector() -> None:
    names = [feature.name for feature in Schema("ppo", PPO.hyperparameters).features]
    assert len(names) == 82
    assert hashlib.sha256(" ".join(names).encode()).hexdigest()[:16] == "45fa2de218c97976"


def test_random_track() -> None:
    rows = configurations("ppo", PPO.hyperparameters)
    assert rows[0] == {
        "learning_rate": 3.3645e-05,
        "entropy_coefficient": 5.7796e-05,
        "value_coefficient": 0.13822,
        "clip_range": 0.13392,
        "discount": 0.9989683,
        "gae_lambda": 0.92401,
        "max_gradient_norm": 0.1304,
        "update_epochs": 1.0,
        "minibatches": 13.0,
    }
    assert rows[63] == {
        "learning_rate": 0.0024172,
        "entropy_coefficient": 0.0076881,
        "value_coefficient": 0.54202,
        "clip_range": 0.090272,
        "discount": 0.9916699,
        "gae_lambda": 0.904312,
        "max_gradient_norm": 1.0253,
        "update_epochs": 3.0,
        "minibatches": 4.0,
    }
    listing = "\n".join(" ".join(f"{name}={value!r}" for name, value in row.items()) for row in rows)
    assert hashlib.sha256(listing.encode()).hexdigest()[:16] == "462605fda52b12a8"


def test_what_the_test_seeds_draw() -> None:
    drawn = [
        configurations("ppo", PPO.hyperparameters).index(initial_values("random", "ppo", PPO.hyperparameters, s))
        for s in range(100, 110)
    ]
    assert drawn == [45, 40, 5, 48, 5, 43, 27, 55, 58, 29]
    assert [shift_decision(20, seed) for seed in range(100, 110)] == [13, 11, 10, 7, 13, 10, 8, 12, 9, 6]
