"""What Stable-Baselines3 asks of a vector environment and never needs in the benchmarks."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.vec_env import VecEnv


class PeerGames(VecEnv):
    """Base of environments that are not made of single ones: nothing to look up in them, and nothing to call."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        pass

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        return [None] * self.num_envs

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs
