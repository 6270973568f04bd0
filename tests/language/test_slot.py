"""The slot policy against scoring whole strings one at a time, without cache, padding or tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agents.language import prompt
from agents.language.causal import CausalModel
from agents.language.layout import SlotLayout
from agents.language.slot import SlotOptions, SlotPolicy, choice_scores, log_probability
from agents.language.whole import has_full_attention
from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import KEEP

SEEDS = [11, 12, 13]


@torch.no_grad()
def brute_force(model: CausalModel, observation: str, choices: tuple[int, ...]) -> list[list[float]]:
    """Probabilities of all choices in all slots: every alternative as a whole text of its own."""
    before = model.prompt_ids(observation)
    result = []
    for (opening, close), choice in zip(prompt.pieces(prompt.names_in(observation)), choices, strict=True):
        before = before + model.piece_ids(opening)
        endings = [model.piece_ids(other + close) for other in prompt.CHOICES]
        forced = forced_tokens(endings)
        sums = []
        for tokens in endings:
            logits = model.model(torch.tensor([before + tokens])).logits[0].double().log_softmax(dim=-1)
            logs = [float(logits[len(before) - 1 + i, token]) for i, token in enumerate(tokens)]
            sums.append(sum(logs[: len(tokens) - forced]))
        shares = np.exp(np.array(sums) - max(sums))
        result.append((shares / shares.sum()).tolist())
        before = before + endings[choice]
    return result


def forced_tokens(endings: list[list[int]]) -> int:
    """How many last tokens all choices share and none needs: without them no choice begins another."""
    texts = [",".join(map(str, ending)) + "," for ending in endings]
    count = 0
    while len({text.rsplit(",", 2)[-2] for text in texts}) == 1:
        texts = [text[: text.rstrip(",").rfind(",") + 1] for text in texts]
        if any(a != b and b.startswith(a) for a in texts for b in texts):
            break
        count += 1
    return count


def test_probabilities_are_those_of_whole_strings(model: CausalModel, observations: list[str]) -> None:
    decisions = SlotPolicy(model, SlotOptions(sample=True)).decide(observations, SEEDS)
    for observation, decision in zip(observations[-1:], decisions[-1:], strict=True):
        choices = prompt.read_completion(decision.action, prompt.names_in(observation))
        expected = brute_force(model, observation, choices)
        np.testing.assert_allclose(decision.probabilities, expected, atol=2e-5)
        total = sum(np.log(row[choice]) for row, choice in zip(expected, choices, strict=True))
        assert decision.log_probability == pytest.approx(total, abs=1e-3)
        assert np.ptp(expected) > 0.1  # a test on even probabilities would say little


def test_one_pass_gives_the_same_with_gradients(model: CausalModel, observations: list[str]) -> None:
    policy = SlotPolicy(model, SlotOptions(sample=True))
    decisions = policy.decide(observations, SEEDS)
    layout = policy.layout(prompt.names_in(observations[0]))
    choices = torch.tensor([prompt.read_completion(decision.action, layout.names) for decision in decisions])
    scores = choice_scores(model.model, layout, model.prompts(observations, layout.longest), choices)
    np.testing.assert_allclose(
        scores.exp().detach().numpy(), [decision.probabilities for decision in decisions], atol=2e-5
    )
    total = log_probability(scores, choices)
    np.testing.assert_allclose(total.detach(), [decision.log_probability for decision in decisions], atol=1e-3)
    model.model.zero_grad()
    total.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.model.parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.model.parameters())
    model.model.zero_grad()


def test_the_batch_does_not_matter(model: CausalModel, observations: list[str]) -> None:
    """Members have prompts of different lengths; alone there is no padding."""
    policy = SlotPolicy(model, SlotOptions(sample=True))
    together = policy.decide(observations, SEEDS)
    for observation, seed, decision in zip(observations, SEEDS, together, strict=True):
        (alone,) = policy.decide([observation], [seed])
        assert alone.action == decision.action
        np.testing.assert_allclose(alone.probabilities, decision.probabilities, atol=2e-5)
        assert (alone.prompt_tokens, alone.completion_tokens) == (decision.prompt_tokens, decision.completion_tokens)
    assert len({decision.prompt_tokens for decision in together}) == len(together)


def test_greedy_takes_the_most_likely_and_sampling_its_shares(model: CausalModel, observations: list[str]) -> None:
    (greedy,) = SlotPolicy(model).decide(observations[:1], [0])
    choices = prompt.read_completion(greedy.action, prompt.names_in(observations[0]))
    assert choices == tuple(int(np.argmax(row)) for row in greedy.probabilities)
    policy = SlotPolicy(model, SlotOptions(sample=True))
    logs = torch.tensor(greedy.probabilities[0]).double().log()
    draws = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    drawn = policy._choose(logs.expand(2000, -1), draws)
    shares = torch.bincount(drawn, minlength=len(prompt.CHOICES)) / 2000
    np.testing.assert_allclose(shares, greedy.probabilities[0], atol=1e-3)


def test_seeds_decide(model: CausalModel, observations: list[str]) -> None:
    policy = SlotPolicy(model, SlotOptions(sample=True))
    before = torch.get_rng_state()
    first, again = (policy.decide(observations[:1], [5])[0].action for _ in range(2))
    others = {policy.decide(observations[:1], [seed])[0].action for seed in range(6)}
    assert first == again
    assert len(others) > 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sample", [False, True])
def test_gate(model: CausalModel, observations: list[str], sample: bool) -> None:
    """Slots whose probability of any edit is below the gate are kept; the others take an edit."""
    names = prompt.names_in(observations[0])
    gate = 0.85
    decisions = SlotPolicy(model, SlotOptions(gate=gate, sample=sample)).decide(observations, SEEDS)
    kept = 0
    for decision in decisions:
        choices = prompt.read_completion(decision.action, names)
        for choice, row in zip(choices, decision.probabilities, strict=True):
            assert (choice == KEEP) == (1.0 - row[KEEP] < gate)
            edits = [p for i, p in enumerate(row) if i != KEEP]
            assert choice == KEEP or sample or row[choice] == max(edits)
            kept += choice == KEEP
    assert 0 < kept < len(decisions) * len(names)
    for certain, expected in ((1.0, True), (0.0, False)):
        (decision,) = SlotPolicy(model, SlotOptions(gate=certain)).decide(observations[:1], SEEDS[:1])
        choices = prompt.read_completion(decision.action, names)
        assert all((choice == KEEP) == expected for choice in choices)


def test_tokens_of_a_completion(model: CausalModel, observations: list[str]) -> None:
    names = prompt.names_in(observations[0])
    layout = SlotPolicy(model).layout(names)
    rng = np.random.default_rng(0)
    for _ in range(20):
        choices = rng.integers(0, len(prompt.CHOICES), len(names)).tolist()
        ids = layout.completion_ids(choices)
        assert model.tokenizer.decode(ids) == prompt.completion(choices, names)
        assert len(ids) == layout.size(choices) <= layout.longest


class Words:
    """A tokenizer whose words are given, for layouts by example."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __call__(self, text: str) -> list[int]:
        ids = []
        while text:
            word = max((word for word in self.words if text.startswith(word)), key=len, default=text[0])
            ids.append(self.words.index(word) if word in self.words else 1000 + ord(word))
            text = text[len(word) :]
        return ids


