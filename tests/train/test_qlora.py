"""QLoRA: an adapter on a base in four bits, through both engines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.train.one_step import step_gradients
from tests.train.oracle_fp64 import relative_difference
from tests.train.small import tiny_llama

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

# bitsandbytes' own kernels without a GPU have no autograd registration; torch says so.
pytestmark = pytest.mark.filterwarnings("ignore:bitsandbytes")


def gradients(folder: Path, base: Path, engine: str) -> dict[str, Tensor]:
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=four_bits)
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, bitsandbytes.nn.Linear4bit)
    assert layer.weight.dtype == torch.uint8
    return step_gradients(
        str(folder / engine),
        model=model,
        engine=engine,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        per_device_train_batch_size=8,
    )


def test_both_engines_give_the_adapter_the_same_gradient(tmp_path: Path) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 4}
    tiny_llama(**sizes, vocab_size=320).save_pretrained(tmp_path / "base")
    shared, padded = (gradients(tmp_path, tmp_path / "base", e) for e in ("shared", "padded"))
    assert all("lora_" in name for name in shared)
    assert relative_difference(shared, padded) < 1e-4
