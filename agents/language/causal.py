"""A causal language model of the transformers library, with its tokenizer, and prompts as tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from agents.language import prompt
from hpbench.errors import InvalidConfiguration, MissingExtra

WEIGHTS_AND_WORDS = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.bin")
"""Files of a model's folder that its answers depend on."""
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Prompts:
    """Prompts side by side, padded on the left (or the right; see :meth:`shifted`).

    Args:
        ids: int64 ``[members, tokens]``.
        valid: which are no padding, bool ``[members, tokens]``.
    """

    ids: Tensor
    valid: Tensor

    @property
    def lengths(self) -> Tensor:
        """Tokens of each prompt, int64 ``[members]``."""
        return self.valid.sum(dim=1)

    @property
    def positions(self) -> Tensor:
        """Position of each token in its prompt, int64 ``[members, tokens]``; 0 for padding."""
        return (self.valid.long().cumsum(dim=1) - 1).clamp(min=0)

    def shifted(self) -> Prompts:
        """The same with the padding on the right, where causal attention never sees it: the prompts need no mask."""
        order = self.valid.long().argsort(dim=1, descending=True, stable=True)
        return Prompts(self.ids.gather(1, order), self.valid.gather(1, order))

    def select(self, members: Tensor) -> Prompts:
        """Those of some members, int64 ``[members]``; the padding stays."""
        return Prompts(self.ids[members], self.valid[members])


class CausalModel:
    """Model and tokenizer, loaded once.

    Args:
        model: any causal language model of transformers (a PEFT model, too).
        tokenizer: that belongs to it.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.device = next(model.parameters()).device
        config = model.config.get_text_config()
        self.context = getattr(config, "max_position_embeddings", None)
        self.config = config

    @classmethod
    def load(cls, path: str, adapter: str = "", device: str = "auto", dtype: str = "auto") -> CausalModel:
        """Load a model.

        Args:
            path: folder, or name on the Hugging Face hub.
            adapter: folder or name of a PEFT adapter (LoRA and kin); empty for none.
            device: ``auto`` takes a GPU if there is one.
            dtype: name of a torch type; ``auto`` is float32 on the CPU and bfloat16 on a GPU.

        Raises:
            MissingExtra: if transformers (or, for an adapter, PEFT) is not installed.
            InvalidConfiguration: if there is no such model, type or device.
        """
        transformers = load_transformers()
        bars = transformers.utils.logging
        shown = bars.is_progress_bar_enabled()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = getattr(torch, ("float32" if device == "cpu" else "bfloat16") if dtype == "auto" else dtype, None)
        if not isinstance(kind, torch.dtype):
            raise InvalidConfiguration(f"dtype {dtype!r} is no type of torch; try float32 or bfloat16")
        bars.disable_progress_bar()  # it would tear the runner's own
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=kind)
            if adapter:
                model = _load_peft().PeftModel.from_pretrained(model, adapter)
        except (OSError, ValueError) as error:
            raise InvalidConfiguration(f"No language model at {describe(path, adapter)!r}: {error}") from error
        finally:
            if shown:
                bars.enable_progress_bar()
        return cls(model.to(device), tokenizer)

    def prompt_ids(self, observation: str) -> list[int]:
        """The prompt as tokens: by the tokenizer's chat template if it has one, else as plain text."""
        return self.prompt_rows([observation])[0]

    def plain_ids(self, text: str) -> list[int]:
        """Tokens of a text, nothing added."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def piece_ids(self, text: str) -> list[int]:
        """Tokens of a text that follows on other text.

        Some tokenizers put a space before whatever they are given. Behind a line break they do not.
        """
        anchor = self.plain_ids("\n")
        anchored = self.plain_ids("\n" + text)
        return anchored[len(anchor) :] if anchored[: len(anchor)] == anchor else self.plain_ids(text)

    def prompts(self, observations: Sequence[str], room: int) -> Prompts:
        """The prompts of all members, on the model's device.

        Args:
            room: tokens that must still fit behind each.

        Raises:
            InvalidConfiguration: if one is too long for the model.
        """
        rows = self.prompt_rows(observations)
        longest = max(len(row) for row in rows)
        if self.context is not None and longest + room > self.context:
            raise InvalidConfiguration(
                f"The prompt has {longest} tokens and the answer takes up to {room}; the model reads {self.context}. "
                "Choose a model with a longer context"
            )
        return self.side_by_side(rows)

    def side_by_side(self, rows: Sequence[Sequence[int]]) -> Prompts:
        """Prompts that are tokens already, on the model's device."""
        longest = max(len(row) for row in rows)
        lengths = torch.tensor([len(row) for row in rows])
        valid = torch.arange(longest) >= longest - lengths[:, None]
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        ids[valid] = torch.tensor([token for row in rows for token in row])
        return Prompts(ids.to(self.device), valid.to(self.device))

    def prompt_rows(self, observations: Sequence[str]) -> list[list[int]]:
        """The prompts as tokens, all tokenised together; see :meth:`prompt_ids`."""
        if getattr(self.tokenizer, "chat_template", None):
            texts = [self._template(prompt.messages(observation)) for observation in observations]
            return self._ids(texts, special=False)
        rows = self._ids([prompt.plain(observation) for observation in observations], special=True)
        # Some tokenizers close every text; the completion is still to come.
        return [ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids for ids in rows]

    def _ids(self, texts: list[str], special: bool) -> list[list[int]]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None and backend.padding is None and backend.truncation is None:
            # The same ids, without the time that offsets into the text and masks take.
            return [each.ids for each in backend.encode_batch_fast(texts, add_special_tokens=special)]
        rows: list[list[int]] = self.tokenizer(texts, add_special_tokens=special)["input_ids"]
        return rows

    def _template(self, chat: list[dict[str, str]]) -> str:
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        try:
            text: str = self.tokenizer.apply_chat_template(chat, **options)
        except Exception as error:  # noqa: BLE001 - templates are programs; some refuse a system message in their own way
            merged = "\n\n".join(message["content"] for message in chat)
            try:
                text = self.tokenizer.apply_chat_template([{"role": "user", "content": merged}], **options)
            except Exception:  # noqa: BLE001 - then the first error says more
                raise InvalidConfiguration(f"The tokenizer's chat template fails: {error}") from error
        return text


