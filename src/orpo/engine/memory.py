"""How many positions a micro-batch may have: what a position costs is measured, not guessed.

A step's peak is what training keeps anyway (gradients, optimizer states), what the output layer
needs, and the tensors that the forward pass saves for the backward pass. The last grow with the
number of positions; a trial of the model on a few random tokens, forward only, tells by how much.

On a processor freed memory serves the next step: glibc hands large blocks back to the system, which
clears each page anew when it is touched. Told to keep what is freed, it takes the pages once.
"""

import contextlib
import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import torch
from torch import Tensor, nn

from orpo.engine.attention import transformer
from orpo.engine.fused_head import FusedHead, output_layer, tap
from orpo.engine.probing import on_trial, positions_of_text, vocabulary_of, without_checkpointing

Precision: TypeAlias = Callable[[], contextlib.AbstractContextManager[Any]]
"""Gives the context in which a model runs, such as automatic mixed precision."""

_TRIALS = (96, 224)
"""Positions of the two trials; what does not grow between them is not per position. A model that
has fewer gets trials in the same proportion."""
_TRANSIENT = 1.35
"""A margin over what is saved, for gradients on their way back and the allocator's loss: chosen,
not measured; docs/performance.md holds the estimate against one run."""
_SHARE = 0.9
"""Part of the memory that is there that a plan may use."""


@dataclass(frozen=True)
class MemoryEstimate:
    """What a training step needs beyond the model itself, in bytes."""

    fixed: int  # gradients, optimizer states, copies of weights, the output layer's work space
    per_position: int  # each position of a micro-batch
    available: int  # what the device has left
    device: str  # its kind, "cpu" or "cuda"

    def needed(self, positions: int) -> int:
        """Bytes of a step whose largest micro-batch has this many positions."""
        return self.fixed + positions * self.per_position

    @property
    def max_tokens(self) -> int:
        """Positions that a micro-batch should have at most."""
        room = int((_SHARE * self.available - self.fixed) // max(1, self.per_position))
        return max(1, min(room, most_positions(self.device)))


def most_positions(device: str) -> int:
    """Positions beyond which a micro-batch gains no speed, and only costs memory."""
    return 640 if device == "cpu" else 16384


def estimate_memory(
    model: nn.Module,
    head: FusedHead | None,
    optimizer_bytes: Callable[[int], int],
    autocast: Precision = contextlib.nullcontext,
    *,
    checkpointing: bool = False,
) -> MemoryEstimate:
    """Measure a model that is about to be trained, not wrapped yet and on its device.

    `optimizer_bytes` is from a number of trained parameters to bytes of optimizer states;
    `checkpointing` says whether gradient checkpointing will be switched on.
    """
    device = next(model.parameters()).device
    trained = [p for p in model.parameters() if p.requires_grad]
    layer, bare = output_layer(model), transformer(model)
    large_trial = max(2, min(positions_of_text(model) or _TRIALS[1], _TRIALS[1]))
    trials = (max(1, large_trial * _TRIALS[0] // _TRIALS[1]), large_trial)
    with without_checkpointing(model) as active:
        small, large = (saved_bytes(model, layer, n, autocast) for n in trials)
    slope = max(1, (large - small) // (trials[1] - trials[0]))
    copies = max(0, small - slope * trials[0])
    if bare is not None and (checkpointing or active):
        config = bare.config.get_text_config()
        layers, width = int(config.num_hidden_layers), int(config.hidden_size)
        slope = min(slope, slope // layers + layers * width * 4)  # every input, one layer in full
    gradients = sum(p.numel() * p.element_size() for p in trained)
    states = optimizer_bytes(sum(p.numel() for p in trained))
    work = _head_bytes(head, layer, device)
    return MemoryEstimate(
        fixed=gradients + states + copies + work,
        per_position=int(_TRANSIENT * slope),
        available=available_bytes(device),
        device=device.type,
    )


def available_bytes(device: torch.device) -> int:
    """Memory that is left on a device: free, or held by PyTorch without use."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current"))
    with contextlib.suppress(
        OSError, ValueError
    ):  # what the control group of this process has left
        free = min(free, max(0, int(limit.read_text()) - int(used.read_text())))
    return free


def saved_bytes(
    model: nn.Module,
    layer: nn.Module | None,
    positions: int,
    autocast: Precision,
) -> int:
    """Bytes that a forward pass keeps for its backward pass, the model's own weights excepted."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    # Held, so that no address is used twice. A tensor would hold the graph, and the graph it.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.setdefault(storage.data_ptr(), storage)
        return tensor.detach()

    device = next(model.parameters()).device
    ids = torch.arange(positions, device=device)[None] % vocabulary_of(model)
    tapped = contextlib.nullcontext() if layer is None else tap(layer, lambda hidden: hidden.sum())
    with (
        on_trial(model, training=True),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        autocast(),
        tapped,
    ):
        output = model(input_ids=ids, use_cache=False)
    del output
    return sum(storage.nbytes() for storage in kept.values())


def _head_bytes(head: FusedHead | None, layer: nn.Module | None, device: torch.device) -> int:
    """Logits that are held at a time, and copies of the output layer and of its gradient."""
    if head is None or layer is None:
        return 0
    weights = sum(p.numel() for p in layer.parameters())
    trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
    return head.budget_bytes(device) + 2 * weights + 6 * trained


# <malloc.h>; the values are part of glibc's binary interface
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}
_DEFAULTS = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 2**17, _TOP_PAD: 0}


def keep_freed_memory(device: str) -> Callable[[], None]:
    """Keep freed memory in this process; gives what returns it to the system, and ends this.

    Only on the device type "cpu" is there something to gain.
    """
    library = _glibc() if device == "cpu" else None
    if library is None:
        return lambda: None
    for option, value in _KEPT.items():
        library.mallopt(option, value)

    def give_back() -> None:
        for option, value in _DEFAULTS.items():
            library.mallopt(option, value)
        library.malloc_trim(0)

    return give_back


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    known = all(hasattr(library, name) for name in ("gnu_get_libc_version", "mallopt"))
    return library if known else None
