"""What the parquet files of a collection hold: three tables, the meaning of every column, reading and writing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpbench.errors import InvalidConfiguration, MissingExtra

FORMAT = 1
"""Of the tables. Goes up with any change of a column."""

SPLITS = ("train", "validation")

LEVEL = 9
"""Of the zstd compression: texts repeat a lot, so it pays."""


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        name: of the column.
        type: ``string``, ``int8`` to ``int64``, ``float32``, ``float64``, ``bool``; ``[]`` after it for each level of
            lists.
        meaning: one line for the dataset card.
    """

    name: str
    type: str
    meaning: str


_SPEC = (
    Column("task", "string", "task variant that the meta-episode starts on"),
    Column("base", "string", "the task that it is a variant of"),
    Column("learner", "string", "inner learner"),
    Column("track", "string", "how it starts: default, random or shift"),
    Column("behaviour", "string", "what steers it"),
)

TABLES: Mapping[str, tuple[Column, ...]] = {
    "episodes": (
        Column("episode", "string", "id: shard and member"),
        Column("shard", "int32", "index of the shard"),
        Column("member", "int32", "index of the member in its population"),
        Column("lineage", "int32", "members of a shard with one number copy each other; -1: alone"),
        *_SPEC,
        Column("seed", "int64", "decides all that is random in it"),
        Column("task_seed", "int64", "decides the variant, and when and to what the task shifts"),
        Column("decisions", "int32", "decisions planned"),
        Column("steps", "int64", "training steps planned"),
        Column("evaluation_episodes", "int32", "episodes per evaluation"),
        Column("shifted_to", "string", "the variant that the task becomes on track shift; else empty"),
        Column("engine", "string", "implementation of the learner"),
        Column("scores", "float64[]", "evaluation score before training and after every decision"),
        Column("values", "float64[]", "hyperparameters that it starts with, in the learner's order"),
        Column("diverged", "bool", "whether the learner diverged, which ended it early"),
        Column("meta_score", "float64", "half the final score plus half the mean score"),
    ),
    "states": (
        Column("episode", "string", "id of the meta-episode"),
        Column("decision", "int32", "decisions taken before this one"),
        Column("decisions", "int32", "decisions planned"),
        *_SPEC,
        Column("text", "string", "text observation, with real names"),
        Column("vector", "float32[]", "vector observation: features, then their mask"),
        Column("values", "float64[]", "hyperparameters in force, in the learner's order"),
        Column("values_after", "float64[]", "hyperparameters after the update"),
        Column("choices", "int8[]", "the update as the nearest choices, one multiplier index per hot hyperparameter"),
        Column("exact", "bool", "whether these choices give values_after exactly"),
        Column("copied_from", "string", "id of the meta-episode that was copied before the update; else empty"),
        Column("score", "float64", "evaluation score in this state"),
        Column("score_after", "float64", "evaluation score after the update and its segment"),
        Column("training_score", "float64", "normalised mean training return of the segment before"),
        Column("training_score_after", "float64", "of the segment after the update"),
        Column("reward", "float64", "what the meta-environment pays: the difference of evaluation scores"),
        Column("last", "bool", "whether the meta-episode ended with this decision"),
    ),
    "branches": (
        Column("episode", "string", "id of the meta-episode"),
        Column("decision", "int32", "which of its states"),
        Column("decisions", "int32", "decisions planned"),
        *_SPEC,
        Column("choices", "int8[][]", "[K][hot]: updates as multiplier indices; the first keeps everything"),
        Column("origins", "string[]", "[K]: where each update comes from"),
        Column("values", "float64[][]", "[K][hyperparameters]: in force after each update"),
        Column("score", "float64", "evaluation score in the state"),
        Column("scores", "float32[][][]", "[K][M][H]: evaluation scores, by continuation and segment"),
        Column("errors", "float32[][][]", "[K][M][H]: their standard errors over the evaluation episodes"),
        Column("training_scores", "float32[][][]", "[K][M][H]: normalised mean training returns of the segments"),
        Column("diverged", "bool[][]", "[K][M]: whether the learner diverged"),
        Column("steps", "int64", "training steps that the set took"),
        Column("evaluation_steps", "int64", "evaluation steps that the set took"),
    ),
}
"""Columns by table."""

Rows = list[dict[str, Any]]


def parquet() -> Any:
    """The module ``pyarrow.parquet``.

    Raises:
        MissingExtra: if pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise MissingExtra("pyarrow", "training") from error
    return pyarrow.parquet


def arrow_schema(table: str) -> Any:
    """The ``pyarrow.Schema`` of a table. Raises :class:`MissingExtra` without pyarrow."""
    parquet()
    import pyarrow as pa

    def arrow_type(name: str) -> Any:
        if name.endswith("[]"):
            return pa.list_(arrow_type(name.removesuffix("[]")))
        return pa.bool_() if name == "bool" else getattr(pa, name)()

    columns = [pa.field(column.name, arrow_type(column.type), nullable=False) for column in TABLES[table]]
    return pa.schema(columns, metadata={"hpbench_format": str(FORMAT)})


def shard_path(folder: Path, table: str, split: str, index: int) -> Path:
    """Where a table of a shard stands."""
    return folder / table / f"{split}-{index:05d}.parquet"


def is_complete(folder: Path, index: int) -> bool:
    """Whether a shard is there, whole: its training episodes are written last."""
    return shard_path(folder, "episodes", "train", index).is_file()


def shard_files(folder: Path, table: str, split: str) -> list[Path]:
    """The files of a table and split, of complete shards only, in order."""
    found = sorted((folder / table).glob(f"{split}-*.parquet"))
    return [path for path in found if is_complete(folder, int(path.stem.rpartition("-")[2]))]


def write_rows(path: Path, table: str, rows: Rows) -> None:
    """Write a table atomically: after a crash there is the old file, or none, or the new one, whole. Equal rows give
    equal bytes."""
    import pyarrow as pa

    columns = {column.name: [row[column.name] for row in rows] for column in TABLES[table]}
    data = pa.Table.from_pydict(columns, schema=arrow_schema(table))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            parquet().write_table(data, file, compression="zstd", compression_level=LEVEL)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes private files
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_rows(folder: Path, table: str, split: str, columns: Sequence[str] | None = None) -> Rows:
    """All rows of a table and split, shard by shard in order.

    Args:
        folder: of the collection.
        table: one of :data:`TABLES`.
        split: one of :data:`SPLITS`.
        columns: which ones; None: all.

    Raises:
        InvalidConfiguration: if there is no such table or split in the folder, or its format is another one.
    """
    paths = shard_files(folder, table, split)
    if not paths:
        raise InvalidConfiguration(f"there is no complete table {table!r} of split {split!r} in {str(folder)!r}")
    rows: Rows = []
    for path in paths:
        data = parquet().read_table(path, columns=None if columns is None else list(columns))
        found = (data.schema.metadata or {}).get(b"hpbench_format", b"none").decode()
        if found != str(FORMAT):
            raise InvalidConfiguration(f"{path} has format {found}, this version reads {FORMAT}")
        rows += data.to_pylist()
    return rows
