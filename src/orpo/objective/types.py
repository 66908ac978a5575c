"""What an engine hands to an objective: the log-probabilities of one batch of pairs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PairLogps:
    """Log-probabilities of the answers of one batch of pairs, and of the text the NLL counts.

    All tensors have shape (pairs,); sums are float32 (float64 for a float64 model), counts int64.

    Attributes:
        chosen_sum: sum_t log p(y_t | x, y_<t) over the tokens of the chosen answer.
        chosen_tokens: Number of tokens in that sum.
        rejected_sum: The same for the rejected answer.
        rejected_tokens: Number of tokens in that sum.
        nll_sum: -sum_t log p over the tokens of the chosen sequence that `nll_scope` counts.
        nll_tokens: Number of tokens in that sum.
        weight: Factor of each pair's part of the loss; None for 1.
        reference_chosen: `chosen_sum` of the reference model, for DPO; None without one.
        reference_rejected: `rejected_sum` of the reference model; None without one.

    A row without rejected answer has `rejected_tokens` 0 and `rejected_sum` 0.
    """

    chosen_sum: Tensor
    chosen_tokens: Tensor
    rejected_sum: Tensor
    rejected_tokens: Tensor
    nll_sum: Tensor
    nll_tokens: Tensor
    weight: Tensor | None = None
    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None

    def detached(self) -> PairLogps:
        """The same numbers without their gradient."""
        numbers = {name: value for name, value in vars(self).items() if value is not None}
        return PairLogps(**{name: value.detach() for name, value in numbers.items()})

    @property
    def has_rejected(self) -> Tensor:
        """Which rows have an answer to prefer the chosen one to, (pairs,) bool."""
        return self.rejected_tokens > 0

    @property
    def chosen_logps(self) -> Tensor:
        """l(y_w), the length-averaged log-probability of the chosen answers (eq. 3)."""
        return self.chosen_sum / self.chosen_tokens

    @property
    def rejected_logps(self) -> Tensor:
        """l(y_l), the length-averaged log-probability of the rejected answers (eq. 3), or 0."""
        return self.rejected_sum / self.rejected_tokens.clamp(min=1)


def require_pairs(*tensors: Tensor) -> None:
    """Raise ValueError unless all tensors have one common shape (pairs,): nothing broadcasts."""
    shapes = {tuple(t.shape) for t in tensors}
    if len(shapes) != 1 or tensors[0].dim() != 1:
        raise ValueError(f"expected tensors of one shape (pairs,), got {sorted(shapes)}")
