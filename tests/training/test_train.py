"""hpbench train: tokenizer, sequences, and two real steps of every stage on a real collection."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.language.causal import CausalModel
from agents.language.layout import SlotLayout
from agents.language.prompt import CHOICES, SYSTEM, completion, names_in, plain
from agents.language.rendering import Rendering
from agents.language.slot import SlotPolicy
from agents.training.architecture import SIZES, make_model, make_tokenizer
from agents.training.examples import pool_rows, sft_rows
from agents.training.grpo import BranchPool, train_grpo, weighted_advantages
from agents.training.held_out import HeldOut, State, branch_logs, completion_ids, read_states, sequence_logs
from agents.training.live import LivePool
from agents.training.ppo import BranchReward, train_ppo
from agents.training.recipes import GrpoRecipe, PpoRecipe, SftRecipe, TinyRecipe, dump_recipe, read_recipe
from agents.training.schema import read_rows
from agents.training.sequences import Sequences, read_sequences
from agents.training.sft import train_sft
from agents.training.tiny import schedule, train_tiny
from hpbench import learners, make_agent, tasks
from hpbench.cli import main
from hpbench.errors import InvalidConfiguration, MissingExtra, UnknownName

FAST: dict[str, Any] = {"steps": 2, "evaluate_every": 1, "device": "cpu"}
TINY = FAST | {"size": "tiny", "batch": 2, "length": 256, "evaluation_sequences": 2}
TUNED = FAST | {"batch": 2, "evaluation_states": 3}

# Other people's packages warn about each other; what this package does must not warn.
other_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def tiny(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run of two steps. Read only."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    train_tiny(read_recipe(TinyRecipe, changes=TINY), collection, folder)
    return folder


@pytest.fixture(scope="module")
def states(collection: Path) -> list[State]:
    return read_states(collection, "train", read_recipe(SftRecipe))


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


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


# -- held-out states ---------------------------------------------------------------------------------------------------


def test_probabilities_of_branches_are_those_of_the_slots(tiny: Path, states: list[State]) -> None:
    """Two independent ways to the same numbers, apart from the words that no completion has."""
    policy = SlotPolicy(CausalModel.load(str(tiny / "best"), device="cpu"))
    model = policy.model.model
    state = states[0]
    prompt = policy.model.prompt_ids(state.observation)
    answers = [completion_ids(policy, state.observation, text) for text in state.completions]
    together = sequence_logs(model, [prompt] * len(answers), answers)
    for log, answer in zip(together, answers, strict=True):
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0].detach().double().log_softmax(dim=-1)
        alone = sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))
        assert float(log.detach()) == pytest.approx(alone, abs=1e-3)
    torch.testing.assert_close(branch_logs(policy, states)[0], together.detach(), atol=1e-3, rtol=0.0)


def test_held_out_numbers_have_their_bounds(tiny: Path, states: list[State]) -> None:
    model = CausalModel.load(str(tiny / "best"), device="cpu")
    held_out = HeldOut(states, 100)
    found = held_out.measure(model.model, model.tokenizer)
    assert len(held_out.states) == len(states)
    assert len(HeldOut(states, 2).states) == 2
    assert 0.0 <= found["agreement"] <= 1.0
    assert 0.0 < found["slot_entropy"] <= np.log(len(CHOICES))
    assert found["gain"] <= held_out.references()["hindsight_gain"]
    assert min(min(state.gains) for state in states) <= found["expected_gain"]


# -- TRL ---------------------------------------------------------------------------------------------------------------


@other_warnings
def test_two_steps_of_sft_and_then_of_grpo(collection: Path, tiny: Path, tmp_path: Path) -> None:
    recipe = read_recipe(SftRecipe, changes=TUNED | {"keep_share": None, "learning_rate": 0.01})
    lines: list[str] = []
    done = train_sft(recipe, str(tiny / "best"), collection, tmp_path / "sft", lines.append)
    assert done.steps == 2
    assert {"loss", "agreement", "keep_rate", "gain", "slot_entropy"} <= set(done.metrics)
    evaluated = [line for line in log_of(tmp_path / "sft") if "eval_loss" in line]
    assert [line["step"] for line in evaluated] == [0, 1, 2]
    assert done.metrics["loss"] == min(line["eval_loss"] for line in evaluated)
    assert any("held out" in line for line in lines)
    before, after = (CausalModel.load(str(path), device="cpu").model for path in (tiny / "best", done.folder))
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    again = train_sft(recipe, str(tiny / "best"), collection, tmp_path / "sft")
    assert (again.steps, again.metrics) == (2, done.metrics)

    recipe = read_recipe(GrpoRecipe, changes=TUNED | {"learning_rate": 0.01, "entropy_floor": 0.0})
    better = train_grpo(recipe, str(done.folder), collection, tmp_path / "grpo")
    log = log_of(tmp_path / "grpo")
    assert better.steps == 2
    trained = [line for line in log if "expected_reward" in line]
    assert [line["step"] for line in trained] == [1, 2]
    assert all(np.isfinite(line["entropy"]) and line["entropy"] > 0.0 for line in trained)
    assert trained[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert trained[1]["kl"] > 0.0
    assert better.metrics["gain"] == max(line["eval_gain"] for line in log if "eval_gain" in line)
    make_agent(f"hf:{better.folder}")
    with pytest.raises(InvalidConfiguration, match="make the batch smaller"):
        train_grpo(recipe.model_copy(update={"batch": 500}), str(done.folder), collection, tmp_path / "other")


@other_warnings
def test_grpo_comes_to_prefer_branches_that_gained(
    collection: Path, tiny: Path, states: list[State], tmp_path: Path
) -> None:
    changes = TUNED | {"steps": 15, "evaluate_every": 15, "batch": len(states), "learning_rate": 0.01, "kl": 0.0}
    train_grpo(read_recipe(GrpoRecipe, changes=changes), str(tiny / "best"), collection, tmp_path)
    rewards = [line["expected_reward"] for line in log_of(tmp_path) if "expected_reward" in line]
    assert rewards[-1] > rewards[0] + 0.3


@other_warnings
def test_adapters(collection: Path, tiny: Path, tmp_path: Path) -> None:
    recipe = read_recipe(SftRecipe, changes=TUNED | {"keep_share": None, "lora": {"rank": 2}})
    done = train_sft(recipe, str(tiny / "best"), collection, tmp_path)
    assert (done.folder / "adapter_model.safetensors").stat().st_size < 100_000
    adapted = CausalModel.load(str(tiny / "best"), str(done.folder), device="cpu")
    assert any("lora" in name for name, _ in adapted.model.named_parameters())


def test_weighted_advantages_are_the_policy_gradient(states: list[State]) -> None:
    """Against automatic differentiation of the expected reward of the restricted policy."""
    rewards, clip = [0.0, 2.0, -9.0, 1.0], 5.0
    logs = torch.tensor([-1.0, -3.0, -2.0, -2.5], dtype=torch.float64, requires_grad=True)
    cut = torch.tensor([0.0, 2.0, -5.0, 1.0], dtype=torch.float64)
    (logs.softmax(dim=0) @ cut).backward()
    worth, expected = weighted_advantages(logs.detach(), rewards, clip)
    assert expected == pytest.approx(float(logs.detach().softmax(dim=0) @ cut))
    assert sum(worth) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(np.array(worth) / 4, logs.grad, atol=1e-12)
    uneven = State("other", states[0].completions[:2], (0.0, 1.0), (0.0, 1.0), 0)
    with pytest.raises(InvalidConfiguration, match="cannot be one pool"):
        BranchPool([*states, uneven], clip)


# -- live branches -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool(collection: Path) -> LivePool:
    return LivePool(collection, shards=2)


def test_states_come_back_to_life_bit_for_bit(collection: Path, pool: LivePool) -> None:
    """The same observations, and what was tried gains what it gained."""
    rows = {(row["episode"], row["decision"]): row for row in pool_rows(collection, form="messages")}
    assert {(state.episode, state.decision) for state in pool.states} == set(rows)
    for i, state in enumerate(pool.states):
        row = rows[state.episode, state.decision]
        assert state.observation == row["prompt"][-1]["content"]
        answers = [answer[0]["content"] for answer in row["completions"]]
        assert pool.gains([i] * len(answers), answers) == row["gains"]
    tried = pool.tried
    assert pool.gains([0], ["x"]) == [None]
    assert pool.gains([0], [answers[0]]) == [0.0]
    assert pool.tried == tried


def test_the_environment_as_a_reward_model(pool: LivePool, tiny: Path) -> None:
    model = CausalModel.load(str(tiny / "best"), device="cpu")
    prompts = [model.prompt_ids(state.observation) for state in pool.states]
    reward = BranchReward(pool, prompts, model.tokenizer, clip=2.0, penalty=3.0)
    names = list(names_in(pool.states[1].observation))
    update = completion([6] + [3] * (len(names) - 1), names)
    end = model.tokenizer.eos_token_id
    rows = [[*prompts[1], *model.plain_ids(update), end], [*prompts[1], 5, end], [*prompts[0], 5, end]]
    assert [reward.read(row) for row in rows[:1]] == [(1, update)]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    hidden = reward.branches(input_ids=ids, attention_mask=ids != 0).hidden_states[-1]
    gain = pool.gains([1], [update])[0]
    assert gain is not None
    assert hidden[:, -1, 0].tolist() == pytest.approx([np.clip(gain / pool.states[1].unit, -2.0, 2.0), -3.0, -3.0])
    with pytest.raises(InvalidConfiguration, match="no prompt of the pool"):
        reward.read([1, 2, 3])


@other_warnings
def test_two_steps_of_ppo(collection: Path, tiny: Path, tmp_path: Path) -> None:
    recipe = read_recipe(PpoRecipe, changes=TUNED | {"shards": 1, "epochs": 2, "learning_rate": 0.01})
    done = train_ppo(recipe, str(tiny / "best"), collection, tmp_path / "ppo")
    log = log_of(tmp_path / "ppo")
    assert done.steps == 2
    trained = [line for line in log if "objective/scores" in line]
    assert [line["step"] for line in trained] == [1, 2]
    assert all(-5.0 <= line["objective/scores"] <= 5.0 for line in trained)
    assert done.metrics["gain"] == max(line["eval_gain"] for line in log if "eval_gain" in line)
    assert [line["step"] for line in log if "eval_gain" in line] == [0, 1, 2]
    assert any(line["loss/policy_avg"] != 0.0 for line in trained)
    assert train_ppo(recipe, str(tiny / "best"), collection, tmp_path / "ppo") == done
    with pytest.raises(InvalidConfiguration, match="take more shards"):
        train_ppo(recipe.model_copy(update={"batch": 500}), str(tiny / "best"), collection, tmp_path / "other")


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
