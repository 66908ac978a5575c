"""`orpo compare`."""

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.commands.flags import ask
from orpo.commands.train import refuse_names
from orpo.demo import story
from orpo.errors import ConfigError
from orpo.evaluate.settings import JudgeSettings
from orpo.experiments.plans import CompareJob, ComparePlan, load_checker
from orpo.options import group, training_settings
from orpo.quantities import as_duration
from orpo.runs.files import REPORT

EXAMPLES = """\
examples:
  orpo compare
  orpo compare --model ./model --dataset train.jsonl --eval_dataset test.jsonl \\
      --methods orpo,sft,sft+dpo --max_steps 500 --seeds 3 --output_dir comparison
  orpo compare --model ./model --dataset pairs.jsonl --held_out 0.1 --learning_rate 1e-5 \\
      --dpo_learning_rate 5e-7 --budget steps --no_sensitivity --lora_r 16
  orpo compare --model ./model --dataset pairs.jsonl --held_out 0.1 --checker my_checks:grade

With neither model nor data it runs on the embedded ones, in about ten minutes on two cores.
What is finished in --output_dir is not run again; --max_steps are those of ORPO's run.
Nothing is decided with fewer than 3 seeds, 30 steps and 20 held-out prompts."""

_DEMO = {**story.JOB, **story.TEST, **story.SETTINGS, "max_steps": 160}
_DEMO_RATE = 4e-5
"""DPO's."""
_DEFAULTS = {"output_dir": "orpo-compare", "samples": 200}


@dataclass(frozen=True)
class Options:
    """What is compared, and a flag for every setting of the training."""

    plan: ComparePlan = group(ComparePlan, "the comparison")
    judge: JudgeSettings | None = group(
        JudgeSettings,
        "the judge",
        "any OpenAI-compatible server; the key comes from an environment variable",
        unless="model",
    )
    settings: dict[str, Any] = training_settings(first=2)


def run(options: Options) -> dict[str, Any]:
    """Compare, and print the table and what became of the paper's claims."""
    given = options.settings
    for name, fix in (("objective", "Use --methods."), ("resume", "It goes on by itself.")):
        if name in given:
            raise ConfigError("is not for a comparison", where=f"--{name}", fix=fix)
    if options.plan.checker:
        load_checker(options.plan.checker)
    job = _job(options)
    from orpo.commands.evaluate import finish, show  # noqa: PLC0415
    from orpo.experiments.compare import run_compare  # noqa: PLC0415 - loads torch

    result = run_compare(job, say=say, overwrite=bool(given.get("overwrite", False)))
    found, page = finish(result, job.folder)
    say(page.verdict)
    for table in page.tables[: 1 + 3 * len(result.budgets)]:
        show(table.columns, table.rows, table.title)
    path = job.folder / REPORT
    say(f"page: {path}; it took {as_duration(result.seconds or 0.0)}")
    return {**found, "verdict": page.verdict, "report": str(path)}


def _job(options: Options) -> CompareJob:
    plan, given = options.plan, options.settings
    demo = not given.get("model") and not given.get("dataset")
    defaults = {**_DEFAULTS, **(_DEMO if demo else {})}
    if given.get("held_out"):
        defaults.pop("eval_dataset", None)
    asked = ask(None, given, defaults)
    if asked.job.eval_dataset or asked.job.held_out:  # without, more is wrong than a name
        refuse_names(asked)
    settings = asked.as_ours()
    if demo:
        import torch  # noqa: PLC0415

        from orpo.experiments.tasks import cores  # noqa: PLC0415 - loads torch

        # The model is so small that one run does not fill two cores.
        at_once = 2 if cores() > 1 and not torch.accelerator.is_available() else 1
        plan = replace(
            plan,
            dpo_learning_rate=plan.dpo_learning_rate or _DEMO_RATE,
            checker=plan.checker or story.CHECKER,
            at_once=plan.at_once or at_once,
        )
    folder = Path(str(settings["output_dir"]))
    judge = options.judge.kept_in(folder) if options.judge else None
    command = shlex.join(["orpo", "compare", *sys.argv[2:]])
    return CompareJob(asked.job, settings, folder, plan, judge, command)
