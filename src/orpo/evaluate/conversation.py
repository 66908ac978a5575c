"""A model in a conversation: it is told every turn so far, and answers as it goes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from orpo.data.rendering import RenderingError, has_chat_template
from orpo.errors import DataError
from orpo.evaluate.generation import Sampling, as_asked, encode_prompt, generation_config
from orpo.evaluate.loading import Answerer

__all__ = ["Hear", "Speaker"]

_LONGEST = 8  # tokens of one character; what is longer is broken
Hear = Callable[[str], None]
"""Told each piece of an answer as soon as it is certain."""


class Speaker:
    """A model that talks.

    Args:
        name: What it is called.
        answerer: The model and its tokenizer.
        without_adapter: Answer as the base model does; the weights are the same ones.
    """

    def __init__(self, name: str, answerer: Answerer, *, without_adapter: bool = False) -> None:
        self.name = name
        self._answerer, self._bare = answerer, without_adapter

    def answer(self, turns: list[dict[str, str]], how: Sampling, seed: int, hear: Hear) -> str:
        """The answer to the last turn, without special tokens and without white space around it.

        Ctrl-C ends an answer where it stands; what was said so far is the answer.

        Args:
            turns: Role and content of everything said so far.
            how: How tokens are drawn.
            seed: Of this answer.
            hear: Told the answer piece by piece.

        Raises:
            DataError: The conversation leaves no position for an answer.
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
