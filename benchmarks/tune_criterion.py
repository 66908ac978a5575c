"""Which held-out measure picks recipes whose models are good? The one of `orpo tune`, and others.

    python benchmarks/tune_criterion.py [--steps 60] [--cells cells.jsonl]

Trains the embedded base model at 30 settings (six learning rates by five lambdas) and scores and
answers all 416 held-out pairs. Then it divides the pairs at random into a side to choose by and a
side to test, a thousand times: each criterion picks one of the 30 recipes by the first side, and
the second says what share of its greedy answers is right and how often it prefers the chosen
answer. `--cells` keeps what was trained; what stands there is not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from orpo import ORPOConfig
from orpo.data.sources import Source
from orpo.demo.story import ASSETS, grade
from orpo.evaluate import Sampling
from orpo.experiments.measuring import measure_outcomes
from orpo.jobs import TrainJob
from orpo.objective.log_odds import log_odds
from orpo.train.job import build_trainer

RATES = (5e-5, 1.5e-4, 4e-4, 1e-3, 2e-3, 4e-3)
ALPHAS = (0.03, 0.15, 0.5, 1.0, 2.0)
WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
DIVISIONS = 1000


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--cells", type=Path, default=Path("tune-criterion.jsonl"))
    given = parser.parse_args()
    there = _read(given.cells)
    for rate, alpha in itertools.product(RATES, ALPHAS):
        if not any((one["lr"], one["alpha"]) == (rate, alpha) for one in there):
            with given.cells.open("a", encoding="utf-8") as file:
                file.write(json.dumps(_cell(rate, alpha, given.steps)) + "\n")
    _print(_read(given.cells))


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _cell(rate: float, alpha: float, steps: int) -> dict[str, Any]:
    rows, held = (
        list(Source(str(ASSETS / "pairs" / f"{name}.jsonl.gz"))) for name in ("train", "heldout")
    )
    with tempfile.TemporaryDirectory() as folder:
        config = ORPOConfig(
            output_dir=folder,
            learning_rate=rate,
            orpo_alpha=alpha,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            max_steps=steps,
            max_length=256,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        set_seed(config.seed)
        job = TrainJob(model=str(ASSETS / "base"), dataset=["embedded"])
        trainer = build_trainer(job, config, rows, held)
        trainer.train()
        sampling = Sampling(max_new_tokens=64, batch_size=64)
        found = measure_outcomes(trainer, held, answers=len(held), sampling=sampling, grade=grade)
    out = [[one.row, one.chosen_logps, one.rejected_logps, one.correct] for one in found]
    return {"lr": rate, "alpha": alpha, "steps": steps, "out": out}


def _print(cells: list[dict[str, Any]]) -> None:
    table = np.array([cell["out"] for cell in cells], dtype=np.float64)  # (cells, pairs, 4)
    chosen, rejected, right = (table[:, :, column] for column in (1, 2, 3))
    odds = [log_odds(torch.from_numpy(np.ascontiguousarray(x))).numpy() for x in (chosen, rejected)]
    preferred, sure = chosen > rejected, -np.logaddexp(0, odds[1] - odds[0])
    criteria: dict[str, Any] = {
        "prefers the chosen answer": preferred,
        "mean log odds ratio": odds[0] - odds[1],
        "log-probability margin": chosen - rejected,
        "log sigmoid(z)": sure,
        **{f"l(chosen) + {weight:g} log sigmoid(z)": chosen + weight * sure for weight in WEIGHTS},
        "right answers (the checker)": right,
    }
    random = np.random.default_rng(0)
    pairs = table.shape[1]
    sides = [np.split(random.permutation(pairs), [pairs // 2]) for _ in range(DIVISIONS)]

    def picked(criterion: Any, outcome: Any) -> float:
        return float(
            np.mean([outcome[criterion[:, a].mean(1).argmax(), b].mean() for a, b in sides])
        )

    best: Callable[[Any], float] = lambda one: float(one.mean(1).max())  # noqa: E731
    print(
        f"{len(cells)} recipes of {cells[0]['steps']} steps; the best has {100 * best(right):.1f} %"
    )
    print("| picked by | right answers | prefers the chosen answer |\n|---|---:|---:|")
    for name, criterion in criteria.items():
        shares = (100 * picked(criterion, outcome) for outcome in (right, preferred))
        print(f"| {name} | " + " | ".join(f"{share:.1f} %" for share in shares) + " |")


if __name__ == "__main__":
    main()
