"""Run folders for the report."""

from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from orpo.report.page import Figure
from tests.report.runs import BuildRun, full_files, recipe_of, write_run


@pytest.fixture
def build_run(tmp_path: Path) -> BuildRun:
    """Writes a run folder."""

    def build(name: str = "everyday", recipe: dict[str, Any] | None = None, **files: Any) -> Path:
        return write_run(tmp_path / name, recipe_of() if recipe is None else recipe, **files)

    return build


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their figures, for tests of what they say."""
    monkeypatch.setattr(Figure, "inline", Markup("<svg></svg>"))


@pytest.fixture
def no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn once, as SVG: a PNG is the same painting."""
    monkeypatch.setattr(Figure, "png", b"\x89PNG")


@pytest.fixture
def full_run(build_run: BuildRun) -> Path:
    """A finished run with everything in its folder."""
    return build_run(**full_files())
