"""The trainer's numbers against the equations in float64, and against TRL on the same rows.

`pytest tests/train/test_parity.py -rP` prints the largest relative differences.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, ProgressCallback

from orpo import ORPOTrainer
from orpo.data.formats import to_pair
from orpo.data.types import Row
from tests.train.oracle_fp64 import in_fp64, orpo, pairs_of

Make = Callable[..., ORPOTrainer]

METRICS = ("loss", "nll_loss", "log_odds_chosen", "log_odds_ratio")
SIDES = ("chosen", "rejected")
PAIRS = 12


@pytest.fixture(scope="module")
def real_rows(hh_rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Transcripts as plain-text prompt, chosen and rejected columns."""
    texts = (to_pair(Row(row, f"row {i}", i), "hh").text for i, row in enumerate(hh_rows[:PAIRS]))
    return [{"prompt": t.prompt, "chosen": t.chosen, "rejected": t.rejected} for t in texts if t]


@pytest.mark.parametrize("nll_scope", ["sequence", "completion"])
def test_evaluation_equals_the_equations_in_float64(
    make_trainer: Make, stories: str, real_rows: list[dict[str, str]], nll_scope: str
) -> None:
    """The log odds ratios have both signs: their mean is held against the size that they have."""
    oracle: Any = None
    for batch, tokens in ((1, None), (3, None), (PAIRS, None), (PAIRS, 900)):
        trainer = make_trainer(
            model=stories,
            tokenizer=None,
            eval_dataset=real_rows,
            nll_scope=nll_scope,
            per_device_eval_batch_size=batch,
            max_tokens_per_microbatch=tokens,
            orpo_alpha=0.3,
            orpo_beta=0.7,
        )
        if oracle is None:
            exact, pairs = (
                AutoModelForCausalLM.from_pretrained(stories),
                pairs_of(trainer.eval_dataset),
            )
            with torch.no_grad():
                oracle = orpo(in_fp64(exact), pairs, alpha=0.3, beta=0.7, nll_scope=nll_scope)
        metrics = trainer.evaluate()
        found = {name: float(getattr(oracle, name)) for name in METRICS}
        sizes = {**found, "log_odds_chosen": float(oracle.log_odds_size)}
        differences = {n: abs(metrics[f"eval_{n}"] - found[n]) / abs(sizes[n]) for n in METRICS}
        print(f"{nll_scope}, batch {batch}, tokens {tokens}: {max(differences.values()):.1e}")
        assert max(differences.values()) < 1e-6, differences
    chosen, rejected = float(oracle.chosen_logps.mean()), float(oracle.rejected_logps.mean())
    expected = {
        "logps/chosen": chosen,
        "logps/rejected": rejected,
        "rewards/chosen": 0.21 * chosen,
        "rewards/rejected": 0.21 * rejected,
        "rewards/margins": 0.21 * (chosen - rejected),
        "rewards/accuracies": float(oracle.accuracy),
    }
    assert {n: metrics[f"eval_{n}"] for n in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings(  # TRL's own default
    "ignore:`gradient_checkpointing` is deprecated:FutureWarning"
)
def test_trl_agrees_on_one_batch(
    make_trainer: Make,
    stories: str,
    real_rows: list[dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    pytest.importorskip("trl", reason="the comparison needs the bench extra")
    import datasets
    from trl.experimental.orpo import ORPOConfig as PeerConfig
    from trl.experimental.orpo import ORPOTrainer as PeerTrainer

    peer_tokenizer = AutoTokenizer.from_pretrained(stories)
    peer_tokenizer.pad_token = peer_tokenizer.eos_token
    data = datasets.Dataset.from_list(real_rows)
    settings = {"per_device_eval_batch_size": PAIRS, "beta": 0.25}
    plain = {"max_length": 1024, "report_to": "none", "use_cpu": True, "bf16": False}
    peer = PeerTrainer(
        model=AutoModelForCausalLM.from_pretrained(stories, dtype=torch.float32),
        args=PeerConfig(str(tmp_path / "peer"), dataloader_pin_memory=False, **plain, **settings),
        train_dataset=data,
        eval_dataset=data,
        processing_class=peer_tokenizer,
    )
    peer.remove_callback(PrinterCallback)
    peer.remove_callback(ProgressCallback)
    theirs = peer.evaluate()
    ours = make_trainer(
        model=stories, tokenizer=None, eval_dataset=real_rows, **settings
    ).evaluate()
    names = [*METRICS, *(f"{part}/{s}" for part in ("rewards", "logps") for s in SIDES)]
    shared = [f"eval_{n}" for n in [*names, "rewards/margins", "rewards/accuracies"]]
    differences = {n: abs(ours[n] - theirs[n]) / max(abs(theirs[n]), 1e-12) for n in shared}
    print(f"TRL: {max(differences.values()):.1e}")
    assert max(differences.values()) < 1e-5, differences
