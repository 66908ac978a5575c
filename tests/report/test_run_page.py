import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orpo.errors import ConfigError, DataError
from orpo.report.measures import changes, intervals
from orpo.report.run import costs
from orpo.report.write import write_report
from orpo.runs.files import METRICS, read_run, write_yaml
from tests.report.pages import HOSTILE, Page, poisoned
from tests.report.runs import (
    EVALUATION_OF,
    TOTALS,
    BuildRun,
    held_out_lines,
    recipe_of,
    sample_rows,
    training_lines,
)


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def build_poisoned(build_run: BuildRun, name: str, poison: str) -> Path:
    recipe = poisoned(recipe_of(), poison)
    recipe[f"setting {poison}"] = {poison: [poison]}
    recipe["run_name"] = poison
    recipe["_run"]["versions"][poison] = poison
    account = recipe["_run"]["data"]["train_dataset"]
    account["dropped"] = {poison: 10}
    account["dropped_examples"] = {poison: [{"where": poison, "detail": poison}]}
    account["cut"] = {poison: 3}
    recipe["_run"]["data"][poison] = account
    evaluation = json.loads(json.dumps(EVALUATION_OF))
    for side in evaluation.values():
        side[poison] = 1.5
        side["by_task"][poison] = {"correct_answers": 0.5, "n": 3, poison: 2.0}
        side[f"by {poison}"] = {poison: {poison: 1.0}}
    samples = poisoned(sample_rows(), poison)
    metrics = [*training_lines(), *held_out_lines(name=poison), TOTALS]
    metrics += [{"step": poison, "loss": poison}, {"step": 3, poison: 4.0}]
    return build_run(
        name=name,
        recipe=recipe,
        metrics=metrics,
        evaluation=evaluation,
        samples=samples,
        events=[{"step": poison, "kind": poison, "message": poison}, {poison: 1}],
    )


@pytest.mark.usefixtures("undrawn")
def test_everything_is_there(full_run: Path) -> None:
    page = page_of(full_run)
    assert page.misnested == []
    assert page.open == []
    for text in (
        "everyday",
        "On 400 held-out pairs the model now prefers the chosen answer in 93.1 % of cases",
        "HuggingFaceTB/SmolLM2-135M",
        "everyday.jsonl (3,200 pairs)",
        "ORPO, α = 0.5, β = 1",
        "4 min 20 s",
        "Preference accuracy pairs whose chosen answer is more probable per token 61.5 % 93.1 % "
        "+31.6 pp better",
        "Loss NLL + orpo_alpha × odds-ratio term 2.51 1.12 −1.39 better",
        "Log-probability, rejected per token, mean −1.97 −2.41 −0.44",
        "mean_answer_length 21.4 9.8 −11.6",
        "Correct answers , by task",
        "形容词 150 37.0 % 89.0 % +52.0 pp +42.8 to +61.2 pp better",
        "English 200 36.0 % 90.0 % +54.0 pp +46.2 to +61.8 pp better",
        "The loss fell from 2.08 to 1.06",
        "Answer in one sentence.",
        "✗ not correct rambling",
        "✓ correct",
        "对不起，我不能回答这个问题。",
        "empty answer",
        "Preferred in the data: It is 43.",
        "Of 3 checked prompts, 2 turned from wrong to right and 1 turned from right to wrong.",
        "train_dataset prompt, chat template 3,210 3,200 10",
        "prompt_too_long everyday.jsonl:7: prompt 655, chosen 14, rejected 164 tokens 7",
        "Cut to length: rejected in 12 pairs",
        "the tokenizer has no padding token: '</s>' is used, masked",
        "120 Going on from checkpoint-120.",
        "orpo train recipe.yaml",
        "hub_token <HUB_TOKEN>",
        "torch 2.13.0",
    ):
        assert text in page.text, text
    assert "do not add up" not in page.text
    assert "No held-out" not in page.text


