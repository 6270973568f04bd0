"""Evaluation scores: complete episodes on their own random stream, normalised by the task's anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpbench.control.reward import floor
from hpbench.learners.population import Population
from hpbench.learners.snapshot import Evaluation
from hpbench.seeding import Stream

OBSERVED = 1 << 40
"""How far the calls of the evaluation stream for observations lie from those for rewards."""


@dataclass(frozen=True)
class Outcome:
    """One evaluation, one entry per member.

    Args:
        scores: normalised by the anchors of the task that a member is on now; the floor where diverged.
        returns: mean unscaled returns that belong to the scores.
        steps: environment steps taken.
        evaluation: the episodes behind the numbers.
    """

    scores: list[float]
    returns: list[float]
    steps: list[int]
    evaluation: Evaluation


def evaluate(population: Population, episodes: int, before: Sequence[float]) -> Outcome:
    """Play evaluation episodes.

    Args:
        population: all of its members are evaluated.
        episodes: per member.
        before: the members' last scores; NaN before there is one.
    """
    evaluation = population.evaluate(episodes)
    returns = [sum(row) / episodes for row in evaluation.returns.tolist()]
    scores, diverged = [], population.array("diverged").tolist()
    for m, task in enumerate(population.tasks):
        anchors = task.anchors
        scores.append(floor(before[m]) if diverged[m] else anchors.score(returns[m]))
        if diverged[m]:
            returns[m] = anchors.value(scores[m])
    return Outcome(scores, returns, [sum(row) for row in evaluation.lengths.tolist()], evaluation)


def held_out(population: Population, episodes: int) -> tuple[list[float], list[int]]:
    """Scores on levels that training does not see, for observations.

    The episodes are not those of the reward, which observations must not tell, and the population is left as it was.

    Args:
        population: all of its members are evaluated.
        episodes: per member.

    Returns:
        One score per member, NaN where diverged, and the environment steps that each took.
    """
    before = population.state["rng_calls"].clone()
    population.state["rng_calls"][:, Stream.EVALUATION] += OBSERVED
    evaluation = population.evaluate(episodes)
    population.state["rng_calls"].copy_(before)
    returns = [sum(row) / episodes for row in evaluation.returns.tolist()]
    scores = [task.anchors.score(mean) for task, mean in zip(population.tasks, returns, strict=True)]
    return scores, evaluation.steps.tolist()


@dataclass(frozen=True)
class Counterfactual:
    """Copies that train on with unchanged hyperparameters while the originals are updated, for the ``uplift`` reward.

    Args:
        members: which members the copies are of; members whose update changes nothing need none.
        population: the copies, made before the update: they continue the same random streams as the originals.
    """

    members: Sequence[int]
    population: Population

    def play(self, rollouts: int, episodes: int, before: Sequence[float]) -> tuple[Outcome, list[int]]:
        """Train the segment and evaluate.

        Args:
            rollouts: of the segment.
            episodes: of the evaluation.
            before: last scores of the copied members.

        Returns:
            The copies' outcome, and the training steps they took.
        """
        start = self.population.steps
        self.population.train(rollouts)
        return evaluate(self.population, episodes, before), (self.population.steps - start).tolist()
