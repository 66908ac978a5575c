"""The page: everything of a run, put into one HTML file."""

from __future__ import annotations

from dataclasses import replace

from orpo.report.account import datasets, events, facts, notes, settings, versions
from orpo.report.captions import captions
from orpo.report.cost import costs
from orpo.report.findings import data_findings, diagnosis_of
from orpo.report.samples import read_failures, read_samples
from orpo.report.series import read_curves
from orpo.report.tables import breakdowns, changes, counts
from orpo.report.template import rendered
from orpo.report.values import lasting
from orpo.report.words import verdict
from orpo.runs import RECIPE, Run

__all__ = ["render_page"]

_HEADLINES = ("preference_accuracy", "rewards/accuracies", "correct_answers")


def render_page(run: Run) -> str:
    """The report of a run as HTML; the same run gives the same text."""
    curves, table = read_curves(run.metrics), changes(run)
    told, diagnosis = verdict(run, curves), diagnosis_of(run, curves)
    if diagnosis.look:
        told = replace(told, remarks=(*told.remarks, diagnosis.sentence))
    return rendered(
        "page.html.jinja",
        name=lasting(str(run.recipe.get("run_name") or run.path.resolve().name), 120),
        facts=facts(run),
        verdict=told,
        headlines=[row for row in table if row.name in _HEADLINES and row.bar],
        changes=table,
        has_intervals=any(row.interval for row in table),
        counts=counts(run),
        breakdowns=breakdowns(run),
        figures=captions(curves),
        diagnosis=diagnosis,
        samples=read_samples(run),
        failures=read_failures(run),
        datasets=datasets(run),
        data_findings=data_findings(run),
        costs=costs(run),
        notes=notes(run),
        events=events(run),
        settings=settings(run),
        versions=versions(run),
        recipe=RECIPE,
    )
