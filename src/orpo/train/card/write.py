"""A card: its header, which the Hub reads, and its text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.runs import Run, read_run, write_text
from orpo.train.card.body import card_body
from orpo.train.card.header import card_header

__all__ = ["About", "model_card", "write_model_card"]


@dataclass(frozen=True)
class About:
    """What a card says that the run does not know.

    Attributes:
        name: The model's name; that of the run folder if empty.
        base_model: Hub id of the model that the run started from; as the run says if empty.
        licence: `license`, and `license_name` and `license_link` where the licence is "other".
        language: Language codes.
        tags: Beside those of the method and the data.
        datasets: Hub ids beside those of the run.
        pipeline_tag: What the model is for.
        merged: The weights are whole, though the run trained an adapter.
        repo: Where the model is loaded from, in the card's example; none without.
        pictures: Title -> path, shown at the end.
    """

    name: str = ""
    base_model: str = ""
    licence: Mapping[str, str] = field(default_factory=dict)
    language: str | list[str] | None = None
    tags: list[str] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    pipeline_tag: str = "text-generation"
    merged: bool = False
    repo: str = ""
    pictures: Mapping[str, str] = field(default_factory=dict)


def model_card(run: Run, about: About) -> str:
    """The card of a run."""
    name = about.name or run.path.resolve().name
    header = card_header(run, about, name)
    return f"---\n{header.to_yaml()}\n---\n\n{card_body(run, about, name)}"


def write_model_card(folder: Path, **about: Any) -> None:
    """Write README.md of a run folder from its recipe and its measured numbers.

    Args:
        folder: The run folder.
        about: What transformers' `create_model_card` takes, by name: model_name, tags, language,
            license, finetuned_from, tasks, dataset_tags; the rest says nothing about a run.
    """
    licence = about.get("license")
    known = About(
        name=about.get("model_name") or "",
        base_model=about.get("finetuned_from") or "",
        licence={"license": licence} if licence else {},
        language=about.get("language"),
        tags=_listed(about.get("tags")),
        datasets=_listed(about.get("dataset_tags")),
        pipeline_tag=about.get("tasks") or "text-generation",
    )
    write_text(folder / "README.md", model_card(read_run(folder), known))


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])
