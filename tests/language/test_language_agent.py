"""Language agents in the runner: addresses, identity, costs, timing, and a whole row."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import hpbench
from agents.language import prompt
from agents.language.controller import LanguageAgent
from agents.language.decision import Decision
from agents.language.generate import read_decision
from agents.language.hub import HubModel
from agents.language.schemes import hub_agent
from hpbench.agent import AGENT_SCHEMES, BatchAgent
from hpbench.control.episode import EnvOptions, EpisodeBatch
from hpbench.errors import InvalidConfiguration, MissingExtra, UnknownName
from hpbench.evaluation import records
from hpbench.evaluation.identity import identify

SUITE = """
format = 1
name = "language-test-v0"
title = "Two members, four decisions"

[[rows]]
env = "HPControl-Classic-v0"
tasks = ["classic/cartpole"]
tracks = ["default"]
learner = "ppo"
tier = "small"
seeds = "100-101"
decisions = 4
steps = 10240
"""


class Scripted:
    """A back end that says what it is told to, in order, and notes what it is asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.asked = texts, []  # type: ignore[var-annotated]
        self.open = threading.Event()
        self.open.set()
        self.broken = ""

    def identity(self) -> dict[str, Any]:
        return {"script": list(self.texts)}

    def decide(self, observations: Sequence[str], seeds: Sequence[int]) -> list[Decision]:
        text = self.texts[len(self.asked) % len(self.texts)]
        self.asked.append((list(observations), list(seeds)))
        assert self.open.wait(30)
        if self.broken:
            raise RuntimeError(self.broken)
        numbers = {"prompt_tokens": 10, "completion_tokens": 3, "seconds": float(len(self.asked)), "price": 0.5}
        return [read_decision(text, observation, **numbers) for observation in observations]


def batch_of(seeds: Sequence[int] = (0, 1)) -> EpisodeBatch:
    options = {"task": "classic/cartpole", "family": "classic", "observation": "text", "action": "text"}
    short = {"decisions": 4, "steps": 128, "evaluation_episodes": 1, "device": "cpu"}
    learner = {"learner_config": {"num_envs": 2, "num_steps": 16, "hidden": (8, 8)}}
    return EpisodeBatch(EnvOptions.parse(options | short | learner), seeds, threads=1)


def lead(agent: LanguageAgent, batch: EpisodeBatch, act: Callable[[int], None] = lambda _: None) -> list[list[str]]:
    """Play a whole batch of meta-episodes; the actions of each decision."""
    observations, _ = batch.reset()
    agent.reset_batch(batch.specs, batch.seeds)
    actions = []
    for t in range(batch.specs[0].decisions):
        act(t)
        actions.append(agent.act_batch(observations))
        observations = batch.step(actions[-1]).observations
    return actions


def test_costs_count_what_was_asked_for() -> None:
    up, down, stay = '{"learning_rate": "x2", "discount": "x1"}', '{"learning_rate": 0.00001}', "hm"
    agent = LanguageAgent(Scripted(up, down, stay, up))
    assert lead(agent, batch_of()) == [[text] * 2 for text in (up, '{"learning_rate": 1e-05}', stay, up)]
    costs = agent.costs()
    assert costs["decisions"] == costs["calls"] == 8
    assert (costs["prompt_tokens"], costs["completion_tokens"], costs["price"]) == (80, 24, 4.0)
    assert costs["invalid"] == 2
    assert (costs["edits"], costs["reversals"]) == (6, 4)
    assert costs["edit_rate"] == pytest.approx(6 / (8 * 9))
    assert (costs["latency_p50"], costs["latency_p95"]) == (2.5, 4.0)
    assert [len(member) for member in agent.decisions] == [4, 4]
    agent.reset_batch(batch_of().specs, [0, 1])
    assert agent.costs()["decisions"] == 0


