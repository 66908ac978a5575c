"""What one side of the bench is told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["CHECKPOINTING", "OURS", "PEERS", "PRECISIONS", "SideSpec"]

OURS = "orpo"
PEERS = ("trl", "trl-grouped", "orpo-padded")
PRECISIONS = ("bf16", "fp32", "bf16-pure")
CHECKPOINTING = ("off", "on", "trl-default")


@dataclass(frozen=True)
class SideSpec:
    """One side in one cell of the bench; travels to its process as a JSON file.

    Attributes:
        side: `OURS` or one of `PEERS`.
        model: Folder or Hub id.
        precision: "bf16" (fp32 weights under autocast), "fp32", or "bf16-pure" (bf16 weights).
        lora: Train an adapter of rank 16 on every linear layer instead of the whole model.
        gradient_checkpointing: Recompute activations in the backward pass.
        batch_size: Pairs in a step.
        steps: Steps, those of the warm-up included.
        max_length: Tokens of prompt and answer together.
        rows: `batch_size * steps` rows of texts (prompt, chosen, rejected), in order of use.
        folder: Where the trainer may write.
    """

    side: str
    model: str
    precision: str
    lora: bool
    gradient_checkpointing: bool
    batch_size: int
    steps: int
    max_length: int
    rows: list[dict[str, str]]
    folder: str

    @property
    def is_trl(self) -> bool:
        """Whether TRL's trainer takes the steps."""
        return self.side.startswith("trl")

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> SideSpec:
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))
