"""The completion as slots: the token tree over which the choices of every hyperparameter are compared.

The completion's skeleton is forced; a slot holds one of :data:`~agents.language.prompt.CHOICES`. A choice may be
several tokens long, and then its tokens are summed, so all choices of a slot form a tree that begins where the skeleton
stops. A choice ends where it can no longer become another one: after its last token, or after the closing quotation
mark if the tokenizer cuts ``x1.25`` so that ``x1`` begins it. The columns of a slot are::

    skeleton | inner nodes of the tree | last token of the choice taken

Inner nodes that are not on the way to the choice taken stay in the sequence, but nothing after the slot attends to
them, and positions count tokens of the completion, not columns. So one pass over the columns of a slot scores all its
choices, the key-value cache only grows, and the same columns in one go give the log-probabilities of a whole batch of
completions with gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.language import prompt
from hpbench.errors import InvalidConfiguration

Path = tuple[int, ...]


@dataclass(frozen=True)
class Slot:
    """One hyperparameter's part of the completion.

    Args:
        skeleton: forced tokens before the choice.
        choices: tokens of each choice; none is the beginning of another.
        nodes: beginnings that several choices may share, and the way to longer ones: each proper, non-empty prefix of
            a choice, shorter ones first.
        start: first column.
    """

    skeleton: Path
    choices: tuple[Path, ...]
    nodes: tuple[Path, ...]
    start: int

    @property
    def root(self) -> int:
        """Column of the last token of the skeleton: its logits score first tokens."""
        return self.start + len(self.skeleton) - 1

    @property
    def end(self) -> int:
        """One past the inner nodes: the column of the last token of the choice taken."""
        return self.root + 1 + len(self.nodes)

    def column(self, node: Path) -> int:
        """Column of a beginning of a choice; the empty one stands for the end of the skeleton."""
        return self.root if not node else self.root + 1 + self.nodes.index(node)


@dataclass(frozen=True)
class Tree:
    """The columns after the prompt, for given choices.

    Args:
        ids: tokens, int64 ``[members, columns]``.
        positions: counted from the end of the prompt, int64 ``[members, columns]``.
        visible: which columns (last axis) each column attends to, itself included, bool ``[members, columns,
            columns]``.
    """

    ids: Tensor
    positions: Tensor
    visible: Tensor


class SlotLayout:
    """Slots of all hot hyperparameters for one tokenizer.

    Args:
        names: of the hot hyperparameters, as the observation shows them.
        tokens: what turns a piece of the completion into tokens, such as
            :meth:`agents.language.causal.CausalModel.piece_ids`.
        device: of the tensors.
    """

    def __init__(
        self, names: Sequence[str], tokens: Callable[[str], list[int]], device: torch.device | str = "cpu"
    ) -> None:
        self.names = tuple(names)
        self.slots: list[Slot] = []
        start = 0
        carried: Path = ()
        for opening, close in prompt.pieces(names):
            skeleton, choices, rest = _cut(
                carried + tuple(tokens(opening)), [tuple(tokens(choice + close)) for choice in prompt.CHOICES]
            )
            nodes = sorted(
                {path[:i] for path in choices for i in range(1, len(path))}, key=lambda node: (len(node), node)
            )
            self.slots.append(Slot(skeleton, tuple(choices), tuple(nodes), start))
            start, carried = self.slots[-1].end + 1, rest
        self.tail = carried
        """Tokens after the last choice, forced like the skeleton; nothing is scored there."""
        self.columns = start
        self._fill(device)

    @property
    def longest(self) -> int:
        """The most columns, and so tokens, that a completion takes."""
        return self.columns + len(self.tail)

    def tree(self, choices: Tensor) -> Tree:
        """The columns for choices int64 ``[members, slots]``. Columns up to a slot do not depend on its choice."""
        slots = torch.arange(len(self.slots), device=choices.device)
        sizes = self._skeletons + self._lengths[slots, choices]  # [members, slots]
        ends = sizes.cumsum(dim=1)
        ids = self._ids.repeat(len(choices), 1)
        ids[:, self._ends] = self._last[slots, choices]
        positions = (ends - sizes)[:, self._slot] + self._depth
        positions[:, self._ends] = ends - 1
        kept = self._kept | self._on_path[slots, choices].any(dim=1)
        visible = self._inside | (self._after & kept[:, None, :])
        return Tree(ids, positions, visible)

    def read_columns(self, which: slice = slice(None)) -> Tensor:
        """The columns whose logits :meth:`scores` wants, those of each slot from its root to its last inner node:
        int64 ``[columns read]``, ascending.

        Args:
            which: of the slots; all by default.
        """
        return torch.cat(self._read_columns[which])

    def scores(self, logits: Tensor, which: slice = slice(None)) -> Tensor:
        """Log-probability of each choice of some slots among the choices of its slot, float32 ``[members, slots,
        choices]``.

        Args:
            logits: of :meth:`read_columns` for these slots, ``[members, columns read, vocabulary]``.
            which: of the slots; all by default.
        """
        logits = logits.float()
        columns, tokens, used = (part[which] for part in self._reads)  # [slots, choices, tokens]
        columns = columns - sum(map(len, self._read_columns[: which.indices(len(self.slots))[0]]))
        logs = logits[:, columns, tokens] - logits.logsumexp(dim=-1)[:, columns]  # [members, slots, choices, tokens]
        return torch.where(used, logs, 0.0).sum(dim=-1).log_softmax(dim=-1)

    def size(self, choices: Sequence[int]) -> int:
        """Tokens of the completion that makes these choices."""
        return sum(
            len(slot.skeleton) + len(slot.choices[choice]) for slot, choice in zip(self.slots, choices, strict=True)
        ) + len(self.tail)

    def completion_ids(self, choices: Sequence[int]) -> list[int]:
        """The completion as tokens: what is scored, and what a model should be trained on."""
        ids: list[int] = []
        for slot, choice in zip(self.slots, choices, strict=True):
            ids += (*slot.skeleton, *slot.choices[choice])
        return [*ids, *self.tail]

    def _fill(self, device: torch.device | str) -> None:
        ids, slots, depth, kept = [], [], [], []
        inside = torch.zeros(self.columns, self.columns, dtype=torch.bool)
        after = torch.zeros(self.columns, self.columns, dtype=torch.bool)
        for h, slot in enumerate(self.slots):
            ids += [*slot.skeleton, *(node[-1] for node in slot.nodes), 0]
            depth += [*range(len(slot.skeleton)), *(len(slot.skeleton) - 1 + len(node) for node in slot.nodes), 0]
            kept += [*[True] * len(slot.skeleton), *[False] * len(slot.nodes), True]
            slots += [h] * (slot.end + 1 - slot.start)
            for i in range(slot.start, slot.root + 1):
                inside[i, slot.start : i + 1] = True
            for node in slot.nodes:
                row = slot.column(node)
                inside[row, slot.start : slot.root + 1] = True
                inside[row, [slot.column(node[:i]) for i in range(1, len(node) + 1)]] = True
            inside[slot.end, slot.end] = True
            after[slot.end, slot.start : slot.end] = True  # the last token of the choice sees the way to it
            after[slot.start : slot.end + 1, : slot.start] = True
        self._ids = torch.tensor(ids, device=device)
        self._slot = torch.tensor(slots, device=device)
        self._depth = torch.tensor(depth, device=device)
        self._kept = torch.tensor(kept, device=device)
        self._inside, self._after = inside.to(device), after.to(device)
        self._skeletons = torch.tensor([len(slot.skeleton) for slot in self.slots], device=device)
        self._lengths = torch.tensor([[len(path) for path in slot.choices] for slot in self.slots], device=device)
        self._last = torch.tensor([[path[-1] for path in slot.choices] for slot in self.slots], device=device)
        self._ends = torch.tensor([slot.end for slot in self.slots], device=device)
        on_path = torch.zeros(*self._last.shape, self.columns, dtype=torch.bool)
        for h, slot in enumerate(self.slots):
            for c, path in enumerate(slot.choices):
                on_path[h, c, [slot.column(node) for node in slot.nodes if path[: len(node)] == node]] = True
        self._on_path = on_path.to(device)
        self._read_columns = [torch.arange(slot.root, slot.end, device=device) for slot in self.slots]
        self._reads = tuple(part.to(device) for part in _reads(self.slots))


def _cut(skeleton: Path, choices: list[Path]) -> tuple[Path, list[Path], Path]:
    """Tokens that all choices begin with belong to the skeleton; those that all end with to what follows, as long as
    no choice becomes the beginning of another."""
    while len({path[0] for path in choices}) == 1 and min(map(len, choices)) > 1:
        skeleton, choices = (*skeleton, choices[0][0]), [path[1:] for path in choices]
    rest: Path = ()
    while len({path[-1] for path in choices}) == 1 and min(map(len, choices)) > 1:
        shorter = [path[:-1] for path in choices]
        if not _prefix_free(shorter):
            break
        rest, choices = (choices[0][-1], *rest), shorter
    if not _prefix_free(choices):
        raise InvalidConfiguration(f"This tokenizer does not tell the choices {', '.join(prompt.CHOICES)} apart")
    return skeleton, choices, rest


def _prefix_free(paths: list[Path]) -> bool:
    return not any(i != j and b[: len(a)] == a for i, a in enumerate(paths) for j, b in enumerate(paths))


def _reads(slots: Sequence[Slot]) -> tuple[Tensor, Tensor, Tensor]:
    """For each token of each choice, ``[slots, choices, tokens]``: which of the columns that are read scores it, the
    token, and whether there is one."""
    shape = (len(slots), len(prompt.CHOICES), max(len(path) for slot in slots for path in slot.choices))
    columns, tokens = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    used = torch.zeros(shape, dtype=torch.bool)
    before = 0
    for h, slot in enumerate(slots):
        columns[h] = before
        for c, path in enumerate(slot.choices):
            for i, token in enumerate(path):
                columns[h, c, i], tokens[h, c, i] = before + slot.column(path[:i]) - slot.root, token
                used[h, c, i] = True
        before += slot.end - slot.root
    return columns, tokens, used
