"""Mending preference data: what is dropped, balanced and held out, and whole copies."""

from orpo.audit.repair.balance import balance_lengths, balance_values
from orpo.audit.repair.entries import (
    CHECKS,
    Entry,
    Inspector,
    drop_repeated,
    drop_reversed,
    text_key,
)
from orpo.audit.repair.near import drop_nearly_repeated, near_prompts, require_minhash
from orpo.audit.repair.splitting import hold_out_prompts
from orpo.audit.repair.writing import KINDS, RowWriter, Staged, kind_of, schema_of

__all__ = [
    "CHECKS",
    "KINDS",
    "Entry",
    "Inspector",
    "RowWriter",
    "Staged",
    "balance_lengths",
    "balance_values",
    "drop_nearly_repeated",
    "drop_repeated",
    "drop_reversed",
    "hold_out_prompts",
    "kind_of",
    "near_prompts",
    "require_minhash",
    "schema_of",
    "text_key",
]
