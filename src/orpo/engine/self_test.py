"""Trying an engine out before it is trusted: its numbers against one sequence at a time.

The pairs are random tokens, a long one beside a short one: longer than a sliding window, and than
the positions that the model was first trained for, if these are up to some 4,500. Compared are the
log-probabilities and the gradient of a few of the model's own parameters; of texts too long to be
kept for a backward pass, the log-probabilities of the answers only.
"""

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from orpo.data.pack import PairCollator
from orpo.engine import probing
from orpo.engine.attention import transformer
from orpo.engine.head import sum_pairs, token_logps
from orpo.engine.layout import Predictions, pad_pairs
from orpo.engine.look import REFUSALS
from orpo.engine.types import Engine
from orpo.objective.types import PairLogps

NOT_FINITE = "the model's own log-probabilities are not finite"
_LONGEST = 4608
"""Tokens of the longest sequence that is tried."""
_KEPT = 512
"""Tokens of the longest prompt whose gradient is asked for: what is kept for it grows with them."""
_FIRST_TRAINED = "original_max_position_embeddings"
_SMALL = 1 << 16
"""Parameters of at most this many numbers have their gradients compared."""


def self_test(model: nn.Module, engine: Engine, *, training: bool = False) -> str | None:
    """Compare an engine with the model's stock path, one sequence at a time, naive head.

    With `training`, the model as it is while it is trained, where it draws no random numbers.
    None if they agree, else one line that says by how much they do not.
    """
    with probing.on_trial(model, training=training), probing.without_checkpointing(model):
        for batch, short in _random_batches(model):
            with torch.set_grad_enabled(short):
                reason = _compare(model, engine, batch, _watched(model) if short else [])
            if reason is not None:
                return f"self-test: {reason}"
    return None


def _compare(
    model: nn.Module, engine: Engine, batch: Mapping[str, Tensor], watched: list[nn.Parameter]
) -> str | None:
    try:
        expected = _one_at_a_time(model, batch, engine.nll_scope)
        expected_grads = _gradients(_objective(expected), watched)
        output = engine(model, batch, _objective)
        grads = _gradients(output.loss, watched)
    except REFUSALS as error:
        return next(iter(str(error).splitlines()), type(error).__name__)
    return _difference(output.logps, expected.detached(), model) or _apart(
        grads, expected_grads, model
    )


def _objective(logps: PairLogps) -> Tensor:
    """Something that weighs all three sums, a sum over pairs."""
    chosen, rejected = logps.chosen_logps, logps.rejected_logps
    return (logps.nll_sum / logps.nll_tokens + chosen - 0.5 * rejected).sum()


def _one_at_a_time(model: nn.Module, batch: Mapping[str, Tensor], nll_scope: str) -> PairLogps:
    """What the model itself says: every sequence without padding, the logits that are asked for."""
    # Those of a long prompt would be the largest thing there is.
    short = torch.is_grad_enabled()
    bare = transformer(model)
    known = () if bare is None else inspect.signature(bare.forward).parameters
    few = not short and "logits_to_keep" in known
    padded = pad_pairs(batch, nll_scope if short else "completion")
    asked, width = padded.predictions, padded.input_ids.shape[1]
    logps = []
    for row, length in enumerate(padded.attention_mask.sum(1).tolist()):
        probing.forget_lengths(model)
        own = asked.source // width == row
        source, target = asked.source[own] - row * width, asked.target[own]
        kept: dict[str, Tensor] = {}
        if few:
            kept, source = {"logits_to_keep": source}, torch.arange(len(source)).to(source)
        ids = padded.input_ids[row : row + 1, :length]
        logits = model(input_ids=ids, use_cache=False, **kept).logits
        logps.append(token_logps(logits, Predictions(source, target, asked.member[own], (0, 0))))
    return sum_pairs(torch.cat(logps), asked)


def _gradients(loss: Tensor, watched: list[nn.Parameter]) -> list[Tensor]:
    if not watched:
        return []
    return list(torch.autograd.grad(loss, watched, allow_unused=True, materialize_grads=True))


def _difference(found: PairLogps, expected: PairLogps, model: nn.Module) -> str | None:
    tolerance = 1e-4 if _exact(model) else 5e-2
    for name in ("chosen_logps", "rejected_logps"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if not theirs.isfinite().all():
            return NOT_FINITE
        apart = float((ours - theirs).abs().max())
        if not apart <= tolerance * (1 + float(theirs.abs().max())):
            return f"{name} {apart:.2g} apart from one sequence at a time"
    return None


def _apart(found: list[Tensor], expected: list[Tensor], model: nn.Module) -> str | None:
    tolerance = 1e-2 if _exact(model) else 0.25
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
    return all(p.dtype in (torch.float32, torch.float64) for p in model.parameters())


def _watched(model: nn.Module) -> list[nn.Parameter]:
    """Small parameters that are trained, or the smallest two."""
    trained = [p for p in model.parameters() if p.requires_grad]
    small = [p for p in trained if p.numel() <= _SMALL][:64]
    return small or sorted(trained, key=torch.numel)[:2]


def _random_batches(model: nn.Module) -> list[tuple[dict[str, Tensor], bool]]:
    """Batches of random pairs, and whether they are short enough for a backward pass."""
    positions = min(probing.positions_of_text(model) or _LONGEST, _LONGEST)
    chosen = min(9, max(1, positions - 2))
    rejected, room = max(1, chosen - 2), max(1, positions - 12)
    most = _LONGEST if probing.borders_of(model) else room  # rotary positions go on
    beyond = [n + 3 for n in _lengths_that_matter(model) if n + 3 <= most]
    prompt = max([*beyond, min(12, room)])
    short = (min(5, room), max(1, chosen // 2), max(1, chosen - 1))
    if prompt <= _KEPT:
        return [(_random_batch(model, [(prompt, chosen, rejected), short]), True)]
    return [
        (_random_batch(model, [(prompt, chosen, rejected), short]), False),
        (_random_batch(model, [(min(12, room), chosen, rejected), short]), True),
    ]


def _lengths_that_matter(model: nn.Module) -> list[int]:
    """Lengths from which on a sequence is, or may be, treated in another way."""
    text = probing.text_config(model)
    scaling = getattr(text, "rope_parameters", None) or {}
    inner = [one for one in scaling.values() if isinstance(one, dict)]
    named = [getattr(text, n, None) for n in ("sliding_window", _FIRST_TRAINED)]
    named += [one.get(_FIRST_TRAINED) for one in (scaling, *inner)]
    lengths = [n for n in named if isinstance(n, int)] + [
        b.tokens for b in probing.borders_of(model)
    ]
    return sorted(n for n in lengths if n > 0)


def _random_batch(model: nn.Module, lengths: list[tuple[int, int, int]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "prompt_ids": probing.random_ids(model, prompt, generator),
            "chosen_ids": probing.random_ids(model, chosen, generator),
            "rejected_ids": probing.random_ids(model, rejected, generator),
            "row": row,
        }
        for row, (prompt, chosen, rejected) in enumerate(lengths)
    ]
    device = next(model.parameters()).device
    return {key: value.to(device) for key, value in PairCollator(0)(rows).items()}
