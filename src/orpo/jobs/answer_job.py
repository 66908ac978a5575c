"""Answering prompts from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo.data import Messages, has_chat_template, open_source
from orpo.data.template import RenderingError
from orpo.errors import DataError
from orpo.evaluate import Answerer, Sampling, encode_prompt, generate_answers

__all__ = ["Prompt", "answer_prompts", "read_prompts"]

_TABLES = {".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".gz"}


@dataclass(frozen=True)
class Prompt:
    """A prompt as it was given.

    Attributes:
        content: A text or a conversation.
        where: Its place, for messages.
    """

    content: str | Messages
    where: str


def read_prompts(source: str) -> list[Prompt]:
    """Prompts from a file, or the text itself if it names no file.

    A .txt file has one prompt per line; other files have a column `prompt`, `instruction` or
    `messages` (texts or lists of {role, content}).

    Raises:
        DataError: The file is missing, empty or has no such column.
    """
    path = Path(source)
    looks_like_file = path.suffix.lower() in _TABLES | {".txt"} and "\n" not in source
    if looks_like_file and not path.is_file():
        raise DataError("no such file", where=source, fix="Give a file of prompts, or a text.")
    if not looks_like_file:
        return [Prompt(source, "the prompt given")]
    if path.suffix.lower() == ".txt":
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        prompts = [Prompt(t, f"{source}:{n}") for n, t in enumerate(lines, 1) if t.strip()]
    else:
        prompts = [Prompt(_column(row.values, row.where), row.where) for row in open_source(source)]
    if not prompts:
        raise DataError("holds no prompt", where=source, fix="Give at least one.")
    return prompts


def answer_prompts(
    answerer: Answerer, prompts: list[Prompt], sampling: Sampling, *, raw: bool = False
) -> list[dict[str, Any]]:
    """Answers in the order of the prompts.

    Args:
        answerer: Model and tokenizer.
        prompts: Texts or conversations.
        sampling: How answers are drawn.
        raw: Continue texts as they are, instead of putting them into the chat template.

    Returns:
        One {"prompt", "answer"} for each.
    """
    ids = [_encode(answerer, prompt, raw=raw) for prompt in prompts]
    answers = generate_answers(answerer.model, answerer.tokenizer, ids, sampling)
    return [
        {"prompt": prompt.content, "answer": answer}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _encode(answerer: Answerer, prompt: Prompt, *, raw: bool) -> list[int]:
    content = prompt.content
    if isinstance(content, str) and not raw and has_chat_template(answerer.tokenizer):
        content = [{"role": "user", "content": content}]
    try:
        ids = encode_prompt(answerer.tokenizer, content)
    except RenderingError as error:
        raise DataError(str(error), where=prompt.where) from error
    if not ids:
        raise DataError("the prompt has no tokens", where=prompt.where, fix="Write something.")
    return ids


def _column(values: Any, where: str) -> str | Messages:
    for name in ("prompt", "messages", "instruction"):
        value = values.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(m, dict) and "role" in m for m in value):
            turns: Messages = value
            return turns
    raise DataError(
        "no prompt in this row",
        where=where,
        fix="Give a column 'prompt' (text or messages), 'messages' or 'instruction'.",
    )
