"""Rows per second from text to token ids, beside TRL's ORPOTrainer, on the same rows.

    python benchmarks/tokenize_rate.py DATASET TOKENIZER...

DATASET is anything that `orpo train` reads, such as HH-RLHF; each TOKENIZER a folder or Hub id.
Rows go in once as plain text and once as messages through the chat template. Both sides start from
rows in memory and end with a data set that a trainer can use; they take turns, and the median of
the rounds' ratios counts. Where TRL breaks down the line says so. TRL comes with
`pip install orpo[bench]`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import datasets
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from orpo.data.lengths import LengthPolicy
from orpo.data.prepare import Preparation
from orpo.data.reading import PairReader
from orpo.data.sources import iterate_dataset, open_source
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import PreferencePair

Rows = list[dict[str, Any]]


def rows_of(dataset: str) -> dict[str, Rows]:
    """The rows that have both answers, as text and as messages."""
    read, texts, messages = PairReader(on_bad_row="drop"), [], []
    for row in open_source(dataset):
        pair = read(row)
        if not isinstance(pair, PreferencePair) or pair.text is None or pair.prompt is None:
            continue
        prompt, chosen, rejected = pair.text.prompt, pair.text.chosen, pair.text.rejected
        if not (rejected and rejected.strip() and chosen.strip()) or chosen == rejected:
            continue
        texts.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        both = {"chosen": [dict(pair.chosen or {})], "rejected": [dict(pair.rejected or {})]}
        messages.append({"prompt": list(pair.prompt), **both})
    return {"text": texts, "messages": messages}


def ours(rows: Rows, tokenizer: Any) -> float:
    """Rows per second of `Preparation`, nothing kept from run to run."""
    start = time.perf_counter()
    prepare = Preparation(PairTokenizer(tokenizer, LengthPolicy(1024)))
    prepared, _ = prepare(iterate_dataset(datasets.Dataset.from_list(rows), "rows"), "rows")
    assert len(prepared) > 0
    return len(rows) / (time.perf_counter() - start)


def trls(rows: Rows, tokenizer: Any, model: LlamaForCausalLM) -> float:
    """Rows per second of TRL's trainer, which tokenises as it is built."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    start = time.perf_counter()
    args = ORPOConfig(
        output_dir=tempfile.mkdtemp(), report_to="none", bf16=False, use_cpu=True, max_length=1024
    )
    data = datasets.Dataset.from_list(rows)
    trainer = ORPOTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
    assert len(trainer.train_dataset) == len(rows)
    return len(rows) / (time.perf_counter() - start)


def measure(rows: Rows, name: str, rounds: int) -> dict[str, Any]:
    """Both sides in turn; the first round warms up."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tiny = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    model, found = LlamaForCausalLM(tiny), []
    for number in range(rounds + 1):
        # A row more each round, so that nothing is found in a cache.
        some = rows[number:]
        try:
            found.append((ours(some, tokenizer), trls(some, tokenizer, model)))
        except Exception as error:  # whatever a template brings about
            return {"trl_broke_down": str(error)}
    ratios = [mine / theirs for mine, theirs in found[1:]]
    return {
        "orpo_rows_per_second": statistics.median(mine for mine, _ in found[1:]),
        "trl_rows_per_second": statistics.median(theirs for _, theirs in found[1:]),
        "ratio": statistics.median(ratios),
        "by_round": [min(ratios), max(ratios)],
    }


def main() -> None:
    """Measure and print one JSON line for each tokenizer and kind of row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("tokenizers", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    for kind, rows in rows_of(given.dataset).items():
        for name in given.tokenizers:
            found = measure(rows, name, given.rounds)
            print(json.dumps({"rows": kind, "count": len(rows), "tokenizer": name, **found}))


if __name__ == "__main__":
    main()
