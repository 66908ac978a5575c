"""What models and data sets are called where others read it: a name, never a path of this machine.

A recipe names them as the user did: a Hub id, or a path. Whoever reads a page, a card or a recipe
elsewhere can do nothing with a path, and it tells of the machine and its user.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from orpo.errors import ModelError

if TYPE_CHECKING:
    from orpo.runs.files import Run

__all__ = ["base_model_id", "hub_datasets", "hub_id", "short_name"]

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
    return hub_id(name) if not (run.path.parent / name).exists() else None


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
    if path.is_file() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(
            "no such model folder", where=name, fix="Give a folder of a model, or a Hub id."
        )
    return name


def _inside(folder: Path) -> str:
    """Where peft has put adapters of names of their own."""
    found = sorted(folder.glob(f"*/{ADAPTER_FILE}"))
    return f"{' and '.join(str(path.parent) for path in found)} would do." if found else ""
