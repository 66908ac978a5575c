"""Columns that hold token ids already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orpo.data.fields import weight_of
from orpo.data.media import refuse_media
from orpo.data.types import Dropped, Row, TokenizedPair
from orpo.errors import DataError

__all__ = ["is_tokenised", "read_tokens"]

_TOKENISED = (
    # ours, and TRL's current names: answers without the prompt
    ("prompt_ids", "chosen_ids", "rejected_ids"),
    # TRL's ORPO and DPO names: with `*_labels`, the answers' columns hold the prompt too
    ("prompt_input_ids", "chosen_input_ids", "rejected_input_ids"),
)


def is_tokenised(columns: Mapping[str, Any]) -> bool:
    """Whether these columns hold token ids already."""
    return any(set(names) <= set(columns) for names in _TOKENISED)


def read_tokens(row: Row, vocabulary: range) -> TokenizedPair | Dropped:
    """The pair of a row of token ids, or why it is dropped.

    Args:
        row: Has the columns of `is_tokenised`, and perhaps `weight` and `chosen_labels`.
        vocabulary: The ids that there are.

    Raises:
        DataError: A column does not hold token ids of this tokenizer, or one holds pictures.
    """
    refuse_media(row.values, row.where)
    names = next((names for names in _TOKENISED if set(names) <= set(row.values)), _TOKENISED[0])
    prompt, chosen, rejected = (_token_ids(row, name, vocabulary) for name in names)
    if _holds_prompt(row, names, prompt, (chosen, rejected)):
        labels = row.values.get("chosen_labels")
        if labels is not None:
            prompt = chosen[: _masked(labels, len(chosen), f"{row.where}, field 'chosen_labels'")]
        if rejected[: len(prompt)] != prompt:
            raise DataError(
                "the sequence does not begin with the prompt's tokens",
                where=f"{row.where}, field '{names[2]}'",
                fix="Both answers must follow the same prompt.",
            )
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        if not rejected:
            return Dropped("empty_rejected", row.where, "the rejected has no tokens")
    weight = weight_of(row)
    if weight == 0:
        return Dropped("zero_weight", row.where, "field 'weight' is 0")
    return TokenizedPair(prompt, chosen, rejected, row=row.index, weight=weight)


def _holds_prompt(
    row: Row, names: tuple[str, ...], prompt: list[int], answers: tuple[list[int], ...]
) -> bool:
    """Whether the answers' columns hold the prompt's tokens too."""
    if row.values.get("chosen_labels") is not None:
        return True
    both = all(ids[: len(prompt)] == prompt for ids in answers)
    return names[0] == "prompt_input_ids" and bool(prompt) and both


def _token_ids(row: Row, name: str, vocabulary: range) -> list[int]:
    where = f"{row.where}, field '{name}'"
    value = _as_list(row.values.get(name))
    if value is None:
        found = type(row.values.get(name)).__name__
        raise DataError(f"expected a list of token ids, found {found}", where=where)
    for token in value:
        if type(token) is not int:
            found = f"a list with {type(token).__name__}"
            raise DataError(f"expected a list of token ids, found {found}", where=where)
        if token not in vocabulary:
            raise DataError(
                f"token id {token} is outside of the tokenizer's 0 to {len(vocabulary) - 1}",
                where=where,
                fix="Use the tokenizer that made these ids.",
            )
    return value


def _as_list(value: Any) -> list[Any] | None:
    """A list as it is, an array as a list, None for anything else."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return value if isinstance(value, list) else None


def _masked(labels: Any, tokens: int, where: str) -> int:
    """Number of leading labels that are -100, which is the length of the prompt."""
    values = _as_list(labels)
    if values is None or len(values) != tokens:
        raise DataError(f"expected a list of {tokens} labels, one for each token", where=where)
    return next((i for i, label in enumerate(values) if label != -100), tokens)
