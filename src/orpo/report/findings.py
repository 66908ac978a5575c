"""What the run's page says about its settings and its data."""

from __future__ import annotations

from dataclasses import dataclass

from orpo.report.audit.reading import Finding as DataFinding
from orpo.report.audit.reading import findings
from orpo.report.diagnosis import diagnose
from orpo.report.diagnosis.rules import TITLES, summary
from orpo.report.diagnosis.types import observed
from orpo.report.series import Curves
from orpo.report.values import mapping
from orpo.runs import AUDIT, Run, read_object

__all__ = ["Diagnosis", "Point", "data_findings", "diagnosis_of"]


@dataclass(frozen=True)
class Point:
    """What a rule says, under its title."""

    title: str
    verdict: str
    evidence: str
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """What the rules say.

    Attributes:
        sentence: All of them together.
        look: Those that apply.
        rest: Those that do not, and those that could not be judged.
    """

    sentence: str
    look: list[Point]
    rest: list[Point]


def diagnosis_of(run: Run, curves: Curves) -> Diagnosis:
    """What the curves, the answers and the settings of a run say together."""
    found = diagnose(observed(run, curves))
    points = [Point(TITLES[one.name], one.verdict, one.evidence, one.advice) for one in found]
    return Diagnosis(
        summary(found),
        [one for one in points if one.verdict == "look"],
        [one for one in points if one.verdict != "look"],
    )


def data_findings(run: Run) -> list[DataFinding]:
    """What the audit found worth a look, if the run folder has one."""
    try:
        audit = mapping(read_object(run.path / AUDIT))
    except (OSError, ValueError):
        return []
    return [one for one in findings(audit.get("findings")) if one.verdict != "ok"]
