"""`orpo push`: a run's model on the Hub, with a card of its real numbers and its recipe.

What is committed is made fit to be read by all, looked through for what must not leave this
machine, and sent in one commit: all of it or nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from orpo.commands.console import console, say
from orpo.errors import CheckpointError, ConfigError
from orpo.options import argument, asked, option
from orpo.runs.checkpoints import ensure_as_committed
from orpo.runs.files import RECIPE, Run, base_model_id, read_run, yaml_text
from orpo.runs.lock import lock_holder
from orpo.runs.manifest import MANIFEST, Manifest, read_manifest
from orpo.runs.public import public_config, public_recipe, refuse_leaks
from orpo.runs.reading import read_object
from orpo.terminal import spelled_out

if TYPE_CHECKING:
    from orpo.commands.hub import PushFile

EXAMPLES = """\
examples:
  orpo push run me/my-model --dry_run
  orpo push run me/my-model --private --license apache-2.0
  orpo push lora-run me/my-model --merge
  orpo push lora-run me/my-adapter --base_model Qwen/Qwen2.5-0.5B

The token is that of `hf auth login` or HF_TOKEN; HF_ENDPOINT names another Hub. What goes up: the
model or adapter, its tokenizer, the card with the numbers of the run, the recipe without paths of
this machine, and the curves. Rows, answers and checkpoints stay here."""

_CARD = "README.md"
_PICTURES = ("loss", "logps", "accuracy")
_LARGEST_PICTURE = 300_000  # bytes
_UNMERGED = ("config.json", "generation_config.json", "model.safetensors")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Options:
    """The run, the repository, and what the run does not know.

    Raises:
        ConfigError: A name that the Hub would refuse.
    """

    run: str = argument("RUN", help="run folder")
    repo: str = argument("REPO", help="owner/name on the Hub; made if it is not there")
    private: bool = option(False, help="make the repository private")
    revision: str | None = option(None, metavar="BRANCH", help="branch; default main")
    merge: bool = option(False, help="push the adapter merged into its base model")
    base_model: str | None = option(None, metavar="ID", help="Hub id of the base model")
    license: str | None = option(
        None, metavar="ID", help="licence, such as apache-2.0; default the base model's"
    )
    message: str | None = option(None, help="of the commit")
    overwrite: bool = option(False, help="replace another model that is there")
    dry_run: bool = option(False, help="show it all, send nothing")
    json: bool = asked("json")

    def __post_init__(self) -> None:
        """Check what can be checked without the run."""
        if not _fits(self.repo):
            raise ConfigError(
                f"{self.repo!r} is no name of a repository",
                where="REPO",
                fix="Give owner/name, in letters, digits, -, _ and dots.",
            )
        if self.base_model is not None and not _fits(self.base_model):
            raise ConfigError(
                f"{self.base_model!r} is no Hub id", where="--base_model", fix="Give owner/name."
            )
        if self.license is not None and not _LICENCE.fullmatch(self.license):
            raise ConfigError(
                f"{self.license!r} is no licence id of the Hub",
                where="--license",
                fix="Give one such as apache-2.0, mit, llama3.2 or other.",
            )
        for flag, text in (("--message", self.message), ("--revision", self.revision)):
            if text is not None and not text.strip():
                raise ConfigError("is empty", where=flag, fix="Leave it out.")


def _fits(name: str) -> bool:
    return bool(_REPO.fullmatch(name)) and not re.search(r"--|\.\.|\.git$|[.-]$", name)


@dataclass(frozen=True)
class Pushable:
    """A run that can be pushed as asked.

    Attributes:
        options: What was asked for.
        run: What the run folder says.
        manifest: Of its model, every byte of which is as it was committed.
        base: Hub id of the model that it started from, if it has one.
    """

    options: Options
    run: Run
    manifest: Manifest
    base: str | None


@dataclass(frozen=True)
class PushPlan:
    """What would be pushed.

    Attributes:
        files: Everything that the repository is to hold.
        card: The text of README.md.
        licence: Licence id, or an empty string.
        notes: What was decided, or is not known, in words.
    """

    options: Options
    files: list[PushFile]
    card: str
    licence: str
    notes: list[str] = field(default_factory=list)

    @property
    def message(self) -> str:
        """Of the commit."""
        name = Path(self.options.run).resolve().name
        return self.options.message or f"{name}, pushed with orpo"

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "repo": self.options.repo,
            "private": self.options.private,
            "revision": self.options.revision or "main",
            "message": self.message,
            "license": self.licence or None,
            "files": [{"name": one.name, "size": one.size} for one in self.files],
            "card": self.card,
            "notes": self.notes,
        }


def run(options: Options) -> dict[str, Any]:
    """Push, or show what would be pushed."""
    what = pushable(options)  # what is wrong here is said before anybody is asked
    if options.dry_run:
        plan = plan_push(what)
        if not options.json:
            _show(plan)
        return plan.as_dict()
    from orpo.commands.hub import Hub  # noqa: PLC0415 - loads the Hub's library

    hub = Hub(options.repo, options.revision)
    private, overwrite = options.private, options.overwrite
    there = hub.check(what.manifest.run, private=private, overwrite=overwrite)
    if options.merge:
        from orpo.evaluate.merging import merge_once  # noqa: PLC0415 - loads torch

        merge_once(what.run.path, say=say)
    unknown = not options.license and not licence_known_here(what.run, what.base)
    plan = plan_push(what, hub.licence_of(what.base) if unknown else None)
    for note in plan.notes:
        say(note)
    made = ((one.name, one.content) for one in plan.files if isinstance(one.content, bytes))
    refuse_leaks(made, hub.token)
    url = hub.push(plan.files, plan.message, there, private=options.private)
    say(f"pushed: {url}")
    return {**plan.as_dict(), "url": url}


def _show(plan: PushPlan) -> None:
    print(plan.card)
    told = plan.as_dict()
    kind = "private repository" if plan.options.private else "repository"
    console.print(
        f"[bold]{kind} {escape(plan.options.repo)}, branch {escape(told['revision'])}[/bold]"
    )
    for one in plan.files:
        size = "after merging" if one.size is None else f"{one.size:,} bytes"
        console.print(f"  {escape(spelled_out(one.name)):<32} {size}", highlight=False)
    console.print(f"commit: {escape(plan.message)}", highlight=False)
    for note in plan.notes:
        say(note)
    say("dry run: nothing was sent")


def pushable(options: Options) -> Pushable:
    """Make sure that a run can be pushed; reads the run folder, and nothing of the network.

    Raises:
        DataError: It is no run folder.
        CheckpointError: Its model is not what was committed.
        ConfigError: It cannot be pushed as it is; says why.
    """
    run = read_run(options.run)
    manifest = _sound(run.path)
    adapter = bool(run.facts.get("adapter"))
    if options.merge and not adapter:
        raise ConfigError(
            "there is no adapter to merge", where="--merge", fix="The run is a whole model already."
        )
    base = options.base_model or base_model_id(run)
    if adapter and not options.merge and base is None:
        raise ConfigError(
            f"the adapter's base model is a folder of this machine ({run.recipe.get('model')})",
            where=options.run,
            fix="--base_model ID says which model of the Hub it is; --merge pushes a whole model.",
        )
    return Pushable(options, run, manifest, base)


def plan_push(what: Pushable, licence: Mapping[str, str] | None = None) -> PushPlan:
    """Decide what is sent, and make what has to be made for it.

    Args:
        what: From `pushable`.
        licence: What the base model's card says, where it was asked; looked for here if absent.

    Raises:
        ConfigError: A file of the run folder holds what must not leave this machine.
    """
    options, run, base = what.options, what.run, what.base
    from orpo.commands.hub import PushFile  # noqa: PLC0415 - loads the Hub's library
    from orpo.train.card import About, model_card  # noqa: PLC0415 - loads torch

    known = (
        {"license": options.license}
        if options.license
        else licence or licence_known_here(run, base)
    )
    pictures = _pictures(run)
    about = About(
        name=options.repo.split("/")[1],
        base_model=base or "",
        licence=known,
        merged=options.merge,
        repo=options.repo,
        pictures={one[0]: name for name, one in pictures.items()},
    )
    card = model_card(run, about)
    place, names = _weights(what)
    recipe = yaml_text(public_recipe(run.recipe))
    made = {_CARD: card.encode(), RECIPE: recipe.encode(), **_made_public(place, names, base)}
    refuse_leaks(made.items(), None)
    files = [
        *(PushFile(name, _there(place / name)) for name in names if name not in made),
        *(PushFile(name, content) for name, content in made.items()),
        *(PushFile(name, content) for name, (_, content) in pictures.items()),
    ]
    files.sort(key=lambda one: one.name)
    return PushPlan(options, files, card, known.get("license", ""), _notes(what, known))


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


def _weights(what: Pushable) -> tuple[Path, list[str]]:
    """The folder of the model that is pushed, and which of its files belong to it."""
    names = list(what.manifest.files)
    if not what.options.merge:
        return what.run.path, names
    from orpo.evaluate.merging import merged_folder  # noqa: PLC0415 - loads torch

    merged = merged_folder(what.run.path)
    if merged is not None:
        return merged, list(read_manifest(merged).files)
    tokenizer = [name for name in names if not name.startswith("adapter_")]
    return what.run.path, [*tokenizer, *_UNMERGED]


def _made_public(folder: Path, names: list[str], base: str | None) -> dict[str, bytes]:
    """Those of the model's settings that named a path; every other file goes as it is."""
    made = {}
    for name in names:
        path = folder / name
        if not name.endswith("config.json") or not path.is_file():
            continue
        config = read_object(path)
        public = public_config(config, base)
        text = json.dumps(public, indent=2, ensure_ascii=False) + "\n"
        made[name] = path.read_bytes() if public == config else text.encode()
    return made


