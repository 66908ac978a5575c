"""The output layer, the log-probabilities and their gradient in one pass, no logits kept.

With l the log-probability of token y at one position, p the softmax of the logits f(W h) there and
c = dL/dl, the loss reaches the layer's output as c (onehot(y) - p) f'. L is a sum over pairs, so c
is known as soon as the log-probabilities of one pair are: the logits of a few pairs are computed,
turned into their own gradient in place, multiplied into dL/dh and dL/dW, and dropped. A pair whose
logits exceed the budget takes two passes over slices of itself.

Forward hooks call the output layer with nothing (zero positions) while the head works on its input;
what it returns is an empty tensor that hangs on the loss, so that wrappers (DDP, FSDP) see all that
the loss depends on. Shapes: U predictions, d hidden size, V vocabulary.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from orpo.engine.head import (
    LogitTransform,
    Objective,
    Product,
    as_pair_logps,
    count_pairs,
    product_dtype,
    product_of,
    slices,
    sum_pairs,
)
from orpo.engine.layout import Predictions
from orpo.engine.probing import on_trial
from orpo.objective.log_odds import compute_dtype
from orpo.objective.types import PairLogps

_ENOUGH_ROWS = 768
"""Predictions that make the products of the output layer efficient: more pairs join until then."""
_ENOUGH_ROWS_ON_ACCELERATORS = 4096
"""The same on accelerators: adding up dL/dW (12 bytes a weight and group) takes longer there beside
the products (6 U operations a weight). Reckoned, not measured."""


@dataclass(frozen=True)
class FusedHead:
    """Loss and log-probabilities from hidden states."""

    transform: LogitTransform = LogitTransform()  # what the model does to the logits
    budget: int | None = None  # most bytes of logits at a time; None for the device's default
    compiled: bool = False  # compile what is computed element by element

    def __call__(
        self,
        layer: nn.Module,
        hidden: Tensor,
        predictions: Predictions,
        objective: Objective,
    ) -> tuple[Tensor, PairLogps]:
        """The objective of some pairs, and the log-probabilities that it was computed from.

        Called inside of the model's forward, so that the layer's weights are there. `hidden`,
        (..., d), is what the layer would be given; `predictions.source` indexes its flattened
        rows. The loss carries the gradient of `hidden` and of the layer.
        """
        hidden = hidden.flatten(0, -2)
        product = product_of(layer, self.transform, hidden, compiled=self.compiled)
        rows, on_cpu = self.rows(layer, hidden), hidden.device.type == "cpu"
        enough = min(rows, _ENOUGH_ROWS if on_cpu else _ENOUGH_ROWS_ON_ACCELERATORS)
        work = _Work(product, predictions, objective, rows, enough)
        parameters = product.parameters()
        trained = hidden.requires_grad or any(p.requires_grad for p in parameters)
        if torch.is_grad_enabled() and trained:
            loss, sums = _Fused.apply(hidden, work, *parameters)  # type: ignore[no-untyped-call]
            return loss, as_pair_logps(sums, count_pairs(predictions), predictions.given)
        with torch.no_grad():
            logps = sum_pairs(work.logps(hidden), predictions)
            return objective(logps), logps

    def rows(self, layer: nn.Module, hidden: Tensor) -> int:
        """Predictions whose logits are held at a time."""
        row = _vocabulary(layer) * product_dtype(hidden).itemsize
        return max(1, self.budget_bytes(hidden.device) // row)

    def budget_bytes(self, device: torch.device) -> int:
        """Most bytes of logits at a time."""
        return self.budget or (256 << 20 if device.type == "cpu" else 1 << 30)


def _vocabulary(layer: nn.Module) -> int:
    """V; that of a wrapped layer is its largest dimension."""
    size = getattr(layer, "out_features", None)
    return int(size or max((d for p in layer.parameters() for d in p.shape), default=1 << 17))


class _Pass(NamedTuple):
    """What the forward product of a slice gave; the logits only if the slice is a whole group."""

    logps: Tensor
    normalisers: Tensor
    logits: Tensor | None


@dataclass(frozen=True)
class _Work:
    """The predictions of a batch, dealt out to groups of pairs.

    They have at most `rows` predictions, and are full when they have `enough`.
    """

    product: Product
    predictions: Predictions
    objective: Objective
    rows: int
    enough: int

    def groups(self) -> Iterator[tuple[int, int]]:
        """First and last + 1 pair of each group; more than `rows` only if it is a single pair."""
        bounds, first = self.predictions.bounds, 0
        for last in range(1, self.predictions.pairs + 1):
            full = bounds[last] - bounds[first] >= self.enough
            ends = last == self.predictions.pairs
            if ends or full or bounds[last + 1] - bounds[first] > self.rows:
                yield first, last
                first = last

    def logps(self, hidden: Tensor) -> Tensor:
        """(U,) log-probabilities, without gradient."""
        found = [hidden.new_empty(0, dtype=compute_dtype(hidden))]
        parts = slices(len(self.predictions.target), self.enough)
        found += [self._forward(hidden, self.predictions, part).logps for part in parts]
        return torch.cat(found)

    def run(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, the (B, 3) sums, and the gradient of the hidden states."""
        d_hidden = torch.zeros(hidden.shape, dtype=compute_dtype(hidden), device=hidden.device)
        losses, sums = [], []
        for first, last in self.groups():
            loss, found = self._group(hidden, d_hidden, self.predictions.of(first, last))
            losses.append(loss)
            sums.append(found)
        return torch.stack(losses).sum(), torch.cat(sums), d_hidden.to(hidden.dtype)

    def _group(self, hidden: Tensor, d_hidden: Tensor, some: Predictions) -> tuple[Tensor, Tensor]:
        parts = list(slices(len(some.target), self.rows))
        passes = [self._forward(hidden, some, part) for part in parts]
        nothing = hidden.new_empty(0, dtype=compute_dtype(hidden))
        logps = torch.cat([nothing, *(p.logps for p in passes)])
        loss, sums, c = _coefficients(logps, some, self.objective)
        for part, (_, normalisers, logits) in zip(parts, passes, strict=True):
            source, target = some.source[part], some.target[part]
            states = hidden[source]
            kept = self.product.logits(states) if logits is None else logits
            grad = self.product.backward(states, kept, target, normalisers, c[part])
            d_hidden.index_add_(0, source, grad.to(d_hidden.dtype))
        return loss, sums

    def _forward(self, hidden: Tensor, some: Predictions, part: slice) -> _Pass:
        logits = self.product.logits(hidden[some.source[part]])
        logps, normalisers = self.product.logps(logits, some.target[part])
        return _Pass(logps, normalisers, logits if len(logps) == len(some.target) else None)


