"""The engine's parts alone: bytes that a position keeps, the head, attention over a packed row.

    python benchmarks/engine_parts.py MODEL [--repeat 7]

MODEL is a folder or Hub id of a Llama-like model (see random_model.py). bf16 autocast; medians in
milliseconds, forward and backward. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from orpo.engine.attention_cpu import tiled_attention
from orpo.engine.compiling import compile_blocks, share_casts, uncompile_blocks
from orpo.engine.fused_head import FusedHead
from orpo.engine.layout import PairLayout, Predictions
from orpo.engine.memory import estimate_memory

LORA = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
ROWS = {"hh": [(137, 43, 54), (200, 80, 40), (90, 30, 80)], "ultrafeedback": [(185, 305, 305)]}


def bfloat16() -> torch.autocast:
    """The precision of everything here."""
    return torch.autocast("cpu", torch.bfloat16)


def median_ms(run: Callable[[], Any], repeat: int) -> float:
    """After two runs that do not count."""
    seconds = []
    for _ in range(repeat + 2):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return round(1000 * statistics.median(seconds[2:]), 1)


def kept_bytes(model: Any) -> dict[str, float]:
    """KiB per position and layer that the forward pass keeps."""
    layers = model.config.num_hidden_layers

    def measure() -> float:
        found = estimate_memory(model, FusedHead(), lambda count: 8 * count, bfloat16)
        return round(found.per_position / 1.35 / layers / 1024, 1)

    result = {"plain": measure()}
    cast_again = share_casts(model)
    result["shared casts"] = measure()
    compile_blocks(model)
    result["shared casts, compiled"] = measure()
    uncompile_blocks(model)
    cast_again()
    return result


def head_ms(layer: Any, repeat: int, *, compiled: bool) -> float:
    """936 predictions of four pairs."""
    count, hidden = 936, torch.randn(1, 936, layer.in_features)
    target = torch.randint(0, layer.out_features, (count,))
    member = torch.ones(count, 3, dtype=torch.bool)
    asked = Predictions(torch.arange(count), target, member, tuple(range(0, count + 1, 234)))
    head = FusedHead(compiled=compiled)

    def run() -> None:
        with bfloat16():
            loss, _ = head(layer, hidden.requires_grad_(), asked, lambda x: x.nll_sum.sum())
        loss.backward()

    return median_ms(run, repeat)


def attention_ms(config: Any, lengths: list[tuple[int, int, int]], repeat: int) -> float:
    """One layer."""
    layout = PairLayout.of(lengths)
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    width = config.hidden_size // heads
    q, k, v = (
        torch.randn(1, n, layout.tokens, width, dtype=torch.bfloat16, requires_grad=True)
        for n in (heads, groups, groups)
    )
    return median_ms(lambda: tiled_attention(q, k, v, layout, scale=0.1).sum().backward(), repeat)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--repeat", type=int, default=7)
    given = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
    repeat, head = given.repeat, model.get_output_embeddings()
    rows = {name: attention_ms(model.config, x, repeat) for name, x in ROWS.items()}
    eager, compiled = (head_ms(head, repeat, compiled=flag) for flag in (False, True))
    kept = {"full": kept_bytes(model), "LoRA": kept_bytes(get_peft_model(model, LORA))}
    print(json.dumps({"head ms": [eager, compiled], "attention ms": rows, "kept KiB": kept}))


if __name__ == "__main__":
    main()
