"""A chat with one model, or with two side by side, and what a user can do to it.

Both models hear the same questions; each goes on from its own answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orpo.errors import ConfigError, DataError
from orpo.evaluate import Answerer, Sampling, is_adapter, load_answerer
from orpo.evaluate.conversation import Hear, Speaker
from orpo.evaluate.loading import started_from
from orpo.train.models import vocabulary_size

__all__ = ["ITS_BASE", "Chat", "ChatJob", "Side", "open_chat"]

ITS_BASE = ""
"""As `beside`: the model that the run started from."""


@dataclass(frozen=True)
class ChatJob:
    """What `orpo chat` needs.

    Attributes:
        model: A model folder, an adapter folder or a Hub id.
        beside: Another one to hear at the same time; `ITS_BASE` for the one that it started from.
        system: System prompt.
        sampling: How tokens are drawn.
        dtype: Of the weights.
        trust_remote_code: Allow the models' own code to run.
        template_kwargs: Variables for the chat template that win over those of the training.
    """

    model: str
    beside: str | None = None
    system: str | None = None
    sampling: Sampling = field(default_factory=Sampling)
    dtype: str = "auto"
    trust_remote_code: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Side:
    """One of the models, and what it was told and said.

    Attributes:
        speaker: The model.
        turns: The conversation after the system prompt.
    """

    speaker: Speaker
    turns: list[dict[str, str]] = field(default_factory=list)


class Chat:
    """A conversation.

    Args:
        sides: The models that take part, the base model first.
        sampling: How tokens are drawn; the n-th answer is drawn with the n-th seed from its own.
        system: System prompt, if any.

    Attributes:
        sides: The models that take part.
        system: System prompt, if any.
    """

    def __init__(self, sides: list[Side], sampling: Sampling, system: str | None) -> None:
        self.sides, self.system = sides, system
        self._sampling, self._drawn = sampling, 0

    @property
    def greedy(self) -> bool:
        """Whether a question that is asked again gets the same answer."""
        return self._sampling.temperature == 0

    def ask(self, text: str, hear: Callable[[Side], Hear]) -> None:
        """Have every side answer; where one cannot, the question was never asked.

        Args:
            text: What the user says.
            hear: For each side in turn, who is told its answer.

        Raises:
            DataError: The conversation is too long for a model.
        """
        before = [list(side.turns) for side in self.sides]
        seed, self._drawn = self._sampling.seed + self._drawn, self._drawn + 1
        try:
            for side in self.sides:
                side.turns.append({"role": "user", "content": text})
                messages = self._messages(side)
                answer = side.speaker.answer(messages, self._sampling, seed, hear(side))
                side.turns.append({"role": "assistant", "content": answer})
        except (DataError, KeyboardInterrupt):
            for side, turns in zip(self.sides, before, strict=True):
                side.turns = turns
            raise

    def undo(self) -> str:
        """Take the last question and its answers back; the question.

        Raises:
            ConfigError: Nothing was said.
        """
        if not self.sides[0].turns:
            raise ConfigError("there is nothing to take back", where="chat")
        for side in self.sides:
            del side.turns[-1]
            asked = side.turns.pop()
        return asked["content"]

    def reset(self) -> None:
        """Forget everything but the system prompt."""
        for side in self.sides:
            side.turns.clear()

    def save(self, path: Path) -> None:
        """Write one JSON object per side; nothing that is there is replaced.

        Raises:
            ConfigError: There is such a file, or it cannot be written.
        """
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in self.told()]
        try:
            with path.open("x", encoding="utf-8") as file:
                file.writelines(lines)
        except FileExistsError:
            raise ConfigError("is there already", where=str(path), fix="Name another.") from None
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise ConfigError(reason, where=str(path), fix="Name another.") from error

    def told(self) -> Iterable[dict[str, Any]]:
        """Each side's model and messages."""
        for side in self.sides:
            yield {"model": side.speaker.name, "messages": self._messages(side)}

    def _messages(self, side: Side) -> list[dict[str, str]]:
        """What a side was told and said, the system prompt first."""
        opening = [{"role": "system", "content": self.system}] if self.system else []
        return opening + side.turns


def open_chat(job: ChatJob) -> Chat:
    """Load what takes part: an adapter and its base model share one set of weights.

    Raises:
        ConfigError: The base model is not known, or is the model itself.
        ModelError: A model cannot be loaded.
        CheckpointError: Its files are not what was committed.
    """
    base, own = job.beside, None
    if base is not None:
        own = started_from(job.model)
    if base == ITS_BASE:
        base = own
        if base is None:
            raise ConfigError(
                f"{job.model} does not say which model it started from",
                where="--beside",
                fix="Name it: --beside BASE.",
            )
    if base == job.model:
        raise ConfigError("is the model itself", where="--beside", fix="Name another one.")
    tuned = _load(job, job.model)
    sides = [Side(Speaker(job.model, tuned))]
    if base is not None:
        sides.insert(0, Side(_base(job, base, tuned, its_own=base == own)))
    return Chat(sides, job.sampling, job.system)


def _base(job: ChatJob, base: str, tuned: Answerer, *, its_own: bool) -> Speaker:
    """The other model; the one that the run started from is asked with the template of the run."""
    if is_adapter(job.model) and its_own:
        return Speaker(base, tuned, without_adapter=True)
    loaded = _load(job, base)
    size = vocabulary_size(loaded.model)
    if its_own and (size is None or len(tuned.tokenizer) <= size):
        loaded = replace(loaded, tokenizer=tuned.tokenizer)
    return Speaker(base, loaded)


def _load(job: ChatJob, name: str) -> Answerer:
    loaded = load_answerer(name, dtype=job.dtype, trust_remote_code=job.trust_remote_code)
    return replace(loaded, template_kwargs=job.template_kwargs)
