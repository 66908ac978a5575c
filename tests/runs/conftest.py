"""Runs that are made once; a test works on its own copy."""

from tests.jobs.conftest import adapter_run, copied, finished_run

__all__ = ["adapter_run", "copied", "finished_run"]
