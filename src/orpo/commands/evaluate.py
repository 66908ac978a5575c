"""`orpo evaluate ACTION`: what there is, and what all of them have in common.

Questions -> answers -> verdicts -> a typed result -> a table here and a page in the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orpo.commands.console import console, rows_table, say
from orpo.errors import ConfigError, require_package
from orpo.evaluate.answers import answer_questions, open_source_of_answers
from orpo.evaluate.questions import Answered, Question
from orpo.evaluate.settings import CACHE, JudgeSettings, Sampling, positive
from orpo.options import argument, group, option
from orpo.runs.claim import claim_folder
from orpo.runs.files import EVALUATION, REPORT, write_json
from orpo.runs.typed import plain
from orpo.runs.writing import refuse_links

if TYPE_CHECKING:
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
  orpo evaluate win-rate run --prompts prompts.jsonl --judge gpt-4o
  orpo evaluate alpaca run --data alpaca_eval --judge gpt-4o
  orpo evaluate mt-bench run --data mt_bench --judge gpt-4o
  orpo evaluate harness run --tasks ifeval

`orpo evaluate ACTION --help` shows its options and examples; --json works with each of them."""


ANSWERS, JUDGMENTS = "answers.jsonl", "judgments.jsonl"


@dataclass(frozen=True)
class Answering:
    """Where a model answers: a server, or transformers on this machine."""

    server: str | None = option(
        None, metavar="URL", help="an OpenAI-compatible server that answers as MODEL"
    )
    server_key_env: str = option("OPENAI_API_KEY", metavar="NAME", help="holds that server's key")
    dtype: str = option("auto", help="dtype of the weights")
    trust_remote_code: bool = option(False, help="allow a model's own code to run")

    def __post_init__(self) -> None:
        """Know now that a server can be asked."""
        if self.server:
            require_package("openai", where="--server")

    def answers(
        self,
        model: str,
        questions: Sequence[Question],
        sampling: Sampling,
        store: Path,
        ask: Callable[..., list[Answered]] | None = None,
    ) -> list[Answered]:
        """What the model answers, kept in a file, or in the files of another way to ask."""
        source = open_source_of_answers(
            model,
            server=self.server,
            api_key_env=self.server_key_env,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
        )
        with closing(source):
            return (ask or answer_questions)(source, questions, sampling, store, say)


_SERVERS = "any OpenAI-compatible server; the key comes from an environment variable"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What every evaluation by a judge can be asked for."""

    model: str = argument("MODEL", help="model folder, adapter folder or Hub id")
    output_dir: Path
    overwrite: bool = option(False, help="replace what other settings left there")
    limit: int | None = option(
        None, metavar="N", parse=positive, help="only N questions, spread over all"
    )
    answering: Answering = group(Answering, "asking the model")
    sampling: Sampling = group(Sampling, "how it answers", max_new_tokens=1024)
    judge: JudgeSettings | None = group(JudgeSettings, "the judge", _SERVERS, unless="model")

    def stated(
        self,
        own: Mapping[str, Any],
        *,
        asked: bool = True,
        drawn: Sequence[str] = ("max_new_tokens", "temperature", "top_p", "seed"),
        of_judge: Sequence[str] = ("temperature", "seed"),
    ) -> dict[str, Any]:
        """What the result depends on, of what is there; no key, no cache."""
        server, judge = self.answering.server, self.judge.as_dict() if self.judge else {}
        judge["url"] = judge.get("base_url")
        known = {
            "model": self.model,
            **own,
            "limit": self.limit,
            "server": server,
            **({name: getattr(self.sampling, name) for name in drawn} if asked else {}),
            "dtype": self.answering.dtype if asked and not server else None,
            "judge": judge.get("model"),
            **{f"judge_{name}": judge.get(name) for name in of_judge},
        }
        known = {name: value for name, value in known.items() if value is not None}
        return {name: str(one) if isinstance(one, Path) else one for name, one in known.items()}


def refuse_beside(what: str, flag: str, given: Mapping[str, object]) -> None:
    """Refuse flags, by name, that would ask for what is given, such as "outputs", by a flag."""
    for name, value in given.items():
        if value is not None:
            raise ConfigError(
                f"there is nothing to ask for where {what} are given",
                where=name,
                fix=f"Leave out {name} or {flag}.",
            )


def baseline_of(model: str, given: str | None) -> str:
    """The model to compare with: what is given, or what the run or the adapter started from."""
    from orpo.evaluate.loading import started_from  # noqa: PLC0415 - loads torch

    found = given or started_from(model)
    if found is None:
        what, fix = f"is needed: {model} is no run that says what it started from", "Name a model."
        raise ConfigError(what, where="--baseline", fix=fix)
    return found


def named(model: str) -> str:
    """What a model is called: the end of its folder, or its id."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def counted(answered: Sequence[Answered], prefix: str = "") -> dict[str, int]:
    """How many answers were cut off, and how many are empty."""
    return {
        f"{prefix}truncated_answers": sum(sum(one.truncated) for one in answered),
        f"{prefix}empty_answers": sum(not said.strip() for one in answered for said in one.turns),
    }


def claim(
    options: Any,
    settings: Mapping[str, Any],
    answers: Sequence[str] = (),
    *,
    more: Sequence[str] = (),
    among: Collection[str] | None = None,
) -> None:
    """Make output_dir ours; answers stay, and what judges said, if only the judge is another one.

    `more` is written there, too; `among` are the settings that must be the same, all if absent.
    """
    refuse_links(options.output_dir, (CACHE,))
    claim_folder(
        options.output_dir,
        "evaluation",
        (*answers, *more, JUDGMENTS, EVALUATION, REPORT, "figures"),
        settings=settings,
        overwrite=options.overwrite,
        costly=answers,
        among=among,
    )


def finish(result: Any, folder: Path) -> tuple[dict[str, Any], Page]:
    """Write evaluation.json, the page and its figures; (what --json prints, the page)."""
    from orpo.report.write import page_of, write_page  # noqa: PLC0415 - matplotlib loads in seconds

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
    lines = (begin, page.verdict, *page.remarks, end, f"page: {folder / REPORT}")
    for line in dict.fromkeys(line for line in lines if line):
        say(line)


def show_rates(page: Page, folder: Path) -> None:
    """Win rates as a table, and in words."""
    if page.headlines:
        rows = [(one.label, one.value, one.interval) for one in page.headlines]
        show(("", "found", "how sure"), rows)
    say_page(page, folder)
