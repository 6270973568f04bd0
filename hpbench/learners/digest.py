"""Hashes of members: equal digests mean equal futures."""

from __future__ import annotations

import operator

import xxhash
from torch import Tensor

from hpbench.learners.snapshot import State


class Digester:
    """Hashes the states of one population.

    On the CPU it keeps views of the tensors' memory until one of them is replaced: to take views anew takes longer than
    to hash small members.
    """

    def __init__(self) -> None:
        self._views: tuple[list[Tensor], list[list[memoryview]]] | None = None

    def digests(self, state: State, members: int) -> list[str]:
        """One hash per member over its part of every tensor ``[members, ...]``, by name.

        XXH3 with 128 bits: no secrets depend on it, and it keeps up with memory, which replay buffers need.
        """
        digests = []
        for parts in self._parts(state, members):
            hasher = xxhash.xxh3_128()
            for part in parts:
                hasher.update(part)
            digests.append(hasher.hexdigest())
        return digests

    def _parts(self, state: State, members: int) -> list[list[memoryview]]:
        """Each member's part of each tensor."""
        if self._views is not None:
            seen, parts = self._views
            if len(seen) == len(state) and all(map(operator.is_, seen, state.values())):
                return parts
        tensors = [state[name] for name in sorted(state)]
        arrays = [tensor.contiguous().cpu().numpy() for tensor in tensors]
        parts = [[array[member : member + 1].data for array in arrays] for member in range(members)]
        if all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors):
            self._views = list(state.values()), parts
        return parts
