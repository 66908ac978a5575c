"""Under which licence a base model is, as far as its own card says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load, try_to_load_from_cache

from orpo.runs import Run

__all__ = ["licence_in", "licence_known_here"]

_ENTRIES = ("license", "license_name", "license_link")


def licence_known_here(run: Run, base_model: str | None) -> dict[str, str]:
    """What the base model's card says of its licence, if that card is on this machine.

    Args:
        run: Names the folder of the model that it started from.
        base_model: Its Hub id, if it has one: a card may lie in the cache.
    """
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


def licence_in(header: Mapping[str, Any]) -> dict[str, str]:
    """The entries of a card's header that name a licence; none if there is none."""
    found = {name: header[name] for name in _ENTRIES if isinstance(header.get(name), str)}
    return found if "license" in found else {}
