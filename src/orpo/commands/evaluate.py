"""`orpo evaluate ACTION`: what there is, and what all of them do at the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.commands.console import console, rows_table, say
from orpo.errors import ConfigError
from orpo.evaluate.settings import CACHE, JudgeSettings
from orpo.options import group, option

if TYPE_CHECKING:
    from orpo.evaluate.questions import AnswerSource
    from orpo.evaluate.results import Result
    from orpo.report.page import Page

ACTIONS = {
    "preference": "held-out pairs scored: accuracy, margins and calibration, with intervals",
    "win-rate": "two models on your own prompts: a judge in both orders, with length control",
    "alpaca": "AlpacaEval 2.0: answers in the official format, win rate and LC win rate",
    "mt-bench": "MT-Bench: 80 two-turn questions, graded 1 to 10, by category",
    "harness": "benchmarks through lm-evaluation-harness",
}

EXAMPLES = """\
examples:
  orpo evaluate preference run --dataset heldout.jsonl
  orpo evaluate win-rate run --baseline base-model --prompts prompts.jsonl --judge gpt-4o
  orpo evaluate alpaca run --data alpaca_eval --judge gpt-4o
  orpo evaluate mt-bench run --data mt_bench --judge gpt-4o
  orpo evaluate harness run --tasks ifeval

`orpo evaluate ACTION --help` shows its options and examples; --json works with each of them."""


ANSWERS, JUDGMENTS = "answers.jsonl", "judgments.jsonl"


@dataclass(frozen=True)
class Answering:
    """Where a model answers.

    Attributes:
        server: Address of an OpenAI-compatible server; transformers on this machine if absent.
        server_key_env: Environment variable with that server's key.
        dtype: Of the weights.
        trust_remote_code: Allow the model's own code to run.
    """

    server: str | None = option(
        None, metavar="URL", help="an OpenAI-compatible server that answers as MODEL"
    )
    server_key_env: str = option("OPENAI_API_KEY", metavar="NAME", help="holds that server's key")
    dtype: str = option("auto", help="dtype of the weights")
    trust_remote_code: bool = option(False, help="allow a model's own code to run")

    def open(self, model: str) -> AnswerSource:
        """Who answers; to be closed."""
        from orpo.evaluate.answers import open_source_of_answers  # noqa: PLC0415

        return open_source_of_answers(
            model,
            server=self.server,
            api_key_env=self.server_key_env,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
        )


def judge_group() -> Any:
    """The field of a judge that is asked; None without --judge."""
    text = "any OpenAI-compatible server; the key comes from an environment variable"
    return group(JudgeSettings, "the judge", text, unless="model")


def refuse_beside(what: str, flag: str, given: Mapping[str, object]) -> None:
    """Refuse flags that would ask for what is given.

    Args:
        what: Is given, such as "outputs".
        flag: By which.
        given: Flag -> its value; None where it is not there.

    Raises:
        ConfigError: One is there.
    """
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                f"there is nothing to ask for where {what} are given",
                where=name,
                fix=f"Leave out {name} or {flag}.",
            )


def named(model: str) -> str:
    """What a model is called: the end of its folder, or its id."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def claim(
    folder: Path,
    settings: Mapping[str, Any],
    answers: Sequence[str],
    *,
    overwrite: bool,
    among: Collection[str] | None = None,
) -> None:
    """Make a folder ours; answers stay, and what judges said, if only the judge is another one."""
    from orpo.runs.claim import claim_folder  # noqa: PLC0415
    from orpo.runs.files import EVALUATION, REPORT  # noqa: PLC0415
    from orpo.runs.writing import refuse_links  # noqa: PLC0415

    refuse_links(folder, (CACHE,))
    written = (*answers, JUDGMENTS, EVALUATION, REPORT, "figures")
    claim_folder(
        folder,
        "evaluation",
        written,
        settings=settings,
        overwrite=overwrite,
        costly=answers,
        among=among,
    )


def finish(result: Result, folder: Path) -> tuple[dict[str, Any], Page]:
    """Write evaluation.json, the page and its figures; (what --json prints, the page)."""
    from orpo.report.kinds import page_of  # noqa: PLC0415 - matplotlib loads in seconds
    from orpo.report.write import write_page  # noqa: PLC0415
    from orpo.runs.files import EVALUATION, write_json  # noqa: PLC0415
    from orpo.runs.typed import plain  # noqa: PLC0415

    found: dict[str, Any] = plain(result)
    write_json(folder / EVALUATION, found)
    page = page_of(result, folder)
    write_page(page, folder)
    return found, page


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table of the page, for a terminal."""
    table = rows_table([*columns], [[*row] for row in rows], lines=False)
    table.title, table.title_justify, table.title_style = title or None, "left", "bold"
    console.print(table)


def say_page(page: Page, folder: Path, begin: str = "", end: str = "") -> None:
    """The page's words, each once, and where it is."""
    lines = (begin, page.verdict, *page.remarks, end, f"page: {folder / 'report.html'}")
    for line in dict.fromkeys(line for line in lines if line):
        say(line)


def show_rates(page: Page, folder: Path) -> None:
    """Win rates as a table, and in words."""
    if page.headlines:
        rows = [(one.label, one.value, one.interval) for one in page.headlines]
        show(("", "found", "how sure"), rows)
    say_page(page, folder)
