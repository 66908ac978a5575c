"""`python -m orpo.jobs.compare.worker SPEC`: one task of a comparison, told as a JSON file.

It writes its result into the task's folder. On stdout it says one thing at most: why it refused
its input. It ends when its parent does: a run that was cut off is run again, so that its time and
memory are those of one whole run.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PrinterCallback, set_seed

from orpo.config import ORPOConfig
from orpo.data import Source
from orpo.errors import ConfigError, DataError, UserError
from orpo.evaluate import Sampling
from orpo.experiments.compare import Grader, measure_outcomes
from orpo.jobs.compare.measuring import StageClock, counted
from orpo.jobs.compare.spec import COST, CellSpec, HeldOut, TaskSpec, write_finished
from orpo.jobs.train_job import TrainJob, build_trainer, run_training
from orpo.runs import read_object, write_json
from orpo.train.tokenizer import load_tokenizer
from orpo.train.trainer import ORPOTrainer

__all__ = ["load_checker", "main"]

REFUSED = 2
_ANSWERED_AT_ONCE = 32
_OF_THE_TRAINING = {"eval_strategy": "no", "save_strategy": "no", "max_steps": -1}


def main() -> int:
    """Do the task; the exit code is `REFUSED` where the input was wrong."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    spec = TaskSpec.read(Path(sys.argv[1]))
    try:
        _TASKS[spec.kind](spec)
    except UserError as error:
        print(error, flush=True)
        return REFUSED
    return 0


def load_checker(name: str) -> Grader:
    """The function that `module:function` names.

    Raises:
        ConfigError: There is none.
    """
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it, and the `orpo` script has not
        sys.path.append(here)
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"cannot be loaded ({error})",
            where=f"--checker {name}",
            fix="Give MODULE:FUNCTION, importable from here; it takes a row and an answer.",
        ) from error
    if not callable(found):
        raise ConfigError("is no function", where=f"--checker {name}")
    checker: Grader = found
    return checker


def _end_with_the_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _train(spec: TaskSpec) -> None:
    (Path(spec.folder) / COST).unlink(missing_ok=True)
    job, config = TrainJob(**spec.job), ORPOConfig(**spec.settings)
    clock = StageClock()
    result = run_training(job, config, say=_say, callbacks=[clock])
    cost = counted(config.objective, Path(spec.folder), clock)
    outcomes: list[dict[str, Any]] = []
    if spec.held_out is not None:
        outcomes, _ = _measured(spec, spec.folder, spec.held_out)
    write_finished(spec, {"cost": asdict(cost), "data": result.data}, outcomes)


def _measure_base(spec: TaskSpec) -> None:
    assert spec.held_out is not None
    outcomes, account = _measured(spec, str(spec.job["model"]), spec.held_out)
    write_finished(spec, {"held_out": account}, outcomes)


def _measured(
    spec: TaskSpec, model: str | nn.Module, test: HeldOut, dataset: Any = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Outcomes of a model on the held-out pairs, and the account of their rows."""
    rows = list(Source(test.dataset))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        settings = {**spec.settings, **_OF_THE_TRAINING, "output_dir": folder}
        settings |= {"objective": "orpo", "dpo_beta": None}
        if not isinstance(model, str):
            settings |= {"model_init_kwargs": None, "quantize": "none"}
        config = ORPOConfig(**settings)
        tokenizer = spec.job.get("tokenizer")
        trainer = ORPOTrainer(
            model=model,
            args=config,
            eval_dataset=dataset if dataset is not None else Source(test.dataset),
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
    return [outcome.as_dict() for outcome in outcomes], account.get("eval_dataset", {})


def _run_grid(spec: TaskSpec) -> None:
    assert spec.held_out is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        models: dict[str, str] = {}
        for cell in spec.cells:
            models[cell.name] = str(Path(scratch) / cell.name)
            kept = any(c.start == cell.name for c in spec.cells)
            if kept or not _is_on_record(spec, cell):
                _run_cell(spec, cell, models, kept=kept)
    write_finished(spec, {"cells": len(spec.cells)}, [])


def _run_cell(spec: TaskSpec, cell: CellSpec, models: Mapping[str, str], *, kept: bool) -> None:
    """Train for a few steps without a run folder, and measure."""
    assert spec.held_out is not None
    _say(f"cell {cell.name}")
    rows = list(Source(cell.dataset))
    settings = {**spec.settings, **cell.settings, "output_dir": models[cell.name]}
    config = ORPOConfig(**settings)
    set_seed(config.seed)
    start = models[cell.start] if cell.start else spec.job["model"]
    job = TrainJob(**{**spec.job, "model": start, "dataset": [cell.dataset]})
    clock = StageClock()
    trainer = build_trainer(job, config, rows, None, [clock])
    trainer.train()
    cost = counted(config.objective, Path(models[cell.name]), clock)
    if kept:
        trainer.save_model()
    outcomes, _ = _measured(spec, trainer.model, spec.held_out)
    found = {**_told(spec, cell), "cost": asdict(cost), "outcomes": outcomes}
    write_json(Path(spec.folder) / f"{cell.name}.json", found)


def _told(spec: TaskSpec, cell: CellSpec) -> dict[str, Any]:
    whole = spec.as_dict()
    kept = {name: whole[name] for name in ("job", "settings", "held_out")}
    return {"cell": replace(spec, cells=(cell,)).as_dict()["cells"][0], "told": kept}


def _is_on_record(spec: TaskSpec, cell: CellSpec) -> bool:
    """Whether a grid that was cut off had come past this cell."""
    try:
        record = read_object(Path(spec.folder) / f"{cell.name}.json")
    except DataError:
        return False
    told = _told(spec, cell)
    return {name: record.get(name) for name in told} == told


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


_TASKS = {"stage": _train, "base": _measure_base, "grid": _run_grid}


if __name__ == "__main__":
    sys.exit(main())
