"""A model that answers here: batched, deterministic, rendered and stopped as in training."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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

from orpo.config import ORPOConfig
from orpo.data.asked import Asking
from orpo.data.lengths import LengthPolicy
from orpo.data.rendering import RenderingError, has_chat_template
from orpo.data.tokenize import PairTokenizer, answer_endings
from orpo.data.types import Messages
from orpo.errors import DataError
from orpo.evaluate.loading import Answerer, load_answerer
from orpo.evaluate.questions import Answered, Answers, Asked, Question
from orpo.evaluate.settings import Sampling
from orpo.runs.files import ADAPTER_FILE
from orpo.runs.manifest import MANIFEST, describe, read_manifest
from orpo.terminal import Advance, under_way, unseen
from orpo.train.models import load_tokenizer


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


class _Counted(LogitsProcessor):
    """Tells how much of a batch is done: with each token its share of the longest answers."""

    def __init__(self, prompts: int, room: int, advance: Advance) -> None:
        self._left, self._share, self._advance = float(prompts), prompts / room, advance

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores as they are."""
        self._left -= self._share
        self._advance(self._share)
        return scores

    def end(self) -> None:
        """All answers of the batch have ended."""
        self._advance(self._left)


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
def as_asked(model: nn.Module, settings: GenerationConfig | None = None) -> Iterator[None]:
    """`model.generate` does what it is told: nothing of the model's own settings, such as beams."""
    name = "generation_config"
    own = [(part, vars(part)[name]) for part in model.modules() if name in vars(part)]
    for part, _ in own:
        setattr(part, name, settings or GenerationConfig())
    try:
        yield
    finally:
        for part, before in own:
            setattr(part, name, before)


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
    with under_way("answering", len(prompts)) as advance:
        found = complete_prompts(model, tokenizer, prompts, sampling, advance=advance)
    return [done.text for done in found]


@torch.no_grad()
def complete_prompts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    sampling: Sampling,
    keys: Sequence[str] = (),
    advance: Advance = unseen,
) -> list[Completion]:
    """The same as `generate_answers`, with what became of each answer.

    An answer ends where the model's positions end (`max_position_embeddings`), and counts as cut
    off then; a prompt that leaves no position gets an empty one. The random numbers of each come
    from its key (without any, from the prompt), together with the seed.
    """
    seen, own = Counter[str](), list(keys)
    for content in map(str, () if keys else prompts):
        own.append(f"{seen[content]}:{content}")  # a prompt that is given twice is drawn twice
        seen[content] += 1
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
                counted = _Counted(len(chosen), room, advance)
                processors = LogitsProcessorList([counted])
                if sampling.temperature > 0:
                    draws = [Random(f"{sampling.seed}/{own[i]}") for i in chosen]  # noqa: S311
                    processors.append(SeededDraws(draws, sampling.temperature, sampling.top_p))
                batch = [prompts[i] for i in chosen]
                found = _complete(model, tokenizer, batch, room, processors)
                for i, one in zip(chosen, found, strict=True):
                    done[i] = one
                counted.end()
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
        batches = []
        for start in range(0, len(ordered), sampling.batch_size):
            batch = ordered[start : start + sampling.batch_size]
            if any(one.wanted for one in batch):
                batches.append(batch)
        turns = sum(len(one.question.turns) for batch in batches for one in batch)
        with under_way("answering", turns) as advance:
            for batch in batches:
                yield from self._answer(batch, sampling, advance)

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

    def _answer(self, batch: list[Asked], sampling: Sampling, advance: Advance) -> Answers:
        said: dict[str, list[Completion]] = {one.key: [] for one in batch}
        here = self.answerer()
        for turn in range(max(len(one.question.turns) for one in batch)):
            members = [one for one in batch if len(one.question.turns) > turn]
            prompts = [
                self._encode(one.question, [done.text for done in said[one.key]]) for one in members
            ]
            keys = [f"{one.key}/{turn}" for one in members]
            found = complete_prompts(here.model, here.tokenizer, prompts, sampling, keys, advance)
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
