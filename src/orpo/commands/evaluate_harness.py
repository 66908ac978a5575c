"""`orpo evaluate harness`: benchmarks of a model, and of the one that it is compared with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.commands.evaluate import ANSWERS, claim, finish, show
from orpo.errors import ModelError
from orpo.evaluate.settings import HarnessPlan
from orpo.options import argument, group, option
from orpo.runs.files import EVALUATION, REPORT, ensure_reachable, write_json, write_jsonl
from orpo.runs.typed import plain

EXAMPLES = """\
examples:
  orpo evaluate harness run --tasks ifeval --apply_chat_template
  orpo evaluate harness run --tasks arc_easy,hellaswag --num_fewshot 5 --no_baseline
  orpo evaluate harness run --tasks my_task --include_path my-tasks --limit 100 --json

A run is compared with the model that it started from. Needs the extra: pip install
'orpo[harness]'. Most tasks load their data from the Hub; those in --include_path may use files of
your own. The same command goes on where it was broken off."""

_FOLDER = Path("orpo-eval-harness")


@dataclass(frozen=True)
class Options:
    """The model, the tasks, and what to compare with."""

    model: str = argument("MODEL", help="run folder, model folder, adapter folder or Hub id")
    baseline: str | None = option(
        None, metavar="MODEL", help="compare with this; default what the run started from"
    )
    no_baseline: bool = option(False, help="compare with nothing")
    output_dir: Path = option(_FOLDER, help=f"default {_FOLDER}")
    overwrite: bool = option(False, help="replace another evaluation in output_dir")
    dtype: str = option("auto", help="dtype of the weights")
    trust_remote_code: bool = option(False, help="allow the models' own code to run")
    plan: HarnessPlan = group(HarnessPlan, "what is asked of the harness")


def run(options: Options) -> dict[str, Any]:
    """Measure, and show a table."""
    from orpo.evaluate.harness import PARTS, compared, find_tasks, measure  # noqa: PLC0415
    from orpo.evaluate.results import HarnessResult  # noqa: PLC0415

    for name in filter(None, (options.model, options.baseline)):
        ensure_reachable(name)
    manager = find_tasks(options.plan)
    baseline = None if options.no_baseline else options.baseline or _own_base(options.model)
    names = {"after": options.model, **({"before": baseline} if baseline else {})}
    from orpo.train.recorder import versions  # noqa: PLC0415 - loads torch

    how = {"dtype": options.dtype, "trust_remote_code": options.trust_remote_code}
    folder, settings = options.output_dir, _settings(options, baseline, names)
    claim(options, settings, (ANSWERS, PARTS))
    write_json(folder / EVALUATION, plain(HarnessResult(settings)))
    measured = {
        moment: measure(manager, options.plan, name, (folder / PARTS, moment), how, say)
        for moment, name in names.items()
    }
    after = measured.pop("after")
    both = {**measured, "after": after}
    lines = [{"moment": m, **plain(row)} for m, one in both.items() for row in one.documents]
    write_jsonl(folder / ANSWERS, lines)
    result = HarnessResult(
        settings=settings,
        models=names,
        versions=versions("lm_eval"),
        account={
            row.task: {"questions": row.of, "asked": row.n, "left_out": {"limit": row.of - row.n}}
            for row in after.scores
        },
        notes=[note for one in both.values() for note in one.notes],
        results=compared(measured.get("before"), after),
    )
    found, page = finish(result, folder)
    for note in result.notes:
        say(f"the harness says: {note}")
    show(page.tables[0].columns, page.tables[0].rows)
    say(f"page: {folder / REPORT}")
    return found


def _settings(options: Options, baseline: str | None, names: Mapping[str, str]) -> dict[str, Any]:
    """What decides the scores: a folder of other settings is another evaluation's."""
    from orpo.evaluate.generation import weights_digest  # noqa: PLC0415 - loads torch

    plan = asdict(options.plan)
    del plan["batch_size"]
    return {
        "model": options.model,
        "baseline": baseline,
        **plan,
        "tasks": list(options.plan.tasks),
        "dtype": options.dtype,
        "weights": [weights_digest(name) for name in names.values()],
    }


def _own_base(model: str) -> str | None:
    """What a run started from, if it is still there."""
    from orpo.evaluate.loading import started_from  # noqa: PLC0415 - loads torch

    base = started_from(model)
    try:
        ensure_reachable(base or model)
    except ModelError as error:
        say(f"compared with nothing, --baseline names another: {error}")
        return None
    return base
