"""`orpo evaluate preference`."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.commands.evaluate import claim, finish, show
from orpo.data.sources import open_source
from orpo.errors import ConfigError, DataError
from orpo.options import argument, option, training_settings
from orpo.quantities import as_count
from orpo.runs.files import RECIPE, REPORT, SCORES, ensure_reachable, found_names, read_recipe
from orpo.setting_types import as_declared

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
        "columns",
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
    model, folder = Path(options.model), options.output_dir
    recipe = found_names(read_recipe(model), model) if (model / RECIPE).is_file() else {}
    names, share = _held_out(recipe, options.dataset)  # said before torch is loaded
    ensure_reachable(options.model)
    from orpo.evaluate.loading import started_from  # noqa: PLC0415
    from orpo.evaluate.preference import evaluation  # noqa: PLC0415

    own = {"dtype": options.dtype, "per_device_eval_batch_size": options.batch_size}
    with tempfile.TemporaryDirectory(prefix="orpo-") as scratch:
        config = evaluation.config_of(recipe, scratch, **own, **options.settings)
        rows = evaluation.held_out_rows(recipe, names, share, config)
        settings = {
            "model": options.model,
            "dataset": f"{100 * share:g} % of {' + '.join(names)}" if share else names[0],
            "baseline": options.baseline or started_from(options.model),
            **{name: getattr(config, name) for name in evaluation.OF_THE_RUN[:-1]},
            "dtype": config.model_dtype,
        }
        settings |= {"baseline": None} if options.no_baseline else {}
        claim(options, settings, more=(SCORES,))
        result = evaluation.PreferenceEvaluation(
            config, rows, settings, folder, say, must_compare=bool(options.baseline)
        ).run()
    found, page = finish(result, folder)
    account = result.results["after"].account
    title = (
        f"{as_count(account['pairs'], 'held-out pair')}, {as_count(account['prompts'], 'prompt')}"
    )
    first, *groups = page.tables
    show(first.columns, [_short(row) for row in first.rows], title)
    rows_of_groups: list[Sequence[str]] = []  # all kinds; what was before is on the page
    for one in groups:
        kept = [place for place, name in enumerate(one.columns) if name != "Before"]
        rows_of_groups.append((one.title.rpartition("by ")[2],))
        rows_of_groups += [
            _short((f"  {row[0]}", *(row[place] for place in kept[1:]))) for row in one.rows
        ]
    if groups:
        columns = [name for name in groups[0].columns if name != "Before"]
        show(columns, rows_of_groups, "prefers the chosen answer, by group")
    for line in (page.verdict, page.remarks[0], f"page: {folder / REPORT}"):
        say(line)
    return found


def _held_out(recipe: Mapping[str, Any], dataset: str | None) -> tuple[list[str], float | None]:
    """(the data sets, which can be opened; the share of them that the run held out, or None)."""
    share = None
    if dataset or recipe.get("eval_dataset"):
        names = [str(dataset or recipe["eval_dataset"])]
    elif recipe.get("held_out"):
        share = as_declared(recipe["held_out"], float, "held_out")
        names = as_declared(recipe.get("dataset") or [], list[str], "dataset")
    else:
        what = "is needed: the run held nothing out" if recipe else "is needed"
        raise ConfigError(
            what, where="--dataset", fix="Name held-out pairs: a file, a folder or a Hub id."
        )
    for name in names:
        try:
            open_source(name)
        except DataError as error:
            fix = error.fix if dataset else "The run names it; --dataset names another."
            raise DataError(error.what, where=error.where, fix=fix) from error
    return names, share


def _short(row: Sequence[str]) -> Sequence[str]:
    """Without the pairs that a verdict would need, for which a terminal has no room."""
    return (*row[:-1], row[-1].partition(";")[0])
