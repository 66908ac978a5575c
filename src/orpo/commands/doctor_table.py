"""The rows of `orpo doctor RUN`: what was looked at, and what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orpo.jobs.doctor_run import Diagnosis
from orpo.jobs.doctor_saved import Saved

__all__ = ["found_rows"]


def found_rows(found: Diagnosis) -> list[list[str]]:
    """[what, found] for everything in a folder, in the order in which it was written."""
    rows = [[found.kind, found.folder]]
    if found.kind == "run":
        rows += _of_run(found)
    rows += [[Path(saved.path).name, _saved(saved, found)] for saved in found.checkpoints]
    if found.model:
        rows.append(["model", _saved(found.model, found)])
    elif found.kind == "run":
        rows.append(["model", "not saved yet"])
    rows += [[name, fault or "readable"] for name, fault in found.pages.items()]
    rows += [["event", _event(event)] for event in found.events.last]
    return rows


def _of_run(found: Diagnosis) -> list[list[str]]:
    logged = found.metrics
    told = f"run {found.run or 'without a name'}" if found.recipe else "cannot be used"
    of_all = f" of {found.max_steps}" if found.max_steps else ""
    steps = f"{logged.steps} logged steps, the last is {logged.last_step}{of_all}"
    rows = [
        ["recipe.yaml", told],
        ["metrics.jsonl", logged.damage or (steps if logged.steps else "no logged step")],
        ["written to now", found.writer or "by nobody"],
    ]
    if found.unfinished:
        rows.append(["unfinished saves", ", ".join(found.unfinished)])
    return rows


def _saved(saved: Saved, found: Diagnosis) -> str:
    if saved.damage:
        return f"damaged: {saved.damage}"
    words = [_size(saved.size)]
    if saved.written:
        words.append(saved.written.replace("T", " ").removesuffix("+00:00") + " UTC")
    words.append("verifies" if saved.committed else "no manifest")
    if saved.kind == "model" or found.kind == "model":
        words.insert(0, saved.holds or "model")
    if saved.base:
        words.append(f"adapter of {saved.base}")
    if saved.tensors is not None:
        words.append(_weights(saved))
    if saved.kind == "checkpoint":
        words.append("resumable" if saved.resumable else "holds no optimizer")
    if saved is found.resume and found.kind == "run":
        words.append("--resume takes it")
    return ", ".join(words)


def _weights(saved: Saved) -> str:
    if not saved.tensors:
        return "weights are sharded and were not looked into"
    count = len(saved.not_finite)
    return f"{count} of {saved.tensors} weights are not finite" if count else "all weights finite"


def _size(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _event(event: dict[str, Any]) -> str:
    return f"step {event.get('step')}: {event.get('kind')}: {event.get('message')}"
