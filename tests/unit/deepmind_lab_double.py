"""A DOUBLE of ``deepmind_lab``, for tests only: no DeepMind Lab, no levels, no three dimensions.

It has the methods that docs/users/python_api.md of google-deepmind/lab documents (commit 870364e68c6c), refuses what
that documentation rules out, and records every call. The "game" is a counter: the image and the reward tell the
episode's seed, the frames so far and the last action, so that a mistake in the translation is seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SPEC = (512, 512, 1, 1, 1, 1, 1)
"""Largest sizes of the seven numbers of an action."""
EPISODE_FRAMES = 40


class Lab:
    """The environment class; ``Lab.made`` are all there were."""

    made: list[Lab] = []  # noqa: RUF012 - shared on purpose

    def __init__(
        self,
        level: str,
        observations: list[str],
        config: dict[str, str] | None = None,
        renderer: str = "software",
        level_cache: Any = None,
    ) -> None:
        settings = {} if config is None else config
        assert all(isinstance(text, str) for pair in settings.items() for text in pair), "settings are text"
        assert renderer in ("software", "hardware")
        self.level, self.names, self.config = level, observations, settings
        self.calls: list[tuple[Any, ...]] = []
        self._seed = self._frames = -1
        self._open = True
        Lab.made.append(self)

    def reset(self, episode: int = -1, seed: int | None = None) -> None:
        assert self._open
        assert seed is not None, "a random seed would be used"
        self.calls.append(("reset", episode, seed))
        # Without a number, episodes come in numerical order: what is played depends on how many there were.
        number = episode if episode >= 0 else sum(call[0] == "reset" for call in self.calls)
        self._seed, self._frames, self._last = seed + 1000 * number, 0, np.zeros(7, dtype=np.intc)

    def is_running(self) -> bool:
        return self._open and 0 <= self._frames < EPISODE_FRAMES

    def step(self, action: Any, num_steps: int = 1) -> float:
        assert self.is_running(), "the behaviour is undefined"
        assert action.dtype == np.intc
        assert action.shape == (7,)
        assert (np.abs(action) <= SPEC).all()
        self.calls.append(("step", tuple(int(number) for number in action), num_steps))
        self._last = action
        self._frames += num_steps
        return 0.5 * self._frames + (self._seed % 7)

    def observations(self) -> dict[str, Any]:
        assert self.is_running(), "there are none when the episode is over"
        height, width = int(self.config["height"]), int(self.config["width"])
        image = np.zeros((height, width, 3), dtype=np.uint8)
        image[..., 0] = self._seed % 256
        image[..., 1] = self._frames
        image[0, :7, 2] = self._last % 256
        known = {"RGB_INTERLEAVED": image}
        return {name: known[name] for name in self.names}

    def close(self) -> None:
        assert self._open, "the only call that is allowed now is is_running()"
        self._open = False
