"""What to collect: the settings of ``hpbench collect``, read from TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpbench import learners, tasks
from hpbench.agent import make_agent, needs_of
from hpbench.control.options import CHOICES, EnvOptions
from hpbench.control.tracks import task_pool
from hpbench.errors import InvalidConfiguration, UnknownName

AGENT_PREFIX = "agent:"
"""A behaviour of this form is an agent by its name or import path."""

OWN_BEHAVIOURS = ("static", "schedule", "pbt")
"""Behaviours that are no agents of their own."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

_STRICT = ConfigDict(extra="forbid", frozen=True)


class Branching(BaseModel):
    """Branch sets: how many states of each meta-episode, and what is tried from them.

    Args:
        states: per meta-episode; 0: none.
        updates: per state, the first of which keeps everything; at least 2.
        seeds: continuations of every update, the same ones for all updates of a state.
        validation_seeds: the same for states of the split ``validation``, whose labels are to be cleaner.
        horizon: segments.
        evaluation_episodes: after each segment.
        width: how many branches train side by side.
    """

    model_config = _STRICT

    states: Annotated[int, Field(ge=0)] = 2
    updates: Annotated[int, Field(ge=2)] = 12
    seeds: Count = 2
    validation_seeds: Count = 4
    horizon: Count = 3
    evaluation_episodes: Annotated[int, Field(ge=2)] = 10
    width: Count = 256


class Lineages(BaseModel):
    """Populations whose members copy each other."""

    model_config = _STRICT

    size: Annotated[int, Field(ge=2)] = 8


class CollectSettings(BaseModel):
    """Everything that decides what a collection holds; ``collect.toml`` beside this file explains each field.

    Raises:
        pydantic.ValidationError: for unknown fields and values out of range; :func:`read_settings` turns it into one
            line.
    """

    model_config = _STRICT

    format: Literal[1] = 1
    seed: Annotated[int, Field(ge=0)] = 0
    shards: Count = 64
    members: Count = 32
    validation: Annotated[float, Field(ge=0.0, le=0.5)] = 0.125
    tasks: Annotated[list[str], Field(min_length=1)]
    learners: Annotated[list[str], Field(min_length=1)]
    tier: str = "small"
    steps: Count | None = None
    decisions: Count | None = None
    evaluation_episodes: Count | None = None
    device: str = "cpu"
    engine: str = "auto"
    tracks: Annotated[dict[str, Count], Field(min_length=1)]
    behaviours: Annotated[dict[str, Share], Field(min_length=1)]
    lineages: Lineages = Lineages()
    branches: Branching = Branching()

    def options(self, base: str, learner: str, track: str) -> EnvOptions:
        """Of the batch that collects on variants of one task. Members get theirs by name; ``split`` decides shifts."""
        return EnvOptions(
            task=f"{base}@train",
            family=base.partition("/")[0],
            learner=learner,
            track=track,
            tier=self.tier,
            observation="dict",
            action="delta",
            device=self.device,
            engine=self.engine,
            split="train",
            decisions=self.decisions,
            steps=self.steps,
            evaluation_episodes=self.evaluation_episodes,
        )

    def combinations(self) -> list[tuple[str, str]]:
        """Base task and learner of all that is to be collected on, in order; what a learner cannot learn is left out.

        Raises:
            InvalidConfiguration: for a variant, or if nothing is left.
        """
        found = []
        for learner in self.learners:
            for name in self.tasks:
                found += [(base, learner) for base in bases(name, learner)]
        if not found:
            raise InvalidConfiguration(f"none of the learners {self.learners} can learn any of the tasks {self.tasks}")
        return list(dict.fromkeys(found))

    def track_cycle(self) -> list[str]:
        """The tracks, each as often as it takes its turn."""
        return [track for track, times in self.tracks.items() for _ in range(times)]

    def check(self) -> Self:
        """The settings themselves, if all names in them exist and the budgets work out.

        Raises:
            UnknownName: for a learner, task, track or behaviour that does not exist.
            InvalidConfiguration: for what cannot work.
        """
        for learner in self.learners:
            learners.make(learner)
        for track in self.tracks:
            if track not in CHOICES["track"]:
                raise UnknownName("track", track, CHOICES["track"])
        for behaviour in self.behaviours:
            check_behaviour(behaviour)
        self.combinations()
        return self

    def identity(self) -> dict[str, Any]:
        """What must be the same for shards to belong together: all but the number of shards, as JSON values."""
        fields: dict[str, Any] = self.model_dump(mode="json", exclude={"shards"})
        return fields


def check_behaviour(behaviour: str) -> None:
    """Whether a behaviour exists.

    Raises:
        UnknownName, InvalidConfiguration: if it does not.
    """
    if behaviour.startswith(AGENT_PREFIX):
        if needs_of(make_agent(behaviour.removeprefix(AGENT_PREFIX))):
            raise InvalidConfiguration(f"{behaviour!r} looks ahead on copies of the run: it cannot collect")
    elif behaviour not in OWN_BEHAVIOURS:
        raise UnknownName("behaviour", behaviour, (*OWN_BEHAVIOURS, f"{AGENT_PREFIX}NAME"))


def read_settings(path: Path | None = None, changes: Mapping[str, Any] | None = None) -> CollectSettings:
    """Settings from a TOML or JSON file (None: those that come with the package), with some fields changed.

    Raises:
        InvalidConfiguration: if the file cannot be read or a value is out of range; names the field.
        UnknownName: for names that do not exist.
    """
    source = "collect.toml" if path is None else str(path)
    try:
        text = (
            files("agents.training").joinpath("collect.toml").read_text(encoding="utf-8")
            if path is None
            else path.read_text(encoding="utf-8")
        )
        data = json.loads(text) if source.endswith(".json") else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise InvalidConfiguration(f"Cannot read the settings {source!r}: {error}") from error
    return parse_settings(data | dict(changes or {}), source)


def parse_settings(data: Mapping[str, Any], source: str) -> CollectSettings:
    """Settings out of plain values. ``source`` is what errors call them. Raises as :func:`read_settings`."""
    try:
        return CollectSettings.model_validate(dict(data)).check()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            parts: dict[str, type[BaseModel]] = {"branches": Branching, "lineages": Lineages}
            known = parts.get(str(first["loc"][0]), CollectSettings)
            raise UnknownName(f"setting in {source}", where.rpartition(".")[2], known.model_fields) from error
        raise InvalidConfiguration(f"{source}, at {where or 'the top'}: {first['msg']}") from error


def dump_settings(settings: CollectSettings) -> str:
    """The settings as JSON that :func:`load_settings` and :func:`read_settings` read back."""
    return json.dumps(settings.model_dump(mode="json"), indent=1) + "\n"


def load_settings(path: Path) -> CollectSettings:
    """What :func:`dump_settings` wrote. Names in it may be unknown here: an agent of somebody else's, say.

    Raises:
        InvalidConfiguration: if the file cannot be read, or breaks the format.
    """
    try:
        return CollectSettings.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise InvalidConfiguration(f"Cannot read {str(path)!r}: {error}") from error


def bases(name: str, learner: str) -> list[str]:
    """The base tasks that a name stands for, as far as the learner can learn them."""
    if "@" in name:
        raise InvalidConfiguration(f"{name!r} is a variant: name the task, {name.partition('@')[0]!r}, or its family")
    family, slash, _ = name.partition("/")
    bases = sorted({variant.partition("@")[0] for variant in task_pool(family, "train", learner)})
    if not slash:
        return bases
    tasks.make(name)  # says what is wrong with a name that does not exist
    return [base for base in bases if base == name]
