"""`python -m orpo.cli` is the same as `orpo`."""

from orpo.cli.main import run

run()
