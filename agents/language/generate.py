"""Free text: the model writes what it likes, and the answer is looked for in it.

For models that should think before they answer. With ``grammar`` what it writes
is forced into the form of the completion, token by token, by xgrammar.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agents.language import answer, prompt
from agents.language.causal import CausalModel
from agents.language.decision import Decision
from hpbench.errors import InvalidConfiguration, MissingExtra
from hpbench.seeding import uniform


@dataclass(frozen=True)
class GenerateOptions:
    """How text is written.

    Args:
        sample: draw tokens by their probabilities; otherwise the most likely token is taken.
        temperature: the probabilities that are drawn from are proportional to ``p ** (1 / temperature)``.
        tokens: the most that an answer may take.
        grammar: allow nothing but completions (needs the extra ``grammar``).

    Raises:
        InvalidConfiguration: if an argument is outside its range.
        MissingExtra: if ``grammar`` is wanted and xgrammar is not installed.
    """

    sample: bool = False
    temperature: float = 1.0
    tokens: int = 512
    grammar: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < math.inf:
            raise InvalidConfiguration(f"temperature must be above 0, got {self.temperature}; sample=false is greedy")
        if self.tokens < 1:
            raise InvalidConfiguration(f"tokens must be at least 1, got {self.tokens}")
        if self.grammar:
            load_xgrammar()


class Generator:
    """Decides by reading what the model writes.

    Args:
        model: loaded.
        options: how.
    """

    def __init__(self, model: CausalModel, options: GenerateOptions | None = None) -> None:
        self.model, self.options = model, GenerateOptions() if options is None else options
        self._compiled: dict[tuple[str, ...], Any] = {}
        config = getattr(model.model, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        ends = model.tokenizer.eos_token_id if ends is None else ends
        self._ends = {end for end in (ends if isinstance(ends, list) else [ends]) if end is not None}

    @torch.no_grad()
    def decide(self, observations: Sequence[str], seeds: Sequence[int]) -> list[Decision]:
        """A decision for each observation; see :class:`agents.language.decision.Backend`.

        Raises:
            InvalidConfiguration: if an observation is too long for the model.
        """
        started = time.perf_counter()
        prompts = self.model.prompts(observations, self.options.tokens)
        matchers = self._matchers(observations) if self.options.grammar else []
        draws = uniform(torch.tensor(seeds), torch.zeros(len(seeds), dtype=torch.long), self.options.tokens)
        written: list[list[int]] = [[] for _ in seeds]
        running = [True] * len(seeds)
        cache, ids, mask = None, prompts.ids, prompts.valid.long()
        positions = prompts.positions
        for t in range(self.options.tokens):
            output = self.model.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            logits = output.logits[:, -1].float()
            for matcher, row, alive in zip(matchers, logits, running, strict=False):
                if alive:
                    matcher.mask(row)
            tokens = self._choose(logits, draws[:, t].to(logits.device)).tolist()
            for i, token in enumerate(tokens):
                if running[i] and token not in self._ends:
                    written[i].append(token)
                    running[i] = not matchers or matchers[i].accept(token)
                else:
                    running[i] = False
            if not any(running):
                break
            # Members that are done go on with their own tokens, which nothing reads.
            cache, ids = output.past_key_values, torch.tensor(tokens, device=logits.device)[:, None]
            mask = torch.cat((mask, torch.ones_like(mask[:, :1])), dim=1)
            positions = positions[:, -1:] + 1
        seconds = time.perf_counter() - started
        return [
            read_decision(
                self.model.tokenizer.decode(tokens, skip_special_tokens=True),
                observation,
                prompt_tokens=length,
                completion_tokens=len(tokens),
                seconds=seconds,
            )
            for observation, tokens, length in zip(observations, written, prompts.lengths.tolist(), strict=True)
        ]

    def _choose(self, logits: Tensor, draws: Tensor) -> Tensor:
        """Tokens ``[members]`` for logits ``[members, vocabulary]`` and uniform numbers ``[members]``."""
        if not self.options.sample:
            return logits.argmax(dim=-1)
        shares = (logits.double() / self.options.temperature).softmax(dim=-1).cumsum(dim=-1)
        # Rounding may leave the last share a little below 1. Tokens without probability are never drawn.
        return (shares <= draws.double()[:, None] * shares[:, -1:]).sum(dim=-1).clamp(max=logits.shape[1] - 1)

    def _matchers(self, observations: Sequence[str]) -> list[_Matcher]:
        xgrammar = load_xgrammar()
        matchers = []
        for observation in observations:
            names = prompt.names_in(observation)
            if names not in self._compiled:
                size = self.model.config.vocab_size
                info = xgrammar.TokenizerInfo.from_huggingface(self.model.tokenizer, vocab_size=size)
                self._compiled[names] = xgrammar.GrammarCompiler(info).compile_grammar(completion_grammar(names))
            matchers.append(_Matcher(xgrammar, self._compiled[names], self.model.config.vocab_size))
        return matchers


class _Matcher:
    """Where one member's text stands in the grammar."""

    def __init__(self, xgrammar: Any, compiled: Any, vocabulary: int) -> None:
        self._matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True)
        self._bits = xgrammar.allocate_token_bitmask(1, vocabulary)
        self._apply = xgrammar.apply_token_bitmask_inplace

    def mask(self, logits: Tensor) -> None:
        """Make tokens that the grammar does not allow impossible, in place."""
        self._matcher.fill_next_token_bitmask(self._bits)
        allowed = logits.cpu()[None]
        self._apply(allowed, self._bits)
        logits.copy_(allowed[0])

    def accept(self, token: int) -> bool:
        """Move on by a token; whether more may follow."""
        self._matcher.accept_token(token)
        return not self._matcher.is_terminated()


def completion_grammar(names: Sequence[str]) -> str:
    """The completions over these names, and nothing else, as a grammar in EBNF (the notation of GBNF)."""
    choices = " | ".join(json.dumps(choice) for choice in prompt.CHOICES)
    parts = [f"{json.dumps(opening)} choice {json.dumps(close)}" for opening, close in prompt.pieces(names)]
    return f"root ::= {' '.join(parts)}\nchoice ::= {choices}\n"


def read_decision(text: str, observation: str, **numbers: Any) -> Decision:
    """What a text decides, given the observation it answers.

    Args:
        **numbers: further fields of the decision.
    """
    wishes = answer.read_answer(text, prompt.shown_in(observation))
    action = answer.printable(text) if wishes is None else answer.to_action(wishes)
    return Decision(action=action, raw=text, valid=wishes is not None, **numbers)


def load_xgrammar() -> Any:
    """The module ``xgrammar``.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        import xgrammar
    except ModuleNotFoundError as error:
        raise MissingExtra("xgrammar", "grammar") from error
    return xgrammar
