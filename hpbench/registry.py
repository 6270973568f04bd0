"""Names to objects: built-in tables of strings plus entry points, loaded only when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

from hpbench.errors import InvalidConfiguration, UnknownName


class Registry(Mapping[str, str]):
    """A table from names to import paths ``package.module:attribute``, extended by an entry-point group.

    Args:
        kind: what the names stand for, used in error messages.
        table: built-in rows.
        group: entry-point group whose entries are added; a built-in row wins over an entry of the same name.
    """

    def __init__(self, kind: str, table: Mapping[str, str], group: str = "") -> None:
        self.kind, self.group = kind, group
        self._table = dict(table)
        self._complete = not group

    def _rows(self) -> dict[str, str]:
        if not self._complete:
            for entry in entry_points(group=self.group):
                self._table.setdefault(entry.name, entry.value)
            self._complete = True
        return self._table

    def __getitem__(self, name: str) -> str:
        try:
            return self._rows()[name]
        except KeyError:
            raise UnknownName(self.kind, name, self._rows()) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows())

    def __len__(self) -> int:
        return len(self._rows())

    def load(self, name: str) -> Any:
        """The object behind a registered name, or behind an import path ``package.module:attribute``.

        Raises:
            UnknownName: if there is no such name.
            InvalidConfiguration: if an import path does not lead to an object.
        """
        if ":" in name and name not in self._rows():
            return load_object(name)
        return load_object(self[name])


def load_object(path: str) -> Any:
    """Import ``package.module:attribute``.

    Raises:
        InvalidConfiguration: if the module or the attribute does not exist.
    """
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not (module_name + ".").startswith(error.name + "."):
            raise
        raise InvalidConfiguration(
            f"No module {module_name!r} for {path!r}. Is it installed, or its folder on PYTHONPATH?"
        ) from error
    if not hasattr(module, attribute):
        raise InvalidConfiguration(f"Module {module_name!r} has no {attribute!r} (from {path!r})")
    return getattr(module, attribute)
