"""Records: one JSON file per agent and row, with everything that is needed to replay it.

A record is a pure function of what was run: the same row under the same agent on the same platform gives the same
bytes. So wall time and the like stand in a second file beside it (:class:`Costs`). Files are strict JSON (a score
that does not exist is null, never NaN), keys in a fixed order, floats by ``repr``, and end in a checksum: a damaged,
half-written or edited file never counts.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError, with_config

from hpbench.errors import InvalidAction, RecordError
from hpbench.evaluation import leftovers
from hpbench.evaluation.identity import AgentIdentity
from hpbench.evaluation.suite import STRICT, Row

FORMAT = 1
SUFFIX = ".json"
COSTS_SUFFIX = ".costs.json"

_CHECKSUM = re.compile(r',\n "checksum": "([0-9a-f]{64})"\n}\n\Z')


@with_config(STRICT)
@dataclass(frozen=True)
class Platform:
    """What a bit-for-bit replay depends on."""

    system: str
    machine: str
    python: str
    numpy: str
    torch: str

    @classmethod
    def here(cls) -> Platform:
        """The platform this process runs on."""
        return cls(
            platform.system(), platform.machine(), platform.python_version(), np.__version__, str(torch.__version__)
        )


@with_config(STRICT)
@dataclass(frozen=True)
class Member:
    """The trace of one meta-episode of ``n`` decisions; ``n`` is smaller than planned only if the learner diverged.

    Args:
        seed, agent_seed: of the member, and of the agent that controlled it.
        task: that it starts on.
        initial_values: hyperparameters before the first decision.
        actions: what the agent answered, ``[n]``.
        values: effective value of every hyperparameter under each decision, ``{name: [n]}``.
        clipped: names cut by a bound at each decision, ``[n]``.
        invalid: invalid actions so far, ``[n]``.
        rewards: ``[n]``.
        shifted: whether the task has been changed, ``[n + 1]``. Here and below, index 0 is before any training.
        scores: normalised evaluation scores, ``[n + 1]``.
        returns: mean unscaled evaluation returns, ``[n + 1]``; None where there is none.
        steps, evaluation_steps: environment steps used so far, ``[n + 1]``.
        digests: hex digests of the learner's whole state, ``[n + 1]``.
        diverged: whether the meta-episode ended in divergence.
        meta_score: half the final score, half the mean score over decisions.
        agent_steps: environment steps that the agent itself used so far, on copies of the run (training and evaluation
            of branches), ``[n]``; empty for agents that have no such means. ``steps`` does not contain them.
    """

    seed: int
    agent_seed: int
    task: str
    initial_values: dict[str, float]
    actions: tuple[Any, ...]
    values: dict[str, tuple[float, ...]]
    clipped: tuple[tuple[str, ...], ...]
    invalid: tuple[int, ...]
    rewards: tuple[float, ...]
    shifted: tuple[bool, ...]
    scores: tuple[float, ...]
    returns: tuple[float | None, ...]
    steps: tuple[int, ...]
    evaluation_steps: tuple[int, ...]
    digests: tuple[str, ...]
    diverged: bool
    meta_score: float
    agent_steps: tuple[int, ...] = ()

    def check(self, decisions: int) -> None:
        """Whether the lists fit each other.

        Raises:
            ValueError: if they do not.
        """
        n = len(self.actions)
        taken = (*self.values.values(), self.clipped, self.invalid, self.rewards)
        measured = (self.shifted, self.scores, self.returns, self.steps, self.evaluation_steps, self.digests)
        if self.agent_steps:
            taken = (*taken, self.agent_steps)
        if any(len(column) != n for column in taken) or any(len(column) != n + 1 for column in measured):
            raise ValueError(f"the lists of seed {self.seed} have lengths that do not fit {n} decisions")
        if n > decisions or (n < decisions and not self.diverged):
            raise ValueError(f"seed {self.seed} has {n} of {decisions} decisions")


@with_config(STRICT)
@dataclass(frozen=True)
class Record:
    """The result of one agent on one row.

    Args:
        format: version of this file format.
        hpbench: version of the package that wrote it.
        suite, suite_hash, row: what was run.
        agent: under whom.
        options: every option of the meta-environment, as asked for.
        engine, device: what ``auto`` came to.
        platform: where.
        decisions: planned decisions of a meta-episode.
        steps: planned environment steps of a meta-episode.
        members: one per seed of the row, in its order.
    """

    format: int
    hpbench: str
    suite: str
    suite_hash: str
    row: Row
    agent: AgentIdentity
    options: dict[str, Any]
    engine: str
    device: str
    platform: Platform
    decisions: int
    steps: int
    members: tuple[Member, ...]

    def check(self) -> None:
        """Whether the parts fit each other.

        Raises:
            ValueError: if they do not.
        """
        if self.format != FORMAT:
            raise ValueError(f"it has format {self.format}, this version reads {FORMAT}")
        if tuple(member.seed for member in self.members) != self.row.seeds:
            raise ValueError("its members are not the seeds of its row")
        for member in self.members:
            member.check(self.decisions)


@with_config(STRICT)
@dataclass(frozen=True)
class Costs:
    """What a row cost, beside its record: these numbers differ from run to run.

    Args:
        seconds: wall time of the row.
        agent_seconds: the part of it that the agent's own ``reset``, ``act`` and ``observe`` took.
        decisions: taken, over all members.
        steps, evaluation_steps: environment steps, over all members.
        agent_steps: those that the agent used beyond them, on copies of the runs.
        agent: what else the agent says that it used or did (``costs()`` of batch agents), such as tokens; by name.
    """

    seconds: float
    agent_seconds: float
    decisions: int
    steps: int
    evaluation_steps: int
    agent_steps: int = 0
    agent: dict[str, float] = field(default_factory=dict)

    @property
    def decisions_per_second(self) -> float:
        """Over all members of the row."""
        return self.decisions / self.seconds if self.seconds > 0 else 0.0

    @property
    def steps_per_second(self) -> float:
        """Training and evaluation steps over all members of the row, those of the agent included."""
        total = self.steps + self.evaluation_steps + self.agent_steps
        return total / self.seconds if self.seconds > 0 else 0.0


_RECORD = TypeAdapter(Record)
_COSTS = TypeAdapter(Costs)


def to_json(value: Any) -> Any:
    """An action (or a setting) as plain JSON data: arrays become lists, in full precision.

    Raises:
        InvalidAction: for something that JSON cannot hold.
    """
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidAction(f"{value} cannot be recorded")
        return value
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_json(item) for key, item in value.items()}
    raise InvalidAction(
        f"{type(value).__name__} cannot be recorded: use numbers, text, arrays, lists or dicts of these"
    )


def dumps(record: Record) -> str:
    """The one text of this record: a line per field and per member, the checksum last."""
    names = [part.name for part in fields(record) if part.name != "members"]
    lines = [f' "{name}": {_line(getattr(record, name))}' for name in names]
    members = ",\n".join(f"  {_line(member)}" for member in record.members)
    return _seal("{\n" + ",\n".join([*lines, f' "members": [\n{members}\n ]']))


def loads(text: str, source: str = "record") -> Record:
    """The record in this text.

    Raises:
        RecordError: naming ``source``, if the text is damaged, was edited, or is not a record of this format.
    """
    match = _CHECKSUM.search(text)
    body = text[: match.start()] if match else ""
    if match is None or hashlib.sha256(body.encode()).hexdigest() != match[1]:
        raise RecordError(f"{source} is damaged, half-written, or was edited: its checksum does not match")
    try:
        json.loads(body + "\n}", parse_constant=_no_constant)
        record = _RECORD.validate_json(body + "\n}")
        record.check()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{source} is not a record of format {FORMAT}, at {where}: {first['msg']}") from error
    except ValueError as error:
        raise RecordError(f"{source} is not a record of format {FORMAT}: {error}") from error
    return record


def read(path: Path) -> Record:
    """The record in a file.

    Raises:
        RecordError: naming the file, if it cannot be read or does not hold a complete record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    return loads(text, str(path))


