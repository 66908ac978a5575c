"""Whole jobs: what a command of the command line does, from its input to its run folder.

The names are loaded when they are first used: a command that looks at data needs no trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orpo.lazy import loader

if TYPE_CHECKING:
    from orpo.evaluate.merging import merge_adapter
    from orpo.jobs.train_job import TrainResult, run_training
    from orpo.train.job import TrainJob

_HOMES = {
    "TrainJob": "orpo.train.job",
    "TrainResult": "orpo.jobs.train_job",
    "merge_adapter": "orpo.evaluate.merging",
    "run_training": "orpo.jobs.train_job",
}

__all__ = ["TrainJob", "TrainResult", "merge_adapter", "run_training"]

__getattr__ = loader(__name__, _HOMES)
