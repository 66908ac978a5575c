"""Sending a run's checkpoints to the Hub while it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

__all__ = ["push_checkpoint"]

_FOR_RESUMING = [
    *("optimizer*", "scheduler.pt", "scaler.pt", "rng_state*", "trainer_state.json"),
    *("progress.json", "manifest.json", "metrics.jsonl", "reference.safetensors"),
]


def push_checkpoint(trainer: Trainer, folder: Path) -> None:
    """Upload a committed checkpoint in the background, as `hub_strategy` asks for.

    The model of the checkpoint becomes that of the repository. Nothing is written for it:
    transformers would pickle its arguments, the Hub token among them, into the repository.

    Args:
        trainer: Whose checkpoint it is.
        folder: The checkpoint.
    """
    args: Any = trainer.args
    going_on: PushInProgress | None = trainer.push_in_progress
    busy = going_on is not None and not going_on.is_done()
    if not trainer.is_world_process_zero() or args.hub_strategy == HubStrategy.END:
        return
    if busy and not args.hub_always_push:
        return
    trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
    how = {
        "repo_id": trainer.hub_model_id,
        "folder_path": folder,
        "token": args.hub_token,
        "revision": args.hub_revision,
        "commit_message": f"Step {trainer.state.global_step}",
        "run_as_future": True,
    }
    api = HfApi()
    jobs: list[Any] = [api.upload_folder(**how, ignore_patterns=_FOR_RESUMING)]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        last = args.hub_strategy == HubStrategy.CHECKPOINT
        name = "last-checkpoint" if last else folder.name
        jobs.append(api.upload_folder(**how, path_in_repo=name))
    if busy and going_on is not None:
        going_on.jobs.extend(jobs)
    else:
        trainer.push_in_progress = PushInProgress(jobs)
