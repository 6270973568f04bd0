"""From the meta-agent's action to new hyperparameter values."""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hpbench.control.text import CHARSET, shown_names
from hpbench.errors import InvalidAction
from hpbench.hyperparameter import KEEP, MULTIPLIERS, Hyperparameter, HyperparameterSpace

TEXT_LENGTH = 1024
"""Longest text action. Longer ones are invalid."""

_MULTIPLIER = re.compile(r"x(\d{1,6}(?:\.\d{1,9})?)", re.ASCII)
_JSON_SPACE = " \t\n\r"
_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Update:
    """What an action asks for.

    Args:
        values: the new value of every hyperparameter, in the space's order; canonical.
        clipped: names (the real ones) whose action component or new value was cut by a bound.
        invalid: why a text action was ignored; empty if it was not.
    """

    values: tuple[float, ...]
    clipped: tuple[str, ...] = ()
    invalid: str = ""


class ActionReader(ABC):
    """Reads one kind of action."""

    def __init__(self, hyperparameters: HyperparameterSpace) -> None:
        self._names = tuple(hyperparameters)
        self._items = tuple(hyperparameters.values())
        self._hot = tuple((column, item) for column, item in enumerate(self._items) if item.hot)

    @abstractmethod
    def space(self) -> gym.Space[Any]:
        """A new space object, with its own random state."""

    @abstractmethod
    def read(self, action: Any, values: Sequence[float]) -> Update:
        """Apply ``action`` to the current ``values`` (all hyperparameters, in order).

        Raises:
            InvalidAction: for an array of the wrong shape or type, NaN or infinity; or for something that is not a
                text.
        """


class _ArrayReader(ActionReader):
    """One number per hot hyperparameter."""

    def _numbers(self, action: Any, kind: str, expected: str) -> NDArray[Any]:
        """The action as an array of that kind of numbers; ``expected`` says what it should be, ``{}`` its length."""
        array = action if isinstance(action, np.ndarray) else _as_array(action, expected.format(len(self._hot)))
        if array.dtype.kind not in kind:
            raise InvalidAction(f"expected {expected.format(len(self._hot))}, got dtype {array.dtype}")
        if array.shape != (len(self._hot),):
            raise InvalidAction(f"expected {expected.format(len(self._hot))}, got shape {array.shape}")
        return array


class _BoxReader(_ArrayReader):
    def space(self) -> gym.Space[Any]:
        return spaces.Box(-1.0, 1.0, (len(self._hot),), np.float32)

    def read(self, action: Any, values: Sequence[float]) -> Update:
        array = self._numbers(action, "f", "a float32 array of shape ({},) in [-1, 1]")
        if array.dtype != _FLOAT32:
            # Large numbers are cut, but not to the bounds, which would hide them: 1e300 must not become infinite.
            array = np.where(np.isfinite(array), np.clip(array, -2.0, 2.0), array).astype(np.float32)
        new, clipped = list(values), []
        for (column, item), component in zip(self._hot, array.tolist(), strict=True):
            if not math.isfinite(component):
                raise InvalidAction(f"the action component of {item.name} is {component}; expected a number in [-1, 1]")
            inside = -1.0 if component < -1.0 else 1.0 if component > 1.0 else component
            new[column], cut = self._apply(item, values[column], inside)
            if cut or inside != component:
                clipped.append(item.name)
        return Update(tuple(new), tuple(clipped))

    @staticmethod
    @abstractmethod
    def _apply(item: Hyperparameter, value: float, component: float) -> tuple[float, bool]: ...


class DeltaReader(_BoxReader):
    """``delta``: ``Box(-1, 1)``, float32, one per hot hyperparameter; relative in its own scale, 0 keeps the value
    exactly."""

    @staticmethod
    def _apply(item: Hyperparameter, value: float, component: float) -> tuple[float, bool]:
        return item.shift(value, component)


class AbsoluteReader(_BoxReader):
    """``absolute``: ``Box(-1, 1)``, float32, one per hot hyperparameter: -1 is its low bound, 1 its high one, on its
    scale."""

    @staticmethod
    def _apply(item: Hyperparameter, value: float, component: float) -> tuple[float, bool]:
        return item.from_action(component), False


