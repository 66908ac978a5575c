"""From logits to log-probabilities of what a batch asks for. The naive head: the oracle.

It keeps all logits; `fused_head` gives the same numbers and gradients without keeping any.

What the fused head asks of an output layer (logits, log-probabilities, and their gradient) has two
answers of one shape: a plain matrix, whose gradient is written down, and any other module (LoRA
on the output layer, quantised weights), which is called and differentiated as it is.

Shapes: U predictions, d hidden size, V vocabulary.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from orpo.engine.layout import Predictions
from orpo.objective.log_odds import compute_dtype
from orpo.objective.types import PairLogps

Objective: TypeAlias = Callable[[PairLogps], Tensor]
"""From the log-probabilities of some pairs to their part of the loss, a scalar.

It must be a sum over pairs: objective(a and b) = objective(a) + objective(b). It is handed to the
engine, rather than applied to what the engine returns, because the fused head asks for the gradient
of the loss pair by pair, before it lets go of the logits.
"""


def token_logps(logits: Tensor, predictions: Predictions) -> Tensor:
    """log p(token | tokens before it) of everything that is asked for.

    From logits (..., V) of any float dtype, whose flattened rows `predictions.source` indexes, to
    (U,), float32 (float64 for float64 logits).
    """
    scored = logits.flatten(0, -2)[predictions.source].to(compute_dtype(logits))
    return -F.cross_entropy(scored, predictions.target, reduction="none")


def sum_pairs(logps: Tensor, predictions: Predictions) -> PairLogps:
    """The sums of (U,) log-probabilities over answers and what the NLL counts, with gradient."""
    dtype = sum_dtype(logps)
    counted = logps.to(dtype)[:, None] * predictions.member
    sums = counted.new_zeros(predictions.pairs, 3)
    sums = sums.index_add(0, predictions.pair_index(), counted)
    return as_pair_logps(sums, count_pairs(predictions), predictions.given)


def count_pairs(predictions: Predictions) -> Tensor:
    """(B, 3) int64: tokens of the chosen answer, the rejected answer and the NLL."""
    member = predictions.member.long()
    return member.new_zeros(predictions.pairs, 3).index_add(0, predictions.pair_index(), member)


def as_pair_logps(
    sums: Tensor, counts: Tensor, given: Mapping[str, Tensor] | None = None
) -> PairLogps:
    """Name the columns of two (B, 3) tensors, and add what `Predictions.given` holds."""
    return PairLogps(
        chosen_sum=sums[:, 0],
        chosen_tokens=counts[:, 0],
        rejected_sum=sums[:, 1],
        rejected_tokens=counts[:, 1],
        nll_sum=-sums[:, 2],
        nll_tokens=counts[:, 2],
        **(given or {}),
    )


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """Float64 where the device has it: sums over long answers then cost no accuracy."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


_CACHED = 4 << 20
"""Bytes that stay in a processor's cache while they are worked on."""


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to the output layer's result: cap * tanh(scale * x / cap), or scale * x."""

    scale: float = 1.0  # factor (Cohere, Granite)
    softcap: float | None = None  # bound (Gemma), or None

    def __call__(self, x: Tensor) -> Tensor:
        """f(x)."""
        if self.softcap is not None:
            return torch.tanh(x * (self.scale / self.softcap)) * self.softcap
        return x if self.scale == 1.0 else x * self.scale

    def chain(self, grad: Tensor, y: Tensor) -> Tensor:
        """dL/dx from dL/dy and y = f(x)."""
        if self.scale != 1.0:
            grad = grad * self.scale
        return grad if self.softcap is None else grad * (1 - (y / self.softcap).square())


