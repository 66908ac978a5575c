"""The files of a run folder: what they are called, what is in them, how they are read.

recipe.yaml       every setting as resolved; `_run` holds versions, engine, data accounts, and the
                  working directory, from which the settings name what they name
metrics.jsonl     one JSON object per logged step, flushed as it is written
events.jsonl      {"time", "step", "kind", "message", ...}: what happened beside the steps
audit.json        what the quick audit of the training data found
evaluation.json   {"before": {...}, "after": {...}} on held-out pairs, if there were any, and the
                  {"verdict": {"word", "says", ...}}
samples.jsonl     {"prompt", "before", "after", ...}: answers to held-out prompts (text or turns)
scores.jsonl      {"row", "prompt", "before", "after"}: log-probabilities of held-out pairs
work.json         what training took: sequences, positions and operations, counted
README.md         the model card
report.html       the pictures

Models and data sets are called by a name where others read of them, never by a path, which tells of
the machine and its user.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orpo.errors import DataError, ModelError
from orpo.runs.hub import refusal
from orpo.runs.reading import load_yaml, parse_json, read_object, read_text
from orpo.runs.typed import typed
from orpo.runs.writing import write_text

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast, where it is
AUDIT, RECIPE, METRICS, EVENTS = "audit.json", "recipe.yaml", "metrics.jsonl", "events.jsonl"
EVALUATION, SAMPLES, SCORES = "evaluation.json", "samples.jsonl", "scores.jsonl"
REPORT = "report.html"
OTHER_TEMPLATE = "in place of the model's own"
"""In the note of a run whose chat template is not the one that its model came with."""
NAMES = (
    *("model", "tokenizer", "dataset", "eval_dataset", "chat_template"),
    *("deepspeed", "fsdp_config"),
)
"""Settings that may name a file or a folder which is read."""


@dataclass(frozen=True)
class Run:
    """What a run folder says about its run."""

    path: Path  # the folder
    recipe: dict[str, Any]  # settings by name; `_run` holds what was found out while running
    metrics: list[dict[str, Any]]  # logged steps in order
    # metrics on held-out pairs "before" and "after" training; may be empty
    evaluation: dict[str, dict[str, float]] = field(default_factory=dict)
    # answers to held-out prompts; may be empty
    samples: list[dict[str, Any]] = field(default_factory=list)
    # what happened beside the steps; may be empty
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def facts(self) -> dict[str, Any]:
        """The `_run` part of the recipe."""
        facts: dict[str, Any] = self.recipe.get("_run", {})
        return facts

    @property
    def training(self) -> list[dict[str, Any]]:
        """The logged training steps."""
        return [line for line in self.metrics if "loss" in line]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The logged evaluations during training."""
        return [line for line in self.metrics if "eval_loss" in line]


def require_folder(path: str | Path) -> Path:
    """The folder of a run; a DataError if it is not there."""
    if not Path(path).is_dir():
        raise DataError("no such folder", where=str(path), fix="Give the output_dir of a run.")
    return Path(path)


def require_adapter(path: str | Path) -> None:
    """Make sure that a folder holds an adapter; a ModelError if it does not."""
    if not (Path(path) / ADAPTER_FILE).is_file():
        raise ModelError(
            "holds no adapter to merge (no adapter_config.json)",
            where=str(path),
            fix=_inside(Path(path), ADAPTER_FILE) or "A run without LoRA is a whole model already.",
        )