def _coefficients(
    logps: Tensor, some: Predictions, objective: Objective
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of some pairs, their (B, 3) sums, and c = dL/dl of every prediction, (U,)."""
    leaf = logps.requires_grad_()
    with torch.enable_grad():
        pairs = sum_pairs(leaf, some)
        loss = objective(pairs)
        (c,) = torch.autograd.grad(loss, leaf)
    sums = torch.stack([pairs.chosen_sum, pairs.rejected_sum, -pairs.nll_sum], dim=1)
    return loss.detach(), sums.detach(), c


class _Fused(torch.autograd.Function):
    """Computes its gradient along with its value, and hands it over when it is asked for."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, work: _Work, *_parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss, sums, d_hidden = work.run(hidden)
        ctx.gradients = [d_hidden, *work.product.gradients()]  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(sums)
        return loss, sums

    @staticmethod
    def backward(ctx: FunctionCtx, *above: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor | None] = ctx.gradients  # type: ignore[attr-defined]
        del ctx.gradients  # type: ignore[attr-defined]
        factor = above[0]
        if factor.device.type != "cpu" or factor != 1:  # on an accelerator, asking would wait
            gradients = [None if g is None else g.mul_(factor.to(g.dtype)) for g in gradients]
        d_hidden, *others = gradients
        return d_hidden, None, *others


_PROBE = (1e-3, 1.0, -1.0, 5.0, -20.0, 1e3, -1e6)


def output_layer(model: nn.Module) -> nn.Module | None:
    """The layer that gives the logits, of a model that may be wrapped; None if there is none."""
    bare = extract_model_from_parallel(model)
    find = getattr(bare, "get_output_embeddings", None)
    layer: nn.Module | None = None if find is None else find()
    return layer


@contextlib.contextmanager
def tap(layer: nn.Module, score: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it the layer computes nothing, and `score` gets its input, once per forward pass.

    From the input, (..., d), `score` gives a scalar that the output is made to hang on.
    """
    results: list[Tensor] = []
    scoring = False

    def before(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal scoring
        if scoring:  # the fused head calls the layer itself
            return None
        scoring = True
        try:
            results.append(score(inputs[0]))
        finally:
            scoring = False
        return (inputs[0].detach()[..., :0, :], *inputs[1:])

    def after(_layer: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if scoring:
            return None
        return output.detach() + results[-1].to(output.dtype)

    handles = [
        layer.register_forward_pre_hook(before),
        # First, so that wrappers wait for the backward pass of what the others will see.
        layer.register_forward_hook(after, prepend=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def probe_transform(model: nn.Module, layer: nn.Module) -> LogitTransform | None:
    """What a model does to its output layer's result, measured: numbers in, numbers out.

    None if it is neither a factor nor a soft cap, so that no fused head can follow it.
    """
    given: list[Tensor] = []

    def replace(_layer: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        dtype = torch.float32 if output.device.type == "mps" else torch.float64
        values = torch.tensor(_PROBE, dtype=dtype, device=output.device)
        probe = values.repeat(output.shape[-1] // len(_PROBE) + 1)[: output.shape[-1]]
        given.append(probe.expand(output.shape).contiguous())
        return given[-1]

    handle = layer.register_forward_hook(replace)
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), on_trial(model):
            ids = torch.zeros(1, 2, dtype=torch.int64, device=device)
            found = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    if not given or found.shape != given[0].shape or found.shape[-1] < len(_PROBE):
        return None
    x, y = (t.flatten()[: len(_PROBE)].double() for t in (given[0], found))
    return _fitting(x, y)


def _fitting(x: Tensor, y: Tensor) -> LogitTransform | None:
    slope = float(y[0] / x[0])
    bound = float(-y[-1])
    for transform in (LogitTransform(_rounded(slope)), LogitTransform(_rounded(slope), bound)):
        if bound > 0 and torch.allclose(transform(x), y, rtol=1e-4, atol=1e-6):
            return transform
    return None


def _rounded(slope: float) -> float:
    """A factor of one that float32 returned as 0.9999999 is a factor of one."""
    return 1.0 if abs(slope - 1) < 1e-5 else slope
