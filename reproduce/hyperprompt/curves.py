"""Draws the training curves of hyperprompt-small from its logs.

python reproduce/hyperprompt/curves.py                writes curves.png beside this file
python reproduce/hyperprompt/curves.py FOLDER         of logs of your own, named as the package's are
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
LOGS = HERE.parents[1] / "agents" / "language" / "hyperprompt_small" / "training"


def main() -> None:
    """Draw."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else LOGS
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    tiny, sft = read(folder, "tiny"), read(folder, "sft")
    axes[0].plot(*column(tiny, "loss"), label="training")
    axes[0].plot(*column(tiny, "validation_loss"), label="validation")
    axes[0].set(title="tiny: pretraining on trajectories", xlabel="step", ylabel="loss per token")
    axes[1].plot(*column(sft, "loss"), label="training")
    axes[1].plot(*column(sft, "eval_loss"), label="validation")
    axes[1].set(title="sft: what the teacher would do", xlabel="step", ylabel="loss per token")
    multistep = read(folder, "multistep")
    axes[2].plot(*column(multistep, "score"), "C0", alpha=0.5, label="sampled, training variants")
    axes[2].plot(*column(multistep, "test_mean"), "C3o-", label="greedy, validation variants")
    kept = next(line["kept_mean"] for line in multistep if "kept_mean" in line)
    axes[2].axhline(kept, color="black", linestyle=":", label="everything kept, validation variants")
    axes[2].set(title="multistep: whole meta-episodes", xlabel="update", ylabel="mean meta-score")
    for axis in axes:
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    figure.savefig(HERE / "curves.png", dpi=110)


def read(folder: Path, stage: str) -> list[dict[str, float]]:
    """A line per evaluation or update."""
    return [json.loads(line) for line in (folder / f"{stage}-log.jsonl").read_text(encoding="utf-8").splitlines()]


def column(log: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps, and the values at those that have one."""
    lines = [line for line in log if name in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


if __name__ == "__main__":
    main()
