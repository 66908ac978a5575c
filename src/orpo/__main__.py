"""`python -m orpo` is the same as `orpo`."""

from orpo.cli.main import run

run()
