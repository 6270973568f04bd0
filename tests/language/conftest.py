"""Tiny language models with random weights, made on the spot, and observations of a real training run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

import hpbench  # noqa: F401 - registers the ids
from agents.language import prompt
from agents.language.causal import CausalModel

transformers = pytest.importorskip("transformers", reason="needs the extra 'language'")

LEARNER = {"num_envs": 2, "num_steps": 16, "hidden": (8, 8)}
MEMBERS = 3

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def _short_run(**options: Any) -> Any:
    """A text environment whose meta-episode takes a moment."""
    return gym.make(
        "HPControl-Classic-v0",
        **{"task": "classic/cartpole", "observation": "text", "action": "text", "decisions": 4, "steps": 128}
        | {"evaluation_episodes": 1, "learner_config": LEARNER, "device": "cpu"}
        | options,
    )


def observe(seed: int, decisions: int, **options: Any) -> str:
    env = _short_run(**options)
    observation, _ = env.reset(seed=seed)
    name = prompt.names_in(observation)[0]
    for _ in range(decisions):
        observation, *_ = env.step(f'{{"{name}": "x2"}}')
    return str(observation)


@pytest.fixture(scope="session")
def observations() -> list[str]:
    """Of three members at different stages, so of different lengths."""
    return [observe(seed=i, decisions=i) for i in range(MEMBERS)]


def _make_tokenizer(texts: list[str], chat: bool = False) -> Any:
    """A byte-level BPE tokenizer that knows these texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _make_model(kind: str, vocabulary: int, seed: int = 0) -> Any:
    """A language model of a few thousand parameters. Weights are large, so that its probabilities are far from even."""
    small: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.3}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "gpt2":
            config = transformers.GPT2Config(**small, n_embd=16, n_layer=2, n_head=2, n_positions=4096)
            return transformers.GPT2LMHeadModel(config).eval()
        config = transformers.LlamaConfig(
            **small,
            hidden_size=64,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
        )
        return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def short_run() -> Callable[..., Any]:
    """Makes text environments whose meta-episodes take a moment."""
    return _short_run


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """Makes a tokenizer for some texts, with or without a chat template."""
    return _make_tokenizer


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """Makes a tiny model: ``llama`` or ``gpt2``, size of the vocabulary, seed."""
    return _make_model


@pytest.fixture(scope="session")
def tokenizer(observations: list[str]) -> Any:
    return _make_tokenizer([prompt.SYSTEM, *observations])


@pytest.fixture(scope="session", params=["llama", "gpt2", "chat"])
def model(
    request: pytest.FixtureRequest,
    tokenizer: Any,
    observations: list[str],
    make_model: Callable[..., Any],
    make_tokenizer: Callable[..., Any],
) -> CausalModel:
    """Models and tokenizers of three kinds; choices take several tokens."""
    if request.param == "chat":
        chat = make_tokenizer([prompt.SYSTEM, *observations], chat=True)
        return CausalModel(make_model("llama", len(chat), seed=1), chat)
    return CausalModel(make_model(request.param, len(tokenizer)), tokenizer)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A folder with a tiny Llama, as ``save_pretrained`` leaves it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    _make_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory, observations: list[str]) -> Path:
    """A folder with a tiny Llama whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("models") / "served"
    tokenizer = _make_tokenizer([prompt.SYSTEM, *observations], chat=True)
    _make_model("llama", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def endpoint(chat_folder: Path) -> Iterator[str]:
    """Address of a local server of chat completions; see ``endpoint.py``."""
    pytest.importorskip("xgrammar", reason="needs the extra 'grammar'")
    script = Path(__file__).with_name("endpoint.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(chat_folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            assert port, "the server did not start"
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()
