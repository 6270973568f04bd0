"""The chat back end against a real server in a process of its own (``endpoint.py``)."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.language import prompt
from agents.language.chat import ChatModel, ChatOptions, completion_schema
from agents.language.schemes import chat_agent
from hpbench import make_agent
from hpbench.agent import AGENT_SCHEMES
from hpbench.errors import InvalidConfiguration, ModelUnavailable, UnknownName

pytest.importorskip("openai", reason="needs the extra 'language'")

SEEDS = [1, 2, 3]
QUICK = {"backoff": 0.01}


def ask(endpoint: str, model: str, observations: list[str], **options: Any) -> Any:
    return ChatModel(endpoint, model, ChatOptions(**(QUICK | options))).decide(observations, SEEDS[: len(observations)])


def test_answers_under_a_schema_with_tokens_and_prices(endpoint: str, observations: list[str]) -> None:
    decisions = ask(endpoint, "tiny", observations, price_prompt=2.0, price_completion=10.0)
    for observation, decision in zip(observations, decisions, strict=True):
        assert decision.valid
        assert decision.calls == 1
        assert set(json.loads(decision.raw)) == set(prompt.names_in(observation))
        assert decision.prompt_tokens > 500
        assert decision.completion_tokens > 20
        assert decision.price == pytest.approx((2 * decision.prompt_tokens + 10 * decision.completion_tokens) / 1e6)
        assert 0 < decision.seconds < 60
    assert len({decision.prompt_tokens for decision in decisions}) == 3  # each member got its own answer


def test_server_errors_are_tried_again(endpoint: str, observations: list[str]) -> None:
    (decision,) = ask(endpoint, "fails-2-retry", observations[:1])
    assert decision.valid
    assert decision.calls == 3


def test_a_server_that_stays_broken(endpoint: str, observations: list[str]) -> None:
    with pytest.raises(ModelUnavailable, match="no answer in 3 attempts.*out of order"):
        ask(endpoint, "fails-99-broken", observations[:1], attempts=3)


def test_a_busy_server(endpoint: str, observations: list[str]) -> None:
    (decision,) = ask(endpoint, "busy", observations[:1])
    assert decision.calls == 2


def test_time_out(endpoint: str, observations: list[str]) -> None:
    started = time.perf_counter()
    with pytest.raises(ModelUnavailable, match="2 attempts"):
        ask(endpoint, "slow-5", observations[:1], timeout=0.2, attempts=2)
    assert time.perf_counter() - started < 4


def test_no_server(observations: list[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ModelUnavailable, match="Is the server running"):
        ask(f"http://127.0.0.1:{port}/v1", "tiny", observations[:1], attempts=2)


@pytest.mark.parametrize(("model", "form"), [("no-schema", "json_object"), ("plain", "text")])
def test_forms_that_are_refused_are_remembered(endpoint: str, observations: list[str], model: str, form: str) -> None:
    chat = ChatModel(endpoint, model, ChatOptions(**QUICK))  # type: ignore[arg-type]
    (first,) = chat.decide(observations[:1], SEEDS[:1])
    (second,) = chat.decide(observations[:1], SEEDS[:1])
    assert (first.calls, second.calls) == (3 if form == "text" else 2, 1)
    assert first.raw == second.raw
    together = ChatModel(endpoint, model, ChatOptions(**QUICK)).decide(observations, SEEDS)  # type: ignore[arg-type]
    assert len(together) == len(observations)  # several threads find out at a time


def test_the_other_name_of_the_limit(endpoint: str, observations: list[str]) -> None:
    chat = ChatModel(endpoint, "new-names", ChatOptions(**QUICK))  # type: ignore[arg-type]
    assert [chat.decide(observations[:1], SEEDS[:1])[0].calls for _ in range(2)] == [2, 1]
    assert chat.decide(observations[:1], SEEDS[:1])[0].valid


def test_a_bad_answer_is_the_environments_no_op(
    endpoint: str, observations: list[str], short_run: Callable[..., Any]
) -> None:
    (decision,) = ask(endpoint, "plain", observations[:1])
    assert not decision.valid
    env = short_run()
    _, before = env.reset(seed=0)
    observation, _, _, _, after = env.step(decision.action)
    assert after["hpbench"]["invalid"] == 1
    assert after["hpbench"]["values"] == before["hpbench"]["values"]
    assert "feedback:" in observation


def test_another_protocol(endpoint: str, observations: list[str]) -> None:
    with pytest.raises(ModelUnavailable, match="not as OpenAI"):
        ask(endpoint, "odd", observations[:1])


@pytest.mark.slow
def test_the_server_that_transformers_ships(chat_folder: Path, observations: list[str], tmp_path: Path) -> None:
    """A server that is not ours. It ignores schemas, so what the tiny model says is nothing; the client must cope."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = str(Path(sys.executable).with_name("transformers"))
    command = [program, "serve", str(chat_folder), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "HF_HUB_OFFLINE": "1"}) as server,
    ):
        try:
            chat = ChatModel(f"http://127.0.0.1:{port}/v1", str(chat_folder), ChatOptions(tokens=8, attempts=8))
            decisions = chat.decide(observations, SEEDS)
        except ModelUnavailable as error:
            raise AssertionError(log.read_text()) from error
        finally:
            server.kill()
    assert [decision.completion_tokens <= 8 for decision in decisions] == [True] * 3
    assert len({decision.prompt_tokens for decision in decisions}) == 3
    assert min(decision.prompt_tokens for decision in decisions) > 500
    assert all(decision.raw and not decision.valid for decision in decisions)


