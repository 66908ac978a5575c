"""`orpo doctor`: what is installed and would be chosen, or what of a run folder is sound."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.commands.console import console, rows_table, say
from orpo.errors import CheckpointError, ConfigError, DataError, ModelError, OrpoError
from orpo.options import argument, asked, option
from orpo.runs.diagnosis import Diagnosis, Saved, examine_folder
from orpo.runs.files import RECIPE
from orpo.runs.reading import read_object
from orpo.runs.typed import typed
from orpo.terminal import json_line

if TYPE_CHECKING:
    import torch

EXAMPLES = """\
examples:
  orpo doctor
  orpo doctor --model Qwen/Qwen2.5-0.5B
  orpo doctor run
  orpo doctor run/checkpoint-200 --json

With RUN the exit code is 0 if all that is there is sound, 1 if something is damaged."""
_OPTIONAL = {
    "bitsandbytes": "QLoRA",
    "flash-attn": "faster attention on CUDA",
    "deepspeed": "ZeRO",
    "wandb": "logging",
    "tensorboard": "logging",
}
_IN_PYTHON = "trainer.train(resume_from_checkpoint={}), with the same model, data and settings"


@dataclass(frozen=True)
class Options:
    """Optionally a run folder or a model to look at."""

    run: str | None = argument(
        "RUN",
        None,
        help="run folder, checkpoint or saved model: what is sound, what can be done with it",
    )
    model: str | None = option(None, help="folder or Hub id: what would be done with it")
    json: bool = asked("json")


def run(options: Options) -> dict[str, Any]:
    """Look, and print a table."""
    if options.run and options.model:
        raise ConfigError("not both at once", where="RUN and --model", fix="Give one of them.")
    if options.run:
        return _run(options.run, json=options.json)
    found, rows = _machine(), list[list[str]]()
    if options.model:
        found["model"] = _model(options.model)
    for group, value in found.items():
        named = {f"{group}: {n}": v for n, v in value.items()} if isinstance(value, dict) else None
        told = {group: value} if named is None else named
        rows += [[n, "not installed" if v is None else str(v)] for n, v in told.items()]
    console.print(rows_table(["what", "found"], rows, lines=False))
    return found


def _machine() -> dict[str, Any]:
    """What is installed, what device there is, and what a run would choose on it."""
    import psutil  # noqa: PLC0415 - not for --help
    import torch  # noqa: PLC0415 - heavy

    from orpo.train.recorder import versions  # noqa: PLC0415 - loads torch

    memory, info = psutil.virtual_memory(), Path("/proc/cpuinfo")
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device: dict[str, Any] = {
            "kind": "cuda",
            "count": torch.cuda.device_count(),
            "name": properties.name,
            "memory_gib": _gib(properties.total_memory),
            "bf16": torch.cuda.is_bf16_supported(),
        }
    elif torch.backends.mps.is_available():
        device = {"kind": "mps"}
    else:  # Linux tells whether there are matrix instructions for bf16
        device = {
            "kind": "cpu",
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "bf16": info.is_file() and "bf16" in info.read_text(encoding="utf-8"),
        }
    return {
        "versions": versions(),
        "optional": {name: _version(name) for name in _OPTIONAL},
        "device": device,
        "memory_gib": {"total": _gib(memory.total), "available": _gib(memory.available)},
        "disk_free_gib": _gib(shutil.disk_usage(Path.cwd()).free),
        "offline": bool(os.environ.get("HF_HUB_OFFLINE")),
        "would_choose": {
            "device": str(device["kind"]),
            "engine": "shared where the model allows it",
            "precision": "fp32; --bf16 true is fast here" if device.get("bf16") else "fp32",
        },
    }


def _model(name: str) -> dict[str, Any]:
    """What a run would do with this model."""
    from transformers import AutoConfig  # noqa: PLC0415 - heavy

    from orpo.engine.select import expect_engine  # noqa: PLC0415 - loads torch
    from orpo.train.models import UNREADABLE  # noqa: PLC0415 - loads torch

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except UNREADABLE as error:
        raise ModelError(f"cannot be read ({_first_line(error)})", where=name) from error
    found = {"model": name, "type": config.model_type}
    if getattr(config, "is_encoder_decoder", False):
        return {**found, "trainable": "no: encoder-decoder"}
    return {**found, "trainable": "yes", "engine": expect_engine(config)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gib(size: int) -> float:
    return round(size / 2**30, 1)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), repr(error))


def _run(name: str, *, json: bool) -> dict[str, Any]:
    found = examine_folder(name, look_into)
    said, commands = verdict(found), next_commands(found)
    console.print(rows_table(["what", "found"], _rows(found), lines=False))
    for line in (
        *(f"note: {note}" for note in found.notes),
        *(f"damaged: {problem}" for problem in found.problems),
        said,
        *(f"next: {command}" for command in commands),
    ):
        say(line)
    result = {**found.as_dict(), "verdict": said, "next": commands}
    if found.problems:
        if json:
            print(json_line(result))
        more = len(found.problems) - 1
        rest = f", and {more} more" if more else ""
        raise OrpoError(f"{found.folder}: {found.problems[0]}{rest}")
    return result


@dataclass(frozen=True)
class _Index:
    weight_map: dict[str, str]


def look_into(found: Saved) -> None:
    """Read the weights one by one, the configuration and the tokenizer; fills in what is found."""
    folder = Path(found.path)
    if found.kind == "model" and not found.holds:
        found.damage = "holds no *.safetensors"
        return
    try:
        found.tensors, found.not_finite = _count(folder)
    except CheckpointError as error:
        found.damage = error.what
        return
    found.base, found.loads = _would_load(folder, found.holds)


def _count(folder: Path) -> tuple[int, dict[str, dict[str, int]]]:
    """Tensors, and those with values that are no numbers; holds one tensor at a time."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - with torch

    seen: dict[str, set[str]] = {}
    counts: dict[str, dict[str, int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if not path.is_file():
            raise CheckpointError(f"{path.name} is no file")
        try:
            with safe_open(path, framework="pt") as file:
                seen[path.name] = set(file.keys())
                counts |= {name: _of_tensor(file.get_tensor(name)) for name in seen[path.name]}
        except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(f"{path.name} cannot be read ({error})") from error
    _require_shards(folder, seen)
    return sum(map(len, seen.values())), {name: n for name, n in sorted(counts.items()) if n}


def _of_tensor(values: torch.Tensor) -> dict[str, int]:
    if not values.is_floating_point():
        return {}
    if values.element_size() == 1:  # torch does not ask eight bits whether they are finite
        values = values.float()
    if bool(values.isfinite().all()):
        return {}
    nan = int(values.isnan().sum())
    return {"nan": nan, "inf": int((~values.isfinite()).sum()) - nan, "of": values.numel()}


def _require_shards(folder: Path, seen: dict[str, set[str]]) -> None:
    """What an index promises is in the files that it names."""
    for index in folder.glob("*.safetensors.index.json"):
        try:
            named = typed(_Index, read_object(index), where=index.name).weight_map
        except DataError as error:
            raise CheckpointError(f"{index.name} cannot be read ({error})") from error
        for weight, shard in named.items():
            if weight not in seen.get(shard, ()):
                lacks = f"lacks {weight}" if shard in seen else "is missing"
                raise CheckpointError(f"{shard} {lacks}")


def _would_load(folder: Path, holds: str) -> tuple[str | None, str | None]:
    """The base model, if there is one, and the first obstacle to loading, if any is seen."""
    from transformers import AutoConfig  # noqa: PLC0415 - heavy

    from orpo.config import ORPOConfig  # noqa: PLC0415 - loads torch
    from orpo.train.adapters import base_of_adapter  # noqa: PLC0415 - loads torch
    from orpo.train.models import UNREADABLE, load_tokenizer  # noqa: PLC0415 - loads torch

    base: str | None = None
    try:
        if holds == "adapter":
            base = base_of_adapter(folder)
            if base.startswith(("/", ".", "~")) and not Path(base).expanduser().is_dir():
                return None, f"its base model {base} is not there"
        else:
            AutoConfig.from_pretrained(str(folder))
        load_tokenizer(str(folder), ORPOConfig(output_dir="unused"))
    except ModelError as error:
        return base, error.what
    except UNREADABLE as error:
        return base, f"config.json cannot be used ({_first_line(error)})"
    return base, None


def _rows(found: Diagnosis) -> list[list[str]]:
    """[what, found] for everything in a folder, in the order in which it was written."""
    rows = [[found.kind, found.folder]]
    if found.kind == "run":
        logged = found.metrics
        steps = f"{logged.steps} logged steps, the last is {logged.last_step}{_of(found)}"
        rows += [
            [RECIPE, f"run {found.run or 'without a name'}" if found.recipe else "cannot be used"],
            ["metrics.jsonl", logged.damage or (steps if logged.steps else "no logged step")],
            ["written to now", found.writer or "by nobody"],
        ]
        if found.unfinished:
            rows.append(["unfinished saves", ", ".join(found.unfinished)])
    rows += [[Path(saved.path).name, _in_words(saved, found)] for saved in found.checkpoints]
    if found.model or found.kind == "run":
        rows.append(["model", _in_words(found.model, found) if found.model else "not saved yet"])
    rows += [[name, fault or "readable"] for name, fault in found.pages.items()]
    for event in found.events.last:
        said = f"step {event.get('step')}: {event.get('kind')}: {event.get('message')}"
        rows.append(["event", said])
    return rows


def _in_words(saved: Saved, found: Diagnosis) -> str:
    if saved.damage:
        return f"damaged: {saved.damage}"
    size, tensors, broken = saved.size, saved.tensors, len(saved.not_finite)
    weights = f"{broken} of {tensors} weights are not finite" if broken else "all weights finite"
    if not tensors:
        weights = "weights are sharded and were not looked into"
    words = {
        saved.holds or "model": "model" in (saved.kind, found.kind),
        f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB": True,
        (saved.written or "").replace("T", " ").removesuffix("+00:00") + " UTC": saved.written,
        "verifies" if saved.committed else "no manifest": True,
        f"adapter of {saved.base}": saved.base,
        weights: tensors is not None,
        "resumable" if saved.resumable else "holds no optimizer": saved.kind == "checkpoint",
        "--resume takes it": saved is found.resume and found.kind == "run",
    }
    return ", ".join(word for word, holds in words.items() if holds)


def verdict(found: Diagnosis) -> str:
    """One sentence on what the folder is good for."""
    if found.kind == "checkpoint":
        (saved,) = found.checkpoints
        can = "gone on from and loaded" if saved.resumable else "loaded, not gone on from"
        sound = f"the checkpoint of step {saved.step} is sound; it can be {can}"
        return sound if saved.usable else "the checkpoint is damaged: do not use it"
    if found.kind == "run" or found.model is None:
        return _of_run(found)
    model = found.model
    if not model.usable:
        return "the model is damaged: do not use it"
    if found.problems or model.loads:
        return "the model cannot be loaded"
    unknown = "" if model.committed else " as far as can be told without a manifest"
    return f"the {model.holds or 'model'} is sound{unknown}"


def _of_run(found: Diagnosis) -> str:
    model, healthy, last = found.model, found.healthy, found.metrics.last_step
    if found.writer:
        reached = "before its first logged step" if last is None else f"at step {last}{_of(found)}"
        return f"running {reached}: {found.writer} is writing here"
    if model and model.usable and found.ended:
        damaged = len(found.problems)
        but = f"; {damaged} other {'thing is' if damaged == 1 else 'things are'} damaged"
        return f"finished at step {model.step}: the model is sound{but if damaged else ''}"
    if healthy is None:
        alone = "only its model can be used" if model and model.usable else "nothing can be used"
        return f"there is no checkpoint to go on from: {alone}"
    if found.max_steps is not None and healthy.step == found.max_steps:
        state = "is damaged" if model else "was not saved in the run folder"
        return f"finished at step {healthy.step}: the model {state}; its last checkpoint is sound"
    step = healthy.step or 0
    again = (
        f"; the steps up to {last} that were logged are done again" if (last or 0) > step else ""
    )
    return f"stopped: step {step}{_of(found)} is sound and can be gone on from{again}"


def next_commands(found: Diagnosis) -> list[str]:
    """What to type next, the best first; empty where there is nothing to do."""
    folder, model, healthy = Path(found.folder), found.model, found.healthy
    if found.writer:
        return []
    if found.kind == "checkpoint":
        (saved,) = found.checkpoints
        goes_on = [_go_on(folder.parent, found, saved, named=True)] if saved is healthy else []
        other = [f"orpo doctor {shlex.quote(str(folder.parent))}"]
        return [*goes_on, *_chat(saved)] if saved.usable else other
    loads = _chat(model) if model and model.usable else []
    if found.kind == "model" or (loads and found.ended):
        return loads
    if healthy is None:
        afresh = [_train(folder, found, str(folder / RECIPE), "--overwrite")]
        return loads or (afresh if _typed(found) else [])
    if not _typed(found) and found.max_steps is not None and healthy.step == found.max_steps:
        return _chat(healthy)
    return [_go_on(folder, found, healthy, named=healthy is not found.resume), *_chat(healthy)]


def _typed(found: Diagnosis) -> bool:
    """Whether the run was started on the command line."""
    return bool(found.recipe.get("model") and found.recipe.get("dataset"))


def _of(found: Diagnosis) -> str:
    return f" of {found.max_steps}" if found.max_steps else ""


def _chat(saved: Saved) -> list[str]:
    usable = saved.holds and not saved.loads
    return [f"orpo chat {shlex.quote(saved.path)}"] if usable else []


def _go_on(folder: Path, found: Diagnosis, saved: Saved, *, named: bool) -> str:
    """The command; a run that was started in Python goes on in Python."""
    if not _typed(found):
        return _IN_PYTHON.format(repr(saved.path) if named else True)
    own = folder / RECIPE
    recipe = own if own.is_file() else Path(saved.path) / RECIPE
    return _train(folder, found, str(recipe), "--resume", *([saved.path] if named else []))


def _train(folder: Path, found: Diagnosis, *words: str) -> str:
    """`orpo train`, with where the run lies if its recipe does not say so, and as many ranks."""
    told, facts = Path(str(found.recipe.get("output_dir") or "")), found.recipe.get("_run")
    moved = [] if told.resolve() == folder.resolve() else ["--output_dir", str(folder)]
    ranks = facts.get("world_size") if isinstance(facts, dict) else None
    several = ["--nproc", str(ranks)] if isinstance(ranks, int) and ranks > 1 else []
    return shlex.join(["orpo", "train", *words, *moved, *several])
