"""The recommended recipe: what the user gave, with the two knobs turned."""

from __future__ import annotations

import textwrap
from pathlib import Path

from orpo.jobs.tune.spec import TuneJob, Values
from orpo.runs import RECIPE, write_text, yaml_text

__all__ = ["write_recipe"]


def write_recipe(job: TuneJob, values: Values, words: list[str]) -> Path:
    """Write recipe.yaml, which `orpo train` runs as it stands.

    Args:
        job: What was tuned.
        values: The two knobs.
        words: What a reader has to know, one paragraph each; written as comments.
    """
    path = job.folder / RECIPE
    settings = {**job.kept(), **values.as_dict(), "output_dir": str(job.folder / "run")}
    head = [f"orpo train {path}", *words, "Names of files are as seen from where it was tuned."]
    lines = [line for text in head for line in (*textwrap.wrap(text, 96), "")]
    comments = "\n".join(f"# {line}".rstrip() for line in lines[:-1])
    write_text(path, f"{comments}\n{yaml_text(settings)}")
    return path
