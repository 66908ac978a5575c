"""What a run folder, a checkpoint or a model folder is good for; nothing in it is changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orpo.errors import CheckpointError, ConfigError, DataError
from orpo.jobs.doctor_logs import (
    Events,
    Logged,
    examine_events,
    examine_metrics,
    examine_pages,
    try_recipe,
)
from orpo.jobs.doctor_saved import Saved, examine_saved, holds_weights, look_into
from orpo.runs import (
    MANIFEST,
    METRICS,
    RECIPE,
    checkpoints,
    lock_holder,
    read_manifest,
    read_object,
    unfinished,
)

__all__ = ["Diagnosis", "examine_folder"]

_STATE = "trainer_state.json"
_PROGRESS = "progress.json"


@dataclass
class Diagnosis:
    """What was found in a folder.

    Attributes:
        folder: As it was named.
        kind: "run", "checkpoint" or "model".
        recipe: Settings of the run; empty if they cannot be read.
        run: The run's own name; None if the recipe does not say.
        max_steps: Steps that the run is to take, if a checkpoint says so.
        ended: Whether the run took its last step and saved its model.
        writer: Which process writes here now, in words.
        unfinished: Saves that are being written, or were when their process was killed.
        checkpoints: Oldest first.
        resume: The checkpoint that `--resume` takes.
        healthy: The newest one to go on from whose weights are numbers.
        model: What lies in the folder itself.
        metrics: The logged steps.
        events: What happened beside them.
        pages: evaluation.json and others that are there -> what is wrong with each.
        problems: Damage, one line each.
        notes: What is worth knowing and no damage.
    """

    folder: str
    kind: str
    recipe: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    max_steps: int | None = None
    ended: bool = False
    writer: str | None = None
    unfinished: list[str] = field(default_factory=list)
    checkpoints: list[Saved] = field(default_factory=list)
    resume: Saved | None = None
    healthy: Saved | None = None
    model: Saved | None = None
    metrics: Logged = field(default_factory=Logged)
    events: Events = field(default_factory=Events)
    pages: dict[str, str | None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; of the recipe only what tells where the run came from."""
        found = asdict(self)
        found["recipe"] = {name: self.recipe.get(name) for name in ("model", "dataset")}
        for name in ("resume", "healthy"):
            found[name] = found[name] and Path(found[name]["path"]).name
        return {**found, "sound": not self.problems}


