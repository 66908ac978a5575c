"""Answers to prompts: batched, deterministic, rendered and stopped as in training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
)

from orpo.data.lengths import LengthPolicy
from orpo.data.tokenize import PairTokenizer, answer_endings
from orpo.data.types import Messages
from orpo.evaluate.settings import Sampling


@dataclass(frozen=True)
class Completion:
    """An answer.

    Attributes:
        text: Without special tokens and without white space around it.
        truncated: Whether it was cut off before the model ended it.
    """

    text: str
    truncated: bool


class SeededDraws(LogitsProcessor):
    """Draws each row's next token with random numbers of its own.

    `generate` draws for a whole batch from one generator, so an answer would depend on what else
    is in the batch. Here each row has a generator, and each step takes one number u in [0, 1) from
    it: the token drawn is the first one at which the cumulated probabilities exceed u (inversion),
    which is exact sampling from softmax(scores / temperature) within its nucleus. All other tokens
    get a score of -inf, so a greedy search takes the one that was drawn.

    Args:
        generators: One for each row.
        temperature: Above 0.
        top_p: The smallest set of most probable tokens that together have this probability.
    """

    def __init__(self, generators: Sequence[Random], temperature: float, top_p: float) -> None:
        self._generators, self._temperature, self._top_p = generators, temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) in which only the drawn token of each row is possible."""
        probabilities = torch.softmax(scores.float() / self._temperature, dim=-1).double()
        if self._top_p < 1:
            probabilities = _nucleus(probabilities, self._top_p)
        cumulated = probabilities.cumsum(-1)
        numbers = [[generator.random()] for generator in self._generators]
        heights = torch.tensor(numbers, dtype=torch.float64, device=scores.device)
        # Times the last sum, which rounding may leave a little off 1.
        drawn = torch.searchsorted(cumulated, heights * cumulated[:, -1:], right=True)
        drawn = drawn.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero for every token that the more probable ones make up for."""
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    outside = ranked.cumsum(-1) - ranked >= top_p
    outside[..., 0] = False  # the most probable token always stays
    return probabilities.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), 0.0)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a prompt, a plain text or a conversation, as training saw it.

    Args:
        tokenizer: The model's; it keeps how the model is asked.
        prompt: What is asked.
        template_kwargs: Variables for the chat template that win over those of the training.
    """
    return PairTokenizer(tokenizer, LengthPolicy(), template_kwargs).prompt_ids(prompt)


def stop_ids(tokenizer: PreTrainedTokenizerBase, model: nn.Module | None = None) -> list[int]:
    """Tokens that end an answer.

    EOS, the end of turn that the chat template writes, and those of the model's own settings.
    """
    ids = answer_endings(tokenizer)
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids.update([own] if isinstance(own, int) else own or [])
    return sorted(ids)


def generation_config(
    tokenizer: PreTrainedTokenizerBase, sampling: Sampling, model: nn.Module | None = None
) -> GenerationConfig:
    """The settings of `model.generate` for a way of sampling; nothing else counts `as_asked`."""
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        nucleus = {"top_p": sampling.top_p, "top_k": 0}
        drawn = {"do_sample": True, "temperature": sampling.temperature, **nucleus}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=stop_ids(tokenizer, model),
        pad_token_id=tokenizer.pad_token_id
        if tokenizer.pad_token_id is not None
        else tokenizer.eos_token_id,
        use_cache=True,
        **drawn,
    )


@contextmanager
def as_asked(model: nn.Module) -> Iterator[None]:
    """`model.generate` does what it is told, and takes nothing from the model's own settings.

    What those would add (a penalty on repetition, the 50 most probable tokens, beams, another way
    of searching) would change the answers without anybody having asked for it.
    """
    name = "generation_config"
    own = [(part, vars(part)[name]) for part in model.modules() if name in vars(part)]
    for part, _ in own:
        setattr(part, name, GenerationConfig())
    try:
        yield
    finally:
        for part, settings in own:
            setattr(part, name, settings)


