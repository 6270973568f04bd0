"""Models behind an endpoint that speaks OpenAI's chat completions: OpenAI, vLLM, Ollama, llama.cpp and others.

What an endpoint does not understand is found out by asking, once: answers are first requested under a JSON schema, then
as any JSON object, then as free text. Whatever comes back goes through the tolerant reader.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from agents.language import prompt
from agents.language.decision import Decision
from agents.language.generate import read_decision
from hpbench.errors import InvalidConfiguration, MissingExtra, ModelUnavailable

FORMS = ("json_schema", "json_object", "text")
"""Forms of answers to ask for, from strict to free."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""What endpoints call the longest answer: the old name, known everywhere but to OpenAI's reasoning models."""
REFUSALS = frozenset({400, 422, 501})
"""Status codes of endpoints that do not take a request as it is."""
PASSING = frozenset({408, 409, 429})
"""Status codes below 500 that may go away when tried again."""
_SEED_BITS = 0x7FFFFFFF
_MILLION = 1e6

_T = TypeVar("_T")


@dataclass(frozen=True)
class ChatOptions:
    """How an endpoint is asked.

    Args:
        key: name of the environment variable that holds the key; empty for endpoints that need none.
        form: of the answers to ask for first, one of :data:`FORMS`.
        temperature: of the model's sampling; None: the endpoint's default. If given, a seed is sent, too.
        tokens: the most that an answer may take.
        timeout: seconds until an attempt is given up.
        attempts: how often to try, where trying again may help.
        backoff: seconds to wait before the second attempt; then twice as long each time. An endpoint that says how
            long to wait is heard.
        concurrency: requests at a time.
        price_prompt, price_completion: of a million tokens, in any currency.

    Raises:
        InvalidConfiguration: if an argument is outside its range.
    """

    key: str = ""
    form: str = FORMS[0]
    temperature: float | None = None
    tokens: int = 1024
    timeout: float = 60.0
    attempts: int = 5
    backoff: float = 0.5
    concurrency: int = 8
    price_prompt: float = 0.0
    price_completion: float = 0.0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise InvalidConfiguration(f"form is one of {', '.join(FORMS)}, got {self.form!r}")
        if self.temperature is not None and not 0.0 <= self.temperature < math.inf:
            raise InvalidConfiguration(f"temperature must be at least 0, got {self.temperature}")
        for name in ("tokens", "attempts", "concurrency"):
            if getattr(self, name) < 1:
                raise InvalidConfiguration(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 < self.timeout < math.inf:
            raise InvalidConfiguration(f"timeout must be above 0 seconds, got {self.timeout}")
        for name in ("backoff", "price_prompt", "price_completion"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InvalidConfiguration(f"{name} must be at least 0, got {getattr(self, name)}")


class ChatModel:
    """A model behind an endpoint, as a back end.

    Args:
        url: of the endpoint, up to ``/v1`` or what stands in its place.
        model: its name there.
        options: how it is asked.

    Raises:
        MissingExtra: if the ``openai`` client is not installed.
        InvalidConfiguration: if the environment variable with the key is not set.
    """

    def __init__(self, url: str, model: str, options: ChatOptions | None = None) -> None:
        self._url, self._model, self._options = url, model, ChatOptions() if options is None else options
        load_openai()
        self._key()
        self._form, self._limit = FORMS.index(self._options.form), 0
        self._client: Any = None
        self._lock = threading.Lock()

    def identity(self) -> dict[str, Any]:
        """Endpoint, model and settings. What the endpoint's owner changes behind the name is not in it."""
        return {"url": self._url, "model": self._model, **asdict(self._options)}

    def decide(self, observations: Sequence[str], seeds: Sequence[int]) -> list[Decision]:
        """A decision for each observation, some at a time; see :class:`agents.language.decision.Backend`.

        Raises:
            ModelUnavailable: if one of them is not answered in the given number of attempts, or the endpoint refuses.
        """
        with self._lock:
            if self._client is None:
                # Attempts are made and counted here.
                self._client = load_openai().OpenAI(
                    base_url=self._url, api_key=self._key(), timeout=self._options.timeout, max_retries=0
                )
        pool = ThreadPoolExecutor(min(self._options.concurrency, len(observations)), thread_name_prefix="chat")
        try:
            return list(pool.map(self._decide, observations, seeds))
        finally:
            pool.shutdown(cancel_futures=True)

    def __getstate__(self) -> dict[str, Any]:
        """Connections do not travel."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"} | {"_client": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def _key(self) -> str:
        if not self._options.key:
            return "none"
        key = os.environ.get(self._options.key, "")
        if not key:
            raise InvalidConfiguration(
                f"The environment variable {self._options.key} with the key for {self._url} is not set: "
                f"export {self._options.key}=..."
            )
        return key

    def _decide(self, observation: str, seed: int) -> Decision:
        started = time.perf_counter()
        names = prompt.names_in(observation)
        calls = 0

        def ask() -> Any:
            nonlocal calls
            calls += 1
            return self._client.chat.completions.create(**self._request(observation, names, seed))

        response = self._in_some_form(lambda: self._patiently(ask))
        try:
            text = response.choices[0].message.content or ""
            used = response.usage
            tokens = (used.prompt_tokens, used.completion_tokens) if used is not None else (0, 0)
        except (AttributeError, IndexError, TypeError) as error:
            raise ModelUnavailable(
                f"{self._url} answers, but not as OpenAI's chat completions do: {response!r}"
            ) from error
        prices = (self._options.price_prompt, self._options.price_completion)
        return read_decision(
            text,
            observation,
            prompt_tokens=tokens[0],
            completion_tokens=tokens[1],
            calls=calls,
            price=sum(count * price / _MILLION for count, price in zip(tokens, prices, strict=True)),
            seconds=time.perf_counter() - started,
        )

    def _request(self, observation: str, names: Sequence[str], seed: int) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self._model,
            "messages": prompt.messages(observation),
            LIMITS[self._limit]: self._options.tokens,
        }
        if self._options.temperature is not None:
            request |= {"temperature": self._options.temperature, "seed": seed & _SEED_BITS}
        if FORMS[self._form] == "json_schema":
            schema = {"name": "hyperparameters", "strict": True, "schema": completion_schema(names)}
            request["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif FORMS[self._form] == "json_object":
            request["response_format"] = {"type": "json_object"}
        return request

    def _in_some_form(self, ask: Callable[[], _T]) -> _T:
        """Ask in the strictest form that the endpoint takes, and remember which one that is.

        Raises:
            ModelUnavailable: if it takes none.
        """
        openai = load_openai()
        while True:
            form, limit = self._form, self._limit
            try:
                return ask()
            except openai.APIStatusError as error:
                if error.status_code not in REFUSALS or not self._yield(form, limit, str(error)):
                    raise ModelUnavailable(f"{self._url} refuses: {error}") from error

    def _yield(self, form: int, limit: int, complaint: str) -> bool:
        """Give up one thing that the endpoint may not understand; whether there was one."""
        with self._lock:
            if (form, limit) != (self._form, self._limit):
                return True  # another thread has done so while this one was asking
            if LIMITS[-1] in complaint and limit + 1 < len(LIMITS):
                self._limit += 1
            elif form + 1 < len(FORMS):
                self._form += 1
            else:
                return False
            return True

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        """Ask again, later and later, as long as that may help.

        Raises:
            ModelUnavailable: if it does not help.
        """
        openai = load_openai()
        pause = self._options.backoff
        for attempt in range(1, self._options.attempts + 1):
            try:
                return ask()
            except openai.APIStatusError as error:
                if (error.status_code < 500 and error.status_code not in PASSING) or error.status_code in REFUSALS:
                    raise
                failure, wait = error, _asked_to_wait(error.response.headers, pause)
            except openai.OpenAIError as error:  # no connection, a time-out, or no answer of this protocol
                failure, wait = error, pause
            if attempt < self._options.attempts:
                time.sleep(wait)
                pause *= 2
        raise ModelUnavailable(
            f"{self._url} gave no answer in {self._options.attempts} attempts: {failure}. "
            "Is the server running, and the address right? timeout=, attempts= and backoff= give it more time"
        ) from failure


def completion_schema(names: Sequence[str]) -> dict[str, Any]:
    """JSON schema of the completions over these names."""
    return {
        "type": "object",
        "properties": {name: {"type": "string", "enum": list(prompt.CHOICES)} for name in names},
        "required": list(names),
        "additionalProperties": False,
    }


def load_openai() -> Any:
    """The module ``openai``.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        import openai
    except ModuleNotFoundError as error:
        raise MissingExtra("openai", "language") from error
    return openai


def _asked_to_wait(headers: Mapping[str, str], pause: float) -> float:
    """Seconds until the next attempt: what the endpoint says, if it gives a number, but no less than ``pause``."""
    try:
        return max(pause, min(float(headers.get("retry-after", "")), 60.0))
    except ValueError:
        return pause
