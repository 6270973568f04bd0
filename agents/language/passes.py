"""Passes of a causal language model over prompts and, behind them on a key-value cache, over columns of a layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Passes:
    """A model behind prompts that it has read.

    Args:
        model: a causal language model of transformers with full attention in every layer.
        ids: the prompts, int64 ``[members, tokens]``, padded on the right.
    """

    def __init__(self, model: Any, ids: Tensor) -> None:
        self.model, self.width = model, ids.shape[1]
        # Causal attention never sees padding on the right, so the prompts need no mask.
        self._cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def columns(self, ids: Tensor, positions: Tensor, visible: Tensor, read: Tensor) -> Tensor:
        """Logits ``[members, columns read, vocabulary]`` of the next columns, which go into the cache.

        Args:
            ids, positions: of these columns, int64 ``[members, columns]``.
            visible: what they attend to, bool ``[members, columns, tokens and columns so far]``.
            read: which of the columns to give logits for, int64 ``[columns read]``.
        """
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=additive(visible, self.model.dtype),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=read,
        ).logits
        return logits

    def keep(self, members: Tensor, columns: int) -> None:
        """Forget all but some members, int64 ``[members kept]``, and all but the first columns behind the prompts."""
        self._cache.batch_select_indices(members)
        self._cache.crop(self.width + columns - self._cache.get_seq_length())


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that every attention implementation takes: added to the scores, ``[members, 1, queries, keys]``."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]
