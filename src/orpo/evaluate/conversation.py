"""Models in a conversation: each is told every turn so far, and answers as it goes.

With two side by side, both hear the same questions; each goes on from its own answers.
"""

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
from orpo.evaluate.generation import as_asked, encode_prompt, generation_config, most_positions
from orpo.evaluate.loading import Answerer, is_adapter, load_answerer, started_from
from orpo.evaluate.settings import Sampling
from orpo.train.models import vocabulary_size

ITS_BASE = ""  # as `beside`: the model that the run started from
_LONGEST = 8  # tokens of one character; what is longer is broken
Hear = Callable[[str], None]  # told each piece of an answer as soon as it is certain


@dataclass
class Side:
    """One of the models, and what it was told and said after the system prompt."""

    name: str
    answerer: Answerer
    bare: bool = False  # without its adapter: as its base model, with the same weights
    turns: list[dict[str, str]] = field(default_factory=list)

    def answer(self, turns: list[dict[str, str]], how: Sampling, seed: int, hear: Hear) -> str:
        """The answer to the last turn, without special tokens and without white space around it.

        Ctrl-C ends an answer where it stands; what was said so far is the answer.
        """
        model: Any = self.answerer.model
        tokenizer = self.answerer.tokenizer
        pieces = _Pieces(tokenizer, hear)
        plain = "".join(f"{turn['content']}\n" for turn in turns)  # which a base model continues
        asked = turns if has_chat_template(tokenizer) else plain
        try:
            ids = encode_prompt(tokenizer, asked, self.answerer.template_kwargs)
        except RenderingError as error:
            raise DataError(str(error), where="chat") from error
        limit = most_positions(model)
        if limit is not None and len(ids) >= limit:
            raise DataError(
                f"the conversation is {len(ids)} tokens long, the model sees {limit}",
                where="chat",
                fix="Take a turn back with /undo, or start again with /reset.",
            )
        device = next(model.parameters()).device
        torch.manual_seed(seed)
        adapter = model.disable_adapter() if self.bare else nullcontext()
        try:
            with torch.no_grad(), as_asked(model), adapter:
                output = model.generate(
                    input_ids=torch.tensor([ids], device=device),
                    attention_mask=torch.ones(1, len(ids), dtype=torch.int64, device=device),
                    generation_config=generation_config(tokenizer, how, model),
                    streamer=pieces,
                )
        except KeyboardInterrupt:
            hear(" [interrupted]")
            return "".join(pieces.told).strip()
        text: str = tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
        return text.strip()


class Chat:
    """A conversation with the base model first; the n-th answer has the n-th seed from its own."""

    def __init__(self, sides: list[Side], sampling: Sampling, system: str | None) -> None:
        self.sides, self.sampling, self.system = sides, sampling, system
        self._drawn = 0

    def ask(self, text: str, hear: Callable[[Side], Hear]) -> None:
        """Have every side answer, and `hear` it; where one cannot, it was never asked."""
        before = [list(side.turns) for side in self.sides]
        seed, self._drawn = self.sampling.seed + self._drawn, self._drawn + 1
        try:
            for side in self.sides:
                side.turns.append({"role": "user", "content": text})
                answer = side.answer(self._messages(side), self.sampling, seed, hear(side))
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

    def save(self, path: Path) -> None:
        """Write one JSON object per side; nothing that is there is replaced."""
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in self.told()]
        try:
            with path.open("x", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            there = isinstance(error, FileExistsError)
            what = "is there already" if there else f"cannot be written ({error.strerror})"
            raise ConfigError(what, where=str(path), fix="Name another.") from error

    def told(self) -> Iterable[dict[str, Any]]:
        """Each side's model and messages."""
        for side in self.sides:
            yield {"model": side.name, "messages": self._messages(side)}

    def _messages(self, side: Side) -> list[dict[str, str]]:
        """What a side was told and said, the system prompt first."""
        opening = [{"role": "system", "content": self.system}] if self.system else []
        return opening + side.turns


def sides(
    model: str, beside: str | None = None, variables: Mapping[str, Any] | None = None, **how: Any
) -> list[Side]:
    """A model, after the one `beside` it; an adapter and its base model share their weights.

    `variables` are the chat templates', and `how` is for `load_answerer`.
    """

    def load(name: str) -> Answerer:
        return replace(load_answerer(name, **how), template_kwargs=variables or {})

    own = None if beside is None else started_from(model)
    base = own if beside == ITS_BASE else beside
    if beside == ITS_BASE and own is None:
        raise ConfigError(
            f"{model} does not say which model it started from",
            where="--beside",
            fix="Name it: --beside BASE.",
        )
    if base == model:
        raise ConfigError("is the model itself", where="--beside", fix="Name another one.")
    tuned = load(model)
    if base is None:
        return [Side(model, tuned)]
    if base == own and is_adapter(model):
        return [Side(base, tuned, bare=True), Side(model, tuned)]
    other = load(base)
    size = vocabulary_size(other.model)
    if base == own and (size is None or len(tuned.tokenizer) <= size):
        other = replace(other, tokenizer=tuned.tokenizer)  # with the run's template
    return [Side(base, other), Side(model, tuned)]


class _Pieces(BaseStreamer):
    """Turns tokens into pieces of text, each told as soon as it is a whole character.

    The text of a token may depend on the one before it, so a piece is what it adds to theirs.
    """

    def __init__(self, tokenizer: Any, hear: Hear) -> None:
        self._tokenizer, self._hear = tokenizer, hear
        self.told: list[str] = []
        self._ids: list[int] | None = None
        self._from = self._end = 0  # where the last piece begins, and where it ends

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt first, then each token."""
        if self._ids is None:
            self._ids = []
            return
        self._ids += value.flatten().tolist()
        self._tell(last=False)

    def end(self) -> None:
        """Nothing more is to come."""
        self._tell(last=True)

    def _tell(self, *, last: bool) -> None:
        ids = self._ids or []
        text, known = (
            self._tokenizer.decode(ids[self._from : end], skip_special_tokens=True)
            for end in (len(ids), self._end)
        )
        piece = text[len(known) :]
        in_the_middle = piece.endswith("\ufffd") and len(ids) - self._end < _LONGEST
        if piece and (last or not in_the_middle):
            self._from, self._end = self._end, len(ids)
            self.told.append(piece)
            self._hear(piece)
