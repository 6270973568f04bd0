"""Benchmarks as tests run them: tiny, with their workers in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
ONLY_HERE = pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are part of the source checkout only")


def run(benchmark: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command a user would type, with workers in this process."""

    class Here:
        """Answers as the process of a worker would."""

        def __init__(self, script: str, subject: dict[str, Any], threads: int = 1) -> None:
            described = dict(subject)
            more = [benchmark.DynamicProtocol(**described.pop("protocol"))] if "protocol" in described else []
            self._answer = benchmark.answers(benchmark.Subject(**described), *more)

        def ask(self, **request: Any) -> Any:
            return json.loads(json.dumps(self._answer(request)))

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(benchmark, "Worker", Here, raising=False)
    monkeypatch.setattr(sys, "argv", ["benchmark", "--quick", *arguments])
    benchmark.main()


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