def read_run(path: str | Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: It is no run folder, or one of its files is broken.
    """
    folder = require_folder(path)
    if not (folder / RECIPE).is_file():
        raise DataError(
            f"is not a run folder: it has no {RECIPE}",
            where=str(path),
            fix="Give the output_dir of a run.",
        )
    recipe = read_recipe(folder)
    return Run(
        folder,
        recipe,
        read_jsonl(folder / METRICS),
        _evaluation(folder / EVALUATION),
        read_jsonl(folder / SAMPLES),
        read_jsonl(folder / EVENTS),
    )


def _evaluation(path: Path) -> dict[str, dict[str, Any]]:
    values = read_object(path) if path.is_file() else {}
    return typed(dict[str, dict[str, Any]], values, where=str(path))


def read_recipe(folder: Path) -> dict[str, Any]:
    """The recipe in a run folder or a checkpoint."""
    path = folder / RECIPE
    text = read_text(path)
    try:
        recipe = load_yaml(text)
    except yaml.YAMLError as error:
        raise DataError(f"broken YAML ({error})", where=str(path)) from error
    if not isinstance(recipe, dict):
        raise DataError("holds no settings", where=str(path))
    if not isinstance(recipe.get("_run", {}), dict):
        recipe["_run"] = {}  # someone has edited it: nothing is known that the run found out
    return recipe


def run_of_recipe(file: str | Path) -> Path | None:
    """The run folder that a recipe lies in, itself or in a checkpoint; None if it is another's."""
    folder = _run_folder(Path(file).parent)
    own = Path(file).name == RECIPE and (folder / RECIPE).is_file()
    known = own and "id" in (read_recipe(folder).get("_run") or {})
    return Path(os.path.relpath(folder)) if known else None


def _run_folder(folder: Path) -> Path:
    """The folder of the run, of its own or of a checkpoint's folder."""
    whole = folder.resolve()
    return whole.parent if whole.name.startswith("checkpoint-") else whole


def found_names(recipe: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe that lies in a folder, with what it names as it is found from here.

    The names of a run are meant from where it was started: so many folders above its own as its
    output_dir says, or else the working directory on record. Others are meant from here, or from
    the recipe's own folder. What is found nowhere, such as a Hub id, stays as it is.
    """
    run, places = recipe.get("_run"), [Path(), folder]
    if isinstance(run, dict):
        own, out = _run_folder(folder), Path(str(recipe.get("output_dir") or ".")).parts
        beside = 0 < len(out) < len(own.parts) and own.parts[-len(out) :] == out
        recorded = Path(str(run.get("started_in") or "."))
        places = [own.parents[len(out) - 1], recorded] if beside else [recorded]
    found = {name: _from(places, recipe[name]) for name in NAMES if name in recipe}
    return {**recipe, **found}


def spelled_as(now: Mapping[str, Any], recipe: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The recipe of a folder, in which the names of what is meant now as well are spelled so."""
    found = {**found_names(recipe, folder), "output_dir": str(folder.resolve().parent)}
    shared = {*NAMES, "output_dir"} & now.keys() & found.keys()
    same = {name: now[name] for name in shared if _place(found[name]) == _place(now[name])}
    return {**recipe, **same}


def _from(places: Iterable[Path], name: Any) -> Any:
    if isinstance(name, list):
        return [_from(places, one) for one in name]
    if not isinstance(name, str) or not name or name.startswith(("/", "~")):
        return name
    there = next((place for place in places if _exists(place / name)), Path())
    return name if there.resolve() == Path.cwd() else str(there / name)


def _place(name: Any) -> Any:
    if isinstance(name, list):
        return [_place(one) for one in name]
    there = isinstance(name, str) and _exists(Path(name).expanduser())
    return os.path.realpath(Path(name).expanduser()) if there else name


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or no path at all
        return False


def write_yaml(path: Path, value: Any) -> None:
    """Write settings in the order given."""
    write_text(path, yaml_text(value))


def yaml_text(value: Any) -> str:
    """Settings in the order given, as they are written."""
    style: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 100}
    text: str = yaml.dump(value, Dumper=_DUMPER, **style)
    return text


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value, indented."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object per line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a file with one per line; none if it is not there."""
    if not path.is_file():
        return []
    # Not splitlines(): an answer may hold a Unicode line separator.
    lines = read_text(path).split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            if number == len(lines):
                break  # the last line of a run that was killed while writing it
            raise DataError(str(error), where=f"{path}:{number}") from error
        if not isinstance(value, dict):
            raise DataError(
                f"expected an object, found {type(value).__name__}", where=f"{path}:{number}"
            )
        rows.append(value)
    return rows


ADAPTER_FILE = "adapter_config.json"
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DATA_FILES = re.compile(r"\.(jsonl?|csv|parquet|ya?ml|txt)(\.gz)?$", re.I)


def short_name(value: object) -> str:
    """A Hub id as it is, a path by its last part, several names one after the other."""
    if isinstance(value, list):
        return ", ".join(filter(None, (short_name(one) for one in value)))
    if isinstance(value, dict):
        return ", ".join(short_name(name) for name in value)
    text = str(value or "")
    is_path = text.startswith((".", "/", "~", "\\")) or re.match(r"[A-Za-z]:\\", text)
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] if is_path else text