def test_keys(endpoint: str, observations: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY_FOR_TESTS", "open-sesame")
    chat = ChatModel(endpoint, "locked", ChatOptions(key="A_KEY_FOR_TESTS"))
    assert chat.decide(observations[:1], SEEDS[:1])[0].valid
    assert "sesame" not in json.dumps(chat.identity())
    assert b"sesame" not in pickle.dumps(chat)
    assert pickle.loads(pickle.dumps(chat)).decide(observations[:1], SEEDS[:1])[0].valid
    monkeypatch.setenv("A_KEY_FOR_TESTS", "wrong")
    with pytest.raises(ModelUnavailable, match="refuses.*wrong key"):
        ask(endpoint, "locked", observations[:1], key="A_KEY_FOR_TESTS")
    monkeypatch.delenv("A_KEY_FOR_TESTS")
    with pytest.raises(InvalidConfiguration, match="A_KEY_FOR_TESTS.*is not set"):
        ChatModel(endpoint, "locked", ChatOptions(key="A_KEY_FOR_TESTS"))


def test_schema() -> None:
    schema = completion_schema(["a", "b"])
    assert schema["required"] == ["a", "b"]
    assert schema["properties"]["b"] == {"type": "string", "enum": list(prompt.CHOICES)}


def test_addresses(endpoint: str) -> None:
    agent: Any = chat_agent(f"{endpoint}?temperature=0.5&tokens=64&timing=next#org/tiny:1")
    assert agent.name == "chat:org/tiny:1"
    assert agent.timing == "next"
    model = agent.model
    assert (model["url"], model["model"], model["temperature"], model["tokens"]) == (endpoint, "org/tiny:1", 0.5, 64)
    if "chat" in AGENT_SCHEMES:
        assert make_agent(f"chat:{endpoint}#tiny").name == "chat:tiny"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("http://localhost/v1", InvalidConfiguration, "#my-model"),
        ("localhost/v1#tiny", InvalidConfiguration, "http://"),
        ("http://localhost/v1?temprature=1#tiny", UnknownName, "Did you mean 'temperature'"),
        ("http://localhost/v1?tokens=many#tiny", InvalidConfiguration, "no int"),
        ("http://localhost/v1?tokens=1&tokens=2#tiny", InvalidConfiguration, "twice"),
        ("http://localhost/v1?timing=soon#tiny", UnknownName, "timing"),
        ("http://localhost/v1?form=xml#tiny", InvalidConfiguration, "json_schema"),
    ],
)
def test_wrong_addresses(address: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        chat_agent(address)


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1.0}, {"attempts": 0}, {"timeout": 0.0}, {"backoff": -1.0}, {"price_prompt": float("inf")}],
)
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfiguration):
        ChatOptions(**options)
