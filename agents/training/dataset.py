"""Collections as Hugging Face ``datasets``: load from a folder, export to a folder, push to a hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agents.training.schema import SPLITS, TABLES, parquet, shard_files
from hpbench.errors import HPBenchError, InvalidConfiguration, MissingExtra, UnknownName

TOKEN = "HF_TOKEN"
"""Environment variable with the access token of the hub."""


class PushFailed(HPBenchError, RuntimeError):
    """The hub could not be reached, or did not accept the data."""


def library() -> Any:
    """The package ``datasets``.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingExtra("datasets", "training") from error
    return datasets


def load(folder: str | Path, table: str = "states", cache: str | Path | None = None) -> Any:
    """A table of a collection as ``datasets.DatasetDict``, one ``datasets.Dataset`` per split.

    Args:
        folder: of the collection.
        table: ``episodes``, ``states`` or ``branches``.
        cache: where ``datasets`` keeps its own copy; None: everything in memory, no copy on the disk.

    Raises:
        MissingExtra: if ``datasets`` is not installed.
        UnknownName: for another table.
        InvalidConfiguration: if the folder holds no complete shard.
    """
    datasets, folder = library(), Path(folder)
    if table not in TABLES:
        raise UnknownName("table", table, TABLES)
    files = {split: [str(path) for path in shard_files(folder, table, split)] for split in SPLITS}
    files = {split: paths for split, paths in files.items() if paths}
    if not files:
        raise InvalidConfiguration(f"there are no complete shards in {str(folder)!r}: run hpbench collect first")
    if cache is not None:
        return datasets.load_dataset("parquet", data_files=files, cache_dir=str(cache))
    import pyarrow as pa

    tables = {split: pa.concat_tables(map(parquet().read_table, paths)) for split, paths in files.items()}
    return datasets.DatasetDict({split: datasets.Dataset(data) for split, data in tables.items()})


def export(folder: str | Path, target: str | Path) -> dict[str, Path]:
    """Every table as a folder that ``datasets.load_from_disk`` reads.

    Args:
        folder: of the collection.
        target: gets one folder per table; it must not have them yet.

    Raises:
        MissingExtra, InvalidConfiguration: as :func:`load`; also if a folder exists already.
    """
    target = Path(target)
    folders = {table: target / table for table in TABLES}
    for path in folders.values():
        if path.exists():
            raise InvalidConfiguration(f"{str(path)!r} exists already: choose another folder, or remove it")
    written = {}
    for table, path in folders.items():
        if any(shard_files(Path(folder), table, split) for split in SPLITS):
            load(folder, table).save_to_disk(str(path))
            written[table] = path
    if not written:
        raise InvalidConfiguration(f"there are no complete shards in {str(folder)!r}: run hpbench collect first")
    return written


def push(folder: str | Path, repository: str, private: bool = True) -> list[str]:
    """Push every table to a dataset repository of the hub, as configurations of one dataset.

    Args:
        folder: of the collection.
        repository: ``owner/name``.
        private: whether a new repository is private.

    Returns:
        The tables that were pushed.

    Raises:
        MissingExtra, InvalidConfiguration: as :func:`load`; also if ``repository`` is malformed, or there is no token.
        PushFailed: if the hub cannot be reached or refuses.
    """
    library()
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name:
        raise InvalidConfiguration(f"write the repository as owner/name, got {repository!r}")
    token = os.environ.get(TOKEN)
    if not token:
        raise InvalidConfiguration(
            f"pushing needs an access token with write permission: set the environment variable {TOKEN}. "
            "Without a hub: hpbench dataset export"
        )
    present = [table for table in TABLES if any(shard_files(Path(folder), table, split) for split in SPLITS)]
    if not present:
        raise InvalidConfiguration(f"there are no complete shards in {str(folder)!r}: run hpbench collect first")
    for table in present:
        try:
            load(folder, table).push_to_hub(repository, config_name=table, private=private, token=token)
        except (OSError, ValueError, RuntimeError) as error:
            # The hub's own errors are all of these kinds; what was pushed before stays and is not pushed twice.
            raise PushFailed(f"{table!r} could not be pushed to {repository!r}: {error}") from error
    return present
