"""The population game as a PettingZoo environment: one agent per member of a population."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray

from hpbench.agent import PopulationSpec
from hpbench.control.episode import EpisodeBatch
from hpbench.control.options import EnvOptions
from hpbench.control.population_view import COLUMNS, PopulationReader, PopulationSchema, Standing, standings
from hpbench.errors import InvalidAction, InvalidConfiguration, MissingExtra, UnknownName
from hpbench.seeding import derive_seed

try:
    from pettingzoo import ParallelEnv
except ImportError as error:
    raise MissingExtra("pettingzoo", "pettingzoo") from error

MEMBER_STREAM = int.from_bytes(b"member", "big")
_SEEDS = 2**31


def member_seeds(seed: int, members: int) -> tuple[int, ...]:
    """The seeds of the members of the population with that seed."""
    return tuple(derive_seed(seed, MEMBER_STREAM, m) for m in range(members))


class HPControlPopulationEnv(ParallelEnv):  # type: ignore[misc]
    """Training runs that can copy each other: every agent steers one member of a population.

    ## Description

    All members train on the same task, each with its own seed and hyperparameters, as in
    ``HPControl-Classic-v0``. At every decision each agent may have its member overwritten by another one, and changes
    its hyperparameters; then all members train for one segment.

    ```python
    import hpbench
    env = hpbench.parallel_env("HPControl-Population-v0", task="classic/cartpole", members=8, track="random")
    observations, infos = env.reset(seed=0)
    actions = {agent: env.action_space(agent).sample() for agent in env.agents}
    observations, rewards, terminations, truncations, infos = env.step(actions)
    ```

    ## Action Space

    `Dict(copy_from=Discrete(members), update=...)`. `update` is the action of the single environment (`delta`,
    `absolute`, `discrete` or `text`). `copy_from` is the index of the member to copy; the own index copies nobody.

    1. Copies act first and all at once, on the state before the decision: if 0 copies 1 and 1 copies 2, then 0 becomes
       what 1 was. Everything that was learned is copied: weights, optimiser, running episodes, hyperparameters. The
       random streams are not: the copy goes its own way from here. Copying a member that has ended does nothing.
    2. Then updates apply, to the copied hyperparameters.

    `flat=True` makes it one array: `discrete`: `MultiDiscrete([7] * hot + [members])`. `delta`, `absolute`:
    `Box(-1, 1, (hot + members,))`; the largest of the last numbers names the member to copy, and a tie with the own
    number means none.

    ## Observation Space

    `Box(float32)`: the vector of the single environment, then five numbers for every member, in order: score of its
    last segment's *training* episodes, whether that is known, rank by it, whether it is running, and whether it is the
    observing member itself. `agent_spec.schema` reads them: `values(observation)`, `standings(observation)`. After a
    copy, the past that an observation tells of is that of the copied run.

    `state()` holds the own vectors of all members, then the table of scores and ranks once.

    ## Rewards

    Those of the single environment, per member: `progress`, `auc` or `uplift`. A copy counts as a decision like any
    other, so `progress` sums up to the member's final score minus its score before training.

    ## Starting State

    `reset(seed=s)` decides everything. The task (if none is named) and the shift come from `s` and are the same for all
    members; initial values and random streams come from the members' own seeds, `member_seeds(s, members)`. Without
    copies, a member lives through the same meta-episode as the single environment that is reset with its seed (on the
    `shift` track, the task may change elsewhere). `reset(options={"task": id})` chooses the task of this episode;
    other entries are ignored.

    ## Episode End

    All members are truncated after the last decision. A member that diverges is terminated, leaves `agents` and does
    not come back: it can neither copy nor be copied. The others go on.

    ## Arguments

    `members` (default 8, at least 2), `flat` (default False), `render_mode` (`ansi` or None), and the fields of
    :class:`~hpbench.control.options.EnvOptions`; `observation` must be `vector`. `family` follows from `task`.

    ## Version History

    * v0: first version.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (PettingZoo declares it without ClassVar)
        "name": "HPControl-Population-v0",
        "render_modes": ["ansi"],
        "render_fps": 1,
        "is_parallelizable": True,
    }

    def __init__(self, *, members: int = 8, flat: bool = False, render_mode: str | None = None, **options: Any) -> None:
        """Check the options and make the spaces.

        Raises:
            UnknownName: for an option, or the word it is set to, that does not exist; with near misses.
            InvalidConfiguration: for options that cannot work.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise UnknownName("render mode", render_mode, self.metadata["render_modes"])
        if isinstance(members, bool) or not isinstance(members, int) or members < 2:
            raise InvalidConfiguration(f"a population needs members=2 or more, got {members!r}")
        if isinstance(options.get("task"), str):
            options.setdefault("family", options["task"].partition("/")[0])
        self.render_mode, self.flat = render_mode, flat
        self.options = EnvOptions.parse(options)
        if self.options.observation != "vector":
            raise InvalidConfiguration("the population game has observation='vector' only; render() gives a text")
        self.possible_agents = [f"member_{m}" for m in range(members)]
        self.agents: list[str] = []
        self._set_up()
        self.observation_spaces = {name: self.schema.box() for name in self.possible_agents}
        self.action_spaces = {name: self._reader.space() for name in self.possible_agents}
        self.state_space = self._make_state_space()
        self._np_random, _ = np_random()
        self._batch: EpisodeBatch | None = None
        self._seed = 0

    def observation_space(self, agent: str) -> gym.Space[Any]:
        """The space of a member's observations, the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space[Any]:
        """The space of a member's actions, the same object at every call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start a meta-episode.

        Args:
            seed: decides the whole episode; None: drawn from the environment's own generator.
            options: ``{"task": id}`` chooses the task of this episode. Other entries are ignored: PettingZoo's API test
                hands some to every environment.

        Raises:
            UnknownName: for an unknown task.
        """
        if seed is not None:
            self._np_random, _ = np_random(seed)
        self._seed = int(self._np_random.integers(_SEEDS)) if seed is None else seed
        chosen = self.options
        if options is not None and "task" in options:
            chosen = dataclasses.replace(self.options, task=options["task"])
        self._batch = self._make_batch(chosen)
        _, infos = self._batch.reset()
        self.agents = list(self.possible_agents)
        return self._by_name(self._observe()), self._infos(infos, {}, {})

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        """One decision of all members that are running, and the segment after it.

        Raises:
            InvalidAction: if a running member has no action, or for an action without meaning. Nothing has happened
                then.
            UnknownName: for an action of a member that does not exist or has ended.
            gymnasium.error.ResetNeeded: before the first reset and after the end.
        """
        batch = self._running()
        if not self.agents:
            raise gym.error.ResetNeeded("the meta-episode has ended; call reset()")
        updates, wishes = self._read(actions)
        copies = {m: s for m, s in wishes.items() if self.possible_agents[s] in self.agents}
        result = batch.step(updates, copies)
        observations = self._by_name(self._observe())
        rewards = self._by_name(result.rewards.tolist())
        terminations = self._by_name(result.terminated.tolist())
        truncations = self._by_name(result.truncated.tolist())
        infos = self._infos(result.infos, wishes, copies)
        self.agents = [name for name in self.agents if not (terminations[name] or truncations[name])]
        return observations, rewards, terminations, truncations, infos

    def render(self) -> str:
        """One line per member: rank, training score, hyperparameters.

        Raises:
            InvalidConfiguration: unless the environment was made with ``render_mode="ansi"``.
        """
        if self.render_mode is None:
            raise InvalidConfiguration('nothing to render: make the environment with render_mode="ansi"')
        infos = [info["hpbench"] for info in self._running().infos()]
        lines = [f"population of {len(infos)}, decision {infos[0]['decision']} of {self.agent_spec.decisions}"]
        for name, info, row in zip(self.possible_agents, infos, self._standings(), strict=True):
            values = " ".join(f"{key} {value:.5g}" for key, value in info["values"].items())
            status = f"rank {row.rank} score {row.score:.3f}" if row.running else "diverged"
            lines.append(f"{name} {status} {values}")
        return "\n".join(lines)

    def state(self) -> NDArray[np.float32]:
        """The global view, an element of ``state_space``: float32."""
        size = 2 * len(self.schema.single)
        observations = self._observe()
        table = observations[0][size:].copy()
        table[COLUMNS.index("own") :: len(COLUMNS)] = 0.0  # nobody's view
        return np.concatenate([*(observation[:size] for observation in observations), table])

    @property
    def batch(self) -> EpisodeBatch:
        """The batch that runs the current meta-episode."""
        return self._running()

    @property
    def agent_spec(self) -> PopulationSpec:
        """What a population agent is told about the current meta-episode."""
        single = self._running().specs[0]
        fields = {field.name: getattr(single, field.name) for field in dataclasses.fields(single)}
        fields |= {"schema": self.schema, "observation_space": self.schema.box(), "action_space": self._reader.space()}
        return PopulationSpec(**fields, members=tuple(self.possible_agents))

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the running batch, and a snapshot of that: pickling and deep copies are exact."""
        state = {name: value for name, value in self.__dict__.items() if name not in ("_batch", "schema", "_reader")}
        return {**state, "snapshot": None if self._batch is None else self._batch.snapshot()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        snapshot = state.pop("snapshot")
        self.__dict__.update(state)
        self._set_up()
        self._batch = None
        if snapshot is not None:
            self._batch = self._make_batch(EnvOptions.parse(snapshot.options))
            self._batch.restore(snapshot)

    def _set_up(self) -> None:
        setting = EpisodeBatch(self.options, [0]).setting
        members, hot = len(self.possible_agents), len(setting.hyperparameters.hot)
        self.schema = PopulationSchema(setting.schema, members)
        self._reader = PopulationReader(setting.reader, hot, members, self.flat)

    def _make_state_space(self) -> spaces.Box:
        own, whole = self.schema.single.box(), self.schema.box()
        low = np.concatenate([*[own.low] * len(self.possible_agents), whole.low[len(own.low) :]])
        return spaces.Box(low, np.ones_like(low), dtype=np.float32)

    def _make_batch(self, options: EnvOptions) -> EpisodeBatch:
        return EpisodeBatch(options, member_seeds(self._seed, len(self.possible_agents)), task_seed=self._seed)

    def _read(self, actions: Mapping[str, Any]) -> tuple[list[Any], dict[int, int]]:
        """Updates of all members (None where ended), and who wants to copy whom."""
        for name in actions:
            if name not in self.agents:
                raise UnknownName("running member", name, self.agents)
        updates, wishes = [None] * len(self.possible_agents), {}
        for m, name in enumerate(self.possible_agents):
            if name not in self.agents:
                continue
            if name not in actions:
                raise InvalidAction(f"{name} has no action; every running member needs one")
            updates[m], source = self._reader.read(m, actions[name])
            if source != m:
                wishes[m] = source
        return updates, wishes

    def _standings(self) -> list[Standing]:
        batch = self._running()
        return standings(batch.training_scores(), (~batch.population.diverged).tolist())

    def _observe(self) -> list[NDArray[np.float32]]:
        return self.schema.encode(self._running().observe(), self._standings())

    def _infos(
        self, infos: Sequence[dict[str, Any]], wishes: Mapping[int, int], copies: Mapping[int, int]
    ) -> dict[str, Any]:
        for m, info in enumerate(infos):
            info["hpbench"] |= {
                "member": self.possible_agents[m],
                "population_seed": self._seed,
                "copied_from": self.possible_agents[copies[m]] if m in copies else None,
                "copy_ignored": m in wishes and m not in copies,
            }
        return self._by_name(infos)

    def _by_name(self, items: Sequence[Any]) -> dict[str, Any]:
        """What belongs to the members that were running before this decision."""
        return {name: item for name, item in zip(self.possible_agents, items, strict=True) if name in self.agents}

    def _running(self) -> EpisodeBatch:
        if self._batch is None:
            raise gym.error.ResetNeeded("call reset() first")
        return self._batch
