"""Games of a script, each a line of a JSONL file: what was finished is not played again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol


class Keyed(Protocol):
    """A game that can be told apart from others."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it apart."""
        ...


def read(path: Path) -> list[dict[str, Any]]:
    """Finished games. A line that a killed script left unfinished does not count."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def run(
    games: Sequence[Keyed],
    path: Path,
    play: Callable[..., dict[str, Any]],
    key_of: Callable[[dict[str, Any]], tuple[Any, ...]],
    processes: int = 1,
    **options: Any,
) -> int:
    """Play the games that the file does not have yet; how many these were.

    Args:
        games: all of them.
        path: of the file; each finished game is written at once.
        play: plays a game to its end, and returns its line.
        key_of: the key of the game that a line is about.
        processes: that play side by side.
        **options: for ``play``.
    """
    finished = read(path)
    have = {key_of(line) for line in finished}
    todo = [game for game in games if game.key not in have]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the half of a line that a killed script may have left: what follows it would be lost with it.
    path.write_text("".join(json.dumps(line) + "\n" for line in finished), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:

        def keep(line: dict[str, Any]) -> None:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()

        if processes == 1:
            for game in todo:
                keep(play(game, **options))
        else:
            with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
                for future in as_completed([pool.submit(play, game, **options) for game in todo]):
                    keep(future.result())
    return len(todo)
