"""The slot policy: a causal language model that fills in the completion, one choice per hyperparameter.

The probability of a choice is the model's probability of its tokens, renormalised over the choices of the slot; that of
a completion is the product over its slots, each given the choices before it. Nothing else can come out, so every
decision is valid. :func:`choice_scores` is the same computation in one pass, with gradients, for training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.language import llama, prompt
from agents.language.causal import CausalModel, Prompts
from agents.language.decision import Decision
from agents.language.layout import SlotLayout, Tree
from agents.language.passes import Passes, additive
from agents.language.whole import fill_whole, has_full_attention
from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import KEEP
from hpbench.seeding import uniform


@dataclass(frozen=True)
class SlotOptions:
    """How the slots' probabilities become choices.

    Args:
        sample: draw choices by their probabilities; otherwise the most likely choice is taken.
        temperature: the probabilities that are drawn from are proportional to ``p ** (1 / temperature)``.
        gate: a slot is kept unless the probability that it is edited, by any factor, is at least this; then the
            decision is between the edits alone. None: every slot is decided by its probabilities as they are.

    Raises:
        InvalidConfiguration: if an argument is outside its range.
    """

    sample: bool = False
    temperature: float = 1.0
    gate: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < math.inf:
            raise InvalidConfiguration(f"temperature must be above 0, got {self.temperature}; sample=false is greedy")
        if self.gate is not None and not 0.0 <= self.gate <= 1.0:
            raise InvalidConfiguration(f"gate is a probability, got {self.gate}")


class SlotPolicy:
    """Decides by the slots' probabilities.

    Args:
        model: loaded.
        options: how.
    """

    def __init__(self, model: CausalModel, options: SlotOptions | None = None) -> None:
        self.model, self.options = model, SlotOptions() if options is None else options
        self._layouts: dict[tuple[str, ...], SlotLayout] = {}

    def layout(self, names: Sequence[str]) -> SlotLayout:
        """The slots of these hyperparameters."""
        key = tuple(names)
        if key not in self._layouts:
            self._layouts[key] = SlotLayout(key, self.model.piece_ids, self.model.device)
        return self._layouts[key]

    @torch.no_grad()
    def decide(self, observations: Sequence[str], seeds: Sequence[int]) -> list[Decision]:
        """A decision for each observation; see :class:`agents.language.decision.Backend`.

        Raises:
            InvalidConfiguration: if the observations are not of one learner, or too long for the model.
        """
        started = time.perf_counter()
        shown = {prompt.names_in(observation) for observation in observations}
        if len(shown) != 1:
            raise InvalidConfiguration("The observations of one batch must show the same hyperparameters")
        layout = self.layout(shown.pop())
        prompts = self.model.prompts(observations, layout.longest)
        draws = self._draws(seeds, len(layout.slots))
        if llama.suits(self.model.model):
            scores, choices = self._fill_in_turn(layout, prompts, draws)
        elif has_full_attention(self.model.model):
            scores, choices = self._fill_by_drafts(layout, prompts, draws)
        else:
            scores, choices = fill_whole(
                self.model.model, layout, prompts, lambda logs, h: self._choose(logs.double(), draws[:, h])
            )
        total = log_probability(scores, choices).tolist()
        probabilities, chosen = scores.double().exp().tolist(), choices.tolist()
        lengths = prompts.lengths.tolist()
        seconds = time.perf_counter() - started
        decisions = []
        for i, row in enumerate(chosen):
            text = prompt.completion(row, layout.names)
            decisions.append(
                Decision(
                    action=text,
                    raw=text,
                    valid=True,
                    probabilities=tuple(tuple(slot) for slot in probabilities[i]),
                    log_probability=total[i],
                    prompt_tokens=lengths[i],
                    completion_tokens=layout.size(row),
                    seconds=seconds,
                )
            )
        return decisions

    def _draws(self, seeds: Sequence[int], slots: int) -> Tensor:
        """Uniform numbers float64 ``[members, slots]``; zeros where nothing is drawn by them."""
        if not self.options.sample:
            return torch.zeros(len(seeds), slots, dtype=torch.float64, device=self.model.device)
        uniforms = uniform(torch.tensor(seeds), torch.zeros(len(seeds), dtype=torch.long), slots)
        return uniforms.double().to(self.model.device)

    def _fill_in_turn(self, layout: SlotLayout, prompts: Prompts, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[members, slots, choices]`` and the choices made ``[members, slots]``, slot after slot."""
        prompts = prompts.shifted()
        lengths = prompts.lengths
        passes = llama.LlamaPasses(self.model.model, prompts.ids, lengths, layout.columns)
        choices = torch.full_like(draws, KEEP, dtype=torch.long)
        scores = torch.zeros(*choices.shape, len(prompt.CHOICES))
        start = 0
        for h, slot in enumerate(layout.slots):
            this, columns, tree = slice(h, h + 1), slice(start, slot.end), layout.tree(choices)
            logits = passes.columns(
                tree.ids[:, columns],
                lengths[:, None] + tree.positions[:, columns],
                tree.visible[:, columns, : slot.end],
                layout.read_columns(this) - start,
            )
            scores[:, this] = layout.scores(logits, this)
            choices[:, this] = self._choose(scores[:, this].double(), draws[:, this])
            start = slot.end  # where the choice made stands, which the next slot's columns begin with
        return scores, choices

    def _fill_by_drafts(self, layout: SlotLayout, prompts: Prompts, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The same in fewer passes.

        Slot after slot, each takes a pass of its own. Here, one pass scores all slots behind a draft, at first the
        completion that keeps everything. A slot is right if the draft is right in all slots before it. So the
        choices are final up to the first that differs from the draft, that one included, and with it the draft is
        corrected. Members whose drafts were right are done; the others are passed again from there on.

        This is speculative decoding (Leviathan et al. 2023, arXiv:2211.17192) with a constant as its draft model.
        Choices follow from scores and draws alone, so it comes to the same choices when they are sampled, too.
        """
        prompts, last = prompts.shifted(), len(layout.slots) - 1
        passes = Passes(self.model.model, prompts.ids)
        choices = torch.full_like(draws, KEEP, dtype=torch.long)
        scores = torch.zeros(*choices.shape, len(prompt.CHOICES), device=choices.device)
        going = torch.arange(len(choices), device=choices.device)
        first, start = 0, 0  # the first slot, and column, that any of the members going on still needs
        while len(going):
            open_slots, columns = slice(first, None), slice(start, layout.slots[last].end)
            drafted, shown, tree = choices[going, first:], prompts.select(going), layout.tree(choices[going])
            logits = passes.columns(
                tree.ids[:, columns],
                shown.lengths[:, None] + tree.positions[:, columns],
                _rows(shown, tree, columns),
                layout.read_columns(open_slots) - start,
            )
            found = layout.scores(logits, open_slots)
            chosen = self._choose(found.double(), draws[going, first:])
            scores[going, first:], choices[going, first:] = found, chosen
            # The last slot's choice is final whether or not it was drafted: nothing comes after it.
            wrong = (chosen != drafted)[:, :-1]
            rows = wrong.any(dim=1).nonzero().squeeze(1)
            going = going[rows]
            if len(going):
                final = first + int(wrong[rows].long().argmax(dim=1).min())
                first, start = final + 1, layout.slots[final].end
                passes.keep(rows, start)
        return scores, choices

    def _choose(self, logs: Tensor, draws: Tensor) -> Tensor:
        """Choices ``[...]`` for log-probabilities ``[..., choices]`` and uniform numbers ``[...]``."""
        edit = 1.0 - logs[..., KEEP].exp()
        if self.options.gate is not None:
            logs = logs.clone()
            logs[..., KEEP] = -torch.inf
        if self.options.sample:
            shares = (logs / self.options.temperature).softmax(dim=-1).cumsum(dim=-1)
            # Rounding may leave the last share a little below 1, and the draw between the two.
            chosen = (shares <= draws[..., None] * shares[..., -1:]).sum(dim=-1).clamp(max=logs.shape[-1] - 1)
        else:
            chosen = logs.argmax(dim=-1)
        return chosen if self.options.gate is None else torch.where(edit >= self.options.gate, chosen, KEEP)


def choice_scores(model: Any, layout: SlotLayout, prompts: Prompts, choices: Tensor) -> Tensor:
    """Log-probability of every choice in every slot, given the choices before it; differentiable.

    Args:
        model: a causal language model with full attention in all its layers (or what wraps one, such as a PEFT model;
            in evaluation or training mode).
        layout: of the completions.
        prompts: of all members.
        choices: that the completions make, int64 ``[members, slots]``.

    Returns:
        float32 ``[members, slots, choices]``; each row is a log-softmax.

    Raises:
        InvalidConfiguration: if the model has layers of another kind.
    """
    if not has_full_attention(model):
        raise InvalidConfiguration("Scoring with gradients needs a model with full attention in every layer")
    tree = layout.tree(choices)
    width = prompts.ids.shape[1]
    causal = torch.ones(width, width, dtype=torch.bool, device=prompts.ids.device).tril()
    own = torch.eye(width, dtype=torch.bool, device=prompts.ids.device)  # padding sees itself: no row is empty
    above = torch.nn.functional.pad((causal & prompts.valid[:, None, :]) | own, (0, layout.columns))
    below = _rows(prompts, tree, slice(0, layout.columns))
    logits = model(
        input_ids=torch.cat((prompts.ids, tree.ids), dim=1),
        attention_mask=additive(torch.cat((above, below), dim=1), next(model.parameters()).dtype),
        position_ids=torch.cat((prompts.positions, prompts.lengths[:, None] + tree.positions), dim=1),
        use_cache=False,
        logits_to_keep=layout.read_columns() + width,
    ).logits
    return layout.scores(logits)


def log_probability(scores: Tensor, choices: Tensor) -> Tensor:
    """Log-probability of whole completions ``[members]`` from scores ``[members, slots, choices]``."""
    return scores.gather(-1, choices[..., None]).squeeze(-1).sum(dim=-1)


def _rows(prompts: Prompts, tree: Tree, columns: slice) -> Tensor:
    """What some of the tree's columns attend to: the prompt and the columns up to their end, bool ``[members, columns,
    tokens + end]``."""
    visible = tree.visible[:, columns, : columns.stop]
    return torch.cat((prompts.valid[:, None, :].expand(-1, visible.shape[1], -1), visible), dim=2)