def examine_folder(name: str) -> Diagnosis:
    """Look at everything in a folder that can be verified.

    Args:
        name: A run folder, one of its checkpoints, or the folder of a model or an adapter.

    Raises:
        ConfigError: There is no such folder, or it is none of these.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError("no such folder", where=name, fix="Give the output_dir of a run.")
    found = Diagnosis(str(folder), _kind(folder))
    if found.kind == "run":
        _examine_run(folder, found)
    elif found.kind == "checkpoint":
        found.recipe, fault = try_recipe(folder)
        found.checkpoints = [examine_saved(folder, "checkpoint")]
        found.problems += [fault] if fault else []
        _choose(found)
    else:
        found.model = examine_saved(folder, "model")
        look_into(found.model)
    _judge(found)
    return found


def _kind(folder: Path) -> str:
    try:
        committed = read_manifest(folder).kind
    except CheckpointError:
        committed = ""
    if committed == "checkpoint" or (folder / _PROGRESS).is_file():
        return "checkpoint"
    if any((folder / name).is_file() for name in (RECIPE, METRICS)) or checkpoints(folder):
        return "run"
    if committed or (folder / MANIFEST).is_file() or holds_weights(folder):
        return "model"
    raise ConfigError(
        "is neither a run nor a checkpoint nor a model",
        where=str(folder),
        fix=f"A run has {RECIPE}, a model config.json and *.safetensors.",
    )


def _examine_run(folder: Path, found: Diagnosis) -> None:
    found.writer, found.unfinished = lock_holder(folder), unfinished(folder)
    found.recipe, fault = try_recipe(folder)
    found.problems += [fault] if fault else []
    facts = found.recipe.get("_run")
    found.run = facts.get("id") if isinstance(facts, dict) else None
    for path in checkpoints(folder):
        saved = examine_saved(path, "checkpoint")
        if path.is_dir():  # a run that goes on deletes its oldest
            found.checkpoints.append(saved)
    _choose(found)
    if (folder / MANIFEST).is_file() or holds_weights(folder):
        found.model = examine_saved(folder, "model")
        look_into(found.model)
    states = [folder / _STATE, *(Path(saved.path, _STATE) for saved in _usable(found))]
    found.max_steps = next((m for m in map(_max_steps, reversed(states)) if m), None)
    found.ended = _ended(folder, found)
    found.metrics = examine_metrics(folder, found.recipe, found.max_steps)
    found.events, found.pages = examine_events(folder), examine_pages(folder)
    _compare_metrics(found)


def _choose(found: Diagnosis) -> None:
    """What `--resume` takes, by the rule of `newest_checkpoint`; and what it should take."""
    usable = list(reversed(_usable(found)))
    found.resume = next(iter(usable), None)
    for saved in found.checkpoints[-1:]:  # even if no run can go on from it
        look_into(saved)
    for saved in usable:
        look_into(saved)
        if saved.usable:
            found.healthy = saved
            return


def _usable(found: Diagnosis) -> list[Saved]:
    return [
        saved
        for saved in found.checkpoints
        if saved.damage is None and saved.resumable and found.run in {None, saved.run}
    ]


def _max_steps(path: Path) -> int | None:
    steps = _read(path).get("max_steps")
    return steps if isinstance(steps, int) and steps > 0 else None


def _ended(folder: Path, found: Diagnosis) -> bool:
    model = found.model
    if model is None or model.step is None or found.run not in {None, model.run}:
        return False
    # A run that ends early by its own rule says so in the state that it writes last.
    return model.step in {found.max_steps, _read(folder / _STATE).get("global_step")}


def _compare_metrics(found: Diagnosis) -> None:
    """A checkpoint knows how many lines were logged when it was written."""
    if found.resume is None or found.metrics.damage:
        return
    promised = _read(Path(found.resume.path, _PROGRESS)).get("metric_lines")
    if isinstance(promised, int) and found.metrics.lines < promised:
        name = Path(found.resume.path).name
        found.metrics.damage = (
            f"{METRICS} has {found.metrics.lines} lines where {name} knows of {promised}"
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except DataError:
        return {}


def _judge(found: Diagnosis) -> None:
    """Gather what is damaged, and what is only worth knowing."""
    for saved in [*found.checkpoints, *([found.model] if found.model else [])]:
        _judge_saved(found, saved)
    logged = found.metrics
    found.problems += [logged.damage] if logged.damage else []
    found.problems += [fault for fault in found.pages.values() if fault]
    notes = found.notes
    if found.unfinished and not found.writer:
        names = ", ".join(found.unfinished)
        notes.append(f"the save of {names} was cut off; the next run clears it away")
    if logged.torn and not found.writer:
        notes.append(f"the last line of {METRICS} was cut off, as by a kill; it is left out")
    if logged.gaps:
        notes.append(f"{METRICS} has no line between steps {_spans(logged.gaps)}")
    if logged.backwards:
        notes.append(f"{METRICS} goes back at step {logged.backwards[0]}")
    if logged.not_finite:
        notes.append(f"the loss at step {logged.not_finite[0]} is not a number")
    if found.resume is not found.healthy and found.resume is not None:
        notes.append(f"--resume alone would take {Path(found.resume.path).name}")


def _judge_saved(found: Diagnosis, saved: Saved) -> None:
    name = Path(saved.path).name if saved.kind == "checkpoint" else "the model"
    being_saved = saved.kind == "model" and found.writer and "model" in found.unfinished
    if saved.damage and being_saved:
        found.notes.append("the model is being saved now")
    elif saved.damage:
        found.problems.append(f"{name}: {saved.damage}")
    for weight, counts in list(saved.not_finite.items())[:3]:
        found.problems.append(
            f"{name}: {weight} has {counts['nan']} NaN and {counts['inf']} infinite values "
            f"of {counts['of']}"
        )
    if len(saved.not_finite) > 3:
        found.problems.append(f"{name}: and {len(saved.not_finite) - 3} more weights like it")
    if saved.loads:
        known = found.notes if saved.committed else found.problems
        known.append(f"{name} does not load: {saved.loads}")
    if saved.kind == "model" and not saved.committed and not saved.damage:
        found.notes.append(f"the model has no {MANIFEST}: nothing to compare its bytes with")
    if saved.run and found.run and saved.run != found.run:
        found.notes.append(f"{name} is of another run ({saved.run})")


def _spans(gaps: list[tuple[int, int]]) -> str:
    shown = ", ".join(f"{before} and {after}" for before, after in gaps[:3])
    return f"{shown} ..." if len(gaps) > 3 else shown
