"""Addresses of language agents, as ``hpbench run --agent`` takes them.

- ``hf:PATH_OR_NAME[+ADAPTER][?option=value&...]``: a causal language model in a folder or on the Hugging Face hub.
  ``decide=slot`` (default) takes the options of :class:`~agents.language.slot.SlotOptions`, ``decide=generate`` those
  of :class:`~agents.language.generate.GenerateOptions`.
- ``chat:URL[?option=value&...]#MODEL``: any endpoint that speaks OpenAI's chat completions, such as
  ``chat:http://localhost:8000/v1#my-model``; options are those of :class:`~agents.language.chat.ChatOptions`.

``hf:hyperprompt-small`` is the model that comes with the package. The agent ``hyperprompt`` is that model without the
history of its updates, ``hf:hyperprompt-small?history=false``: on its tasks it decides as well without.

Both schemes also take ``timing`` and ``name`` of :class:`~agents.language.controller.LanguageAgent`, and the fields of
:class:`~agents.language.view.View`, for controls: ``hf:hyperprompt-small?sample=true&trends=false``.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from agents.language.chat import ChatModel, ChatOptions
from agents.language.controller import LanguageAgent
from agents.language.generate import GenerateOptions
from agents.language.hub import SHIPPED, HubModel
from agents.language.slot import SlotOptions
from agents.language.view import View
from hpbench.errors import InvalidConfiguration, UnknownName

WAYS: dict[str, type[SlotOptions] | type[GenerateOptions]] = {"slot": SlotOptions, "generate": GenerateOptions}
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def hub_agent(address: str, **options: Any) -> LanguageAgent:
    """A causal language model in a folder or on the Hugging Face hub: hf:PATH_OR_NAME[+ADAPTER][?option=value&...].

    Options may also be given by name.

    Raises:
        InvalidConfiguration: if there is no such model, or a value does not fit.
        UnknownName: for an option that does not exist.
        MissingExtra: if transformers is not installed.
    """
    place, given = _split(address, options)
    way = str(given.pop("decide", "slot"))
    if way not in WAYS:
        raise UnknownName("way to decide", way, WAYS)
    path, adapter = _adapter(place)
    common = {"name": str, "timing": str, "device": str, "dtype": str} | _types(View)
    values = _convert(given, common | _types(WAYS[way]))
    agent: dict[str, Any] = {"name": "hf:" + "+".join(Path(part).name for part in (path, adapter) if part)}
    agent |= _of_agent(values)
    model = {key: values.pop(key) for key in ("device", "dtype") if key in values}
    return LanguageAgent(HubModel(path, adapter, WAYS[way](**values), **model), **agent)


def chat_agent(address: str, **options: Any) -> LanguageAgent:
    """A language model behind an endpoint of chat completions: chat:URL[?option=value&...]#MODEL.

    Options may also be given by name.

    Raises:
        InvalidConfiguration: if the address is not complete, a value does not fit, or there is no key.
        UnknownName: for an option that does not exist.
        MissingExtra: if the client is not installed.
    """
    place, _, model = address.partition("#")
    if not model or not place.startswith(("http://", "https://")):
        raise InvalidConfiguration(
            f"{address!r} is no endpoint and model: write chat:http://localhost:8000/v1#my-model"
        )
    url, given = _split(place, options)
    values = _convert(given, {"name": str, "timing": str} | _types(View) | _types(ChatOptions))
    agent: dict[str, Any] = {"name": f"chat:{model}"} | _of_agent(values)
    return LanguageAgent(ChatModel(url, model, ChatOptions(**values)), **agent)


def hyperprompt() -> LanguageAgent:
    """HyperPrompt: the small language model that comes with the package; it takes the choices it finds most likely.

    It is not shown the history of its updates (:class:`~agents.language.view.View`), although it was trained with it.
    On validation variants of its tasks that made no difference (-0.002 [-0.023, 0.020]), and it is 29 % of what
    there is to read; on a family that it had never seen, it did better with it.

    Raises:
        MissingExtra: if transformers is not installed.
    """
    return hub_agent(SHIPPED, name="hyperprompt", history=False)


def _of_agent(values: dict[str, Any]) -> dict[str, Any]:
    """Takes out what is for the agent, not for the model behind it."""
    agent = {key: values.pop(key) for key in ("name", "timing") if key in values}
    shown = {key: values.pop(key) for key in _types(View) if key in values}
    return agent | {"view": View(**shown)}


def _split(address: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What stands before the question mark, and the options behind it together with those given by name."""
    place, _, query = address.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    given: dict[str, Any] = dict(pairs)
    if len(given) != len(pairs) or given.keys() & options.keys():
        raise InvalidConfiguration(f"an option stands twice in {address!r}")
    if not place:
        raise InvalidConfiguration(f"{address!r} names no model")
    return place, given | dict(options)


def _adapter(place: str) -> tuple[str, str]:
    """Path of the model and of the adapter, the part after the last plus; a folder with a plus in its name is one."""
    path, plus, adapter = place.rpartition("+")
    return (path, adapter) if plus and not Path(place).is_dir() else (place, "")


def _types(options: type) -> dict[str, type]:
    hints = typing.get_type_hints(options)
    types: dict[str, type] = {}
    for item in dataclasses.fields(options):
        hint = hints[item.name]
        types[item.name] = next((kind for kind in (bool, int, float, str) if hint in (kind, kind | None)), str)
    return types


def _convert(given: Mapping[str, Any], types: Mapping[str, type]) -> dict[str, Any]:
    """Options as what they are meant to be."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in types:
            raise UnknownName("option", name, types)
        values[name] = _parse(name, value, types[name]) if isinstance(value, str) else value
    return values


def _parse(name: str, text: str, kind: type) -> Any:
    try:
        return _WORDS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise InvalidConfiguration(f"option {name}={text!r} is no {kind.__name__}") from None