def test_single_token_choices_need_no_tree() -> None:
    layout = SlotLayout(["a", "b"], Words(*prompt.CHOICES, '{"a": "', '",', ' "b": "', '"}'))
    assert [slot.nodes for slot in layout.slots] == [(), ()]
    assert [slot.skeleton for slot in layout.slots] == [
        (7,),
        (8, 9),
    ]  # the closing quotation mark goes on with the text
    assert layout.tail == (10,)
    assert layout.completion_ids([0, 6]) == [7, 0, 8, 9, 6, 10]


def test_choices_that_begin_alike_share_nodes_and_count_their_end() -> None:
    layout = SlotLayout(["a"], Words("x", "0", "1", "2", "4", "5", "8", "."))
    (slot,) = layout.slots
    assert slot.skeleton[-1] == 0  # the x that all have in common
    assert (1,) in slot.nodes
    assert (1, 7) in slot.nodes
    assert all(longer[: len(path)] != path for path in slot.choices for longer in slot.choices if path != longer)


def test_choices_that_look_the_same_to_the_tokenizer() -> None:
    with pytest.raises(InvalidConfiguration, match="apart"):
        SlotLayout(["a"], lambda text: [7])


def test_models_without_full_attention(tokenizer: Any, observations: list[str]) -> None:
    """Their probabilities are also those of whole strings; gradients are refused."""
    import transformers

    small: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": 8, "num_hidden_layers": 2}
    small |= {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 8}
        network = transformers.MistralForCausalLM(transformers.MistralConfig(**small, **heads, sliding_window=32))
    assert not has_full_attention(network)
    model = CausalModel(network, tokenizer)
    policy = SlotPolicy(model, SlotOptions(sample=True))
    # Only what stands at the end matters to a window; a short text keeps the test short.
    brief = ["\n".join(text.splitlines()[-20:]) for text in observations[1:]]
    decisions = policy.decide(brief, SEEDS[1:])
    names = prompt.names_in(brief[1])
    choices = prompt.read_completion(decisions[1].action, names)
    np.testing.assert_allclose(decisions[1].probabilities, brute_force(model, brief[1], choices), atol=2e-5)
    layout = policy.layout(names)
    with pytest.raises(InvalidConfiguration, match="full attention"):
        choice_scores(network, layout, model.prompts(brief, layout.longest), torch.tensor([choices] * 2))


def test_models_that_do_not_fit(tokenizer: Any, observations: list[str]) -> None:
    import transformers

    small = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, **heads, max_position_embeddings=64))
    with pytest.raises(InvalidConfiguration, match="reads 64"):
        SlotPolicy(CausalModel(llama, tokenizer)).decide(observations[:1], [0])
    with pytest.raises(InvalidConfiguration, match="same hyperparameters"):
        SlotPolicy(CausalModel(llama, tokenizer)).decide([observations[0], "h1 1[00] in 0..1"], [0, 0])


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"gate": 1.5}, {"gate": -0.1}])
def test_wrong_options(options: dict[str, float]) -> None:
    with pytest.raises(InvalidConfiguration):
        SlotOptions(**options)  # type: ignore[arg-type]
