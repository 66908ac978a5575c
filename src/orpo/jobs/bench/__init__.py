"""The bench: our trainer beside TRL's on the same rows, step by step in turn.

spec       what one side is told
rows       the rows as plain text, of a data set or (`synthetic`) of given lengths
trainers   a spec becomes the side's real trainer
worker     a process that takes one step of its trainer whenever it is told "go"
processes  the other end of its pipes
figures    steps become rates, ratios and memory; `flops` says how much work a pair is
bench_job  all of it, in order
"""

from orpo.jobs.bench.bench_job import BenchJob, run_bench
from orpo.jobs.bench.spec import CHECKPOINTING, PEERS, PRECISIONS

__all__ = ["CHECKPOINTING", "PEERS", "PRECISIONS", "BenchJob", "run_bench"]
