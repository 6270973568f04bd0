"""``hpbench collect``: all shards of a collection, over several processes, and again from where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.training.card import write_card
from agents.training.plan import Shard, plan_shards
from agents.training.schema import is_complete, parquet
from agents.training.settings import CollectSettings, dump_settings, load_settings
from agents.training.shard import work_on_shard
from hpbench.errors import HPBenchError, InvalidConfiguration
from hpbench.evaluation.progress import Reporter
from hpbench.evaluation.records import write_atomically
from hpbench.evaluation.workers import Event, Workers, pack, run_here

SETTINGS_FILE = "collect.json"
"""Holds the settings of the collection that a folder is."""


class CollectFailed(HPBenchError, RuntimeError):
    """Some shards failed; all others are finished and kept."""


@dataclass(frozen=True)
class Collected:
    """What a call came to.

    Args:
        folder: of the collection.
        shards: in it now, out of ``planned``.
        planned: shards in all.
        made: by this call.
    """

    folder: Path
    shards: int
    planned: int
    made: int


def collect(settings: CollectSettings, folder: Path, processes: int = 1, progress: bool = False) -> Collected:
    """Collect what is missing.

    A shard depends on nothing but the settings and its index, and appears in the folder whole or not at all. So an
    interrupted collection, continued, is byte for byte the one that an uninterrupted run gives, and processes do not
    matter either (on one platform, with the same versions of the packages).

    Args:
        settings: what to collect.
        folder: where to; new, empty, or of a collection with the same settings but for the number of shards.
        processes: worker processes.
        progress: show it on standard error.

    Raises:
        MissingExtra: if pyarrow is not installed.
        InvalidConfiguration: if the folder holds another collection, or ``processes`` is less than 1.
        CollectFailed: if shards failed, with the reason of the first.
    """
    if processes < 1:
        raise InvalidConfiguration(f"processes must be at least 1, got {processes}")
    parquet()  # before hours of work, not after
    settings = _settle(settings, folder)
    shards = plan_shards(settings)
    todo = [shard for shard in shards if not is_complete(folder, shard.index)]
    payloads = [(settings, shard, folder) for shard in todo]
    done = len(shards) - len(todo)
    with Reporter(progress, len(shards), done, [1.0] * len(todo), unit="shards") as reporter:
        handler = _Handler(todo, reporter)
        try:
            if processes == 1:
                run_here(work_on_shard, payloads, handler)
            else:
                with Workers(work_on_shard, processes) as workers:
                    workers.run([pack(payload, "the settings") for payload in payloads], handler)
        except KeyboardInterrupt:
            reporter.say(f"Interrupted: {done + handler.finished} of {len(shards)} shards are kept in {folder}.")
            reporter.say("Run the same again to resume.")
            raise
        finally:
            write_card(folder, settings, sum(is_complete(folder, shard.index) for shard in shards))
    if handler.failures:
        raise CollectFailed(f"{len(handler.failures)} of {len(todo)} shards failed. The first:\n{handler.failures[0]}")
    return Collected(folder, len(shards), len(shards), handler.finished)


def _settle(settings: CollectSettings, folder: Path) -> CollectSettings:
    """Note the settings in the folder. If it has shards already, there are at least as many to be."""
    path = folder / SETTINGS_FILE
    if path.exists():
        before = load_settings(path)
        old, new = before.identity(), settings.identity()
        changed = [name for name in new if old[name] != new[name]]
        if changed:
            raise InvalidConfiguration(
                f"{str(folder)!r} holds a collection with other settings ({', '.join(changed)}): "
                f"choose another folder, or go on with {str(path)!r}"
            )
        settings = settings.model_copy(update={"shards": max(settings.shards, before.shards)})
    elif folder.is_dir() and any(folder.iterdir()):
        raise InvalidConfiguration(f"{str(folder)!r} is neither empty nor a collection: choose another folder")
    for left in folder.glob("*/.*.tmp"):  # by a process that was killed while it wrote
        left.unlink()
    write_atomically(path, dump_settings(settings))
    return settings


class _Handler:
    """Counts what is finished and reports."""

    def __init__(self, todo: Sequence[Shard], reporter: Reporter) -> None:
        self._todo, self._reporter = todo, reporter
        self.finished = 0
        self.failures: list[str] = []

    def __call__(self, event: Event) -> None:
        shard = self._todo[event.job]
        if event.kind in ("started", "report"):
            self._reporter.advance(event.job, event.value or 0.0, shard.label)
        elif event.kind == "finished":
            self.finished += 1
            self._reporter.end(event.job, shard.label)
        else:
            reason = str(event.value).strip()
            self.failures.append(f"{shard.label}: {reason}")
            self._reporter.end(event.job, f"{shard.label}: FAILED: {reason.splitlines()[-1]}")
