"""Whole jobs: what a command of the command line does, from its input to its run folder."""

from orpo.jobs.merge_job import merge_adapter
from orpo.jobs.train_job import TrainJob, TrainResult, build_trainer, run_training

__all__ = ["TrainJob", "TrainResult", "build_trainer", "merge_adapter", "run_training"]
