"""What a back end hands back: one decision, and everything that is worth knowing about how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Decision:
    """One answer of a model.

    Args:
        action: a ``text`` action for the environment. What could not be understood stands here as it came (without
            characters that an action cannot hold), so that the environment treats it as any invalid text.
        raw: what the model wrote, character for character.
        valid: whether an update could be read from it.
        probabilities: of each choice in each slot, ``[hot hyperparameters][choices]``, each row given the choices
            before it, before any gate or temperature; empty where they are not known.
        log_probability: natural logarithm of the probability of the whole decision by those numbers; None where they
            are not known.
        prompt_tokens, completion_tokens: read and written, over all attempts that were answered; forced tokens of a
            completion count.
        calls: requests or passes over the prompt, failed attempts included.
        price: in the currency that the prices were given in; 0 without prices.
        seconds: from question to answer. The members of a batch that is answered together have this in common.
        staleness: decisions that went by between the observation and the action that answers it.
    """

    action: str
    raw: str
    valid: bool
    probabilities: tuple[tuple[float, ...], ...] = ()
    log_probability: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 1
    price: float = 0.0
    seconds: float = 0.0
    staleness: int = 0


class Decider(Protocol):
    """A way to get decisions out of a model, without any state of meta-episodes."""

    def decide(self, observations: Sequence[str], seeds: Sequence[int]) -> list[Decision]:
        """A decision for each text observation.

        Args:
            observations: as the environment renders them, all of one learner.
            seeds: one for each of these very decisions; all randomness comes from them.

        Raises:
            ModelUnavailable: if the model cannot be reached or gave no answer.
        """
        ...


class Backend(Decider, Protocol):
    """A decider that an agent can be made of."""

    def identity(self) -> dict[str, Any]:
        """What tells this model and its settings from others, as JSON data; part of the agent's identity in records."""
        ...
