"""The slot policy against scoring whole strings one at a time, without cache, padding or tree."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.language import prompt, slot
from agents.language.causal import CausalModel
from agents.language.decision import Decision
from agents.language.layout import SlotLayout
from agents.language.passes import LlamaPasses, Passes, open_passes
from agents.language.slot import SlotOptions, SlotPolicy, choice_scores, log_probability
from agents.language.whole import has_full_attention
from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import KEEP
from hpbench.seeding import uniform

SEEDS = [11, 12, 13]


@pytest.fixture(scope="module", params=["llama", "gpt2", "chat"])
def model(
    request: pytest.FixtureRequest,
    tokenizer: Any,
    observations: list[str],
    make_model: Callable[..., Any],
    make_tokenizer: Callable[..., Any],
) -> CausalModel:
    if request.param == "chat":
        chat = make_tokenizer([prompt.SYSTEM, *observations], chat=True)
        return CausalModel(make_model("llama", len(chat), seed=1), chat)
    return CausalModel(make_model(request.param, len(tokenizer)), tokenizer)


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

    def open_and_watch(network: Any, ids: torch.Tensor, room: int) -> Passes:
        opened = open_passes(network, ids, room)
        columns = opened.columns
        seen.append((len(ids), ids.shape[1]))

        def watched(ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            seen.append((len(ids), ids.shape[1]))
            return columns(ids, *rest)

        opened.columns = watched  # type: ignore[method-assign]
        return opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slot, "open_passes", open_and_watch)
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


@torch.no_grad()
def test_passes_of_a_llama(make_model: Callable[..., Any]) -> None:
    """The same logits as those of transformers, over prompts, columns, and others in their place."""
    model = make_model("llama", 50)
    generator = torch.Generator().manual_seed(0)
    prompts, ids = (torch.randint(2, 50, shape, generator=generator) for shape in ((3, 7), (3, 5)))
    seen = torch.ones(3, 12, dtype=torch.bool)
    seen[0, 4:7] = False  # padding
    visible = seen[:, None] & (torch.rand(3, 5, 12, generator=generator) < 0.7)
    visible[:, :, 0] = True
    positions, read = torch.tensor([[4], [7], [7]]) + torch.arange(5), torch.tensor([0, 3])
    assert type(open_passes(model, prompts, 5)) is LlamaPasses
    logits = []
    for kind in (Passes, LlamaPasses):
        passes = kind(model, prompts, 5)
        first = passes.columns(ids, positions, visible, read)
        passes.keep(torch.tensor([0, 2]), 2)
        second = passes.columns(ids[[0, 2], 2:].flip(1), positions[[0, 2], 2:], visible[[0, 2], 2:], torch.tensor([2]))
        logits.append((first, second))
    for expected, ours in zip(*logits, strict=True):
        assert expected.std() > 0.1
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    assert type(open_passes(model.bfloat16(), prompts, 5)) is Passes
    assert type(open_passes(make_model("gpt2", 50), prompts, 5)) is Passes


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
