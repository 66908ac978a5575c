"""How fast devices are by their makers' word, how much memory they have, and this machine."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import psutil
import torch

__all__ = ["CPU_UTILISATION", "DEVICES", "GPU_UTILISATION", "Device", "this_device"]
__all__ += ["this_processor"]

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
    """A device that a run is planned for.

    Attributes:
        name: What it is called.
        memory: Bytes.
        tflops: Peak rate of dense bf16 products accumulated in fp32; None if it is not known.
        source: Where the rate is from.
        kind: "cuda" or "cpu".
    """

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


def this_device(*, measure: bool, low: bool) -> Device:
    """The GPU of this machine, or its processor.

    Args:
        measure: Whether to measure the rate of a processor (a second); not if it is given.
        low: Whether the products are in bf16.
    """
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        known = next((d for d in DEVICES.values() if _same_name(d.name, found.name)), None)
        rate, source = (known.tflops, known.source) if known else (None, "not known")
        return Device(found.name, int(found.total_memory), rate, source)
    return this_processor(measure=measure, low=low)


def this_processor(*, measure: bool, low: bool) -> Device:
    """The processor of this machine; see `this_device`."""
    rate = _measured_rate(torch.bfloat16 if low else torch.float32) if measure else None
    kind = "bf16" if low else "fp32"
    source = f"products of {kind} matrices on this machine, now"
    return Device("this processor", int(psutil.virtual_memory().available), rate, source, "cpu")


def _same_name(known: str, found: str) -> bool:
    if {"pcie", "nvl"} & {*found.lower().split()}:  # slower ones of the same name
        return False
    words = {word for word in known.lower().replace("nvidia", "").split() if word != "sxm"}
    return words <= {*found.lower().replace("-", " ").split()}


def _measured_rate(dtype: torch.dtype) -> float:
    """TFLOP/s of a product of square matrices, the median of a few."""
    left = torch.ones(_SIDE, _SIDE, dtype=dtype)
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - start)
    return 2 * _SIDE**3 / statistics.median(seconds[1:]) / 1e12
