"""`orpo evaluate harness`: benchmarks of a model, and of the one that it is compared with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.commands.console import say
from orpo.commands.evaluate import ANSWERS, claim, finish, show
from orpo.evaluate.settings import HarnessPlan
from orpo.options import argument, group, option

if TYPE_CHECKING:
    from orpo.evaluate.harness import TaskResult
    from orpo.evaluate.loading import Answerer
    from orpo.evaluate.results import HarnessResult

EXAMPLES = """\
examples:
  orpo evaluate harness run --tasks ifeval --apply_chat_template
  orpo evaluate harness run --tasks arc_easy,hellaswag --num_fewshot 5 --baseline base-model
  orpo evaluate harness run --tasks my_task --include_path my-tasks --limit 100 --json

Needs the extra: pip install 'orpo[harness]'. Most tasks load their data from the Hub; those in
--include_path may use files of your own. The same command goes on where it was broken off."""

_FOLDER = Path("orpo-eval-harness")


@dataclass(frozen=True)
class Options:
    """The model, the tasks, and what to compare with."""

    model: str = argument("MODEL", help="run folder, model folder, adapter folder or Hub id")
    baseline: str | None = option(None, metavar="MODEL", help="compare with this model")
    output_dir: Path = option(_FOLDER, help=f"default {_FOLDER}")
    overwrite: bool = option(False, help="replace another evaluation in output_dir")
    dtype: str = option("auto", help="dtype of the weights")
    trust_remote_code: bool = option(False, help="allow the models' own code to run")
    plan: HarnessPlan = group(HarnessPlan, "what is asked of the harness")


def run(options: Options) -> dict[str, Any]:
    """Measure, and show a table."""
    from orpo.evaluate.harness import PARTS, find_tasks, measure  # noqa: PLC0415
    from orpo.evaluate.results import HarnessResult  # noqa: PLC0415
    from orpo.runs.files import EVALUATION, REPORT, write_json, write_jsonl  # noqa: PLC0415
    from orpo.runs.typed import plain  # noqa: PLC0415

    manager = find_tasks(options.plan)
    from orpo.evaluate.loading import load_answerer  # noqa: PLC0415 - loads torch

    def load(name: str) -> Answerer:
        trusted = options.trust_remote_code
        return load_answerer(name, dtype=options.dtype, trust_remote_code=trusted)

    folder, settings = options.output_dir, _settings(options)
    claim(folder, settings, (ANSWERS, PARTS), overwrite=options.overwrite)
    write_json(folder / EVALUATION, plain(HarnessResult(settings)))
    names = {"after": options.model}
    if options.baseline is not None:
        names["before"] = options.baseline
    measured = {
        moment: measure(manager, options.plan, name, (folder / PARTS, moment), load, say)
        for moment, name in names.items()
    }
    result = _result(settings, names, measured)
    in_order = [moment for moment in ("before", "after") if moment in measured]
    rows = ((moment, row) for moment in in_order for row in measured[moment].documents)
    write_jsonl(folder / ANSWERS, [{"moment": moment, **plain(row)} for moment, row in rows])
    found, page = finish(result, folder)
    for note in result.notes:
        say(f"the harness says: {note}")
    show(page.tables[0].columns, page.tables[0].rows)
    say(f"page: {folder / REPORT}")
    return found


def _result(
    settings: dict[str, Any], names: dict[str, str], measured: dict[str, TaskResult]
) -> HarnessResult:
    from orpo.evaluate.harness import changes  # noqa: PLC0415
    from orpo.evaluate.results import HarnessResult, HarnessResults  # noqa: PLC0415
    from orpo.train.recorder import versions  # noqa: PLC0415 - loads torch

    after, before = measured["after"], measured.get("before")
    return HarnessResult(
        settings=settings,
        models=names,
        versions=versions("lm_eval"),
        account={
            row.task: {
                "questions": row.of,
                "asked": row.n,
                "left_out": {"limit": row.of - row.n},
            }
            for row in after.scores
        },
        notes=[*(before.notes if before else ()), *after.notes],
        results=HarnessResults(
            after=after.scores,
            before=before.scores if before else None,
            changes=changes(before, after) if before else (),
        ),
    )


def _settings(options: Options) -> dict[str, Any]:
    from orpo.evaluate.local import weights_digest  # noqa: PLC0415 - loads torch

    plan = asdict(options.plan)
    del plan["batch_size"]
    return {
        "model": options.model,
        "baseline": options.baseline,
        **plan,
        "tasks": list(options.plan.tasks),
        "dtype": options.dtype,
        "weights": [weights_digest(name) for name in (options.model, options.baseline) if name],
    }
