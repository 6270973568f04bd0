"""Passes of a causal language model over prompts and, behind them on a key-value cache, over columns of a layout.

:class:`Passes` works with any model of transformers that has full attention. :class:`LlamaPasses` does the same
arithmetic for its Llamas in less time: on a CPU, small models spend much of theirs on what is never read
(queries, outputs and feed-forward parts of the prompt's last layer) and on many small operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CACHED_TOKENS = 512
"""Tokens of prompts that are read at once on a CPU."""


class Passes:
    """A model behind prompts that it has read.

    Args:
        model: a causal language model with full attention in every layer.
        ids: the prompts, int64 ``[members, tokens]``, padded on the right.
        room: the most columns that will stand behind them.
    """

    def __init__(self, model: Any, ids: Tensor, room: int) -> None:
        self.model, self.width, self.room = model, ids.shape[1], room
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
        config, network = self.model.config, self.model.model
        shape = (len(ids), config.num_key_value_heads, self.width + self.room, network.layers[0].self_attn.head_dim)
        # All members' keys and values of each layer; the first of the tokens are filled in.
        self._keys, self._values = (
            [torch.empty(shape, dtype=self.model.dtype, device=ids.device) for _ in network.layers] for _ in range(2)
        )
        self._filled = 0
        positions, nothing = torch.arange(self.width, device=ids.device)[None], ids.new_empty(0)
        # On a CPU, a few members at a time: what is in between stays in the cache of the processor.
        some = max(1, CACHED_TOKENS // self.width) if ids.device.type == "cpu" else len(ids)
        for start in range(0, len(ids), some):
            self._run(slice(start, start + some), ids[start : start + some], positions, None, nothing)
        self._filled = self.width

    def columns(self, ids: Tensor, positions: Tensor, visible: Tensor, read: Tensor) -> Tensor:
        hidden = self._run(slice(None), ids, positions, additive(visible, self.model.dtype), read)
        self._filled += ids.shape[1]
        logits: Tensor = self.model.lm_head(hidden)
        return logits

    def keep(self, members: Tensor, columns: int) -> None:
        if len(members) < len(self._keys[0]):
            self._keys, self._values = ([part[members] for part in parts] for parts in (self._keys, self._values))
        self._filled = self.width + columns

    def _run(self, members: slice, ids: Tensor, positions: Tensor, mask: Tensor | None, read: Tensor) -> Tensor:
        """What the language model's head is given, ``[members, columns read, hidden]``."""
        network, start, end = self.model.model, self._filled, self._filled + ids.shape[1]
        hidden = network.embed_tokens(ids)
        cosines, sines = (part[:, :, None] for part in network.rotary_emb(hidden, positions))
        half = sines.shape[-1] // 2
        sines = torch.cat((-sines[..., :half], sines[..., half:]), dim=-1)  # so that turning needs no negation

        def turned(heads: Tensor) -> Tensor:
            """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves as pairs."""
            return torch.addcmul(heads * cosines, heads.roll(half, dims=-1), sines)

        for i, layer in enumerate(network.layers):
            attention, norm = layer.self_attn, layer.input_layernorm
            shape = (*hidden.shape[:-1], -1, attention.head_dim)
            inner = _normalised(norm, hidden)
            keys, values = self._keys[i][members, :, :end], self._values[i][members, :, :end]
            keys[:, :, start:] = turned(attention.k_proj(inner).view(shape)).transpose(1, 2)
            values[:, :, start:] = attention.v_proj(inner).view(shape).transpose(1, 2)
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
        return _normalised(network.norm, hidden)


def open_passes(model: Any, ids: Tensor, room: int) -> Passes:
    """The passes that suit a model, with these prompts read; arguments as for :class:`Passes`."""
    import transformers

    # Not of a subclass, or something that wraps it: those may do more than is done here.
    llama = type(model) is transformers.LlamaForCausalLM and model.dtype == torch.float32
    return (LlamaPasses if llama else Passes)(model, ids, room)


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that every attention implementation takes: added to the scores, ``[members, 1, queries, keys]``."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]


def _normalised(norm: Any, hidden: Tensor) -> Tensor:
    """Root mean square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    return F.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)
