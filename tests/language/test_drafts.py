"""The slot policy guesses slots ahead of time: against deciding one slot after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.language import llama, prompt, slot
from agents.language.causal import CausalModel
from agents.language.decision import Decision
from agents.language.passes import Passes
from agents.language.slot import SlotOptions, SlotPolicy, choice_scores
from hpbench.hyperparameter import KEEP
from hpbench.seeding import uniform

SEEDS = [11, 12, 13]


@torch.no_grad()
def slot_after_slot(policy: SlotPolicy, observations: list[str], seeds: list[int]) -> tuple[Any, Any]:
    """Choices and probabilities when each slot is decided before the next one is looked at: nothing is guessed, and
    what a slot is decided by is computed anew from the whole text."""
    layout = policy.layout(prompt.names_in(observations[0]))
    prompts = policy.model.prompts(observations, layout.longest)
    draws = uniform(torch.tensor(seeds), torch.zeros(len(seeds), dtype=torch.long), len(layout.slots)).double()
    choices = torch.zeros(draws.shape, dtype=torch.long)
    for h in range(len(layout.slots)):
        scores = choice_scores(policy.model.model, layout, prompts, choices)
        choices[:, h] = policy._choose(scores[:, h].double(), draws[:, h])
    return choices.tolist(), scores.exp().numpy()


def passes(
    policy: SlotPolicy, observations: list[str], seeds: list[int]
) -> tuple[list[Decision], list[tuple[int, int]]]:
    """The decisions, and members and tokens of each pass through the model."""
    seen: list[tuple[int, int]] = []

    def open_and_watch(network: Any, ids: torch.Tensor) -> Passes:
        opened = Passes(network, ids)
        columns = opened.columns
        seen.append((len(ids), ids.shape[1]))

        def watched(ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            seen.append((len(ids), ids.shape[1]))
            return columns(ids, *rest)

        opened.columns = watched  # type: ignore[method-assign]
        return opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slot, "Passes", open_and_watch)
        patch.setattr(llama, "suits", lambda network: False)  # those guess nothing
        decisions = policy.decide(observations, seeds)
    return decisions, seen


def assert_as_slot_after_slot(policy: SlotPolicy, observations: list[str]) -> list[tuple[int, ...]]:
    names = prompt.names_in(observations[0])
    seeds = list(range(len(observations)))
    decisions, seen = passes(policy, observations, seeds)
    made = [prompt.read_completion(decision.action, names) for decision in decisions]
    choices, probabilities = slot_after_slot(policy, observations, seeds)
    assert made == [tuple(row) for row in choices]
    np.testing.assert_allclose([decision.probabilities for decision in decisions], probabilities, atol=2e-5)
    # The prompts, then drafts: of ever fewer columns, and of members that are not done.
    assert len(seen) <= 1 + len(names)
    assert [seen[0][0], seen[1][0]] == [len(observations)] * 2
    assert all(a[0] >= b[0] > 0 and a[1] > b[1] > 0 for a, b in itertools.pairwise(seen))
    return made


@pytest.mark.parametrize(
    "options",
    [
        SlotOptions(),
        SlotOptions(sample=True),
        SlotOptions(gate=0.85),
        SlotOptions(sample=True, gate=0.85, temperature=2),
    ],
    ids=["greedy", "sampled", "gated", "sampled-gated"],
)
def test_a_draft_changes_no_choice(model: CausalModel, observations: list[str], options: SlotOptions) -> None:
    """Members whose prompts are of different lengths, and whose drafts turn out wrong at different slots."""
    made = assert_as_slot_after_slot(SlotPolicy(model, options), observations)
    assert len(set(made)) > 1 or not options.sample  # the most likely edits may be the same for all
    assert any(choice != KEEP for row in made for choice in row)


def test_a_right_draft_takes_one_pass_more_than_the_prompts(model: CausalModel, observations: list[str]) -> None:
    """Keeping everything is the draft."""
    policy = SlotPolicy(model, SlotOptions(gate=1.0))
    _, seen = passes(policy, observations, SEEDS)
    layout = policy.layout(prompt.names_in(observations[0]))
    assert [shape[1] for shape in seen[1:]] == [layout.slots[-1].end]


# A warning between PEFT and transformers, about a name that both still have.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_draft_changes_no_choice_of_an_adapted_model_and_of_our_own(
    observations: list[str], tokenizer: Any, make_model: Callable[..., Any]
) -> None:
    peft = pytest.importorskip("peft")
    from agents.training import architecture

    words = architecture.make_tokenizer()
    own = architecture.make_model("tiny", words)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(make_model("llama", len(tokenizer)), lora)
        for weight in own.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)  # untrained, it would find everything equally likely
    for model in (CausalModel(adapted, tokenizer), CausalModel(own, words)):
        made = assert_as_slot_after_slot(SlotPolicy(model, SlotOptions(sample=True)), observations * 2)
        assert len(set(made)) > 1
