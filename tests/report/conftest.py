"""Run folders for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orpo.run_folder import (
    EVALUATION,
    EVENTS,
    METRICS,
    RECIPE,
    SAMPLES,
    write_json,
    write_jsonl,
    write_yaml,
)
from tests.report.runs import (
    EVALUATION_OF,
    TOTALS,
    BuildRun,
    held_out_lines,
    recipe_of,
    sample_rows,
    training_lines,
)


@pytest.fixture
def build_run(tmp_path: Path) -> BuildRun:
    """Writes a run folder; give None to leave a file out."""

    def build(
        *,
        name: str = "everyday",
        recipe: dict[str, Any] | None = None,
        metrics: list[dict[str, Any]] | None = None,
        evaluation: dict[str, Any] | None = None,
        samples: list[dict[str, Any]] | None = None,
        events: list[dict[str, Any]] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_yaml(folder / RECIPE, recipe_of() if recipe is None else recipe)
        if metrics is not None:
            text = "".join(json.dumps(line) + "\n" for line in metrics)
            (folder / METRICS).write_text(text, encoding="utf-8")
        if evaluation is not None:
            write_json(folder / EVALUATION, evaluation)
        if samples is not None:
            write_jsonl(folder / SAMPLES, samples)
        if events is not None:
            write_jsonl(folder / EVENTS, events)
        return folder

    return build


@pytest.fixture
def full_run(build_run: BuildRun) -> Path:
    """A finished run with everything in its folder."""
    return build_run(
        metrics=[*training_lines(), *held_out_lines(), TOTALS],
        evaluation=EVALUATION_OF,
        samples=sample_rows(),
        events=[{"step": 120, "kind": "resumed", "message": "going on from checkpoint-120"}],
    )
