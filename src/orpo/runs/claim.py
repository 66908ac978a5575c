"""Whose a folder is: what may go on there, what it must not touch, what it replaces.

`claim_run` is for the folder of a training, `claim_folder` for that of an evaluation, a comparison
or a tuning, `claim_new` for one that has to be empty.
"""

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from orpo.errors import CheckpointError, ConfigError, DataError
from orpo.runs import files
from orpo.runs.checkpoints import checkpoints
from orpo.runs.commit import staging, unfinished
from orpo.runs.files import EVALUATION, RECIPE, read_recipe, write_json
from orpo.runs.lock import LOCK
from orpo.runs.manifest import MANIFEST, read_manifest
from orpo.runs.reading import read_object
from orpo.runs.writing import ensure_writable, refuse_links, remove

_MODEL = ("config.json", "adapter_config.json", "model*.safetensors", "adapter_model*.safetensors")
_OF_THE_RUN = (
    *(files.REPORT, files.METRICS, files.EVENTS, files.AUDIT),
    *(EVALUATION, files.SAMPLES, files.SCORES),
)
_OF_A_RUN = (
    *(*_MODEL, "*.safetensors.index.json", "generation_config.json", "tokenizer.json"),
    *("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "trainer_state.json"),
    *("nonfinite-step-*.json", "stall-*.txt", "README.md", *_OF_THE_RUN),
)
_ANOTHER = "Give another --output_dir."


def claim_folder(
    folder: Path,
    what: str,
    written: Sequence[str],
    *,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    costly: Collection[str] = (),  # stays all the same, unless settings beside the judge's differ
    among: Collection[str] | None = None,  # the settings that must be the same; None: all of them
    mark: Mapping[str, Any] | None = None,  # what evaluation.json says in a folder of its own
) -> bool:
    """Make a folder ours to write into, holding nothing that was made with other settings.

    `what` is "evaluation", "comparison" or "tuning", `written` are names and patterns of all that
    is written there. Gives whether it held none before.
    """
    where = f"--output_dir {folder}"
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is no folder", where=where, fix="Name another one.")
    for pattern in written:  # what is written into a folder of it lies one level further down
        for inner in folder.glob(pattern):
            refuse_links(inner, ("*",))
    refuse_links(folder, written)
    found = _object(folder / EVALUATION)
    ours = (folder / EVALUATION).exists() if mark is None else found.get("kind") == what
    if mark is None and (folder / RECIPE).exists():
        raise ConfigError("is the folder of a run", where=where, fix="Name another one.")
    foreign = folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())
    if mark is not None and not ours and foreign:
        raise ConfigError(f"holds something that is no {what}", where=where, fix=_ANOTHER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made ({error.strerror})"
        raise ConfigError(reason, where=where, fix="Name another one.") from error
    ensure_writable(folder / ".writable", fix=_ANOTHER)
    differing = changed(found.get("settings"), settings, among)
    if differing and ours and not overwrite:
        held = f"holds {'an' if what[0] in 'aeiou' else 'a'} {what} with {_listed(differing)}"
        raise ConfigError(held, where=where, fix="Name another folder, or give --overwrite.")
    kept = costly if all(name.startswith("judge") for name in differing) else ()
    gone = [name for name in written if name not in kept] if overwrite else []
    for name in gone:
        for path in list(folder.glob(name)):
            if "*" not in name or path.is_dir():  # a file that happens to fit a pattern is not ours
                remove(path)
    if mark is not None and (not ours or EVALUATION in gone):
        write_json(folder / EVALUATION, {"kind": what, **mark})
    return not ours


def claim_new(folder: Path) -> None:
    """Make sure that a folder can be made, or is empty."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is no folder", where=str(folder), fix="Give a new folder.")
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError("the folder is not empty", where=str(folder), fix="Give a new folder.")
    ensure_writable(folder / MANIFEST, fix="Give a new folder elsewhere.")


def claim_run(
    folder: Path, *, resume: str | None, overwrite: bool, sources: Iterable[tuple[str, object]]
) -> str | bool:
    """What to go on from, by names alone: a checkpoint's path, True for the newest, or False."""
    doomed = [_real(one) for one in checkpoints(folder)] if overwrite else []
    for flag, name in sources:
        _keep_apart(folder, flag, _real(Path(str(name))), doomed)
    _keep_room(folder)
    if resume not in {None, "newest", "auto"}:
        return _named(folder, Path(str(resume)))
    if checkpoints(folder) and resume:
        return True
    if resume == "newest":
        raise _nothing_there(folder)
    held = holds(folder)
    if held is None or overwrite or (resume == "auto" and _only_begun(folder)):
        return False
    way = "--resume to go on, --overwrite to replace it" if held == "a run" else "--overwrite"
    raise ConfigError(
        f"the folder already holds {held}",
        where=str(folder),
        fix=f"Use {way}, or another --output_dir.",
    )


def clear_run(folder: Path) -> None:
    """Delete whatever a run leaves behind and could be taken for a part of the next one."""
    gone = (".replaced-*", ".deleting-*", "abandoned-checkpoint-*")
    for path in [*checkpoints(folder), *(path for name in gone for path in folder.glob(name))]:
        remove(path)
    for name in unfinished(folder):
        remove(staging(folder, name))
    try:
        written = [folder / name for name in read_manifest(folder).files]
    except CheckpointError:
        written = []
    own = [path for path in written if _real(path).is_relative_to(_real(folder))]
    # The recipe goes last: what is only half deleted is still known to be a run.
    names = (MANIFEST, *_OF_A_RUN, RECIPE)
    for path in [*own, *(path for name in names for path in folder.glob(name))]:
        if not path.is_dir() or path.is_symlink():
            remove(path)


def _keep_apart(folder: Path, flag: str, path: Path, doomed: Iterable[Path]) -> None:
    """What is read is never written over, asked or not."""
    place = _real(folder)
    if path == place:
        raise ConfigError(
            f"is the folder of {flag}, which would be lost",
            where=f"--output_dir {folder}",
            fix=_ANOTHER,
        )
    if any(path.is_relative_to(one) for one in doomed):
        raise ConfigError(
            f"would delete the folder of {flag}, {path.relative_to(place)}",
            where="--overwrite",
            fix=_ANOTHER,
        )


def _keep_room(folder: Path) -> None:
    """A folder in the place of a file is known now, not when the file is to be written."""
    for name in (RECIPE, "README.md", "trainer_state.json", MANIFEST, *_OF_THE_RUN):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            raise ConfigError(
                "is a folder, where a run writes a file",
                where=str(path),
                fix="Move it away, or give another --output_dir.",
            )


def _named(folder: Path, path: Path) -> str:
    if not path.is_dir():
        raise _nothing_there(path)
    inside = _real(path).parent == _real(folder)
    held = holds(folder)
    if inside or held is None or _begun_from(folder, path):
        return str(path)
    raise ConfigError(
        f"the folder already holds {held}, and {path} lies elsewhere",
        where=str(folder),
        fix="Give another --output_dir to go on in.",
    )


def _begun_from(folder: Path, path: Path) -> bool:
    """Whether the folder's run went on from there, and has not yet come to a checkpoint."""
    if not _only_begun(folder) or checkpoints(folder) or not (folder / RECIPE).is_file():
        return False
    facts = read_recipe(folder).get("_run")
    run = facts.get("id") if isinstance(facts, dict) else None
    try:
        return run is not None and run == read_manifest(path).run
    except CheckpointError:
        return False


def _only_begun(folder: Path) -> bool:
    """Whether a run was stopped ahead of its first checkpoint: there is no model yet."""
    return (folder / RECIPE).is_file() and not _holds_model(folder)


def _holds_model(folder: Path) -> bool:
    return any(path for name in (MANIFEST, *_MODEL) for path in folder.glob(name))


def holds(folder: Path) -> str | None:
    """What the folder holds that would be lost, in words."""
    if (folder / RECIPE).exists():
        return "a run"
    if checkpoints(folder):
        return f"checkpoints ({checkpoints(folder)[-1].name})"
    return "a model" if _holds_model(folder) else None


def _nothing_there(where: Path) -> ConfigError:
    what, fix = "there is no checkpoint to go on from", "Leave --resume out to start afresh."
    return ConfigError(what, where=str(where), fix=fix)


def changed(
    before: Any, settings: Mapping[str, Any] | None, among: Collection[str] | None = None
) -> dict[str, tuple[Any, Any]]:
    """Name of each setting that differs -> what it was and is, inner ones by a dot."""
    old = _flat(before) if isinstance(before, dict) else {}
    now = _flat(json.loads(json.dumps(settings))) if settings is not None else old
    pairs = {name: (old.get(name), now.get(name)) for name in {**old, **now}}
    wanted = pairs if among is None else [n for n in pairs if n.partition(".")[0] in among]
    return {name: pairs[name] for name in wanted if pairs[name][0] != pairs[name][1]}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings under names with dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _listed(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """The first few settings that differ."""
    said = [f"{name} {old!r}, now it is {new!r}" for name, (old, new) in changed.items()]
    return "; ".join(said[:3]) + ("; …" if len(said) > 3 else "")


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except DataError:
        return {}


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
