"""What the bench measures, and what one side of it is told."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass, field

from orpo.errors import ConfigError
from orpo.options import option

OURS = "orpo"
PEERS = ("trl", "trl-grouped", "orpo-padded")
PRECISIONS = ("bf16", "fp32", "bf16-pure")
CHECKPOINTING = ("off", "on", "trl-default")
ROWS = ("dataset", "hh-like", "ultrafeedback-like")


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ArgumentTypeError(f"expected whole numbers, found {text!r}") from error


@dataclass(frozen=True)
class BenchJob:
    """What is measured; without a model it is the embedded one.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    model: str = option("", help="folder or Hub id; default the demo's base model")
    dataset: str | None = option(
        None, help="preference data; default, with no model given, the demo's pairs"
    )
    rows: str = option(
        "", help="dataset, hh-like or ultrafeedback-like (synthetic rows of such lengths)"
    )
    batch_sizes: tuple[int, ...] = option(
        (), flag="batch_size", parse=_sizes, help="pairs in a step, by comma; default 4, demo 16"
    )
    against: tuple[str, ...] = option(
        ("trl",), help="trl, trl-grouped, orpo-padded, by comma; default trl"
    )
    gradient_checkpointing: str = option(
        "off", choices=CHECKPOINTING, help="trl-default: ours off, TRL's on; default off"
    )
    lora: bool = option(False, help="an adapter of rank 16 instead of the whole model")
    precision: str = option(
        "bf16",
        choices=PRECISIONS,
        help="bf16: fp32 weights under autocast; bf16-pure: bf16 weights; default bf16",
    )
    max_length: int | None = option(None, help="default 1024; ultrafeedback-like 2048")
    steps: int = option(5, help="steps that count; default 5")
    warmup: int = option(1, help="steps before them; default 1")

    def __post_init__(self) -> None:
        """Check every value before anything is loaded."""
        for name, value, choices in (
            ("rows", self.rows or ROWS[0], ROWS),
            ("gradient_checkpointing", self.gradient_checkpointing, CHECKPOINTING),
            ("precision", self.precision, PRECISIONS),
            *(("against", peer, PEERS) for peer in self.against),
        ):
            if value not in choices:
                what = f"{value!r} is none of {', '.join(choices)}"
                raise ConfigError(what, where=f"--{name}")
        sizes = self.batch_sizes or (1,)
        for name, values in (("batch_size", sizes), ("against", self.against)):
            if not values or len(set(values)) < len(values):
                raise ConfigError("needs different values, at least one", where=f"--{name}")
        length = [("max_length", self.max_length, 32)] if self.max_length is not None else []
        counts = [("steps", self.steps, 1), ("warmup", self.warmup, 0)]
        for name, count, least in (*(("batch_size", n, 1) for n in sizes), *length, *counts):
            if count < least:
                raise ConfigError(f"must be at least {least}, is {count}", where=f"--{name}")
        if self.rows == "dataset" and self.model and self.dataset is None:
            raise ConfigError(
                "is needed for --rows dataset",
                where="--dataset",
                fix=f"Add --dataset NAME, or use --rows {' or '.join(ROWS[1:])}.",
            )

    @property
    def rounds(self) -> int:
        """Steps of each side in one cell."""
        return self.warmup + self.steps

    def checkpoints(self, side: str) -> bool:
        """Whether a side recomputes activations in the backward pass."""
        by_default = self.gradient_checkpointing == "trl-default" and side.startswith("trl")
        return self.gradient_checkpointing == "on" or by_default


@dataclass(frozen=True)
class SideSpec:
    """One side in one cell of the bench; travels to its process as a JSON file."""

    side: str  # OURS or one of PEERS
    model: str
    precision: str
    lora: bool  # rank 16 on every linear layer
    gradient_checkpointing: bool
    batch_size: int
    steps: int  # those of the warm-up included
    max_length: int
    folder: str  # where the trainer may write
    # batch_size * steps rows of texts (prompt, chosen, rejected), in order of use
    rows: list[dict[str, str]] = field(default_factory=list)

    @property
    def is_trl(self) -> bool:
        """Whether TRL's trainer takes the steps."""
        return self.side.startswith("trl")
