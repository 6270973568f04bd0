"""Slots for models whose attention the tree cannot be laid over: windows, recurrences, mixtures of both.

Every choice of a slot is scored as a whole text of its own, without cache or padding. That is right for any causal
language model, and slow: seven passes over the prompt of each member for each hyperparameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from agents.language.causal import Prompts
from agents.language.layout import SlotLayout


def has_full_attention(model: Any) -> bool:
    """Whether every layer of the model attends to everything before, so that a mask alone says what is seen."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None) is not None
    heads = getattr(config, "num_attention_heads", None) is not None  # purely recurrent models have none
    return kinds == {"full_attention"} and not windowed and heads


@torch.no_grad()
def fill_whole(
    model: Any, layout: SlotLayout, prompts: Prompts, choose: Callable[[Tensor, int], Tensor]
) -> tuple[Tensor, Tensor]:
    """Fill in the completion.

    Args:
        model: any causal language model.
        layout: of the completion.
        prompts: of all members.
        choose: choices ``[members]`` for the scores ``[members, choices]`` of a slot, and its number.

    Returns:
        Scores ``[members, slots, choices]`` and the choices made ``[members, slots]``.
    """
    texts = [ids[valid].tolist() for ids, valid in zip(prompts.ids, prompts.valid, strict=True)]
    scores, choices = [], []
    for h, slot in enumerate(layout.slots):
        texts = [text + list(slot.skeleton) for text in texts]
        sums = [
            torch.stack([_log_probability(model, text, path, prompts.ids.device) for path in slot.choices])
            for text in texts
        ]
        scores.append(torch.stack(sums).log_softmax(dim=-1))
        choices.append(choose(scores[-1], h))
        texts = [text + list(slot.choices[c]) for text, c in zip(texts, choices[-1].tolist(), strict=True)]
    return torch.stack(scores, dim=1), torch.stack(choices, dim=1)


def _log_probability(model: Any, text: list[int], path: tuple[int, ...], device: torch.device) -> Tensor:
    """Log-probability of the tokens ``path`` after a text, float32 ``[]``. One text at a time: recurrent models may
    take padding for text."""
    ids = torch.tensor([[*text, *path]], device=device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, -len(path) - 1 : -1]
    tokens = torch.tensor(path, device=device)
    return logits.float().log_softmax(dim=-1).gather(-1, tokens[:, None]).sum()
