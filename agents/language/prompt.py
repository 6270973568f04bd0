"""What a language model is shown, and how its answer must look: the one prompt format.

A prompt is a constant system part, then the environment's text observation (``hpbench.control.text``) as it is. The
answer, called *completion*, is the whole JSON object over the hot hyperparameters in the order of the observation, with
one factor for each::

    {"learning_rate": "x0.5", "entropy_coefficient": "x1", ..., "minibatches": "x1"}

``x1`` keeps a value, so the completion that changes nothing has ``x1`` everywhere. Nothing is ever left out: each
hyperparameter is one *slot* with :data:`CHOICES`, and choice ``i`` means the same as ``i`` in the ``discrete`` action.
The environment's ``text`` action accepts completions as they are.

Names are those that the observation shows, so anonymous ones (``h1``, ``h2``, ...) need nothing special.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hpbench.errors import InvalidAction, InvalidConfiguration
from hpbench.hyperparameter import KEEP, MULTIPLIERS

FORMAT = "hyperprompt/1"
"""Version of prompt and completion. The number goes up with any change of a character in either; observations have a
version of their own in their first line."""

CHOICES = tuple(f"x{factor:g}" for factor in MULTIPLIERS)
"""What a slot may hold, in the order of :data:`hpbench.hyperparameter.MULTIPLIERS`; index :data:`KEEP` keeps."""

SYSTEM = f"""\
You control the hyperparameters of a reinforcement learning run while it trains. After each segment of training you \
see its state and choose the changes for the next segment. The aim is a high score at the end and on the way there.
Numbers are written name value[level]: the level, 00 to 99, is the position of the value on a fixed scale. d1 and d3 \
are the changes of the return over one and three segments, vsbest its distance to the best so far. Lines that end in \
low..high are the hyperparameters with their bounds. Update 1 is the latest change and what the score did since.
Answer with one JSON object and nothing else. It has every hyperparameter, in the order shown, with the factor for its \
value: one of {", ".join(f'"{choice}"' for choice in CHOICES)}; "{CHOICES[KEEP]}" keeps it. Factors of discount and \
gae_lambda act on the horizon 1 / (1 - value); on a linear scale a factor of 4 adds a quarter of the range."""
"""The constant part: the job, the notation, and the form of the answer."""

CUE = "answer:"
"""Where the completion begins, for models without a chat template."""

_HYPERPARAMETER = re.compile(r"^(\w+) (\S+)\[\d\d\] in (\S+?)\.\.(\S+)$", re.MULTILINE | re.ASCII)


def messages(observation: str) -> list[dict[str, str]]:
    """The prompt for a chat model, as ``role`` and ``content``: one system message, one user message."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": observation}]


def plain(observation: str) -> str:
    """The prompt for a model without a chat template; the completion follows it directly."""
    return f"{SYSTEM}\n\n{observation}\n\n{CUE}\n"


@dataclass(frozen=True)
class Shown:
    """A hyperparameter as the observation shows it: its current value, and its bounds."""

    value: float
    low: float
    high: float


def shown_in(observation: str) -> dict[str, Shown]:
    """The hyperparameters by the names that the observation shows, in order.

    Raises:
        InvalidConfiguration: if it shows none, so is no text observation.
    """
    found = _HYPERPARAMETER.findall(observation)
    if not found:
        raise InvalidConfiguration("This observation shows no hyperparameters: make the environment with its text form")
    return {name: Shown(*map(float, numbers)) for name, *numbers in found}


def names_in(observation: str) -> tuple[str, ...]:
    """The hyperparameters' names as the observation shows them, in order: the keys of the completion.

    Raises:
        InvalidConfiguration: if it shows none, so is no text observation.
    """
    return tuple(shown_in(observation))


def completion(choices: Sequence[int], names: Sequence[str]) -> str:
    """The completion that makes these choices.

    Args:
        choices: an index into :data:`CHOICES` for each name.
        names: of the hot hyperparameters, in order, as the observation shows them.

    Raises:
        InvalidAction: if the numbers of choices and names differ, or an index is out of range.
    """
    if len(choices) != len(names):
        raise InvalidAction(f"expected one choice for each of {len(names)} names, got {len(choices)}")
    if not all(0 <= choice < len(CHOICES) for choice in choices):
        raise InvalidAction(f"choices are indices from 0 to {len(CHOICES) - 1}, got {list(choices)}")
    return "".join(
        opening + CHOICES[choice] + close for (opening, close), choice in zip(pieces(names), choices, strict=True)
    )


def pieces(names: Sequence[str]) -> list[tuple[str, str]]:
    """The skeleton: what stands before and after the choice in each slot.

    The text after a choice closes its string and entry. It belongs to the choice when likelihoods are compared: without
    it, ``x1`` would be the beginning of ``x1.25`` and never less likely.
    """
    last = len(names) - 1
    return [
        (f'{"{" if i == 0 else " "}{json.dumps(name)}: "', '"}' if i == last else '",') for i, name in enumerate(names)
    ]


def read_completion(text: str, names: Sequence[str]) -> tuple[int, ...]:
    """The choices that a completion makes: the inverse of :func:`completion`.

    Raises:
        InvalidAction: if the text is not a completion, character for character.
    """
    choices, rest = [], text
    for opening, close in pieces(names):
        value, found, rest = rest.removeprefix(opening).partition(close)
        if not found or value not in CHOICES:
            raise InvalidAction(f"{value[:32]!r} is not one of {', '.join(CHOICES)}")
        choices.append(CHOICES.index(value))
    if completion(choices, names) != text:
        raise InvalidAction("the text is not the canonical completion over these names")
    return tuple(choices)
