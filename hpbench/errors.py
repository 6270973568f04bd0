"""Every error HPBench raises on purpose, each with a message that names the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HPBenchError(Exception):
    """Base class of all errors raised on purpose."""


class UnknownName(HPBenchError, KeyError):
    """A task, learner, agent, suite, hyperparameter or option that does not exist."""

    __str__ = Exception.__str__  # KeyError would print the message in quotes

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(str(name), self.known, n=3, cutoff=0.5)
        if near:
            hint = f"Did you mean {' or '.join(repr(n) for n in near)}?"
        elif not self.known:
            hint = "None is registered."
        else:
            shown = ", ".join(self.known[:12])
            more = len(self.known) - 12
            hint = f"Known: {shown}{f' and {more} more' if more > 0 else ''}."
        super().__init__(f"Unknown {kind} {name!r}. {hint}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, object, list[str]]]:
        return type(self), (self.kind, self.name, self.known)


class InvalidConfiguration(HPBenchError, ValueError):
    """Options that cannot work together, or a value outside its allowed range."""


class InvalidAction(HPBenchError, ValueError):
    """A meta-action that has no meaning at all (NaN, wrong shape, wrong type)."""


class SnapshotError(HPBenchError, ValueError):
    """A snapshot that does not fit the population, or a damaged snapshot file."""


class RecordError(HPBenchError, ValueError):
    """A damaged record file, or records that do not belong to the suite they claim."""


class MissingExtra(HPBenchError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f'{package!r} is not installed. Run: pip install "hpbench[{extra}]"')

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.package, self.extra)


class MissingLibrary(HPBenchError, ImportError):
    """A package is installed, but not a library of the system that it needs."""

    def __init__(self, package: str, library: str, system_packages: str) -> None:
        self.package, self.library, self.system_packages = package, library, system_packages
        super().__init__(
            f"{package!r} needs {library} of the system, which is not there. "
            f"On Debian and Ubuntu: apt-get install {system_packages}"
        )

    def __reduce__(self) -> tuple[type[MissingLibrary], tuple[str, str, str]]:
        return type(self), (self.package, self.library, self.system_packages)


class MissingBuild(HPBenchError, ImportError):
    """A module that no package index has, and that has to be built from source."""

    def __init__(self, package: str, instructions: str) -> None:
        self.package, self.instructions = package, instructions
        super().__init__(
            f"{package!r} is not installed, and no package index has it. "
            f"Build it from source and install the wheel that this makes: {instructions}"
        )

    def __reduce__(self) -> tuple[type[MissingBuild], tuple[str, str]]:
        return type(self), (self.package, self.instructions)


class SimulatorCrash(HPBenchError, RuntimeError):
    """A simulator's process died or gave no answer. What its copies were doing is lost; what was recorded is not.

    Args:
        task: what it ran.
        seeds: of the episodes its copies were in; None where an episode was restored from a saved state.
        reason: what happened to the process.
    """

    def __init__(self, task: str, seeds: Iterable[int | None], reason: str) -> None:
        self.task, self.seeds, self.reason = task, tuple(seeds), reason
        named = ", ".join("restored" if seed is None else str(seed) for seed in self.seeds)
        super().__init__(
            f"A simulator process of {task} failed: {reason}. The episodes in it had the seeds {named}. "
            "Only this row is lost: run the same again to resume."
        )

    def __reduce__(self) -> tuple[type[SimulatorCrash], tuple[str, tuple[int | None, ...], str]]:
        return type(self), (self.task, self.seeds, self.reason)


class ModelUnavailable(HPBenchError, ConnectionError):
    """A language model that cannot be reached, or refuses. Nothing is decided in its place."""
