"""Writing free text: our own loop against the one of transformers, and under a grammar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.language import prompt
from agents.language.causal import CausalModel
from agents.language.generate import GenerateOptions, Generator
from hpbench.errors import InvalidConfiguration

SEEDS = [1, 2, 3]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tokenizer: Any, make_model: Callable[..., Any]) -> CausalModel:
    return CausalModel(make_model(request.param, len(tokenizer)), tokenizer)


def test_greedy_text_is_that_of_transformers(model: CausalModel, observations: list[str]) -> None:
    decisions = Generator(model, GenerateOptions(tokens=12)).decide(observations, SEEDS)
    for observation, decision in zip(observations, decisions, strict=True):
        ids = torch.tensor([model.prompt_ids(observation)])
        whole = model.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=1
        )
        text = model.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert decision.raw == text
        assert decision.prompt_tokens == ids.shape[1]
        assert 0 < decision.completion_tokens <= 12
        assert decision.probabilities == ()


def test_sampling_comes_from_the_seeds_alone(model: CausalModel, observations: list[str]) -> None:
    generator = Generator(model, GenerateOptions(sample=True, tokens=6))
    before = torch.get_rng_state()
    together = [decision.raw for decision in generator.decide(observations, SEEDS)]
    alone = [generator.decide([observations[i]], [SEEDS[i]])[0].raw for i in range(len(SEEDS))]
    assert together == alone
    assert len({generator.decide(observations[:1], [seed])[0].raw for seed in range(4)}) > 1
    assert torch.equal(torch.get_rng_state(), before)


def test_sampling_takes_shares(model: CausalModel) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0))
    draws = (torch.arange(4000) + 0.5) / 4000
    generator = Generator(model, GenerateOptions(sample=True, temperature=0.5))
    drawn = torch.bincount(generator._choose(logits.expand(4000, -1), draws), minlength=50) / 4000
    np.testing.assert_allclose(drawn, (logits / 0.5).softmax(dim=-1), atol=5e-4)


def test_the_end_of_text_ends_it(model: CausalModel, observations: list[str]) -> None:
    """A token that the model writes early is declared to be the end."""
    ids = torch.tensor([model.prompt_ids(observations[0])])
    tokens = model.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, pad_token_id=1
    )[0, ids.shape[1] :].tolist()
    generator = Generator(model, GenerateOptions(tokens=12))
    generator._ends = {tokens[2]}
    assert generator.decide(observations[:1], [0])[0].completion_tokens == tokens.index(tokens[2])


@pytest.mark.parametrize("sample", [False, True])
def test_grammar_allows_completions_only(model: CausalModel, observations: list[str], sample: bool) -> None:
    pytest.importorskip("xgrammar")
    generator = Generator(model, GenerateOptions(grammar=True, sample=sample, tokens=200))
    for observation, decision in zip(observations, generator.decide(observations, SEEDS), strict=True):
        names = prompt.names_in(observation)
        choices = prompt.read_completion(decision.raw, names)
        assert decision.valid
        assert prompt.read_completion(decision.action, names) == choices


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"tokens": 0}])
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfiguration):
        GenerateOptions(**options)
