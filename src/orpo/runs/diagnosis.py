"""What a run folder, a checkpoint or a model folder is good for; nothing in it is changed."""

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orpo.errors import CheckpointError, ConfigError, DataError
from orpo.runs.checkpoints import checkpoints
from orpo.runs.commit import unfinished
from orpo.runs.files import EVALUATION, EVENTS, METRICS, RECIPE, REPORT, SAMPLES, read_recipe
from orpo.runs.lock import lock_holder
from orpo.runs.manifest import MANIFEST, read_manifest, verify
from orpo.runs.reading import parse_json, read_object

_STATE, _PROGRESS = "trainer_state.json", "progress.json"
_LAST_EVENTS = 5


@dataclass
class Saved:
    """A checkpoint or a model, as it is found on the disk."""

    path: str
    kind: str  # "checkpoint" or "model"
    holds: str  # "model", "adapter", or "" where the weights are in neither form
    run: str | None = None
    step: int | None = None
    size: int = 0
    written: str | None = None  # in UTC
    committed: bool = False  # has a manifest
    resumable: bool = False
    damage: str | None = None  # what makes it unusable
    tensors: int | None = None  # weights that were looked into; None if they were not
    not_finite: dict[str, dict[str, int]] = field(default_factory=dict)  # weight -> nan, inf, of
    base: str | None = None  # the model that an adapter belongs to
    loads: str | None = None  # why it cannot be loaded though it is sound

    @property
    def usable(self) -> bool:
        """Whether it is what was written, and every weight that was looked into is a number."""
        return self.damage is None and not self.not_finite


Look = Callable[[Saved], None]


@dataclass
class Logged:
    """The metrics file."""

    lines: int = 0  # whole ones
    steps: int = 0  # of training, that were logged
    last_step: int | None = None
    torn: bool = False  # the last line was cut off, as a kill does
    damage: str | None = None  # a line that cannot be read
    gaps: list[tuple[int, int]] = field(default_factory=list)  # steps with none between
    backwards: list[int] = field(default_factory=list)  # or the same step twice
    not_finite: list[int] = field(default_factory=list)  # steps whose loss is no number


@dataclass
class Events:
    """What happened beside the steps."""

    count: int = 0
    last: list[dict[str, Any]] = field(default_factory=list)
    broken: int = 0  # lines that a kill cut off


@dataclass
class Diagnosis:
    """What was found in a folder."""

    folder: str
    kind: str  # "run", "checkpoint" or "model"
    recipe: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    max_steps: int | None = None  # if a checkpoint says so
    ended: bool = False  # took its last step and saved its model
    writer: str | None = None  # which process writes here now
    unfinished: list[str] = field(default_factory=list)  # saves that were begun
    checkpoints: list[Saved] = field(default_factory=list)  # oldest first
    resume: Saved | None = None  # the one that `--resume` takes
    healthy: Saved | None = None  # the newest one to go on from whose weights are numbers
    model: Saved | None = None  # what lies in the folder itself
    metrics: Logged = field(default_factory=Logged)
    events: Events = field(default_factory=Events)
    pages: dict[str, str | None] = field(default_factory=dict)  # name -> what is wrong with it
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; of the recipe only what tells where the run came from."""
        found = asdict(self)
        found["recipe"] = {name: self.recipe.get(name) for name in ("model", "dataset")}
        for name in ("resume", "healthy"):
            found[name] = found[name] and Path(found[name]["path"]).name
        return {**found, "sound": not self.problems}


def examine_folder(name: str, look: Look) -> Diagnosis:
    """Look at everything in a run folder, a checkpoint or a model that can be verified.

    `look` fills in what is found in the weights, the configuration and the tokenizer of one. What
    is none of these is a ConfigError.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError("no such folder", where=name, fix="Give the output_dir of a run.")
    found = Diagnosis(str(folder), _kind(folder))
    if found.kind != "model":
        found.recipe, fault = _recipe(folder)
        found.problems += [fault] if fault else []
    if found.kind == "run":
        _examine_run(folder, found, look)
    elif found.kind == "checkpoint":
        found.checkpoints = [_saved(folder, "checkpoint")]
        _choose(found, look)
    else:
        found.model = _look_into(_saved(folder, "model"), look)
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
    if committed or _holds_model(folder):
        return "model"
    raise ConfigError(
        "is neither a run nor a checkpoint nor a model",
        where=str(folder),
        fix=f"A run has {RECIPE}, a model config.json and *.safetensors.",
    )


