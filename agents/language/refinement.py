"""On-line refinement: a slot model learns from what its own updates came to, while the run goes on.

Each decision is weighted by its effect against expectation in units of noise. Every few decisions, the clipped
surrogate of PPO (Schulman et al. 2017) is maximised over them, with whole completions as actions. A run gives only tens
of decisions, so the guard matters more than the step: an update stops once the model has moved too far from what it
was before it, by KL divergence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.language import prompt
from agents.language.controller import LanguageAgent
from agents.language.hub import HubModel
from agents.language.slot import SlotPolicy, choice_scores, log_probability
from hpbench.errors import InvalidConfiguration


@dataclass(frozen=True)
class RefinementOptions:
    """How the model learns.

    Args:
        every: decisions between two updates.
        learning_rate: of Adam.
        epochs: most steps per update.
        clip: range of the probability ratio of a completion.
        kl: the update stops once the mean divergence from the model before it, summed over slots, is above this.
        largest: effects are cut at this many units of noise.

    Raises:
        InvalidConfiguration: if an argument is not positive.
    """

    every: int = 4
    learning_rate: float = 1e-4
    epochs: int = 4
    clip: float = 0.2
    kl: float = 0.05
    largest: float = 3.0

    def __post_init__(self) -> None:
        numbers = (self.every, self.learning_rate, self.epochs, self.clip, self.kl, self.largest)
        if not all(0.0 < number < math.inf for number in numbers):
            raise InvalidConfiguration(f"all options of the refinement must be above 0, got {numbers}")


class OnlineRefiner:
    """Collects decisions, and updates the weights of the policy's model in place.

    Args:
        policy: that decides.
        options: how it learns.

    Attributes:
        updates, steps: done so far; an update is at most ``epochs`` steps.
        divergence: mean KL divergence that the last update came to.

    Raises:
        InvalidConfiguration: if the model has no trainable weights, as with an adapter that is loaded for use only.
    """

    def __init__(self, policy: SlotPolicy, options: RefinementOptions | None = None) -> None:
        self.policy, self.options = policy, RefinementOptions() if options is None else options
        weights = [weight for weight in policy.model.model.parameters() if weight.requires_grad]
        if not weights:
            raise InvalidConfiguration("nothing to refine: the model has no trainable weights (merge the adapter)")
        self._weights = weights
        self._optimiser = torch.optim.Adam(weights, lr=self.options.learning_rate)
        self._taken: list[tuple[str, tuple[int, ...], float]] = []
        self.updates, self.steps, self.divergence = 0, 0, 0.0

    def learn(self, observation: str, action: str, surprise: float) -> None:
        """Take a decision in; every few of them, update the model.

        Args:
            observation: the text that was shown.
            action: the completion that was chosen.
            surprise: its effect against expectation in units of noise.

        Raises:
            InvalidAction: if the action is not a completion.
        """
        choices = prompt.read_completion(action, prompt.names_in(observation))
        largest = self.options.largest
        self._taken.append((observation, choices, min(max(surprise, -largest), largest)))
        if len(self._taken) >= self.options.every:
            self._update()
            self._taken = []

    def _update(self) -> None:
        device = self.policy.model.device
        layout = self.policy.layout(prompt.names_in(self._taken[0][0]))
        prompts = self.policy.model.prompts([observation for observation, _, _ in self._taken], layout.longest)
        choices = torch.tensor([row for _, row, _ in self._taken], device=device)
        gains = torch.tensor([gain for _, _, gain in self._taken], device=device)
        with torch.enable_grad():
            before: Tensor | None = None
            for _ in range(self.options.epochs):
                scores = choice_scores(self.policy.model.model, layout, prompts, choices).float()
                before = scores.detach() if before is None else before
                self.divergence = float((before.exp() * (before - scores.detach())).sum(dim=(1, 2)).mean())
                if self.divergence > self.options.kl:
                    break
                ratio = (log_probability(scores, choices) - log_probability(before, choices)).exp()
                clipped = ratio.clamp(1.0 - self.options.clip, 1.0 + self.options.clip)
                loss = -torch.minimum(ratio * gains, clipped * gains).mean()
                self._optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
                self._optimiser.step()
                self.steps += 1
            self._optimiser.zero_grad()
        self.updates += 1


def refiner_of(agent: object, options: RefinementOptions | None = None) -> OnlineRefiner:
    """What refines the model of an agent; loads it.

    Raises:
        InvalidConfiguration: if the agent is no language agent with a local model that decides by slots, or decides
            late: then decisions and effects do not belong together.
    """
    source = agent.source if isinstance(agent, LanguageAgent) else None
    policy = source.loaded() if isinstance(source, HubModel) else None
    if not isinstance(agent, LanguageAgent) or not isinstance(policy, SlotPolicy) or agent.timing != "now":
        raise InvalidConfiguration("only a local model that decides by slots, and at once, can be refined: hf:FOLDER")
    return OnlineRefiner(policy, options)
