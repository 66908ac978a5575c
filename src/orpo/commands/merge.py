"""`orpo merge`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.options import argument, option
from orpo.runs.claim import claim_new
from orpo.runs.files import require_adapter

EXAMPLES = """\
examples:
  orpo merge run merged
  orpo merge run merged --dtype bfloat16"""


@dataclass(frozen=True)
class Options:
    """The adapter's folder and a new one."""

    run: str = argument("RUN", help="folder with a LoRA adapter")
    out: str = argument("OUT", help="new folder for the merged model")
    dtype: str = option(
        "auto", choices=("auto", "float32", "bfloat16", "float16"), help="of the merged weights"
    )


def run(options: Options) -> dict[str, Any]:
    """Merge and save."""
    require_adapter(options.run)
    claim_new(Path(options.out))
    from orpo.evaluate.loading import merge_adapter  # noqa: PLC0415 - loads torch

    folder = merge_adapter(options.run, options.out, dtype=options.dtype)
    say(f"merged model: {folder}")
    return {"model": str(folder)}
