"""The page of a comparison: words, tables and figures from its JSON alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orpo.experiments.claims import decide_claims, summarise
from orpo.experiments.comparison import BASE, ComparisonResult
from orpo.report.comparison import comparison_page
from orpo.report.page import Page
from orpo.report.write import write_page
from orpo.runs.typed import plain, typed
from tests.experiments.made import AS_IN_THE_PAPER, base_group, groups

COST = {
    "objective": "orpo", "steps": 10, "pairs": 160, "forwards_trained": 320, "forwards_scored": 0,
    "flops": 1e12, "seconds": 3.5, "idle_bytes": 10**8, "peak_bytes": 2 * 10**8,
}  # fmt: skip
RUN = {
    "name": "orpo-steps-seed1", "method": "orpo", "budget": "steps", "seed": 1, "stages": [],
    "costs": [COST], "preference_accuracy": 0.75, "correct_answers": 0.5,
    "commands": ["orpo train --seed 1"],
}  # fmt: skip
CANARY = "<script>alert(1)</script> $x^2$ \x1b[31m"


def page_of(found: dict[str, Any]) -> Page:
    return comparison_page(typed(ComparisonResult, found, where="evaluation.json"))


def evaluation(effects: Any = AS_IN_THE_PAPER, **more: Any) -> dict[str, Any]:
    """What a job would have written."""
    base, found = base_group(effects), groups(effects)
    curves = [
        {
            **{"method": group.method, "budget": "steps", "seed": run.arm.seed},
            "objective": stage.objective,
            "points": [
                {"step": 20 * n + step, "chosen": -1.0 + step / 100, "rejected": -1.2 - step / 90}
                for step in (0, 10, 20)
            ],
        }
        for group in found
        for run in group.runs
        for n, stage in enumerate(run.arm.stages)
    ]
    cells = [
        {
            **{"objective": objective, "learning_rate": rate, "pairs": 88},
            "orpo_alpha": alpha if objective == "orpo" else None,
            "preference_accuracy": 0.5 + rate * 100 + alpha / 10,
            "correct_answers": 0.6,
            "cost": COST | {"objective": objective},
        }
        for objective in ("orpo", "sft", "dpo")
        for rate in (1e-4, 4e-4, 1e-3)
        for alpha in ((0.1, 0.5) if objective == "orpo" else (0.5,))
    ]
    answers = [
        {"name": BASE, "answer": CANARY, "correct": False, "reason": "refused"},
        {"name": "orpo", "answer": "4", "correct": True, "reason": "correct"},
    ]
    result = {
        **{"kind": "comparison", "model": "a model", "dataset": "pairs.jsonl"},
        **{"command": "orpo compare --seeds 3", "methods": ["orpo", "sft", "sft+dpo"]},
        **{"budgets": ["steps"], "seeds": [1, 2, 3], "steps": 40, "batch": 16, "seconds": 100},
        **{"orpo_alpha": 0.5, "dpo_beta": 0.1, "answered": 120},
        "learning_rates": {"orpo": 4e-4, "sft": 4e-4, "dpo": 4e-4},
        "held_out": {"rows_in": 123, "kept": 121, "nll_only": 1, "dropped": {"no_answer": 2}},
        "table": [summarise(base, base), *(summarise(group, base) for group in found)],
        "claims": decide_claims(found, base),
        "curves": curves,
        "sensitivity": cells,
        "runs": [RUN],
        "examples": {"rule": "evenly", "examples": [{"prompt": CANARY, "answers": answers}]},
        "machine": {"device": "cpu", "at_once": 2, "threads": 1},
        **more,
    }
    written: dict[str, Any] = json.loads(json.dumps(plain(result)))
    return written


def test_the_verdict_comes_first_in_words() -> None:
    page = page_of(evaluation())
    assert page.verdict.startswith("At equal optimizer steps")
    for name in ("ORPO on ", "SFT on ", "SFT+DPO on ", "the base model on "):
        assert name in page.verdict
    assert "ORPO against SFT: +" in page.verdict
    assert "1 is left undecided" in page.verdict  # memory: the peaks are the same
    assert any(remark.startswith("Undecided") for remark in page.remarks)
    assert not any(remark.startswith("Not reproduced") for remark in page.remarks)
    assert dict(page.facts)["Held-out pairs"] == (
        "123 read, 120 scored (left out: no_answer: 2; no rejected answer: 1)"
    )


def test_what_is_not_reproduced_is_said_plainly() -> None:
    turned = {
        **AS_IN_THE_PAPER,
        "orpo": AS_IN_THE_PAPER["sft"],
        "sft": AS_IN_THE_PAPER["orpo"],
    }
    page = page_of(evaluation(turned))
    said = [remark for remark in page.remarks if remark.startswith("Not reproduced")]
    assert any("ORPO prefers the chosen answer more often than SFT." in one for one in said)
    assert [one.tone for one in page.headlines][:2] == ["worse", "worse"]


def test_the_page_holds_everything_and_is_inert(tmp_path: Path) -> None:
    path = write_page(page_of(evaluation()), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    for name in ("curves-steps", "outcomes", "costs-steps", "sensitivity"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000
        assert (tmp_path / "figures" / f"{name}.svg").is_file()
    assert "orpo compare --seeds 3" in text
    assert "orpo train --seed 1" in text


def test_an_unfinished_comparison_has_a_page_too(tmp_path: Path) -> None:
    page = page_of({"kind": "comparison", "settings": {}})
    assert "not finished" in page.verdict
    assert write_page(page, tmp_path).is_file()


def test_a_better_learning_rate_in_the_grid_is_named() -> None:
    cells = evaluation()["sensitivity"]
    for cell in cells:
        cell["correct_answers"] = 0.9 if cell["learning_rate"] == 1e-4 else 0.5
    page = page_of(evaluation(sensitivity=cells))
    (said,) = [remark for remark in page.remarks if "Learning rates" in remark]
    assert "SFT's 0.0004 reached 50.0\u00a0%, 0.0001 reached 90.0\u00a0%" in said
