"""`python -m orpo.commands.compare_worker SPEC`: one task of a comparison, told as a JSON file.

It writes its result into the task's folder. On stdout it says one thing at most: why it refused
its input, or what broke. It ends when its parent does: a run that was cut off is run again, so that
its time and memory are those of one whole run.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PrinterCallback, set_seed

from orpo.config import ORPOConfig
from orpo.data.sources import Source
from orpo.errors import OrpoError, TrainingError, UserError
from orpo.evaluate import Sampling
from orpo.experiments.measuring import StageClock, measure_outcomes
from orpo.experiments.plans import load_checker
from orpo.experiments.results import Outcome
from orpo.experiments.tasks import CENTRE, COST, REFUSED, HeldOut, TaskSpec
from orpo.jobs import run_training
from orpo.runs.processes import follow_launcher
from orpo.runs.reading import read_object
from orpo.runs.typed import plain, typed
from orpo.train.job import TrainJob, build_trainer
from orpo.train.models import load_tokenizer
from orpo.train.trainer import ORPOTrainer

_ANSWERED_AT_ONCE = 32


def main() -> int:
    """Do the task; the exit code is `REFUSED` where the input was wrong."""
    follow_launcher(lambda: os._exit(1))
    spec = typed(TaskSpec, read_object(Path(sys.argv[1])), where=sys.argv[1])
    try:
        _TASKS[spec.kind](spec)
    except OrpoError as error:
        print(error, flush=True)
        return REFUSED if isinstance(error, UserError) else 1
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _train(spec: TaskSpec) -> None:
    (Path(spec.folder) / COST).unlink(missing_ok=True)
    config, clock = ORPOConfig(**spec.settings), StageClock()
    result = run_training(TrainJob(**spec.job), config, say=_say, callbacks=[clock])
    cost = clock.cost(config.objective, Path(spec.folder))
    outcomes = _measured(spec, spec.folder, spec.held_out)[0] if spec.held_out else []
    spec.finish({"cost": plain(cost), "data": result.data}, outcomes)


def _measure_base(spec: TaskSpec) -> None:
    assert spec.held_out is not None
    outcomes, account = _measured(spec, str(spec.job["model"]), spec.held_out)
    spec.finish({"held_out": account}, outcomes)


def _measured(
    spec: TaskSpec, model: str | nn.Module, test: HeldOut
) -> tuple[list[Outcome], dict[str, Any]]:
    """Outcomes of a model on the held-out pairs, and the account of their rows."""
    rows = list(Source(test.dataset))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        settings = {**spec.settings, "output_dir": folder, "objective": "orpo", "dpo_beta": None}
        settings |= {"eval_strategy": "no", "save_strategy": "no", "max_steps": -1}
        if not isinstance(model, str):
            settings |= {"model_init_kwargs": None, "quantize": "none"}
        config, tokenizer = ORPOConfig(**settings), spec.job.get("tokenizer")
        trainer = ORPOTrainer(
            model=model,
            args=config,
            eval_dataset=Source(test.dataset),
            tokenizer=load_tokenizer(tokenizer, config, of_model=False) if tokenizer else None,
        )
        trainer.remove_callback(PrinterCallback)
        tokens, seed = test.answer_tokens, config.seed
        outcomes = measure_outcomes(
            trainer,
            rows,
            answers=test.answers,
            sampling=Sampling(max_new_tokens=tokens, batch_size=_ANSWERED_AT_ONCE, seed=seed),
            grade=load_checker(test.checker) if test.checker else None,
        )
    account = {name: ledger.as_dict() for name, ledger in trainer.ledgers.items()}
    return outcomes, account.get("eval_dataset", {})


def _run_grid(spec: TaskSpec) -> None:
    """Short runs, one after the other; those that a grid that was cut off had come past stay."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        models = {cell.folder: str(Path(scratch, Path(cell.folder).name)) for cell in spec.cells}
        for cell in spec.cells:
            kept = any(other.job["model"] == cell.folder for other in spec.cells)
            try:
                if kept or not cell.finished():
                    _run_cell(cell, models, kept=kept)
            except TrainingError as error:  # such as three times the rate; others are needed
                if kept or Path(cell.folder).name in CENTRE.values():
                    raise
                _say(f"broke: {error}")
    spec.finish({"cells": len(spec.cells)}, [])


def _run_cell(cell: TaskSpec, models: dict[str, str], *, kept: bool) -> None:
    """Train for a few steps without a run folder, and measure; another cell may start from it."""
    assert cell.held_out is not None
    folder, model = models[cell.folder], cell.job["model"]
    _say(f"cell {Path(cell.folder).name}")
    config = ORPOConfig(**cell.settings, output_dir=folder)
    set_seed(config.seed)
    job, clock = TrainJob(**{**cell.job, "model": models.get(model, model)}), StageClock()
    trainer = build_trainer(job, config, list(Source(job.name)), None, [clock])
    trainer.train()
    cost = clock.cost(config.objective, Path(folder))
    if kept:
        trainer.save_model()
    outcomes, _ = _measured(cell, trainer.model, cell.held_out)
    cell.finish({"cost": plain(cost)}, outcomes)


_TASKS = {"stage": _train, "base": _measure_base, "grid": _run_grid}


if __name__ == "__main__":
    sys.exit(main())
