"""Preference metrics: against a count by hand, and with a model whose truth is known."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orpo import ORPOConfig
from orpo.data.types import Row
from orpo.evaluate import preference_summary
from orpo.evaluate.intervals import Interval
from orpo.evaluate.preference.evaluation import trained_on
from orpo.evaluate.preference.measures import (
    METRICS,
    calibration,
    change_of,
    compare,
    measure,
    told,
)
from orpo.evaluate.preference.pairs import (
    RowFacts,
    ScoredPairs,
    row_facts,
    score_pairs,
    token_counts,
)
from orpo.evaluate.results import Change, Preferences
from orpo.runs.typed import plain
from orpo.train.trainer import ORPOTrainer
from tests.report.runs import recipe_of, write_run
from tests.train.small import byte_tokenizer, text_rows, tiny_llama


def scored(z: Any, prompts: Any = None, chosen: float = -1.0, **more: Any) -> ScoredPairs:
    """Pairs with given log odds ratios."""
    z = np.asarray(z, dtype=np.float64)
    odds = math.log(math.exp(chosen) / (1 - math.exp(chosen))) - z
    rejected = -np.log1p(np.exp(-odds))  # the logarithm of sigmoid(odds)
    names = [str(i) for i in range(len(z))] if prompts is None else prompts
    return ScoredPairs(np.arange(len(z)), np.full(len(z), chosen), rejected, names, **more)


def compared(before: ScoredPairs, after: ScoredPairs) -> Preferences:
    return compare(measure(after), before, after)


def test_numbers_by_hand() -> None:
    pairs = ScoredPairs(
        np.arange(4),
        np.array([-1.0, -2.0, -0.5, -3.0]),
        np.array([-2.0, -1.0, -1.5, -3.0]),
        ["a", "a", "b", "c"],
    )
    found = measure(pairs).intervals
    assert found["preference_accuracy"].value == 0.5  # equally probable is not preferred
    assert found["preference_accuracy"].clusters == 3
    assert found["logps/margin"].value == pytest.approx(0.25)
    assert found["logps/chosen"].value == pytest.approx(-1.625)
    odds = [math.log(math.exp(a) / (1 - math.exp(a))) for a in (-1, -2, -0.5, -1.5)]
    z = (odds[0] - odds[1] + odds[1] - odds[0] + odds[2] - odds[3] + 0) / 4
    assert found["log_odds_chosen"].value == pytest.approx(z)
    assert set(found) == set(METRICS)


def test_a_trainers_pairs_and_its_own_metrics_agree(tmp_path: Path) -> None:
    """Twelve rows, two of them without rejected answer, in another order than the batches'."""
    rows: list[dict[str, Any]] = [*text_rows(12)]
    for i in (3, 7):
        rows[i] = {"prompt": rows[i]["prompt"], "chosen": rows[i]["chosen"]}
    config = ORPOConfig(str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    trainer = ORPOTrainer(
        model=tiny_llama(), args=config, tokenizer=byte_tokenizer(), eval_dataset=rows
    )
    facts = {i: RowFacts(f"prompt {i // 2}") for i in range(12)}
    metrics, pairs = score_pairs(trainer, facts)
    assert trainer.compute_metrics is None
    assert pairs.rows.tolist() == [i for i in range(12) if i not in (3, 7)]
    assert pairs.account == {"pairs": 10, "prompts": 6, "without_rejected": 2, "not_finite": 0}
    summary, found = preference_summary(metrics, 12), measure(pairs).intervals
    for name in ("preference_accuracy", "log_odds_chosen", "logps/chosen", "logps/rejected"):
        assert found[name].value == pytest.approx(summary[name], abs=1e-5)
    lengths = token_counts(trainer.eval_dataset)
    assert lengths[3][1] == 0
    assert lengths[0] == (len(rows[0]["chosen"]) + 1, len(rows[0]["rejected"]) + 1)  # and EOS
    quarters = measure(pairs).groups["length"]
    assert sum(one.n for one in quarters.values()) == 10
    ends = [int(name.split()[0]) for name in quarters]
    assert ends == sorted(ends)


def test_groups_come_from_columns_files_and_texts() -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    rows = [
        Row({"prompt": "Why is that so, please?", "chosen": "a", "rejected": "b"},
            "d/x.jsonl:1", 0),
        Row({"prompt": "why is  THAT so, please?", "chosen": "c", "rejected": "b",
             "source": "web\x1b[2J", "topic": "sky"}, "d/y.jsonl:1", 1),
        Row({"prompt": "这是为什么呢，请告诉我好吗？", "chosen": "a", "rejected": "b",
             "language": "chinese"}, "d/y.jsonl:2", 2),
        Row({"prompt": [*talk, {"role": "user", "content": "为什么天空是蓝色的"}],
             "chosen": [{"role": "assistant", "content": "a"}],
             "rejected": [{"role": "assistant", "content": "b"}]}, "d/y.jsonl:3", 3),
        Row({"prompt": 7}, "d/y.jsonl:4", 4),
    ]  # fmt: skip
    facts = row_facts(rows)
    assert facts.keys() == {0, 1, 2, 3}
    assert facts[0].prompt == facts[1].prompt != facts[2].prompt
    assert [facts[i].groups["source"] for i in range(3)] == ["x.jsonl", "web[2J", "y.jsonl"]
    assert facts[1].groups["category"] == "sky"
    assert facts[0].groups["language"] == "Latin (English and others)"
    assert facts[2].groups["language"] == "chinese"
    assert facts[3].groups["language"] == "Chinese"
    assert [facts[i].groups["turns"] for i in (0, 3)] == ["1", "2"]
    # Tokenised rows are told by their tokens.
    values = {"chosen_ids": [3], "rejected_ids": [4]}
    ids = [Row({**values, "prompt_ids": one}, "d:1", n) for n, one in enumerate(([1], [1], [9]))]
    facts = row_facts(ids)
    assert facts[0].prompt == facts[1].prompt != facts[2].prompt


def test_groups_are_limited_and_none_is_lost() -> None:
    facts = [RowFacts(str(i), {"source": f"s{min(i, 29)}"}) for i in range(60)]
    pairs = ScoredPairs.of(
        np.arange(60), (np.full(60, -1.0), np.full(60, -2.0)), dict(enumerate(facts)),
        {i: (5 + i % 3, 5) for i in range(60)},
    )  # fmt: skip
    groups = measure(pairs).groups
    assert sum(one.n for one in groups["source"].values()) == 60
    assert len(groups["source"]) == 20
    assert "others" in groups["source"]
    assert list(groups["longer answer"]) == ["chosen is longer", "equally long"]
    assert "turns" not in groups  # all alike


def test_numbers_that_are_none_are_counted() -> None:
    answers = (np.array([-1.0, np.nan, -1.0, -np.inf]), np.array([-2.0, -1.0, np.nan, -1.0]))
    pairs = ScoredPairs.of(np.arange(4), answers, {}, {0: (1, 1), 1: (1, 1), 2: (1, 0), 3: (1, 1)})
    assert pairs.account == {"pairs": 1, "prompts": 1, "without_rejected": 1, "not_finite": 2}
    assert measure(pairs.take([])).account["pairs"] == 0
    assert json.loads(json.dumps(plain(measure(pairs)), allow_nan=False))


def test_calibration_tells_a_calibrated_model_from_one_that_is_not() -> None:
    """Preferences drawn with the probabilities that the log odds imply, and with others."""
    random = np.random.default_rng(0)
    sure = random.uniform(0.5, 1, 4000)
    z = np.log(sure / (1 - sure)) * np.where(random.random(4000) < sure, 1, -1)
    found = calibration(scored(z))
    assert found.ece <= found.ece_by_chance < 0.04
    assert "as often right as it is sure" in found.words
    assert found.brier == pytest.approx(float(np.mean(sure * (1 - sure))), abs=0.01)
    assert sum(one.right.n for one in found.bins) == 4000
    for one in found.bins:
        assert one.low <= one.confidence <= one.high
    over = calibration(scored(3 * z))
    assert over.ece > over.ece_by_chance
    assert "too sure of itself" in over.words
    under = calibration(scored(z / 3))
    assert under.ece > under.ece_by_chance
    assert "less sure than it could be" in under.words


def test_a_change_is_paired_and_by_prompt() -> None:
    """A change of 0.1 in every pair is sure, although the pairs themselves differ by far more."""
    z = np.random.default_rng(0).normal(0, 3, 60)
    found = compared(scored(z), scored(z + 0.1))
    change = found.changes["log_odds_chosen"]
    assert change.verdict == "higher"
    assert (change.low, change.high) == pytest.approx((0.1, 0.1), abs=1e-6)
    assert found.changes["logps/rejected"].verdict == "lower"
    assert found.compared == 60
    back = compared(scored(z + 0.1), scored(z))
    assert back.changes["log_odds_chosen"].verdict == "lower"
    # Only common rows are compared, in whatever order.
    found = compared(scored(z).take([9, 1, 3, 5, 7]), scored(z + 1.0).take([1, 2, 3, 9]))
    assert found.compared == 3
    assert found.changes["log_odds_chosen"].value == pytest.approx(1.0)
    assert compared(scored(z).take([0, 1]), scored(z).take([2])).compared == 0


def test_the_pairs_that_are_needed_do_show_it() -> None:
    """Where 40 prompts cannot tell, as many as are said to be needed tell in about 80 %."""
    random = np.random.default_rng(0)

    def change(prompts: int) -> Change:
        values = random.normal(0.2, 1.0, prompts)
        mean, off = float(values.mean()), 1.96 * float(values.std()) / math.sqrt(prompts)
        return change_of(Interval(mean, mean - off, mean + off, 2 * prompts, prompts))

    exact = change_of(Interval(0.2, 0.2 - 1.96 / 40**0.5, 0.2 + 1.96 / 40**0.5, 80, 40))
    assert exact.verdict == "cannot be told"
    assert exact.pairs_needed == 2 * exact.prompts_needed
    assert exact.prompts_needed == pytest.approx((2.8016 / 0.2) ** 2, rel=0.01)
    told_now = [change(exact.prompts_needed or 0).verdict == "better" for _ in range(600)]
    assert 0.74 < np.mean(told_now) < 0.86
    assert change_of(Interval(0.0, -0.1, 0.1, 40, 40)).prompts_needed is None


def test_one_model_in_words() -> None:
    shares = measure(scored([1.0] * 90 + [-1.0] * 10)).intervals["preference_accuracy"]
    assert told(shares) == (
        "Prefers the chosen answer in 90.0 % of 100 held-out pairs (95 % interval 82.6 to 94.5): "
        "more often than a coin would."
    )


def test_it_is_known_which_pairs_a_run_was_trained_on(tmp_path: Path) -> None:
    names = {"dataset": "/data/a.jsonl", "eval_dataset": "/data/b.jsonl"}
    found = {"check": "leakage", "count": 30, "of": 40}
    run = write_run(tmp_path / "run", recipe_of(**names), audit={"findings": [found]})
    assert trained_on(run, "/data/a.jsonl", 7) == (7, 7)
    assert trained_on(run, "/data/b.jsonl", 7) == (30, 40)
    assert trained_on(run, "/data/c.jsonl", 7) is None
    assert trained_on(tmp_path, "/data/a.jsonl", 7) is None
