"""Whole meta-episodes under a policy that is being trained: many at once, each batch of them in a process of its own.

A worker process lives through one batch of meta-episodes after another. Before each decision it asks, and waits;
whoever owns the policy answers whatever has been asked meanwhile, all together.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.language.prompt import names_in
from agents.language.rendering import hide_task
from hpbench.control.episode import EpisodeBatch
from hpbench.control.options import EnvOptions
from hpbench.errors import HPBenchError
from hpbench.seeding import derive_seed

DECISION_STREAM = int.from_bytes(b"decision", "big")
"""A decision's seed is ``derive_seed(episode's seed, DECISION_STREAM, its number)``: none of the episode's own."""


class EpisodesFailed(HPBenchError, RuntimeError):
    """A worker process failed or died; the message says what happened, and in which meta-episodes."""


@dataclass(frozen=True)
class Job:
    """A batch of meta-episodes to live through.

    Args:
        policy: key of the policy that decides.
        options: of the environment, with text observations and actions.
        seeds: one per meta-episode.
        hidden: of which the task's name is not shown.
    """

    policy: str
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
"""A policy: answers to observations of one learner, given a seed for each of these decisions."""


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: Job | None = None
    question: tuple[list[str], list[int]] | None = None


class Playground:
    """Processes that live through jobs. Used as a context manager; leaving it abandons what is under way.

    Args:
        jobs: in the order in which they are started, by idle workers; may be endless.
        processes: batches that are under way at once.
    """

    def __init__(self, jobs: Iterator[Job], processes: int) -> None:
        self._jobs, self._count = jobs, processes
        self._urgent: Iterator[Job] = iter(())
        self._workers: list[_Worker] = []
        self._finished: dict[str, list[Episode]] = {}

    def __enter__(self) -> Playground:
        context = multiprocessing.get_context("spawn")
        for _ in range(self._count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours))
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers = []

    def play(self, policies: Mapping[str, Decide], policy: str, count: int) -> list[Episode]:
        """Go on until ``count`` meta-episodes of one policy have ended, or there are no more of them.

        Args:
            policies: all that decide in the jobs under way.
            policy: whose meta-episodes are waited for. Others that end meanwhile are kept for later calls.

        Raises:
            EpisodesFailed: if something went wrong in a worker.
        """
        found = self._finished.setdefault(policy, [])
        while len(found) < count and self._go_on(policies):
            pass
        self._finished[policy] = found[count:]
        return found[:count]

    def play_first(self, jobs: Iterable[Job], policies: Mapping[str, Decide]) -> list[Episode]:
        """Start these jobs, all of one policy, as soon as workers are idle, and go on until they have ended.

        Raises:
            EpisodesFailed: if something went wrong in a worker.
        """
        jobs = list(jobs)
        self._urgent = itertools.chain(self._urgent, jobs)
        return self.play(policies, jobs[0].policy, sum(len(job.seeds) for job in jobs))

    def _go_on(self, policies: Mapping[str, Decide]) -> bool:
        """Give idle workers something to do, wait for news, answer questions; False if nothing is left."""
        for worker in self._workers:
            if worker.job is None:
                worker.job = next(self._urgent, None) or next(self._jobs, None)
                if worker.job is not None:
                    _send(worker, worker.job)
        busy = [worker for worker in self._workers if worker.job is not None]
        ready = wait([worker.pipe for worker in busy]) if busy else []
        for worker in busy:
            if worker.pipe in ready:
                self._hear(worker)
        _answer([worker for worker in busy if worker.question is not None], policies)
        return bool(busy)

    def _hear(self, worker: _Worker) -> None:
        assert worker.job is not None
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError) as error:
            worker.process.join()
            what = f"its process ended with exit code {worker.process.exitcode}"
            raise EpisodesFailed(f"{worker.job.label}, seeds {worker.job.seeds}: {what}") from error
        if kind == "question":
            worker.question = value
        elif kind == "finished":
            self._finished.setdefault(worker.job.policy, []).extend(value)
            worker.job = None
        else:
            raise EpisodesFailed(f"{worker.job.label}, seeds {worker.job.seeds}: {value}")


def live(job: Job, ask: Callable[[list[str], list[int]], Sequence[Answer]]) -> list[Episode]:
    """Live through a job.

    Args:
        job: the meta-episodes.
        ask: gets observations of those that still run and seeds of these decisions.
    """
    batch = EpisodeBatch(job.options, job.seeds)
    observations, _ = batch.reset()
    episodes = [Episode(job.label) for _ in job.seeds]
    running, decision, decisions = list(range(len(episodes))), 0, batch.plan.decisions
    actions = ["{}"] * len(episodes)
    while running:
        shown = [hide_task(observations[i]) if job.hidden[i] else observations[i] for i in running]
        seeds = [derive_seed(job.seeds[i], DECISION_STREAM, decision) for i in running]
        for i, text, answer in zip(running, shown, ask(shown, seeds), strict=True):
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
            else:
                # Half of the meta-score is the mean over all decisions; the other half, the final score, and what the
                # remaining decisions count if the learner has diverged, come with the last one.
                episode.rewards.append(0.5 * float(info["score"]) / decisions)
        running = [i for i in running if not over[i]]
    return episodes


def _work(pipe: Connection) -> None:
    """Main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers

    def ask(observations: list[str], seeds: list[int]) -> Sequence[Answer]:
        pipe.send(("question", (observations, seeds)))
        answers: Sequence[Answer] = pipe.recv()
        return answers

    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while True:
            job = pipe.recv()
            try:
                news: tuple[str, Any] = ("finished", live(job, ask))
            except (EOFError, OSError):
                raise
            except Exception:  # noqa: BLE001 - the parent raises it
                news = ("failed", traceback.format_exc())
            pipe.send(news)


def _send(worker: _Worker, message: Any) -> None:
    # A worker that has died is noticed when it is listened to, with the reason.
    with contextlib.suppress(OSError):
        worker.pipe.send(message)


def _answer(asking: Sequence[_Worker], policies: Mapping[str, Decide]) -> None:
    """Answer all questions, those to one policy about one learner together."""
    groups: dict[tuple[str, tuple[str, ...]], list[_Worker]] = {}
    for worker in asking:
        assert worker.job is not None
        assert worker.question is not None
        groups.setdefault((worker.job.policy, names_in(worker.question[0][0])), []).append(worker)
    for (policy, _), group in groups.items():
        questions = [worker.question for worker in group if worker.question is not None]
        texts = [text for observations, _ in questions for text in observations]
        answers = iter(policies[policy](texts, [seed for _, seeds in questions for seed in seeds]))
        for worker, (observations, _) in zip(group, questions, strict=True):
            _send(worker, [next(answers) for _ in observations])
            worker.question = None
