import json
from pathlib import Path
from typing import Any

import pytest

from orpo.report import write_report
from orpo.report.cost import costs
from orpo.report.tables import changes, intervals
from orpo.runs import read_run
from tests.report.pages import Page
from tests.report.runs import EVALUATION_OF, TOTALS, BuildRun, sample_rows, training_lines


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def with_intervals() -> dict[str, Any]:
    evaluation = json.loads(json.dumps(EVALUATION_OF))
    after = evaluation["after"]
    after["verdict"] = "The model prefers the chosen answer in 93.1 % (90.2 to 95.4) of the pairs"
    after["changes"] = {
        "preference_accuracy": {"value": 0.316, "low": 0.26, "high": 0.37, "n": 400},
        "log_odds_chosen": {"value": 1.84, "low": -0.1, "high": 3.9, "n": 400},
        "logps/chosen": {"value": 0.91, "low": None, "high": None},
    }
    after["intervals"] = {"preference_accuracy": {"value": 0.931, "low": 0.902, "high": 0.954}}
    after["groups"] = {
        "language": {
            "en": {"n": 200, "preference_accuracy": {"value": 0.95}}
            | {"changes": {"preference_accuracy": {"low": 0.2, "high": 0.4}}},
            "zh": {"n": 200, "preference_accuracy": {"value": 0.91}, "changes": {}},
        }
    }
    evaluation["before"]["groups"] = {
        "language": {"en": {"n": 200, "preference_accuracy": {"value": 0.65}}}
    }
    return evaluation


def test_uncertainty_stands_beside_the_numbers(build_run: BuildRun) -> None:
    folder = build_run(metrics=[*training_lines(), TOTALS], evaluation=with_intervals())
    page = page_of(folder)
    assert "in 93.1 % (90.2 to 95.4) of the pairs. On 400 held-out prompts the model’s" in page.text
    assert "+31.6 pp, 95 % interval +26.0 to +37.0 pp" in page.text
    assert "Preference accuracy , by language" in page.text
    assert "en 200 65.0 % 95.0 % +30.0 pp +20.0 to +40.0 pp better" in page.text
    assert "zh 200 – 91.0 % –" in page.text
    verdicts = {row.name: row.verdict for row in changes(read_run(folder))}
    assert verdicts["preference_accuracy"] == "better"
    assert verdicts["log_odds_chosen"] == ""  # its interval holds zero


@pytest.mark.parametrize(
    ("right", "wrong", "same"), [(40, 10, 150), (25, 25, 10), (12, 0, 388)], ids=str
)
def test_the_interval_of_answers_that_turned_is_that_of_a_paired_bootstrap(
    build_run: BuildRun, right: int, wrong: int, same: int
) -> None:
    import numpy as np

    turns = [(False, True)] * right + [(True, False)] * wrong + [(True, True)] * same
    samples = [
        {"prompt": "p", "before": "b", "after": "a", "correct_before": b, "correct_after": a}
        for b, a in turns
    ]
    found = intervals(read_run(build_run(metrics=[], samples=samples)))["correct_answers"]
    gains = np.array([a - b for b, a in np.array(turns, dtype=int)])
    draws = np.random.default_rng(0).choice(gains, (4000, len(gains))).mean(axis=1)
    assert found == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.012)


def test_answers_that_got_worse_are_shown(build_run: BuildRun) -> None:
    samples = [row | {"prompt": f"prompt {i}"} for i, row in enumerate(sample_rows(80))]
    page = page_of(build_run(metrics=training_lines(), samples=samples))
    assert (
        "Answers that got worse 20 answers turned from right to wrong; 8 of them are" in page.text
    )
    assert "prompt 2 " in page.text
    assert "prompt 0 " not in page.text.split("Sample answers")[0]
    calm = page_of(build_run(name="calm", metrics=training_lines(), samples=sample_rows(2)))
    assert "Answers that got worse" not in calm.text


def test_what_was_counted_and_what_was_not(build_run: BuildRun) -> None:
    folder = build_run(metrics=[*training_lines(), TOTALS | {"total_flos": 5.5e11}])
    assert dict(costs(read_run(folder))) == {
        "Training time": "4 min 20 s",
        "Operations": "about 550\u00a0GFLOP",
        "Tokens per second": "5000",
    }
    work = {"flops": 1.234e15, "pairs": 3200, "passes_per_pair": 2.0, "peak_bytes": 2**31}
    (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
    found = dict(costs(read_run(folder)))
    assert found["Operations"] == "1.23\u00a0PFLOP"
    assert found["Pairs"] == "3,200 pairs"
    assert found["Forward passes per pair"] == "2"
    assert found["Peak memory"] == "2.00\u00a0GiB"
    (folder / "work.json").write_text("{broken", encoding="utf-8")
    assert "Pairs" not in dict(costs(read_run(folder)))
    assert "Cost Training time 4 min 20 s" in page_of(folder).text


def test_the_audit_of_the_run_folder_is_told(build_run: BuildRun) -> None:
    folder = build_run(metrics=training_lines())
    found = {
        "title": "Exact duplicates",
        "verdict": "look",
        "count": 3,
        "of": 90,
        "says": "3x.",
    }
    fine = {"title": "Leakage", "verdict": "ok", "count": 0, "of": 90, "says": "None."}
    audit = {"findings": [found | {"check": "a", "do": "Drop them."}, fine | {"check": "b"}]}
    (folder / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
    text = page_of(folder).text
    assert "What the audit found Exact duplicates (3 of 90): 3x. Drop them." in text
    assert "Leakage" not in text


def test_the_diagnosis_stands_in_the_verdict_and_in_words(build_run: BuildRun) -> None:
    rising = [line | {"loss": 1 + line["step"] / 50} for line in training_lines()]
    text = page_of(build_run(metrics=rising)).text
    assert text.count("The curves point to this: learning rate too high.") == 2
    assert "Learning rate too high The loss rose: the loss 1.51 → 4.51 (steps 1 to 200" in text
    assert "→ Try a learning_rate of a third to a tenth (it was 0.0003)" in text
    healthy = page_of(build_run(name="healthy", metrics=training_lines())).text
    assert "point to this" not in healthy
    assert "Diagnosis Healthy, as far as can be seen: none of 5 rules applies; 2" in healthy
    assert "What was looked at" in healthy


def test_groups_that_lost_their_last_answer_have_none(build_run: BuildRun) -> None:
    evaluation = {
        "before": {"by_verdict": {"refused": {"answers": 18}, "correct": {"answers": 2}}},
        "after": {"by_verdict": {"correct": {"answers": 20}}},
    }
    assert "refused 18 0 −18" in page_of(build_run(metrics=[], evaluation=evaluation)).text
