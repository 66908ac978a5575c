"""`orpo convert-config`: another trainer's settings become a recipe that `orpo train` takes."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.errors import ConfigError, SaveError
from orpo.migrate.convert import Conversion, convert, recipe_text
from orpo.migrate.rules import PEERS
from orpo.options import argument, asked, option
from orpo.runs.writing import write_text

EXAMPLES = """\
examples:
  orpo convert-config llama_factory.yaml --output recipe.yaml
  orpo convert-config axolotl.yaml --json
  orpo convert-config orpo.yaml --from ms-swift --output recipe.yaml
  orpo convert-config trl.yaml accelerate.yaml --output recipe.yaml

A script for TRL runs with two changed imports: docs/migrate.md shows them."""

_OF_THE_DEVICE = {
    *("tf32", "bf16", "fp16", "bf16_full_eval", "fp16_full_eval", "use_cpu", "ddp_backend"),
}
"""What depends on the machine that trains, which need not be this one."""


@dataclass(frozen=True)
class Options:
    """Files, and where the recipe goes."""

    files: tuple[str, ...] = argument("FILE", help="YAML or JSON; several of one run")
    peer: str | None = option(
        None, flag="from", choices=tuple(PEERS), help="whose settings they are"
    )
    output: str | None = option(None, metavar="RECIPE.yaml", help="default: stdout")
    overwrite: bool = option(False, help="replace RECIPE.yaml")
    json: bool = asked("json")


def run(options: Options) -> dict[str, Any]:
    """Convert, check what came of it, and write it."""
    path = None if options.output is None else Path(options.output)
    if path is not None and path.exists() and not options.overwrite:
        raise ConfigError("is there already", where=str(path), fix="Add --overwrite.")
    found = convert(options.files, options.peer)
    _check(found)
    recipe = recipe_text(found)
    if path is not None:
        try:
            write_text(path, recipe)
        except OSError as error:
            raise SaveError(f"{path} could not be written: {error.strerror}") from error
    _tell(found)
    if path is not None:
        say(f"recipe: {path}")
        blanks = f"fill in {', '.join(found.blanks)} there, then " if found.blanks else ""
        more = "".join(f" --{name} {name.upper()}" for name in found.missing)
        say(f"next: {blanks}orpo train {path}{more}")
    elif not options.json:
        print(recipe, end="")
    return {**found.as_dict(), "recipe": None if path is None else str(path)}


def _check(found: Conversion) -> None:
    """Build what `orpo train` would build, as far as the recipe says it and any machine can."""
    from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch
    from orpo.train.job import TrainJob  # noqa: PLC0415 - with it

    left_out = {*found.blanks, *_OF_THE_DEVICE}
    if not (found.values.get("eval_dataset") or found.values.get("held_out")):
        left_out |= {"eval_strategy", "eval_steps"}
    known = {name: value for name, value in found.values.items() if name not in left_out}
    of_job = {field.name for field in fields(TrainJob)}
    needed = {"model": "MODEL", "dataset": "DATASET"}
    try:
        TrainJob(**{**needed, **{n: v for n, v in known.items() if n in of_job}})
        ORPOConfig(**{n: v for n, v in known.items() if n not in of_job}, use_cpu=True)
    except ConfigError as error:
        setting = next((s for s in found.settings if s.name == error.where.strip("-")), None)
        place = error.where if setting is None else setting.source.partition(";")[0]
        raise ConfigError(error.what, where=place, fix=error.fix) from error


def _tell(found: Conversion) -> None:
    lost, needless = found.of_kind("not supported"), found.of_kind("not needed")
    kept = len(found.outcomes) - len(lost) - len(needless)
    say(f"{', '.join(found.files)}: settings of {found.trainer}")
    say(
        f"{len(found.outcomes)} keys = {kept} converted + {len(needless)} not needed + "
        f"{len(lost)} not supported"
    )
    for one in (*needless, *lost):
        say(f"  {one.kind}: {one.key.name} ({one.key.where}): {one.said}")
    for name in found.missing:
        say(f"  the files do not say the {name}: give it as --{name}")
    if found.blanks:
        say(f"  fill in: {', '.join(found.blanks)}")
