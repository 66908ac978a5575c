"""`python -m orpo.commands.compare_worker SPEC`: one task of a comparison, told as a JSON file.

It writes its result into the task's folder. On stdout it says one thing at most: why it refused
its input. It ends when its parent does: a run that was cut off is run again, so that its time and
memory are those of one whole run.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PrinterCallback, set_seed

from orpo.config import ORPOConfig
from orpo.data.sources import Source
from orpo.errors import DataError, UserError
from orpo.evaluate import Sampling
from orpo.experiments.comparison import Outcome
from orpo.experiments.measuring import StageClock, measure_outcomes
from orpo.experiments.tasks import COST, REFUSED, CellSpec, HeldOut, TaskSpec, load_checker
from orpo.jobs import run_training
from orpo.runs.files import write_json
from orpo.runs.reading import read_object
from orpo.runs.typed import plain, typed
from orpo.train.job import TrainJob, build_trainer
from orpo.train.tokenizer import load_tokenizer
from orpo.train.trainer import ORPOTrainer

_ANSWERED_AT_ONCE = 32


def main() -> int:
    """Do the task; the exit code is `REFUSED` where the input was wrong."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    spec = typed(TaskSpec, read_object(Path(sys.argv[1])), where=sys.argv[1])
    try:
        _TASKS[spec.kind](spec)
    except UserError as error:
        print(error, flush=True)
        return REFUSED
    return 0


def _end_with_the_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


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
        config = ORPOConfig(**settings)
        tokenizer = spec.job.get("tokenizer")
        trainer = ORPOTrainer(
            model=model,
            args=config,
            eval_dataset=Source(test.dataset),
            tokenizer=load_tokenizer(tokenizer, config, of_model=False) if tokenizer else None,
        )
        trainer.remove_callback(PrinterCallback)
        outcomes = measure_outcomes(
            trainer,
            rows,
            answers=test.answers,
            sampling=Sampling(
                max_new_tokens=test.answer_tokens, batch_size=_ANSWERED_AT_ONCE, seed=config.seed
            ),
            grade=load_checker(test.checker) if test.checker else None,
        )
    account = {name: ledger.as_dict() for name, ledger in trainer.ledgers.items()}
    return outcomes, account.get("eval_dataset", {})


def _run_grid(spec: TaskSpec) -> None:
    """Short runs, one after the other; those that a grid that was cut off had come past stay."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        models = {cell.name: str(Path(scratch) / cell.name) for cell in spec.cells}
        for cell in spec.cells:
            kept = any(other.start == cell.name for other in spec.cells)
            if kept or not _is_on_record(spec, cell):
                _run_cell(spec, cell, models, kept=kept)
    spec.finish({"cells": len(spec.cells)}, [])


def _run_cell(spec: TaskSpec, cell: CellSpec, models: dict[str, str], *, kept: bool) -> None:
    """Train for a few steps without a run folder, and measure."""
    assert spec.held_out is not None
    _say(f"cell {cell.name}")
    config = ORPOConfig(**{**spec.settings, **cell.settings, "output_dir": models[cell.name]})
    set_seed(config.seed)
    start = models[cell.start] if cell.start else spec.job["model"]
    job, clock = TrainJob(**{**spec.job, "model": start, "dataset": [cell.dataset]}), StageClock()
    trainer = build_trainer(job, config, list(Source(cell.dataset)), None, [clock])
    trainer.train()
    cost = clock.cost(config.objective, Path(models[cell.name]))
    if kept:
        trainer.save_model()
    outcomes, _ = _measured(spec, trainer.model, spec.held_out)
    found = {**_told(spec, cell), "cost": plain(cost), "outcomes": plain(outcomes)}
    write_json(Path(spec.folder) / f"{cell.name}.json", found)


def _told(spec: TaskSpec, cell: CellSpec) -> dict[str, Any]:
    told = plain(replace(spec, cells=[]))
    return {"cell": plain(cell), "told": {n: told[n] for n in ("job", "settings", "held_out")}}


def _is_on_record(spec: TaskSpec, cell: CellSpec) -> bool:
    try:
        record = read_object(Path(spec.folder) / f"{cell.name}.json")
    except DataError:
        return False
    told = _told(spec, cell)
    return {name: record.get(name) for name in told} == told


_TASKS = {"stage": _train, "base": _measure_base, "grid": _run_grid}


if __name__ == "__main__":
    sys.exit(main())