def test_nothing_outside_the_page_is_needed(full_run: Path) -> None:
    page = page_of(full_run)
    assert page.live == []
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page.source))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in page.source
    assert "url(http" not in page.source
    assert "default-src 'none'" in page.source


def test_the_page_can_be_read_without_seeing_it(full_run: Path) -> None:
    page = page_of(full_run)
    labels = [value for tag, name, value in page.attributes if name == "aria-label"]
    assert len(labels) == 6
    assert labels[0].startswith("Loss. The loss fell from 2.08 to 1.06")
    assert Counter(page.tags)["svg"] == 6
    assert ("html", "lang", "en") in page.attributes
    assert ("p", "lang", "zh") in page.attributes
    headings = [tag for tag in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings.count("h1") == 1
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value for _, name, value in page.attributes if name == "aria-labelledby"} <= set(ids)


def test_the_same_run_gives_the_same_page(full_run: Path, tmp_path: Path) -> None:
    first = write_report(full_run).read_bytes()
    assert write_report(str(full_run), tmp_path / "deep" / "page.html").read_bytes() == first
    assert (tmp_path / "deep" / "page.html").is_file()


def test_nothing_from_outside_is_live(build_run: BuildRun) -> None:
    tame = page_of(build_poisoned(build_run, "tame", "harmless"))
    wild = page_of(build_poisoned(build_run, "wild", HOSTILE))
    assert wild.live == []
    assert wild.tags == tame.tags
    assert wild.misnested == []
    assert wild.text.count("alert(1)") > 40
    assert "{{ 7*7 }}{% x %}" in wild.text
    kinds = [[one[:2] for one in page.attributes] for page in (tame, wild)]
    assert kinds[0] == kinds[1]


@pytest.mark.usefixtures("undrawn")
def test_the_hostile_page_would_be_noticed() -> None:
    assert Page(f"<p>{HOSTILE}</p>").live == [
        "script",
        "img",
        "src=x",
        "onerror=alert(1)",
        "href=javascript:alert(1)",
    ]


@pytest.mark.usefixtures("undrawn")
def test_a_folder_with_a_hostile_name(build_run: BuildRun) -> None:
    page = page_of(build_run(name="<script>alert(1)<b>", metrics=training_lines(5)))
    assert page.live == []
    assert "<script>alert(1)<b>" in page.text


@pytest.mark.parametrize(
    "metrics", [None, [], training_lines(1), [{"step": 1}], [{"step": 3, "loss": math.nan}]]
)
def test_short_and_empty_runs(build_run: BuildRun, metrics: list[dict[str, Any]] | None) -> None:
    page = page_of(build_run(metrics=metrics))
    assert page.misnested == []
    assert "No held-out evaluation was made." in page.text
    assert "The run has not" in page.text
    assert "Before and after" not in page.text
    assert "Sample answers" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_an_empty_recipe(build_run: BuildRun) -> None:
    page = page_of(build_run(recipe={}))
    assert "No training step has been logged yet" in page.text
    assert "Data account" not in page.text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "recipe",
    [
        {"_run": None},
        {"_run": 3, "model": 7, "dataset": None, 5: [1]},
        {"_run": {"data": [1], "notes": "x", "versions": None, "parameters": "many"}},
        {"_run": {"data": {"train_dataset": None}}, "max_steps": "soon", "orpo_alpha": "high"},
        {"_run": {"data": {"a": {"dropped": {"x": "y"}, "dropped_examples": {"x": [None, 3]}}}}},
        {"dataset": {"a.jsonl": 0.5, "org/b": 0.5}, "model": "/models/base/"},
    ],
)
def test_recipes_that_were_edited_by_hand(build_run: BuildRun, recipe: dict[str, Any]) -> None:
    page = page_of(build_run(recipe=recipe, metrics=training_lines(3)))
    assert page.misnested == []
    assert "Training curves" in page.text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("lines", ['{"step": 1, "loss": 2.0}\n{"step": 2, "lo', "\n"])
