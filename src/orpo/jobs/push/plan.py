"""From a run folder to the files of a repository: what is committed, made fit to be read by all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orpo.errors import CheckpointError, ConfigError
from orpo.jobs.merge_job import merged_folder
from orpo.jobs.push.licence import licence_known_here
from orpo.jobs.push.public import public_config, public_recipe, refuse_leaks
from orpo.jobs.push.types import PushFile, PushJob, PushPlan
from orpo.report.curves import run_figures
from orpo.report.series import read_curves
from orpo.runs import (
    MANIFEST,
    RECIPE,
    Manifest,
    Run,
    base_model_id,
    ensure_as_committed,
    lock_holder,
    read_manifest,
    read_object,
    read_run,
    yaml_text,
)
from orpo.train.card import About, model_card

__all__ = ["Pushable", "plan_push", "pushable"]

_CARD = "README.md"
_PICTURES = ("loss", "logps", "accuracy")
_LARGEST_PICTURE = 300_000  # bytes
_UNMERGED = ("config.json", "generation_config.json", "model.safetensors")


@dataclass(frozen=True)
class _Weights:
    """The model that is pushed: its folder, and which of its files belong to it."""

    folder: Path
    names: list[str]


@dataclass(frozen=True)
class Pushable:
    """A run that can be pushed as asked.

    Attributes:
        job: What was asked for.
        run: What the run folder says.
        manifest: Of its model, every byte of which is as it was committed.
        base: Hub id of the model that it started from, if it has one.
    """

    job: PushJob
    run: Run
    manifest: Manifest
    base: str | None


def pushable(job: PushJob) -> Pushable:
    """Make sure that a run can be pushed; reads the run folder, and nothing of the network.

    Raises:
        DataError: It is no run folder.
        CheckpointError: Its model is not what was committed.
        ConfigError: It cannot be pushed as it is; says why.
    """
    run = read_run(job.run)
    manifest = _sound(run.path)
    adapter = bool(run.facts.get("adapter"))
    if job.merge and not adapter:
        raise ConfigError(
            "there is no adapter to merge", where="--merge", fix="The run is a whole model already."
        )
    base = job.base_model or base_model_id(run)
    if adapter and not job.merge and base is None:
        raise ConfigError(
            f"the adapter's base model is a folder of this machine ({run.recipe.get('model')})",
            where=job.run,
            fix="--base_model ID says which model of the Hub it is; --merge pushes a whole model.",
        )
    return Pushable(job, run, manifest, base)


def plan_push(what: Pushable, licence: Mapping[str, str] | None = None) -> PushPlan:
    """Decide what is sent, and make what has to be made for it.

    Args:
        what: From `pushable`.
        licence: What the base model's card says, where it was asked; looked for here if absent.

    Raises:
        ConfigError: A file of the run folder holds what must not leave this machine.
    """
    job, run, base = what.job, what.run, what.base
    known = {"license": job.licence} if job.licence else licence or licence_known_here(run, base)
    pictures = _pictures(run)
    about = About(
        name=job.repo.split("/")[1],
        base_model=base or "",
        licence=known,
        merged=job.merge,
        repo=job.repo,
        pictures={one[0]: name for name, one in pictures.items()},
    )
    card = model_card(run, about)
    weights = _weights(what)
    recipe = yaml_text(public_recipe(run.recipe))
    made = {_CARD: card.encode(), RECIPE: recipe.encode(), **_made_public(weights, base)}
    refuse_leaks(made.items(), None)
    files = [
        *(PushFile(name, path) for name, path in _as_they_are(weights, made).items()),
        *(PushFile(name, content) for name, content in made.items()),
        *(PushFile(name, content) for name, (_, content) in pictures.items()),
    ]
    files.sort(key=lambda one: one.name)
    return PushPlan(
        job, what.manifest.run, files, card, known.get("license", ""), _notes(what, known)
    )


def _sound(folder: Path) -> Manifest:
    """The manifest of a run's model, after comparing every byte with it."""
    holder = lock_holder(folder)
    if holder:
        raise ConfigError(f"is being written by {holder}", where=str(folder), fix="Wait for it.")
    if not (folder / MANIFEST).is_file():
        raise CheckpointError(
            f"holds no finished model (no {MANIFEST})",
            where=str(folder),
            fix="Push a run that has ended; `orpo doctor` says what is there.",
        )
    manifest = read_manifest(folder)
    if manifest.kind != "model":
        raise ConfigError("is a checkpoint", where=str(folder), fix="Push the folder of the run.")
    ensure_as_committed(folder)
    return manifest


def _weights(what: Pushable) -> _Weights:
    names = list(what.manifest.files)
    if not what.job.merge:
        return _Weights(what.run.path, names)
    merged = merged_folder(what.run.path)
    if merged is not None:
        return _Weights(merged, list(read_manifest(merged).files))
    tokenizer = [name for name in names if not name.startswith("adapter_")]
    return _Weights(what.run.path, [*tokenizer, *_UNMERGED])


def _made_public(weights: _Weights, base: str | None) -> dict[str, bytes]:
    """Those of the model's settings that named a path; every other file goes as it is."""
    made = {}
    for name in weights.names:
        path = weights.folder / name
        if not name.endswith("config.json") or not path.is_file():
            continue
        config = read_object(path)
        public = public_config(config, base)
        text = json.dumps(public, indent=2, ensure_ascii=False) + "\n"
        made[name] = path.read_bytes() if public == config else text.encode()
    return made


def _as_they_are(weights: _Weights, made: Mapping[str, bytes]) -> dict[str, Path | None]:
    """The other files; None for what merging is yet to make."""
    there = {name: weights.folder / name for name in weights.names if name not in made}
    return {name: path if path.is_file() else None for name, path in there.items()}


def _pictures(run: Run) -> dict[str, tuple[str, bytes]]:
    """Path in the repository -> title and PNG of the curves that say most."""
    drawn = {one.name: one for one in run_figures(read_curves(run.metrics))}
    made = {
        f"figures/{name}.png": (drawn[name].title, drawn[name].png)
        for name in _PICTURES
        if name in drawn
    }
    return {name: one for name, one in made.items() if len(one[1]) <= _LARGEST_PICTURE}


def _notes(what: Pushable, licence: Mapping[str, str]) -> list[str]:
    job, run, base = what.job, what.run, what.base
    notes = []
    if base is None:
        notes.append("base model: a folder of this machine; --base_model ID names it on the Hub")
    elif not job.base_model and not run.facts.get("model_commit"):
        notes.append(f"base model: {base}, by its name; --base_model ID names another")
    if not licence:
        notes.append("licence: not known; --license ID names it")
    elif not job.licence:
        notes.append(f"licence: {licence['license']}, as the base model's card says")
    if job.merge and merged_folder(run.path) is None:
        notes.append("the adapter is merged into its base model first")
    if not run.evaluation.get("after"):
        notes.append("the run held no pairs out: the card shows numbers of the training only")
    return notes
