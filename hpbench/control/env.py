"""The meta-environment as a Gymnasium environment: a batch of one meta-episode."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import gymnasium as gym

from hpbench.agent import AgentSpec, Branches
from hpbench.control.episode import EpisodeBatch
from hpbench.control.observation import Schema
from hpbench.control.options import EnvOptions
from hpbench.control.snapshot import EpisodeSnapshot
from hpbench.errors import InvalidConfiguration, SnapshotError, UnknownName

SEEDS = 2**31
"""Seeds of episodes that are reset without one are drawn below this."""


class HPControlEnv(gym.Env[Any, Any]):
    """A training run as an episode, its hyperparameters as the action.

    ## Description

    Inside the environment an RL algorithm (the *learner*) trains on a *task*. Every step is one *decision*: the agent
    may change the learner's hyperparameters, then the learner trains for one *segment* (a fixed number of environment
    steps, always whole rollouts) and plays some evaluation episodes. An episode is one whole training run with a fixed
    budget.

    ```python
    import gymnasium as gym, hpbench
    env = gym.make("HPControl-Classic-v0", task="classic/cartpole")
    observation, info = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    ```

    ``gym.make("hpbench:HPControl-Classic-v0")`` works without importing ``hpbench`` first.

    ## Action Space

    Hyperparameters that may change while training runs are *hot*; actions follow their order,
    `spec.hyperparameters.hot`.

    | `action` | space | meaning |
    |---|---|---|
    | `delta` | `Box(-1, 1, (hot,), float32)` | 1 multiplies by 4, -1 divides by 4, on its own scale; 0 keeps |
    | `absolute` | `Box(-1, 1, (hot,), float32)` | -1 is the low bound, 1 the high one, on its own scale |
    | `discrete` | `MultiDiscrete([7] * hot)` | x0.25, x0.5, x0.8, keep (3), x1.25, x2, x4 |
    | `text` | `Text(0..1024)` | sparse JSON: `{"learning_rate": 0.001, "clip_range": "x0.5"}`; `{}` keeps |

    "Its own scale" is logarithmic for most, `log(1 - x)` for discount and GAE lambda (x2 doubles the horizon), or
    linear. What leaves the bounds is clipped and listed in `info["hpbench"]["clipped"]`. NaN, infinity, a wrong shape
    or type raise `InvalidAction`. A text that is not such an object is *invalid*: nothing changes, the reward loses
    0.01, it is counted in the info, and the next observation has one line of feedback.

    ## Observation Space

    | `observation` | space |
    |---|---|
    | `vector` | `Box(float32, (2 * features,))`: features in [-1, 1], then a mask: 1 where the feature has a value |
    | `text` | `Text`: the same as `name raw[level]`, plus the last transitions of one training environment |
    | `dict` | `Dict(vector=..., text=...)` |

    `env.unwrapped.schema.features` lists names, meanings, bounds and transforms; `schema.values(observation)` returns
    the raw values of a `vector` or `dict` observation. Features: budget; training return with trends; episode length;
    losses, KL and clipping; gradients; plasticity; a summary of the last transitions; the current hyperparameters; the
    last four updates with their effects. All describe *training* episodes: evaluation feeds the reward only.

    ## Rewards

    The score is the mean undiscounted return of the evaluation episodes, which have their own random stream, normalised
    by the task's anchors.

    | `reward` | value | sums up to |
    |---|---|---|
    | `progress` | score minus the score before the action | final score minus the score before training |
    | `auc` | score / decisions | mean score |
    | `uplift` | score minus the score of a copy that trained on without the update, on the same random streams | |

    `uplift` doubles the cost; the copy's steps are in `info["hpbench"]["counterfactual_steps"]`.
    `info["hpbench"]["meta_score"]` of the last step is half the final score plus half the mean over decisions.

    ## Starting State

    A learner with fresh weights. `reset(seed=s)` decides everything with `s`: same seed and same actions, same episode.
    Without a seed, one is drawn from `np_random` and reported in the info. Track `default`: the learner's default
    hyperparameters. `random`: one of 64 fixed configurations. `shift`: like `default`, but between 0.3 and 0.7 of the
    budget the task changes to a variant of itself; training, running episodes included, goes on there. Agents are not
    told; from then on, scores are those on the new task. `reset(options={"task": id})` chooses the task of this
    episode.

    ## Episode End

    Truncated after the last decision. Terminated when the learner diverges (NaN or infinity in its parameters): then
    the score is the floor in this segment and in all that would have followed. The floor is 0, or the score before if
    that was even lower, so breaking a learner never pays. `progress` pays the floor minus the last score, `auc` pays
    nothing any more, and the meta-score counts the remaining decisions as the floor.

    ## Arguments

    See :class:`~hpbench.control.options.EnvOptions`; `render_mode="ansi"` makes `render()` return the text view.

    ## Version History

    * v0: first version.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 (Gymnasium declares it without ClassVar)

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        """Check the options and make the spaces.

        Args:
            render_mode: ``ansi`` or None.
            **options: fields of :class:`~hpbench.control.options.EnvOptions`.

        Raises:
            UnknownName: for an option, or the word it is set to, that does not exist; with near misses.
            InvalidConfiguration: for options that cannot work; see :class:`EnvOptions` and :class:`EpisodeBatch`.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise UnknownName("render mode", render_mode, self.metadata["render_modes"])
        self.render_mode = render_mode
        self.options = EnvOptions.parse(options)
        setting = EpisodeBatch(self.options, [0]).setting
        self.schema: Schema = setting.schema
        self.observation_space = setting.observation_space()
        self.action_space = setting.action_space()
        self._batch: EpisodeBatch | None = None

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a meta-episode.

        Args:
            seed: decides the whole episode, and seeds ``np_random``; None: drawn from ``np_random``.
            options: ``{"task": id}`` chooses the task of this episode.

        Raises:
            UnknownName: for another option, or an unknown task.
        """
        super().reset(seed=seed)
        episode = int(self.np_random.integers(SEEDS)) if seed is None else seed
        self._batch = EpisodeBatch(self._episode_options(options), [episode])
        observations, infos = self._batch.reset()
        return observations[0], infos[0]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One decision and the segment after it.

        Raises:
            InvalidAction: for NaN, infinity, a wrong shape or a wrong type. Nothing has happened then.
            gymnasium.error.ResetNeeded: before the first reset and after the end.
        """
        step = self._running().step([action])
        return step.observations[0], step.earned[0], step.diverged[0], step.spent[0], step.infos[0]

    def render(self) -> str:  # type: ignore[override]
        """The text view of the current observation, whatever the ``observation`` option is.

        Raises:
            InvalidConfiguration: unless the environment was made with ``render_mode="ansi"``.
        """
        if self.render_mode is None:
            raise InvalidConfiguration('nothing to render: make the environment with render_mode="ansi"')
        return self._running().texts()[0]

    @property
    def batch(self) -> EpisodeBatch:
        """The batch of one that runs the current meta-episode; its population is the learner itself."""
        return self._running()

    @property
    def agent_spec(self) -> AgentSpec:
        """What an agent is told about the current meta-episode."""
        return self._running().specs[0]

    def snapshot(self) -> EpisodeSnapshot:
        """An exact copy of the meta-episode: learner, random streams, running episodes and history. ``np_random`` is no
        part of it."""
        return self._running().snapshot()

    def restore(self, snapshot: EpisodeSnapshot) -> None:
        """Go back to a snapshot of this or an equal environment; what follows is exactly what followed then.

        Raises:
            SnapshotError: if the snapshot is of an environment with other options.
        """
        try:
            options = EnvOptions.parse(snapshot.options)
        except (UnknownName, InvalidConfiguration) as error:
            raise SnapshotError(f"the snapshot has unusable options: {error}") from error
        if (
            dataclasses.replace(options, task=None) != dataclasses.replace(self.options, task=None)
            or len(snapshot.seeds) != 1
        ):
            raise SnapshotError(f"the snapshot is of another environment: {options}, this one has {self.options}")
        batch = self._batch
        if batch is None or batch.options != options or batch.seeds != tuple(snapshot.seeds):
            batch = EpisodeBatch(options, snapshot.seeds)
        batch.restore(snapshot)
        self._batch = batch

    def spawn(self, n: int) -> list[Self]:
        """``n`` independent environments that are exact copies of this one, ``np_random`` included.

        They share the past and nothing else: given the same actions they live through the same future, given other
        actions they branch off under common random numbers.
        """
        if n < 1:
            raise InvalidConfiguration(f"spawn needs at least one copy, got {n}")
        batch = self._running()
        copies = []
        for _ in range(n):
            other = copy.copy(self)
            other.observation_space, other.action_space = copy.deepcopy((self.observation_space, self.action_space))
            other._np_random = copy.deepcopy(self._np_random)
            other._batch = batch.spawn([0])
            copies.append(other)
        return copies

    def branch(
        self,
        actions: Sequence[Any],
        horizon: int = 1,
        *,
        evaluation_seed: int | None = None,
        evaluation_episodes: int | None = None,
    ) -> Branches:
        """Try ``K`` actions from the current state, all on copies of the learner in one batch; nothing here changes.

        Each copy takes its action, trains for a segment, keeps its hyperparameters, and trains on until ``horizon``
        segments are done. Copies continue the random streams of the original: the one whose action ``step`` is given
        next is what the environment will be, bit for bit. See :func:`hpbench.control.branching.branch`.

        Args:
            actions: elements of the action space; whatever is to be compared, a no-op included.
            horizon: segments, at most as many as there are decisions left.
            evaluation_seed: evaluate on streams derived from this number instead of the one that scores ``step``.
            evaluation_episodes: per evaluation; None: as many as ``step`` plays.

        Raises:
            InvalidAction: for an action without meaning.
            InvalidConfiguration: if there is no action, or the horizon is not positive.
            gymnasium.error.ResetNeeded: before the first reset and after the end.
        """
        batch = self._running()
        if batch.ended(0):
            raise gym.error.ResetNeeded("the meta-episode has ended; call reset()")
        found = batch.branch(
            [actions], horizon, evaluation_seed=evaluation_seed, evaluation_episodes=evaluation_episodes
        )
        return found[0]

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the running batch, and a snapshot of that: pickling and deep copies are exact."""
        state = {name: value for name, value in self.__dict__.items() if name not in ("_batch", "schema")}
        return {**state, "snapshot": None if self._batch is None else self._batch.snapshot()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        snapshot = state.pop("snapshot")
        self.__dict__.update(state)
        self.schema = EpisodeBatch(self.options, [0]).setting.schema
        self._batch = None
        if snapshot is not None:
            self.restore(snapshot)

    def _running(self) -> EpisodeBatch:
        if self._batch is None:
            raise gym.error.ResetNeeded("call reset() first")
        return self._batch

    def _episode_options(self, options: Mapping[str, Any] | None) -> EnvOptions:
        if options is None:
            return self.options
        for name in options:
            if name != "task":
                raise UnknownName("reset option", name, ("task",))
        return dataclasses.replace(self.options, **options)
