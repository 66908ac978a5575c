"""Every way to compute attention over a packed row: how exact, how fast, how much memory.

    python benchmarks/attention_backends.py MODEL [--dtype bfloat16] [--repeat 9]

MODEL is a folder or Hub id, of which only the numbers of heads are taken. Each back end gets the
same random queries, keys and values of HH and UltraFeedback-like pairs: plain, with a sliding
window shorter than the pairs, and with soft-capped scores. Prints one JSON line for each: the
largest error of the output and of the three gradients, relative to the largest number of the
definition in float64, beside the error of the definition in this dtype; milliseconds, forward and
backward; and on a GPU, where it runs if there is one, the peak memory. A back end that cannot run
says why.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from typing import Any

import torch
from engine_parts import ROWS
from torch import Tensor
from transformers import AutoConfig

from orpo.engine.backends import BACKENDS
from orpo.engine.layout import PairLayout

DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")
CUDA = DEVICE.type == "cuda"


FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "window of 100": {"window": 100},
    "soft cap of 1": {"softcap": 1.0},
}


def attend(
    name: str, inputs: list[Tensor], above: Tensor, layout: PairLayout, feature: dict[str, Any]
) -> list[Tensor]:
    """The output and the gradients of query, key and value, in float64."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = BACKENDS[name](*leaves, layout, scale=inputs[0].shape[-1] ** -0.5, **feature)
    gradients = torch.autograd.grad(out, leaves, above.to(out))
    if CUDA:
        torch.cuda.synchronize()
    return [x.detach().double() for x in (out, *gradients)]


def apart(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest difference, relative to the largest number of its kind."""
    return max(
        float((x - y).abs().max() / y.abs().max()) for x, y in zip(found, exact, strict=True)
    )


def measured(name: str, given: tuple[Any, ...], repeat: int) -> Any:
    """Results, milliseconds and peak bytes of a back end."""
    found = attend(name, *given)  # compiles, where it does
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    idle, seconds = torch.cuda.memory_allocated() if CUDA else 0, []
    for _ in range(repeat):
        begin = time.perf_counter()
        attend(name, *given)
        seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() - idle if CUDA else None
    return found, round(1000 * statistics.median(seconds), 2), peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--repeat", type=int, default=9)
    given = parser.parse_args()
    config, dtype = AutoConfig.from_pretrained(given.model), getattr(torch, given.dtype)
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    for rows, lengths in ROWS.items():
        layout = PairLayout.of(lengths, DEVICE)
        torch.manual_seed(0)
        size = (layout.tokens, width)
        inputs = [
            torch.randn(1, n, *size, device=DEVICE, dtype=dtype) for n in (heads, groups, groups)
        ]
        above = torch.randn(1, layout.tokens, heads, width, device=DEVICE)
        for (kind, feature), name in itertools.product(FEATURES.items(), BACKENDS):
            exact = attend("dense", [x.double() for x in inputs], above, layout, feature)
            plain = apart(attend("dense", inputs, above, layout, feature), exact)
            line: dict[str, Any] = {"rows": rows, "attention": kind, "backend": name}
            line["device"] = str(DEVICE)
            try:
                found, ms, peak = measured(name, (inputs, above, layout, feature), given.repeat)
            except Exception as error:
                line["cannot run"] = str(error).partition(". ")[0] or type(error).__name__
            else:
                line |= {"error": apart(found, exact), "error of the definition": plain}
                line |= {"milliseconds": ms, "peak_bytes": peak}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
