"""From a collection to prompts and completions, to datasets, and on the command line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.language.prompt import names_in, plain, read_completion
from agents.language.rendering import Rendering
from agents.training import dataset
from agents.training.collect import collect
from agents.training.examples import pool_rows, run_rows, sft_rows
from agents.training.labels import LabelRule, label_sets
from agents.training.schema import SPLITS, TABLES, read_rows
from hpbench import learners
from hpbench.cli import main
from hpbench.control.action import make_reader
from hpbench.control.env import HPControlEnv
from hpbench.errors import InvalidConfiguration, MissingExtra, UnknownName

HOT = learners.make("ppo").hyperparameters.hot


def test_supervised_examples_say_what_labels_say(collection: Path) -> None:
    states = {(row["episode"], row["decision"]): row["text"] for row in read_rows(collection, "states", "train")}
    branches = read_rows(collection, "branches", "train")
    rule = LabelRule(horizon=1, confidence=0.5, material=0.0)
    rows = sft_rows(collection, "train", rule)
    assert len(rows) == len(branches)
    labels = label_sets(branches, rule)
    assert any(label.index for label in labels)
    for row, branch, label in zip(rows, branches, labels, strict=True):
        assert row["prompt"] == plain(states[row["episode"], row["decision"]])
        assert read_completion(row["completion"], HOT) == tuple(branch["choices"][label.index])
        assert row["gain"] == label.posterior.means[label.index]
        assert row["keep"] == (label.index == 0)


def test_a_completion_does_in_the_environment_what_was_tried(collection: Path) -> None:
    """The text action of a completion leads to the values of its branch."""
    row = read_rows(collection, "branches", "train")[0]
    pool = pool_rows(collection)[0]
    space = learners.make("ppo").hyperparameters
    reader = make_reader("text", space)
    for text, values in zip(pool["completions"], row["values"], strict=True):
        update = reader.read(text, row["values"][0])
        assert not update.invalid
        assert update.values == tuple(values)


def test_pools_hold_every_branch_with_its_gain(collection: Path) -> None:
    branches = read_rows(collection, "branches", "validation")
    rows = pool_rows(collection, "validation")
    for row, branch, label in zip(rows, branches, label_sets(branches), strict=True):
        assert len(set(row["completions"])) == len(branch["choices"]) == 4
        assert [read_completion(text, HOT) for text in row["completions"]] == list(map(tuple, branch["choices"]))
        scores = np.array(branch["scores"]).mean(axis=2)
        np.testing.assert_allclose(row["gains"], (scores - scores[0]).mean(axis=1), atol=1e-6)
        unit = np.sqrt(np.mean(np.square(row["noises"][1:])))
        np.testing.assert_allclose(row["rewards"], np.array(row["gains"]) / unit if unit else 0.0)
        assert row["label"] == label.index
        assert row["gains"][0] == row["noises"][0] == row["rewards"][0] == 0.0


def test_whole_runs(collection: Path) -> None:
    states = read_rows(collection, "states", "train")
    rows = run_rows(collection)
    assert sum(len(row["prompts"]) for row in rows) == len(states)
    taken = iter(states)
    for row in rows:
        assert len(row["scores"]) == len(row["prompts"]) + 1 == len(row["completions"]) + 1
        for k, (prompt, answer, exact) in enumerate(zip(row["prompts"], row["completions"], row["exact"], strict=True)):
            state = next(taken)
            assert (state["episode"], state["decision"]) == (row["episode"], k)
            assert prompt == plain(state["text"])
            assert read_completion(answer, HOT) == tuple(state["choices"])
            assert exact == state["exact"]
            assert row["copied"][k] == (state["copied_from"] != "")


def test_a_task_can_be_left_out(collection: Path) -> None:
    for make in (sft_rows, pool_rows, run_rows):
        rows = make(collection, without=["classic/acrobot"])
        assert {row["base"] for row in rows} == {"classic/cartpole"}
        assert len(make(collection)) > len(rows)


def test_chat_messages(collection: Path) -> None:
    texts, chats = (sft_rows(collection, form=form) for form in ("plain", "messages"))
    for text, chat in zip(texts, chats, strict=True):
        assert [message["role"] for message in chat["prompt"]] == ["system", "user"]
        assert chat["prompt"][1]["content"] in text["prompt"]
        assert chat["completion"] == [{"role": "assistant", "content": text["completion"]}]
    with pytest.raises(UnknownName, match="Did you mean 'messages'"):
        sft_rows(collection, form="message")


def test_anonymous_prompts_ask_for_anonymous_names(collection: Path) -> None:
    real, hidden = sft_rows(collection), sft_rows(collection, rendering=Rendering(anonymous=True))
    names = [f"h{i}" for i in range(1, 10)]
    for a, b in zip(real, hidden, strict=True):
        assert names_in(b["prompt"]) == tuple(names)
        assert read_completion(b["completion"], names) == read_completion(a["completion"], HOT)
        assert not any(name in b["prompt"].partition("\n\n")[2] for name in (*HOT, "cartpole", "acrobot"))


def test_keeping_can_be_thinned(collection: Path) -> None:
    rule = LabelRule(horizon=1, confidence=0.5, material=0.0)
    rows = sft_rows(collection, rule=rule)
    edits = sum(not row["keep"] for row in rows)
    assert 0 < edits < len(rows)
    none_kept = sft_rows(collection, rule=rule, keep_share=0.0)
    assert len(none_kept) == edits
    assert not any(row["keep"] for row in none_kept)
    half = sft_rows(collection, rule=rule, keep_share=0.5)
    assert sum(row["keep"] for row in half) == min(edits, len(rows) - edits)
    assert half == sft_rows(collection, rule=rule, keep_share=0.5)
    with pytest.raises(InvalidConfiguration, match="keep_share"):
        sft_rows(collection, keep_share=1.0)


def test_anonymous_renderings_are_those_of_the_environment() -> None:
    """Character for character, cut updates and feedback included."""
    options = {"task": "classic/acrobot", "observation": "text", "action": "discrete", "decisions": 4, "steps": 2048}
    envs = [HPControlEnv(**options, names=names, evaluation_episodes=1) for names in ("real", "anonymous")]  # type: ignore[arg-type]
    texts = [env.reset(seed=1)[0] for env in envs]
    cut = 0
    for k in range(4):
        assert Rendering()(texts[0]) == texts[0]
        assert Rendering(anonymous=True)(texts[0]) == texts[1] != texts[0]
        cut += "feedback: " in texts[0]
        texts = [env.step(np.array([3, 3, 6, 3, 3, 3, 0, 6, k]))[0] for env in envs]
    assert cut > 0


def test_renderings_leave_out_what_is_not_to_be_seen(collection: Path) -> None:
    rows = [row for row in read_rows(collection, "states", "train") if row["decision"] == 3]
    for row in rows:
        text = row["text"]
        assert all(re.search(rf" {name} ", text) for name in ("d1", "d3", "vsbest", "return_best"))
        bare = Rendering(trends=False)(text)
        assert not re.search(r" (d1|d3|vsbest|return_best|decisions_since_best) ", bare)
        assert "return_mean" in bare
        assert "episode_length" in bare
        assert "update 1 " in text
        assert Rendering(history=False)(text).count("\nupdate ") == 0
        assert "trajectory" in text
        short = Rendering(trajectory=False)(text)
        assert "trajectory" not in short
        assert " | " not in short
        everything_out = Rendering(True, False, False, False)(text)
        assert names_in(everything_out) == tuple(f"h{i}" for i in range(1, 10))
    with pytest.raises(InvalidConfiguration, match="not a text observation"):
        Rendering()("hello")


# -- datasets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_tables_load_as_datasets(collection: Path, table: str) -> None:
    found = dataset.load(collection, table)
    assert set(found) == set(SPLITS)
    for split in SPLITS:
        assert found[split].column_names == [column.name for column in TABLES[table]]
        np.testing.assert_equal(found[split].to_list(), read_rows(collection, table, split))


def test_export_reads_back(collection: Path, tmp_path: Path) -> None:
    import datasets

    written = dataset.export(collection, tmp_path)
    assert set(written) == set(TABLES)
    again = datasets.load_from_disk(str(written["states"]))
    np.testing.assert_equal(again["train"].to_list(), dataset.load(collection, "states")["train"].to_list())
    with pytest.raises(InvalidConfiguration, match="exists already"):
        dataset.export(collection, tmp_path)


def test_the_card_makes_the_folder_a_hub_dataset(collection: Path, tmp_path: Path) -> None:
    import datasets

    found = datasets.load_dataset(str(collection), "branches", cache_dir=str(tmp_path))
    assert found["validation"].num_rows == len(read_rows(collection, "branches", "validation"))
    assert found["train"][0]["choices"] == read_rows(collection, "branches", "train")[0]["choices"]


def test_pushing_needs_a_token_and_a_name(collection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(InvalidConfiguration, match="environment variable HF_TOKEN"):
        dataset.push(collection, "owner/name")
    with pytest.raises(InvalidConfiguration, match="owner/name"):
        dataset.push(collection, "name")


def test_a_missing_extra_says_what_to_install(
    collection: Path, tmp_path: Path, make_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = re.escape('is not installed. Run: pip install "hpbench[training]"')
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=f"'datasets' {hint}"):
        dataset.load(collection)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=f"'pyarrow' {hint}"):
        collect(make_settings(), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_wrong_tables_and_empty_folders(collection: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'states'"):
        dataset.load(collection, "state")
    for read in (dataset.load, lambda folder: dataset.export(folder, tmp_path / "out")):
        with pytest.raises(InvalidConfiguration, match="no complete shards"):
            read(tmp_path)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")

    def run(*arguments: object, code: int = 0) -> str:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        assert exit_.value.code in ((0, None) if code == 0 else (code,)), printed
        return printed.out + printed.err

    return run


def test_help(shell: Any) -> None:
    overview = shell("--help")
    assert "hpbench collect" in overview
    assert "hpbench dataset" in overview
    text = shell("collect", "--help")
    assert "Usage: hpbench collect" in text
    assert "hpbench collect --behaviour schedule --behaviour agent:hyperprompt=3" in text
    for command in ("report", "load", "export", "push", "examples"):
        assert command in shell("dataset", "--help")
        assert f"Usage: hpbench dataset {command}" in shell("dataset", command, "--help")


def test_show_prints_settings_that_can_be_used(shell: Any, tmp_path: Path) -> None:
    printed = shell("collect", "--show", "--task", "classic/cartpole", "--behaviour", "schedule=3", "--seed", 0)
    settings = json.loads(printed)
    assert settings["tasks"] == ["classic/cartpole"]
    assert settings["behaviours"] == {"schedule": 3.0}
    (tmp_path / "my.json").write_text(printed)
    assert json.loads(shell("collect", tmp_path / "my.json", "--show")) == settings


def test_collect_then_report_then_examples(shell: Any, collection: Path, tmp_path: Path) -> None:
    """The folder of the shared collection, made by the command."""
    again = tmp_path / "again"
    text = shell("collect", collection / "collect.json", "--output", again, "--processes", 1, "--shards", 1)
    assert "1 of 1 shards are in" in text
    made = again / "states" / "train-00000.parquet"
    assert made.read_bytes() == (collection / "states" / "train-00000.parquet").read_bytes()
    report = shell("dataset", "report", collection)
    for part in ("bytes per row", "behaviour pbt", "ceiling", "classic/cartpole ppo"):
        assert part in report
    assert f"{tmp_path}/sft-train.jsonl" in shell("dataset", "examples", collection, tmp_path).replace("\n", "")
    lines = (tmp_path / "sft-validation.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == sft_rows(collection, "validation")
    shell("dataset", "examples", collection, tmp_path, "--kind", "runs", "--without", "classic/acrobot")
    lines = (tmp_path / "runs-train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run_rows(collection, without=["classic/acrobot"])
    assert "num_rows" in shell("dataset", "load", collection, "--table", "branches")
    assert "branches" in shell("dataset", "export", collection, tmp_path / "exported")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "nowhere.toml"], "Cannot read the settings 'nowhere.toml'"),
        (["collect", "--behaviour", "shedule"], "Did you mean 'schedule'"),
        (["collect", "--behaviour", "schedule=much"], "write NAME or NAME=SHARE"),
        (["dataset", "report", "nowhere"], "no complete shards in 'nowhere'"),
        (["dataset", "examples", "nowhere", "out", "--kind", "stf"], "Did you mean 'sft'"),
        (["dataset", "push", "nowhere", "name"], "owner/name"),
    ],
)
def test_mistakes(shell: Any, arguments: list[str], message: str) -> None:
    assert message in " ".join(shell(*arguments, code=2).split())
