"""Small Llamas on a CPU, in C++ (``cpp/llama.cpp``): as transformers runs them, up to rounding, in half the time.

Transformers would spend most of it on many small operations, and on what is never read (queries, outputs and
feed-forward parts of the prompt's last layer).

A member's logits do not depend on who else is asked, on how long their prompts are, or on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from hpbench.learners import native

PANEL = 16
"""Outputs of a layer whose weights lie side by side: ``PANEL`` of ``cpp/llama.cpp``."""
WIDEST = 512
"""Hidden numbers of the largest models that are run here. A member alone is computed on one thread, and from 768 on,
torch is as fast for it on two (measured)."""

_SIZES = (
    "layers", "hidden", "heads", "groups", "head", "inner", "vocabulary",
    "members", "columns", "done", "room", "reads", "threads",
)  # fmt: skip
_NUMBERS = ("epsilon", "scaling")
_POINTERS = (
    "embeddings", "weights", "cosines", "sines", "lengths", "ids", "positions", "visible", "read", "keys", "values",
    "logits",
)  # fmt: skip


class _Arguments(ctypes.Structure):
    """``Arguments`` of ``cpp/llama.cpp``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_double) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    )


@functools.cache
def _library() -> Any:
    """The compiled passes; None if there are none."""
    path = native.library_path(Path(__file__).parent)
    if path is None or native.unavailable():
        return None
    library = ctypes.CDLL(str(path))
    library.hpbench_llama_run.restype = None
    library.hpbench_llama_arguments_size.restype = ctypes.c_int64
    assert library.hpbench_llama_arguments_size() == ctypes.sizeof(_Arguments), "cpp/llama.cpp differs: build again"
    return library


def suits(model: Any) -> bool:
    """Whether a model is a Llama that can be run here, and no larger than where that is worth it."""
    import transformers

    # Not of a subclass, or something that wraps it, or with adapters in it: those do more than is done here.
    if type(model) is not transformers.LlamaForCausalLM or model.dtype != torch.float32 or model.device.type != "cpu":
        return False
    if not all(type(part) is nn.Linear for name, part in model.named_modules() if name.endswith(("_proj", "lm_head"))):
        return False
    config, head = model.config, model.model.layers[0].self_attn.head_dim
    widths = (config.hidden_size, config.intermediate_size, head)
    return (
        config.hidden_size <= WIDEST
        and not any(width % PANEL for width in widths)
        and not (config.attention_bias or config.mlp_bias)
        and config.hidden_act == "silu"
        and model.model.rotary_emb.rope_type == "default"
        and _library() is not None
    )


class Weights:
    """The weights of a model as the engine reads them.

    Args:
        model: that :func:`suits`.
    """

    def __init__(self, model: Any) -> None:
        network, config, attention = model.model, model.config, model.model.layers[0].self_attn
        head = _packed(model.lm_head)
        parts = [part for layer in network.layers for part in _layer(layer)]
        self._row = torch.cat([part.detach().reshape(-1) for part in (*parts, network.norm.weight, head)])
        self._embeddings = network.embed_tokens.weight.detach().clone()
        places = torch.arange(config.max_position_embeddings)[None]
        self._turns = [part[0].contiguous() for part in network.rotary_emb(self._embeddings, places)]
        self.layers, self.groups, self.head = len(network.layers), config.num_key_value_heads, attention.head_dim
        self.words, self.vocabulary = config.vocab_size, head.shape[0] * PANEL
        self._numbers = {
            "layers": self.layers, "hidden": config.hidden_size, "heads": config.num_attention_heads,
            "groups": self.groups, "head": self.head, "inner": config.intermediate_size,
            "vocabulary": self.vocabulary, "epsilon": config.rms_norm_eps, "scaling": attention.scaling,
            "embeddings": self._embeddings.data_ptr(), "weights": self._row.data_ptr(),
            "cosines": self._turns[0].data_ptr(), "sines": self._turns[1].data_ptr(),
        }  # fmt: skip

    def run(self, sizes: dict[str, int], tensors: dict[str, Tensor]) -> None:
        """One pass: ``columns``, ``done`` and so on, and the tensors that are read and written."""
        pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
        assert all(tensor.is_contiguous() for tensor in tensors.values())
        threads = torch.get_num_threads()
        _library().hpbench_llama_run(ctypes.byref(_Arguments(threads=threads, **self._numbers, **sizes, **pointers)))


