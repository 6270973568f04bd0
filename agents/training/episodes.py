"""Whole meta-episodes under a policy that is being trained: many at once, each on a thread of its own.

A thread lives through one batch of meta-episodes after another. Before each decision it asks, and waits; whoever owns
the policy answers whatever has been asked meanwhile, all together. The native engine computes outside of Python's lock,
so as many threads as cores keep all cores busy, and nothing is copied between processes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.language.prompt import names_in
from hpbench.control.episode import EpisodeBatch
from hpbench.control.options import EnvOptions
from hpbench.seeding import derive_seed

DECISION_STREAM = int.from_bytes(b"decision", "big")
"""A decision's seed is ``derive_seed(episode's seed, DECISION_STREAM, its number)``: none of the episode's own."""


@dataclass(frozen=True)
class Job:
    """A batch of meta-episodes to live through.

    Args:
        options: of the environment, with text observations and actions.
        seeds: one per meta-episode.
        hidden: of which the task's name is not shown.
    """

    options: EnvOptions
    seeds: tuple[int, ...]
    hidden: tuple[bool, ...]

    @property
    def label(self) -> str:
        """Task and track, such as ``classic/cartpole random``."""
        return f"{(self.options.task or self.options.family).partition('@')[0]} {self.options.track}"


@dataclass(frozen=True)
class Answer:
    """One decision of the policy.

    Args:
        action: for the environment.
        choices: index of the choice in each slot, int64 ``[slots]``.
        log_probabilities: of these choices, float64 ``[slots]``, each given those before it.
    """

    action: str
    choices: NDArray[np.int64]
    log_probabilities: NDArray[np.float64]


@dataclass
class Episode:
    """A meta-episode that has ended, or is under way.

    Args:
        label: task and track.
        observations: before each decision.
        answers: to them.
        rewards: after each decision; they sum to the meta-score.
        score: the meta-score.
    """

    label: str
    observations: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    score: float = float("nan")


Decide = Callable[[Sequence[str], Sequence[int]], Sequence[Answer]]
"""The policy: answers to observations of one learner, given a seed for each of these decisions."""


@dataclass(frozen=True)
class _Question:
    observations: list[str]
    seeds: list[int]
    answers: Future[list[Answer]]


class _Closed(Exception):
    """Nobody answers any more."""


class Playground:
    """Threads that live through jobs. Used as a context manager; leaving it abandons what is under way.

    Args:
        jobs: in the order in which they are started; may be endless.
        threads: batches that are under way at once.
    """

    def __init__(self, jobs: Iterator[Job], threads: int) -> None:
        self._jobs, self._lock, self._closed = jobs, threading.Lock(), False
        self._events: queue.SimpleQueue[_Question | Episode | BaseException | None] = queue.SimpleQueue()
        self._finished: list[Episode] = []
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        self._working = threads

    def __enter__(self) -> Playground:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        while self._working:  # threads that ask once more get no answer
            event = self._events.get()
            if isinstance(event, _Question):
                _refuse([event])
            self._working -= event is None or isinstance(event, BaseException)
        for thread in self._threads:
            thread.join()

    def play(self, decide: Decide, count: int) -> list[Episode]:
        """Go on until ``count`` meta-episodes have ended, or all jobs are done.

        Raises:
            Exception: whatever went wrong in a thread.
        """
        while len(self._finished) < count and self._working:
            questions: list[_Question] = []
            try:
                self._gather(questions)
                _answer(questions, decide)
            except BaseException:
                _refuse(questions)
                raise
        found, self._finished = self._finished[:count], self._finished[count:]
        return found

    def _gather(self, questions: list[_Question]) -> None:
        """Wait for something to happen, and take note of all that has; questions go into the list."""
        event = self._events.get()
        while True:
            if isinstance(event, _Question):
                questions.append(event)
            elif isinstance(event, Episode):
                self._finished.append(event)
            else:
                self._working -= 1
                if event is not None:
                    raise event
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                break

    def _work(self) -> None:
        try:
            while not self._closed:
                with self._lock:
                    job = next(self._jobs, None)
                if job is None:
                    break
                self._live(job)
        except _Closed:
            self._events.put(None)
        except BaseException as error:  # noqa: BLE001 - the owner raises it
            self._events.put(error)
        else:
            self._events.put(None)

    def _live(self, job: Job) -> None:
        batch = EpisodeBatch(job.options, job.seeds)
        observations, _ = batch.reset()
        episodes = [Episode(job.label) for _ in job.seeds]
        running, decision, decisions = list(range(len(episodes))), 0, batch.plan.decisions
        actions = ["{}"] * len(episodes)
        while running:
            shown = [_hide(observations[i]) if job.hidden[i] else observations[i] for i in running]
            seeds = [derive_seed(job.seeds[i], DECISION_STREAM, decision) for i in running]
            for i, text, answer in zip(running, shown, self._ask(shown, seeds), strict=True):
                episodes[i].observations.append(text)
                episodes[i].answers.append(answer)
                actions[i] = answer.action
            result = batch.step(actions)
            observations, decision = result.observations, decision + 1
            over = [diverged or spent for diverged, spent in zip(result.diverged, result.spent, strict=True)]
            for i in running:
                episode, info = episodes[i], result.infos[i]["hpbench"]
                if over[i]:
                    episode.score = float(info["meta_score"])
                    episode.rewards.append(episode.score - sum(episode.rewards))
                    self._events.put(episode)
                else:
                    # Half of the meta-score is the mean over all decisions; the other half, the final score, and what
                    # the remaining decisions count if the learner has diverged, come with the last one.
                    episode.rewards.append(0.5 * float(info["score"]) / decisions)
            running = [i for i in running if not over[i]]

    def _ask(self, observations: list[str], seeds: list[int]) -> list[Answer]:
        if self._closed:
            raise _Closed
        question = _Question(observations, seeds, Future())
        self._events.put(question)
        return question.answers.result()


def _answer(questions: Sequence[_Question], decide: Decide) -> None:
    """Answer all questions, those of one learner together."""
    groups: dict[tuple[str, ...], list[_Question]] = {}
    for question in questions:
        groups.setdefault(names_in(question.observations[0]), []).append(question)
    for group in groups.values():
        answers = iter(
            decide(
                [text for question in group for text in question.observations],
                [seed for question in group for seed in question.seeds],
            )
        )
        for question in group:
            question.answers.set_result([next(answers) for _ in question.observations])


def _refuse(questions: Sequence[_Question]) -> None:
    """End the threads that ask."""
    for question in questions:
        if not question.answers.done():
            question.answers.set_exception(_Closed())


def _hide(observation: str) -> str:
    """The observation without the name of its task."""
    head, line, rest = observation.split("\n", 2)
    words: list[Any] = line.split(" ")
    words[1] = "unnamed"
    return "\n".join((head, " ".join(words), rest))