class Product:
    """An output layer at work on one batch; gradients of its parameters are added up, wide."""

    def __init__(self, parameters: list[Tensor], transform: LogitTransform) -> None:
        self._own, self._transform = parameters, transform
        self._totals: list[Tensor | None] = [None] * len(parameters)

    def parameters(self) -> list[Tensor]:
        """The layer's parameters; `gradients` are in the same order."""
        return self._own

    def gradients(self) -> list[Tensor | None]:
        """Of the parameters, over all calls of `backward`; None where none is asked for."""
        return [
            None if total is None else total.to(parameter.dtype)
            for total, parameter in zip(self._totals, self._own, strict=True)
        ]

    def logits(self, hidden: Tensor) -> Tensor:
        """(U, d) -> (U, V), before the transform."""
        raise NotImplementedError

    def logps(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the targets, and log sum exp of all; each (U,)."""
        return _normalise(logits, target, self._transform)

    def backward(
        self, hidden: Tensor, logits: Tensor, target: Tensor, normalisers: Tensor, c: Tensor
    ) -> Tensor:
        """(U, d), dL/dh from c = dL/dl, adding up the layer's own. The logits are used up."""
        raise NotImplementedError

    def _add(self, index: int, part: Tensor) -> None:
        total = self._totals[index]
        if total is None:
            self._totals[index] = part.to(compute_dtype(self._own[index]))
        else:
            total.add_(part)

    def _add_outer(self, index: int, left: Tensor, right: Tensor) -> None:
        """left^T right, without a copy of the result where dtypes allow it.

        A processor widens it by slices: its 16 bits are never in memory as a whole.
        """
        total, wide = self._totals[index], compute_dtype(self._own[index])
        if left.device.type == "cpu" and left.dtype != wide:
            size = (left.shape[1], right.shape[1])
            result = right.new_empty(size, dtype=wide) if total is None else total
            for rows in slices(size[0], max(1, _CACHED // (left.itemsize * size[1]))):
                part = left[:, rows].T @ right
                if total is None:
                    result[rows] = part
                else:
                    result[rows] += part
            self._totals[index] = result
        elif total is not None and total.dtype == left.dtype:
            total.addmm_(left.T, right)
        else:
            self._add(index, left.T @ right)


def product_of(
    layer: nn.Module, transform: LogitTransform, hidden: Tensor, *, compiled: bool = False
) -> Product:
    """The fitting kind, for hidden states of this dtype and device."""
    # FSDP2 gives a layer a class of its own, with the forward pass that it had.
    if (
        isinstance(layer, nn.Linear)
        and type(layer).forward is nn.Linear.forward
        and layer.weight.is_floating_point()
    ):
        return _Dense(layer, transform, product_dtype(hidden), compiled=compiled)
    return _Module(layer, transform)


def product_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype in which a linear layer would multiply, autocast considered."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return hidden.dtype


class _Dense(Product):
    """A matrix and perhaps a bias."""

    def __init__(
        self, layer: nn.Linear, transform: LogitTransform, dtype: torch.dtype, *, compiled: bool
    ) -> None:
        bias = cast("Tensor | None", layer.bias)
        super().__init__([layer.weight] if bias is None else [layer.weight, bias], transform)
        self._dtype, self._compiled = dtype, compiled
        # Autocast casts a trained weight once, for the model's own call of the layer too; a frozen
        # one at every product.
        cached = layer.weight.requires_grad and torch.is_autocast_enabled(layer.weight.device.type)
        self._weight = layer.weight if cached else layer.weight.detach().to(dtype)
        self._bias = bias if cached or bias is None else bias.detach().to(dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden.to(self._dtype), self._weight, self._bias)

    def logps(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if self._compiled:
            result: tuple[Tensor, Tensor] = _compiled(_normalise)(logits, target, self._transform)
            return result
        parts = slices(len(target), _block(logits))
        found = [_normalise(logits[rows], target[rows], self._transform) for rows in parts]
        logps, normalisers = zip(*found, strict=True)
        return torch.cat(logps), torch.cat(normalisers)

    def backward(
        self, hidden: Tensor, logits: Tensor, target: Tensor, normalisers: Tensor, c: Tensor
    ) -> Tensor:
        if self._compiled:
            _compiled(_differentiate_)(logits, target, normalisers, c, self._transform)
        else:
            for rows in slices(len(target), _block(logits)):
                some = (logits[rows], target[rows], normalisers[rows], c[rows])
                _differentiate_(*some, self._transform)
        if self._own[0].requires_grad:
            self._add_outer(0, logits, hidden.to(self._dtype))
        if len(self._own) > 1 and self._own[1].requires_grad:
            self._add(1, logits.sum(0, dtype=compute_dtype(logits)))
        return logits @ self._weight


class _Module(Product):
    """The layer's own forward pass; it is called again for its gradient."""

    def __init__(self, layer: nn.Module, transform: LogitTransform) -> None:
        super().__init__([p for p in layer.parameters() if p.requires_grad], transform)
        self._layer = layer

    def logits(self, hidden: Tensor) -> Tensor:
        # FSDP2 has gathered the weights by now; called again, its hooks would let go of them.
        gathered = isinstance(self._layer, FSDPModule)
        result: Tensor = self._layer.forward(hidden) if gathered else self._layer(hidden)
        return result

    def backward(
        self, hidden: Tensor, logits: Tensor, target: Tensor, normalisers: Tensor, c: Tensor
    ) -> Tensor:
        inputs = [hidden.detach().requires_grad_(), *self._own]
        with torch.enable_grad():
            logps, _ = self.logps(self.logits(inputs[0]), target)
            found = torch.autograd.grad(logps, inputs, c, materialize_grads=True)
        for i, part in enumerate(found[1:]):
            self._add(i, part)
        return found[0]


def _normalise(logits: Tensor, target: Tensor, transform: LogitTransform) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the targets, and log sum exp of all; each (U,)."""
    y = transform(logits.to(compute_dtype(logits)))
    normalisers = y.logsumexp(-1)
    return y.gather(1, target[:, None])[:, 0] - normalisers, normalisers


def _differentiate_(
    logits: Tensor, target: Tensor, normalisers: Tensor, c: Tensor, transform: LogitTransform
) -> None:
    """c (onehot - p) f', in place of the logits."""
    y = transform(logits.to(normalisers.dtype))
    weight = c[:, None]
    grad = (y - normalisers[:, None]).exp() * -weight
    grad = grad.scatter_add(1, target[:, None], weight)
    logits.copy_(transform.chain(grad, y))


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _block(logits: Tensor) -> int:
    """Rows whose float32 copy stays in the cache of a processor, or saturates an accelerator."""
    size = _CACHED if logits.device.type == "cpu" else 256 << 20
    return max(1, size // (4 * logits.shape[1]))


def slices(count: int, size: int) -> Iterator[slice]:
    """0 .. count - 1 in slices of at most `size`."""
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))
