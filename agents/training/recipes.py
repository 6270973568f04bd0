"""Settings of ``hpbench train``: one recipe for each stage, read from TOML; ``train_*.toml`` beside this file explain
every field."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agents.language.rendering import Rendering
from agents.training.labels import LabelRule
from agents.training.teacher import Settings
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.evaluation.records import write_atomically

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

RECIPE_FILE = "recipe.json"
"""Holds the recipe of the training run that a folder is."""


class Labelling(BaseModel):
    """How gains become labels: :class:`~agents.training.labels.LabelRule`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    horizon: Count = 3
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.8
    material: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.005
    source: Literal["evaluation", "training", "both"] = "evaluation"

    def rule(self) -> LabelRule:
        """The rule itself."""
        return LabelRule(self.horizon, self.confidence, self.material, self.source)


class Showing(BaseModel):
    """What prompts show: :class:`~agents.language.rendering.Rendering`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anonymous: bool = False
    trends: bool = True
    history: bool = True
    trajectory: bool = True

    def rendering(self) -> Rendering:
        """The rendering itself."""
        return Rendering(self.anonymous, self.trends, self.history, self.trajectory)


class StageRecipe(BaseModel):
    """Of any stage: ``train_STAGE.toml`` explains it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: ClassVar[str]


class Recipe(StageRecipe):
    """What the stages that learn from a collection have in common.

    Args:
        seed: of everything that is random.
        steps: optimiser steps.
        batch: sequences or states per step.
        learning_rate: its peak; linear warm-up over the share ``warmup`` of the steps, then a cosine to 0.
        weight_decay: of AdamW.
        evaluate_every: steps between evaluations on the split ``validation``, and between checkpoints.
        device: ``auto`` takes a GPU if there is one. Weights and moments are float32; a GPU computes in bfloat16.
        without: tasks that are left out, of both splits, such as ``classic/acrobot``: to test on them later.
        label: how gains become labels.
        show: what prompts show.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    steps: Count
    batch: Count
    learning_rate: Positive
    warmup: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    evaluate_every: Count
    device: str = "auto"
    without: list[str] = []
    label: Labelling = Labelling()
    show: Showing = Showing()


class TinyRecipe(Recipe):
    """Of ``hpbench train tiny``.

    Args:
        size: a name from :data:`agents.training.architecture.SIZES`.
        length: tokens per training sequence.
        hidden_tasks: share of the sequences whose task is unknown to the model.
        evaluation_sequences: of the split ``validation``, always the same ones.
        compile: compile the model; pays on a GPU from some thousand steps on.
    """

    stage: ClassVar[str] = "tiny"

    size: str = "5M"
    length: Annotated[int, Field(ge=16)] = 1024
    hidden_tasks: Share = 0.1
    evaluation_sequences: Count = 64
    compile: bool = False


class Lora(BaseModel):
    """Low-rank adapters in place of all weights; ``rank`` 0: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: Annotated[int, Field(ge=0)] = 0
    alpha: Count = 32
    dropout: Share = 0.0
    targets: str | list[str] = "all-linear"


class TunedRecipe(Recipe):
    """Of stages that go on from a model.

    Args:
        accumulate: parts that each step's batch is computed in; more of them take less memory.
        evaluation_states: of the split ``validation``, at most.
        lora: adapters for larger models.
    """

    accumulate: Count = 1
    evaluation_states: Count = 512
    lora: Lora = Lora()


class SftRecipe(TunedRecipe):
    """Of ``hpbench train sft``.

    Args:
        keep_share: largest share of examples that keep everything; null: all there are.
        teacher: settings by task (:mod:`agents.training.teacher`): if there are any, the answer to every recorded state
            is the choices that lead to them, and branch sets are for tests only.
        teacher_tolerance: factor within which the teacher keeps a value.
        hidden_tasks: share of the teacher's examples whose task is not named.
        best: the checkpoint that is kept: of the smallest ``loss``, or the largest ``agreement`` or ``gain``.
    """

    stage: ClassVar[str] = "sft"

    keep_share: Share | None = 0.5
    teacher: Annotated[Settings, Field(default_factory=dict)]
    teacher_tolerance: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 1.0
    hidden_tasks: Share = 0.0
    best: Literal["loss", "agreement", "gain"] = "loss"


