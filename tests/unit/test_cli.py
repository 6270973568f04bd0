"""The command line, from the words that a user types to what appears and the exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hpbench
from hpbench import learners, tasks
from hpbench.agent import AGENTS, POPULATION_AGENTS
from hpbench.cli import main
from hpbench.cli.commands import DEFAULT_AGENTS
from hpbench.cli.listing import TABLES
from hpbench.control.registration import ENVIRONMENTS, PARALLEL_ENVIRONMENTS
from hpbench.evaluation.suite import suite_names

SUITE = """
format = 1
name = "tiny-v0"
title = "Two decisions"

[[rows]]
env = "HPControl-Classic-v0"
tasks = ["classic/cartpole"]
tracks = ["default"]
learner = "ppo"
tier = "small"
seeds = "0-1"
decisions = 2
steps = 1024
evaluation_episodes = 1
"""

AGENT = """
class Keep:
    name = "keep"
    action = "text"

    def reset(self, spec, seed):
        pass

    def act(self, observation):
        return "{}"
"""


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "path", list(sys.path))


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What is printed, on both outputs together, spaces and line ends made one."""
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        printed = self._capsys.readouterr()
        assert exit_.value.code in ((0, None) if code == 0 else (code,)), printed
        return re.sub(r"\s+", " ", printed.out + printed.err)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_help_teaches(shell: Shell) -> None:
    text = shell("--help")
    for command in ("hpbench run", "hpbench report", "hpbench list", "hpbench info", "hpbench doctor", "hpbench.run("):
        assert command in text


@pytest.mark.parametrize(
    "command", ["list", "info", "run", "population", "report", "doctor", "collect", "dataset", "deploy"]
)
def test_every_command_has_help(shell: Shell, command: str) -> None:
    assert "Usage: hpbench " + command in shell(command, "--help")


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "hpbench run" in "".join(capsys.readouterr())


def test_version(shell: Shell) -> None:
    assert shell("--version").strip() == f"hpbench {hpbench.__version__}"


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "hpbench", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"hpbench {hpbench.__version__}"


def test_list_shows_everything(shell: Shell) -> None:
    text = shell("list")
    names = [*ENVIRONMENTS, *PARALLEL_ENVIRONMENTS, *tasks.task_ids(), *learners.LEARNERS]
    names += [*AGENTS, *POPULATION_AGENTS, *suite_names()]
    names += learners.make("ppo").hyperparameters
    assert [name for name in names if name not in text] == []
    assert "256 train, 64 validation, 64 test variants" in text


@pytest.mark.parametrize("what", TABLES)
def test_list_one_table(shell: Shell, what: str) -> None:
    rows = {
        "ids": "HPControl-Classic-v0 classic",
        "tasks": "classic/cartpole 4 2 choices",
        "learners": "ppo 9",
        "hyperparameters": "discount 0.8 0.9999 log(1-x) 0.99 hot",
        "agents": "kl-adaptive Raises the learning rate",
        "suites": "quick-v0 4 20",
    }
    text = shell("list", what)
    assert rows[what] in text
    assert [other for other, row in rows.items() if other != what and row in text] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("HPControl-Classic-v0", ["Action Space", "Box(-1, 1", "Episode End"]),
        (
            "classic/cartpole",
            ["balance a pole", "500 steps", "learning_rate 0.001", "RL Baselines3 Zoo", "gravity 9.8"],
        ),
        ("classic/cartpole@test-3", ["split test", "classic/cartpole@test-3"]),
        ("ppo", ["learning_rate", "num_envs", "Schulman"]),
        ("gae_lambda", ["0.5 to 0.999", "log(1-x)", "between updates"]),
        ("kl-adaptive", ["agents.kl_adaptive:KLAdaptive", "target: float = 0.01"]),
        ("pbt", ["agents.pbt:PBT", "quantile: float = 0.25", "Jaderberg"]),
        ("HPControl-Population-v0", ["copy_from", "Observation Space", "Episode End"]),
        ("agents.fixed:LibraryDefault", ["Keeps what the track starts with"]),
        ("quick-v0", ["classic/acrobot", "100-104", "hash"]),
    ],
)
def test_info(shell: Shell, name: str, expected: list[str]) -> None:
    text = shell("info", name)
    assert [part for part in expected if part not in text] == []


