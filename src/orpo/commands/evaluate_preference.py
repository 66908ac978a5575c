"""`orpo evaluate preference`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.commands.console import say
from orpo.commands.evaluate import finish, show
from orpo.errors import ConfigError
from orpo.options import argument, option, training_settings

if TYPE_CHECKING:
    from orpo.report.page import Table

EXAMPLES = """\
examples:
  orpo evaluate preference run
  orpo evaluate preference run --dataset heldout.jsonl --baseline base-model
  orpo evaluate preference model --dataset heldout.jsonl --no_baseline --json > result.json

A run folder needs nothing else: its recipe names the held-out pairs and the model that it
started from. Intervals are of 95 %, over prompts."""

_FOLDER = Path("orpo-eval-preference")


@dataclass(frozen=True)
class Options:
    """The model, the pairs, and what to compare with."""

    model: str = argument("MODEL", help="run folder, model folder, adapter folder or Hub id")
    dataset: str | None = option(
        None, help="held-out pairs: a file, a folder or a Hub id; default the run's own"
    )
    baseline: str | None = option(
        None, metavar="MODEL", help="compare with this; default what the run started from"
    )
    no_baseline: bool = option(False, help="compare with nothing")
    output_dir: Path = option(_FOLDER, help=f"default {_FOLDER}")
    overwrite: bool = option(False, help="replace another evaluation in output_dir")
    batch_size: int = option(16, help="pairs of a batch; default 16")
    dtype: str | None = option(
        None, help="dtype of the weights; default as in the run, or as they are saved"
    )
    settings: dict[str, Any] = training_settings(
        "data_format",
        "pair_rule",
        "max_length",
        "max_prompt_length",
        "truncation",
        "chat_template",
        "chat_template_kwargs",
        "trust_remote_code",
    )

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if self.baseline and self.no_baseline:
            raise ConfigError(
                "cannot be combined with --baseline", where="--no_baseline", fix="Use one of them."
            )


def run(options: Options) -> dict[str, Any]:
    """Score, and show tables."""
    from orpo.evaluate.loading import started_from  # noqa: PLC0415 - loads torch
    from orpo.evaluate.preference import evaluation  # noqa: PLC0415
    from orpo.runs.claim import claim_folder  # noqa: PLC0415
    from orpo.runs.files import EVALUATION, REPORT, SCORES  # noqa: PLC0415

    folder = options.output_dir
    own = {"dtype": options.dtype, "per_device_eval_batch_size": options.batch_size}
    with tempfile.TemporaryDirectory(prefix="orpo-") as scratch:
        config = evaluation.config_of(options.model, scratch, **own, **options.settings)
        rows, name = evaluation.held_out_rows(options.model, options.dataset, config)
        baseline = None if options.no_baseline else options.baseline or started_from(options.model)
        settings = evaluation.settings_of(options.model, name, baseline, config)
        written = (SCORES, EVALUATION, REPORT, "figures")
        claim_folder(folder, "evaluation", written, settings=settings, overwrite=options.overwrite)
        result = evaluation.PreferenceEvaluation(
            config, rows, settings, folder, say, must_compare=bool(options.baseline)
        ).run()
    found, page = finish(result, folder)
    after = result.results["after"]
    counts = [(after.account["pairs"], "held-out pair"), (after.account["prompts"], "prompt")]
    title = ", ".join(f"{count:,} {noun}{'s' * (count != 1)}" for count, noun in counts)
    first, *groups = page.tables
    show(first.columns, [_short(row) for row in first.rows], title)
    _show_groups(groups)
    say(page.remarks[0])
    say(page.verdict)
    say(f"page: {folder / REPORT}")
    return found


def _show_groups(groups: Sequence[Table]) -> None:
    """All kinds one below the other; what was before is on the page."""
    rows: list[Sequence[str]] = []
    for one in groups:
        kept = [place for place, name in enumerate(one.columns) if name != "Before"]
        rows.append((one.title.rpartition("by ")[2],))
        rows += [_short((f"  {row[0]}", *(row[place] for place in kept[1:]))) for row in one.rows]
    if rows:
        columns = [name for name in groups[0].columns if name != "Before"]
        show(columns, rows, "prefers the chosen answer, by group")


def _short(row: Sequence[str]) -> Sequence[str]:
    """Without the pairs that a verdict would need, for which a terminal has no room."""
    return (*row[:-1], row[-1].partition(";")[0])
