"""Models in a conversation: each is told every turn so far, and answers as it goes.

With two side by side, both hear the same questions; each goes on from its own answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from orpo.data.rendering import RenderingError, has_chat_template
from orpo.errors import ConfigError, DataError
from orpo.evaluate.generation import as_asked, encode_prompt, generation_config
from orpo.evaluate.loading import Answerer, is_adapter, load_answerer, started_from
from orpo.evaluate.settings import Sampling
from orpo.train.models import vocabulary_size

ITS_BASE = ""
"""As `beside`: the model that the run started from."""

_LONGEST = 8  # tokens of one character; what is longer is broken
Hear = Callable[[str], None]
"""Told each piece of an answer as soon as it is certain."""


class Speaker:
    """A model that talks; `without_adapter` as its base model does, with the same weights."""

    def __init__(self, name: str, answerer: Answerer, *, without_adapter: bool = False) -> None:
        self.name = name
        self._answerer, self._bare = answerer, without_adapter

    def answer(self, turns: list[dict[str, str]], how: Sampling, seed: int, hear: Hear) -> str:
        """The answer to the last turn, without special tokens and without white space around it.

        Ctrl-C ends an answer where it stands; what was said so far is the answer.
        """
        pieces: list[str] = []
        try:
            return self._answer(turns, how, seed, _Pieces(self._answerer.tokenizer, pieces, hear))
        except KeyboardInterrupt:
            hear(" [interrupted]")
            return "".join(pieces).strip()

    def _answer(
        self, turns: list[dict[str, str]], how: Sampling, seed: int, streamer: BaseStreamer
    ) -> str:
        model: Any = self._answerer.model
        tokenizer = self._answerer.tokenizer
        asked = turns if has_chat_template(tokenizer) else _text(turns)
        try:
            ids = encode_prompt(tokenizer, asked, self._answerer.template_kwargs)
        except RenderingError as error:
            raise DataError(str(error), where="chat") from error
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and len(ids) >= limit:
            raise DataError(
                f"the conversation is {len(ids)} tokens long, the model sees {limit}",
                where="chat",
                fix="Take a turn back with /undo, or start again with /reset.",
            )
        device = next(model.parameters()).device
        torch.manual_seed(seed)
        settings = generation_config(tokenizer, how, model)
        bare = model.disable_adapter() if self._bare else nullcontext()
        with torch.no_grad(), as_asked(model), bare:
            output = model.generate(
                input_ids=torch.tensor([ids], device=device),
                attention_mask=torch.ones(1, len(ids), dtype=torch.int64, device=device),
                generation_config=settings,
                streamer=streamer,
            )
        text: str = tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
        return text.strip()


@dataclass
class Side:
    """One of the models, and what it was told and said after the system prompt."""

    speaker: Speaker
    turns: list[dict[str, str]] = field(default_factory=list)


class Chat:
    """A conversation with the base model first; the n-th answer has the n-th seed from its own."""

    def __init__(self, sides: list[Side], sampling: Sampling, system: str | None) -> None:
        self.sides, self.system = sides, system
        self._sampling, self._drawn = sampling, 0

    @property
    def greedy(self) -> bool:
        """Whether a question that is asked again gets the same answer."""
        return self._sampling.temperature == 0

    def ask(self, text: str, hear: Callable[[Side], Hear]) -> None:
        """Have every side answer, and `hear` it; where one cannot, it was never asked."""
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
        """Take the last question and its answers back; the question."""
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
        """Write one JSON object per side; nothing that is there is replaced."""
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


@dataclass(frozen=True)
class Models:
    """Who takes part in a chat: a model, and `beside` another one, or the one it started from."""

    model: str
    beside: str | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def sides(self) -> list[Side]:
        """The models, loaded: an adapter and its base model share one set of weights."""
        base, own = self.beside, None
        if base is not None:
            own = started_from(self.model)
        if base == ITS_BASE:
            base = own
            if base is None:
                raise ConfigError(
                    f"{self.model} does not say which model it started from",
                    where="--beside",
                    fix="Name it: --beside BASE.",
                )
        if base == self.model:
            raise ConfigError("is the model itself", where="--beside", fix="Name another one.")
        tuned = self._load(self.model)
        sides = [Side(Speaker(self.model, tuned))]
        if base is not None:
            sides.insert(0, Side(self._base(base, tuned, its_own=base == own)))
        return sides

    def _base(self, base: str, tuned: Answerer, *, its_own: bool) -> Speaker:
        """The other model; the one that the run started from has the template of the run."""
        if is_adapter(self.model) and its_own:
            return Speaker(base, tuned, without_adapter=True)
        loaded = self._load(base)
        size = vocabulary_size(loaded.model)
        if its_own and (size is None or len(tuned.tokenizer) <= size):
            loaded = replace(loaded, tokenizer=tuned.tokenizer)
        return Speaker(base, loaded)

    def _load(self, name: str) -> Answerer:
        loaded = load_answerer(name, dtype=self.dtype, trust_remote_code=self.trust_remote_code)
        return replace(loaded, template_kwargs=self.template_kwargs)


class _Pieces(BaseStreamer):
    """Turns tokens into pieces of text, each as soon as it is a whole character.

    The text of a token may depend on the one before it, so each piece is what a few tokens more
    add to the text of the last ones.
    """

    def __init__(self, tokenizer: Any, pieces: list[str], hear: Hear) -> None:
        self._tokenizer, self._pieces, self._hear = tokenizer, pieces, hear
        self._ids: list[int] = []
        self._from = self._told = 0  # where the last piece begins, and where it ends
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt first, then each token."""
        if self._prompt:
            self._prompt = False
            return
        self._ids.extend(value.flatten().tolist())
        self._tell(last=False)

    def end(self) -> None:
        """Nothing more is to come."""
        self._tell(last=True)

    def _tell(self, *, last: bool) -> None:
        text, known = self._decoded(len(self._ids)), self._decoded(self._told)
        piece = text[len(known) :]
        in_the_middle = piece.endswith("\ufffd") and len(self._ids) - self._told < _LONGEST
        if not piece or (in_the_middle and not last):
            return
        self._from, self._told = self._told, len(self._ids)
        self._pieces.append(piece)
        self._hear(piece)

    def _decoded(self, end: int) -> str:
        text: str = self._tokenizer.decode(self._ids[self._from : end], skip_special_tokens=True)
        return text


def _text(turns: list[dict[str, str]]) -> str:
    """A base model without a chat template continues plain text."""
    return "".join(f"{turn['content']}\n" for turn in turns)
