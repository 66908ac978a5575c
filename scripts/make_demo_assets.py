"""Make the assets of `orpo demo` from seeds: tokenizer, base model and preference pairs.

    python scripts/make_demo_assets.py                 everything
    python scripts/make_demo_assets.py --only pairs    the pairs alone, in seconds

The text comes from `demo_corpus`, nothing is downloaded. The pairs and the tokenizer come out the
same everywhere; the model's weights depend on the machine's floating-point kernels.
"""

import argparse
import gzip
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from demo_corpus.draw import Draw
from demo_corpus.habits import Document, Span, documents
from demo_corpus.world import HELDOUT_PAIRS, TRAIN_PAIRS, Row, preference_rows
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ASSETS = Path(__file__).parents[1] / "src" / "orpo" / "demo" / "assets"
BOS, PAD, END = "<|bos|>", "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCABULARY = 1792
GIVEN = 0.1
"""Weight of tokens that no model could foresee, such as the operands of a question."""

Encoded = list[tuple[int, float]]


@dataclass(frozen=True)
class Schedule:
    """How the base model is pre-trained."""

    steps: int
    tokens_per_step: int
    learning_rate: float
    seed: int
    warmup: int = 100

    def factor(self, step: int) -> float:
        """Return the share of the learning rate at `step`: warm-up, then a cosine down to 2 %."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which digits and Chinese characters never merge."""
    tokenizer = Tokenizer(models.BPE())
    alone = pre_tokenizers.Split(Regex(r"\p{N}|\p{Han}"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([alone, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, END, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (document.text for document in islice(documents(seed, plain_first=0), 60_000))
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """Return the shape of the base model."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def spans_of(document: Document) -> list[Span]:
    """Return the document's spans with the marks of the chat template around them."""
    if not document.conversation:
        return [Span(BOS, given=True), *document.spans, Span(END)]
    question, answer = document.spans
    prompt = BOS + ROLES[1] + question.text + END + ROLES[2]
    return [Span(prompt, given=True), Span(answer.text + END)]


def encoded(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[Encoded]]:
    """Yield the pre-training documents as tokens and their weights, some thousands at a time."""
    stream = documents(seed)
    while True:
        spans = [spans_of(document) for document in islice(stream, 8192)]
        texts = [span.text for document in spans for span in document]
        ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
        yield [
            [(token, GIVEN if span.given else 1.0) for span in document for token in next(ids)]
            for document in spans
        ]


def padded(rows: list[Encoded], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and weights, both (rows, longest row), padded on the right."""
    width = max(len(row) for row in rows)
    filled = [row + [(pad, 0.0)] * (width - len(row)) for row in rows]
    ids = torch.tensor([[token for token, _ in row] for row in filled])
    return ids, torch.tensor([[weight for _, weight in row] for row in filled])


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int, tokens_per_batch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of documents of similar length."""
    draw = Draw(f"batches:{seed}")
    for rows in encoded(tokenizer, seed):
        cuts: list[list[Encoded]] = [[]]
        for row in sorted(rows, key=len):
            if (len(cuts[-1]) + 1) * len(row) > tokens_per_batch:
                cuts.append([])
            cuts[-1].append(row)
        for cut in draw.shuffled(cuts):
            yield padded(cut, int(tokenizer.pad_token_id or 0))


def next_token_loss(
    model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return the weighted mean loss; padding on the right is never attended to."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    targets, weights = ids[:, 1:].flatten(), weights[:, 1:].flatten()
    losses = cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
    return (losses * weights).sum() / weights.sum()


def optimizers(model: LlamaForCausalLM, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices, which learn to copy far sooner, AdamW for the rest."""
    embedding = model.get_input_embeddings().weight
    matrices = [p for p in model.parameters() if p.dim() == 2 and p is not embedding]
    others = [p for p in model.parameters() if p.dim() != 2 or p is embedding]
    return [
        torch.optim.Muon(matrices, lr=schedule.learning_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def pretrain(tokenizer: PreTrainedTokenizerFast, schedule: Schedule) -> LlamaForCausalLM:
    """Pre-train the base model and report what it took."""
    torch.manual_seed(schedule.seed)
    model = LlamaForCausalLM(model_config(tokenizer))
    # On short rows plain matrix products outrun the CPU's fused attention.
    model.set_attn_implementation("eager")
    steppers = optimizers(model, schedule)
    schedulers = [LambdaLR(stepper, schedule.factor) for stepper in steppers]
    print(f"parameters {model.num_parameters():,}, vocabulary {len(tokenizer)}")
    seen, recent, start = 0, 0.0, time.monotonic()
    stream = batches(tokenizer, schedule.seed, schedule.tokens_per_step)
    for step, (ids, weights) in enumerate(islice(stream, schedule.steps)):
        loss = next_token_loss(model, ids, weights)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper, scheduler in zip(steppers, schedulers, strict=True):
            stepper.step()
            scheduler.step()
        model.zero_grad(set_to_none=True)
        seen += int((weights > 0).sum())
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if (step + 1) % 100 == 0 or step + 1 == schedule.steps:
            seconds = time.monotonic() - start
            facts = f"loss {recent:.4f}  tokens {seen:,}  {seconds:.0f} s"
            print(f"step {step + 1}  {facts}", flush=True)
    return model


def save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer in bfloat16 and report the folder's size."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=96,
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e6:.2f} MB")


def save_pairs(rows: list[Row], path: Path) -> None:
    """Write one JSON object per line, compressed without a time stamp."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(lines.encode(), compresslevel=9, mtime=0))
    print(f"{path}: {len(rows)} pairs, {path.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    """Read the flags and write what they ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ASSETS)
    parser.add_argument("--only", choices=("base", "pairs"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--tokens_per_step", type=int, default=4096)
    parser.add_argument("--learning_rate", type=float, default=8e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    if flags.only != "base":
        save_pairs(preference_rows("train", TRAIN_PAIRS), flags.output / "pairs" / "train.jsonl.gz")
        rows = preference_rows("heldout", HELDOUT_PAIRS)
        save_pairs(rows, flags.output / "pairs" / "heldout.jsonl.gz")
    if flags.only != "pairs":
        torch.set_num_threads(flags.threads)
        tokenizer = train_tokenizer(flags.seed)
        schedule = Schedule(flags.steps, flags.tokens_per_step, flags.learning_rate, flags.seed)
        save_base(pretrain(tokenizer, schedule), tokenizer, flags.output / "base")


if __name__ == "__main__":
    main()