def generate_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    sampling: Sampling,
) -> list[str]:
    """One answer for each prompt, in the order of the prompts.

    Args:
        model: The model; its training mode is restored afterwards.
        tokenizer: Its tokenizer.
        prompts: Token ids, from `encode_prompt` or a prepared data set.
        sampling: How answers are drawn.

    Returns:
        Decoded answers without special tokens and without white space around them.
    """
    seen: Counter[str] = Counter()
    keys = []
    for prompt in prompts:
        content = str(prompt)
        keys.append(f"{seen[content]}:{content}")  # a prompt that is given twice is drawn twice
        seen[content] += 1
    return [done.text for done in complete_prompts(model, tokenizer, prompts, sampling, keys)]


@torch.no_grad()
def complete_prompts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    keys: Sequence[str],
) -> list[Completion]:
    """The same as `generate_answers`, with what became of each answer.

    An answer ends where the model's positions end (`max_position_embeddings`), and counts as cut
    off then; a prompt that leaves no position gets an empty one.

    Args:
        model: The model; its training mode is restored afterwards.
        tokenizer: Its tokenizer.
        prompts: Token ids.
        sampling: How answers are drawn.
        keys: What each prompt's random numbers come from, together with the seed.
    """
    done = [Completion("", truncated=True)] * len(prompts)
    rooms = _rooms(model, prompts, sampling.max_new_tokens)
    was_training = model.training
    model.eval()
    try:
        for room, chosen in _batches(prompts, rooms, sampling.batch_size):
            draws = [Random(f"{sampling.seed}/{keys[i]}") for i in chosen]  # noqa: S311
            batch = _Batch([prompts[i] for i in chosen], room, draws)
            for i, one in zip(chosen, _complete(model, tokenizer, batch, sampling), strict=True):
                done[i] = one
    finally:
        model.train(was_training)
    return done


@dataclass(frozen=True)
class _Batch:
    """Prompts that are completed together, with the most tokens that an answer may have."""

    prompts: list[list[int]]
    room: int
    draws: list[Random]


def _rooms(model: nn.Module, prompts: Sequence[list[int]], most: int) -> list[int]:
    """The tokens that an answer to each prompt may have."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(text, "max_position_embeddings", None)
    if not isinstance(limit, int):
        return [most] * len(prompts)
    return [max(0, min(most, limit - len(prompt))) for prompt in prompts]


def _batches(
    prompts: Sequence[list[int]], rooms: Sequence[int], size: int
) -> list[tuple[int, list[int]]]:
    """Prompts of similar length together: little padding, and the same batches every time."""
    by_room: dict[int, list[int]] = defaultdict(list)
    for i in sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i)):
        by_room[rooms[i]].append(i)
    return [
        (room, members[start : start + size])
        for room, members in by_room.items()
        if room > 0
        for start in range(0, len(members), size)
    ]


def _complete(
    model: Any, tokenizer: PreTrainedTokenizerBase, batch: _Batch, sampling: Sampling
) -> list[Completion]:
    greedy = Sampling(max_new_tokens=batch.room)
    config = generation_config(tokenizer, greedy, model)
    processors = LogitsProcessorList()
    if sampling.temperature > 0:
        processors.append(SeededDraws(batch.draws, sampling.temperature, sampling.top_p))
    width = max(map(len, batch.prompts))
    ids = torch.full((len(batch.prompts), width), int(config.pad_token_id))
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(batch.prompts):  # padding on the left: answers start together
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    device = next(model.parameters()).device
    with as_asked(model):
        output = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=config,
            logits_processor=processors,
        )
    stops = set(config.eos_token_id)
    return [_completion(tokenizer, row, stops) for row in output[:, width:].tolist()]


def _completion(
    tokenizer: PreTrainedTokenizerBase, tokens: list[int], stops: set[int]
) -> Completion:
    """What stands before the first token that ends an answer, special or not."""
    end = next((i for i, token in enumerate(tokens) if token in stops), len(tokens))
    text: str = tokenizer.decode(tokens[:end], skip_special_tokens=True)
    return Completion(text.strip(), truncated=end == len(tokens))