def write(path: Path, record: Record) -> None:
    """Write atomically: after a crash the file is the old one or the new one, whole."""
    write_atomically(path, dumps(record))


def read_costs(path: Path) -> Costs | None:
    """The costs beside a record, or None if there are none; they are not worth failing for.

    Args:
        path: of the record.
    """
    try:
        return _COSTS.validate_json(path.with_name(path.stem + COSTS_SUFFIX).read_bytes())
    except (OSError, ValidationError):
        return None


def write_costs(path: Path, costs: Costs) -> None:
    """Write the costs beside the record at ``path``."""
    write_atomically(path.with_name(path.stem + COSTS_SUFFIX), json.dumps(asdict(costs), indent=1) + "\n")


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes have left of writing the record at ``path`` and its costs."""
    leftovers.remove_leftovers(path)
    leftovers.remove_leftovers(path.with_name(path.stem + COSTS_SUFFIX))


def write_atomically(path: Path, text: str) -> None:
    """Write to a temporary file in the same folder, flush to the disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=leftovers.temporary_prefix(path), suffix=leftovers.SUFFIX)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; results are meant to be shared.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(body: str) -> str:
    return f'{body},\n "checksum": "{hashlib.sha256(body.encode()).hexdigest()}"\n}}\n'


def _line(value: Any) -> str:
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return json.dumps(plain, allow_nan=False, ensure_ascii=False)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
