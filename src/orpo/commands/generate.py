"""`orpo generate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from orpo.commands.console import say
from orpo.commands.main import print_json
from orpo.config import ORPOConfig
from orpo.evaluate import Sampling
from orpo.jobs.answer_job import AnswerJob, run_answers

EXAMPLES = """\
examples:
  orpo generate run prompts.jsonl --output answers.jsonl
  orpo generate run "Which number is larger, 318 or 381?"
  orpo generate run prompts.txt --temperature 0.7 --seed 1
  orpo generate run prompts.jsonl --json
  orpo generate my-model prompts.jsonl --output answers.jsonl --server http://localhost:8000

The same command with the same --output goes on where it was broken off. Answers depend on the
model, the prompt and the sampling, not on the batch size or on what else is in the file."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Model, prompts and the way of sampling."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder, adapter folder or Hub id; or its name there")
    add(
        "prompts",
        metavar="PROMPTS",
        help=".txt (a prompt a line), .jsonl/.json/.csv/.parquet with a column `prompt`, or a text",
    )
    add("--output", type=Path, help="JSONL file, kept up to date; default stdout")
    add("--overwrite", action="store_true", help="answer anew what --output holds")
    add_server(parser)
    parser.add_argument("--raw", action="store_true", help="continue texts without a chat template")
    parser.add_argument("--dtype", default="auto", help="dtype of the weights")
    add_sampling(parser)
    add_template_kwargs(parser)


def add_server(parser: argparse.ArgumentParser) -> None:
    """The flags for a model behind a server."""
    parser.add_argument(
        "--server", metavar="URL", help="an OpenAI-compatible server, such as vLLM, with the model"
    )
    parser.add_argument(
        "--api_key_env",
        "--api-key-env",
        metavar="NAME",
        default="OPENAI_API_KEY",
        help="environment variable with the server's key; default OPENAI_API_KEY",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The flags of `Sampling`."""
    parser.add_argument("--max_new_tokens", "--max-new-tokens", type=positive, default=256)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--top_p", "--top-p", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--batch_size", "--batch-size", type=positive, default=16)
    parser.add_argument("--trust_remote_code", "--trust-remote-code", action="store_true")


def add_template_kwargs(parser: argparse.ArgumentParser) -> None:
    """The flag for the chat template's variables, where a model is asked."""
    parser.add_argument(
        "--chat_template_kwargs",
        "--chat-template-kwargs",
        metavar="JSON",
        help="variables for the chat template; default those of the training",
    )


def template_kwargs(given: argparse.Namespace) -> dict[str, Any]:
    """What that flag says.

    Raises:
        ConfigError: It is no JSON object.
    """
    found = ORPOConfig(chat_template_kwargs=given.chat_template_kwargs).chat_template_kwargs
    assert isinstance(found, dict)
    return found


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def sampling(given: argparse.Namespace) -> Sampling:
    """`Sampling` from the flags."""
    return Sampling(
        given.max_new_tokens, given.temperature, given.top_p, given.seed, given.batch_size
    )


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Answer every prompt."""
    job = AnswerJob(
        model=given.model,
        prompts=given.prompts,
        sampling=sampling(given),
        output=given.output,
        overwrite=given.overwrite,
        server=given.server,
        api_key_env=given.api_key_env,
        raw=given.raw,
        dtype=given.dtype,
        trust_remote_code=given.trust_remote_code,
        template_kwargs=template_kwargs(given),
    )
    answers = run_answers(job, say=say)
    if given.output is not None:
        say(f"{len(answers)} answers: {given.output}")
    elif not given.json:
        for row in answers:
            print_json(row)
    return {"answers": answers}
