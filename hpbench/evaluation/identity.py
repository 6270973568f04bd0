"""Which agent, exactly: name, class, arguments and source code, so that no two agents share records by accident."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import os
import pickle
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import with_config

from hpbench.agent import Agent, BatchAgent, make_agent, needs_of
from hpbench.errors import InvalidConfiguration
from hpbench.evaluation.suite import STRICT

_DEPTH = 8
"""Nesting up to which settings are spelt out; deeper objects go by their class."""


@with_config(STRICT)
@dataclass(frozen=True)
class AgentIdentity:
    """Which agent, exactly.

    Args:
        name: what tables show.
        path: import path of its class, ``package.module:Class``.
        settings: its arguments and public attributes, as JSON.
        source: SHA-256 of its class's source code, so that edited code is not mistaken for what was run; empty if
            unknown.
        needs: what it was given beyond spec and observations, such as ``branch``; empty if nothing.
    """

    name: str
    path: str
    settings: dict[str, Any]
    source: str
    needs: str = ""

    @property
    def privileged(self) -> bool:
        """Whether it knew or could do more than others: its results are a bound, and are not ranked."""
        return self.needs != ""

    @property
    def digest(self) -> str:
        """Tells agents of one name apart: SHA-256 of class path and settings."""
        text = json.dumps([self.path, self.settings], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def key(self) -> str:
        """Folder name of the agent's records."""
        return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', self.name).strip('.-') or 'agent'}-{self.digest[:8]}"


@dataclass(frozen=True)
class Entrant:
    """An agent that takes part in a run.

    Args:
        identity: which one it is.
        agent: a pristine instance; it is copied, never used itself (a batch agent is used as it is).
        origin: the name or import path it was made from; empty if it was handed over as an object.
    """

    identity: AgentIdentity
    agent: Agent | BatchAgent
    origin: str = ""


def make_entrants(agents: Any) -> list[Entrant]:
    """Entrants out of one agent or several: names, import paths, classes or objects.

    Raises:
        UnknownName, InvalidConfiguration: as :func:`hpbench.make_agent`; also if there is no agent, or one stands
            there twice.
    """
    several = isinstance(agents, Iterable) and not isinstance(agents, str | type | Agent | BatchAgent)
    entrants = [_entrant(agent) for agent in (agents if several else [agents])]
    if not entrants:
        raise InvalidConfiguration("There is no agent to run")
    keys = [entrant.identity.key for entrant in entrants]
    for entrant in entrants:
        if keys.count(entrant.identity.key) > 1:
            raise InvalidConfiguration(
                f"Agent {entrant.identity.name!r} ({entrant.identity.path}) stands there twice with the same settings. "
                "Settings are constructor arguments and public attributes; give them different ones, or other names."
            )
    return entrants


def identify(agent: Agent | BatchAgent, name: str = "") -> AgentIdentity:
    """The identity of an agent that has not been used yet.

    Args:
        agent: without a ``name`` of its own, it goes by ``name``, or by its class.
    """
    cls = type(agent)
    shown = getattr(agent, "name", None)
    return AgentIdentity(
        name=shown if isinstance(shown, str) and shown else (name or cls.__name__),
        path=f"{cls.__module__}:{cls.__qualname__}",
        settings=_settings(agent),
        source=_source_digest(cls),
        needs=needs_of(agent),
    )


def labels(identities: Sequence[AgentIdentity]) -> list[str]:
    """Names for tables, in order; agents that share a name get the start of their digest."""
    names = [identity.name for identity in identities]
    return [
        name if names.count(name) == 1 else f"{name} ({identity.digest[:4]})"
        for name, identity in zip(names, identities, strict=True)
    ]


def _entrant(agent: Any) -> Entrant:
    made = make_agent(agent)
    origin = agent if isinstance(agent, str) else ""
    registered = origin if ":" not in origin else ""
    return Entrant(identify(made, registered), made, origin)


def _settings(agent: object) -> dict[str, Any]:
    """Public attributes, and constructor arguments kept under a leading underscore."""
    attributes = _attributes(agent)
    settings = {name: value for name, value in attributes.items() if not name.startswith("_")}
    for parameter in inspect.signature(type(agent)).parameters:
        if f"_{parameter}" in attributes:
            settings[parameter] = attributes[f"_{parameter}"]
    settings.pop("name", None)
    return {name: _describe(settings[name], _DEPTH) for name in sorted(settings)}


def _attributes(value: object) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(getattr(value, "__dict__", {}))


def _describe(value: Any, depth: int) -> Any:
    """``value`` as JSON that is the same in every process: no addresses, no hash order."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.generic):
        return value if isinstance(value, float) and np.isfinite(value) else str(value)
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return {"array": list(value.shape), "sha256": hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}
    if isinstance(value, type) or inspect.isroutine(value):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # Randomness comes from the seed in reset; a generator made before it would be a new identity in every process.
    if depth > 0 and not isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
        if isinstance(value, Mapping):
            return {str(key): _describe(item, depth - 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [_describe(item, depth - 1) for item in value]
        if isinstance(value, set | frozenset):
            return sorted((_describe(item, depth - 1) for item in value), key=json.dumps)
        attributes = _attributes(value)
        if attributes:
            described = {name: _describe(attributes[name], depth - 1) for name in sorted(attributes)}
            return {"class": _path(value)} | described
        return _opaque(value)
    return _path(value)


def _opaque(value: object) -> Any:
    """An object without attributes of its own, such as a deque: told apart by its pickle, where it has one."""
    try:
        return {"class": _path(value), "pickle": hashlib.sha256(pickle.dumps(value, protocol=4)).hexdigest()}
    except (pickle.PicklingError, TypeError, AttributeError):
        return _path(value)


def _path(value: object) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _source_digest(cls: type) -> str:
    """Of the class and its bases, as far as their source can be read (not in an interactive session, for example)."""
    sources = []
    for base in cls.__mro__:
        try:
            sources.append(inspect.getsource(base))
        except (OSError, TypeError):
            continue
    return hashlib.sha256("".join(sources).encode()).hexdigest() if sources else ""
