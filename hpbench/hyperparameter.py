"""Hyperparameters: bounds, scale, and the exact maps between value, unit scale and action.

Values are kept to five digits: significant ones on the ``log`` scale, those of ``1 - x`` on ``log1m``, and decimals of
the range on a linear scale. That makes the round trip value -> unit scale -> float32 action -> value exact, and keeps
what is printed equal to what is used.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, ValuesView
from dataclasses import dataclass
from typing import Literal

from hpbench.errors import InvalidConfiguration, UnknownName

Scale = Literal["linear", "log", "log1m"]

DIGITS = 5
DELTA_FACTOR = 4.0
"""The strongest relative change of one decision: action 1 multiplies by 4, action -1 divides by 4."""
DELTA_LINEAR = 0.25
"""On a linear scale, action 1 adds this share of the range."""
MULTIPLIERS = (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)
"""The choices of the ``discrete`` action and the vocabulary of the text action; index 3 keeps the value."""
KEEP = 3
_WHOLE_STEP = math.log(1.25) - 1e-6
"""From this strength on an integer moves. The margin lets a float32 action that stands for 1.25 count as such."""

_SIGNIFICANT = f"%.{DIGITS - 1}e"


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter of a learner.

    Args:
        name: the field's standard name in snake case.
        low, high: inclusive bounds.
        default: the learner's library default.
        scale: ``linear``; ``log`` (multiplicative); ``log1m`` (multiplicative in ``1 - x``, for discount and lambda).
        integer: values are whole numbers.
        hot: may change between updates.
        meaning: one line for humans and language models.

    Raises:
        InvalidConfiguration: if the bounds do not fit the scale, the default lies outside, or one of the three has more
            digits than values keep.
    """

    name: str
    low: float
    high: float
    default: float
    scale: Scale = "linear"
    integer: bool = False
    hot: bool = True
    meaning: str = ""

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise InvalidConfiguration(f"{self.name}: low {self.low} must be below high {self.high}, both finite")
        if self.integer and self.scale == "log1m":
            raise InvalidConfiguration(f"{self.name}: a log(1-x) scale has no whole numbers to offer")
        if self.integer and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise InvalidConfiguration(f"{self.name}: whole numbers need whole bounds, got [{self.low}, {self.high}]")
        if self.scale == "log" and self.low <= 0:
            raise InvalidConfiguration(f"{self.name}: a log scale needs low > 0, got {self.low}")
        if self.scale == "log1m" and self.high >= 1:
            raise InvalidConfiguration(f"{self.name}: a log(1-x) scale needs high < 1, got {self.high}")
        if not self.low <= self.default <= self.high:
            raise InvalidConfiguration(f"{self.name}: default {self.default} outside [{self.low}, {self.high}]")
        for value in (self.low, self.high, self.default):
            if self._quantise(value) != value:
                near = self._quantise(value)
                raise InvalidConfiguration(f"{self.name}: {value} has too many digits, {near} is the nearest value")

    def _forward(self, value: float) -> float:
        """Monotone increasing in ``value``."""
        if self.scale == "log":
            return math.log(value)
        if self.scale == "log1m":
            return -math.log1p(-value)
        return value

    @functools.cached_property
    def _ends(self) -> tuple[float, float]:
        return self._forward(self.low), self._forward(self.high)

    def canonical(self, value: float) -> float:
        """The nearest value that this hyperparameter can take: inside the bounds, five digits, whole if integer.

        Raises:
            InvalidConfiguration: if ``value`` is NaN.
        """
        # Rounding is monotone and leaves the bounds as they are, so what is inside them stays inside.
        return self._quantise(self.low if value < self.low else self.high if value > self.high else value)

    def _quantise(self, value: float) -> float:
        """Five digits, and whole if integer; bounds are not looked at."""
        if value != value:
            raise InvalidConfiguration(f"{self.name}: NaN is not a value")
        if self.integer:
            value = float(math.floor(value + 0.5))
        if self.scale == "log":
            return float(_SIGNIFICANT % value)
        if self.scale == "linear":
            decimals = DIGITS - math.floor(math.log10(self.high - self.low))
            return round(value, decimals) + 0.0  # no -0.0
        # 1 - 0.01 is 0.99 only after the decimal noise is gone.
        return float(f"{1.0 - float(_SIGNIFICANT % (1.0 - value)):.12g}")

    def to_unit(self, value: float) -> float:
        """Position of ``value`` between the bounds on this scale: 0 at ``low``, 1 at ``high``."""
        low, high = self._ends
        return (self._forward(value) - low) / (high - low)

    def from_unit(self, unit: float) -> float:
        """Inverse of :meth:`to_unit`, exact on canonical values. ``unit`` is clipped to ``[0, 1]``."""
        low, high = self._ends
        x = low if unit < 0.0 else high if unit > 1.0 else low + unit * (high - low)
        if self.scale == "log":
            x = math.exp(x)
        elif self.scale == "log1m":
            x = -math.expm1(-x)
        return self.canonical(x)

    def to_action(self, value: float) -> float:
        """``value`` as an ``absolute`` action in ``[-1, 1]``."""
        return 2.0 * self.to_unit(value) - 1.0

    def from_action(self, action: float) -> float:
        """Inverse of :meth:`to_action`, exact on canonical values even after rounding the action to float32."""
        return self.from_unit((action + 1.0) / 2.0)

    def shift(self, value: float, action: float) -> tuple[float, bool]:
        """Apply a ``delta`` action in ``[-1, 1]``; 0 keeps the value exactly.

        Returns:
            The new value, and whether a bound cut the change short.
        """
        if action == 0.0:
            return value, False
        return self.multiply(value, DELTA_FACTOR**action)

    def multiply(self, value: float, factor: float) -> tuple[float, bool]:
        """Scale the value up by ``factor`` in its own sense: on ``log1m``, factor 2 halves ``1 - x``, a longer horizon.

        On a linear scale, a factor of 4 adds ``DELTA_LINEAR`` of the range and others in proportion to their logarithm.
        An integer moves by at least one whole step once the factor is 1.25 or more (0.8 or less).

        Returns:
            The new value, and whether a bound cut the change short.

        Raises:
            InvalidConfiguration: if ``factor`` is not a positive finite number.
        """
        if not 0.0 < factor < math.inf:
            raise InvalidConfiguration(f"{self.name}: cannot multiply by {factor}, need a positive finite factor")
        if factor == 1.0:
            return value, False
        strength = math.log(factor)
        if self.scale == "linear":
            target = value + strength / math.log(DELTA_FACTOR) * DELTA_LINEAR * (self.high - self.low)
        elif self.scale == "log":
            target = value * factor
        else:
            target = 1.0 - (1.0 - value) / factor
        if self.integer and abs(strength) >= _WHOLE_STEP:
            target = max(target, value + 1.0) if strength > 0 else min(target, value - 1.0)
        # Compared after rounding: the noise of 0.1 * 3 must not count as a bound that cuts.
        target = self._quantise(target)
        if self.low <= target <= self.high:
            return target, False
        return self.canonical(target), True


