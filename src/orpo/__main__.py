"""`python -m orpo` is the same as `orpo`."""

from orpo.commands.main import run

run()
