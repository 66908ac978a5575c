"""Models with few positions: trained within them, and measured within them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from orpo.commands.main import main
from tests.train.small import byte_tokenizer

GPT: dict[str, Any] = {
    "vocab_size": 260,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPT: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "word_embed_proj_dim": 32,
}
CONFIGS: dict[str, tuple[int, Any]] = {
    "hardly any": (20, lambda n: hf.GPT2Config(**GPT, n_positions=n)),
    "one short": (223, lambda n: hf.GPT2Config(**GPT, n_positions=n)),
    "learned, with an offset": (100, lambda n: hf.OPTConfig(**OPT, max_position_embeddings=n)),
    "a table of sines": (64, lambda n: hf.GPTJConfig(**GPT, n_positions=n, rotary_dim=4)),
    "sines in an attribute": (
        64,
        lambda n: hf.CTRLConfig(**{**GPT, "dff": 48}, n_positions=n),
    ),
    "ALiBi": (
        64,
        lambda n: hf.MptConfig(vocab_size=260, d_model=32, n_layers=2, n_heads=4, max_seq_len=n),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_with_few_positions_is_trained_within_them(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    limit, config = CONFIGS[name]
    torch.manual_seed(0)
    hf.AutoModelForCausalLM.from_config(config(limit)).save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    rows = [
        {"prompt": "Q?", "chosen": " yes" * n, "rejected": " no" * (n + 1)}
        for n in (1, 1, 1, 1, 1, 1, 1, 1, 90)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    quiet = ["--use_cpu", "true", "--report_to", "none", "--samples", "0", "--data_cache", "off"]
    given = ["--model", str(tmp_path / "model"), "--dataset", str(data), *quiet]
    run = ["--output_dir", str(tmp_path / "run"), "--max_steps", "2", "--held_out", "0"]
    assert main(["train", *given, *run]) == 0
    assert f"max_length is {limit}: the model has no more positions" in capfd.readouterr().err
