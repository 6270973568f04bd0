"""Settings of runs that take moments, and what they log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FAST: dict[str, Any] = {"steps": 2, "evaluate_every": 1, "device": "cpu"}
TINY = FAST | {"size": "tiny", "batch": 2, "length": 256, "evaluation_sequences": 2}
TUNED = FAST | {"batch": 2, "evaluation_states": 3}

# Other people's packages warn about each other; what this package does must not warn.
other_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
