"""Proximal policy optimisation for a population (Schulman et al. 2017), in the form of its well-tested implementations.

Clipped surrogate, generalised advantage estimation with time limits bootstrapped (Schulman et al. 2016; Pardo et al.
2018), advantages normalised per minibatch, mean squared value loss without clipping, Adam (epsilon 1e-5), gradients
clipped by their global norm: the choices of Stable-Baselines3 and CleanRL (Huang et al. 2022, "The 37 implementation
details of PPO").

This file is the reference. The native engine does the same on the same state, one member after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpbench.errors import InvalidConfiguration
from hpbench.hyperparameter import Hyperparameter, HyperparameterSpace
from hpbench.learners import encoded_graphs, images_policy
from hpbench.learners.advantage import standardised_advantage
from hpbench.learners.averages import average, shares
from hpbench.learners.encoders import EncodedActorCritic, make_encoder
from hpbench.learners.graph import Graphs, room
from hpbench.learners.native import Binding
from hpbench.learners.networks import ActorCritic
from hpbench.learners.normalisation import initial_moments
from hpbench.learners.on_policy import BUFFER, OnPolicy
from hpbench.learners.optimiser import adam, clip
from hpbench.learners.snapshot import State
from hpbench.learners.totals import Totals
from hpbench.seeding import Stream
from hpbench.tasks.base import Task

HYPERPARAMETERS = HyperparameterSpace(
    Hyperparameter("learning_rate", 1e-5, 1e-1, 3e-4, "log", meaning="step size of Adam"),
    Hyperparameter("entropy_coefficient", 1e-5, 0.2, 1e-3, "log", meaning="weight of the entropy bonus: exploration"),
    Hyperparameter("value_coefficient", 0.05, 2.0, 0.5, "log", meaning="weight of the value loss"),
    Hyperparameter("clip_range", 0.01, 0.6, 0.2, "log", meaning="how far one update may move the policy"),
    Hyperparameter("discount", 0.8, 0.9999, 0.99, "log1m", meaning="how much later rewards count"),
    Hyperparameter("gae_lambda", 0.5, 0.999, 0.95, "log1m", meaning="bias-variance trade-off of advantages"),
    Hyperparameter("max_gradient_norm", 0.05, 10.0, 0.5, "log", meaning="gradients longer than this are scaled down"),
    Hyperparameter("update_epochs", 1, 20, 10, "log", integer=True, meaning="passes over each rollout"),
    Hyperparameter("minibatches", 1, 32, 8, "log", integer=True, meaning="parts that each pass is split into"),
)
"""Defaults are those of Stable-Baselines3 2.x (minibatches of 64, as 8 parts of 512 steps), but for the entropy
coefficient: there it is 0, which a log scale does not have."""

TOTALS = Totals(
    metrics=(
        "episodes", "return_mean", "return_sem", "episode_length", "success_rate",
        "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "explained_variance",
        "gradient_norm", "gradient_clipped", "update_ratio", "dormant_share", "feature_rank",
    ),
    per_episode=(),
    per_optimiser_step=(
        "policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "gradient_norm", "gradient_clipped",
    ),
    per_rollout=("explained_variance", "update_ratio"),
    at_the_end=("dormant_share", "feature_rank"),
)  # fmt: skip

LEARNED_FROM = ("observation", "action", "log_prob", "advantage", "return")
"""What a minibatch has of each step."""

OPTIMISER = ("parameters", "adam_mean", "adam_square", "adam_steps")
"""What an optimiser step changes in the state."""

BINDING = Binding(
    "ppo",
    sizes=("normalize_observation", "normalize_reward"),
    state=(
        "parameters", "adam_mean", "adam_square", "adam_steps",
        "observation_mean", "observation_variance", "observation_count",
        "return_running", "return_mean", "return_variance", "return_count",
    ),
    buffer=("observation", "action", *BUFFER, "last_value"),
)  # fmt: skip

ADAM_EPSILON = 1e-5


@dataclass(frozen=True)
class PPOConfig:
    """Frozen options.

    Args:
        num_envs: environments per member.
        num_steps: steps of each environment per rollout.
        hidden: widths of the tanh layers of actor and critic.
        normalize_observation: running mean and variance, updated once per rollout.
        normalize_reward: divide rewards by the running deviation of the discounted return.
        encoder: name of the network before actor and critic, which then are one layer each (``hidden`` is not used);
            ``mlp``: none. None: what the task names.
        compile: compile an encoder of images, on a GPU, before its work is recorded. On an H100 it then trained 1.4
            times as fast, after half a minute for each size of batch (``benchmarks/results/procgen_gpu.md``): for long
            runs. Results may round otherwise.
    """

    num_envs: int = 8
    num_steps: int = 64
    hidden: tuple[int, ...] = (64, 64)
    normalize_observation: bool = False
    normalize_reward: bool = False
    encoder: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if min(self.num_envs, self.num_steps, *self.hidden) < 1 or not self.hidden:
            raise InvalidConfiguration(f"sizes must be at least 1: {self}")


class PPO(OnPolicy):
    """A population of PPO learners. See :class:`~hpbench.learners.tensor.TensorPopulation`.

    :meth:`evaluate` plays the stochastic policy.
    """

    name = "ppo"
    hyperparameters = HYPERPARAMETERS
    totals = TOTALS
    binding = BINDING
    config_type = PPOConfig
    config: PPOConfig
    compiled = ("_interact", "_loss", "_descend", "_forward", "_advantages", "_words", "_draws")

    def _build(self, task: Task) -> None:
        config, actions = self.config, (task.action_count, task.discrete)
        name = task.encoder if config.encoder is None else config.encoder
        self.networks: ActorCritic | EncodedActorCritic
        if name == "mlp":
            if task.observation_dtype != "float32":
                raise InvalidConfiguration(
                    f"encoder='mlp' reads float32, the observations of {task.id} are {task.observation_dtype}"
                )
            self.networks = ActorCritic.build(task.observation_size, config.hidden, *actions)
        else:
            self.networks = EncodedActorCritic.build(make_encoder(name, task.observation_size, self.threads), *actions)
            if config.normalize_observation:
                raise InvalidConfiguration(f"normalize_observation is for encoder='mlp', not for {name!r}")
        if config.compile and not encoded_graphs.suits(self):
            raise InvalidConfiguration(
                f"compile=True is for encoders of images with device='cuda', not for {name!r} with {str(self.device)!r}"
            )
        self.evaluation_draws = self.networks.action_draws

    def _initial(self) -> State:
        keys, calls = self.state["rng_keys"], self.state["rng_calls"]
        parameters = self.networks.initial(keys[:, Stream.INITIALISATION], calls[:, Stream.INITIALISATION])
        # An encoder scales what it reads by itself.
        seen = 0 if isinstance(self.networks, EncodedActorCritic) else self.tasks[0].observation_size
        return {
            "parameters": parameters,
            "adam_mean": torch.zeros_like(parameters),
            "adam_square": torch.zeros_like(parameters),
            "adam_steps": torch.zeros(self.members, dtype=torch.int64),
            "return_running": torch.zeros(self.members, self.config.num_envs, dtype=torch.float64),
            **initial_moments("observation", self.members, seen),
            **initial_moments("return", self.members, 1),
        }

    def _native_obstacle(self) -> str | None:
        if isinstance(self.networks, EncodedActorCritic):
            return "it has no encoders"
        return super()._native_obstacle()

    def _native_options(self) -> dict[str, int]:
        config = self.config
        return {
            "normalize_observation": int(config.normalize_observation),
            "normalize_reward": int(config.normalize_reward),
        }

    # -- training

    def _segment(self, rollouts: int) -> Tensor:
        totals = super()._segment(rollouts)
        self.state["steps"] += rollouts * self.steps_per_rollout
        return totals

    def _run(self, rollouts: int, totals: Tensor) -> None:
        for _ in range(rollouts):
            self._collect(totals)
            before = self.state["parameters"].clone()
            self._update(totals)
            self._add_movement(before, totals)

    def _run_on_graphs(self, graphs: Graphs, rollouts: int, members: int) -> None:
        size, totals, buffer = self.steps_per_rollout, graphs.totals, self.buffer
        # Who fills the room that is left has no epochs.
        epochs, counts = np.zeros(self.members, np.int64), np.ones(self.members, np.int64)
        table, index = self.table()[:members], self.hyperparameters.index
        epochs[:members] = table[:, index("update_epochs")]
        counts[:members] = np.minimum(table[:, index("minibatches")], size)
        rooms = np.array([room(-(-size // count)) for count in counts.tolist()])
        buffer["epochs"].copy_(torch.from_numpy(epochs))
        buffer["minibatches"].copy_(torch.from_numpy(counts))
        for _ in range(rollouts):
            graphs.do("rollout", functools.partial(self._collect, totals))
            before = self.state["parameters"].clone()
            for width in sorted(set(rooms[:members].tolist())):
                those = rooms == width
                padded = bool((counts[those] * width != size).any())
                for epoch in range(int(epochs[those].max())):
                    buffer["epoch"].fill_(epoch)
                    graphs.do(f"shuffle {width}", functools.partial(self._shuffle_on_graphs, width))
                    for _ in range(int(counts[those & (epochs > epoch)].max())):
                        work = functools.partial(self._minibatch_on_graphs, width, padded, totals)
                        graphs.do(f"minibatch {width}{' padded' if padded else ''}", work)
            self._add_movement(before, totals)

    def _update(self, totals: Tensor) -> None:
        """All epochs on the rollout in the buffer, batched over members that split it in the same way."""
        for epochs, minibatches, members in self._groups():
            whole = len(members) == self.members
            part = self if whole else self._borrow(members)
            if not whole:
                part.buffer = {name: values[members] for name, values in self.buffer.items()}
            part_totals = totals if whole else totals[members]
            recorded = whole and encoded_graphs.suits(self)
            step = functools.partial(encoded_graphs.minibatch, self) if recorded else part._minibatch
            for _ in range(epochs):
                part._epoch(minibatches, part_totals, step)
            if not whole:
                totals[members] = part_totals
                self._scatter(part, members)
        encoded_graphs.release(self)

    def _groups(self) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
        table = self.state["hyperparameters"].cpu().numpy()
        columns = [self.hyperparameters.index("update_epochs"), self.hyperparameters.index("minibatches")]
        pairs, group = np.unique(table[:, columns].astype(np.int64), axis=0, return_inverse=True)
        for i, (epochs, minibatches) in enumerate(pairs.tolist()):
            yield epochs, min(minibatches, self.steps_per_rollout), np.flatnonzero(group.reshape(-1) == i)

    def _epoch(self, minibatches: int, totals: Tensor, step: Callable[[Tensor, Tensor], None]) -> None:
        """One pass over the rollout in the buffer, split into that many parts, with an optimiser step on each."""
        size, order = self.steps_per_rollout, self._order()
        self.state["rng_calls"][:, Stream.MINIBATCH] += 1
        for i in range(minibatches):
            step(order[:, i * size // minibatches : (i + 1) * size // minibatches], totals)

    def _order(self) -> Tensor:
        """A permutation of the rollout's steps for each member, ``[members, steps]``; the counter stays where it is."""
        keys, calls = self.state["rng_keys"][:, Stream.MINIBATCH], self.state["rng_calls"][:, Stream.MINIBATCH]
        return torch.argsort(self._words(keys, calls, self.steps_per_rollout), dim=1, stable=True)

    def _shuffle_on_graphs(self, width: int) -> None:
        """Begin an epoch of the members whose minibatches need that much room."""
        buffer, size = self.buffer, self.steps_per_rollout
        largest = (size + buffer["minibatches"] - 1) // buffer["minibatches"]
        torch.logical_and(buffer["epochs"] > buffer["epoch"], largest <= width, out=buffer["active"])
        buffer["active"] &= 2 * largest > width
        buffer["order"].copy_(self._order())
        self.state["rng_calls"][:, Stream.MINIBATCH] += buffer["active"]
        buffer["part"].zero_()

    def _minibatch_on_graphs(self, width: int, padded: bool, totals: Tensor) -> None:
        """The next minibatch of the members that are in an epoch, and have one left."""
        buffer, size, parts = self.buffer, self.steps_per_rollout, self.buffer["minibatches"]
        start, stop = buffer["part"] * size // parts, (buffer["part"] + 1) * size // parts
        place = start[:, None] + torch.arange(width, device=self.device)
        active = buffer["active"] & (buffer["part"] < parts)
        index = buffer["order"].gather(1, place.clamp(max=size - 1))
        self._minibatch(index, totals, active, stop - start if padded else None)
        buffer["part"] += 1

    def _minibatch(
        self, index: Tensor, totals: Tensor, active: Tensor | None = None, counts: Tensor | None = None
    ) -> None:
        """One optimiser step.

        Args:
            index: steps of the rollout, int64 ``[members, batch]``.
            totals: are added to.
            active: bool ``[members]``; the others are left as they are. None: all.
            counts: how many of the steps count for each member, the others are padding. None: all.
        """
        if isinstance(self.networks, EncodedActorCritic):  # member by member: what is kept for backward is large
            results = [self._gradient_of(i, index[i]) for i in range(self.members)]
            gradient = torch.cat([result[0] for result in results])
            statistics = tuple(map(torch.cat, zip(*(result[1] for result in results), strict=True)))
        else:
            rows = torch.arange(self.members, device=self.device)[:, None]
            batch = {name: self.buffer[name].flatten(1, 2)[rows, index] for name in LEARNED_FROM}
            gradient, statistics = self._gradient(slice(None), batch, counts)
        with torch.no_grad():
            optimiser = {name: self.state[name] for name in OPTIMISER}
            moved, norms = self._descend_apart(optimiser, gradient, self.state["hyperparameters"], active)
            self.state |= moved
            columns = torch.stack((*statistics, *norms, torch.ones_like(norms[0])), dim=1)
            # What a member without a minibatch left would have got may be anything, NaN too.
            columns = columns if active is None else torch.where(active[:, None], columns, 0.0)
            totals[:, TOTALS.of_optimiser_steps] += columns

    def _gradient_of(self, member: int, index: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """:meth:`_gradient` of one member with an encoder, on these steps of its rollout, int64 ``[batch]``."""
        assert isinstance(self.networks, EncodedActorCritic)
        rollout = {name: self.buffer[name][member].flatten(0, 1) for name in LEARNED_FROM}
        if not images_policy.suits(self.networks, rollout["observation"]):
            batch = {name: values.index_select(0, index)[None] for name, values in rollout.items()}
            return self._gradient(slice(member, member + 1), batch)
        table = self.state["hyperparameters"][member].tolist()
        weights = {name: table[self.hyperparameters.index(name)] for name in images_policy.WEIGHTS}
        row = self.state["parameters"][member].detach()
        gradient, statistics = images_policy.gradient(self.networks, row, rollout, index, **weights)
        statistics[2] /= self.networks.entropy_unit
        return gradient[None], torch.split(statistics, 1)

    def _gradient(
        self, members: slice, batch: State, counts: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Gradients of some members' losses, ``[members, parameters]``, and the statistics of :meth:`_loss`."""
        parameters = self.state["parameters"][members].detach().requires_grad_()
        loss, statistics = self._loss(parameters, batch, self.state["hyperparameters"][members], counts)
        (gradient,) = torch.autograd.grad(loss.sum(), parameters)
        return gradient, statistics

    def _loss(
        self, parameters: Tensor, batch: State, table: Tensor, counts: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Loss ``[members]``, and policy loss, value loss, relative entropy, KL, clip fraction, each ``[members]``."""
        share = None if counts is None else shares(counts, batch["advantage"].shape[1])
        output, value, log_std = self.networks.outputs(parameters, batch["observation"])
        log_prob, entropies = self.networks.distribution(output, log_std, batch["action"])
        entropy = entropies[:, 0] if self.networks.log_std else average(entropies, share)
        advantage = standardised_advantage(batch["advantage"], share, counts)
        clip_range = self._column(table, "clip_range")[:, None]
        log_ratio = log_prob - batch["log_prob"]
        ratio = log_ratio.exp()
        clipped = torch.minimum(torch.maximum(ratio, 1.0 - clip_range), 1.0 + clip_range)
        policy_loss = -average(torch.minimum(advantage * ratio, advantage * clipped), share)
        value_loss = average((batch["return"] - value).square(), share)
        bonus = self._column(table, "entropy_coefficient") * entropy
        loss = policy_loss + self._column(table, "value_coefficient") * value_loss - bonus
        with torch.no_grad():
            # The low-variance estimator of Schulman 2020, joschu.net/blog/kl-approx.html
            kl = average(ratio - 1.0 - log_ratio, share)
            clip_fraction = average(((ratio - 1.0).abs() > clip_range).float(), share)
        statistics = (policy_loss, value_loss, entropy / self.networks.entropy_unit, kl, clip_fraction)
        return loss, tuple(s.detach() for s in statistics)

    def _descend_apart(
        self, optimiser: State, gradient: Tensor, table: Tensor, active: Tensor | None
    ) -> tuple[State, list[Tensor]]:
        """:meth:`_descend`; on a GPU with an encoder, member by member: there, in which order the norm of a long row
        is summed up depends on how many rows there are, and where in memory it begins."""
        if active is not None or self.device.type == "cpu" or not isinstance(self.networks, EncodedActorCritic):
            return self._descend(optimiser, gradient, table, active)
        rows = [slice(i, i + 1) for i in range(len(gradient))]
        parts = [
            self._descend(
                {name: part[row] for name, part in optimiser.items()}, gradient[row].clone(), table[row], None
            )
            for row in rows
        ]
        moved = {name: torch.cat([part[0][name] for part in parts]) for name in optimiser}
        return moved, [torch.cat(norm) for norm in zip(*(part[1] for part in parts), strict=True)]

    def _descend(
        self, optimiser: State, gradient: Tensor, table: Tensor, active: Tensor | None
    ) -> tuple[State, list[Tensor]]:
        """Adam on clipped gradients.

        Returns:
            The next parameters and moments, and per member the norm before clipping and whether it was clipped.
        """
        gradient, *norms = clip(gradient, self._column(table, "max_gradient_norm"))
        steps = optimiser["adam_steps"] + 1
        rate = table[:, self.hyperparameters.index("learning_rate")]
        moments = optimiser["adam_mean"], optimiser["adam_square"]
        parameters, (mean, square) = adam(optimiser["parameters"], moments, steps, gradient, rate, ADAM_EPSILON)
        moved = {"parameters": parameters, "adam_mean": mean, "adam_square": square, "adam_steps": steps}
        if active is not None:
            chosen = {1: active, 2: active[:, None]}
            moved = {name: torch.where(chosen[new.dim()], new, optimiser[name]) for name, new in moved.items()}
        return moved, norms

    def _allocate(self) -> None:
        shapes = {"order": (self.members, self.steps_per_rollout), "epoch": (), "part": ()}
        shapes |= dict.fromkeys(("epochs", "minibatches"), (self.members,))
        for name, shape in shapes.items():
            self.buffer[name] = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self.buffer["active"] = torch.zeros(self.members, dtype=torch.bool, device=self.device)