def test_every_decision_has_a_seed_of_its_own() -> None:
    source = Scripted("{}")
    lead(LanguageAgent(source), batch_of())
    seeds = [seed for _, asked in source.asked for seed in asked]
    assert len(set(seeds)) == 8
    again = Scripted("{}")
    lead(LanguageAgent(again), batch_of())
    assert again.asked == source.asked


def test_members_that_have_ended_are_not_asked() -> None:
    source, batch = Scripted("{}"), batch_of()
    agent = LanguageAgent(source)
    observations, _ = batch.reset()
    agent.reset_batch(batch.specs, batch.seeds)
    agent.act_batch(observations)
    step = hpbench.agent.Step(None, None, 0.0, False, False, None, {})
    ended = hpbench.agent.Step(None, None, 0.0, True, False, None, {})
    agent.observe_batch([ended, step])
    assert len(agent.act_batch(observations)) == 2
    assert [len(asked) for asked, _ in source.asked] == [2, 1]
    agent.observe_batch([ended, ended])
    assert len(agent.act_batch(observations)) == 2
    assert len(source.asked) == 2


def test_next_applies_each_answer_one_decision_later() -> None:
    texts = [f'{{"learning_rate": "x{i + 2}"}}' for i in range(4)]
    source = Scripted(*texts)
    agent = LanguageAgent(source, timing="next")
    actions = lead(agent, batch_of())
    assert actions == [["{}"] * 2, *([text] * 2 for text in texts[:3])]
    assert {decision.staleness for member in agent.decisions for decision in member} == {1}
    assert len(source.asked) == 3  # what nobody would use is not asked
    costs = agent.costs()
    assert (costs["staleness"], costs["unanswered"], costs["decisions"]) == (1.0, 2, 6)


def test_free_keeps_everything_until_the_answer_is_there() -> None:
    source = Scripted('{"learning_rate": "x2"}')
    agent = LanguageAgent(source, timing="free")

    def hold_back(t: int) -> None:
        if t == 0:
            source.open.clear()
        if t == 2:
            source.open.set()
            assert agent._question is not None
            agent._question.answer.result(30)

    assert lead(agent, batch_of(), hold_back)[:3] == [["{}"] * 2, ["{}"] * 2, ['{"learning_rate": "x2"}'] * 2]
    assert agent.decisions[0][0].staleness == 2
    assert agent.costs()["unanswered"] >= 4


def test_errors_of_a_late_answer_are_not_lost() -> None:
    source = Scripted("{}")
    source.broken = "out of order"
    with pytest.raises(RuntimeError, match="out of order"):
        lead(LanguageAgent(source, timing="next"), batch_of())


def test_single_meta_episodes(short_run: Callable[..., Any]) -> None:
    env = short_run()
    observation, _ = env.reset(seed=0)
    agent = LanguageAgent(Scripted('{"learning_rate": "x2"}'))
    agent.reset(env.unwrapped.agent_spec, 0)
    assert env.action_space.contains(agent.act(observation))
    with pytest.raises(InvalidConfiguration, match="reset_batch"):
        agent.act_batch([observation] * 2)