def _holds_model(folder: Path) -> bool:
    known = ((folder / name).is_file() for name in (MANIFEST, "config.json"))
    return any(known) or bool(_form(folder))


def _form(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    return "model" if any(folder.glob("*.safetensors")) else ""


# The run.


def _examine_run(folder: Path, found: Diagnosis, look: Look) -> None:
    found.writer, found.unfinished = lock_holder(folder), unfinished(folder)
    facts = found.recipe.get("_run")
    found.run = facts.get("id") if isinstance(facts, dict) else None
    for path in checkpoints(folder):
        saved = _saved(path, "checkpoint")
        if path.is_dir():  # a run that goes on deletes its oldest
            found.checkpoints.append(saved)
    _choose(found, look)
    if _holds_model(folder):
        found.model = _look_into(_saved(folder, "model"), look)
    states = [folder, *(Path(saved.path) for saved in _usable(found))]
    steps = [_object(place / _STATE).get("max_steps") for place in reversed(states)]
    found.max_steps = next((n for n in steps if isinstance(n, int) and n > 0), None)
    model = found.model
    if model is not None and model.step is not None and found.run in {None, model.run}:
        # A run that ends early by its own rule says so in the state that it writes last.
        found.ended = model.step in {found.max_steps, _object(folder / _STATE).get("global_step")}
    found.metrics = _metrics(folder, found.recipe, found.max_steps)
    # A run that goes on after a kill may have a broken line in the middle of its events.
    rows, broken, torn, _ = _lines(folder / EVENTS, "replace")
    found.events = Events(len(rows), rows[-_LAST_EVENTS:], len(broken) + torn)
    found.pages = _pages(folder)
    if found.resume is not None and not found.metrics.damage:
        # A checkpoint knows how many lines were logged when it was written.
        place, lines = Path(found.resume.path), found.metrics.lines
        known = _object(place / _PROGRESS).get("metric_lines")
        if isinstance(known, int) and lines < known:
            found.metrics.damage = (
                f"{METRICS} has {lines} lines where {place.name} knows of {known}"
            )


def _choose(found: Diagnosis, look: Look) -> None:
    """What `--resume` takes, by the rule of `newest_checkpoint`; and what it should take."""
    usable = list(reversed(_usable(found)))
    found.resume = next(iter(usable), None)
    for saved in found.checkpoints[-1:]:  # even if no run can go on from it
        _look_into(saved, look)
    found.healthy = next((one for one in usable if _look_into(one, look).usable), None)


def _usable(found: Diagnosis) -> list[Saved]:
    return [
        saved
        for saved in found.checkpoints
        if saved.damage is None and saved.resumable and found.run in {None, saved.run}
    ]


def _look_into(saved: Saved, look: Look) -> Saved:
    if saved.damage is None and saved.tensors is None:
        look(saved)
    return saved


def _saved(folder: Path, kind: str) -> Saved:
    """Compare a folder with its manifest, if it has one."""
    found = Saved(str(folder), kind, _form(folder), committed=(folder / MANIFEST).is_file())
    if not found.committed:
        found.size = sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
        if kind == "checkpoint":
            found.damage = f"has no {MANIFEST}: it was never committed"
        elif "model" in unfinished(folder):
            found.damage = "its save was cut off"
        return found
    written = (folder / MANIFEST).stat().st_mtime
    found.written = datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds")
    try:
        manifest = read_manifest(folder)
        found.run, found.step, found.size = manifest.run, manifest.step, manifest.size
        found.resumable = manifest.resumable
        verify(folder)
    except CheckpointError as error:
        found.damage = error.what
    return found


# What the run wrote down as it went.


def _recipe(folder: Path) -> tuple[dict[str, Any], str | None]:
    """The recipe, and what is wrong with it, if anything is."""
    if not (folder / RECIPE).is_file():
        return {}, f"{RECIPE} is missing"
    try:
        recipe = read_recipe(folder)
    except DataError as error:
        return {}, f"{RECIPE}: {' '.join(error.what.split())}"
    return recipe, None if recipe else f"{RECIPE} holds no settings"


def _metrics(folder: Path, recipe: dict[str, Any], max_steps: int | None) -> Logged:
    rows, broken, torn, damage = _lines(folder / METRICS)
    if broken and damage is None:
        damage = f"{METRICS}:{broken[0]} cannot be read"
    trained = [row for row in rows if "loss" in row and isinstance(row.get("step"), int)]
    steps = [row["step"] for row in trained]
    pairs = list(zip([0, *steps], steps, strict=False))
    every = recipe.get("logging_steps")  # steps between two logs, if that can be told
    if recipe.get("logging_strategy") != "steps" or not isinstance(every, int | float):
        every = None
    elif every < 1:
        every = math.ceil(max_steps * every) if max_steps else None
    return Logged(
        *(len(rows), len(steps), max(steps, default=None), torn, damage),
        [(one, next_) for one, next_ in pairs if every and next_ - one > int(every)],
        [next_ for one, next_ in pairs if next_ <= one],
        [row["step"] for row in trained if not _is_number(row["loss"])],
    )


def _pages(folder: Path) -> dict[str, str | None]:
    """Name of what is made of a run, if it is there -> what is wrong with it."""
    found: dict[str, str | None] = {}
    if (folder / EVALUATION).is_file():
        try:
            read_object(folder / EVALUATION)
            found[EVALUATION] = None
        except DataError as error:
            found[EVALUATION] = f"{EVALUATION} cannot be read ({error.what})"
    if (folder / SAMPLES).is_file():
        _, broken, torn, damage = _lines(folder / SAMPLES)
        cut = f"{SAMPLES}: line {broken[0]} cannot be read" if broken else None
        found[SAMPLES] = damage or cut or (f"{SAMPLES} was cut off" if torn else None)
    if (folder / REPORT).is_file():
        whole = (folder / REPORT).read_bytes().rstrip().endswith(b"</html>")
        found[REPORT] = None if whole else f"{REPORT} was cut off: draw it again with orpo report"
    return found


def _lines(
    path: Path, undecodable: str = "strict"
) -> tuple[list[dict[str, Any]], list[int], bool, str | None]:
    """Objects, numbers of broken lines, whether the last was cut off, and other damage."""
    if not path.is_file():
        return [], [], False, None
    try:
        lines = path.read_text(encoding="utf-8", errors=undecodable).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        return [], [], False, f"{path.name} cannot be read ({error})"
    rows, broken = list[dict[str, Any]](), list[int]()
    for number, line in enumerate(lines, start=1):
        value = None
        with suppress(ValueError):
            value = parse_json(line)
        if isinstance(value, dict):
            rows.append(value)
        elif line.strip():
            broken.append(number)
    torn = broken[-1:] == [len(lines)]  # no line end after it: it was being written
    return rows, broken[:-1] if torn else broken, torn, None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _object(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except DataError:
        return {}


# Problems and notes.


def _judge(found: Diagnosis) -> None:
    """Gather what is damaged, and what is only worth knowing."""
    for saved in [*found.checkpoints, *([found.model] if found.model else [])]:
        _judge_saved(found, saved)
    logged, notes = found.metrics, found.notes
    found.problems += [fault for fault in (logged.damage, *found.pages.values()) if fault]
    if found.unfinished and not found.writer:
        names = ", ".join(found.unfinished)
        notes.append(f"the save of {names} was cut off; the next run clears it away")
    if logged.torn and not found.writer:
        notes.append(f"the last line of {METRICS} was cut off, as by a kill; it is left out")
    if logged.gaps:
        spans = ", ".join(f"{before} and {after}" for before, after in logged.gaps[:3])
        more = " ..." if len(logged.gaps) > 3 else ""
        notes.append(f"{METRICS} has no line between steps {spans}{more}")
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
