"""Trying an engine out before it is trusted: its numbers against one sequence at a time.

The pairs are random tokens, longer than any sliding window that the model's positions allow for.
Compared are the log-probabilities and the gradient of a few of the model's own parameters; of texts
too long to be kept for a backward pass, the log-probabilities only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from orpo.data import PairCollator
from orpo.engine.head import sum_pairs, token_logps
from orpo.engine.head_products import slices
from orpo.engine.layout import PaddedPairs, pad_pairs
from orpo.engine.trial import on_trial
from orpo.engine.types import Engine, Precision
from orpo.objective import PairLogps

__all__ = ["self_test"]

_LONGEST = 4608
"""Tokens of the longest sequence that is tried."""
_KEPT = 512
"""Tokens of the longest prompt whose gradient is asked for: what is kept for it grows with them."""
_SMALL = 1 << 16
"""Parameters of at most this many numbers have their gradients compared."""


def self_test(
    model: nn.Module, engine: Engine, precision: Precision = contextlib.nullcontext
) -> str | None:
    """Compare an engine with the model's stock path, one sequence at a time, naive head.

    Args:
        model: Not wrapped yet, on the device where it will be.
        engine: What is tried.
        precision: The context in which both run.

    Returns:
        None if they agree, else one line that says by how much they do not.
    """
    with on_trial(model):
        for batch, differentiated in _random_batches(model):
            # Anew for each: autocast's copies of weights that were made without gradient stay so.
            with torch.set_grad_enabled(differentiated), precision():
                reason = _compare(model, engine, batch, _watched(model) if differentiated else [])
            if reason is not None:
                return f"self-test: {reason}"
    return None


def _compare(
    model: nn.Module, engine: Engine, batch: Mapping[str, Tensor], watched: list[nn.Parameter]
) -> str | None:
    expected = _one_at_a_time(model, pad_pairs(batch, engine.nll_scope))
    expected_grads = _gradients(_objective(expected), watched)
    try:
        output = engine(model, batch, _objective)
        grads = _gradients(output.loss, watched)
    except Exception as error:  # whatever a kernel raises: there is another way
        return next(iter(str(error).splitlines()), type(error).__name__)
    exact = _exact(model)
    return _difference(output.logps, expected.detached(), exact=exact) or _apart(
        grads, expected_grads, exact=exact
    )


def _objective(logps: PairLogps) -> Tensor:
    """Something that weighs all three sums, a sum over pairs."""
    chosen, rejected = logps.chosen_logps, logps.rejected_logps
    return (logps.nll_sum / logps.nll_tokens + chosen - 0.5 * rejected).sum()


def _one_at_a_time(model: nn.Module, padded: PaddedPairs) -> PairLogps:
    """What the model itself says: every sequence without padding, all of its logits."""
    asked, width = padded.predictions, padded.input_ids.shape[1]
    logps = []
    for row, length in enumerate(padded.attention_mask.sum(1).tolist()):
        logits = model(input_ids=padded.input_ids[row : row + 1, :length], use_cache=False).logits
        own = asked.source // width == row
        source, target = asked.source[own] - row * width, asked.target[own]
        # A copy in float32 of all logits at once would be the largest thing there is.
        for part in slices(len(source), _KEPT):
            some = replace(asked, source=source[part], target=target[part])
            logps.append(token_logps(logits, some))
    return sum_pairs(torch.cat(logps), asked)


def _gradients(loss: Tensor, watched: list[nn.Parameter]) -> list[Tensor]:
    if not watched:
        return []
    return list(torch.autograd.grad(loss, watched, allow_unused=True, materialize_grads=True))


def _difference(found: PairLogps, expected: PairLogps, *, exact: bool) -> str | None:
    tolerance = 1e-4 if exact else 5e-2
    for name in ("chosen_logps", "rejected_logps"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        apart = float((ours - theirs).abs().max())
        if not apart <= tolerance * (1 + float(theirs.abs().max())):
            return f"{name} {apart:.2g} apart from one sequence at a time"
    return None


def _apart(found: list[Tensor], expected: list[Tensor], *, exact: bool) -> str | None:
    tolerance = 1e-2 if exact else 0.25
    difference = sum(
        float((a.double() - b.double()).square().sum())
        for a, b in zip(found, expected, strict=True)
    )
    size = sum(float(b.double().square().sum()) for b in expected)
    if not difference <= tolerance**2 * size:
        share = (difference / size) ** 0.5 if size else float("inf")
        return f"gradients {share:.2g} apart from one sequence at a time"
    return None


def _exact(model: nn.Module) -> bool:
    parameters = list(model.parameters())
    mixed = torch.is_autocast_enabled(parameters[0].device.type)
    return not mixed and all(p.dtype in (torch.float32, torch.float64) for p in parameters)


def _watched(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad and p.numel() <= _SMALL][:64]


def _random_batches(model: nn.Module) -> list[tuple[dict[str, Tensor], bool]]:
    """Batches of random pairs, and whether their gradients are to be compared."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = int(getattr(text, "max_position_embeddings", None) or _LONGEST)
    window = int(getattr(text, "sliding_window", None) or 0)
    room = max(1, min(positions, _LONGEST) - 12)
    prompt = min(window + 3 if window + 3 <= room else 12, room)
    pairs = [(prompt, 9, 7), (5, 4, 8)]
    if prompt <= _KEPT:
        return [(_random_batch(model, text, pairs), True)]
    return [
        (_random_batch(model, text, pairs), False),
        (_random_batch(model, text, [(12, 9, 7), (5, 4, 8)]), True),
    ]


def _random_batch(
    model: nn.Module, text: Any, lengths: list[tuple[int, int, int]]
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(getattr(text, "vocab_size", 2))

    def ids(count: int) -> list[int]:
        return torch.randint(0, vocabulary, (count,), generator=generator).tolist()

    rows = [
        {"prompt_ids": ids(p), "chosen_ids": ids(c), "rejected_ids": ids(r), "row": i}
        for i, (p, c, r) in enumerate(lengths)
    ]
    device = next(model.parameters()).device
    return {key: value.to(device) for key, value in PairCollator(0)(rows).items()}
