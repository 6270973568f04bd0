"""Models by path or name: loaded when the first decision is due, and a clear error before that if they cannot be."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agents.language.decision import Decider, Decision
from agents.language.generate import GenerateOptions, Generator
from agents.language.slot import SlotOptions, SlotPolicy
from hpbench.errors import MissingExtra

SHIPPED = "hyperprompt-small"
"""Name of the model that comes with the package, if there is no folder of that name."""


def locate(path: str) -> str:
    """Where a model is: the folder of the package's own model, or the path or name as it is."""
    if path == SHIPPED and not Path(path).exists():
        return str(Path(__file__).parent / "hyperprompt_small")
    return path


class HubModel:
    """A causal language model from a folder or from the Hugging Face hub, as a back end.

    Args:
        path: folder, or name on the hub.
        adapter: folder or name of a PEFT adapter; empty for none.
        options: how it decides: by slots (one choice per hyperparameter, always valid), or in free text.
        device, dtype: as in :meth:`agents.language.causal.CausalModel.load`.

    Raises:
        MissingExtra: if transformers, or what the options need, is not installed.
        InvalidConfiguration: if there is no model at ``path``.
    """

    def __init__(
        self,
        path: str,
        adapter: str = "",
        options: SlotOptions | GenerateOptions | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        for package in ("transformers", *(["peft"] if adapter else [])):
            if importlib.util.find_spec(package) is None:
                raise MissingExtra(package, "language")
        from agents.language.causal import fingerprint

        self._path, self._adapter, self._options = path, adapter, SlotOptions() if options is None else options
        self._device, self._dtype = device, dtype
        self._prints = [fingerprint(locate(part)) for part in (path, adapter) if part]
        self._loaded: Decider | None = None

    def identity(self) -> dict[str, Any]:
        """Path, fingerprint of the files, and settings."""
        return {
            "path": self._path,
            "adapter": self._adapter,
            "fingerprints": self._prints,
            "decide": "slot" if isinstance(self._options, SlotOptions) else "generate",
            "device": self._device,
            "dtype": self._dtype,
            **asdict(self._options),
        }

    def decide(self, observations: Sequence[str], seeds: Sequence[int]) -> list[Decision]:
        """See :class:`agents.language.decision.Backend`."""
        return self.loaded().decide(observations, seeds)

    def loaded(self) -> Decider:
        """What decides; the first call loads the model."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        """Weights do not travel: another process reads them from where they are."""
        return self.__dict__ | {"_loaded": None}

    def _load(self) -> Decider:
        from agents.language.causal import CausalModel

        model = CausalModel.load(locate(self._path), self._adapter, self._device, self._dtype)
        if isinstance(self._options, SlotOptions):
            return SlotPolicy(model, self._options)
        return Generator(model, self._options)
