"""Answers to prompts: batched, deterministic, rendered and stopped as in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from orpo.data import LengthPolicy, Messages, PairTokenizer, PreferencePair, Row, TokenizedPair

__all__ = ["Sampling", "encode_prompt", "generate_answers", "generation_config", "stop_ids"]


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        max_new_tokens: Longest answer in tokens.
        temperature: 0 takes the most probable token each time.
        top_p: Nucleus of the distribution that is drawn from.
        seed: Makes drawn answers repeatable.
        batch_size: Prompts at once.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    batch_size: int = 16


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | Messages) -> list[int]:
    """Token ids of a prompt, a plain text or a conversation, as training saw it."""
    return PairTokenizer(tokenizer, LengthPolicy()).prompt_ids(prompt)


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end an answer: EOS, and the end of turn that the chat template writes."""
    ids = {int(tokenizer.eos_token_id)}
    if tokenizer.chat_template:
        answer = {"role": "assistant", "content": "a"}
        other = {"role": "assistant", "content": "b"}
        pair = PreferencePair(
            Row({}, "probe", 0),
            prompt=[{"role": "user", "content": "a"}],
            chosen=answer,
            rejected=other,
        )
        tokens = PairTokenizer(tokenizer, LengthPolicy(None))(pair)
        if isinstance(tokens, TokenizedPair):
            ids.add(tokens.chosen_ids[-1])
    return sorted(ids)


def generation_config(tokenizer: PreTrainedTokenizerBase, sampling: Sampling) -> GenerationConfig:
    """The settings of `model.generate` for a way of sampling."""
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=stop_ids(tokenizer),
        pad_token_id=tokenizer.pad_token_id
        if tokenizer.pad_token_id is not None
        else tokenizer.eos_token_id,
        use_cache=True,
        **drawn,
    )


@torch.no_grad()
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
    config = generation_config(tokenizer, sampling)
    answers = [""] * len(prompts)
    was_training = model.training
    model.eval()
    torch.manual_seed(sampling.seed)
    # Prompts of similar length together: little padding, and the same batches every time.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    try:
        for start in range(0, len(order), sampling.batch_size):
            chosen = order[start : start + sampling.batch_size]
            texts = _generate_batch(model, tokenizer, [prompts[i] for i in chosen], config)
            for i, text in zip(chosen, texts, strict=True):
                answers[i] = text
    finally:
        model.train(was_training)
    return answers


def _generate_batch(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    config: GenerationConfig,
) -> list[str]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), int(config.pad_token_id))
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padding on the left: answers start together
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    device = next(model.parameters()).device
    output = model.generate(
        input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config
    )
    texts: list[str] = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return [text.strip() for text in texts]