class HyperparameterSpace(Mapping[str, Hyperparameter]):
    """The ordered hyperparameters of a learner. The order fixes the layout of vectors and actions."""

    def __init__(self, *items: Hyperparameter) -> None:
        self._items = {item.name: item for item in items}
        if len(self._items) != len(items):
            raise InvalidConfiguration("hyperparameter names must be unique")
        self.bounds = tuple((item.name, item.low, item.high) for item in items)
        """Name, low and high of each, in order."""

    def __getitem__(self, name: str) -> Hyperparameter:
        try:
            return self._items[name]
        except KeyError:
            raise UnknownName("hyperparameter", name, self._items) from None

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def values(self) -> ValuesView[Hyperparameter]:
        """The hyperparameters in order."""
        return self._items.values()

    @property
    def hot(self) -> tuple[str, ...]:
        """Names that may change between updates, in order."""
        return tuple(name for name, item in self._items.items() if item.hot)

    def index(self, name: str) -> int:
        """Column of ``name`` in a ``[members, hyperparameters]`` array."""
        return list(self._items).index(self[name].name)

    def defaults(self) -> dict[str, float]:
        """Library defaults by name."""
        return {name: item.default for name, item in self._items.items()}

    def check(self, values: Mapping[str, float]) -> dict[str, float]:
        """Canonical values.

        Raises:
            UnknownName: for a name that is not in the space.
            InvalidConfiguration: for a value outside its bounds, or NaN.
        """
        checked = {}
        for name, value in values.items():
            item = self[name]
            if not item.low <= value <= item.high:
                raise InvalidConfiguration(f"{name}={value} is outside [{item.low}, {item.high}]")
            checked[name] = item.canonical(value)
        return checked
