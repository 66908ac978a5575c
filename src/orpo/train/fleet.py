"""The devices of a run: what they can do, and what `--dry_run` is told of them."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil
import yaml

from orpo.errors import ConfigError, refuse_first
from orpo.options import option
from orpo.runs.reading import load_yaml, read_object, read_text

if TYPE_CHECKING:
    import torch

    from orpo.config import ORPOConfig
    from orpo.engine.footprint import Wrapper

GPU_UTILISATION = 0.35
"""Share of the peak rate that a run is taken to reach on a GPU: assumed, nothing was measured."""
CPU_UTILISATION = 0.36
"""The same on a processor, of its rate of matrix products: docs/performance.md, one step of eight
pairs (1.65 TFLOP) in 5.5 s where products of matrices reach 830 GFLOP/s."""
_GIB = 1 << 30
_SIDE = 1024  # of the matrices that are multiplied to measure a processor
_ROUNDS = 7


@dataclass(frozen=True)
class Device:
    """A device that a run is planned for."""

    name: str
    memory: int
    tflops: float | None
    source: str
    kind: str = "cuda"


def _gpu(name: str, gib: int, tflops: float, source: str) -> Device:
    return Device(name, gib * _GIB, tflops, f"{source}, without sparsity")


DEVICES = {
    "b200": _gpu("NVIDIA B200", 180, 2250, "nvidia.com/en-us/data-center/dgx-b200"),
    "h200": _gpu("NVIDIA H200 SXM", 141, 989, "nvidia.com/en-us/data-center/h200"),
    "h100": _gpu("NVIDIA H100 SXM", 80, 989, "nvidia.com/en-us/data-center/h100"),
    "a100-80": _gpu("NVIDIA A100 80GB", 80, 312, "nvidia.com/en-us/data-center/a100"),
    "a100-40": _gpu("NVIDIA A100 40GB", 40, 312, "nvidia.com/en-us/data-center/a100"),
    "l40s": _gpu("NVIDIA L40S", 48, 362, "nvidia.com/en-us/data-center/l40s"),
    "a10": _gpu("NVIDIA A10", 24, 125, "nvidia.com/en-us/data-center/products/a10-gpu"),
    "l4": _gpu("NVIDIA L4", 24, 121, "nvidia.com/en-us/data-center/l4"),
    "rtx4090": _gpu("NVIDIA RTX 4090", 24, 165, "NVIDIA's whitepaper of the Ada architecture"),
    "rtx3090": _gpu("NVIDIA RTX 3090", 24, 71, "NVIDIA's whitepaper of the GA102 architecture"),
}
"""Names of `--gpu`; rates as their maker states them, memory as it is sold."""


def this_device(*, measure: bool, low: bool, cpu: bool = False) -> Device:
    """The GPU of this machine, or its processor; `low` measures products of 16 bits."""
    import torch  # noqa: PLC0415 - slow

    if torch.cuda.is_available() and not cpu:
        found = torch.cuda.get_device_properties(0)
        told, (rate, source) = found.name.lower(), (None, "not known")
        words = {*told.replace("-", " ").split()}
        slower = {"pcie", "nvl"} & {*told.split()}  # of the same name
        for known in () if slower else DEVICES.values():
            if {*known.name.lower().split()} - {"nvidia", "sxm"} <= words:
                rate, source = known.tflops, known.source
                break
        return Device(found.name, int(found.total_memory), rate, source)
    rate = _measured_rate(torch.bfloat16 if low else torch.float32) if measure else None
    source = f"products of {'bf16' if low else 'fp32'} matrices on this machine, now"
    return Device("this processor", int(psutil.virtual_memory().available), rate, source, "cpu")


def _measured_rate(dtype: torch.dtype) -> float:
    """TFLOP/s of a product of square matrices, the median of a few."""
    import torch  # noqa: PLC0415 - slow

    left = torch.ones(_SIDE, _SIDE, dtype=dtype)
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - start)
    return 2 * _SIDE**3 / statistics.median(seconds[1:]) / 1e12


WRAPPERS = ("ddp", "zero2", "zero3", "fsdp2")


@dataclass(frozen=True)
class Assumptions:
    """What `--dry_run` is told; what is left out is taken from the settings and this machine."""

    gpu: str | None = option(
        None, help=f"Device to plan for: cpu, {', '.join(DEVICES)}; else this machine's."
    )
    ranks: int | None = option(None, help="Devices of the run.")
    wrapper: str | None = option(
        None, help=f"What divides the model among them: {', '.join(WRAPPERS)}."
    )
    accelerate_config: str | None = option(
        None, help="Config of accelerate that says ranks and wrapper."
    )
    memory_gib: float | None = option(None, help="Memory of a device in GiB.")
    device_tflops: float | None = option(
        None, help="Peak rate of a device in TFLOP/s of bf16 products."
    )
    utilisation: float | None = option(None, help="Share of that rate that the run reaches.")
    price_per_hour: float | None = option(
        None, help="Price of a device and hour, in whatever currency."
    )
    pairs: int | None = option(
        None, help="Estimate for so many pairs of the data, e.g. if few are here."
    )
    eval_pairs: int | None = option(None, help="The same for the pairs of eval_dataset.")
    pair_tokens: tuple[float, float, float] | None = option(
        None,
        metavar="P C R",
        help="Mean tokens of prompt, chosen and rejected answer, in place of those of the data.",
    )

    def __post_init__(self) -> None:
        """Check every value."""
        for name, choices in (("gpu", ("cpu", *DEVICES)), ("wrapper", WRAPPERS)):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise ConfigError(f"{value!r} is none of {', '.join(choices)}", where=f"--{name}")
        for name in ("ranks", "memory_gib", "device_tflops", "utilisation", "pairs", "eval_pairs"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"must be positive, is {value}", where=f"--{name}")
        share, price, tokens = self.utilisation or 0, self.price_per_hour or 0, self.pair_tokens
        three = f"three positive numbers are needed, not {list(tokens or ())}"
        twice = self.accelerate_config and (self.ranks or self.wrapper)
        refuse_first(
            (share > 1, "--utilisation", f"is a share, is {share}"),
            (price < 0, "--price_per_hour", f"must not be negative, is {price}"),
            (not all(t > 0 for t in tokens or ()), "--pair_tokens", three),
            (twice, "--accelerate_config", "says ranks and wrapper itself", "Use one of them."),
        )

    def given(self) -> list[str]:
        """Flags of what is not left to the settings and the machine."""
        return [f"--{name}" for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class Fleet:
    """The devices of a run."""

    device: Device
    ranks: int
    wrapper: Wrapper
    utilisation: float
    why: str
    price: float | None

    @classmethod
    def of(cls, assumed: Assumptions, config: ORPOConfig) -> Fleet:
        """What the assumptions, the settings and this machine say."""
        from orpo.train.adapters import is_quantized  # noqa: PLC0415 - loads torch

        ranks, wrapper = _shared_among(assumed, config)
        if is_quantized(config) and wrapper in ("zero3", "fsdp2"):
            what = f"weights in four bits cannot be divided by {wrapper}"
            fix = "Use one device or ddp, or quantize: none."
            raise ConfigError(what, where="quantize", fix=fix)
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
    if assumed.gpu in {None, "cpu"}:
        cpu = assumed.gpu == "cpu" or (config.use_cpu and not low)
        device = this_device(measure=measure, low=low, cpu=cpu)
    else:
        device = DEVICES[str(assumed.gpu)]
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
    return ranks, cast("Wrapper", "one" if ranks == 1 else found)


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
        what = "is no config of accelerate that says distributed_type and num_processes"
        raise ConfigError(what, where=path, fix="See recipes/accelerate.") from error
    wrapper = {"FSDP": "fsdp2", "DEEPSPEED": f"zero{stage}"}.get(kind, "ddp")
    wrapper = wrapper if wrapper in WRAPPERS else "ddp"
    return ranks, cast("Wrapper", wrapper if ranks > 1 else "one")
