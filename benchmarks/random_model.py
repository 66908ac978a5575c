"""Write a model with random weights in the shape of SmolLM2-135M, to train and measure with.

    python benchmarks/random_model.py OUT --tokenizer FOLDER

The shape is that of HuggingFaceTB/SmolLM2-135M (its config.json): 576 wide, 30 layers, 9 query and
3 key/value heads, vocabulary 49152, tied embeddings. The tokenizer's ids must fit the vocabulary.
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
    torch.manual_seed(given.seed)
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    assert len(tokenizer) <= config.vocab_size, "the tokenizer's ids do not fit the vocabulary"
    model = LlamaForCausalLM(config)
    model.save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)
    print(f"{given.out}: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
