"""`orpo generate`."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.errors import ConfigError
from orpo.evaluate.answers import answer_questions, open_source_of_answers
from orpo.evaluate.questions import Answered, read_questions
from orpo.evaluate.settings import Sampling
from orpo.options import argument, asked, group, option
from orpo.setting_types import as_mapping

EXAMPLES = """\
examples:
  orpo generate run prompts.jsonl --output answers.jsonl
  orpo generate run "Which number is larger, 318 or 381?"
  orpo generate run prompts.txt --temperature 0.7 --seed 1
  orpo generate run prompts.jsonl --json
  orpo generate my-model prompts.jsonl --output answers.jsonl --server http://localhost:8000

The same command with the same --output goes on where it was broken off. Answers depend on the
model, the prompt and the sampling, not on the batch size or on what else is in the file."""


@dataclass(frozen=True)
class Options:
    """Model, prompts and the way of sampling."""

    model: str = argument("MODEL", help="model folder, adapter folder or Hub id; or its name there")
    prompts: str = argument(
        "PROMPTS",
        help=".txt (a prompt a line), .jsonl/.json/.csv/.parquet with a column `prompt`, or a text",
    )
    output: Path | None = option(None, help="JSONL file, kept up to date; default: shown as text")
    overwrite: bool = option(False, help="answer anew what --output holds")
    server: str | None = option(
        None, metavar="URL", help="an OpenAI-compatible server, such as vLLM, with the model"
    )
    api_key_env: str = option(
        "OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable with the server's key; default OPENAI_API_KEY",
    )
    raw: bool = option(False, help="continue texts without a chat template")
    dtype: str = option("auto", help="dtype of the weights")
    trust_remote_code: bool = option(False, help="allow a model's own code to run")
    chat_template_kwargs: str | None = option(
        None,
        metavar="JSON",
        help="variables for the chat template; default those of the training",
    )
    sampling: Sampling = group(Sampling, "how answers are drawn")
    json: bool = asked("json")


def run(options: Options) -> dict[str, Any]:
    """Answer every prompt."""
    output, sampling = options.output, options.sampling.checked()
    if output is not None and output.resolve() == Path(options.prompts).resolve():
        raise ConfigError("is the file of prompts", where="--output", fix="Give another.")
    variables = as_mapping(options.chat_template_kwargs, "chat_template_kwargs")
    questions = read_questions(options.prompts)
    source = open_source_of_answers(
        options.model,
        server=options.server,
        api_key_env=options.api_key_env,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        raw=options.raw,
        template_kwargs=variables,
    )
    if output is not None and options.overwrite:
        output.unlink(missing_ok=True)
    with closing(source):
        answered = answer_questions(source, questions, sampling, output, say)
    if output is not None:
        say(f"{len(answered)} answers: {output}")
    elif not options.json:
        print("\n\n".join(_told(one, raw=options.raw) for one in answered))
    return {"answers": [one.row() for one in answered]}


def _told(one: Answered, *, raw: bool) -> str:
    """A conversation up to its last answer, a line or more for each turn."""
    names = {"user": "text", "assistant": "goes on"} if raw else {}
    last = {"role": "assistant", "content": one.turns[-1]}
    turns = [*one.question.conversation(one.turns), last]
    return "\n".join(f"{names.get(t['role'], t['role'])}: {t['content']}" for t in turns)