@pytest.mark.parametrize(
    "name",
    [
        *tasks.task_ids(),
        *learners.LEARNERS,
        *AGENTS,
        *suite_names(),
        *ENVIRONMENTS,
        *PARALLEL_ENVIRONMENTS,
        *POPULATION_AGENTS,
    ],
)
def test_everything_that_is_listed_has_details(shell: Shell, name: str) -> None:
    assert name in shell("info", name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "agent"], "Unknown list 'agent'. Did you mean 'agents'"),
        (["info", "cartpole"], "Unknown name 'cartpole'. Did you mean 'classic/cartpole'"),
        (["info", "classic/cartpol"], "Unknown task 'classic/cartpol'. Did you mean 'classic/cartpole'"),
        (["info", "math:pi"], "'math:pi' is not an agent"),
        (["run", "--agent", "cosine"], "Unknown agent 'cosine'. Did you mean 'cosine-decay'"),
        (["run", "--agent", "no_such_module:X"], "No module 'no_such_module'"),
        (["run", "--suite", "quick"], "Unknown suite 'quick'. Did you mean 'quick-v0'"),
        (["run", "--device", "gpu"], "Unknown device 'gpu'"),
        (["population", "--agent", "pb"], "Unknown population agent 'pb'. Did you mean"),
        (["population", "--seeds", "1,2"], 'write seeds as "first-last"'),
        (["population", "--seeds", "3-2"], "the seeds '3-2' are none"),
        (["population", "--output", "."], "exists already"),
        (["report", "--results", "nowhere"], "There are no results in 'nowhere'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    printed = capsys.readouterr()
    assert exit_.value.code == 2
    assert printed.err.startswith("hpbench: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.parametrize("arguments", [["run", "--processes", "0"], ["run", "--no-such-option"], ["no-such-command"]])
def test_wrong_usage_is_exit_code_2(shell: Shell, arguments: list[str]) -> None:
    assert "Usage: hpbench" in shell(*arguments, code=2)


def test_run_then_report_then_resume(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an empty folder, with an agent in a file beside the user, as the README says."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(SUITE)
    Path("my_cli_agent.py").write_text(AGENT)
    command = ["run", "--suite", "tiny.toml", "--agent", "my_cli_agent:Keep", "--agent", "random", "--processes", "1"]
    text = shell(*command, "--output", "out")
    assert "keep" in text
    assert "[2/2]" in text
    records = {path: path.read_bytes() for path in Path("out/tiny-v0").glob("*/*default*[0-9a-f].json")}
    assert len(records) == 2
    again = shell(*command, "--output", "out", "--quiet")
    assert "[2/2]" not in again
    assert {path: path.read_bytes() for path in records} == records
    assert "Wrote out/tiny-v0/report.html" in shell("report", "--results", "out")
    assert "keep" in Path("out/tiny-v0/report.html").read_text()
    assert Path("out/tiny-v0/report.md").is_file()
    shell("report", "--results", "out/tiny-v0", "--output", "elsewhere")
    assert Path("elsewhere/report.html").is_file()


def test_population(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    budget = ["--members", "3", "--steps", "1024", "--decisions", "2", "--seeds", "3-4"]
    text = shell("population", *budget, "--output", "out/games.jsonl")
    assert "pbt seed 4: best" in text
    assert "independent 2" in text
    games = [json.loads(line) for line in Path("out/games.jsonl").read_text().splitlines()]
    assert [(game["agent"], game["seed"]) for game in games] == [
        (agent, seed) for agent in ("independent", "pbt") for seed in (3, 4)
    ]
    assert all(game["steps"] == 3 * 1024 for game in games)


def test_default_agents_are_registered() -> None:
    assert set(DEFAULT_AGENTS) <= set(AGENTS)


def test_help_is_fast_and_light() -> None:
    """Nothing heavy is imported before a command needs it."""
    code = (
        "import sys\nfrom hpbench.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'scipy', 'matplotlib', 'jinja2', 'pydantic'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() in ("[]", "['pydantic']")  # Typer itself needs pydantic
