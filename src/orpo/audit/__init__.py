"""What is wrong with preference data before anything is trained on them.

views       a pair as three texts
checks      all checks of texts, one after another; each has a module of its own
length_bias, truncation   what lengths say
run         one pass over the rows; quick is its cheap part
findings    what comes out
"""

from orpo.audit.findings import VERDICTS, Audit, Example, Finding, Histogram
from orpo.audit.quick import headlines, quick_audit
from orpo.audit.run import AuditPlan, audit_rows

__all__ = [
    "VERDICTS",
    "Audit",
    "AuditPlan",
    "Example",
    "Finding",
    "Histogram",
    "audit_rows",
    "headlines",
    "quick_audit",
]
