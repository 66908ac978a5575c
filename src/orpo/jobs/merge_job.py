"""An adapter and its base model become one model folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orpo.errors import CheckpointError, ModelError, SaveError
from orpo.evaluate import Answerer, is_adapter, load_answerer
from orpo.jobs.merge_check import ensure_same, logits_of, untie
from orpo.runs import (
    MANIFEST,
    commit_files,
    read_manifest,
    refuse_links,
    stage,
    verify,
)
from orpo.runs.claim import claim_new
from orpo.train.adapters import peft_quiet
from orpo.train.before.saving import save_files
from orpo.train.checkpoints import explain_write_error
from orpo.train.models import UNREADABLE, unloadable

__all__ = ["MERGED", "merge_adapter", "merge_once", "merged_folder"]

MERGED = "merged"
"""Where a run folder keeps its adapter merged, for what cannot load adapters."""


def merge_adapter(run: str, output: str, *, dtype: str = "auto") -> Path:
    """Merge the adapter of a run folder into its base model, and commit the result.

    Args:
        run: Folder with the adapter (adapter_config.json).
        output: New folder for the merged model and its tokenizer.
        dtype: Dtype of the merged weights; "auto" keeps the base model's.

    Raises:
        ModelError: The folder holds no adapter, or what it becomes would be another model.
        CheckpointError: The adapter is not what was committed.
        SaveError: The result could not be written.
        ConfigError: The output folder is not empty.
    """
    if not is_adapter(run):
        raise ModelError(
            "holds no adapter to merge (no adapter_config.json)",
            where=run,
            fix="A run without LoRA is a whole model already.",
        )
    target = Path(output)
    claim_new(target)
    answerer = load_answerer(run, dtype=dtype)
    adapted: Any = answerer.model
    try:
        before = logits_of(adapted)
        untie(adapted)
        with peft_quiet():
            merged = Answerer(adapted.merge_and_unload(safe_merge=True), answerer.tokenizer)
    except UNREADABLE as error:  # such as a kind of adapter that cannot be merged
        raise unloadable("adapter", run, error) from error
    try:
        _save(merged, Path(run), target, before)
    except Exception as error:
        reason = explain_write_error(error, target)
        if reason is None:
            raise
        raise SaveError(f"{target} could not be written: {reason}") from error
    return target


def _save(merged: Answerer, run: Path, target: Path, before: Tensor) -> None:
    """Under the name of the run that the adapter comes from, if it says so.

    What is compared is what was written: weights that are tied are saved once.
    """
    name, step = "", 0
    with contextlib.suppress(CheckpointError):
        of_adapter = read_manifest(run)
        name, step = of_adapter.run, of_adapter.step
    staged = stage(target, "model")
    try:
        model: Any = merged.model
        dtype = model.dtype
        save_files(model, merged.tokenizer, str(staged))
        for parameter in model.parameters():  # the memory is needed for what was saved
            parameter.data = torch.empty(0)
        ensure_same(before, logits_of(load_answerer(str(staged)).model), dtype, str(run))
        commit_files(staged, target, run=name, step=step)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()


def merged_folder(run: Path) -> Path | None:
    """The merged model that `merge_once` has left of this very adapter; None if there is none."""
    folder = run / MERGED
    try:
        of_run, merged = read_manifest(run), verify(folder)
    except CheckpointError:
        return None
    same = (merged.run, merged.step) == (of_run.run, of_run.step)
    return folder if same and merged.kind == "model" else None


def merge_once(run: Path, *, say: Callable[[str], None]) -> Path:
    """The adapter of a run as a whole model in its folder, `merged`; made where it is not there.

    Raises:
        As `merge_adapter`.
    """
    found = merged_folder(run)
    if found is not None:
        return found
    folder = run / MERGED
    refuse_links(run, (MERGED,))
    if (folder / MANIFEST).is_file():  # of an adapter that was since trained anew
        shutil.rmtree(folder)
    say(f"merging the adapter into its base model: {folder}")
    return merge_adapter(str(run), str(folder))
