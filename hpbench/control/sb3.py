"""The vector meta-environment as Stable-Baselines3 wants it (``pip install "hpbench[sb3]"``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from hpbench.control.vector import HPControlVectorEnv
from hpbench.errors import InvalidConfiguration, MissingExtra

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise MissingExtra("stable_baselines3", "sb3") from error


class SB3VecEnv(VecEnv):
    """A ``VecEnv`` around :class:`~hpbench.control.vector.HPControlVectorEnv`, or around several of them side by side.

    ```python
    envs = [
        gym.make_vec("HPControl-Classic-v0", num_envs=16, autoreset_mode="SameStep", task=task)
        for task in ("classic/cartpole@train", "classic/acrobot@train")
    ]
    model = PPO("MlpPolicy", VecMonitor(SB3VecEnv(*envs))).learn(10_000)
    ```

    Stable-Baselines3 estimates the value of what would have followed an episode that was *truncated*. After the last
    decision nothing follows: the budget is spent, and observations tell how much of it is left. So
    ``TimeLimit.truncated`` is False, unless ``bootstrap`` is set.

    Args:
        *parts: made with ``autoreset_mode="SameStep"`` and vector observations, all with equal spaces.
        bootstrap: set ``TimeLimit.truncated`` at the end of the budget, as Stable-Baselines3's own environments do.

    Raises:
        InvalidConfiguration: for another environment or autoreset mode.
    """

    def __init__(self, *parts: gym.vector.VectorEnv[Any, Any, Any], bootstrap: bool = False) -> None:
        for part in parts:
            inner = part.unwrapped
            if not isinstance(inner, HPControlVectorEnv) or inner.autoreset_mode is not AutoresetMode.SAME_STEP:
                raise InvalidConfiguration(
                    'Stable-Baselines3 needs gym.make_vec("HPControl-...", autoreset_mode="SameStep", '
                    'vectorization_mode="vector_entry_point")'
                )
            first = parts[0]
            if (
                inner.options.observation != "vector"
                or part.single_observation_space != first.single_observation_space
                or part.single_action_space != first.single_action_space
            ):
                raise InvalidConfiguration('Stable-Baselines3 needs observation="vector" and equal spaces everywhere')
        if not parts:
            raise InvalidConfiguration("SB3VecEnv needs at least one vector environment")
        self.parts, self._bootstrap = parts, bootstrap
        ends = np.cumsum([part.num_envs for part in parts]).tolist()
        self._slices = [slice(end - part.num_envs, end) for part, end in zip(parts, ends, strict=True)]
        super().__init__(ends[-1], parts[0].single_observation_space, parts[0].single_action_space)

    def reset(self) -> Any:
        """First observations, float32 ``[num_envs, size]``; what :meth:`seed` was given acts here."""
        observations, infos = [], []
        for part, span in zip(self.parts, self._slices, strict=True):
            observation, batched = part.reset(seed=self._seeds[span])  # type: ignore[arg-type]
            observations.append(observation)
            infos += [info_of(batched, i) for i in range(part.num_envs)]
        self.reset_infos = infos
        self._reset_seeds()
        self._reset_options()
        return np.concatenate(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions ``[num_envs, hot]`` for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Observations, rewards float32, done, and one info per environment, with ``terminal_observation`` at ends."""
        results = [part.step(self._actions[span]) for part, span in zip(self.parts, self._slices, strict=True)]
        observations, rewards, terminated, truncated = (
            np.concatenate([result[k] for result in results]) for k in range(4)
        )
        infos = [info_of(result[4], i) for result in results for i in range(len(result[1]))]
        for i in np.flatnonzero(terminated | truncated).tolist():
            # Here, the info of the last step is that of the episode which has ended, not of the next one.
            ended = infos[i]
            infos[i] = {**ended["final_info"], "terminal_observation": ended["final_obs"]}
            infos[i]["TimeLimit.truncated"] = bool(self._bootstrap and truncated[i] and not terminated[i])
        return observations, rewards.astype(np.float32), terminated | truncated, infos

    def close(self) -> None:
        """Let go of all populations."""
        for part in self.parts:
            part.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the vector environment that an environment is part of, once per index."""
        owners = [part.unwrapped for part in self.parts for _ in range(part.num_envs)]
        return [getattr(owners[i], attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """There are no separate environments to set attributes of."""
        raise InvalidConfiguration(f"cannot set {attr_name!r}: the environments live in one batch")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """There are no separate environments to call."""
        raise InvalidConfiguration(f"cannot call {method_name!r}: the environments live in one batch")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """They are not."""
        return [False for _ in self._get_indices(indices)]


def info_of(infos: Mapping[str, Any], i: int) -> dict[str, Any]:
    """One environment's info out of those that Gymnasium's vector environments batch."""
    return {
        name: info_of(value, i) if isinstance(value, dict) else value[i]
        for name, value in infos.items()
        if not name.startswith("_") and infos[f"_{name}"][i]
    }
