"""What decisions are measured against: a value model for language policies, and advantages of whole meta-episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.language.causal import Prompts


class ValueModel(nn.Module):
    """Expected rewards still to come: a trunk like the policy's, and a linear head on the prompt's last token.

    Args:
        policy: a causal language model whose trunk is copied.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        base = policy.base_model
        self.trunk = type(base)(base.config)
        self.trunk.load_state_dict(base.state_dict())
        self.head = nn.Linear(base.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, prompts: Prompts) -> Tensor:
        """Float32 ``[members]``."""
        output = self.trunk(
            input_ids=prompts.ids,
            attention_mask=prompts.valid.long(),
            position_ids=prompts.positions,
            use_cache=False,
        )
        values: Tensor = self.head(output.last_hidden_state[:, -1].float()).squeeze(-1)
        return values


def estimate(rewards: NDArray[np.float64], values: NDArray[np.float64], gae_lambda: float) -> NDArray[np.float64]:
    """Generalised advantage estimates of one meta-episode, without discount.

    Args:
        rewards: after each decision, float64 ``[decisions]``; nothing comes after the last one.
        values: expected before each decision, float64 ``[decisions]``.
        gae_lambda: 0: one-step temporal differences; 1: returns minus values.
    """
    errors = rewards + np.append(values[1:], 0.0) - values
    advantages: NDArray[np.float64] = np.zeros_like(errors)
    ahead = 0.0
    for t in range(len(errors) - 1, -1, -1):
        ahead = errors[t] + gae_lambda * ahead
        advantages[t] = ahead
    return advantages
