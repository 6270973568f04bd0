"""The options of a meta-environment: everything that ``gym.make`` takes, and the budget that follows from it."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from hpbench.errors import InvalidConfiguration, UnknownName

CHOICES: Mapping[str, tuple[str, ...]] = {
    "track": ("default", "random", "shift"),
    "tier": ("small", "standard", "paper"),
    "observation": ("vector", "text", "dict"),
    "action": ("delta", "absolute", "discrete", "text"),
    "reward": ("progress", "auc", "uplift"),
    "names": ("real", "anonymous"),
    "split": ("standard", "train", "validation", "test"),
}
"""Options that take one of a few words."""

EVALUATION_EPISODES: Mapping[str, int] = {"small": 10, "standard": 10, "paper": 20}
"""Evaluation episodes after every segment, by tier."""

_COUNTS = ("decisions", "steps", "evaluation_episodes")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class EnvOptions:
    """What a meta-environment is made of. All fields are JSON values.

    Args:
        task: id of the task, ``family/name`` or ``family/name@split-index``; ``family/name@split``: a variant of it
            drawn from that split by the episode's seed; None: any task of ``split``, drawn likewise.
        family: task family that ``task`` must belong to, or is drawn from.
        learner: name of the inner learner.
        track: how the meta-episode starts: ``default``, ``random`` or ``shift``.
        tier: budget size: ``small``, ``standard`` or ``paper``.
        observation: ``vector``, ``text`` or ``dict`` (both).
        action: ``delta``, ``absolute``, ``discrete`` or ``text``.
        reward: ``progress``, ``auc`` or ``uplift``. ``uplift`` trains a second, unchanged copy and so doubles the cost.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; see :func:`resolve_device`.
        engine: which implementation of the learner runs; ``auto`` takes the fastest one that fits.
        names: ``real``, or ``anonymous`` to hide task and hyperparameter names in text observations and text actions.
        split: what a missing ``task`` is drawn from, and (unless the task is itself a variant) what ``shift`` moves to.
        decisions: decisions per meta-episode; None: as the task's budget of this tier says.
        steps: environment steps per meta-episode; None: as the task's budget of this tier says.
        evaluation_episodes: episodes per evaluation; None: :data:`EVALUATION_EPISODES` of the tier.
        learner_config: overrides of the learner's frozen configuration (number of environments, network sizes), by
            field name.

    Raises:
        UnknownName: for a word that is not one of the choices.
        InvalidConfiguration: for a value of the wrong type or outside its range.
    """

    task: str | None = None
    family: str = "classic"
    learner: str = "ppo"
    track: str = "default"
    tier: str = "small"
    observation: str = "vector"
    action: str = "delta"
    reward: str = "progress"
    device: str = "auto"
    engine: str = "auto"
    names: str = "real"
    split: str = "standard"
    decisions: int | None = None
    steps: int | None = None
    evaluation_episodes: int | None = None
    learner_config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("family", "learner", "device", "engine", *CHOICES):
            if not isinstance(getattr(self, name), str):
                raise InvalidConfiguration(f"{name} must be a string, got {getattr(self, name)!r}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UnknownName(name, getattr(self, name), choices)
        if not _DEVICE.fullmatch(self.device):
            raise UnknownName("device", self.device, ("auto", "cpu", "cuda", "cuda:0"))
        for name in _COUNTS:
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        if self.task is not None and not isinstance(self.task, str):
            raise InvalidConfiguration(f"task must be a task id or None, got {self.task!r}")
        if self.learner_config is not None:
            object.__setattr__(self, "learner_config", _plain(self.learner_config))

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Self:
        """Options from keyword arguments.

        Raises:
            UnknownName: for a keyword that is no option.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in known:
                raise UnknownName("option", name, known)
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values; :meth:`parse` is the inverse."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Plan:
    """The exact step account of a meta-episode.

    Args:
        decisions: decisions, each followed by one segment.
        rollouts: whole rollouts per segment.
        steps: training steps of one member over the meta-episode: ``decisions * rollouts * steps per rollout``.
        evaluation_episodes: episodes per evaluation; one evaluation before the first decision and one after every
            segment.
    """

    decisions: int
    rollouts: int
    steps: int
    evaluation_episodes: int


def make_plan(options: EnvOptions, steps: int, decisions: int, steps_per_rollout: int) -> Plan:
    """The budget as whole rollouts.

    Args:
        options: may override the next two arguments.
        steps, decisions: the task's own budget.
        steps_per_rollout: of the learner.

    Raises:
        InvalidConfiguration: if the budget cannot be met to the step; the message names the nearest numbers that can.
    """
    steps = steps if options.steps is None else options.steps
    decisions = decisions if options.decisions is None else options.decisions
    unit = decisions * steps_per_rollout
    if steps % unit:
        below, above = steps // unit * unit, -(-steps // unit) * unit
        near = f"steps={above}" if below == 0 else f"steps={below} or steps={above}"
        hint = f"nearest with {decisions} decisions: {near}"
        if steps % steps_per_rollout == 0:
            fitting = _nearest_divisors(steps // steps_per_rollout, decisions)
            hint += f"; with {steps} steps: {' or '.join(f'decisions={d}' for d in fitting)}"
        raise InvalidConfiguration(
            f"{steps} steps are not {decisions} decisions of whole rollouts ({steps_per_rollout} steps each); {hint}"
        )
    if options.track == "shift" and decisions < 2:
        raise InvalidConfiguration("track 'shift' changes the task between two decisions; it needs decisions >= 2")
    episodes = options.evaluation_episodes
    if episodes is None:
        episodes = EVALUATION_EPISODES[options.tier]
    return Plan(decisions, steps // unit, steps, episodes)


AUTO_CUDA_MEMBERS = 16
"""From this many members on, ``device="auto"`` prefers a GPU: below, kernel launches cost more than the CPU's
arithmetic."""


def resolve_device(device: str, members: int) -> str:
    """The device a batch runs on.

    ``auto`` is the CPU for fewer than :data:`AUTO_CUDA_MEMBERS` members, so always for a single environment, and CUDA
    above if there is one. Results are bit-identical on one device only: name the device where runs on different
    machines are compared.

    Raises:
        InvalidConfiguration: if a GPU is asked for and PyTorch sees none of that index.
    """
    import torch

    if device == "auto":
        return "cuda" if members >= AUTO_CUDA_MEMBERS and torch.cuda.is_available() else "cpu"
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise InvalidConfiguration(f"device {device!r}: PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return device


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool):
        raise InvalidConfiguration(f"{name} must be a whole number, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidConfiguration(f"{name} must be a whole number, got {value!r}") from None
    if number < 1:
        raise InvalidConfiguration(f"{name} must be at least 1, got {number}")
    return number


def _plain(config: Any) -> dict[str, Any]:
    """The mapping as JSON gives it back, so that options compare equal after a round trip."""
    if not isinstance(config, Mapping):
        raise InvalidConfiguration(f"learner_config must be a mapping, got {config!r}")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidConfiguration(f"learner_config must hold JSON values: {error}") from None
    return plain


def _nearest_divisors(number: int, target: int) -> list[int]:
    """The divisors of ``number`` next to ``target`` on both sides, as far as there are any."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    divisors = sorted({*small, *(number // d for d in small)})
    below, above = [d for d in divisors if d < target], [d for d in divisors if d > target]
    return below[-1:] + above[:1]
