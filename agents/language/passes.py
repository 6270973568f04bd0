"""Passes of a causal language model over prompts and, behind them on a key-value cache, over columns of a layout.

:class:`Passes` works with any model of transformers that has full attention. :class:`LlamaPasses` does the same
arithmetic for its Llamas with about half the time on a CPU: small models spend much of theirs on what is never read
(queries, outputs and feed-forward parts of the prompt's last layer) and on many small operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Passes:
    """A model behind prompts that it has read.

    Args:
        model: a causal language model with full attention in every layer.
        ids: the prompts, int64 ``[members, tokens]``, padded on the right.
    """

    def __init__(self, model: Any, ids: Tensor) -> None:
        self.model, self.width = model, ids.shape[1]
        self._read_prompts(ids)

    def _read_prompts(self, ids: Tensor) -> None:
        # Causal attention never sees padding on the right, so the prompts need no mask.
        self._cache = self.model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

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


class LlamaPasses(Passes):
    """The same for Llamas in float32; see :func:`open_passes`."""

    def _read_prompts(self, ids: Tensor) -> None:
        nothing = torch.empty(0, dtype=torch.long, device=ids.device)
        self._keys_values: list[tuple[Tensor, Tensor]] = []
        self._run(ids, torch.arange(self.width, device=ids.device)[None], None, nothing)

    def columns(self, ids: Tensor, positions: Tensor, visible: Tensor, read: Tensor) -> Tensor:
        logits: Tensor = self.model.lm_head(self._run(ids, positions, additive(visible, self.model.dtype), read))
        return logits

    def keep(self, members: Tensor, columns: int) -> None:
        end = self.width + columns
        self._keys_values = [(keys[members, :, :end], values[members, :, :end]) for keys, values in self._keys_values]

    def _run(self, ids: Tensor, positions: Tensor, mask: Tensor | None, read: Tensor) -> Tensor:
        """What the language model's head is given, ``[members, columns read, hidden]``."""
        network, before = self.model.model, self._keys_values
        hidden = network.embed_tokens(ids)
        cosines, sines = (part[:, :, None] for part in network.rotary_emb(hidden, positions))
        half = sines.shape[-1] // 2
        sines = torch.cat((-sines[..., :half], sines[..., half:]), dim=-1)  # so that turning needs no negation

        def turned(heads: Tensor) -> Tensor:
            """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves as pairs."""
            return torch.addcmul(heads * cosines, heads.roll(half, dims=-1), sines)

        now = []
        for i, layer in enumerate(network.layers):
            attention, norm = layer.self_attn, layer.input_layernorm
            shape = (*hidden.shape[:-1], -1, attention.head_dim)
            inner = _normalised(norm, hidden)
            keys = turned(attention.k_proj(inner).view(shape)).transpose(1, 2)
            values = attention.v_proj(inner).view(shape).transpose(1, 2)
            if before:
                keys, values = (torch.cat(parts, dim=2) for parts in zip(before[i], (keys, values), strict=True))
            now.append((keys, values))
            if i == len(network.layers) - 1:
                # Of the last layer, keys and values are kept; everything else only matters where logits are read.
                hidden, inner, cosines, sines = (part[:, read] for part in (hidden, inner, cosines, sines))
                mask, shape = mask if mask is None else mask[:, :, read], (*hidden.shape[:-1], -1, attention.head_dim)
                if not len(read):
                    break
            queries = turned(attention.q_proj(inner).view(shape)).transpose(1, 2)
            seen = F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                scale=attention.scaling,
                enable_gqa=attention.num_key_value_groups > 1,
            )
            hidden = hidden + attention.o_proj(seen.transpose(1, 2).flatten(2))
            hidden = hidden + layer.mlp(_normalised(layer.post_attention_layernorm, hidden))
        self._keys_values = now
        return _normalised(network.norm, hidden)


def open_passes(model: Any, ids: Tensor) -> Passes:
    """The passes that suit a model, with these prompts read; arguments as for :class:`Passes`."""
    import transformers

    # Not of a subclass, or something that wraps it: those may do more than is done here.
    llama = type(model) is transformers.LlamaForCausalLM and model.dtype == torch.float32
    return (LlamaPasses if llama else Passes)(model, ids)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that every attention implementation takes: added to the scores, ``[members, 1, queries, keys]``."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]


def _normalised(norm: Any, hidden: Tensor) -> Tensor:
    """Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    return F.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)
