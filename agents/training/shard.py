"""One shard: its meta-episodes, steered and recorded, and the branch sets of some of their states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.training.behaviours import Behaviour, can_steer, interface, make_behaviour
from agents.training.branch_sets import try_updates
from agents.training.candidates import Candidates, draw_candidates
from agents.training.plan import Draw, Group, Shard, plan_groups
from agents.training.schema import SPLITS, TABLES, Rows, shard_path, write_rows
from agents.training.settings import AGENT_PREFIX, CollectSettings
from agents.training.tagged import Tagged, TaggedReader, apply, nearest
from hpbench.agent import AgentSpec, make_agent
from hpbench.control.episode import BatchStep, EpisodeBatch
from hpbench.errors import InvalidConfiguration
from hpbench.seeding import derive_seed

Progress = Callable[[float], None]
"""Called now and then with the share of the work that is done."""

Tables = dict[str, dict[str, Rows]]
"""Rows by split and table."""


def work_on_shard(payload: tuple[CollectSettings, Shard, Path], report: Progress) -> None:
    """What a worker process does: collect a shard and write it."""
    settings, shard, folder = payload
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        write_shard(folder, shard.index, ShardRun(settings, shard).collect(report))
    finally:
        torch.set_num_threads(before)


def write_shard(folder: Path, index: int, tables: Tables) -> None:
    """Write all files of a shard. The last one is what :func:`~agents.training.schema.is_complete`
    looks at: training episodes."""
    for split in reversed(SPLITS):
        for table in reversed(list(TABLES)):
            if tables[split][table]:
                write_rows(shard_path(folder, table, split, index), table, tables[split][table])


class ShardRun:
    """Collects one shard.

    Args:
        settings: of the collection.
        shard: which one.

    Raises:
        InvalidConfiguration: if no behaviour can steer it, or the budget cannot be met.
    """

    def __init__(self, settings: CollectSettings, shard: Shard) -> None:
        self.settings, self.shard = settings, shard
        options = settings.options(shard.base, shard.learner, shard.track)
        probe = EpisodeBatch(options, [shard.seed])
        shares = {name: share for name, share in settings.behaviours.items() if _fits(name, probe)}
        if not shares:
            raise InvalidConfiguration(f"none of the behaviours {list(settings.behaviours)} can steer {shard.label}")
        self.groups = plan_groups(settings, shard, shares)
        self.batch = _start(options, self.groups)
        self.behaviours = _behaviours(self.groups)
        self.ids = [f"{shard.index:05d}-{m:03d}" for m in range(self.batch.members)]
        self.splits = [group.split for group in self.groups for _ in group.seeds]
        self._lineages = [i if len(group.seeds) > 1 else -1 for i, group in enumerate(self.groups) for _ in group.seeds]
        self._steered = [group.behaviour for group in self.groups for _ in group.seeds]
        self._shift_goals = [
            self.batch.setting.shifted_task(m).id if shard.track == "shift" else "" for m in range(self.batch.members)
        ]
        self.tables: Tables = {split: {table: [] for table in TABLES} for split in SPLITS}
        self._held: dict[str, list[_Held]] = {split: [] for split in SPLITS}
        self._generator = np.random.default_rng(derive_seed(shard.seed, Draw.BRANCHES))
        decisions, states = self.batch.plan.decisions, min(settings.branches.states, self.batch.plan.decisions)
        self._branch_at = [
            set(self._generator.choice(decisions, states, replace=False).tolist()) for _ in range(self.batch.members)
        ]
        self._seeds = dict(zip(SPLITS, (settings.branches.seeds, settings.branches.validation_seeds), strict=True))
        segments = settings.branches.updates * min(settings.branches.horizon, decisions)
        self._work = sum(decisions + states * segments * self._seeds[split] for split in self.splits)
        self._done = 0

    def collect(self, progress: Progress = lambda share: None) -> Tables:
        """Run everything to its end."""
        batch = self.batch
        for behaviour in self.behaviours:
            behaviour.start(batch)
        observations, infos = batch.observe(), batch.infos()
        scores = [[float(info["hpbench"]["score"])] for info in infos]
        start = batch.population.table().tolist()
        for decision in range(batch.plan.decisions):
            running = [m for m in range(batch.members) if not batch.ended(m)]
            if not running:
                break
            actions: dict[int, Tagged] = {}
            copies: dict[int, int] = {}
            for behaviour in self.behaviours:
                chosen, copied = behaviour.act(batch, observations)
                actions |= chosen
                copies |= copied
            values, training = batch.population.table().tolist(), batch.training_scores()
            for m in running:
                if decision in self._branch_at[m]:
                    self._hold(m, decision, values[m], actions[m], scores[m][-1])
            result = batch.step([actions.get(m) for m in range(batch.members)], copies)
            for behaviour in self.behaviours:
                behaviour.observe(observations, actions, result)
            after, training_after = batch.population.table().tolist(), batch.training_scores()
            for m in running:
                scores[m].append(float(result.infos[m]["hpbench"]["score"]))
                row = self._state_row(m, decision, observations[m], values[copies.get(m, m)], after[m], result)
                row |= {
                    "values": values[m],
                    "copied_from": self.ids[copies[m]] if m in copies else "",
                    "score": scores[m][-2],
                    "score_after": scores[m][-1],
                    "training_score": training[m],
                    "training_score_after": training_after[m],
                }
                self.tables[self.splits[m]]["states"].append(row)
            observations, infos = result.observations, result.infos
            self._advance(len(running), progress)
            self._flush(progress, everything=False)
        self._flush(progress, everything=True)
        for m, info in enumerate(infos):
            self.tables[self.splits[m]]["episodes"].append(self._episode_row(m, scores[m], start[m], info["hpbench"]))
        for split in SPLITS:
            self.tables[split]["states"].sort(key=lambda row: (row["episode"], row["decision"]))
            self.tables[split]["branches"].sort(key=lambda row: (row["episode"], row["decision"]))
        return self.tables

    # -- branch sets ---------------------------------------------------------------------------------------------------

    def _hold(self, m: int, decision: int, values: list[float], action: Tagged, score: float) -> None:
        """Put a state aside, to be branched together with others."""
        spec = self.batch.specs[m]
        own = self.batch.setting.reader.read(action, values).values
        candidates = draw_candidates(self._generator, spec, values, own, self.settings.branches.updates)
        row = {**self._spec_row(m), "decision": decision, "score": score}
        self._held[self.splits[m]].append((self.batch.spawn([m]), candidates, row))

    def _flush(self, progress: Progress, everything: bool) -> None:
        """Branch what was put aside, as many states at a time as fit."""
        branching = self.settings.branches
        for split, seeds in self._seeds.items():
            room = max(1, branching.width // (branching.updates * seeds))
            while len(self._held[split]) >= (1 if everything else room):
                held, self._held[split] = self._held[split][:room], self._held[split][room:]
                self.tables[split]["branches"] += self._branch(held, seeds)
                self._advance(len(held) * branching.updates * seeds * branching.horizon, progress)

    def _branch(self, held: Sequence[_Held], seeds: int) -> Rows:
        branching = self.settings.branches
        states = held[0][0].join([state for state, _, _ in held[1:]])
        updates = [candidates.choices for _, candidates, _ in held]
        found = try_updates(states, updates, seeds, branching.horizon, branching.evaluation_episodes)
        return [
            row
            | {
                "choices": [choices.tolist() for choices in candidates.choices],
                "origins": list(candidates.origins),
                **{name: getattr(branches, name).tolist() for name in _MEASURED},
                "steps": branches.steps,
                "evaluation_steps": branches.evaluation_steps,
            }
            for (_, candidates, row), branches in zip(held, found, strict=True)
        ]

    def _advance(self, segments: int, progress: Progress) -> None:
        self._done += segments
        progress(min(1.0, self._done / self._work))

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _spec_row(self, m: int) -> dict[str, Any]:
        spec: AgentSpec = self.batch.specs[m]
        return {
            "episode": self.ids[m],
            "decisions": spec.decisions,
            "task": spec.task.id,
            "base": spec.task.base,
            "learner": spec.learner,
            "track": spec.track,
            "behaviour": self._steered[m],
        }

    def _state_row(
        self,
        m: int,
        decision: int,
        observation: Mapping[str, Any],
        values: list[float],
        after: list[float],
        result: BatchStep,
    ) -> dict[str, Any]:
        """``values``: those that the update applied to, which may be copied ones."""
        space = self.batch.setting.hyperparameters
        choices = nearest(space, values, after)
        return {
            **self._spec_row(m),
            "decision": decision,
            "text": observation["text"],
            "vector": observation["vector"].tolist(),
            "values_after": after,
            "choices": choices.tolist(),
            "exact": apply(space, values, choices) == tuple(after),
            "reward": float(result.rewards[m]),
            "last": bool(result.terminated[m] or result.truncated[m]),
        }

    def _episode_row(self, m: int, scores: list[float], start: list[float], info: Mapping[str, Any]) -> dict[str, Any]:
        batch = self.batch
        return {
            **self._spec_row(m),
            "shard": self.shard.index,
            "member": m,
            "lineage": self._lineages[m],
            "seed": batch.seeds[m],
            "task_seed": batch.setting.task_seeds[m],
            "steps": batch.plan.steps,
            "evaluation_episodes": batch.plan.evaluation_episodes,
            "shifted_to": self._shift_goals[m],
            "engine": batch.engine,
            "scores": scores,
            "values": start,
            "diverged": bool(info["diverged"]),
            "meta_score": float(info["meta_score"]),
        }


_Held = tuple[EpisodeBatch, Candidates, dict[str, Any]]
"""A state to be branched: a batch of one, its updates, and what is known of its row."""

_MEASURED = ("values", "scores", "errors", "training_scores", "diverged")


def _fits(name: str, probe: EpisodeBatch) -> bool:
    if not name.startswith(AGENT_PREFIX):
        return True
    agent = make_agent(name.removeprefix(AGENT_PREFIX))
    form, kind = getattr(agent, "observation", "vector"), getattr(agent, "action", "delta")
    return can_steer(name, interface(probe.specs[0], probe, form, kind))


def _start(options: Any, groups: list[Group]) -> EpisodeBatch:
    """All groups as one batch. Members of a group share what their task seed decides."""
    parts = []
    for group in groups:
        part = EpisodeBatch(options, group.seeds, task_seed=group.task_seed)
        part.reset()
        parts.append(part)
    batch = parts[0].join(parts[1:])
    batch.setting.reader = TaggedReader(batch.setting.hyperparameters)
    return batch


def _behaviours(groups: list[Group]) -> list[Behaviour]:
    """One behaviour for each lineage, and one for all other members of the same name."""
    alone: dict[str, list[int]] = {}
    behaviours, member = [], 0
    for group in groups:
        members = list(range(member, member + len(group.seeds)))
        member += len(members)
        if group.behaviour == "pbt":
            behaviours.append(make_behaviour("pbt", members))
        else:
            alone.setdefault(group.behaviour, []).extend(members)
    return behaviours + [make_behaviour(name, members) for name, members in alone.items()]
