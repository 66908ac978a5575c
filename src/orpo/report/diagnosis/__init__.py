"""What a run's curves say about its settings, in words, with the evidence and what to try."""

from orpo.report.diagnosis.rules import RULES, diagnose
from orpo.report.diagnosis.types import Finding, Observed

__all__ = ["RULES", "Finding", "Observed", "diagnose"]