class GrpoRecipe(TunedRecipe):
    """Of ``hpbench train grpo``.

    Args:
        kl: weight of the divergence from the model that it starts from.
        clip: rewards, in units of noise, are cut at plus and minus this.
        entropy: weight of a bonus for the mean entropy of a token.
        entropy_floor: training stops when the mean entropy of a slot on held-out states, in nats, falls below.
    """

    stage: ClassVar[str] = "grpo"

    kl: Annotated[float, Field(ge=0.0)] = 0.02
    clip: Positive = 5.0
    entropy: Annotated[float, Field(ge=0.0)] = 0.0
    entropy_floor: Annotated[float, Field(ge=0.0)] = 0.02

    @property
    def best(self) -> Literal["gain"]:
        """The checkpoint that is kept: of the largest gain."""
        return "gain"


class PpoRecipe(TunedRecipe):
    """Of ``hpbench train ppo``.

    Args:
        shards: of the collection whose states are lived through again, to be branched.
        epochs: over the decisions of a step.
        kl: weight of the divergence from the model that it starts from, per token.
        clip: rewards, in units of noise, are cut at plus and minus this.
        penalty: of text that is no completion, in the same units.
    """

    stage: ClassVar[str] = "ppo"

    shards: Count = 8
    epochs: Annotated[int, Field(ge=2)] = 4
    kl: Annotated[float, Field(ge=0.0)] = 0.05
    clip: Positive = 5.0
    penalty: Annotated[float, Field(ge=0.0)] = 5.0

    @property
    def best(self) -> Literal["gain"]:
        """The checkpoint that is kept: of the largest gain."""
        return "gain"


AnyRecipe = TypeVar("AnyRecipe", bound=StageRecipe)


def read_recipe(kind: type[AnyRecipe], path: Path | None = None, changes: Mapping[str, Any] | None = None) -> AnyRecipe:
    """A recipe from a TOML or JSON file (None: the one that comes with the package), with some fields changed.

    Raises:
        InvalidConfiguration: if the file cannot be read or a value is out of range; names the field.
        UnknownName: for a field that does not exist.
    """
    source = f"train_{kind.stage}.toml" if path is None else str(path)
    try:
        text = (
            files("agents.training").joinpath(source).read_text(encoding="utf-8")
            if path is None
            else path.read_text(encoding="utf-8")
        )
        data = json.loads(text) if source.endswith(".json") else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise InvalidConfiguration(f"Cannot read the recipe {source!r}: {error}") from error
    try:
        return kind.model_validate(data | dict(changes or {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            parts: dict[str, type[BaseModel]] = {"label": Labelling, "show": Showing, "lora": Lora}
            known = parts.get(str(first["loc"][0]), kind)
            raise UnknownName(f"setting in {source}", where.rpartition(".")[2], known.model_fields) from error
        raise InvalidConfiguration(f"{source}, at {where or 'the top'}: {first['msg']}") from error


def dump_recipe(recipe: StageRecipe, **origins: str) -> str:
    """The recipe as JSON that :func:`read_recipe` reads back if there are no origins."""
    return json.dumps(recipe.model_dump(mode="json") | origins, indent=1) + "\n"


def settle(recipe: StageRecipe, folder: Path, **origins: str) -> bool:
    """Note the recipe, and what it is applied to, in the folder of a training run.

    Returns:
        Whether the folder holds the beginning of this very run.

    Raises:
        InvalidConfiguration: if it holds another run, or something else.
    """
    path, text = folder / RECIPE_FILE, dump_recipe(recipe, **origins)
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise InvalidConfiguration(
                f"{str(folder)!r} holds a training run with another recipe, collection or model: choose another folder"
            )
        return True
    if folder.is_dir() and any(folder.iterdir()):
        raise InvalidConfiguration(f"{str(folder)!r} is neither empty nor a training run: choose another folder")
    write_atomically(path, text)
    return False


@dataclass(frozen=True)
class Trained:
    """What a stage came to.

    Args:
        folder: of the model that was kept.
        steps: taken in all.
        metrics: of that model, on the split ``validation``.
    """

    folder: Path
    steps: int
    metrics: dict[str, float]
