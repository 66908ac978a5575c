"""A model that answers here, through transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orpo.config import ORPOConfig
from orpo.data.asked import Asking
from orpo.data.rendering import RenderingError, has_chat_template
from orpo.errors import DataError
from orpo.evaluate.generation import Completion, complete_prompts, encode_prompt
from orpo.evaluate.loading import Answerer, load_answerer
from orpo.evaluate.questions import Answered, Answers, Asked, Question
from orpo.evaluate.settings import Sampling
from orpo.runs.files import ADAPTER_FILE
from orpo.runs.manifest import MANIFEST, describe, read_manifest
from orpo.train.tokenizer import load_tokenizer


class LocalSource:
    """A model loaded here, with the first question; `open_source_of_answers` says what is given."""

    def __init__(
        self,
        model: str,
        dtype: str = "auto",
        trust_remote_code: bool = False,
        raw: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self._variables = model, dict(template_kwargs or {})
        self._dtype, self._trusted, self._raw = dtype, trust_remote_code, raw
        settings = ORPOConfig(output_dir="unused", trust_remote_code=trust_remote_code)
        self._tokenizer = load_tokenizer(model, settings)
        self._loaded: Answerer | None = None

    def identity(self) -> dict[str, Any]:
        """The weights (or the commit of a Hub id), the chat template, and how they are used."""
        template = str(getattr(self._tokenizer, "chat_template", None) or "")
        template += Asking.of(self._tokenizer).prompt if template else ""
        weights = weights_digest(self.model)
        if not weights:
            weights = f"{self.model}@{getattr(self.answerer().model, 'loaded_commit', None)}"
        return {
            "weights": weights,
            "dtype": self._dtype,
            "template": _digest(template) if template and not self._raw else "none",
            **({"variables": self._variables} if self._variables else {}),
        }

    def answers(self, asked: Sequence[Asked], sampling: Sampling) -> Answers:
        """(key, answer) of the wanted questions, in batches of similar length."""
        lengths = {one.key: len(self._encode(one.question, ())) for one in asked}
        ordered = sorted(asked, key=lambda one: (lengths[one.key], one.key))
        for start in range(0, len(ordered), sampling.batch_size):
            batch = ordered[start : start + sampling.batch_size]
            if any(one.wanted for one in batch):
                yield from self._answer(batch, sampling)

    def close(self) -> None:
        """Let go of the model."""
        self._loaded = None

    def answerer(self) -> Answerer:
        """The model, loaded."""
        if self._loaded is None:
            self._loaded = load_answerer(
                self.model, dtype=self._dtype, trust_remote_code=self._trusted
            )
        return self._loaded

    def _answer(self, batch: list[Asked], sampling: Sampling) -> Answers:
        said: dict[str, list[Completion]] = {one.key: [] for one in batch}
        here = self.answerer()
        for turn in range(max(len(one.question.turns) for one in batch)):
            members = [one for one in batch if len(one.question.turns) > turn]
            prompts = [
                self._encode(one.question, [done.text for done in said[one.key]]) for one in members
            ]
            keys = [f"{one.key}/{turn}" for one in members]
            found = complete_prompts(here.model, here.tokenizer, prompts, sampling, keys)
            for one, done in zip(members, found, strict=True):
                said[one.key].append(done)
        for one in batch:
            if one.wanted:
                turns = tuple(done.text for done in said[one.key])
                cut = tuple(done.truncated for done in said[one.key])
                yield one.key, Answered(one.question, turns, self.model, cut)

    def _encode(self, question: Question, answers: Sequence[str]) -> list[int]:
        """The conversation as the model's training saw it; a lone text goes on as it is."""
        plain = self._raw or not has_chat_template(self._tokenizer)
        where = f"question {question.id!r}"
        try:
            if plain and question.is_text:
                ids = encode_prompt(self._tokenizer, question.turns[0])
            else:
                asked = question.conversation(answers)
                ids = encode_prompt(self._tokenizer, asked, self._variables)
        except RenderingError as error:
            raise DataError(str(error), where=where) from error
        if not ids:
            raise DataError("the prompt has no tokens", where=where, fix="Write something.")
        return ids


def weights_digest(folder: str | Path) -> str | None:
    """A digest of the weights and the configuration in a model's folder; None for a Hub id."""
    path = Path(folder)
    if not path.is_dir():
        return None

    def counts(name: str) -> bool:
        return name.endswith(".safetensors") or name in {"config.json", ADAPTER_FILE}

    if (path / MANIFEST).is_file():
        committed = read_manifest(path).files.items()
        weights = {name: facts.sha256 for name, facts in committed if counts(Path(name).name)}
    else:
        weights = {one.name: describe(one).sha256 for one in path.iterdir() if counts(one.name)}
    return _digest(json.dumps(weights, sort_keys=True))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
