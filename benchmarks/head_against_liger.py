"""The fused head beside Liger's fused linear ORPO loss: the same pairs, hidden states and weights.

    python benchmarks/head_against_liger.py MODEL DATASET [--pairs 4] [--dtype bfloat16]

MODEL is a model folder or Hub id, of which only the shape of the output layer and the tokenizer are
taken; DATASET any data set that `orpo train` reads, of which only lengths are. Liger comes with
`pip install --no-deps liger-kernel`: its loss needs nothing but torch. It is given what it is made
for, padded sequences of both answers; our head the packed row. Prints one JSON object: medians of
forward and backward, the median of the rounds' ratios, peak memory beyond weights and hidden
states, and how far the gradients of the weights are apart. On a machine with a GPU that is where it
runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import AutoConfig

from orpo.config import ORPOConfig
from orpo.data.pack import PairCollator
from orpo.engine.fused_head import FusedHead
from orpo.engine.layout import PackedPairs, pack_pairs
from orpo.experiments.bench_rows import RowMaker
from orpo.experiments.measuring import MemoryMeter
from orpo.objective.log_odds import log_odds
from orpo.objective.types import PairLogps
from orpo.train.models import load_tokenizer

_ALPHA = 0.1
_IGNORED = -100
DEVICE = torch.accelerator.current_accelerator() or torch.device("cpu")


def random_pairs(given: argparse.Namespace, vocabulary: int) -> dict[str, Tensor]:
    """Pairs with the lengths of the data set's first rows and random tokens, as a batch."""
    make = RowMaker(load_tokenizer(given.model, ORPOConfig()), given.max_length)
    rows = make.first(make.text_pairs(given.dataset), given.pairs, given.dataset)
    features = [
        {
            "row": number,
            **{
                f"{name}_ids": torch.randint(vocabulary, (count,)).tolist()
                for name, count in row.lengths._asdict().items()
            },
        }
        for number, row in enumerate(rows)
    ]
    return PairCollator(0)(features)


def ours(packed: PackedPairs, tokens: int, *, compiled: bool) -> Callable[..., Tensor]:
    """The fused head on the packed row: (layer, hidden states (1, S, d)) -> loss."""
    asked, pairs = packed.predictions, packed.predictions.pairs

    def objective(logps: PairLogps) -> Tensor:
        z = log_odds(logps.chosen_sum / logps.chosen_tokens)
        z = z - log_odds(logps.rejected_sum / logps.rejected_tokens)
        return (logps.nll_sum / tokens - _ALPHA * F.logsigmoid(z) / pairs).sum()

    head = FusedHead(compiled=compiled)
    return lambda layer, hidden: head(layer, hidden, asked, objective)[0]


def liger(batch: dict[str, Tensor], *, compiled: bool) -> Callable[..., Tensor]:
    """Liger's loss on padded rows: (layer, hidden states (2 B, L - 1, d)) -> loss."""
    from liger_kernel.chunked_loss import LigerFusedLinearORPOLoss

    def labels(mask: str) -> Tensor:
        sides = [
            batch[f"{side}_input_ids"].where(batch[f"{side}_{mask}"] == 1, _IGNORED)
            for side in ("chosen", "rejected")
        ]
        return torch.cat(sides)[:, 1:].contiguous().to(DEVICE)

    answers, everything = labels("answer_mask"), labels("attention_mask")
    loss = LigerFusedLinearORPOLoss(beta=_ALPHA, compiled=compiled)

    def run(layer: nn.Linear, hidden: Tensor) -> Tensor:
        found: Tensor = loss(layer.weight, hidden, answers, nll_target=everything)[0]
        return found

    return run


def padded(hidden: Tensor, packed: PackedPairs, length: int) -> Tensor:
    """(1, S, d) of a packed row -> (2 B, length, d), chosen rows first, zeros behind."""
    row, chosen, rejected = hidden[0], [], []
    for span in packed.layout.spans:
        chosen.append(row[span.start : span.turn])
        rejected.append(torch.cat([row[span.start : span.fork], row[span.turn : span.end]]))
    fitting = [F.pad(x[:length], (0, 0, 0, max(0, length - len(x)))) for x in chosen + rejected]
    return torch.stack(fitting)


def forget(layer: nn.Linear, hidden: Tensor) -> None:
    """Drop the gradients."""
    layer.weight.grad = hidden.grad = None


def step(run: Callable[..., Tensor], layer: nn.Linear, hidden: Tensor) -> tuple[float, float]:
    """Forward and backward: seconds, and the loss."""
    forget(layer, hidden)
    begin = _now()
    loss = run(layer, hidden)
    torch.autograd.backward(loss)
    return _now() - begin, float(loss.detach())


def _now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("dataset")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--max_length", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--eager", action="store_true", help="compile neither side")
    given = parser.parse_args()
    torch.manual_seed(0)
    config, dtype = AutoConfig.from_pretrained(given.model), getattr(torch, given.dtype)
    batch = random_pairs(given, config.vocab_size)
    on_device = {name: value.to(DEVICE) for name, value in batch.items()}
    packed = pack_pairs(on_device, "sequence")
    layer = nn.Linear(config.hidden_size, config.vocab_size, bias=False, device=DEVICE, dtype=dtype)
    hidden = torch.randn(1, packed.layout.tokens, config.hidden_size, device=DEVICE, dtype=dtype)
    wide = padded(hidden, packed, batch["chosen_input_ids"].shape[1] - 1)
    tokens = int(batch["chosen_attention_mask"][:, 1:].sum())
    sides: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
        "orpo": (ours(packed, tokens, compiled=not given.eager), hidden.requires_grad_()),
        "liger": (liger(batch, compiled=not given.eager), wide.requires_grad_()),
    }
    found: dict[str, dict[str, Any]] = {}
    weights: dict[str, Tensor] = {}
    for name, (run, states) in sides.items():
        step(run, layer, states)  # compiles
        forget(layer, states)
        meter = MemoryMeter()
        meter.start(layer)
        _, loss = step(run, layer, states)
        found[name] = {"loss": loss, "beyond_idle_bytes": meter.peak() - meter.idle}
        assert layer.weight.grad is not None
        weights[name] = layer.weight.grad.double()
    rounds = []
    for number in range(given.rounds):
        order = list(sides.items())[:: 1 if number % 2 == 0 else -1]
        rounds.append({name: step(run, layer, states)[0] for name, (run, states) in order})
    for name, side in found.items():
        side["milliseconds"] = 1000 * statistics.median(taken[name] for taken in rounds)
    apart = (weights["orpo"] - weights["liger"]).norm() / weights["liger"].norm()
    result = {
        "device": str(DEVICE),
        "dtype": given.dtype,
        "compiled": not given.eager,
        "output_layer": [config.vocab_size, config.hidden_size],
        "positions": {"orpo": packed.layout.tokens, "liger": wide.shape[0] * wide.shape[1]},
        **found,
        "speed_ratio": statistics.median(one["liger"] / one["orpo"] for one in rounds),
        "memory_ratio": found["orpo"]["beyond_idle_bytes"] / found["liger"]["beyond_idle_bytes"],
        "weight_gradients_apart": float(apart),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
