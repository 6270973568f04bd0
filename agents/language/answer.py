"""Reading what a language model wrote freely: tolerant of everything around the answer, and of how it is spelt.

Reasoning and code fences are dropped, and the last JSON object that is complete counts. Entries with unknown names or
values that mean nothing are left out. What remains is spelt as the environment's ``text`` action wants it, inside the
bounds. If nothing remains, there is no answer: the environment should see the text as it came, and treat it as any
invalid text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from agents.language.prompt import Shown
from hpbench.control.action import TEXT_LENGTH
from hpbench.control.text import CHARSET

LONGEST = 32_768
"""Characters that are looked at: the last ones."""

KEEPING = frozenset({"keep", "same", "unchanged", "none", ""})
_SMALLEST, _LARGEST = 1e-9, 999_999.0  # factors that the environment's notation can hold

_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning|analysis)>.*?(</\1>|\Z)", re.DOTALL)
_CLOSING = re.compile(r"\A.*</(?:think|thinking|thought|reasoning|analysis)>", re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*")
_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
_TIMES = "[x*\N{MULTIPLICATION SIGN}]"
_FACTOR = re.compile(rf"{_TIMES}\s*{_NUMBER}|{_NUMBER}\s*{_TIMES}")
_DECODER = json.JSONDecoder()

Wishes = dict[str, str | float]
"""What an answer asks for, by name: a factor such as ``x0.5``, or the new value."""


def read_answer(text: str, shown: Mapping[str, Shown]) -> Wishes | None:
    """What the model asks for; None if no answer can be found.

    Args:
        text: what it wrote.
        shown: the hyperparameters that it may change, as :func:`agents.language.prompt.shown_in` reads them.
    """
    found = last_object(without_reasoning(text))
    if found is None:
        return None
    wishes: Wishes = {}
    for name, value in found.items():
        if name in shown and (wish := _wish(value, shown[name])) is not None:
            wishes[name] = wish
    return wishes if wishes or not found else None


def to_action(wishes: Wishes) -> str:
    """The ``text`` action that asks for this."""
    return json.dumps(wishes)


def printable(text: str) -> str:
    """As much of a text as an action can hold: its beginning, and ``?`` for foreign characters."""
    return "".join(character if character in CHARSET else "?" for character in text[:TEXT_LENGTH])


def directions(wishes: Wishes, shown: Mapping[str, Shown]) -> dict[str, int]:
    """Which hyperparameters are asked to rise (1) or fall (-1); those that stay are left out."""
    changes = {}
    for name, wish in wishes.items():
        before, after = (1.0, float(wish[1:])) if isinstance(wish, str) else (shown[name].value, wish)
        if after != before:
            changes[name] = 1 if after > before else -1
    return changes


def without_reasoning(text: str) -> str:
    """The text without what a reasoning model thinks aloud, and without code fences.

    Some chat templates open the reasoning in the prompt, so a closing tag may stand alone: all before it is reasoning.
    Reasoning that is never closed never came to an answer.
    """
    text = _THOUGHT.sub("", text[-LONGEST:])
    return _FENCE.sub("", _CLOSING.sub("", text))


def last_object(text: str) -> dict[str, Any] | None:
    """The last complete JSON object that is not inside another one."""
    found, at = None, text.find("{")
    while at >= 0:
        try:
            value, end = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            found = value
        at = text.find("{", end)
    return found


def _wish(value: Any, shown: Shown) -> str | float | None:
    """An entry's value in canonical form; None if it means nothing."""
    if isinstance(value, str):
        word = value.strip().lower()
        if word in KEEPING:
            return "x1"
        match = _FACTOR.fullmatch(word)
        if match is not None:
            factor = float(match[1] if match[1] is not None else match[2])
            if factor == 0.0:
                return None
            digits = f"{min(max(factor, _SMALLEST), _LARGEST):.9f}"
            return f"x{digits.rstrip('0').rstrip('.')}"
        try:
            value = float(word)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return float(min(max(value, shown.low), shown.high))
