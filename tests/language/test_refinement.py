"""On-line refinement: what paid becomes likelier, what did harm less likely, and the guard holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from agents.language import prompt
from agents.language.causal import CausalModel
from agents.language.controller import LanguageAgent
from agents.language.deployment import Deployment, live_environment
from agents.language.hub import HubModel
from agents.language.refinement import OnlineRefiner, RefinementOptions, refiner_of
from agents.language.slot import SlotOptions, SlotPolicy
from agents.random_updates import RandomUpdates
from hpbench.errors import InvalidAction, InvalidConfiguration

BANDIT = "hpbench-text/1\ntask hidden learner ppo\nlearning_rate 0.0003[50] in 1e-05..0.1"
"""One slot, one state."""


@pytest.fixture
def policy(make_model: Callable[..., Any], make_tokenizer: Callable[..., Any]) -> SlotPolicy:
    tokenizer = make_tokenizer([prompt.SYSTEM, BANDIT])
    return SlotPolicy(CausalModel(make_model("llama", len(tokenizer)), tokenizer), SlotOptions(sample=True))


def test_a_bandit_is_learned(policy: SlotPolicy) -> None:
    """One choice pays, all others cost: it comes to be preferred, though the model preferred another."""
    refiner = OnlineRefiner(policy, RefinementOptions(learning_rate=3e-3, kl=0.5))
    before = policy.decide([BANDIT], [0])[0].probabilities[0]
    good = sorted(range(len(before)), key=lambda choice: before[choice])[-2]
    for seed in range(24):
        action = policy.decide([BANDIT], [seed])[0].action
        (choice,) = prompt.read_completion(action, ["learning_rate"])
        refiner.learn(BANDIT, action, 2.0 if choice == good else -1.0)
    after = policy.decide([BANDIT], [0])[0].probabilities[0]
    assert refiner.updates == 6
    assert before[good] < 0.25
    assert after[good] > 0.5


def test_an_update_that_broke_the_learner_becomes_less_likely(policy: SlotPolicy) -> None:
    refiner = OnlineRefiner(policy, RefinementOptions(every=1, learning_rate=1e-3))
    decision = policy.decide([BANDIT], [0])[0]
    (choice,) = prompt.read_completion(decision.action, ["learning_rate"])
    refiner.learn(BANDIT, decision.action, -float("inf"))
    assert policy.decide([BANDIT], [0])[0].probabilities[0][choice] < decision.probabilities[0][choice]


def test_nothing_is_learned_from_nothing(policy: SlotPolicy) -> None:
    refiner = OnlineRefiner(policy, RefinementOptions(every=2))
    weights = [weight.clone() for weight in policy.model.model.parameters()]
    action = policy.decide([BANDIT], [0])[0].action
    refiner.learn(BANDIT, action, 3.0)  # too few yet
    assert refiner.updates == 0
    refiner = OnlineRefiner(policy, RefinementOptions(every=2))
    for _ in range(2):
        refiner.learn(BANDIT, action, 0.0)  # as expected
    assert refiner.updates == 1
    assert all(torch.equal(a, b) for a, b in zip(weights, policy.model.model.parameters(), strict=True))


def test_the_guard_stops_an_update(policy: SlotPolicy) -> None:
    """With a step far too large, one is taken, and no second one."""
    action = policy.decide([BANDIT], [0])[0].action
    wild = RefinementOptions(every=1, learning_rate=0.05, epochs=50, clip=10.0, kl=0.01)
    refiner = OnlineRefiner(policy, wild)
    refiner.learn(BANDIT, action, -3.0)
    assert refiner.divergence > wild.kl
    assert refiner.steps == 1


def test_in_a_live_run(model_folder: Any) -> None:
    """The model of the agent itself changes, and the run goes on with it."""
    agent = LanguageAgent(HubModel(str(model_folder), options=SlotOptions(sample=True), device="cpu"))
    refiner = refiner_of(agent, RefinementOptions(every=2, epochs=2))
    policy = agent.source.loaded()  # type: ignore[attr-defined]
    weights = [weight.clone() for weight in policy.model.model.parameters()]
    learner = {"num_envs": 2, "num_steps": 16, "hidden": (8, 8)}
    options = {"steps": 256, "decisions": 4, "evaluation_episodes": 1, "learner_config": learner, "device": "cpu"}
    live = Deployment(live_environment(agent, "classic/cartpole", **options), agent, refiner=refiner)
    decided = list(live.run(0))
    assert refiner.updates == len(decided) // 2 > 0
    assert not all(torch.equal(a, b) for a, b in zip(weights, policy.model.model.parameters(), strict=True))
    report = live.report()
    assert report["agent"]["feedback_lines"] == report["feedback_lines"] > 0
    assert report["agent"]["decisions"] == report["decisions"] == len(decided)


def test_wrong_use_is_explained(model_folder: Any, policy: SlotPolicy) -> None:
    source = HubModel(str(model_folder), device="cpu")
    for agent in (RandomUpdates(), LanguageAgent(source, timing="next")):
        with pytest.raises(InvalidConfiguration, match="slots"):
            refiner_of(agent)
    with pytest.raises(InvalidConfiguration, match="above 0"):
        RefinementOptions(every=0)
    with pytest.raises(InvalidAction):
        OnlineRefiner(policy).learn(BANDIT, "{}", 1.0)
    policy.model.model.requires_grad_(False)
    with pytest.raises(InvalidConfiguration, match="adapter"):
        OnlineRefiner(policy)
