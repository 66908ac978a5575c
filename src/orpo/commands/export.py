"""`orpo export`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.jobs.export_job import OUTTYPES, ExportJob, plan_export, run_export

EXAMPLES = """\
examples:
  orpo export run model.gguf --llama_cpp ~/llama.cpp
  orpo export run model-q8.gguf --outtype q8_0
  orpo export run model.gguf --dry_run

The converter is llama.cpp's own convert_hf_to_gguf.py, of --llama_cpp, $LLAMA_CPP or the PATH;
pip install 'orpo[export]' has what it needs. An adapter is merged into its base model first."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The model, the file, and the converter."""
    add = parser.add_argument
    add("model", metavar="RUN", help="run folder, model folder or adapter folder")
    add("output", metavar="OUT.gguf", type=Path, help="the file to write")
    add("--outtype", choices=OUTTYPES, default="auto", help="numbers; auto: 16 bits, losing least")
    add("--llama_cpp", "--llama-cpp", metavar="FOLDER", type=Path, help="folder of llama.cpp")
    add("--overwrite", action="store_true", help="replace the file")
    add("--trust_remote_code", "--trust-remote-code", action="store_true")
    add("--dry_run", "--dry-run", action="store_true", help="show the command, write nothing")


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Convert, or show how."""
    job = ExportJob(
        given.model,
        given.output,
        given.outtype,
        given.llama_cpp,
        given.overwrite,
        given.trust_remote_code,
    )
    if not given.dry_run:
        return run_export(job, say=say)
    plan = plan_export(job, dry=True)
    for note in plan.notes:
        say(note)
    if not given.json:
        print(shlex.join(plan.command))
    return {"command": plan.command, "notes": plan.notes}