def _there(path: Path) -> Path | None:
    """A file that goes as it is; None for what merging is yet to make."""
    return path if path.is_file() else None


def _pictures(run: Run) -> dict[str, tuple[str, bytes]]:
    """Path in the repository -> title and PNG of the curves that say most."""
    from orpo.report.curves import run_figures  # noqa: PLC0415 - loads matplotlib
    from orpo.report.series import read_curves  # noqa: PLC0415

    drawn = {one.name: one for one in run_figures(read_curves(run.metrics))}
    made = {
        f"figures/{name}.png": (drawn[name].title, drawn[name].png)
        for name in _PICTURES
        if name in drawn
    }
    return {name: one for name, one in made.items() if len(one[1]) <= _LARGEST_PICTURE}


def _notes(what: Pushable, licence: Mapping[str, str]) -> list[str]:
    options, run, base = what.options, what.run, what.base
    notes = []
    if base is None:
        notes.append("base model: a folder of this machine; --base_model ID names it on the Hub")
    elif not options.base_model and not run.facts.get("model_commit"):
        notes.append(f"base model: {base}, by its name; --base_model ID names another")
    if not licence:
        notes.append("licence: not known; --license ID names it")
    elif not options.license:
        notes.append(f"licence: {licence['license']}, as the base model's card says")
    if options.merge and _weights(what)[0] == run.path:
        notes.append("the adapter is merged into its base model first")
    if not run.evaluation.get("after"):
        notes.append("the run held no pairs out: the card shows numbers of the training only")
    return notes


def licence_known_here(run: Run, base_model: str | None) -> dict[str, str]:
    """What the base model's card says of its licence, if it lies in its folder or in the cache."""
    from huggingface_hub import (  # noqa: PLC0415 - loads for a while
        metadata_load,
        try_to_load_from_cache,
    )

    from orpo.commands.hub import licence_in  # noqa: PLC0415

    folder = Path(str(run.recipe.get("model") or "")).expanduser()
    paths = [folder / "README.md"] if folder.is_dir() else []
    cached = try_to_load_from_cache(base_model, "README.md") if base_model else None
    for path in (*paths, *([Path(cached)] if isinstance(cached, str) else [])):
        try:
            header = metadata_load(path) if path.is_file() else None
        except (OSError, ValueError):  # a card that cannot be read says nothing
            continue
        if found := licence_in(header or {}):
            return found
    return {}
