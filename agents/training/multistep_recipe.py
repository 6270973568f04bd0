"""Settings of ``hpbench train multistep``; ``train_multistep.toml`` beside this file explains every field."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from agents.training.recipes import Count, Positive, Share, StageRecipe
from agents.training.settings import bases
from agents.training.teacher import Settings
from hpbench.control.options import CHOICES, EnvOptions
from hpbench.errors import InvalidConfiguration, UnknownName


class MultistepRecipe(StageRecipe):
    """Of ``hpbench train multistep``, which needs no collection.

    Args:
        seed: of everything that is random.
        tasks: families, or tasks; the policy is trained on their training variants and tested on validation variants.
        without: tasks that are left out.
        learners, tier, inner_steps, decisions, evaluation_episodes: of the environments; None: as the tier says.
        tracks: how often each kind of start takes its turn.
        steps: updates of the policy.
        batch: meta-episodes before each of them.
        members: meta-episodes that train side by side, on one task and track.
        processes: that batches of members train in; 0: one for every core.
        hidden_tasks: share of the meta-episodes whose task is not named.
        temperature: of the policy in training: its choices are drawn by ``p ** (1 / temperature)``. Below 1, a model
            that imitates many behaviours at once starts calmer. Tests take the most likely choices.
        epochs: over the decisions of an update.
        minibatch: decisions per optimiser step.
        learning_rate, value_learning_rate: peaks for policy and value model; linear warm-up over the share ``warmup``
            of the updates, then a cosine to 0.
        weight_decay: of AdamW.
        value_first: updates that train the value model only.
        clip: of the probability ratio of a whole decision.
        gae_lambda: of generalised advantage estimation; meta-episodes are not discounted.
        entropy: weight of the mean entropy of a slot, in nats.
        edit_price: taken from the reward of a decision for each hyperparameter that it edits, in units of the score:
            a policy that leaves alone what needs no change is decided faster, and easier to follow. Scores that are
            reported, and by which the best model is kept, are without it.
        target_kl: the epochs of an update end when the policy has moved further than this.
        max_gradient_norm: where gradients are cut.
        teacher: settings by task (:mod:`agents.training.teacher`) that the policy is drawn to in the first
            ``teacher_steps`` updates, with the weight ``teacher_weight`` falling linearly to 0.
        teacher_tolerance: factor within which it keeps a value.
        evaluate_every: updates between tests.
        evaluation_seeds: meta-episodes per task and track in each test.
        device: of the model, ``auto`` takes a GPU if there is one. The learners train on the CPU.
    """

    stage: ClassVar[str] = "multistep"

    seed: Annotated[int, Field(ge=0)] = 0
    tasks: Annotated[list[str], Field(min_length=1)]
    without: list[str]
    learners: Annotated[list[str], Field(min_length=1)]
    tier: str = "small"
    inner_steps: Count | None = None
    decisions: Count | None = None
    evaluation_episodes: Count | None = None
    tracks: Annotated[dict[str, Count], Field(min_length=1)]
    steps: Count
    batch: Count
    members: Count
    processes: Annotated[int, Field(ge=0)] = 0
    hidden_tasks: Share = 0.15
    temperature: Positive = 1.0
    epochs: Count
    minibatch: Count
    learning_rate: Positive
    value_learning_rate: Positive
    warmup: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    value_first: Annotated[int, Field(ge=0)] = 2
    clip: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    gae_lambda: Annotated[float, Field(ge=0.0, le=1.0)] = 0.95
    entropy: Annotated[float, Field(ge=0.0)] = 0.003
    edit_price: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    target_kl: Positive = 0.03
    max_gradient_norm: Positive = 0.5
    teacher: Annotated[Settings, Field(default_factory=dict)]
    teacher_tolerance: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 1.0
    teacher_weight: Annotated[float, Field(ge=0.0)] = 1.0
    teacher_steps: Annotated[int, Field(ge=0)] = 0
    evaluate_every: Count
    evaluation_seeds: Count = 16
    device: str = "auto"

    def options(self, base: str, learner: str, track: str, split: str) -> EnvOptions:
        """Of meta-episodes on the variants of one task in a split."""
        return EnvOptions(
            task=f"{base}@{split}",
            family=base.partition("/")[0],
            learner=learner,
            track=track,
            tier=self.tier,
            observation="text",
            action="text",
            device="cpu",
            split=split,
            decisions=self.decisions,
            steps=self.inner_steps,
            evaluation_episodes=self.evaluation_episodes,
        )

    def places(self) -> list[tuple[str, str, str]]:
        """Base task, learner and track of all that is trained on, each as often as it takes its turn.

        Raises:
            UnknownName, InvalidConfiguration: for names that do not exist, or if nothing is left.
        """
        kinds = [(base, learner) for learner in self.learners for name in self.tasks for base in bases(name, learner)]
        kinds = [kind for kind in dict.fromkeys(kinds) if kind[0] not in self.without]
        if not kinds:
            raise InvalidConfiguration(f"without {self.without} nothing is left of {self.tasks} for {self.learners}")
        for track in self.tracks:
            if track not in CHOICES["track"]:
                raise UnknownName("track", track, CHOICES["track"])
        return [(*kind, track) for track, times in self.tracks.items() for _ in range(times) for kind in kinds]