class DiscreteReader(_ArrayReader):
    """``discrete``: ``MultiDiscrete``, one index into :data:`~hpbench.hyperparameter.MULTIPLIERS` per hot
    hyperparameter."""

    def space(self) -> gym.Space[Any]:
        return spaces.MultiDiscrete([len(MULTIPLIERS)] * len(self._hot))

    def read(self, action: Any, values: Sequence[float]) -> Update:
        last = len(MULTIPLIERS) - 1
        array = self._numbers(action, "iu", f"an integer array of shape ({{}},) in [0, {last}]")
        new, clipped = list(values), []
        for (column, item), choice in zip(self._hot, array.tolist(), strict=True):
            if choice == KEEP:
                continue
            inside = min(max(choice, 0), last)
            new[column], cut = item.multiply(values[column], MULTIPLIERS[inside])
            if cut or inside != choice:
                clipped.append(item.name)
        return Update(tuple(new), tuple(clipped))


class TextReader(ActionReader):
    """``text``: a sparse JSON object from names to a number (the new value) or ``"x0.5"`` (a factor); ``{}`` keeps all.

    Names are the ones that text observations show. White space around JSON tokens is free; everything else is strict,
    and what is not understood is *invalid*: nothing changes. Invalid are texts longer than :data:`TEXT_LENGTH`,
    anything but one JSON object, unknown or repeated names, and values that are neither a finite number nor a factor
    (true, null, lists, objects, NaN, Infinity, other strings). A number outside the bounds is valid: it is clipped and
    reported.
    """

    def __init__(self, hyperparameters: HyperparameterSpace, names: str = "real") -> None:
        super().__init__(hyperparameters)
        self._shown = shown_names(hyperparameters, names)
        self._columns = {self._shown[item.name]: column for column, item in self._hot}

    def space(self) -> gym.Space[Any]:
        return spaces.Text(TEXT_LENGTH, min_length=0, charset=CHARSET)

    def read(self, action: Any, values: Sequence[float]) -> Update:
        if not isinstance(action, str):
            raise InvalidAction(f"expected a text (str) with a JSON object, got {type(action).__name__}")
        try:
            return self._parse(action, values)
        except _Malformed as error:
            return Update(tuple(values), invalid=str(error))

    def _parse(self, action: str, values: Sequence[float]) -> Update:
        if len(action) > TEXT_LENGTH:
            raise _Malformed(f"longer than {TEXT_LENGTH} characters")
        if not action.strip(_JSON_SPACE).startswith("{"):
            raise _Malformed("not a JSON object")
        try:
            pairs = json.loads(action, object_pairs_hook=_Pairs, parse_constant=_no_constant)
        except _Malformed:
            raise
        except (ValueError, RecursionError):
            raise _Malformed("not a JSON object") from None
        new, clipped, seen = list(values), [], set()
        for name, wish in pairs:
            if name in seen:
                raise _Malformed(f"{name} appears twice")
            if name not in self._columns:
                raise _Malformed(f"unknown name {_quote(name)}")
            seen.add(name)
            column = self._columns[name]
            new[column], cut = self._apply(self._items[column], values[column], name, wish)
            if cut:
                clipped.append(column)
        return Update(tuple(new), tuple(self._names[column] for column in sorted(clipped)))

    @staticmethod
    def _apply(item: Hyperparameter, value: float, name: str, wish: Any) -> tuple[float, bool]:
        if isinstance(wish, str):
            match = _MULTIPLIER.fullmatch(wish)
            if match is None or float(match[1]) == 0.0:
                raise _Malformed(f"{name} needs a number or a factor such as x0.5")
            return item.multiply(value, float(match[1]))
        if isinstance(wish, bool) or not isinstance(wish, (int, float)):
            raise _Malformed(f"{name} needs a number or a factor such as x0.5")
        if isinstance(wish, float) and not math.isfinite(wish):
            raise _Malformed(f"{name} is not finite")
        inside = min(max(wish, item.low), item.high)
        return item.canonical(float(inside)), inside != wish


class _Malformed(Exception):
    """A text action that means nothing; the message goes into the feedback line."""


class _Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object as it was written, with repeated names. Not a ``dict``, so a nested one is no number either."""


def _no_constant(name: str) -> float:
    raise _Malformed(f"{name} is not a number")


def _quote(text: str) -> str:
    """An agent's own word, made short and printable."""
    return json.dumps(text if len(text) <= 32 else text[:32] + "...")


def _as_array(action: Any, expected: str) -> NDArray[Any]:
    try:
        return np.asarray(action)
    except (TypeError, ValueError):
        raise InvalidAction(f"expected {expected}, got {type(action).__name__}") from None


def make_reader(action: str, hyperparameters: HyperparameterSpace, names: str = "real") -> ActionReader:
    """The reader of an ``action`` option. ``names`` matters for ``text`` only."""
    if action == "text":
        return TextReader(hyperparameters, names)
    readers: dict[str, type[ActionReader]] = {
        "delta": DeltaReader,
        "absolute": AbsoluteReader,
        "discrete": DiscreteReader,
    }
    return readers[action](hyperparameters)
