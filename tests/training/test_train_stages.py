"""Two real steps of every stage of training that follows pretraining, on a real collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.language.causal import CausalModel
from agents.language.prompt import CHOICES, completion, names_in
from agents.language.slot import SlotPolicy
from agents.training.examples import pool_rows
from agents.training.grpo import BranchPool, train_grpo, weighted_advantages
from agents.training.held_out import HeldOut, State, branch_logs, completion_ids, sequence_logs
from agents.training.live import LivePool
from agents.training.ppo import BranchReward, train_ppo
from agents.training.recipes import GrpoRecipe, PpoRecipe, SftRecipe, read_recipe
from agents.training.sft import train_sft
from hpbench import make_agent
from hpbench.errors import InvalidConfiguration
from train_runs import TUNED, log_of, other_warnings

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
def test_two_steps_of_ppo(collection: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[BranchReward, list[list[int]]]] = []
    tried = BranchReward._try

    def noted(self: BranchReward, input_ids: torch.Tensor, **others: Any) -> Any:
        written.append((self, input_ids.tolist()))
        return tried(self, input_ids, **others)

    monkeypatch.setattr(BranchReward, "_try", noted)
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
    # Whatever the length of its prompt, the model writes right behind it.
    differing = False
    for reward, batch in written:
        starts = [next(i for i, token in enumerate(ids) if token != 0) for ids in batch]
        prompts = [
            next(n for n in reward._lengths if tuple(ids[first : first + n]) in reward._index)
            for ids, first in zip(batch, starts, strict=True)
        ]
        assert len({first + length for first, length in zip(starts, prompts, strict=True)}) == 1
        differing |= len(set(prompts)) > 1
    assert differing
    assert train_ppo(recipe, str(tiny / "best"), collection, tmp_path / "ppo") == done
    with pytest.raises(InvalidConfiguration, match="take more shards"):
        train_ppo(recipe.model_copy(update={"batch": 500}), str(tiny / "best"), collection, tmp_path / "other")
