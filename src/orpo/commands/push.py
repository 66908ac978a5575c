"""`orpo push`: a run's model on the Hub, with a card of its real numbers and its recipe.

What is committed is made fit to be read by all, looked through for what must not leave this
machine, and sent in one commit: all of it or nothing.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.markup import escape

from orpo.commands.console import console, say
from orpo.errors import CheckpointError, refuse_first
from orpo.options import argument, asked, option
from orpo.runs.checkpoints import ensure_as_committed
from orpo.runs.files import RECIPE, Run, base_model_id, read_run, yaml_text
from orpo.runs.lock import lock_holder
from orpo.runs.manifest import MANIFEST, Manifest, read_manifest
from orpo.runs.public import public_config, public_recipe, refuse_leaks
from orpo.runs.reading import read_object
from orpo.terminal import spelled_out

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
_NAME = "Give owner/name, in letters, digits, -, _ and dots."
_GIVE, _OUT = "Give owner/name.", "Leave it out."
_LICENCES = "Give one such as apache-2.0, mit, llama3.2 or other."
_WHOLE = "The run is a whole model already."
_BASE = "--base_model ID says which model of the Hub it is; --merge pushes a whole model."


@dataclass(frozen=True)
class Options:
    """The run, the repository, and what the run does not know."""

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
        repo, base, licence = self.repo, self.base_model, self.license
        texts = (("--message", self.message), ("--revision", self.revision))
        refuse_first(
            (not _fits(repo), "REPO", f"{repo!r} is no name of a repository", _NAME),
            (base is not None and not _fits(base), "--base_model", f"{base!r} is no Hub id", _GIVE),
            (
                licence is not None and not _LICENCE.fullmatch(licence),
                *("--license", f"{licence!r} is no licence id of the Hub", _LICENCES),
            ),
            *((one is not None and not one.strip(), flag, "is empty", _OUT) for flag, one in texts),
        )


def _fits(name: str) -> bool:
    return bool(_REPO.fullmatch(name)) and not re.search(r"--|\.\.|\.git$|[.-]$", name)


@dataclass(frozen=True)
class Pushable:
    """A run that can be pushed as asked: every byte of its model is as it was committed."""

    options: Options
    run: Run
    manifest: Manifest  # of its model
    base: str | None  # Hub id of the model that it started from, if it has one

    def weights(self) -> tuple[Path, list[str]]:
        """The folder of the model that is pushed, and which of its files belong to it."""
        names = list(self.manifest.files)
        if not self.options.merge:
            return self.run.path, names
        from orpo.evaluate.loading import merged_folder  # noqa: PLC0415 - loads torch

        merged = merged_folder(self.run.path)
        if merged is not None:
            return merged, list(read_manifest(merged).files)
        tokenizer = [name for name in names if not name.startswith("adapter_")]
        return self.run.path, [*tokenizer, *_UNMERGED]


@dataclass(frozen=True)
class PushPlan:
    """What would be pushed."""

    options: Options
    # everything that the repository is to hold; None for what merging is yet to make
    files: dict[str, Path | bytes | None]
    card: str  # the text of README.md
    licence: str  # its id, or an empty string
    notes: list[str] = field(default_factory=list)  # what was decided, or is not known, in words

    @property
    def message(self) -> str:
        """Of the commit."""
        name = Path(self.options.run).resolve().name
        return self.options.message or f"{name}, pushed with orpo"

    @property
    def sizes(self) -> dict[str, int | None]:
        """Bytes of each file, if they are known."""
        return {
            name: one.stat().st_size if isinstance(one, Path) else None if one is None else len(one)
            for name, one in self.files.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "repo": self.options.repo,
            "private": self.options.private,
            "revision": self.options.revision or "main",
            "message": self.message,
            "license": self.licence or None,
            "files": [{"name": name, "size": size} for name, size in self.sizes.items()],
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
    from orpo.commands.hub import Hub, licence_here  # noqa: PLC0415 - loads the Hub's library

    hub = Hub(options.repo, options.revision)
    private, overwrite = options.private, options.overwrite
    there = hub.check(what.manifest.run, private=private, overwrite=overwrite)
    if options.merge:
        from orpo.evaluate.loading import merge_once  # noqa: PLC0415 - loads torch

        merge_once(what.run.path, say=say)
    unknown = not options.license and not licence_here(what.run, what.base)
    plan = plan_push(what, hub.licence_of(what.base) if unknown else None)
    for note in plan.notes:
        say(note)
    made = ((name, one) for name, one in plan.files.items() if isinstance(one, bytes))
    refuse_leaks(made, hub.token)
    url = hub.push(plan.files, plan.message, there, private=options.private)
    say(f"pushed: {url}")
    return {**plan.as_dict(), "url": url}


def _show(plan: PushPlan) -> None:
    print(plan.card)
    options = plan.options
    kind = "private repository" if options.private else "repository"
    branch = escape(options.revision or "main")
    console.print(f"[bold]{kind} {escape(options.repo)}, branch {branch}[/bold]")
    for name, size in plan.sizes.items():
        shown = "after merging" if size is None else f"{size:,} bytes"
        console.print(f"  {escape(spelled_out(name)):<32} {shown}", highlight=False)
    console.print(f"commit: {escape(plan.message)}", highlight=False)
    for note in (*plan.notes, "dry run: nothing was sent"):
        say(note)


def pushable(options: Options) -> Pushable:
    """Make sure that a run can be pushed; reads the run folder, and nothing of the network."""
    run = read_run(options.run)
    holder, where = lock_holder(run.path), str(run.path)
    refuse_first((holder, where, f"is being written by {holder}", "Wait for it."))
    if not (run.path / MANIFEST).is_file():
        what = f"holds no finished model (no {MANIFEST})"
        fix = "Push a run that has ended; `orpo doctor` says what is there."
        raise CheckpointError(what, where=where, fix=fix)
    manifest = read_manifest(run.path)
    checkpoint = manifest.kind != "model"
    refuse_first((checkpoint, where, "is a checkpoint", "Push the folder of the run."))
    ensure_as_committed(run.path)
    adapter = bool(run.facts.get("adapter"))
    base = options.base_model or base_model_id(run)
    what = f"the adapter's base model is a folder of this machine ({run.recipe.get('model')})"
    merges, alone = options.merge, adapter and not options.merge and base is None
    refuse_first(
        (merges and not adapter, "--merge", "there is no adapter to merge", _WHOLE),
        (alone, options.run, what, _BASE),
    )
    return Pushable(options, run, manifest, base)


def plan_push(what: Pushable, licence: Mapping[str, str] | None = None) -> PushPlan:
    """What is sent, and what is made for it; `licence` is that of the base model, if known."""
    options, run, base = what.options, what.run, what.base
    from orpo.commands.hub import licence_here  # noqa: PLC0415 - the Hub's library
    from orpo.train.card import About, model_card  # noqa: PLC0415 - loads torch

    given = {"license": options.license} if options.license else licence
    known = given or licence_here(run, base)
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
    place, names = what.weights()
    recipe = yaml_text(public_recipe(run.recipe))
    made = {_CARD: card.encode(), RECIPE: recipe.encode(), **_made_public(place, names, base)}
    refuse_leaks(made.items(), None)
    contents: dict[str, Path | bytes | None] = {
        **{name: path if (path := place / name).is_file() else None for name in names},
        **made,
        **{name: content for name, (_, content) in pictures.items()},
    }
    notes = _notes(what, known, merged=place != run.path)
    return PushPlan(options, dict(sorted(contents.items())), card, known.get("license", ""), notes)


def _made_public(folder: Path, names: list[str], base: str | None) -> dict[str, bytes]:
    """Those of the model's settings that named a path; every other file goes as it is."""
    made = {}
    for name in names:
        path = folder / name
        if name.endswith("config.json") and path.is_file():
            config = read_object(path)
            public = public_config(config, base)
            text = json.dumps(public, indent=2, ensure_ascii=False) + "\n"
            made[name] = path.read_bytes() if public == config else text.encode()
    return made


def _pictures(run: Run) -> dict[str, tuple[str, bytes]]:
    """Path in the repository -> title and PNG of the curves that say most."""
    from orpo.report.curves import run_figures  # noqa: PLC0415 - loads matplotlib
    from orpo.report.series import curves_of  # noqa: PLC0415

    return {
        f"figures/{one.name}.png": (one.title, one.png)
        for one in run_figures(curves_of(run))
        if one.name in _PICTURES and len(one.png) <= _LARGEST_PICTURE
    }


def _notes(what: Pushable, licence: Mapping[str, str], *, merged: bool) -> list[str]:
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
    if options.merge and not merged:
        notes.append("the adapter is merged into its base model first")
    if not run.evaluation.get("after"):
        notes.append("the run held no pairs out: the card shows numbers of the training only")
    return notes
