"""Whether a GGUF file holds the model that it was made of: its kind, its template, its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orpo.config import ORPOConfig
from orpo.data.asked import asked_otherwise
from orpo.errors import ModelError
from orpo.runs import read_object
from orpo.train.tokenizer import load_tokenizer

__all__ = ["check_gguf"]

_MAGIC = b"GGUF"


def check_gguf(file: Path, folder: Path) -> list[str]:
    """Compare a file with the model folder that it was made of.

    Args:
        file: As the converter wrote it.
        folder: The model.

    Returns:
        What was found to be so, one line each.

    Raises:
        ModelError: It is no GGUF file, or not that of this model.
    """
    with file.open("rb") as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            raise ModelError("the converter wrote no GGUF file", where=str(folder))
    try:
        from gguf import GGUFReader  # noqa: PLC0415 - an extra
    except ImportError:
        return ["a GGUF file by its first bytes; pip install 'orpo[export]' checks what is in it"]
    fields = GGUFReader(file).fields
    tokenizer = load_tokenizer(str(folder), ORPOConfig(output_dir="unused"))
    config = read_object(folder / "config.json")
    _same("chat template", _held(fields, "tokenizer.chat_template"), tokenizer.chat_template)
    tokens = fields.get("tokenizer.ggml.tokens")
    size = config.get("vocab_size") or len(tokenizer)
    _same("size of the vocabulary", 0 if tokens is None else len(tokens.data), size)
    _same("EOS token", _held(fields, "tokenizer.ggml.eos_token_id"), tokenizer.eos_token_id)
    kind = _held(fields, "general.architecture")
    template = "its chat template" if tokenizer.chat_template else "no chat template, as the model"
    differs = asked_otherwise(tokenizer)
    found = f"architecture {kind}, {size:,} tokens, {template}, EOS {tokenizer.eos_token}"
    return [found, *([differs] if differs else [])]


def _held(fields: Any, name: str) -> Any:
    return fields[name].contents() if name in fields else None


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        shown = [
            repr(one) if len(repr(one)) < 40 else f"{repr(one)[:40]}..."
            for one in (found, expected)
        ]
        raise ModelError(
            f"the converter wrote another {what}: {shown[0]} instead of {shown[1]}",
            where="orpo export",
            fix="Take a newer llama.cpp.",
        )
