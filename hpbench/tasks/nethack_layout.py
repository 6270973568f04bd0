"""What a flat NetHack observation holds, as data: the simulator writes it, the ``glyphs`` encoder reads it.

An observation is int16, in this order:

- ``CROP``: the glyphs around the hero, row by row; the hero stands in the middle. ``OUTSIDE`` where the map ends.
- ``STATUS``: one number for each row of the table, cut to what int16 holds.
- ``CONDITIONS``: 1 where the hero suffers from it, else 0.
- ``MESSAGE``: the first bytes of the message line, 0 behind its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

CROP = (15, 15)
"""Rows and columns of the map that are shown, of 21 and 79."""
GLYPHS = 5976
"""NetHack 3.6 has glyphs 0 to 5975 (``nle.nethack.MAX_GLYPH``)."""
OUTSIDE = GLYPHS
"""The glyph of what lies beyond the map; glyph embeddings have ``GLYPHS + 1`` rows."""
MESSAGE = 80
"""Bytes of the message, of 256: one line of a terminal."""


class Status(NamedTuple):
    """A number of the status line.

    Args:
        place: in NLE's ``blstats``.
        scale: what an encoder divides by, to come near [-1, 1].
        log: whether it takes ``log1p`` first (of values below 0: with their sign).
    """

    place: int
    scale: float
    log: bool = False


STATUS: Mapping[str, Status] = {
    "column": Status(0, 79.0),
    "row": Status(1, 21.0),
    "strength_percentage": Status(2, 118.0),
    "strength": Status(3, 25.0),
    "dexterity": Status(4, 25.0),
    "constitution": Status(5, 25.0),
    "intelligence": Status(6, 25.0),
    "wisdom": Status(7, 25.0),
    "charisma": Status(8, 25.0),
    "score": Status(9, 10.0, log=True),
    "hit_points": Status(10, 5.0, log=True),
    "hit_points_maximum": Status(11, 5.0, log=True),
    "depth": Status(12, 10.0),
    "gold": Status(13, 10.0, log=True),
    "energy": Status(14, 5.0, log=True),
    "energy_maximum": Status(15, 5.0, log=True),
    "armour_class": Status(16, 10.0),
    "monster_level": Status(17, 10.0),
    "experience_level": Status(18, 10.0),
    "experience_points": Status(19, 10.0, log=True),
    "time": Status(20, 10.0, log=True),
    "hunger": Status(21, 6.0),
    "encumbrance": Status(22, 5.0),
    "dungeon": Status(23, 7.0),
    "level": Status(24, 10.0),
    "alignment": Status(26, 1.0),
}
CONDITION_INDEX = 25
"""The bit mask of conditions in ``blstats``."""
CONDITIONS = (
    "stone", "slime", "strangled", "food_poisoning", "terminal_illness", "blind", "deaf", "stunned", "confused",
    "hallucinating", "levitating", "flying", "riding",
)  # fmt: skip
"""Bits of that mask, from the lowest (``BL_MASK_*`` of NetHack 3.6)."""

CELLS = CROP[0] * CROP[1]
STATUS_START = CELLS
CONDITIONS_START = STATUS_START + len(STATUS)
MESSAGE_START = CONDITIONS_START + len(CONDITIONS)
OBSERVATION_SIZE = MESSAGE_START + MESSAGE

_HUNGER = ("satiated", "", "hungry", "weak", "fainting", "fainted", "starved")


def describe(observation: Sequence[float]) -> str:
    """The message and the status line of a flat observation, as text."""
    letters = bytes(int(letter) & 0xFF for letter in observation[MESSAGE_START:])
    message = letters.partition(b"\0")[0].decode("latin-1").strip()
    shown = dict(zip(STATUS, map(int, observation[STATUS_START:CONDITIONS_START]), strict=True))
    if shown["hit_points_maximum"] == 0:  # the status line is gone with the game
        return message or "the game is over"
    suffers = observation[CONDITIONS_START:MESSAGE_START]
    conditions = [name for name, there in zip(CONDITIONS, suffers, strict=True) if there]
    hunger = _HUNGER[shown["hunger"]] if 0 <= shown["hunger"] < len(_HUNGER) else ""
    status = (
        "Dlvl:{depth} $:{gold} HP:{hit_points}({hit_points_maximum}) Pw:{energy}({energy_maximum}) "
        "AC:{armour_class} Xp:{experience_level}/{experience_points} T:{time} S:{score}"
    ).format(**shown)
    words = " ".join(word for word in (status, hunger, *conditions) if word)
    return " | ".join(part for part in (message, words) if part)
