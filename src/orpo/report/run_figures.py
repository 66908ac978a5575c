"""The pictures of a run as figures that stand alone."""

from __future__ import annotations

from orpo.report.captions import captions
from orpo.report.curves import paint_alone, size_of
from orpo.report.evaluation.page import Drawing, draw_figures
from orpo.report.evaluation.types import Figure
from orpo.report.series import read_curves
from orpo.runs import Run

__all__ = ["run_figures"]


def run_figures(run: Run) -> list[Drawing]:
    """Every figure of the run's page, with its legend in it."""
    return draw_figures(
        tuple(
            Figure(
                one.name, one.title, one.seen, size_of(one.plot), paint_alone(one.plot, one.legend)
            )
            for one in captions(read_curves(run.metrics))
        )
    )
