"""What looking after the model is worth: the runs behind that table."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hpbench
from hpbench.evaluation.suite import parse_suite

FOLDER = Path(__file__).parents[2] / "reproduce" / "hyperprompt"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="reproduce/ is part of the source checkout only")
pytest.importorskip("transformers", reason="needs the extra language")

SHORT: dict[str, Any] = {"steps": 3072, "decisions": 6, "evaluation_episodes": 2}
SUITE = """
format = 1
name = "test-v0"
[[rows]]
env = "HPControl-Classic-v0"
tasks = ["classic/cartpole@test"]
tracks = ["random"]
learner = "ppo"
tier = "small"
seeds = [100, 101]
steps = 3072
decisions = 6
evaluation_episodes = 2
"""


@pytest.fixture(scope="module")
def live() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(FOLDER / "live.py"), run_name="live"))


def test_plain_runs_are_those_of_the_suite_and_arms_stand_beside_them(live: SimpleNamespace, tmp_path: Path) -> None:
    results = hpbench.run("hyperprompt", parse_suite(SUITE, "test", "toml"), tmp_path, processes=1, progress=False)
    (theirs,) = results.strata("hyperprompt")
    runs = live.plan(["plain", "roll-back", "refinement"], ["random"], ["classic/cartpole@test"], [100, 101])
    path = tmp_path / "live.jsonl"
    assert live.lines.run(runs[:5], path, live.play, live.key_of, **SHORT) == 5
    played = live.lines.read(path)
    assert [line["meta_score"] for line in played[:2]] == pytest.approx(theirs.tolist(), abs=1e-12)
    plain, undone = live.table(played, results).rows  # refinement is not complete
    assert plain[0] == "plain"
    assert plain[1].estimate == pytest.approx(theirs.mean())
    assert undone[0] == "roll-back"
    difference = np.array([line["meta_score"] for line in played[2:4]]) - theirs
    assert undone[2].estimate == pytest.approx(difference.mean())
    assert live.lines.run(runs, path, live.play, live.key_of, **SHORT) == 1
    assert [row[0] for row in live.table(live.lines.read(path), results).rows] == ["plain", "roll-back", "refinement"]


def test_what_the_arms_do(live: SimpleNamespace) -> None:
    run = live.plan(["plain", "feedback", "refinement"], ["random"], ["classic/cartpole@test"], [100])
    plain, told, refined = (live.play(each, **SHORT) for each in run)
    assert (plain["feedback_lines"], plain["roll_backs"]) == (0, 0)
    assert told["feedback_lines"] > 0
    assert told["roll_backs"] == 0
    assert refined["steps"] == plain["steps"] == SHORT["steps"]
    assert refined["digest"] != told["digest"]
