"""Llamas in C++: against transformers, and alone against among others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from agents.language import llama
from agents.language.causal import CausalModel, Prompts
from agents.language.layout import SlotLayout
from agents.language.llama import LlamaPasses
from agents.language.passes import Passes
from agents.language.slot import SlotOptions, SlotPolicy, choice_scores
from hpbench.learners import native

WORDS, TOKENS, COLUMNS, ROOM = 50, 40, 5, 9
LENGTHS = torch.tensor([40, 23, 1])
SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {"num_hidden_layers": 1},
    "three layers": {"num_hidden_layers": 3},
    "shared keys": {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64},
    "one key for all": {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 48},
    "heads of their own width": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32},
    "head of its own": {"tie_word_embeddings": False},
    "slow turns": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
}


def make(**shape: Any) -> Any:
    """A Llama whose weights, norms included, are random and large."""
    config = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 64,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=WORDS, **config | shape)).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(0.3 * torch.randn_like(weight) + (weight.ndim == 1))
    return model


def draw(*shape: int) -> Tensor:
    return torch.randint(2, WORDS, shape, generator=torch.Generator().manual_seed(sum(shape)))


def ask(passes: Any, native: bool, members: list[int]) -> list[Tensor]:
    """Logits of two passes over columns that each see some of those before."""
    lengths, outputs, done = LENGTHS[members], [], 0
    valid = torch.arange(TOKENS) < LENGTHS[:, None]
    generator = torch.Generator().manual_seed(1)
    for count, read in ((COLUMNS, [0, 3]), (ROOM - COLUMNS, [1, 2, 3])):
        ids = torch.randint(2, WORDS, (3, count), generator=generator)
        visible = torch.rand(3, count, done + count, generator=generator) < 0.5
        visible[:, range(count), range(done, done + count)] = True
        positions = (lengths[:, None] + torch.arange(done, done + count))[: len(members)]
        if not native:
            visible = torch.cat((valid[:, None].expand(-1, count, -1), visible), dim=2)
        outputs.append(passes.columns(ids[members], positions, visible[members], torch.tensor(read)))
        done += count
    return outputs


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    model = make(**SHAPES[request.param])
    if not llama.suits(model):
        pytest.skip("the engine for small Llamas was not built: there is no C++ compiler")
    with torch.no_grad():
        yield model


def test_logits_are_those_of_transformers(model: Any) -> None:
    ids = draw(3, TOKENS)
    expected = ask(Passes(model, ids), False, [0, 1, 2])
    ours = ask(LlamaPasses(model, ids, LENGTHS, ROOM), True, [0, 1, 2])
    for one, other in zip(expected, ours, strict=True):
        assert one.std() > 0.1
        assert other.shape == one.shape
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("member", range(3))
def test_a_member_alone_is_as_among_others(model: Any, member: int) -> None:
    """Not in about the same numbers, but in the same: with prompts cut to its own length, too, and many members."""
    ids = draw(3, TOKENS)
    among = ask(LlamaPasses(model, ids, LENGTHS, ROOM), True, [0, 1, 2])
    own = ids[[member], : LENGTHS[member]]
    alone = ask(LlamaPasses(model, own, LENGTHS[[member]], ROOM), True, [member])
    for one, other in zip(among, alone, strict=True):
        assert torch.equal(one[[member]], other)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads: int) -> None:
    model = make()
    if not llama.suits(model):
        pytest.skip("the engine for small Llamas was not built: there is no C++ compiler")
    layout = SlotLayout(("a", "b"), lambda text: [3 + ord(letter) % 40 for letter in text])
    policy = SlotPolicy(CausalModel(model, None), SlotOptions())
    prompts = Prompts(draw(40, 30), torch.arange(30) >= torch.arange(40)[:, None] % 20)
    draws = torch.zeros(40, 2, dtype=torch.float64)
    before = torch.get_num_threads()
    found = []
    try:
        for number in (1, threads):
            torch.set_num_threads(number)
            found.append(policy._fill_in_turn(layout, prompts, draws))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(*both) for both in zip(*found, strict=True))
    # And they are what one pass of transformers finds for the choices made.
    scores, choices = found[0]
    with torch.no_grad():
        torch.testing.assert_close(scores, choice_scores(model, layout, prompts, choices), rtol=1e-4, atol=1e-4)


def test_weights_that_change_are_packed_anew(model: Any) -> None:
    """However they change: views of ``data`` count no versions."""
    ids = draw(3, TOKENS)
    shown = [ask(LlamaPasses(model, ids, LENGTHS, ROOM), True, [0, 1, 2])[0]]
    assert llama.weights_of(model) is llama.weights_of(model)
    for change in (lambda weight: weight.mul_(1.1), lambda weight: weight.data.mul_(0.8)):
        for weight in model.parameters():
            change(weight)
        shown.append(ask(LlamaPasses(model, ids, LENGTHS, ROOM), True, [0, 1, 2])[0])
        torch.testing.assert_close(shown[-1], ask(Passes(model, ids), False, [0, 1, 2])[0], rtol=1e-4, atol=1e-4)
    assert not any(torch.equal(shown[i], shown[i + 1]) for i in range(2))


def test_what_does_not_suit() -> None:
    class Changed(transformers.LlamaForCausalLM):  # type: ignore[misc]
        pass

    model = make()
    assert (llama._library() is None) == (native.unavailable() is not None)  # built together
    if not llama.suits(model):
        pytest.skip("the engine for small Llamas was not built: there is no C++ compiler")
    assert not llama.suits(Changed(model.config))
    assert not llama.suits(make().bfloat16())
    for shape in (
        {"hidden_size": 40, "num_attention_heads": 1, "num_key_value_heads": 1},
        {"hidden_size": 48, "num_attention_heads": 2},
        {"intermediate_size": 40},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        {"hidden_size": llama.WIDEST + 16, "num_attention_heads": 1, "num_key_value_heads": 1},
    ):
        assert not llama.suits(make(**shape)), shape


# A warning between PEFT and transformers, about a name that both still have.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_an_adapter_inside_a_model_is_not_passed_over() -> None:
    """As transformers loads a folder that holds an adapter: the model's type stays what it was."""
    peft = pytest.importorskip("peft")
    model = make()
    model.add_adapter(peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    assert type(model) is transformers.LlamaForCausalLM
    assert not llama.suits(model)
