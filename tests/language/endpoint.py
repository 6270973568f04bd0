"""A small server of OpenAI's chat completions for tests: a real process, a real (tiny) language model behind it.

It runs ``python endpoint.py FOLDER_OF_A_MODEL`` and prints its port. Answers under a JSON schema are forced into it by
xgrammar, as larger servers do; others are whatever the model babbles. The name of the model that a request asks for
chooses how the server behaves:

- ``tiny``: as it should.
- ``no-schema``: refuses ``response_format`` of the type ``json_schema``.
- ``plain``: refuses every ``response_format``.
- ``new-names``: refuses ``max_tokens`` and wants ``max_completion_tokens``.
- ``fails-N-...``: answers the first N requests with 500 (the rest of the name makes a counter of its own).
- ``slow-S``: waits S seconds.
- ``odd``: answers with JSON of another protocol.
- ``locked``: wants the key ``open-sesame``.
- ``busy``: says 429 and to come back at once, the first time.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
import transformers
import xgrammar

TOKENS = 256
BABBLE = 8


class Refused(Exception):
    """The request will not be answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Endpoint:
    def __init__(self, folder: str) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        info = xgrammar.TokenizerInfo.from_huggingface(self.tokenizer, vocab_size=self.model.config.vocab_size)
        self.compiler = xgrammar.GrammarCompiler(info)
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()

    def complete(self, request: dict[str, Any], key: str) -> dict[str, Any]:
        name, form = request["model"], request.get("response_format", {"type": "text"})
        with self.lock:
            self.asked[name] += 1
            times = self.asked[name]
        if name.startswith("fails-") and times <= int(name.split("-")[1]):
            raise Refused(500, "out of order")
        if name.startswith("slow-"):
            time.sleep(float(name.removeprefix("slow-")))
        if name == "no-schema" and form["type"] == "json_schema":
            raise Refused(400, "response_format json_schema is not supported")
        if name == "plain" and form["type"] != "text":
            raise Refused(400, "response_format is not supported")
        if name == "new-names" and "max_tokens" in request:
            raise Refused(400, "Unsupported parameter: use 'max_completion_tokens' instead")
        if name == "locked" and key != "Bearer open-sesame":
            raise Refused(401, "wrong key")
        if name == "busy" and times == 1:
            raise Refused(429, "too many requests")
        if name == "odd":
            return {"answer": 42}
        return self.generate(request, form)

    def generate(self, request: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
        text = self.tokenizer.apply_chat_template(request["messages"], tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        forced = []
        if form["type"] == "json_schema":
            schema = json.dumps(form["json_schema"]["schema"])
            grammar = self.compiler.compile_json_schema(schema, any_whitespace=False)
            forced.append(xgrammar.contrib.hf.LogitsProcessor(grammar))
        with self.lock:  # one generation at a time is enough for tests
            written = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=TOKENS if forced else BABBLE,
                do_sample=False,
                pad_token_id=1,
                logits_processor=forced,
            )[0, ids.shape[1] :]
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request["model"],
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {
                        "role": "assistant",
                        "content": self.tokenizer.decode(written, skip_special_tokens=True),
                    },
                }
            ],
            "usage": {
                "prompt_tokens": ids.shape[1],
                "completion_tokens": len(written),
                "total_tokens": ids.shape[1] + len(written),
            },
        }


class Handler(BaseHTTPRequestHandler):
    endpoint: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            status, answer = 200, self.endpoint.complete(request, self.headers.get("Authorization", ""))
        except Refused as refusal:
            status, answer = refusal.status, {"error": {"message": str(refusal), "type": "refused"}}
        body = json.dumps(answer).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Silence."""


if __name__ == "__main__":
    torch.set_num_threads(1)
    import xgrammar.contrib.hf

    Handler.endpoint = Endpoint(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
