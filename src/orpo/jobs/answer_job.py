"""Answering prompts from a file, by a model here or behind a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError
from orpo.evaluate import Sampling
from orpo.evaluate.answers import (
    Answered,
    answer_questions,
    open_source_of_answers,
    read_questions,
)

__all__ = ["AnswerJob", "run_answers"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class AnswerJob:
    """What is asked, and whom.

    Attributes:
        model: A model folder, an adapter folder or a Hub id; with a server, its name there.
        prompts: A file of prompts, or a text.
        sampling: How answers are drawn.
        output: A JSONL file that keeps every answer at once; a broken run goes on from it.
        overwrite: Delete what `output` holds first.
        server: Address of an OpenAI-compatible server that has the model.
        api_key_env: Environment variable with the server's key.
        raw: Continue texts as they are, instead of putting them into the chat template.
        dtype: Of the weights.
        trust_remote_code: Allow the model's own code to run.
        template_kwargs: Variables for the chat template that win over those of the training.

    Raises:
        ConfigError: A value that cannot be meant.
    """

    model: str
    prompts: str
    sampling: Sampling
    output: Path | None = None
    overwrite: bool = False
    server: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    raw: bool = False
    dtype: str = "auto"
    trust_remote_code: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        if self.sampling.temperature < 0:
            raise ConfigError("must not be negative", where="--temperature", fix="0 is greedy.")
        if not 0 < self.sampling.top_p <= 1:
            raise ConfigError("must be above 0 and at most 1", where="--top_p")
        if self.output is not None and self.output.resolve() == Path(self.prompts).resolve():
            raise ConfigError("is the file of prompts", where="--output", fix="Give another.")


def run_answers(job: AnswerJob, *, say: Say) -> list[dict[str, Any]]:
    """Answers in the order of the prompts.

    Args:
        job: What is asked.
        say: Told, line by line, what happens.

    Returns:
        One {"prompt", "answer"} for each; with several turns {"turns", "answers"}.

    Raises:
        UserError: Prompts, model or server are not what they should be, or `output` holds
            something else.
    """
    questions = read_questions(job.prompts)
    source = open_source_of_answers(
        job.model,
        server=job.server,
        api_key_env=job.api_key_env,
        dtype=job.dtype,
        trust_remote_code=job.trust_remote_code,
        raw=job.raw,
        template_kwargs=job.template_kwargs,
    )
    if job.output is not None and job.overwrite:
        job.output.unlink(missing_ok=True)
    try:
        answered = answer_questions(source, questions, job.sampling, job.output, say)
    finally:
        source.close()
    return [_row(one) for one in answered]


def _row(answered: Answered) -> dict[str, Any]:
    question = answered.question
    if len(question.turns) > 1:
        return {"turns": list(question.turns), "answers": list(answered.turns)}
    prompt = question.turns[0] if question.is_text else question.conversation()
    return {"prompt": prompt, "answer": answered.turns[0]}
