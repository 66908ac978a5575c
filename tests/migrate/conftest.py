"""Files of settings, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orpo.commands.options import ask
from orpo.config import ORPOConfig
from orpo.migrate.convert import Conversion, convert, recipe_text
from orpo.train.job import TrainJob

PUBLISHED = Path(__file__).parent / "published"
"""Small files with the keys of the trainers' own examples."""


def resolved(conversion: Conversion, folder: Path) -> tuple[TrainJob, ORPOConfig]:
    """What `orpo train RECIPE --model M --dataset D` makes of it, where the recipe lacks them."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe_text(conversion), encoding="utf-8")
    flags = {name: f"the {name}" for name in conversion.missing}
    asked = ask(str(recipe), flags)
    return asked.job, asked.config()


@pytest.fixture
def converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Conversion]:
    """`converted("name.yaml", text)`: the conversion of a file that is written for it."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, text: str, asked: str | None = None) -> Conversion:
        Path(name).write_text(text, encoding="utf-8")
        return convert([name], asked)

    return run
