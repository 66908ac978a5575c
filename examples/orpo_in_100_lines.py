"""ORPO in 100 lines of code: the whole method, flat, and nothing of it hidden in a library.

    python examples/orpo_in_100_lines.py
    python examples/orpo_in_100_lines.py --model MODEL --data PAIRS.jsonl --lr 8e-6 --steps 100

It trains the embedded model on the embedded pairs, in float32, and prints the loss of 64 pairs that
it does not train on, which falls, and their mean log odds ratio, which rises: above 0, the better
answers are the likelier ones. `ORPOTrainer` reaches the same numbers: tests/test_example.py holds
both together. What it adds is speed, memory, many devices, other formats of data, and runs that
are not lost. The equations are those of arXiv 2403.07691.
"""

import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser

ASSETS = f"{files('orpo.demo')}/assets"  # data of the package; no code of it is used
Pair: TypeAlias = tuple[list[int], list[int], list[int]]
"""Token ids of a prompt x, of its better answer y_w and of its worse answer y_l."""


@dataclass
class Settings:
    """What a run may be told."""

    model: str = f"{ASSETS}/base"
    data: str = f"{ASSETS}/pairs/train.jsonl.gz"
    unseen: str = f"{ASSETS}/pairs/heldout.jsonl.gz"
    max_length: int = 256  # tokens of prompt and answer together
    alpha: float = 0.5  # strength of the preference term, the paper's lambda
    beta: float = 1.0  # temperature of the odds ratio, 1 in the paper
    scope: str = "sequence"  # the NLL counts prompt and answer; "completion": the answer only
    lr: float = 4e-4  # the largest; models of billions of parameters want about 8e-6
    warmup: float = 0.1  # share of the steps
    steps: int = 20
    batch: int = 4  # pairs that go through the model at once
    accumulation: int = 4  # such batches in one optimizer step
    seed: int = 42


def read_pairs(path: str, tokenizer: Any, max_length: int) -> list[Pair]:
    """Rows of messages through the chat template; an answer is what follows the opened prompt."""
    ids, pairs = partial(tokenizer.apply_chat_template, return_dict=False), []
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            x = ids(row["prompt"], add_generation_prompt=True)
            y_w, y_l = (ids(row["prompt"] + row[name])[len(x) :] for name in ("chosen", "rejected"))
            room = max_length - len(x)
            pairs.append((x, y_w[:room], y_l[:room]))
    return pairs


def token_logps(model: nn.Module, texts: list[list[int]]) -> list[Tensor]:
    """log p(t_i | t_<i) of all tokens of each text but its first, which nothing predicts."""
    ids = pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    mask = pad_sequence([torch.ones(len(text)) for text in texts], batch_first=True)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    logps = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return [row[: len(text) - 1] for row, text in zip(logps, texts, strict=True)]


def log_odds(logp: Tensor) -> Tensor:
    """Eq. 4: log(P / (1 - P)), of log P; expm1 keeps 1 - P exact where P is nearly 1."""
    return logp - torch.log(-torch.expm1(logp))


def score(model: nn.Module, pairs: list[Pair], scope: str) -> tuple[Tensor, Tensor]:
    """The NLL of each token of the better texts, in a row, and z of each pair, shape (pairs,)."""
    texts_w = token_logps(model, [x + y_w for x, y_w, _ in pairs])
    texts_l = token_logps(model, [x + y_l for x, _, y_l in pairs])
    answers_w = [text[-len(y_w) :] for text, (_, y_w, _) in zip(texts_w, pairs, strict=True)]
    answers_l = [text[-len(y_l) :] for text, (_, _, y_l) in zip(texts_l, pairs, strict=True)]
    logp_w = torch.stack([answer.mean() for answer in answers_w])  # eq. 3: the mean over tokens
    logp_l = torch.stack([answer.mean() for answer in answers_l])
    z = log_odds(logp_w) - log_odds(logp_l)  # eq. 5: the odds ratio, in logarithms
    return -torch.cat(texts_w if scope == "sequence" else answers_w), z


def objective(nll: Tensor, z: Tensor, tokens: int, pairs: int, s: Settings) -> Tensor:
    """The loss of `tokens` and `pairs`, or the part in it of some of them."""
    l_or = -F.logsigmoid(s.beta * z).sum() / pairs  # eq. 7
    return nll.sum() / tokens + s.alpha * l_or  # eq. 6


def deal(pairs: list[Pair], s: Settings) -> Iterator[list[list[Pair]]]:
    """The batches of each optimizer step; every epoch has an order of its own."""
    for epoch in range(s.steps):
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(s.seed + epoch))
        batches = [[pairs[i] for i in part] for part in order.split(s.batch)]
        for first in range(0, len(batches), s.accumulation):
            yield batches[first : first + s.accumulation]


def learning_rate(step: int, s: Settings) -> float:
    """Rises from 0 in a line, and falls back to it as a cosine does."""
    rise = math.ceil(s.warmup * s.steps)
    fall = 0.5 * (1 + math.cos(math.pi * (step - rise) / (s.steps - rise)))
    return s.lr * (step / rise if step < rise else fall)


def train(model: nn.Module, pairs: list[Pair], s: Settings) -> Iterator[float]:
    """Gives the loss of each optimizer step, once it is taken."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    for step, batches in zip(range(s.steps), deal(pairs, s), strict=False):
        all_pairs = [pair for batch in batches for pair in batch]
        tokens = sum(len(y_w) + (len(x) - 1) * (s.scope == "sequence") for x, y_w, _ in all_pairs)
        loss = 0.0
        for batch in batches:  # its share of the means over the whole step, however that is cut
            part = objective(*score(model, batch, s.scope), tokens, len(all_pairs), s)
            part.backward()
            loss += part.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate(step, s)
        optimizer.step()
        optimizer.zero_grad()
        yield loss


@torch.no_grad()
def test(model: nn.Module, pairs: list[Pair], s: Settings) -> str:
    """The loss of pairs that are not trained on, and the mean of their log odds ratios z."""
    nll, z = score(model, pairs, s.scope)
    return f"loss {objective(nll, z, len(nll), len(z), s):.4f}  log odds ratio {z.mean():.3f}"


def main() -> None:
    """Reads the flags, trains, and says what it changed."""
    (s,) = HfArgumentParser(Settings).parse_args_into_dataclasses()
    tokenizer = AutoTokenizer.from_pretrained(s.model)
    model = AutoModelForCausalLM.from_pretrained(s.model, dtype=torch.float32).eval()  # no dropout
    pairs, unseen = (read_pairs(path, tokenizer, s.max_length) for path in (s.data, s.unseen))
    print(f"step   0  {test(model, unseen[:64], s)}")
    for step, _ in enumerate(train(model, pairs, s), start=1):
        if step % 5 == 0:
            print(f"step {step:3}  {test(model, unseen[:64], s)}", flush=True)


if __name__ == "__main__":
    main()
