"""Suites: frozen, versioned lists of rows, kept as data.

A suite file is TOML (or JSON with the same keys). Each ``[[rows]]`` table is a product of tasks and tracks::

    format = 1
    name = "my-suite-v0"
    title = "One line for humans"

    [[rows]]
    env = "HPControl-Classic-v0"
    tasks = ["classic/cartpole", "classic/acrobot"]
    tracks = ["default", "random"]
    learner = "ppo"
    tier = "small"
    seeds = "100-119"        # or a list
    decisions = 10           # optional, as are steps and evaluation_episodes: they override the tier

A task may also be a whole split of variants, such as ``classic/cartpole@test``: each seed draws one of them.

What is scored is pinned by the suite's hash. Change a suite and its name needs a new version.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, with_config
from pydantic_core import PydanticCustomError

from hpbench import learners, tasks
from hpbench.control.options import CHOICES
from hpbench.control.registration import ENVIRONMENTS
from hpbench.errors import InvalidConfiguration, UnknownName

FORMAT = 1
OVERRIDES = ("decisions", "steps", "evaluation_episodes")

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
"""How everything that is read from a file is validated."""

_PACKAGE = "hpbench.evaluation.suites"


@with_config(STRICT)
@dataclass(frozen=True)
class Row:
    """One population of a suite: one meta-episode per seed.

    Args:
        env: id of the meta-environment.
        task, learner, track, tier: as in ``gym.make(env, ...)``.
        seeds: one member each.
        decisions, steps, evaluation_episodes: override the tier; None keeps it.
    """

    env: str
    task: str
    learner: str
    track: str
    tier: str
    seeds: tuple[int, ...]
    decisions: int | None = None
    steps: int | None = None
    evaluation_episodes: int | None = None

    @property
    def label(self) -> str:
        """What tables show: task and track."""
        return f"{self.task} {self.track}"

    @property
    def overrides(self) -> dict[str, int]:
        """The overrides that are set."""
        values = {name: getattr(self, name) for name in OVERRIDES}
        return {name: value for name, value in values.items() if value is not None}

    @cached_property
    def key(self) -> str:
        """File name of the row's record, without suffix: readable, and unique by content."""
        readable = ".".join((self.task.replace("/", "-"), self.learner, self.track))
        return f"{readable}-{_digest(asdict(self))[:8]}"


@dataclass(frozen=True)
class Suite:
    """A frozen list of rows. ``name`` ends in its version, ``-v0``."""

    name: str
    title: str
    rows: tuple[Row, ...]

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that decides scores: format, name and rows (not the title)."""
        return _digest({"format": FORMAT, "name": self.name, "rows": [asdict(row) for row in self.rows]})

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task ids in the order of the rows, each once."""
        return tuple(dict.fromkeys(row.task for row in self.rows))

    @property
    def tracks(self) -> tuple[str, ...]:
        """Tracks in the order of the rows, each once."""
        return tuple(dict.fromkeys(row.track for row in self.rows))

    def dumps(self) -> str:
        """The suite as JSON that :func:`load_suite` reads back to the same hash."""
        rows = []
        for row in self.rows:
            group: dict[str, Any] = {"env": row.env, "tasks": [row.task], "tracks": [row.track]}
            rows.append(group | {"learner": row.learner, "tier": row.tier, "seeds": row.seeds} | row.overrides)
        return json.dumps({"format": FORMAT, "name": self.name, "title": self.title, "rows": rows}, indent=1) + "\n"


def suite_names() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(file.name.removesuffix(".toml") for file in files(_PACKAGE).iterdir() if file.name.endswith(".toml"))


def load_suite(name: str | Path) -> Suite:
    """A suite that comes with the package, by name, or one's own, by the path of its TOML or JSON file.

    Raises:
        UnknownName: for a suite, environment, task, learner, track, tier or key that does not exist, with the near
            misses.
        InvalidConfiguration: if the file cannot be read, or breaks the format.
    """
    if isinstance(name, Path) or name.endswith((".toml", ".json")):
        path = Path(name)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidConfiguration(f"Cannot read the suite file {str(path)!r}: {error}") from error
        return parse_suite(text, str(path), "json" if path.suffix == ".json" else "toml")
    if name not in suite_names():
        raise UnknownName("suite", name, suite_names())
    return parse_suite(files(_PACKAGE).joinpath(f"{name}.toml").read_text(encoding="utf-8"), f"{name}.toml")


