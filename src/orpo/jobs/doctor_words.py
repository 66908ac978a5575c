"""The verdict on a folder in words, and the command to go on with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from orpo.jobs.doctor_run import Diagnosis
from orpo.jobs.doctor_saved import Saved
from orpo.runs import RECIPE

__all__ = ["next_commands", "verdict"]

_IN_PYTHON = "trainer.train(resume_from_checkpoint={}), with the same model, data and settings"


def verdict(found: Diagnosis) -> str:
    """One sentence on what the folder is good for."""
    damaged = len(found.problems)
    but = f"; {damaged} other {'thing is' if damaged == 1 else 'things are'} damaged"
    if found.kind == "model":
        return _of_model(found)
    if found.kind == "checkpoint":
        return _of_checkpoint(found)
    if found.writer:
        reached = "before its first logged step"
        if found.metrics.last_step is not None:
            reached = f"at step {found.metrics.last_step}{_of(found)}"
        return f"running {reached}: {found.writer} is writing here"
    if found.model and found.model.usable and found.ended:
        return f"finished at step {found.model.step}: the model is sound" + (but if damaged else "")
    return _stopped(found)


def next_commands(found: Diagnosis) -> list[str]:
    """What to type next, the best first; empty where there is nothing to do."""
    if found.writer:
        return []
    if found.kind == "checkpoint":
        return _after_checkpoint(found)
    model, healthy = found.model, found.healthy
    loads = _chat(model) if model and model.usable else []
    if found.kind == "model" or (loads and found.ended):
        return loads
    if healthy is None:
        return loads or _afresh(Path(found.folder), found)
    at_its_end = found.max_steps is not None and healthy.step == found.max_steps
    if at_its_end and not _from_command_line(found.recipe):
        return _chat(healthy)
    named = healthy is not found.resume
    return [_go_on(Path(found.folder), found, healthy, named=named), *_chat(healthy)]


def _after_checkpoint(found: Diagnosis) -> list[str]:
    (saved,), above = found.checkpoints, Path(found.folder).parent
    if not saved.usable:
        return [f"orpo doctor {shlex.quote(str(above))}"]
    goes_on = [_go_on(above, found, saved, named=True)] if saved is found.healthy else []
    return [*goes_on, *_chat(saved)]


def _of_model(found: Diagnosis) -> str:
    model = found.model
    assert model is not None
    if not model.usable:
        return "the model is damaged: do not use it"
    if found.problems or model.loads:
        return "the model cannot be loaded"
    what = f"the {model.holds or 'model'} is sound"
    return what if model.committed else f"{what} as far as can be told without a manifest"


def _of_checkpoint(found: Diagnosis) -> str:
    (saved,) = found.checkpoints
    if not saved.usable:
        return "the checkpoint is damaged: do not use it"
    if not saved.resumable:
        return f"the checkpoint of step {saved.step} is sound; it can be loaded, not gone on from"
    return f"the checkpoint of step {saved.step} is sound; it can be gone on from and loaded"


def _stopped(found: Diagnosis) -> str:
    model, healthy = found.model, found.healthy
    if healthy is None:
        alone = "only its model can be used" if model and model.usable else "nothing can be used"
        return f"there is no checkpoint to go on from: {alone}"
    if found.max_steps is not None and healthy.step == found.max_steps:
        state = "is damaged" if model else "was not saved in the run folder"
        return f"finished at step {healthy.step}: the model {state}; its last checkpoint is sound"
    last, step = found.metrics.last_step or 0, healthy.step or 0
    again = f"; the steps up to {last} that were logged are done again" if last > step else ""
    return f"stopped: step {step}{_of(found)} is sound and can be gone on from{again}"


def _of(found: Diagnosis) -> str:
    return f" of {found.max_steps}" if found.max_steps else ""


def _chat(saved: Saved) -> list[str]:
    if saved.loads or not saved.holds:
        return []
    return [f"orpo chat {shlex.quote(saved.path)}"]


def _go_on(folder: Path, found: Diagnosis, saved: Saved, *, named: bool) -> str:
    """The command; a run that was started in Python goes on in Python."""
    if not _from_command_line(found.recipe):
        return _IN_PYTHON.format(repr(saved.path) if named else True)
    recipe = folder / RECIPE
    if not recipe.is_file():
        recipe = Path(saved.path) / RECIPE
    words = ["orpo", "train", str(recipe), "--resume", *([saved.path] if named else [])]
    return shlex.join([*words, *_moved(folder, found.recipe), *_ranks(found.recipe)])


def _afresh(folder: Path, found: Diagnosis) -> list[str]:
    if not _from_command_line(found.recipe):
        return []
    words = ["orpo", "train", str(folder / RECIPE), "--overwrite"]
    return [shlex.join([*words, *_moved(folder, found.recipe), *_ranks(found.recipe)])]


def _from_command_line(recipe: dict[str, Any]) -> bool:
    return bool(recipe.get("model")) and bool(recipe.get("dataset"))


def _ranks(recipe: dict[str, Any]) -> list[str]:
    """As many ranks as the run had, if it had several."""
    facts = recipe.get("_run")
    ranks = facts.get("world_size") if isinstance(facts, dict) else None
    return ["--nproc", str(ranks)] if isinstance(ranks, int) and ranks > 1 else []


def _moved(folder: Path, recipe: dict[str, Any]) -> list[str]:
    """Where the run lies, if that is not where its recipe says, seen from here."""
    told = Path(str(recipe.get("output_dir") or ""))
    return [] if told.resolve() == folder.resolve() else ["--output_dir", str(folder)]
