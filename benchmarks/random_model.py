"""Write a model with random weights in the shape of a known one, to train and measure with.

    python benchmarks/random_model.py OUT --tokenizer FOLDER [--shape smollm2-135m]

The shapes are those of the models' config.json: HuggingFaceTB/SmolLM2-135M, Qwen/Qwen2.5-0.5B and
meta-llama/Meta-Llama-3-8B (`--dtype bfloat16` halves the latter's 32 GB). The tokenizer's ids must
fit the vocabulary.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config


def _rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


SHAPES: dict[str, tuple[type[LlamaConfig] | type[Qwen2Config], dict[str, Any]]] = {
    "smollm2-135m": (
        LlamaConfig,
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
            "rope_parameters": _rope(100000.0),
            "tie_word_embeddings": True,
        },
    ),
    "qwen2.5-0.5b": (
        Qwen2Config,
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
            "rope_parameters": _rope(1000000.0),
            "tie_word_embeddings": True,
        },
    ),
    "llama-3-8b": (
        LlamaConfig,
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 8192,
            "rope_parameters": _rope(500000.0),
            "tie_word_embeddings": False,
        },
    ),
}


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--shape", choices=SHAPES, default="smollm2-135m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
    torch.manual_seed(given.seed)
    kind, sizes = SHAPES[given.shape]
    config = kind(
        **sizes,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    assert len(tokenizer) <= config.vocab_size, "the tokenizer's ids do not fit the vocabulary"
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, given.dtype))
    model.save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)
    print(f"{given.out}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
