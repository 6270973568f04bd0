"""Agents in a module of their own, as users have them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from short_runs import CONTESTANTS


@pytest.fixture
def contestants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of agents, importable here and in worker processes."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "contestants.py").write_text(CONTESTANTS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "contestants", raising=False)
    module = importlib.import_module("contestants")
    yield module
    sys.modules.pop("contestants", None)
