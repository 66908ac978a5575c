"""Pair weights, and rows that have no rejected answer, against an oracle written for them alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orpo import DataError, ORPOTrainer
from orpo.train import step_loss
from tests.train.one_step import quiet_trainer, step_gradients
from tests.train.oracle_fp64 import in_fp64, relative_difference, sequence_logps
from tests.train.small import text_rows, tiny_llama

ALPHA = 0.5
WEIGHTS = (1.0, 2.0, 0.25, 1.0, 3.0, 0.5, 1.0, 4.0)
WITHOUT = {1, 4, 7}


def mixed_rows(*, weighted: bool = True, alone: bool = True) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [dict(row) for row in text_rows()]
    for i, row in enumerate(rows):
        if weighted:
            row["weight"] = WEIGHTS[i]
        if alone and i in WITHOUT:
            row["rejected"] = None
    return rows


def exact(trainer: ORPOTrainer, nll_scope: str) -> tuple[float, dict[str, Tensor]]:
    """sum_i w_i nll_i / T + alpha sum_i w_i or_i / N, row by row in float64; and its gradient."""
    model, nlls, ratios, tokens = in_fp64(tiny_llama()), [], [], 0
    for row in trainer.train_dataset:
        prompt, good, bad, weight = (
            row[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids", "weight")
        )
        said = sequence_logps(model, prompt + good)
        counted = said if nll_scope == "sequence" else said[len(prompt) - 1 :]
        nlls.append(-weight * counted.sum())
        tokens += len(counted)
        if bad:
            l_w = said[len(prompt) - 1 :].mean()
            l_l = sequence_logps(model, prompt + bad)[len(prompt) - 1 :].mean()
            z = (l_w - torch.log1p(-l_w.exp())) - (l_l - torch.log1p(-l_l.exp()))
            ratios.append(-weight * torch.nn.functional.logsigmoid(z))
    loss = torch.stack(nlls).sum() / tokens + ALPHA * torch.stack(ratios).mean()
    loss.backward()
    gradient = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradient


@pytest.mark.parametrize("nll_scope", ["sequence", "completion"])
@pytest.mark.parametrize("engine", ["shared", "padded"])
@pytest.mark.parametrize(
    "split",
    [
        {"per_device_train_batch_size": 8},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
        {"per_device_train_batch_size": 8, "max_tokens_per_microbatch": 60},
    ],
    ids=["at once", "one by one", "by tokens"],
)
def test_the_gradient_is_the_oracles(
    tmp_path: Path, split: dict[str, Any], engine: str, nll_scope: str
) -> None:
    settings = {"engine": engine, "nll_scope": nll_scope, "train_dataset": mixed_rows()}
    ours = step_gradients(str(tmp_path / "run"), **settings, **split)
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path), **settings)
    assert relative_difference(ours, exact(trainer, nll_scope)[1]) < 1e-5


@pytest.mark.parametrize("alone", [False, True])
def test_the_evaluations_loss_is_the_oracles(tmp_path: Path, alone: bool) -> None:
    rows = mixed_rows(alone=alone)
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path), train_dataset=rows, eval_dataset=rows)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(exact(trainer, "sequence")[0], rel=1e-5)


def test_metrics_compare_where_there_is_something_to_compare(tmp_path: Path) -> None:
    whole = [row for i, row in enumerate(mixed_rows()) if i not in WITHOUT]
    found = []
    for rows in (mixed_rows(), whole):
        trainer = quiet_trainer(ORPOTrainer, str(tmp_path), eval_dataset=rows)
        found.append(trainer.evaluate())
    for name in ("rewards/accuracies", "rewards/margins", "log_odds_chosen", "logps/rejected"):
        assert found[0][f"eval_{name}"] == pytest.approx(found[1][f"eval_{name}"], rel=1e-5)
    assert found[0]["eval_nll_loss"] != pytest.approx(found[1]["eval_nll_loss"], rel=1e-5)


def test_compute_metrics_sees_which_rows_have_no_rejected_answer(tmp_path: Path) -> None:
    seen: list[Any] = []
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path), eval_dataset=mixed_rows())
    trainer.compute_metrics = lambda prediction: seen.append(prediction.predictions) or {}
    trainer.evaluate()
    chosen, rejected = seen[0]
    assert all(map(math.isfinite, chosen))
    assert {i for i, value in enumerate(rejected) if math.isnan(value)} == WITHOUT


@pytest.mark.parametrize(("weight", "most"), [(1, 0.0), (2, 1e-6)])
def test_a_weight_pulls_as_often_as_it_says(tmp_path: Path, weight: int, most: float) -> None:
    """Twice the weight in every row is twice the gradient, whatever the batch."""
    rows = [{**row, "weight": weight} for row in text_rows()]
    one_by_one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    plain = step_gradients(str(tmp_path / "a"), **one_by_one)
    weighted = step_gradients(str(tmp_path / "b"), train_dataset=rows, **one_by_one)
    assert relative_difference(weighted, {n: weight * g for n, g in plain.items()}) <= most


def test_a_step_of_rows_without_rejected_answer(tmp_path: Path) -> None:
    rows = mixed_rows()
    settings = {"logging_steps": 1, "per_device_train_batch_size": 1, "max_steps": 2}
    given = {"train_dataset": [rows[1], rows[0]], "learning_rate": 1e-3, **settings}
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path), **given)
    trainer.train()
    logged = [line for line in trainer.state.log_history if "nll_loss" in line]
    assert [line["log_odds_ratio"] == 0 for line in logged] == [True, False]
    assert all(math.isfinite(line["loss"]) for line in logged)
    rows = [{**row, "rejected": None} for row in text_rows()]
    with pytest.raises(DataError, match="no row has a rejected answer"):
        quiet_trainer(ORPOTrainer, str(tmp_path), train_dataset=rows)


def test_counting_pairs_as_rows_would_be_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(batches: Any, nll_scope: str, device: torch.device) -> Tensor:
        counts = right(batches, nll_scope, device)
        counts[0, 1] = counts[0, 2]
        return counts

    right = step_loss.count_items
    monkeypatch.setattr("orpo.train.trainer.count_items", wrong)
    rows = mixed_rows()
    found = step_gradients(str(tmp_path), train_dataset=rows, per_device_train_batch_size=8)
    trainer = quiet_trainer(ORPOTrainer, str(tmp_path), train_dataset=rows)
    assert relative_difference(found, exact(trainer, "sequence")[1]) > 1e-3