def test_metrics_that_are_none(build_run: BuildRun, lines: str) -> None:
    folder = build_run()
    if lines == "\n":
        (folder / METRICS).write_text("", encoding="utf-8")
    else:
        (folder / METRICS).write_text(lines, encoding="utf-8")
    assert page_of(folder).misnested == []


@pytest.mark.usefixtures("undrawn")
def test_at_most_twenty_samples_and_how_many_there_are(build_run: BuildRun) -> None:
    samples = [{"prompt": f"prompt number {i}", "before": "a", "after": "b"} for i in range(200)]
    page = page_of(build_run(metrics=training_lines(5), samples=samples))
    shown = [int(n) for n in re.findall(r"prompt number (\d+)", page.text)]
    assert shown == list(range(0, 200, 10))
    assert page.tags.count("article") == 20
    assert "200 prompts, answered before and after training." in page.text
    assert "20 of 200 are shown" in page.text


@pytest.mark.usefixtures("undrawn")
def test_samples_of_every_shape(build_run: BuildRun) -> None:
    samples: list[dict[str, Any]] = [
        {"prompt": None, "before": None, "after": None},
        {"prompt": 3, "before": ["a"], "after": {"role": "assistant", "content": "said"}},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "part one"}]}]},
        {"prompt": ["x", {"content": None}], "chosen": [{"role": "assistant", "content": "best"}]},
        {"prompt": "long", "before": "word " * 1000, "after": "\x00\x1b[31mred\r\n\ud800"},
        {"prompt": "p", "before": "b", "correct_before": "yes", "language": 'en" onload="x'},
    ]
    folder = build_run(metrics=training_lines(5))
    text = "".join(json.dumps(row) + "\n" for row in samples)
    (folder / "samples.jsonl").write_text(text, encoding="utf-8")
    page = page_of(folder)
    assert page.live == []
    assert page.misnested == []
    for text in ("said", "part one", "best", "no answer yet", "␀␛[31mred \ufffd"):
        assert text in page.text
    assert "(3,800 further characters)" in page.text
    assert "correct" not in page.text.split("Sample answers")[1].split("Data account")[0]


@pytest.mark.usefixtures("undrawn")
def test_samples_before_the_end_of_a_run(build_run: BuildRun) -> None:
    samples = [{"prompt": "p", "before": "b", "held_out": False}]
    page = page_of(build_run(metrics=training_lines(5), samples=samples))
    assert "1 prompt, answered before training; there are no answers after it yet." in page.text
    assert "The prompts are from the training data." in page.text


@pytest.mark.usefixtures("undrawn")
def test_an_account_that_does_not_add_up_is_noticed(build_run: BuildRun) -> None:
    recipe = recipe_of()
    recipe["_run"]["data"]["train_dataset"]["kept"] = 3199
    assert "do not add up" in page_of(build_run(recipe=recipe)).text


@pytest.mark.usefixtures("undrawn")
def test_a_number_that_is_not_finite_in_the_table(build_run: BuildRun) -> None:
    sides = {
        "before": {"loss": 2.0, "preference_accuracy": 0.5, "odd": None},
        "after": {"loss": math.nan, "preference_accuracy": math.inf, "only_now": -math.inf},
    }
    page = page_of(build_run(metrics=[TOTALS], evaluation=sides))
    assert "odds-ratio term 2 NaN –" in page.text
    assert "only_now – −∞ –" in page.text
    assert "no preference accuracy" in page.text or "before training" in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_breakdown_of_bare_numbers_and_of_many_groups(build_run: BuildRun) -> None:
    groups = {f"group {i}": 0.5 + i for i in range(50)}
    sides = {"before": {"by_length": groups}, "after": {"by_length": groups, "loss": 1.0}}
    page = page_of(build_run(metrics=[TOTALS], evaluation=sides))
    assert "value , by length" in page.text
    assert "group 39 39.5 39.5 ±0" in page.text
    assert "group 40" not in page.text
    assert "10 more in evaluation.json." in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_worse_run_looks_worse(build_run: BuildRun) -> None:
    swapped = {"before": EVALUATION_OF["after"], "after": EVALUATION_OF["before"]}
    page = page_of(build_run(metrics=[TOTALS], evaluation=swapped))
    assert "The preference accuracy got worse." in page.text
    assert "93.1 % 61.5 % −31.6 pp worse" in page.text
    assert "better" not in page.text.split("Before and after")[1].split("Training curves")[0]


