"""Small models, a byte tokenizer, and rows of very different lengths."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def byte_tokenizer(**kwargs: Any) -> PreTrainedTokenizerFast:
    """One token per byte: <unk>, <s>, </s> and 256 others."""
    names = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {name: i for i, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names_of = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **kwargs}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names_of)


CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The same with a small chat template and its special tokens, and without BOS."""
    names = {"bos_token": None, "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    more = ["<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer = byte_tokenizer(**names, extra_special_tokens=more)
    tokenizer.chat_template = CHAT
    return tokenizer


def tiny_llama(**kwargs: Any) -> LlamaForCausalLM:
    """Two layers of width 32, the same weights every time."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 260,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **kwargs}))


def saved_llama(
    folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, **sizes: Any
) -> Path:
    """The tiny model with its tokenizer, `byte_tokenizer` if not given, as they are saved."""
    if tokenizer is not None:
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        sizes = {n: getattr(tokenizer, n) for n in names} | {"vocab_size": len(tokenizer)} | sizes
    tiny_llama(**sizes).save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """A JSON Lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def text_rows(count: int = 8) -> list[dict[str, str]]:
    """Plain-text pairs whose lengths differ by a factor of ten and more."""
    return [
        {
            "prompt": f"Q{i}:" + " why?" * (3 * i % 7),
            "chosen": " because" * (1 + i * i // 4 % 13) + f" {i}",
            "rejected": " no" * (1 + 7 * i % 5) + f" {i}",
        }
        for i in range(count)
    ]


class Stream(torch.utils.data.IterableDataset):
    """A streaming data set of some rows."""

    def __init__(self, rows: list[Any]) -> None:
        super().__init__()
        self.rows = rows

    def __iter__(self) -> Any:
        return iter(self.rows)


class MapStyle(torch.utils.data.Dataset):
    """A map-style data set that can only be indexed and counted."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index % len(self.rows)]
