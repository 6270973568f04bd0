"""``hpbench deploy`` from end to end, and what a small model's tokenizer makes of a line of feedback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.language import prompt
from hpbench.cli import main

BREAKER = """
class Breaker:
    action = "text"

    def reset(self, spec, seed):
        self.decision = 0

    def act(self, observation):
        self.decision += 1
        return '{"learning_rate": 0.1, "clip_range": 0.6}' if self.decision == 6 else "{}"
"""
RUN = ["classic/cartpole", "--steps", "20480", "--decisions", "8", "--agent", "breaker_for_tests:Breaker"]


@pytest.fixture(autouse=True)
def _own_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file beside the user."""
    (tmp_path / "breaker_for_tests.py").write_text(BREAKER)
    monkeypatch.syspath_prepend(str(tmp_path))


def deploy(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["deploy", *arguments])
    assert stopped.value.code == 0


def comparable(path: Path) -> Any:
    """The log without times."""
    log = json.loads(path.read_text())
    return {key: value for key, value in log.items() if key != "report"} | {
        key: value for key, value in log["report"].items() if "latency" not in key
    }


def test_a_run_is_shown_and_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, again = tmp_path / "deep" / "log.json", tmp_path / "again.json"
    deploy(*RUN, "--output", str(log))
    text = capsys.readouterr().out
    written = json.loads(log.read_text())
    report = written["report"]
    assert written["finished"]
    assert written["agent"]["name"] == "breaker_for_tests:Breaker"
    assert report["steps"] == 20_480 == 2560 * sum(len(each["attempts"]) for each in written["decisions"])
    assert report["roll_backs"] == text.count("harmful, undone ") == 1
    assert "learning_rate 0.0003 -> 0.1, clip_range 0.2 -> 0.6" in text
    assert "learning_rate 0.0003 -> 0.0054772, clip_range 0.2 -> 0.34641" in text
    assert "roll back rate" in text
    # The same again is the same; what somebody cut short is started again, what is finished is left alone.
    again.write_text(json.dumps({"finished": False}))
    deploy(*RUN, "--output", str(again), "--quiet")
    assert comparable(again) == comparable(log)
    assert "->" not in capsys.readouterr().out
    with pytest.raises(SystemExit) as refused:
        main(["deploy", *RUN, "--output", str(log)])
    assert refused.value.code == 2
    assert "exists already" in capsys.readouterr().err


def test_without_roll_back(tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    deploy(*RUN, "--no-roll-back", "--output", str(log), "--quiet")
    report = json.loads(log.read_text())["report"]
    assert (report["undo"], report["roll_backs"], report["decisions"], report["harmful"]) == ("never", 0, 8, 1)


def test_a_language_model_is_deployed_and_refined(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.json"
    agent = f"hf:{model_folder}?sample=true&device=cpu"
    deploy("classic/acrobot", "--steps", "8192", "--decisions", "4", "--agent", agent, "--refine", "--output", str(log))
    written = json.loads(log.read_text())
    assert written["refine"]
    assert written["report"]["agent"]["prompt_tokens"] > 0
    assert "agent: prompt tokens" in capsys.readouterr().out


def test_small_models_read_feedback(observations: list[str]) -> None:
    """The level of the effect gets through, and the rest of the prompt stays token for token what it was."""
    from agents.training.architecture import UNKNOWN, make_tokenizer

    tokenizer = make_tokenizer()
    line = "feedback: last update effect -49%[13] against expectation, undone, 1/2 of it effect -17.2%[22] as expected"
    plain = tokenizer.tokenize(prompt.plain(observations[-1]))
    told = tokenizer.tokenize(prompt.plain(f"{observations[-1]}\n{line}"))
    at = next(i for i, (a, b) in enumerate(zip(plain, told, strict=False)) if a != b)
    more = len(told) - len(plain)
    assert told[:at] + told[at + more :] == plain
    assert told[at] == "feedback:"
    known = [token for token in told[at : at + more] if token != UNKNOWN]
    assert known == ["feedback:", "update", "effect", "[13]", "effect", "[22]"]
