"""Pages of evaluations and comparisons: what a job hands over is what the page shows."""

from orpo.report.evaluation.types import Figure, Headline, Page, Passage, Table

__all__ = ["Figure", "Headline", "Page", "Passage", "Table"]
