"""hpbench train: recipes, the command line, and pretraining on sequences of a real collection."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.language.causal import CausalModel
from agents.language.layout import SlotLayout
from agents.language.prompt import CHOICES, SYSTEM, completion, names_in, plain
from agents.language.rendering import Rendering
from agents.training.architecture import SIZES, make_model, make_tokenizer
from agents.training.examples import sft_rows
from agents.training.grpo import train_grpo
from agents.training.held_out import read_states
from agents.training.ppo import train_ppo
from agents.training.recipes import GrpoRecipe, PpoRecipe, SftRecipe, TinyRecipe, dump_recipe, read_recipe
from agents.training.schema import read_rows
from agents.training.sequences import Sequences, read_sequences
from agents.training.sft import train_sft
from agents.training.tiny import schedule, train_tiny
from hpbench import learners, make_agent, tasks
from hpbench.cli import main
from hpbench.errors import InvalidConfiguration, MissingExtra, UnknownName
from train_runs import TINY, log_of

# -- recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TinyRecipe, SftRecipe, GrpoRecipe, PpoRecipe])
def test_recipes_come_with_the_package_and_survive_a_file(kind: Any, tmp_path: Path) -> None:
    recipe = read_recipe(kind)
    (tmp_path / "mine.json").write_text(dump_recipe(recipe))
    assert read_recipe(kind, tmp_path / "mine.json") == recipe
    with pytest.raises(UnknownName, match="Did you mean 'learning_rate'"):
        read_recipe(kind, changes={"learning_rat": 1.0})
    with pytest.raises(InvalidConfiguration, match=r"at label.horizon"):
        read_recipe(kind, changes={"label": {"horizon": 0}})
    with pytest.raises(InvalidConfiguration, match="Cannot read the recipe"):
        read_recipe(kind, tmp_path / "none.toml")


# -- tokenizer and model -----------------------------------------------------------------------------------------------


def test_every_state_and_completion_is_made_of_known_words(collection: Path, tokenizer: Any) -> None:
    for row in sft_rows(collection):
        ids = tokenizer(row["prompt"])["input_ids"]
        words = tokenizer.convert_ids_to_tokens(ids)
        assert tokenizer.unk_token_id not in ids, words
        assert words[0] == "<s>"
        assert len(ids) < 120
        answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in answer
        assert tokenizer.decode(answer) == row["completion"]
        assert len(answer) == 3 * len(names_in(row["prompt"]))


def test_levels_stay_and_raw_numbers_go(collection: Path, tokenizer: Any) -> None:
    text = read_rows(collection, "states", "train")[-1]["text"]
    words = tokenizer.convert_ids_to_tokens(tokenizer(plain(text))["input_ids"])
    levels = [word for line in text.split("\n") for word in line.split() if word.endswith("]")]
    assert [word for word in words if word.startswith("[")] == [word[-4:] for word in levels]
    assert not [
        word for word in words if any(c.isdigit() for c in word) and word[0] in "+-0123456789" and len(word) > 1
    ]
    changed = re.sub(r"return_mean \S+\[", "return_mean -3.25e+04[", text).replace("in 1e-05..", "in 3e-05..")
    assert changed != text
    assert tokenizer(plain(changed)) == tokenizer(plain(text))
    assert tokenizer(plain(text).replace(SYSTEM, "")) != tokenizer(plain(text).replace("task", "hidden"))


def test_all_learners_have_their_words(tokenizer: Any) -> None:
    for learner in learners.LEARNERS:
        hot = learners.make(learner).hyperparameters.hot
        for names in (list(hot), [f"h{i}" for i in range(1, len(hot) + 1)]):
            for choices in ([3] * len(hot), [i % len(CHOICES) for i in range(len(hot))]):
                text = completion(choices, names)
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                assert tokenizer.unk_token_id not in ids
                assert tokenizer.decode(ids) == text


def test_tasks_that_are_not_known_and_hidden_ones_are_the_unknown_word(collection: Path) -> None:
    text = plain(read_rows(collection, "states", "train")[-1]["text"])
    assert re.search(r"task classic/\S+ learner", text)
    known, other = make_tokenizer(known=tasks.task_ids()), make_tokenizer(known=["classic/other"])
    hidden = re.sub(r"task \S+ learner", "task hidden learner", text)
    unknown = [known.unk_token_id == id_ for id_ in known(hidden)["input_ids"]]
    assert sum(unknown) == 1
    assert unknown[2]  # behind the beginning and the word task
    assert known.unk_token_id not in known(text)["input_ids"]
    assert other(text)["input_ids"].index(other.unk_token_id) == 2


def test_the_tokenizer_loads_by_path_and_slots_are_single_tokens(tiny: Path, tokenizer: Any) -> None:
    model = CausalModel.load(str(tiny / "best"), device="cpu")
    text = completion([0, 6, 3], ["learning_rate", "clip_range", "discount"])
    assert model.plain_ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    layout = SlotLayout(["learning_rate", "clip_range", "discount"], model.piece_ids)
    assert all(len(choice) == 1 for slot in layout.slots for choice in slot.choices)
    assert layout.completion_ids([0, 6, 3]) == model.plain_ids(text)
    assert (tiny / "best" / "model.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("size", "parameters"), [("0.3M", 0.37e6), ("0.4M", 0.44e6), ("0.8M", 0.8e6), ("5M", 5e6), ("10M", 10e6)]
)
def test_sizes_are_what_they_say(tokenizer: Any, size: str, parameters: float) -> None:
    count = sum(weight.numel() for weight in make_model(size, tokenizer).parameters())
    assert 0.94 * parameters < count < 1.05 * parameters
    assert size != "5M" or 2 * count < 10e6


def test_a_size_that_does_not_exist(tokenizer: Any) -> None:
    with pytest.raises(UnknownName, match="Did you mean '5M'"):
        make_model("5m", tokenizer)
    assert "tiny" in SIZES


# -- sequences ---------------------------------------------------------------------------------------------------------


def test_rows_start_at_states_and_go_on() -> None:
    rows = Sequences([[[1, 2, 3], [4, 5]], [[6]]], length=4, padding=0)
    assert (len(rows), rows.tokens) == (3, 6)
    assert rows.spread(5).tolist() == [[1, 2, 3, 4], [4, 5, 0, 0], [6, 0, 0, 0]]
    drawn = rows.draw(64, np.random.default_rng(0)).tolist()
    assert {tuple(row) for row in drawn} == {tuple(row) for row in rows.spread(3).tolist()}


def test_trajectories_are_those_of_the_collection(collection: Path, tokenizer: Any) -> None:
    found = read_sequences(collection, "train", tokenizer, 100_000, Rendering())
    recorded = read_rows(collection, "states", "train")
    assert len(found) == len(recorded)
    first = [row for row in recorded if row["episode"] == recorded[0]["episode"]]
    cut = next((i + 1 for i, row in enumerate(first) if row["copied_from"]), len(first))
    text = tokenizer.decode([i for i in found.spread(len(found))[0].tolist() if i != tokenizer.pad_token_id])
    parts = text.split("</s>")[:-1]
    assert len(parts) == cut
    for part, row in zip(parts, first, strict=False):
        names = [name for name in names_in(row["text"]) if name in learners.make(row["learner"]).hyperparameters.hot]
        assert part.endswith("answer:" + completion(row["choices"], names))


def test_tasks_can_be_left_out(collection: Path, tokenizer: Any) -> None:
    def count(*without: str) -> int:
        return len(read_sequences(collection, "train", tokenizer, 64, Rendering(), without))

    recorded = [row["base"] for row in read_rows(collection, "states", "train")]
    assert count("classic/acrobot") == recorded.count("classic/cartpole") < count() == len(recorded)
    recipe = read_recipe(SftRecipe, changes={"without": ["classic/acrobot"]})
    assert all("task classic/cartpole" in state.observation for state in read_states(collection, "train", recipe))
    with pytest.raises(InvalidConfiguration, match="nothing is left of the split 'train'"):
        count(*set(recorded))


# -- pretraining -------------------------------------------------------------------------------------------------------


def test_resumed_is_the_same_as_uninterrupted(collection: Path, tiny: Path, tmp_path: Path) -> None:
    recipe = read_recipe(TinyRecipe, changes=TINY)

    def stop(line: str) -> None:
        if line.startswith("step 1 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_tiny(recipe, collection, tmp_path / "run", stop)
    assert [line["step"] for line in log_of(tmp_path / "run")] == [1]
    done = train_tiny(recipe, collection, tmp_path / "run")
    assert done.steps == 2
    assert log_of(tmp_path / "run") == log_of(tiny)
    assert done.metrics["loss"] == min(line["validation_loss"] for line in log_of(tiny))
    name = "model.safetensors"
    assert (done.folder / name).read_bytes() == (tiny / "best" / name).read_bytes()
    with pytest.raises(InvalidConfiguration, match="another recipe"):
        train_tiny(read_recipe(TinyRecipe, changes=TINY | {"seed": 1}), collection, tmp_path / "run")
    with pytest.raises(InvalidConfiguration, match="neither empty nor a training run"):
        train_tiny(recipe, collection, collection)


def test_pretraining_learns_something(collection: Path, tmp_path: Path) -> None:
    recipe = read_recipe(TinyRecipe, changes=TINY | {"steps": 30, "evaluate_every": 10, "learning_rate": 0.02})
    train_tiny(recipe, collection, tmp_path)
    losses = [line["validation_loss"] for line in log_of(tmp_path)]
    assert losses[-1] < losses[0] < np.log(400)


def test_the_schedule_rises_and_falls() -> None:
    factors = [schedule(step, 100, 0.1) for step in range(100)]
    assert np.argmax(factors) in (9, 10)
    assert factors[9] == 1.0
    assert 0.0 < factors[-1] < 0.01


def test_the_result_is_an_agent(tiny: Path) -> None:
    agent = make_agent(f"hf:{tiny / 'best'}")
    assert agent.name == "hf:best"


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


def test_help_and_show(shell: Any) -> None:
    assert "hpbench train" in shell("--help")
    for command in ("tiny", "sft", "grpo", "ppo", "multistep"):
        assert command in shell("train", "--help")
        assert f"hpbench train {command}" in shell("train", command, "--help")
    shown = json.loads(shell("train", "tiny", "somewhere", "--show", "--size", "10M", "--seed", 0))
    assert (shown["size"], shown["seed"]) == ("10M", 0)
    assert json.loads(shell("train", "sft", "m", "c", "--show", "--lora", 8))["lora"]["rank"] == 8
    assert json.loads(shell("train", "grpo", "m", "c", "--show", "--steps", 7))["steps"] == 7


def test_the_command_resumes(shell: Any, collection: Path, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(dump_recipe(read_recipe(TinyRecipe, changes=TINY)))
    for _ in range(2):
        text = shell("train", "tiny", collection, "--recipe", tmp_path / "mine.json", "--output", tmp_path / "run")
        assert "2 steps; the model that is kept is in" in text
        assert "hpbench train sft" in text
    assert log_of(tmp_path / "run") == log_of(tiny)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "tiny", "nowhere"], "is no collection: make one with hpbench collect"),
        (["train", "tiny", "nowhere", "--size", "5m"], "Did you mean '5M'"),
        (["train", "sft", "./no-model", "nowhere"], "No language model at './no-model'"),
        (["train", "grpo", "./no-model", "nowhere"], "No language model at './no-model'"),
        (["train", "tiny", "nowhere", "--recipe", "no.toml"], "Cannot read the recipe 'no.toml'"),
    ],
)
def test_mistakes(shell: Any, arguments: list[str], message: str) -> None:
    assert message in " ".join(shell(*arguments, code=2).split())


def test_without_trl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("agents.training.tuning.find_spec", lambda name: None if name == "trl" else object())
    stages: list[tuple[Any, Any]] = [(train_sft, SftRecipe), (train_grpo, GrpoRecipe), (train_ppo, PpoRecipe)]
    for train, kind in stages:
        with pytest.raises(MissingExtra, match=r"'trl' is not installed. Run: pip install \"hpbench\[training\]\""):
            train(read_recipe(kind), "model", tmp_path, tmp_path)
