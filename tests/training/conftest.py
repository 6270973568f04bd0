"""One small collection that all tests read, and what makes others like it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.training.architecture import make_model, make_tokenizer
from agents.training.collect import collect
from agents.training.held_out import State, read_states
from agents.training.recipes import SftRecipe, TinyRecipe, read_recipe
from agents.training.settings import CollectSettings, parse_settings
from agents.training.tiny import save_model, train_tiny
from train_runs import TINY

SETTINGS: dict[str, Any] = {
    "seed": 3,
    "shards": 2,
    "members": 6,
    "validation": 0.2,
    "tasks": ["classic/cartpole", "classic/acrobot"],
    "learners": ["ppo"],
    "steps": 2048,
    "decisions": 4,
    "evaluation_episodes": 2,
    "tracks": {"shift": 1, "random": 1},
    "behaviours": {"schedule": 2, "pbt": 2, "static": 1, "agent:kl-adaptive": 1},
    "lineages": {"size": 3},
    "branches": {
        "states": 1,
        "updates": 4,
        "seeds": 2,
        "validation_seeds": 3,
        "horizon": 2,
        "evaluation_episodes": 2,
        "width": 16,
    },
}

MakeSettings = Callable[..., CollectSettings]


@pytest.fixture(scope="session")
def make_settings() -> MakeSettings:
    """The small settings with changes; those of ``branches`` are merged."""

    def make(**changes: Any) -> CollectSettings:
        changes["branches"] = SETTINGS["branches"] | changes.get("branches", {})
        return parse_settings(SETTINGS | changes, "tests")

    return make


@pytest.fixture(scope="session")
def collection(make_settings: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished collection. Read only."""
    folder = tmp_path_factory.mktemp("collected")
    collect(make_settings(), folder)
    return folder


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model. Read only."""
    folder = tmp_path_factory.mktemp("start") / "model"
    tokenizer = make_tokenizer()
    save_model(make_model("tiny", tokenizer), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run of two steps. Read only."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    train_tiny(read_recipe(TinyRecipe, changes=TINY), collection, folder)
    return folder


@pytest.fixture(scope="session")
def states(collection: Path) -> list[State]:
    return read_states(collection, "train", read_recipe(SftRecipe))
