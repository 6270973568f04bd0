"""Small Llama-style models and their own tokenizer, made from nothing.

The tokenizer reads what a small model can use and drops the rest. Raw numbers go: each stands before its level, and the
level ``[NN]`` is one token. So do bounds, the transitions in full, the number of a task's variant, line breaks, and the
constant part of the prompt. What is left of a state is some 90 tokens. Names of tasks and hyperparameters are one token
each, and so are the multipliers; in the completion, a hyperparameter takes three tokens: the key with all that
surrounds it, the multiplier, and what closes it. Completions decode to themselves, character for character.

A task that the tokenizer was not made for is the unknown word, and so is a hidden task's name. Training shows that
word, too, in place of some tasks' names, so such tasks are not met unprepared.

It is saved as an ordinary ``PreTrainedTokenizerFast``: loading it takes no code of this package.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from agents.language.causal import load_transformers
from agents.language.prompt import CHOICES, CUE, SYSTEM
from agents.language.rendering import TRENDS
from hpbench import learners, tasks
from hpbench.control.observation import Schema
from hpbench.control.text import shown_names
from hpbench.errors import UnknownName

PAD, BEGIN, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
"""Special tokens: numbers 0 to 3."""

CONTEXT = 4096
"""Tokens that these models read at most."""


@dataclass(frozen=True)
class Size:
    """Width, depth, inner width and attention heads of a model."""

    hidden: int
    layers: int
    inner: int
    heads: int


SIZES: Mapping[str, Size] = {
    "tiny": Size(32, 1, 64, 2),
    "0.3M": Size(96, 3, 256, 4),
    "0.4M": Size(128, 2, 336, 4),
    "0.8M": Size(128, 4, 336, 4),
    "5M": Size(256, 6, 672, 4),
    "10M": Size(320, 8, 832, 5),
}
"""Models by name; ``tiny`` is for tests."""

_NUMBER = r"x?[+-]?(?:[0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?|inf|nan)%?(?=\[[0-9][0-9]\])"
"""A raw number in front of its level."""
_DROPPED = (
    r"(?m)^hpbench-text/\d+\n",
    r"trajectory: state \| action \| reward(?:\n[^\n]*\|[^\n]*)*\n?",
    r"(?m) in \S+\.\.\S+$",
    r"@\S+(?= learner)",
    _NUMBER,
)
_PIECES = (
    r'[{ ]"[A-Za-z0-9_]+": "',  # a key of the completion
    r'x[0-9.]+(?=")',
    r'",',
    r'"\}',
    r"\[[0-9][0-9]\]",
    r"[^\s\"\[\]{}]+",
    r"\S",
)


def make_tokenizer(words: Iterable[str] = (), known: Iterable[str] | None = None) -> Any:
    """The tokenizer, for all learners that are installed.

    Args:
        words: more words that are to be one token each.
        known: base tasks that have a name; None: all that are installed.

    Raises:
        MissingExtra: if transformers is not installed.
    """
    transformers = load_transformers()
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    names = sorted(tasks.task_ids() if known is None else known)
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*_vocabulary(), *names, *words]))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    raw.normalizer = normalizers.Sequence(
        [normalizers.Replace(f"{SYSTEM}\n\n", "")] + [normalizers.Replace(Regex(pattern), "") for pattern in _DROPPED]
    )
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(_PIECES)), "isolated"),
            pre_tokenizers.Split(Regex(r"^\s+$"), "removed"),
        ]
    )
    raw.decoder = decoders.Fuse()
    raw.post_processor = processors.TemplateProcessing(f"{BEGIN} $A", None, [(BEGIN, vocabulary[BEGIN])])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def make_model(size: str, tokenizer: Any, seed: int = 0) -> Any:
    """A Llama with random weights, float32.

    Args:
        size: a name from :data:`SIZES`.
        tokenizer: that it is for.
        seed: of the weights.

    Raises:
        UnknownName: if there is no such size.
        MissingExtra: if transformers is not installed.
    """
    if size not in SIZES:
        raise UnknownName("size", size, SIZES)
    transformers, shape = load_transformers(), SIZES[size]
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.LlamaForCausalLM(config).float()


def _vocabulary() -> list[str]:
    """All words that texts of the installed tasks and learners have."""
    words = [PAD, BEGIN, END, UNKNOWN, *(f"[{level:02d}]" for level in range(100)), *CHOICES, '",', '"}']
    words += ["-", "?", CUE, "task", "learner", "update", "keep", "effect", "feedback:", *"123456789"]
    names: list[str] = []
    for learner in sorted(learners.LEARNERS):
        space = learners.make(learner).hyperparameters
        words.append(learner)
        words += [feature.label or feature.name for feature in Schema(learner, space).features]
        names += [*shown_names(space, "real").values(), *shown_names(space, "anonymous").values()]
    words += [*TRENDS, *names, *(f'{opening}"{name}": "' for name in names for opening in "{ ")]
    return words
