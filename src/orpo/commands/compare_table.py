"""The table of `orpo compare` in a terminal, and its claims in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

__all__ = ["claim_lines", "cost_table", "outcome_table"]

_MIB = 2**20
_NAMES = {"base": "base model", "orpo": "ORPO", "sft": "SFT", "sft+dpo": "SFT+DPO"}
_BUDGETS = {"steps": "equal optimizer steps", "flops": "equal FLOPs"}
_SHARES = {
    "preference_accuracy": "prefers chosen",
    "correct_answers": "answers right",
    "judged": "judge",
}


def outcome_table(result: Mapping[str, Any], budget: str) -> Table:
    """What came of each method at a budget, the base model first."""
    rows = [row for row in result["table"] if row["budget"] in {"", budget}]
    seeds = len(result["seeds"])
    table = _table(
        f"{_BUDGETS[budget]}, {seeds} seed{'' if seeds == 1 else 's'}; 95 % intervals, "
        "log-probabilities per token"
    )
    shares = [name for name in _SHARES if any(row[name] for row in rows)]
    for head in (*(_SHARES[name] for name in shares), "chosen", "rejected"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        levels = [f"{row[name]['value']:.3f}" for name in ("chosen_logps", "rejected_logps")]
        table.add_row(_NAMES[row["method"]], *(_share(row[name]) for name in shares), *levels)
    return table


def cost_table(result: Mapping[str, Any], budget: str) -> Table:
    """What a run of each method cost at a budget."""
    table = _table("what a run cost")
    for head in ("steps", "pairs", "forwards", "GFLOPs", "seconds", "peak MiB"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in result["table"]:
        cost = row["cost"]
        if row["budget"] != budget or cost is None:
            continue
        table.add_row(
            _NAMES[row["method"]],
            "+".join(f"{stage['steps']:.0f}" for stage in cost["stages"]),
            f"{cost['pairs']:,.0f}",
            f"{cost['forwards']:,.0f}",
            f"{cost['flops'] / 1e9:,.0f}",
            f"{cost['seconds']:.1f}",
            f"{cost['peak_bytes'] / _MIB:,.0f}",
        )
    return table


def claim_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """What the paper claims, and what these runs say."""
    yield "the paper's claims, decided by these runs:"
    for claim in result["claims"]:
        at = f" [{_BUDGETS[claim['budget']]}]" if claim["budget"] else ""
        yield f"  {claim['verdict']}: {claim['claim']}{at}: {claim['evidence']}"


def _table(title: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE, padding=(0, 1, 0, 0)
    )
    table.add_column("", no_wrap=True)
    return table


def _share(interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return ""
    low, high = (interval[end] for end in ("low", "high"))
    ends = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * interval['value']:.1f} %{ends}"
