"""Prints the table of docs/scaling.md: memory per device, from `orpo.engine.footprint`."""

from __future__ import annotations

from typing import Any

from orpo.engine.footprint import ModelShape, footprint

SHAPES = {
    "1B": ModelShape(width=2048, layers=16, mlp=8192, vocabulary=128256, keys=512, tied=True),
    "7B": ModelShape(width=4096, layers=32, mlp=14336, vocabulary=32000, keys=1024),
    "8B": ModelShape(width=4096, layers=32, mlp=14336, vocabulary=128256, keys=1024),
    "70B": ModelShape(width=8192, layers=80, mlp=28672, vocabulary=128256, keys=1024),
}
"""Shapes of Llama 3.2 1B, Mistral 7B, Llama 3.1 8B and 70B."""
COLUMNS: dict[str, dict[str, Any]] = {
    "one GPU or DDP": {"wrapper": "ddp", "ranks": 8},
    "ZeRO-2, 8 GPUs": {"wrapper": "zero2", "ranks": 8},
    "FSDP2 or ZeRO-3, 8 GPUs": {"wrapper": "fsdp2", "ranks": 8},
    "FSDP2 or ZeRO-3, 32 GPUs": {"wrapper": "fsdp2", "ranks": 32},
}
NAMES = {"full": "all weights", "lora": "LoRA", "qlora": "QLoRA"}


def table() -> str:
    """Markdown, GiB per device."""
    lines = [
        "| model | trained | " + " | ".join(COLUMNS) + " |",
        "|---|---|" + "---:|" * len(COLUMNS),
    ]
    for name, shape in SHAPES.items():
        for weights, words in NAMES.items():
            cells = [_cell(shape, weights, column) for column in COLUMNS.values()]
            lines.append(f"| {name} | {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(shape: ModelShape, weights: Any, column: dict[str, Any]) -> str:
    if weights == "qlora" and column["wrapper"] != "ddp":
        return "–"
    return f"{footprint(shape, weights=weights, **column).total / 2**30:,.0f}"


if __name__ == "__main__":
    print(table())
