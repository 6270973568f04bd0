"""Many meta-environments as one Gymnasium vector environment: their learners train as one population."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from hpbench.agent import AgentSpec
from hpbench.control.env import SEEDS, HPControlEnv
from hpbench.control.episode import EpisodeBatch, Info
from hpbench.control.observation import Schema
from hpbench.control.options import EnvOptions, resolve_device
from hpbench.control.tracks import starting_task
from hpbench.errors import InvalidAction, InvalidConfiguration, UnknownName

Bools = NDArray[np.bool_]


@dataclass
class _Group:
    """Environments that share a population, in the order of its members."""

    envs: list[int]
    batch: EpisodeBatch


class HPControlVectorEnv(VectorEnv[Any, Any, Any]):
    """``num_envs`` meta-episodes at once, each exactly what :class:`~hpbench.control.env.HPControlEnv` would be.

    ```python
    import gymnasium as gym, hpbench
    envs = gym.make_vec("HPControl-Classic-v0", num_envs=8, vectorization_mode="vector_entry_point", split="train")
    observations, infos = envs.reset(seed=0)
    observations, rewards, terminated, truncated, infos = envs.step(envs.action_space.sample())
    ```

    Environments whose tasks are the same up to their variant share one population (an
    :class:`~hpbench.control.episode.EpisodeBatch`), so a decision is one batch of tensors per base task, however the
    environments are mixed and however far each of them is. Tasks with different dynamics never share one, even if
    their shapes agree: they run different kernels. Spaces, rewards and infos are those of
    ``HPControlEnv``, batched as Gymnasium's ``SyncVectorEnv`` batches them; on one device every number and every digest
    is the same as there.

    An environment whose meta-episode has ended starts its next one as ``autoreset_mode`` says. ``reset(seed=s)`` gives
    environment ``i`` the seed ``s + i``; a list gives each its own; later episodes draw theirs from ``np_random[i]``.

    Args:
        num_envs: number of environments.
        autoreset_mode: a :class:`gymnasium.vector.AutoresetMode` or its value. ``NextStep``: the step after the end
            resets, ignores the action and has reward 0. ``SameStep``: the step that ends an episode returns the first
            observation of the next one; the last one and its info are ``infos["final_obs"]`` and
            ``infos["final_info"]``. ``Disabled``: ``reset(options={"reset_mask": mask})`` is the caller's work.
        render_mode: ``ansi`` or None.
        threads: CPU threads that the members of a population are spread over. Results do not depend on it.
        **options: fields of :class:`~hpbench.control.options.EnvOptions`. ``device="auto"`` decides by ``num_envs``.

    Attributes:
        schema: what the features of an observation are.

    Raises:
        UnknownName: for an option, or the word it is set to, that does not exist; with near misses.
        InvalidConfiguration: for options that cannot work.
    """

    metadata: dict[str, Any] = {**HPControlEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        threads: int = 1,
        **options: Any,
    ) -> None:
        if num_envs < 1:
            raise InvalidConfiguration(f"num_envs must be at least 1, got {num_envs}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise UnknownName("render mode", render_mode, self.metadata["render_modes"])
        modes = [mode.value for mode in AutoresetMode]
        if not isinstance(autoreset_mode, AutoresetMode) and autoreset_mode not in modes:
            raise UnknownName("autoreset mode", autoreset_mode, modes)
        self.num_envs, self.render_mode, self.threads = num_envs, render_mode, threads
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.options = EnvOptions.parse(options)
        self._device = resolve_device(self.options.device, num_envs)
        setting = EpisodeBatch(self.options, [0]).setting
        self.schema: Schema = setting.schema
        self.single_observation_space = setting.observation_space()
        self.single_action_space = setting.action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] = []
        self._generator_seeds: list[int] = []
        self._groups: list[_Group] = []
        self._observations: list[Any] = [None] * num_envs
        self._over = np.zeros(num_envs, dtype=np.bool_)

    # -- Gymnasium -----------------------------------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Any, Info]:
        """Start meta-episodes.

        Args:
            seed: one per environment; an int ``s`` means ``s, s + 1, ...``; None: drawn from ``np_random``.
            options: ``task``: id of the task of these episodes; ``reset_mask``: bool ``[num_envs]``, which environments
                to reset, all by default. Observations of the others stay as they are, infos hold those of the reset
                ones only.

        Raises:
            UnknownName: for another option, or an unknown task.
            InvalidConfiguration: if the number of seeds or the mask does not fit.
            gymnasium.error.ResetNeeded: if a mask leaves out environments that have never been reset.
        """
        seeds = self._seeds(seed)
        chosen = {} if options is None else dict(options)
        mask = self._mask(chosen.pop("reset_mask", None))
        for name in chosen:
            if name != "task":
                raise UnknownName("reset option", name, ("task", "reset_mask"))
        if not self._groups and not mask.all():
            raise gym.error.ResetNeeded("call reset() without a reset_mask first")
        if not self._generators:
            for _ in range(self.num_envs):
                self._seed_generator(len(self._generators), None)
        for i in np.flatnonzero(mask).tolist():
            if seeds[i] is not None:
                self._seed_generator(i, seeds[i])
        infos = self._start(np.flatnonzero(mask).tolist(), seeds, **chosen)
        self._over &= ~mask
        return self._batched(), self._collect(infos)

    def step(self, actions: Any) -> tuple[Any, NDArray[np.float64], Bools, Bools, Info]:
        """One decision of every environment and the segment after it.

        Args:
            actions: an element of ``action_space``. Those of environments that this step resets are not looked at.

        Returns:
            Observations, rewards float64 ``[num_envs]``, terminated and truncated bool ``[num_envs]``, infos.

        Raises:
            InvalidAction: for an action without meaning; names the environment. Nothing has happened then.
            gymnasium.error.ResetNeeded: before the first reset; without autoreset, if an episode has ended.
        """
        self._require_reset()
        if self.autoreset_mode is AutoresetMode.DISABLED and self._over.any():
            raise gym.error.ResetNeeded(f"the meta-episodes {np.flatnonzero(self._over).tolist()} have ended")
        choices = list(iterate(self.action_space, actions))
        self._check_actions(choices)
        resting = np.flatnonzero(self._over).tolist()
        rewards, ends = np.zeros(self.num_envs), np.zeros((2, self.num_envs), dtype=np.bool_)
        infos: dict[int, Info] = {}
        self._drop(resting)
        for group in self._groups:
            result = group.batch.step([choices[i] for i in group.envs])
            rewards[group.envs] = result.rewards
            ends[:, group.envs] = result.terminated, result.truncated
            for i, observation, info in zip(group.envs, result.observations, result.infos, strict=True):
                self._observations[i], infos[i] = observation, info
        if resting:
            infos |= self._start(resting, [None] * self.num_envs)
        self._over = ends.any(axis=0)
        finals: dict[int, Info] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._over.any():
            ended = np.flatnonzero(self._over).tolist()
            finals = {i: {"final_obs": self._observations[i], "final_info": infos[i]} for i in ended}
            infos |= self._start(ended, [None] * self.num_envs)
            self._over[:] = False
        return self._batched(), rewards, ends[0], ends[1], self._collect(infos, finals)

    def render(self) -> tuple[str, ...]:  # type: ignore[override]
        """The text views of the current observations, one per environment.

        Raises:
            InvalidConfiguration: unless the environment was made with ``render_mode="ansi"``.
        """
        if self.render_mode is None:
            raise InvalidConfiguration('nothing to render: make the environment with render_mode="ansi"')
        return self._by_env([group.batch.texts() for group in self._running()])

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of all populations."""
        self._groups = []

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """One generator per environment; they draw the seeds of episodes that are started without one."""
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """What each of them was seeded with."""
        return tuple(self._generator_seeds)

    # -- beyond Gymnasium ----------------------------------------------------------------------------------------------

    @property
    def agent_specs(self) -> tuple[AgentSpec, ...]:
        """What agents are told about the current meta-episodes, one per environment."""
        return self._by_env([group.batch.specs for group in self._running()])

    @property
    def batches(self) -> tuple[tuple[tuple[int, ...], EpisodeBatch], ...]:
        """The populations at this moment: which environments its members are, and the batch. Steps replace them."""
        return tuple((tuple(group.envs), group.batch) for group in self._running())

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the running batches, and snapshots of these: pickling and deep copies are exact."""
        state = {name: value for name, value in self.__dict__.items() if name not in ("_groups", "schema")}
        return {**state, "snapshots": [(group.envs, group.batch.snapshot()) for group in self._groups]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        snapshots = state.pop("snapshots")
        self.__dict__.update(state)
        self.schema = EpisodeBatch(self.options, [0]).setting.schema
        self._groups = []
        for envs, snapshot in snapshots:
            batch = EpisodeBatch(EnvOptions.parse(snapshot.options), snapshot.seeds, self.threads)
            batch.restore(snapshot)
            self._groups.append(_Group(list(envs), batch))

    # -- episodes ------------------------------------------------------------------------------------------------------

    def _start(self, envs: Sequence[int], seeds: Sequence[int | None], **chosen: Any) -> dict[int, Info]:
        """Start meta-episodes in these environments; those on one base task as one batch."""
        options = dataclasses.replace(self.options, device=self._device, **chosen)
        episodes: dict[str, dict[int, int]] = {}
        for i in envs:
            given = seeds[i]
            seed = int(self._generators[i].integers(SEEDS)) if given is None else given
            episodes.setdefault(starting_task(options, seed).base, {})[i] = seed
        fresh, infos = [], {}
        for started in episodes.values():
            batch = EpisodeBatch(options, list(started.values()), self.threads)
            observations, results = batch.reset()
            fresh.append(_Group(list(started), batch))
            for i, observation, info in zip(started, observations, results, strict=True):
                self._observations[i], infos[i] = observation, info
        self._drop(envs)
        for group in fresh:
            self._add(group)
        return infos

    def _add(self, group: _Group) -> None:
        """Join a group with the one on its base task, if there is one; they may be at different decisions."""
        for other in self._groups:
            same_task = other.batch.specs[0].task.base == group.batch.specs[0].task.base
            if same_task and other.batch.options == group.batch.options:
                other.batch = other.batch.join([group.batch])
                other.envs += group.envs
                return
        self._groups.append(group)

    def _drop(self, envs: Sequence[int]) -> None:
        """Take the meta-episodes of these environments out of their batches."""
        gone, groups = set(envs), []
        for group in self._groups:
            kept = [member for member, i in enumerate(group.envs) if i not in gone]
            if 0 < len(kept) < len(group.envs):
                group = _Group([group.envs[member] for member in kept], group.batch.spawn(kept))
            if kept:
                groups.append(group)
        self._groups = groups

    def _check_actions(self, choices: Sequence[Any]) -> None:
        """Read all actions before any of them acts."""
        for group in self._groups:
            values = group.batch.population.table().tolist()
            for i, row in zip(group.envs, values, strict=True):
                if not self._over[i]:
                    try:
                        group.batch.setting.reader.read(choices[i], row)
                    except InvalidAction as error:
                        raise InvalidAction(f"environment {i}: {error}") from error

    # -- shapes --------------------------------------------------------------------------------------------------------

    def _batched(self) -> Any:
        empty = create_empty_array(self.single_observation_space, self.num_envs)
        return concatenate(self.single_observation_space, self._observations, empty)

    def _collect(self, infos: Mapping[int, Info], finals: Mapping[int, Info] | None = None) -> Info:
        """In the order and by the rules of ``SyncVectorEnv``: arrays with a mask for each key."""
        collected: Info = {}
        for i in sorted(infos):
            if finals and i in finals:
                collected = self._add_info(collected, finals[i], i)
            collected = self._add_info(collected, infos[i], i)
        return collected

    def _by_env(self, parts: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
        found: list[Any] = [None] * self.num_envs
        for group, values in zip(self._groups, parts, strict=True):
            for i, value in zip(group.envs, values, strict=True):
                found[i] = value
        return tuple(found)

    def _seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise InvalidConfiguration(f"{len(seed)} seeds for {self.num_envs} environments")
        return [None if one is None else int(one) for one in seed]

    def _mask(self, mask: Any) -> Bools:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        array = np.asarray(mask)
        if array.shape != (self.num_envs,) or array.dtype != np.bool_ or not array.any():
            raise InvalidConfiguration(
                f"reset_mask must be a bool array of shape ({self.num_envs},) with at least one True, got {mask!r}"
            )
        return array

    def _seed_generator(self, i: int, seed: int | None) -> None:
        generator, used = seeding.np_random(seed)
        self._generators[i : i + 1], self._generator_seeds[i : i + 1] = [generator], [used]

    def _running(self) -> list[_Group]:
        self._require_reset()
        return self._groups

    def _require_reset(self) -> None:
        if not self._groups:
            raise gym.error.ResetNeeded("call reset() first")
