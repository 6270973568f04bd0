"""From collections to training examples: prompts with completions, in the format of :mod:`agents.language.prompt`.

- :func:`sft_rows`: a state and the update that its label speaks for, for supervised fine-tuning (the prompt-completion
  format of TRL).
- :func:`taught_rows`: any recorded state and the update that a teacher gives.
- :func:`pool_rows`: a state with all K updates that were tried from it and what they gained, for group-relative
  training from a pool of branches: the completions of a prompt are its branches, and their rewards are known.
- :func:`run_rows`: whole meta-episodes, observation after observation with the updates that were made, for pretraining
  on sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.language.prompt import completion, messages, names_in, plain
from agents.language.rendering import Rendering, hide_task
from agents.training.labels import KEEP_LABEL, Label, LabelRule, label_sets
from agents.training.schema import Rows, read_rows
from agents.training.teacher import Teacher
from hpbench import learners
from hpbench.control.text import shown_names
from hpbench.errors import InvalidConfiguration, UnknownName
from hpbench.hyperparameter import KEEP

FORMS = ("plain", "messages")
"""Of prompts and completions: one string each, or lists of chat messages."""

_SPEC = ("episode", "decision", "task", "base", "learner", "track", "behaviour")


def sft_rows(
    folder: Path,
    split: str = "train",
    rule: LabelRule | None = None,
    rendering: Rendering | None = None,
    form: str = "plain",
    without: Collection[str] = (),
    keep_share: float | None = None,
    seed: int = 0,
) -> Rows:
    """Prompts with the completions that labels speak for, one row per branch set.

    Args:
        folder: of the collection.
        split: ``train`` or ``validation``.
        rule: how labels are made; None: the default one.
        rendering: what prompts show; None: everything.
        form: one of :data:`FORMS`.
        without: base tasks to leave out, such as ``classic/acrobot``: for tests on tasks never seen.
        keep_share: largest share of rows whose label keeps everything, in ``[0, 1)``; what is too much is left out at
            random. None: all rows.
        seed: of what is left out.

    Returns:
        Rows with ``prompt``, ``completion``, ``gain`` (the label's shrunk gain) and ``confidence``, and the columns
        that say where they come from.

    Raises:
        UnknownName: for another form.
        InvalidConfiguration: for a collection without branch sets or with single continuations, or ``keep_share``
            outside its range.
    """
    rows = []
    for state, row, label in _labelled(folder, split, rule, without):
        prompt, answer = _form(form), _answers(form)
        text = (Rendering() if rendering is None else rendering)(state["text"])
        names = hot_names(text, row["learner"])
        rows.append(
            {name: row[name] for name in _SPEC}
            | {
                "prompt": prompt(text),
                "completion": answer(completion(row["choices"][label.index], names)),
                "keep": label.index == KEEP_LABEL,
                "gain": float(label.posterior.means[label.index]),
                "confidence": float(label.posterior.confidence[label.index]),
            }
        )
    return rows if keep_share is None else thin(rows, keep_share, seed)


def taught_rows(
    folder: Path,
    teacher: Teacher,
    split: str = "train",
    rendering: Rendering | None = None,
    form: str = "plain",
    without: Collection[str] = (),
    hidden: float = 0.0,
    seed: int = 0,
) -> Rows:
    """Prompts with the completions that a teacher gives, one row per recorded state that it knows something about.

    Args:
        folder, split, rendering, form, without: as for :func:`sft_rows`.
        teacher: what to choose.
        hidden: share of the rows whose prompt does not name the task.
        seed: of which ones these are.

    Returns:
        Rows with ``prompt``, ``completion`` and ``keep``, and the columns that say where they come from.

    Raises:
        UnknownName: for another form.
        InvalidConfiguration: if the teacher knows nothing about any of the states, and as :func:`sft_rows`.
    """
    prompt, answer = _form(form), _answers(form)
    render = Rendering() if rendering is None else rendering
    generator = np.random.default_rng([seed, len(split)])
    rows = []
    for row in read_rows(folder, "states", split, (*_SPEC, "text")):
        choices = None if row["base"] in without else teacher.choices(row["text"], row["base"])
        if choices is not None:
            text = hide_task(row["text"]) if generator.random() < hidden else row["text"]
            text = render(text)
            rows.append(
                {name: row[name] for name in _SPEC}
                | {
                    "prompt": prompt(text),
                    "completion": answer(completion(choices.tolist(), hot_names(text, row["learner"]))),
                    "keep": bool((choices == KEEP).all()),
                }
            )
    if not rows:
        raise InvalidConfiguration(f"the teacher knows none of the tasks and learners of the split {split!r}")
    return rows


def pool_rows(
    folder: Path,
    split: str = "train",
    rule: LabelRule | None = None,
    rendering: Rendering | None = None,
    form: str = "plain",
    without: Collection[str] = (),
) -> Rows:
    """Prompts with all updates that were tried, one row per branch set.

    Args:
        folder, split, rule, rendering, form, without: as for :func:`sft_rows`.

    Returns:
        Rows with ``prompt``, ``completions`` ``[K]`` (the first keeps everything), ``gains`` ``[K]`` over the first,
        ``noises`` ``[K]``, their standard errors, ``shrunk`` ``[K]``, ``rewards`` ``[K]``: gains in units of the set's
        noise, the root mean square of the errors (0 where all are 0), and ``label``, an index.

    Raises:
        UnknownName, InvalidConfiguration: as :func:`sft_rows`.
    """
    rows = []
    for state, row, label in _labelled(folder, split, rule, without):
        prompt, answer = _form(form), _answers(form)
        text = (Rendering() if rendering is None else rendering)(state["text"])
        names = hot_names(text, row["learner"])
        gains, noise = label.measured.gains, label.measured.noise
        unit = float(np.sqrt(noise[1:].mean()))
        rows.append(
            {name: row[name] for name in _SPEC}
            | {
                "prompt": prompt(text),
                "completions": [answer(completion(choices, names)) for choices in row["choices"]],
                "gains": gains.tolist(),
                "noises": np.sqrt(noise).tolist(),
                "shrunk": label.posterior.means.tolist(),
                "rewards": (gains / unit if unit > 0.0 else np.zeros_like(gains)).tolist(),
                "label": label.index,
            }
        )
    return rows


def run_rows(
    folder: Path,
    split: str = "train",
    rendering: Rendering | None = None,
    form: str = "plain",
    without: Collection[str] = (),
) -> Rows:
    """Whole meta-episodes, one row each.

    Args:
        folder, split, rendering, form, without: as for :func:`sft_rows`.

    Returns:
        Rows with ``prompts`` and ``completions`` ``[decisions]``, the completion being the choices nearest to the
        update that was made; ``exact``, whether they are that update; ``copied``, whether the update came with the
        learner of another run; ``scores`` ``[decisions + 1]`` and ``meta_score``.

    Raises:
        UnknownName, InvalidConfiguration: as :func:`sft_rows`.
    """
    prompt, answer = _form(form), _answers(form)
    runs: dict[str, dict[str, Any]] = {}
    for row in read_rows(folder, "episodes", split):
        if row["base"] not in without:
            lists: dict[str, Any] = {name: [] for name in ("prompts", "completions", "exact", "copied")}
            kept = (*_SPEC, "scores", "meta_score")
            runs[row["episode"]] = {name: row[name] for name in kept if name != "decision"} | lists
    for row in read_rows(folder, "states", split):
        if row["episode"] in runs:
            run = runs[row["episode"]]
            text = (Rendering() if rendering is None else rendering)(row["text"])
            run["prompts"].append(prompt(text))
            run["completions"].append(answer(completion(row["choices"], hot_names(text, row["learner"]))))
            run["exact"].append(row["exact"])
            run["copied"].append(bool(row["copied_from"]))
    return list(runs.values())


def _labelled(
    folder: Path, split: str, rule: LabelRule | None, without: Collection[str]
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], Label]]:
    """States, their branch sets, and the labels of these."""
    branches = [row for row in read_rows(folder, "branches", split) if row["base"] not in without]
    columns = ("episode", "decision", "text")
    states = {(row["episode"], row["decision"]): row for row in read_rows(folder, "states", split, columns)}
    for row, label in zip(branches, label_sets(branches, rule), strict=True):
        yield states[row["episode"], row["decision"]], row, label


def _form(form: str) -> Callable[[str], Any]:
    if form not in FORMS:
        raise UnknownName("form", form, FORMS)
    return plain if form == "plain" else messages


def _answers(form: str) -> Callable[[str], Any]:
    if form == "plain":
        return lambda text: text
    return lambda text: [{"role": "assistant", "content": text}]


def hot_names(text: str, learner: str) -> Sequence[str]:
    """The keys of a completion: hot hyperparameters as the observation shows them."""
    space = learners.make(learner).hyperparameters
    shown = names_in(text)
    for names in ("real", "anonymous"):
        known = shown_names(space, names)
        if tuple(known.values()) == shown:
            return [known[name] for name in space.hot]
    raise InvalidConfiguration(
        f"this observation shows the hyperparameters {shown}, which are not those of {learner!r}"
    )


def thin(rows: Rows, keep_share: float, seed: int) -> Rows:
    """Rows of which at most that share, in ``[0, 1)``, keeps everything; what is too much is left out at random.

    Raises:
        InvalidConfiguration: for a share outside its range.
    """
    if not 0.0 <= keep_share < 1.0:
        raise InvalidConfiguration(f"keep_share must be at least 0 and below 1, got {keep_share}")
    kept = [i for i, row in enumerate(rows) if row["keep"]]
    room = int(keep_share / (1.0 - keep_share) * (len(rows) - len(kept)))
    if len(kept) <= room:
        return rows
    left_out = set(np.random.default_rng(seed).permutation(kept)[room:].tolist())
    return [row for i, row in enumerate(rows) if i not in left_out]