def test_addresses_of_models(model_folder: Path) -> None:
    agent = hub_agent(f"{model_folder}?gate=0.25&sample=yes&timing=next")
    assert isinstance(agent, BatchAgent)
    assert (agent.name, agent.timing) == ("hf:tiny", "next")
    assert {"decide": "slot", "gate": 0.25, "sample": True, "temperature": 1.0}.items() <= agent.model.items()
    assert hub_agent(str(model_folder), decide="generate", tokens=9).model["tokens"] == 9
    if "hf" in AGENT_SCHEMES:
        made: Any = hpbench.make_agent(f"hf:{model_folder}", gate=0.5)
        assert made.model["gate"] == 0.5
        assert made.model == pickle.loads(pickle.dumps(made)).model


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("/no/such/folder", InvalidConfiguration, "no folder"),
        ("{}?gat=1", UnknownName, "Did you mean 'gate'"),
        ("{}?tokens=9", UnknownName, "tokens"),
        ("{}?gate=high", InvalidConfiguration, "no float"),
        ("{}?sample=maybe", InvalidConfiguration, "no bool"),
        ("{}?gate=2", InvalidConfiguration, "probability"),
        ("{}?decide=guess", UnknownName, "way to decide"),
        ("{}?gate=1&gate=1", InvalidConfiguration, "twice"),
        ("?gate=1", InvalidConfiguration, "names no model"),
        ("{}+/no/such/adapter", InvalidConfiguration, "no folder"),
    ],
)
def test_wrong_addresses(model_folder: Path, address: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hub_agent(address.format(model_folder))


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="holds no model"):
        hub_agent(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidConfiguration, match="No language model"):
        HubModel(str(tmp_path)).decide(["h1 1[00] in 0..1"], [0])


def test_identity_follows_what_is_in_the_folder(model_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tiny"
    copy.mkdir()
    for file in model_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    original, copied = hub_agent(str(model_folder)), hub_agent(str(copy))
    assert original.model["fingerprints"] == copied.model["fingerprints"]
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert hub_agent(str(copy)).model["fingerprints"] != copied.model["fingerprints"]
    assert identify(original) == identify(hub_agent(str(model_folder)))
    assert identify(original).digest != identify(hub_agent(str(model_folder), gate=0.5)).digest


# A warning between PEFT and transformers, about a name that both still have.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_an_adapter_changes_what_is_decided(model_folder: Path, tmp_path: Path, observations: list[str]) -> None:
    peft = pytest.importorskip("peft")
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        peft.get_peft_model(model, lora).save_pretrained(tmp_path / "lora")
    plain, adapted = hub_agent(str(model_folder)), hub_agent(f"{model_folder}+{tmp_path / 'lora'}")
    assert adapted.name == "hf:tiny+lora"
    assert identify(plain).digest != identify(adapted).digest
    decided = [agent._source.decide(observations[:1], [0])[0] for agent in (plain, adapted)]
    assert decided[0].probabilities != decided[1].probabilities
    assert all(decision.valid for decision in decided)


@pytest.mark.skipif("hf" not in AGENT_SCHEMES, reason="hpbench is not installed, so its entry points are not known")
def test_a_whole_row_on_the_command_line(model_folder: Path, tmp_path: Path) -> None:
    """As a user would: a suite file, a model in a folder, a record at the end."""
    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE)
    command = [
        sys.executable,
        "-m",
        "hpbench",
        "run",
        "--agent",
        f"hf:{model_folder}",
        "--suite",
        str(suite),
        "--quiet",
    ]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "hf:tiny" in done.stdout
    (path,) = (file for file in (tmp_path / "language-test-v0").glob("hf-tiny-*/*.json") if "costs" not in file.name)
    record = records.read(path)
    assert record.agent.settings["model"]["path"] == str(model_folder)
    for member in record.members:
        for action in member.actions:
            prompt.read_completion(action, tuple(member.values))
        assert member.invalid[-1] == 0
    costs = records.read_costs(path)
    assert costs is not None
    assert costs.agent["decisions"] == 8
    assert costs.agent["latency_p95"] >= costs.agent["latency_p50"] > 0
    assert json.loads(path.with_name(path.stem + ".costs.json").read_text())["agent"]["invalid"] == 0


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else found(name))
    with pytest.raises(MissingExtra, match=r'pip install "hpbench\[language\]"'):
        hub_agent(str(model_folder))
    for name, extra in (("openai", "language"), ("xgrammar", "grammar")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtra, match=rf'pip install "hpbench\[{extra}\]"'):
            hpbench.make_agent("agents.language.schemes:chat_agent", address="http://x/v1#m") if name == "openai" else (
                hub_agent(str(model_folder), decide="generate", grammar=True)
            )
