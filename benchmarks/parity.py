"""Loss, NLL and log-odds of `ORPOTrainer.evaluate()` beside float64 and beside TRL, on real rows.

    python benchmarks/parity.py MODEL PAIRS [--rows 16]

MODEL is a model folder or Hub id; PAIRS any data set that `orpo train` reads. TRL comes with
`pip install orpo[bench]`. The float64 computation is independent: one answer at a time, no padding,
`log_softmax` in float64. Prints one JSON object with the figures and their relative differences.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from orpo import ORPOConfig, ORPOTrainer
from orpo.data.sources import open_source

NAMES = ("loss", "nll_loss", "log_odds_chosen", "log_odds_ratio")


def text_rows(source: str, count: int) -> list[dict[str, str]]:
    """Plain prompt/chosen/rejected texts of transcripts or text rows, none of them empty."""
    rows = []
    for row in open_source(source):
        values = row.values
        if "prompt" in values:
            prompt, chosen, rejected = (values[k] for k in ("prompt", "chosen", "rejected"))
        else:
            border = values["chosen"].rfind("\n\nAssistant:") + len("\n\nAssistant:")
            prompt = values["chosen"][:border]
            chosen, rejected = values["chosen"][border:], values["rejected"][border:]
        if chosen.strip() and rejected.strip() and chosen != rejected and len(prompt) < 600:
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        if len(rows) == count:
            break
    return rows


def float64(name: str, trainer: ORPOTrainer, alpha: float) -> dict[str, float]:
    """The same numbers from the definition, one sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float64).eval()
    nll_sum = nll_tokens = 0.0
    z = []
    for pair in trainer.eval_dataset:
        log_odds = []
        for side in ("chosen", "rejected"):
            ids = torch.tensor(pair["prompt_ids"] + pair[f"{side}_ids"])
            with torch.no_grad():
                logits = model(input_ids=ids[None]).logits[0]
            logps = logits.log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]
            answer = logps[-len(pair[f"{side}_ids"]) :].mean()
            log_odds.append(answer - torch.log1p(-answer.exp()))
            if side == "chosen":
                nll_sum -= float(logps.sum())
                nll_tokens += len(logps)
        z.append(log_odds[0] - log_odds[1])
    stacked = torch.stack(z)
    ratio = float(torch.nn.functional.logsigmoid(stacked).mean())
    nll = nll_sum / nll_tokens
    return {
        "loss": nll - alpha * ratio,
        "nll_loss": nll,
        "log_odds_chosen": float(stacked.mean()),
        "log_odds_ratio": ratio,
    }


def trl(name: str, rows: list[dict[str, str]], alpha: float, length: int) -> dict[str, float]:
    """TRL's experimental trainer on the same rows in one batch."""
    from trl.experimental.orpo import ORPOConfig as TRLConfig
    from trl.experimental.orpo import ORPOTrainer as TRLTrainer

    tokenizer = AutoTokenizer.from_pretrained(name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    dataset = datasets.Dataset.from_list(rows)
    with tempfile.TemporaryDirectory() as folder:
        config = TRLConfig(
            output_dir=folder,
            beta=alpha,
            max_length=length,
            per_device_eval_batch_size=len(rows),
            report_to="none",
            bf16=False,
        )
        trainer = TRLTrainer(
            model=AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32),
            args=config,
            train_dataset=dataset,
            eval_dataset=dataset,
            processing_class=tokenizer,
        )
        metrics = trainer.evaluate()
    return {key: metrics[f"eval_{key}"] for key in NAMES}


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--alpha", type=float, default=0.1)
    given = parser.parse_args()
    rows = text_rows(given.pairs, given.rows)
    with tempfile.TemporaryDirectory() as folder:
        config = ORPOConfig(output_dir=folder, orpo_alpha=given.alpha, disable_tqdm=True)
        trainer = ORPOTrainer(
            model=given.model, args=config, eval_dataset=datasets.Dataset.from_list(rows)
        )
        metrics = trainer.evaluate()
    ours = {key: metrics[f"eval_{key}"] for key in NAMES}
    length = trainer.args.max_length or 10**6
    figures: dict[str, Any] = {"rows": len(trainer.eval_dataset), "orpo": ours}
    for peer, theirs in (
        ("float64", float64(given.model, trainer, given.alpha)),
        ("trl", trl(given.model, rows, given.alpha, length)),
    ):
        figures[peer] = theirs
        figures[f"relative_difference_{peer}"] = {
            key: abs(ours[key] - theirs[key]) / abs(theirs[key]) for key in NAMES
        }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
