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
    """An answer."""

    text: str  # without special tokens and without white space around it
    truncated: bool  # it was cut off before the model ended it


class SeededDraws(LogitsProcessor):
    """Draws each row's next token with random numbers of its own.

    `generate` draws for a whole batch from one generator, so an answer would depend on what else
    is in the batch. Here each row has a generator, and each step takes one number u in [0, 1) from
    it: the token drawn is the first one at which the cumulated probabilities exceed u (inversion),
    which is exact sampling from softmax(scores / temperature) within its nucleus. All other tokens
    get a score of -inf, so a greedy search takes the one that was drawn.
    """

    def __init__(self, generators: Sequence[Random], temperature: float, top_p: float) -> None:
        self._generators, self._temperature, self._top_p = generators, temperature, top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) in which only the drawn token of each row is possible."""
        probabilities = torch.softmax(scores.float() / self._temperature, dim=-1).double()
        if self._top_p < 1:
            ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
            outside = ranked.cumsum(-1) - ranked >= self._top_p
            outside[..., 0] = False  # the most probable token always stays
            outside = torch.zeros_like(outside).scatter(-1, order, outside)
            probabilities = probabilities.masked_fill(outside, 0.0)
        cumulated = probabilities.cumsum(-1)
        numbers = [[generator.random()] for generator in self._generators]
        heights = torch.tensor(numbers, dtype=torch.float64, device=scores.device)
        # Times the last sum, which rounding may leave a little off 1.
        drawn = torch.searchsorted(cumulated, heights * cumulated[:, -1:], right=True)
        drawn = drawn.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Messages,
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a prompt, a plain text or a conversation, as training saw it.

    `template_kwargs` are variables for the chat template that win over those of the training.
    """
    return PairTokenizer(tokenizer, LengthPolicy(), template_kwargs).prompt_ids(prompt)


def stop_ids(tokenizer: PreTrainedTokenizerBase, model: nn.Module | None = None) -> list[int]:
    """EOS, the end of turn that the chat template writes, and those of the model's own settings."""
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
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=stop_ids(tokenizer, model),
        pad_token_id=tokenizer.eos_token_id if pad is None else pad,
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
    for content in map(str, prompts):
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
    off then; a prompt that leaves no position gets an empty one. The random numbers of each come
    from its key, together with the seed.
    """
    done = [Completion("", truncated=True)] * len(prompts)
    limit = most_positions(model)
    by_room: dict[int, list[int]] = defaultdict(list)
    # Prompts of similar length together: little padding, and the same batches every time.
    for i in sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i)):
        room = sampling.max_new_tokens
        by_room[room if limit is None else min(room, limit - len(prompts[i]))].append(i)
    was_training = model.training
    model.eval()
    try:
        for room, members in by_room.items():
            for start in range(0, len(members) if room > 0 else 0, sampling.batch_size):
                chosen = members[start : start + sampling.batch_size]
                processors = LogitsProcessorList()
                if sampling.temperature > 0:
                    draws = [Random(f"{sampling.seed}/{keys[i]}") for i in chosen]  # noqa: S311
                    processors.append(SeededDraws(draws, sampling.temperature, sampling.top_p))
                batch = [prompts[i] for i in chosen]
                found = _complete(model, tokenizer, batch, room, processors)
                for i, one in zip(chosen, found, strict=True):
                    done[i] = one
    finally:
        model.train(was_training)
    return done


def most_positions(model: nn.Module) -> int | None:
    """The longest text that a model sees, in tokens; None where it does not say."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    limit = getattr(text, "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None


def _complete(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    room: int,
    processors: LogitsProcessorList,
) -> Iterator[Completion]:
    """Prompts completed together; an answer ends before the first token that ends one."""
    config = generation_config(tokenizer, Sampling(max_new_tokens=room), model)
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), int(config.pad_token_id))
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padding on the left: answers start together
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
    for tokens in output[:, width:].tolist():
        end = next((i for i, one in enumerate(tokens) if one in config.eos_token_id), len(tokens))
        text: str = tokenizer.decode(tokens[:end], skip_special_tokens=True)
        yield Completion(text.strip(), truncated=end == len(tokens))
