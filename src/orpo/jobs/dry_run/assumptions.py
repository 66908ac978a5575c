"""What an estimate assumes: the devices, how they share the model, and data that are not here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import yaml

from orpo.config import ORPOConfig
from orpo.engine.footprint import Wrapper
from orpo.errors import ConfigError
from orpo.jobs.dry_run.devices import (
    CPU_UTILISATION,
    DEVICES,
    GPU_UTILISATION,
    Device,
    this_device,
    this_processor,
)
from orpo.runs import load_yaml, read_object, read_text
from orpo.train.adapters import is_quantized

__all__ = ["WRAPPERS", "Assumptions", "Fleet"]

WRAPPERS = ("ddp", "zero2", "zero3", "fsdp2")
_GIB = 1 << 30


def _help(text: str) -> Any:  # a dataclass field
    return field(default=None, metadata={"help": text})


@dataclass(frozen=True)
class Assumptions:
    """What `--dry_run` is told; what is left out is taken from the settings and this machine.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    gpu: str | None = _help(f"Device to plan for: cpu, {', '.join(DEVICES)}; else this machine's.")
    ranks: int | None = _help("Devices of the run.")
    wrapper: str | None = _help(f"What divides the model among them: {', '.join(WRAPPERS)}.")
    accelerate_config: str | None = _help("Config of accelerate that says ranks and wrapper.")
    memory_gib: float | None = _help("Memory of a device in GiB.")
    device_tflops: float | None = _help("Peak rate of a device in TFLOP/s of bf16 products.")
    utilisation: float | None = _help("Share of that rate that the run reaches.")
    price_per_hour: float | None = _help("Price of a device and hour, in whatever currency.")
    pairs: int | None = _help("Estimate for so many pairs of the data, e.g. if few are here.")
    eval_pairs: int | None = _help("The same for the pairs of eval_dataset.")
    pair_tokens: tuple[float, ...] | None = _help(
        "Mean tokens of prompt, chosen and rejected answer, in place of those of the data."
    )

    def __post_init__(self) -> None:
        """Check every value."""
        self._one_of("gpu", ("cpu", *DEVICES))
        self._one_of("wrapper", WRAPPERS)
        for name in ("ranks", "memory_gib", "device_tflops", "utilisation", "pairs", "eval_pairs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"must be positive, is {value}", where=f"--{name}")
        if self.utilisation is not None and self.utilisation > 1:
            raise ConfigError(f"is a share, is {self.utilisation}", where="--utilisation")
        if self.price_per_hour is not None and self.price_per_hour < 0:
            raise ConfigError(
                f"must not be negative, is {self.price_per_hour}", where="--price_per_hour"
            )
        tokens = self.pair_tokens
        if tokens is not None and (len(tokens) != 3 or not all(t > 0 for t in tokens)):
            raise ConfigError(
                f"three positive numbers are needed, not {list(tokens)}", where="--pair_tokens"
            )
        if self.accelerate_config and (self.ranks or self.wrapper):
            raise ConfigError(
                "says ranks and wrapper itself", where="--accelerate_config", fix="Use one of them."
            )

    def _one_of(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value is not None and value not in choices:
            raise ConfigError(f"{value!r} is none of {', '.join(choices)}", where=f"--{name}")

    def given(self) -> list[str]:
        """Flags of what is not left to the settings and the machine."""
        return [f"--{name}" for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class Fleet:
    """The devices of a run.

    Attributes:
        device: Each of them.
        ranks: How many.
        wrapper: What divides the model among them; "one" for a single device.
        utilisation: Share of the peak rate that is reached.
        why: Where the utilisation is from.
        price: Of a device and hour; None if it was not said.
    """

    device: Device
    ranks: int
    wrapper: Wrapper
    utilisation: float
    why: str
    price: float | None

    @classmethod
    def of(cls, assumed: Assumptions, config: ORPOConfig) -> Fleet:
        """What the assumptions, the settings and this machine say.

        Raises:
            ConfigError: They contradict each other.
        """
        ranks, wrapper = _shared_among(assumed, config)
        if is_quantized(config) and wrapper in ("zero3", "fsdp2"):
            raise ConfigError(
                f"weights in four bits cannot be divided by {wrapper}",
                where="quantize",
                fix="Use one device or ddp, or quantize: none.",
            )
        device = _device(assumed, config)
        on_cpu = device.kind == "cpu"
        share = assumed.utilisation or (CPU_UTILISATION if on_cpu else GPU_UTILISATION)
        measured = "one run of docs/performance.md" if on_cpu else "assumed: no GPU was measured"
        why = "as given" if assumed.utilisation else measured
        return cls(device, ranks, wrapper, share, why, assumed.price_per_hour)

    @property
    def flops_per_second(self) -> float | None:
        """Of all devices together; None if the rate of one is not known."""
        rate = self.device.tflops
        return None if rate is None else rate * 1e12 * self.utilisation * self.ranks


def _device(assumed: Assumptions, config: ORPOConfig) -> Device:
    measure, low = assumed.device_tflops is None, bool(config.bf16)
    if assumed.gpu == "cpu" or (assumed.gpu is None and config.use_cpu and not low):
        device = this_processor(measure=measure, low=low)
    elif assumed.gpu is None:
        device = this_device(measure=measure, low=low)
    else:
        device = DEVICES[assumed.gpu]
    if assumed.memory_gib is not None:
        device = replace(device, memory=int(assumed.memory_gib * _GIB))
    if assumed.device_tflops is not None:
        device = replace(device, tflops=assumed.device_tflops, source="as given")
    return device


def _shared_among(assumed: Assumptions, config: ORPOConfig) -> tuple[int, Wrapper]:
    if assumed.accelerate_config:
        return _of_accelerate(assumed.accelerate_config)
    ranks = assumed.ranks or 1
    found = assumed.wrapper or _of_settings(config) or "ddp"
    if ranks == 1 and found != "ddp" and assumed.ranks is None:
        raise ConfigError(f"{found} needs several devices", where="--ranks", fix="Add --ranks N.")
    return ranks, cast(Wrapper, "one" if ranks == 1 else found)


def _of_settings(config: ORPOConfig) -> str | None:
    if config.fsdp:
        return "fsdp2"
    given: Any = config.deepspeed
    if not given:
        return None
    try:
        plan = given if isinstance(given, dict) else read_object(Path(given))
        stage = int(plan.get("zero_optimization", {}).get("stage", 0))
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"cannot be read ({error})", where="deepspeed") from error
    return f"zero{stage}" if stage >= 2 else None


def _of_accelerate(path: str) -> tuple[int, Wrapper]:
    try:
        found = load_yaml(read_text(Path(path)))
        kind, ranks = str(found["distributed_type"]), int(found["num_processes"])
        stage = int((found.get("deepspeed_config") or {}).get("zero_stage", 0))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            "is no config of accelerate that says distributed_type and num_processes",
            where=path,
            fix="See recipes/accelerate.",
        ) from error
    wrapper = {"FSDP": "fsdp2", "DEEPSPEED": f"zero{stage}"}.get(kind, "ddp")
    if wrapper not in WRAPPERS:
        wrapper = "ddp"
    return ranks, cast(Wrapper, wrapper if ranks > 1 else "one")