def _layer(layer: Any) -> list[Tensor]:
    """The weights of a layer in the order of ``Layer`` of ``cpp/llama.cpp``."""
    attention, gated = layer.self_attn, layer.mlp
    return [
        layer.input_layernorm.weight,
        _packed(attention.k_proj, attention.v_proj),
        _packed(attention.q_proj),
        _packed(attention.o_proj),
        layer.post_attention_layernorm.weight,
        _packed(gated.gate_proj, gated.up_proj),
        _packed(gated.down_proj),
    ]


def _packed(*layers: Any) -> Tensor:
    """Weights ``[outputs, inputs]``, one below the other, as ``[outputs / PANEL, inputs, PANEL]``; zeros fill it up."""
    joined = torch.cat([layer.weight.detach() for layer in layers])
    joined = torch.nn.functional.pad(joined, (0, 0, 0, -len(joined) % PANEL))
    return joined.view(-1, PANEL, joined.shape[1]).transpose(1, 2).contiguous()


_PACKED: weakref.WeakKeyDictionary[Any, tuple[int, Weights]] = weakref.WeakKeyDictionary()


def weights_of(model: Any) -> Weights:
    """The weights of a model, packed anew only if they have changed."""
    digest = xxhash.xxh3_64()
    for part in model.parameters():
        digest.update(memoryview(part.detach().contiguous().numpy()))
    state = digest.intdigest()
    kept = _PACKED.get(model)
    if kept is None or kept[0] != state:
        kept = _PACKED[model] = state, Weights(model)
    return kept[1]


class LlamaPasses:
    """A model behind prompts that it has read.

    Args:
        model: that :func:`suits`.
        ids: the prompts, int64 ``[members, tokens]``, padded on the right.
        lengths: of the prompts, int64 ``[members]``.
        room: the most columns that will stand behind them.
    """

    def __init__(self, model: Any, ids: Tensor, lengths: Tensor, room: int) -> None:
        self._weights, self._lengths, self._done = weights_of(model), lengths.contiguous(), 0
        members, width = ids.shape
        self._room = -(-(width + room) // PANEL) * PANEL
        shape = (self._weights.layers, members, self._weights.groups, self._weights.head, self._room)
        # Zeros, not whatever was there: a key that is not attended to still weighs its value, by zero.
        self._keys, self._values = torch.zeros(shape), torch.zeros(shape)
        positions = torch.arange(width).expand(members, -1)
        self._run(ids, positions, torch.empty(0, dtype=torch.long), {})

    def columns(self, ids: Tensor, positions: Tensor, visible: Tensor, read: Tensor) -> Tensor:
        """Logits ``[members, columns read, vocabulary]`` of the next columns, which go into the cache.

        Args:
            ids, positions: of these columns, int64 ``[members, columns]``.
            visible: which columns they attend to, of those so far and these, bool ``[members, columns, columns so
                far]``; they attend to all of the prompt.
            read: which of these columns to give logits for, int64 ``[columns read]``, ascending.
        """
        logits = self._run(ids, positions, read, {"lengths": self._lengths, "visible": visible.contiguous()})
        self._done += ids.shape[1]
        return logits[:, :, : self._weights.words]

    def _run(self, ids: Tensor, positions: Tensor, read: Tensor, behind: dict[str, Tensor]) -> Tensor:
        members, columns = ids.shape
        logits = torch.empty(members, len(read), self._weights.vocabulary)
        self._weights.run(
            {"members": members, "columns": columns, "done": self._done, "room": self._room, "reads": len(read)},
            {
                "ids": ids.contiguous(), "positions": positions.contiguous(), "read": read.contiguous(),
                "keys": self._keys, "values": self._values, "logits": logits, **behind,
            },
        )  # fmt: skip
        return logits
