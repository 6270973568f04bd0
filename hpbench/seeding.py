"""Named random streams, one set per member, as a counter-based generator.

A stream is a 64-bit key and a call counter, both plain integers that live in the population's state, so that fork,
copy, snapshot and restore carry the randomness along by indexing. Draw ``i`` of call ``c`` under key ``k`` is a pure
function of ``(k, c, i)``: a member's numbers do not depend on who shares its batch, on the order of the draws, or on
the engine.

The generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The
four counter words are (block low, block high, call low, call high), with ``block = i // 4`` and word ``i % 4`` of the
output.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF
_ROUNDS = 10


class Stream(enum.IntEnum):
    """What a member draws random numbers for. New streams go at the end: the order fixes the keys."""

    INITIALISATION = 0
    ACTION = 1
    ENVIRONMENT = 2
    MINIBATCH = 3
    EVALUATION = 4
    NOISE = 5


def stream_keys(seeds: Sequence[int]) -> NDArray[np.int64]:
    """Keys of all streams of members with the given root seeds: int64 ``[members, streams]``.

    Raises:
        ValueError: if a seed is negative.
    """
    rows = []
    for seed in seeds:
        children = np.random.SeedSequence(int(seed)).spawn(len(Stream))
        rows.append([child.generate_state(1, np.uint64)[0] for child in children])
    return np.array(rows, dtype=np.uint64).view(np.int64).reshape(len(rows), len(Stream))


def derive_seed(*entropy: int) -> int:
    """One 63-bit seed out of several integers, for example ``derive_seed(row_seed, member)``."""
    return int(np.random.SeedSequence([int(e) for e in entropy]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def random_words(keys: Tensor, calls: Tensor, count: int, start: int = 0) -> Tensor:
    """Raw 32-bit words ``start .. start + count`` of one call per member.

    Args:
        keys: int64 ``[members]``.
        calls: int64 ``[members]``, the call counters. The caller advances them.
        count: how many words.
        start: index of the first word; a multiple of 4.

    Returns:
        int64 ``[members, count]`` with values in ``[0, 2**32)``.
    """
    if start % 4:
        raise ValueError(f"start must be a multiple of 4, got {start}")
    blocks = torch.arange(start // 4, (start + count + 3) // 4, device=keys.device)
    words = torch.stack(_philox(keys, calls, blocks.expand(len(keys), -1)), dim=-1)
    return words.reshape(len(keys), 4 * len(blocks))[:, :count]


def random_words_at(keys: Tensor, calls: Tensor, index: Tensor) -> Tensor:
    """The words that :func:`random_words` has at places ``index``, int64 ``[members, count]``, of its rows."""
    lane = index & 3
    c0, c1, c2, c3 = _philox(keys, calls, index >> 2)
    return torch.where(lane < 2, torch.where(lane == 0, c0, c1), torch.where(lane == 2, c2, c3))


def _philox(keys: Tensor, calls: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of each block, each int64 ``[members, count]``."""
    c0, c1 = blocks & _MASK, (blocks >> 32) & _MASK
    c2 = (calls & _MASK)[:, None].expand_as(c0)
    c3 = ((calls >> 32) & _MASK)[:, None].expand_as(c0)
    k0 = (keys & _MASK)[:, None]
    k1 = ((keys >> 32) & _MASK)[:, None]
    for _ in range(_ROUNDS):
        # A product of two 32-bit words fills 64 bits: int64 wraps, and the masked shift still gives its high word.
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def uniform(keys: Tensor, calls: Tensor, count: int, start: int = 0) -> Tensor:
    """Uniform float32 ``[members, count]`` in ``[0, 1)``, multiples of 2**-24. Arguments as in :func:`random_words`."""
    return (random_words(keys, calls, count, start) >> 8).to(torch.float32) * 2.0**-24


def normal_from_uniform(first: Tensor, second: Tensor) -> Tensor:
    """Standard normal numbers from two uniform tensors of one shape (Box and Muller, 1958)."""
    return torch.sqrt(-2.0 * torch.log1p(-first)) * torch.cos((2.0 * torch.pi) * second)
