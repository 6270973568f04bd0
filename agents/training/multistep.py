"""``hpbench train multistep``: proximal policy optimisation over whole meta-episodes, with credit for what an update
does many decisions later.

    hpbench train multistep sft/best --output multistep
    hpbench run --agent hf:multistep/best --suite classic-small-v0

The policy is the slot policy itself, so every decision is valid and its probability is exact. It controls complete
training runs on training variants of the tasks, from all kinds of starts; the rewards of a run sum to its meta-score.
Advantages are those of generalised advantage estimation without discount (Schulman et al., 2016), against a value
model that starts as a copy of the policy with a new head. They are brought to unit variance task by task, so that tasks
whose scores move little count as much as others. The objective is PPO's (Schulman et al., 2017), with the probability
ratio of a whole decision.

Every so often the policy, taking its most likely choices, controls runs on *validation* variants; the best model by
their mean meta-score is kept. An interrupted run goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.language.causal import CausalModel, Prompts
from agents.language.prompt import completion, names_in, read_completion
from agents.language.slot import SlotOptions, SlotPolicy, choice_scores
from agents.training.episodes import Answer, Decide, Episode, Job, Playground
from agents.training.multistep_recipe import MultistepRecipe
from agents.training.recipes import Trained, settle
from agents.training.teacher import Teacher
from agents.training.tiny import BEST, CHECKPOINT, LOG, Say, save_model, schedule
from agents.training.tuning import load_start
from agents.training.value import ValueModel, estimate
from hpbench.evaluation.records import write_atomically
from hpbench.hyperparameter import KEEP
from hpbench.seeding import derive_seed

TEST_SEED = 1_000_000
"""The first seed of validation meta-episodes."""


def train_multistep(
    recipe: MultistepRecipe,
    start: str,
    folder: Path,
    say: Say = lambda line: None,
    stop_after: int | None = None,
) -> Trained:
    """Train, or go on where it stopped.

    Args:
        recipe: how.
        start: model to go on from: a folder, or a name on the hub.
        folder: of the training run.
        say: gets lines on the progress.
        stop_after: end after this update, with a test, although the recipe plans more; a later call may go on.

    Raises:
        MissingExtra: if transformers is not installed.
        InvalidConfiguration: if there is no such model, it has layers without full attention, the recipe leaves no
            task, or the folder holds something else.
    """
    recipe.places()
    model, tokenizer = load_start(start, recipe.device)
    settle(recipe, folder, model=start)
    run = _Run(recipe, folder, model, tokenizer)
    run.resume()
    run.train(say, recipe.steps if stop_after is None else min(stop_after, recipe.steps))
    return Trained(folder / BEST, run.step, {"score": run.best})


@dataclass
class _Group:
    """Decisions of one learner, flattened.

    Args:
        names: of the hyperparameters, as the observations show them.
        rows: prompts as token ids.
        choices: int64 ``[decisions, slots]``.
        logs: log-probabilities of the decisions when they were made, float32 ``[decisions]``.
        advantages, returns: float32 ``[decisions]``.
        taught: what the teacher would choose, int64 ``[decisions, slots]``; -1 where it has nothing to say.
    """

    names: tuple[str, ...]
    rows: list[list[int]]
    choices: Tensor
    logs: Tensor
    advantages: Tensor
    returns: Tensor
    taught: Tensor


class _Run:
    """State of a training run."""

    def __init__(self, recipe: MultistepRecipe, folder: Path, model: Any, tokenizer: Any) -> None:
        self.recipe, self.folder = recipe, folder
        self.source = CausalModel(model, tokenizer)
        self.device = self.source.device
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.sampling = SlotPolicy(self.source, SlotOptions(sample=True, temperature=recipe.temperature))
        self.greedy = SlotPolicy(self.source)
        sampling, greedy = _decider(self.sampling), _decider(self.greedy)
        self.policies = {"train": sampling, "greedy": greedy, "keep": _keep_all}
        self.value = ValueModel(model).to(self.device)
        self.optimisers = [
            torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=recipe.weight_decay)
            for module, rate in ((model, recipe.learning_rate), (self.value, recipe.value_learning_rate))
        ]
        self.teacher = Teacher(recipe.teacher, recipe.teacher_tolerance)
        self.step, self.jobs, self.best = 0, 0, -float("inf")

    def train(self, say: Say, last: int) -> None:
        """To the update ``last``, with a checkpoint after each, and a test every so often."""
        recipe = self.recipe
        if self.step >= last and self._tested():
            return
        processes = recipe.processes if recipe.processes > 0 else os.cpu_count() or 1
        with Playground(self._endless(), processes) as ground:
            if self.step == 0:
                kept = self._test(ground, "keep")
                say("validation, everything kept: " + _words(kept))
                self._note({"step": 0} | {f"kept_{name}": score for name, score in kept.items()})
                self._examine(ground, say)
            elif not self._tested() and (self.step >= last or self.step % recipe.evaluate_every == 0):
                self._examine(ground, say)  # it was killed between the update and its test
                self._save()
            while self.step < last:
                started = time.monotonic()
                episodes = ground.play(self.policies, "train", recipe.batch)
                played = time.monotonic()
                line = {"step": self.step + 1, "score": float(np.mean([episode.score for episode in episodes]))}
                line |= self._update(episodes)
                self.step += 1
                line |= {"seconds_playing": played - started, "seconds_learning": time.monotonic() - played}
                line |= {f"score {label}": score for label, score in _by_label(episodes).items()}
                self._note(line)
                shown = ("score", "entropy", "edit_rate", "kl", "explained_variance", "seconds_playing")
                say(f"update {self.step} of {recipe.steps}: " + ", ".join(f"{k} {line[k]:.3g}" for k in shown))
                self._save()
                if self.step % recipe.evaluate_every == 0 or self.step == last:
                    self._examine(ground, say)
                    self._save()

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        path = self.folder / CHECKPOINT
        if path.exists():
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.source.model.load_state_dict(state["model"])
            self.value.load_state_dict(state["value"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.step, self.jobs, self.best = state["step"], state["jobs"], state["best"]

    # -- playing -------------------------------------------------------------------------------------------------------

    def _endless(self) -> Iterator[Job]:
        places = self.recipe.places()
        while True:
            base, learner, track = places[self.jobs % len(places)]
            seeds = tuple(derive_seed(self.recipe.seed, self.jobs, member) for member in range(self.recipe.members))
            draws = np.random.default_rng([self.recipe.seed, self.jobs]).random(len(seeds))
            self.jobs += 1
            hidden = tuple((draws < self.recipe.hidden_tasks).tolist())
            yield Job("train", self.recipe.options(base, learner, track, "train"), seeds, hidden)

    def _test(self, ground: Playground, policy: str) -> dict[str, float]:
        """Mean meta-scores on validation variants, by task and track, and their mean."""
        count = self.recipe.evaluation_seeds
        seeds = tuple(range(TEST_SEED, TEST_SEED + count))
        # In small parts, so that all cores have something to do.
        parts = [seeds[i : i + 4] for i in range(0, count, 4)]
        jobs = [
            Job(policy, self.recipe.options(*place, "validation"), part, (False,) * len(part))
            for place in sorted(set(self.recipe.places()))
            for part in parts
        ]
        scores = _by_label(ground.play_first(jobs, self.policies))
        return {"mean": float(np.mean(list(scores.values())))} | scores

    def _examine(self, ground: Playground, say: Say) -> None:
        """Test the greedy policy, and keep it if it is the best so far."""
        scores = self._test(ground, "greedy")
        self._note({"step": self.step} | {f"test_{label}": score for label, score in scores.items()})
        say(f"validation after {self.step} updates: " + _words(scores))
        if scores["mean"] > self.best:
            self.best = scores["mean"]
            save_model(self.source.model, self.source.tokenizer, self.folder / BEST)

    def _tested(self) -> bool:
        """Whether the policy has been tested since the last update."""
        path = self.folder / LOG
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        return any(line["step"] == self.step and "test_mean" in line for line in lines)

    def _save(self) -> None:
        path = self.folder / CHECKPOINT
        temporary = path.with_suffix(".tmp")
        state = {
            "model": self.source.model.state_dict(),
            "value": self.value.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        torch.save(state | {"step": self.step, "jobs": self.jobs, "best": self.best}, temporary)
        os.replace(temporary, path)

    # -- learning ------------------------------------------------------------------------------------------------------

    def _update(self, episodes: Sequence[Episode]) -> dict[str, float]:
        recipe = self.recipe
        factor = schedule(self.step, recipe.steps, recipe.warmup)
        for optimiser, peak in zip(self.optimisers, (recipe.learning_rate, recipe.value_learning_rate), strict=True):
            for part in optimiser.param_groups:
                part["lr"] = peak * factor
        groups, found = self._flatten(episodes)
        generator = np.random.default_rng([recipe.seed, self.step])
        measured: list[dict[str, float]] = []
        frozen = self.step < recipe.value_first
        for _ in range(recipe.epochs):
            for group, index in _minibatches(groups, recipe.minibatch, generator):
                prompts = self.source.side_by_side([group.rows[i] for i in index.tolist()])
                self._learn_value(prompts, group.returns[index])
                if not frozen:
                    measured.append(self._learn(group, prompts, index))
                    frozen = measured[-1]["kl"] > 1.5 * recipe.target_kl
        blank = {"kl": 0.0, "clip_fraction": 0.0, "entropy": found.pop("entropy"), "pull": 0.0}
        means = {name: float(np.mean([each[name] for each in measured])) for name in blank} if measured else blank
        return found | means | {"optimiser_steps": float(len(measured))}

    def _flatten(self, episodes: Sequence[Episode]) -> tuple[list[_Group], dict[str, float]]:
        """Decisions with advantages and returns, and what there is to say about them."""
        texts = [text for episode in episodes for text in episode.observations]
        rows = self.source.prompt_rows(texts)
        values = self._values(rows)
        advantages, returns, start = [], [], 0
        for episode in episodes:
            own = values[start : start + len(episode.rewards)]
            edited = [np.count_nonzero(answer.choices != KEEP) for answer in episode.answers]
            rewards = np.array(episode.rewards) - self.recipe.edit_price * np.array(edited)
            advantages.append(estimate(rewards, own, self.recipe.gae_lambda))
            returns.append(np.cumsum(rewards[::-1])[::-1])
            start += len(own)
        by_task: dict[str, list[NDArray[np.float64]]] = {}
        for episode, own in zip(episodes, advantages, strict=True):
            by_task.setdefault(episode.label.partition(" ")[0], []).append(own)
        scale = {task: float(np.concatenate(each).std()) for task, each in by_task.items()}
        scaled = [
            own / max(scale[episode.label.partition(" ")[0]], 1e-6)
            for episode, own in zip(episodes, advantages, strict=True)
        ]
        flat, target = np.concatenate(scaled), np.concatenate(returns)
        flat = flat - flat.mean()
        answers = [answer for episode in episodes for answer in episode.answers]
        taught = [
            self._taught(text, episode.label.partition(" ")[0], answer.choices)
            for episode in episodes
            for text, answer in zip(episode.observations, episode.answers, strict=True)
        ]
        members: dict[tuple[str, ...], list[int]] = {}
        for i, text in enumerate(texts):
            members.setdefault(names_in(text), []).append(i)
        groups = [
            _Group(
                names,
                [rows[i] for i in own],
                torch.from_numpy(np.stack([answers[i].choices for i in own])).to(self.device),
                self._numbers([answers[i].log_probabilities.sum() for i in own]),
                self._numbers(flat[own]),
                self._numbers(target[own]),
                torch.from_numpy(np.stack([taught[i] for i in own])).to(self.device),
            )
            for names, own in members.items()
        ]
        edits = np.concatenate([answer.choices != KEEP for answer in answers])
        unexplained = float((target - values).var() / max(target.var(), 1e-12))
        return groups, {
            "edit_rate": float(edits.mean()),
            "explained_variance": 1.0 - unexplained,
            "entropy": -float(np.mean([answer.log_probabilities.mean() for answer in answers])),
        }

    def _taught(self, observation: str, base: str, choices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The teacher's choices in a state; -1 in each slot if it has none."""
        found = self.teacher.choices(observation, base) if self.teacher else None
        return np.full_like(choices, -1) if found is None else found.astype(np.int64)

    def _pull(self, group: _Group, index: Tensor, scores: Tensor) -> Tensor:
        """How unlikely the teacher's choices are, times its present weight; given the slots before as they were."""
        left = 1.0 - self.step / self.recipe.teacher_steps if self.recipe.teacher_steps > 0 else 0.0
        if left <= 0.0 or not self.teacher:
            return scores.new_zeros(())
        goal = group.taught[index]
        known = (goal >= 0).float()
        logs = scores.log_softmax(dim=-1).gather(-1, goal.clamp(min=0)[..., None]).squeeze(-1)
        return -self.recipe.teacher_weight * left * (logs * known).sum() / known.sum().clamp(min=1.0)

    def _learn(self, group: _Group, prompts: Prompts, index: Tensor) -> dict[str, float]:
        model, recipe = self.source.model, self.recipe
        choices, advantages = group.choices[index], group.advantages[index]
        scores = choice_scores(model, self.sampling.layout(group.names), prompts, choices)
        pull = self._pull(group, index, scores)
        scores = (scores / recipe.temperature).log_softmax(dim=-1)
        change = scores.gather(-1, choices[..., None]).squeeze(-1).sum(dim=-1) - group.logs[index]
        ratio = change.exp()
        cut = ratio.clamp(1.0 - recipe.clip, 1.0 + recipe.clip)
        entropy = -(scores.exp() * scores).sum(dim=-1).mean()
        loss = -torch.minimum(ratio * advantages, cut * advantages).mean() - recipe.entropy * entropy + pull
        self._descend(loss, model, self.optimisers[0])
        with torch.no_grad():
            kl, clipped = ((ratio - 1.0) - change).mean(), (ratio != cut).float().mean()
            found = torch.stack((kl, clipped, entropy, pull))
        return dict(zip(("kl", "clip_fraction", "entropy", "pull"), found.tolist(), strict=True))

    def _learn_value(self, prompts: Prompts, returns: Tensor) -> None:
        loss = 0.5 * (self.value(prompts) - returns).square().mean()
        self._descend(loss, self.value, self.optimisers[1])

    def _descend(self, loss: Tensor, module: Any, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), self.recipe.max_gradient_norm)
        optimiser.step()

    @torch.no_grad()
    def _values(self, rows: Sequence[list[int]]) -> NDArray[np.float64]:
        size = self.recipe.minibatch
        parts = [self.value(self.source.side_by_side(rows[i : i + size])) for i in range(0, len(rows), size)]
        values: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
        return values

    def _numbers(self, values: Sequence[float] | NDArray[np.float64]) -> Tensor:
        return torch.tensor(np.asarray(values), dtype=torch.float32, device=self.device)

    def _note(self, line: dict[str, float]) -> None:
        path = self.folder / LOG
        # A run that was killed after its last checkpoint takes some updates again.
        old = [json.loads(each) for each in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        now, kind = line["step"], list(line)[1]  # kept, test or score: what a line is of
        kept = [each for each in old if each["step"] < now or (each["step"] == now and list(each)[1] != kind)]
        write_atomically(path, "".join(json.dumps(each) + "\n" for each in [*kept, line]))


def _minibatches(
    groups: Sequence[_Group], size: int, generator: np.random.Generator
) -> Iterator[tuple[_Group, Tensor]]:
    """All decisions in random order, those of one learner together."""
    pieces = []
    for group in groups:
        order = generator.permutation(len(group.rows))
        pieces += [(group, order[i : i + size]) for i in range(0, len(order), size)]
    for k in generator.permutation(len(pieces)).tolist():
        group, piece = pieces[k]
        yield group, torch.from_numpy(piece).to(group.choices.device)


def _decider(policy: SlotPolicy) -> Decide:
    def decide(observations: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
        names = names_in(observations[0])
        answers = []
        for decision in policy.decide(observations, seeds):
            choices = np.array(read_completion(decision.action, names))
            logs = np.log(np.maximum(np.array(decision.probabilities), 1e-30)) / policy.options.temperature
            logs -= np.logaddexp.reduce(logs, axis=1, keepdims=True)
            answers.append(Answer(decision.action, choices, logs[np.arange(len(choices)), choices]))
        return answers

    return decide


def _keep_all(observations: Sequence[str], seeds: Sequence[int]) -> list[Answer]:
    names = names_in(observations[0])
    choices = np.full(len(names), KEEP)
    action = completion(choices.tolist(), names)
    return [Answer(action, choices, np.zeros(len(names))) for _ in observations]


def _by_label(episodes: Sequence[Episode]) -> dict[str, float]:
    """Mean meta-score of each task and track."""
    scores: dict[str, list[float]] = {}
    for episode in episodes:
        scores.setdefault(episode.label, []).append(episode.score)
    return {label: float(np.mean(each)) for label, each in sorted(scores.items())}


def _words(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
