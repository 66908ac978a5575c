"""What is wrong with preference data before anything is trained on them."""

from orpo.data.audit.types import VERDICTS, Audit, Example, Finding, Histogram

__all__ = ["VERDICTS", "Audit", "Example", "Finding", "Histogram"]