def parse_suite(text: str, source: str, kind: Literal["toml", "json"] = "toml") -> Suite:
    """A suite out of the text of a suite file. ``source`` is what errors call it. Raises as :func:`load_suite`."""
    try:
        data = tomllib.loads(text) if kind == "toml" else json.loads(text)
        file = _SuiteFile.model_validate(data)
    except ValidationError as error:
        raise _explain(error, source) from error
    except ValueError as error:
        raise InvalidConfiguration(f"{source} is not {kind.upper()}: {error}") from error
    rows = tuple(row for group in file.rows for row in group.expand())
    _check_names(rows)
    _check_disjoint(rows, source)
    return Suite(name=file.name, title=file.title, rows=rows)


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_Positive = Annotated[int, Field(gt=0)]
_Names = Annotated[list[str], Field(min_length=1)]
_SEEDS = re.compile(r"(\d+)-(\d+)")


class _Rows(BaseModel):
    """One ``[[rows]]`` table."""

    model_config = STRICT

    env: str
    tasks: _Names
    tracks: _Names
    learner: str
    tier: str
    seeds: list[Annotated[int, Field(ge=0)]]
    decisions: _Positive | None = None
    steps: _Positive | None = None
    evaluation_episodes: _Positive | None = None

    @field_validator("seeds", mode="before")
    @classmethod
    def _span(cls, value: object) -> object:
        if isinstance(value, str):
            match = _SEEDS.fullmatch(value)
            if match is None:
                raise PydanticCustomError("seeds", 'write seeds as "first-last" or as a list of integers')
            value = list(range(int(match[1]), int(match[2]) + 1))
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if not value or len(set(value)) != len(value):
            raise PydanticCustomError("seeds", "seeds must be distinct, and at least one")
        return value

    def expand(self) -> Iterable[Row]:
        shared = self.model_dump(exclude={"tasks", "tracks", "seeds"})
        for task, track in product(self.tasks, self.tracks):
            yield Row(task=task, track=track, seeds=tuple(self.seeds), **shared)


class _SuiteFile(BaseModel):
    model_config = STRICT

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*-v\d+$")]
    title: str = ""
    rows: Annotated[list[_Rows], Field(min_length=1)]


def _explain(error: ValidationError, source: str) -> InvalidConfiguration | UnknownName:
    """The first problem as one line; a misspelt key with its near misses."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model = _Rows if len(first["loc"]) > 1 else _SuiteFile
        return UnknownName(f"key in {source}, at {where},", first["loc"][-1], model.model_fields)
    return InvalidConfiguration(f"{source}, at {where or 'the top'}: {first['msg']}")


def _check_names(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.env not in ENVIRONMENTS:
            raise UnknownName("environment", row.env, ENVIRONMENTS)
        task = tasks.of_split(row.task)
        if task.family != ENVIRONMENTS[row.env]:
            raise InvalidConfiguration(
                f"Task {row.task!r} is not of the family of {row.env}, {ENVIRONMENTS[row.env]!r}"
            )
        if row.learner not in learners.LEARNERS:
            raise UnknownName("learner", row.learner, learners.LEARNERS)
        if row.track not in CHOICES["track"]:
            raise UnknownName("track", row.track, CHOICES["track"])
        if row.tier not in task.budgets:
            raise UnknownName(f"tier of task {row.task!r}", row.tier, task.budgets)


def _check_disjoint(rows: Sequence[Row], source: str) -> None:
    """A meta-episode that stands in two rows would count twice."""
    seen: dict[tuple[object, ...], set[int]] = {}
    for row in rows:
        same: Mapping[str, Any] = asdict(row) | {"seeds": None}
        seeds = seen.setdefault(tuple(same.values()), set())
        if not seeds.isdisjoint(row.seeds):
            raise InvalidConfiguration(f"{source}: {row.label!r} has seeds that stand in another row already")
        seeds.update(row.seeds)
