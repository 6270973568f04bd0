"""What a model does in states it was not trained on, measured while it trains: against labels, and against what the
branches of these states really gained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.language.causal import CausalModel
from agents.language.prompt import names_in, read_completion
from agents.language.slot import SlotPolicy
from agents.training.examples import pool_rows
from agents.training.recipes import Recipe
from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import KEEP

BATCH = 16
"""States that are asked about at once."""


@dataclass(frozen=True)
class State:
    """A state with the updates that were tried from it.

    Args:
        observation: its text.
        completions: of the updates; the first keeps everything.
        gains: over the first, as measured, float64 ``[K]``.
        rewards: gains in units of their noise, float64 ``[K]``.
        label: index of the update that the label speaks for.
    """

    observation: str
    completions: tuple[str, ...]
    gains: tuple[float, ...]
    rewards: tuple[float, ...]
    label: int


def read_states(folder: Path, split: str, recipe: Recipe) -> list[State]:
    """The branch sets of one split as states.

    Raises:
        InvalidConfiguration: as :func:`~agents.training.examples.pool_rows`.
    """
    rows = pool_rows(
        folder, split, recipe.label.rule(), recipe.show.rendering(), form="messages", without=recipe.without
    )
    if not rows:
        raise InvalidConfiguration(f"without {sorted(recipe.without)} nothing is left of the split {split!r}")
    return [
        State(
            row["prompt"][-1]["content"],
            tuple(answer[0]["content"] for answer in row["completions"]),
            tuple(row["gains"]),
            tuple(row["rewards"]),
            row["label"],
        )
        for row in rows
    ]


def completion_ids(policy: SlotPolicy, observation: str, completion: str) -> list[int]:
    """A completion as the tokens that the slot policy scores, and the end token if there is one."""
    names = names_in(observation)
    end = policy.model.tokenizer.eos_token_id
    ids = policy.layout(names).completion_ids(read_completion(completion, names))
    return ids if end is None else [*ids, end]


def sequence_logs(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor:
    """Log-probability of each answer after its prompt, by the model's own, whole softmax: float32 ``[rows]``."""
    device = next(model.parameters()).device
    rows = [torch.tensor([*prompt, *answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    # Padded on the left, all answers end in the last column, and only their logits are computed.
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
    valid, width = torch.zeros_like(ids), max(map(len, answers))
    read = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        valid[i, ids.shape[1] - len(row) :] = 1
        read[i, width - len(answer) :] = True
    ids, valid, read = ids.to(device), valid.to(device), read.to(device)
    positions = (valid.cumsum(dim=1) - 1).clamp(min=0)
    logits = (
        model(input_ids=ids, attention_mask=valid, position_ids=positions, use_cache=False, logits_to_keep=width + 1)
        .logits[:, :-1]
        .float()
    )
    logs = logits.log_softmax(dim=-1).gather(-1, ids[:, -width:, None]).squeeze(-1)
    return torch.where(read, logs, 0.0).sum(dim=1)


@torch.no_grad()
def branch_logs(policy: SlotPolicy, states: Sequence[State]) -> list[Tensor]:
    """For each state the log-probabilities of all its completions, float32 ``[K]``."""
    found: list[Tensor] = []
    for start in range(0, len(states), BATCH):
        prompts, answers, sizes = [], [], []
        for state in states[start : start + BATCH]:
            prompt = policy.model.prompt_ids(state.observation)
            prompts += [prompt] * len(state.completions)
            answers += [completion_ids(policy, state.observation, each) for each in state.completions]
            sizes.append(len(state.completions))
        found += torch.split(sequence_logs(policy.model.model, prompts, answers), sizes)
    return found


class HeldOut:
    """Some states of the split ``validation``, evenly spread.

    Args:
        states: all there are.
        count: how many of them.
    """

    def __init__(self, states: Sequence[State], count: int) -> None:
        count = min(count, len(states))
        self.states = [states[i * len(states) // count] for i in range(count)]

    def measure(self, model: Any, tokenizer: Any) -> dict[str, float]:
        """How the model does.

        Returns:
            ``agreement``: share of states where the slot policy's greedy answer is the label's completion;
            ``edit_agreement``: the same among states whose label changes something (absent if there is none);
            ``keep_rate``: share of greedy answers that keep everything; ``edit_rate``: share of slots that they change;
            ``slot_entropy``: of a slot, mean in nats; ``gain``: mean measured gain of the recorded update that the
            model finds likeliest among those that were tried, ``expected_gain``: mean under its probabilities,
            renormalised over them.
        """
        training = model.training
        policy = SlotPolicy(CausalModel(model, tokenizer))
        try:
            agreed, kept, edits, entropies, edited = [], [], [], [], []
            for batch in self._batches():
                decisions = policy.decide([state.observation for state in batch], [0] * len(batch))
                for state, decision in zip(batch, decisions, strict=True):
                    choices = read_completion(decision.action, names_in(state.observation))
                    agreed.append(decision.action == state.completions[state.label])
                    edited.append(state.label != 0)
                    changed = np.array(choices) != KEEP
                    kept.append(not changed.any())
                    edits.append(changed.mean())
                    chances = np.array(decision.probabilities)
                    entropies.append(-(chances * np.log(np.maximum(chances, 1e-30))).sum(axis=1).mean())
            gains, expected = [], []
            for state, logs in zip(self.states, branch_logs(policy, self.states), strict=True):
                gains.append(state.gains[int(logs.argmax())])
                expected.append(float(logs.double().softmax(dim=0).cpu() @ torch.tensor(state.gains).double()))
        finally:
            model.train(training)
        found = {
            "agreement": agreed,
            "keep_rate": kept,
            "edit_rate": edits,
            "slot_entropy": entropies,
            "gain": gains,
            "expected_gain": expected,
        }
        measured = {name: float(np.mean(values)) for name, values in found.items()}
        if any(edited):
            measured["edit_agreement"] = float(np.mean(np.array(agreed)[np.array(edited)]))
        return measured

    def references(self) -> Mapping[str, float]:
        """The same numbers for the labels themselves, and for the best update in hindsight (an overestimate)."""
        return {
            "label_keep_rate": float(np.mean([state.label == 0 for state in self.states])),
            "label_gain": float(np.mean([state.gains[state.label] for state in self.states])),
            "hindsight_gain": float(np.mean([max(state.gains) for state in self.states])),
        }

    def _batches(self) -> Iterator[list[State]]:
        """Of one set of hyperparameters each, as the slot policy takes them."""
        groups: dict[tuple[str, ...], list[State]] = {}
        for state in self.states:
            groups.setdefault(names_in(state.observation), []).append(state)
        for group in groups.values():
            for start in range(0, len(group), BATCH):
                yield group[start : start + BATCH]