def hub_id(name: object) -> str | None:
    """The "owner/name" of a Hub id, without revision and split; None for what is a path.

    A relative path of two parts looks like an id: it is one if nothing lies there.
    """
    text = str(name or "")
    if Path(text).expanduser().exists() or _DATA_FILES.search(text):
        return None
    plain = re.split("[@:]", text, maxsplit=1)[0]
    return plain if _ID.fullmatch(plain) else None


def base_model_id(run: Run) -> str | None:
    """The Hub id of the model that a run started from; None if it came from a folder."""
    name = str(run.recipe.get("model") or "")
    if run.facts.get("model_commit"):  # only what came from the Hub has one
        return name
    found = str(found_names(run.recipe, run.path).get("model") or "")
    return hub_id(found) if not (run.path.parent / name).exists() else None


def hub_datasets(names: Iterable[object]) -> list[str]:
    """The Hub ids among the names of data sets, each once."""
    return list(dict.fromkeys(found for found in map(hub_id, names) if found))


def located(name: str, *enough: str) -> str:
    """The folder of this name, or the name as a Hub id.

    A name that looks like a path must exist, so that no Hub error hides a typing mistake. Beside
    those of a model, a file out of `enough` makes a folder the right one.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", ADAPTER_FILE, *enough)):
            raise ModelError(
                "the folder holds no model (no config.json)",
                where=name,
                fix=_inside(path) or "Give a folder written by save_pretrained, or a Hub id.",
            )
        return str(path)
    like_a_path = name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1
    if path.is_file() or like_a_path:
        raise ModelError(
            "no such model folder", where=name, fix="Give a folder of a model, or a Hub id."
        )
    return name


def ensure_reachable(name: str, *enough: str, kind: str = "model") -> None:
    """Refuse a model that is neither a folder nor on the Hub, before torch is loaded.

    What the Hub's cache holds is there, whatever the Hub says; and a slow Hub may answer later.
    `enough` are files of which one would do, beside those of a model.
    """
    if Path(located(name, *enough)).is_dir():
        return
    from huggingface_hub import HfApi, try_to_load_from_cache  # noqa: PLC0415 - half a second

    files = ("config.json", ADAPTER_FILE, *enough)
    try:
        kept = (try_to_load_from_cache(name, file) for file in files)
        if not any(isinstance(file, str) for file in kept):
            HfApi().model_info(name, timeout=5)
    except Exception as error:  # of the Hub, or of whichever library of HTTP it goes by
        status = getattr(getattr(error, "response", None), "status_code", 404)
        if status in {401, 403, 404} and "Timeout" not in type(error).__name__:
            plain = f"is no folder here and no {kind} that the Hub gives ({error})"
            what, fix = refusal(error, name, kind) or (plain, "Give a folder, or a Hub id.")
            raise ModelError(what, where=name, fix=fix) from error


def _inside(folder: Path, *names: str) -> str:
    """What would do: a checkpoint of a run that is not finished, or adapters that peft has put."""
    names = names or ("config.json", ADAPTER_FILE)
    found = sorted({path.parent for name in names for path in folder.glob(f"*/{name}")})
    steps = [path for path in found if path.name.startswith("checkpoint-")]
    if steps:
        newest = max(steps, key=lambda path: (len(path.name), path.name))
        more = f"`orpo train {folder / RECIPE} --resume` goes on"
        return f"The run is not finished: {more}, and {newest} would do."
    return f"{' and '.join(map(str, found))} would do." if found else ""