@pytest.mark.usefixtures("undrawn")
def test_what_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a run folder"):
        write_report(tmp_path)


@pytest.mark.usefixtures("undrawn")
def test_an_output_that_is_a_folder(full_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        write_report(full_run, tmp_path)


def test_the_page_of_a_long_run_stays_small(build_run: BuildRun) -> None:
    path = write_report(build_run(metrics=[*training_lines(5000), *held_out_lines(5000, 50)]))
    assert path.stat().st_size < 500_000


@pytest.mark.usefixtures("undrawn")
def test_a_path_is_shown_by_its_last_part(build_run: BuildRun) -> None:
    recipe = recipe_of(model="/home/someone/models/base/", dataset="C:\\data\\pairs.jsonl")
    page = page_of(build_run(recipe=recipe))
    head = page.text.split("Training curves")[0]
    assert "Model base Data pairs.jsonl" in head
    assert "someone" not in head


@pytest.mark.usefixtures("undrawn")
def test_the_recipe_keeps_its_order(build_run: BuildRun, tmp_path: Path) -> None:
    folder = build_run()
    write_yaml(folder / "recipe.yaml", {"zeta": 1, "alpha": None, "flag": True, "nested": {"a": 1}})
    text = page_of(folder).text
    assert 'zeta 1 alpha – flag true nested {"a": 1}' in text


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


@pytest.mark.usefixtures("undrawn")
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


@pytest.mark.usefixtures("undrawn")
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


@pytest.mark.usefixtures("undrawn")
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


def told_costs(folder: Path) -> dict[str, str]:
    return dict(costs(read_run(folder)))


@pytest.mark.usefixtures("undrawn")
def test_what_was_counted_and_what_was_not(build_run: BuildRun) -> None:
    folder = build_run(metrics=[*training_lines(), TOTALS | {"total_flos": 5.5e11}])
    assert told_costs(folder) == {
        "Training time": "4 min 20 s",
        "Operations": "about 550\u00a0GFLOP",
        "Tokens per second": "5000",
    }
    work = {"flops": 1.234e15, "pairs": 3200, "passes_per_pair": 2.0, "peak_bytes": 2**31}
    (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
    found = told_costs(folder)
    assert found["Operations"] == "1.23\u00a0PFLOP"
    assert found["Pairs"] == "3,200 pairs"
    assert found["Forward passes per pair"] == "2"
    assert found["Peak memory"] == "2.00\u00a0GiB"
    (folder / "work.json").write_text("{broken", encoding="utf-8")
    assert "Pairs" not in told_costs(folder)
    assert "Cost Training time 4 min 20 s" in page_of(folder).text


@pytest.mark.usefixtures("undrawn")
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


@pytest.mark.usefixtures("undrawn")
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


@pytest.mark.usefixtures("undrawn")
def test_groups_that_lost_their_last_answer_have_none(build_run: BuildRun) -> None:
    evaluation = {
        "before": {"by_verdict": {"refused": {"answers": 18}, "correct": {"answers": 2}}},
        "after": {"by_verdict": {"correct": {"answers": 20}}},
    }
    assert "refused 18 0 −18" in page_of(build_run(metrics=[], evaluation=evaluation)).text