def load_transformers() -> Any:
    """The module ``transformers``.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingExtra("transformers", "language") from error
    return transformers


def _load_peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise MissingExtra("peft", "language") from error
    return peft


def describe(path: str, adapter: str) -> str:
    """Model and adapter in the way that ``hpbench run --agent hf:...`` takes them."""
    return f"{path}+{adapter}" if adapter else path


def fingerprint(path: str) -> str:
    """What tells one state of a model from another: a hash of the files in its folder, or the revision on the hub.

    Raises:
        InvalidConfiguration: if there is no such model.
    """
    folder = Path(path)
    if folder.is_dir():
        digest = xxhash.xxh3_128()
        files = sorted({file for pattern in WEIGHTS_AND_WORDS for file in folder.glob(pattern)})
        for file in files:
            digest.update(f"{file.name} {os.path.getsize(file)}\n".encode())
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
        if files:
            return f"xxh3:{digest.hexdigest()}"
        raise InvalidConfiguration(f"The folder {path!r} holds no model; save one there with save_pretrained")
    if folder.is_absolute() or path.startswith("."):
        raise InvalidConfiguration(f"There is no folder {path!r} with a model")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for name in ("config.json", "adapter_config.json"):
        try:
            # Files of the hub's cache stand in a folder that is named after the revision.
            return f"revision:{Path(hf_hub_download(path, name)).parent.name}"
        except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
            reason = error
    raise InvalidConfiguration(
        f"{path!r} is neither a folder with a model nor a model on the Hugging Face hub that can be reached: {reason}"
    ) from reason
