"""Statistics of batches that may be padded: the same for a member, however much room its batch is given."""

from __future__ import annotations

import torch
from torch import Tensor


def shares(counts: Tensor, size: int) -> Tensor:
    """What each sample of padded batches counts in a mean, float32 ``[rows, size]``.

    Args:
        counts: how many of each row count, int64 ``[rows]``; the others are padding.
        size: of the batches with their padding.
    """
    counted = torch.arange(size, device=counts.device) < counts[:, None]
    return torch.where(counted, 1.0 / counts[:, None].float(), 0.0)


def average(values: Tensor, share: Tensor | None) -> Tensor:
    """Mean over a batch: ``[rows, ..., batch] -> [rows, ...]``.

    Args:
        share: what each sample counts, ``[rows, batch]``, 0 for padding; None: all the same.
    """
    if share is None:
        return values.mean(dim=-1)
    return (values * share.view(len(share), *[1] * (values.dim() - 2), -1)).sum(dim=-1)


def percentile_95(errors: Tensor, counts: Tensor | None = None) -> Tensor:
    """The 95th percentile of each row of numbers that are not negative, without interpolation: ``[rows, batch] ->
    [rows]``.

    Args:
        counts: how many of each row count, int64 ``[rows]``; the others are padding. None: all. Rows that count more
            than there are give any of their numbers.
    """
    batch = errors.shape[1]
    if counts is None:
        return errors.sort(dim=1).values[:, (95 * batch + 99) // 100 - 1]
    padding = torch.arange(batch, device=errors.device) >= counts[:, None]
    ordered = torch.where(padding, -1.0, errors).sort(dim=1).values
    return ordered.gather(1, (batch - counts + (95 * counts + 99) // 100 - 1).clamp(0, batch - 1)[:, None])[:, 0]
