"""The page of a run: what it says, from whatever lies in the folder."""

import copy
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orpo.errors import ConfigError, DataError
from orpo.quantities import as_change, as_count, as_number, as_pair, as_percent, joined
from orpo.report.measures import changes, intervals
from orpo.report.run import run_page
from orpo.report.write import write_report
from orpo.runs.files import METRICS, Run, read_run
from tests.report.pages import HOSTILE, Page, assert_complete, assert_inert, poisoned
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


def poisoned_page(build_run: BuildRun, poison: str) -> Page:
    recipe = poisoned(recipe_of(), poison) | {f"setting {poison}": {poison: [poison]}}
    recipe["_run"]["versions"][poison] = poison
    account = recipe["_run"]["data"]["train_dataset"]
    account |= {"dropped": {poison: 10}, "cut": {poison: 3}}
    account["dropped_examples"] = {poison: [{"where": poison, "detail": poison}]}
    recipe["_run"]["data"][poison] = account
    evaluation = copy.deepcopy(EVALUATION_OF)
    for side in evaluation.values():
        side |= {poison: 1.5, f"by {poison}": {poison: {poison: 1.0}}}
        side["by_task"][poison] = {"correct_answers": 0.5, "n": 3, poison: 2.0}
    metrics = [*training_lines(), *held_out_lines(name=poison), TOTALS]
    folder = build_run(
        name=f"run {len(poison)}",
        recipe=recipe | {"run_name": poison},
        metrics=[*metrics, {"step": poison, "loss": poison}, {"step": 3, poison: 4.0}],
        evaluation=evaluation,
        samples=poisoned(sample_rows(), poison),
        events=[{"step": poison, "kind": poison, "message": poison}, {poison: 1}],
    )
    return page_of(folder)


def test_what_a_run_folder_holds_is_there(full_run: Path, tmp_path: Path) -> None:
    page = page_of(full_run)
    assert_complete(page)
    for text in (
        "ORPO, α = 0.5, β = 1",
        "NLL of the rejected answers, per token prompts are not counted 1.97 2.41 +0.44",
        "mean_answer_length 21.4 9.8 −11.6",
        "形容词 150 37.0 % 89.0 % +52.0 pp +42.8 to +61.2 pp better",
        "✗ not correct rambling",
        "empty answer",
        "Preferred in the data: It is 43.",
        "Of 3 checked prompts, 2 turned from wrong to right and 1 turned from right to wrong.",
        "prompt_too_long everyday.jsonl:7: prompt 655, chosen 14, rejected 164 tokens 7",
        "Cut to length: rejected in 12 pairs",
        "120 Going on from checkpoint-120.",
        "hub_token <HUB_TOKEN>",
    ):
        assert text in page.text, text
    assert "do not add up" not in page.text
    assert "No held-out" not in page.text
    labels = page.values("aria-label")
    assert labels[0].startswith("Loss. The loss fell from 2.08 to 1.06")
    assert len(labels) == page.tags.count("svg") == 6
    assert {("html", "lang", "en"), ("p", "lang", "zh")} <= set(page.attributes)
    again = write_report(str(full_run), tmp_path / "deep" / "page.html")
    assert again.read_text(encoding="utf-8") == page.source


def test_nothing_from_outside_is_live(build_run: BuildRun) -> None:
    assert_inert(lambda text: poisoned_page(build_run, text), 40)
    assert Page(f"<p>{HOSTILE}</p>").live == [
        *("script", "img", "src=x", "onerror=alert(1)", "href=javascript:alert(1)")
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
@pytest.mark.parametrize(
    "recipe",
    [
        {},
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
@pytest.mark.parametrize("lines", ['{"step": 1, "loss": 2.0}\n{"step": 2, "lo', ""])
def test_metrics_that_are_none(build_run: BuildRun, lines: str) -> None:
    folder = build_run()
    (folder / METRICS).write_text(lines, encoding="utf-8")
    assert page_of(folder).misnested == []


@pytest.mark.usefixtures("undrawn")
def test_samples_of_every_number_and_shape(build_run: BuildRun) -> None:
    samples = [{"prompt": f"prompt number {i}", "before": "a", "after": "b"} for i in range(200)]
    page = page_of(build_run(metrics=training_lines(5), samples=samples))
    shown = [int(n) for n in re.findall(r"prompt number (\d+)", page.text)]
    assert shown == list(range(0, 200, 10))
    assert page.tags.count("article") == 20
    assert "200 prompts, answered before and after training." in page.text
    assert "20 of 200 are shown" in page.text
    odd: list[dict[str, Any]] = [
        {"prompt": None, "before": None, "after": None},
        {"prompt": 3, "before": ["a"], "after": {"role": "assistant", "content": "said"}},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "part one"}]}]},
        {"prompt": ["x", {"content": None}], "chosen": [{"role": "assistant", "content": "best"}]},
        {"prompt": "long", "before": "word " * 1000, "after": "\x00\x1b[31mred\r\n\ud800"},
        {"prompt": "p", "before": "b", "correct_before": "yes", "language": 'en" onload="x'},
    ]
    page = page_of(build_run(name="odd", metrics=training_lines(5), samples=odd))
    assert page.live == page.misnested == []
    for text in ("said", "part one", "best", "no answer yet", "␀␛[31mred \ufffd"):
        assert text in page.text
    assert "(3,800 further characters)" in page.text
    assert "correct" not in page.text.split("Sample answers")[1].split("Data account")[0]
    early = [{"prompt": "p", "before": "b", "held_out": False}]
    page = page_of(build_run(name="early", metrics=training_lines(5), samples=early))
    assert "1 prompt, answered before training; there are no answers after it yet." in page.text
    assert "The prompts are from the training data." in page.text


@pytest.mark.usefixtures("undrawn")
def test_answers_that_got_worse_are_shown(build_run: BuildRun) -> None:
    samples = [row | {"prompt": f"prompt {i}"} for i, row in enumerate(sample_rows(80))]
    page = page_of(build_run(metrics=training_lines(), samples=samples))
    said = "Answers that got worse 20 answers turned from right to wrong; 8 of them are"
    assert said in page.text
    assert "prompt 2 " in page.text
    assert "prompt 0 " not in page.text.split("Sample answers")[0]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("before", "after", "said", "not_said"),
    [
        (
            {"loss": 2.0, "preference_accuracy": 0.5, "odd": None},
            {"loss": math.nan, "preference_accuracy": math.inf, "only_now": -math.inf},
            ["odds-ratio term 2 NaN –", "only_now – −∞ –", "Nothing was measured"],
            [],
        ),
        (
            {"by_length": {f"group {i}": 0.5 + i for i in range(50)}},
            {"by_length": {f"group {i}": 0.5 + i for i in range(50)}, "loss": 1.0},
            ["value , by length", "group 39 39.5 39.5 ±0", "10 more in evaluation.json."],
            ["group 40"],
        ),
        (
            EVALUATION_OF["after"],
            EVALUATION_OF["before"],
            ["93.1 % 61.5 % −31.6 pp worse"],
            [" better"],
        ),
        (
            {"by_verdict": {"refused": {"answers": 18}, "correct": {"answers": 2}}},
            {"by_verdict": {"correct": {"answers": 20}}},
            ["refused 18 0 −18"],
            [],
        ),
    ],
)
def test_numbers_before_and_after(
    build_run: BuildRun, before: Any, after: Any, said: list[str], not_said: list[str]
) -> None:
    page = page_of(build_run(metrics=[TOTALS], evaluation={"before": before, "after": after}))
    assert all(text in page.text for text in said)
    parts = re.split("Before and after|Group by group", page.text)[1:]
    tables = " ".join(part.split("Diagnosis")[0] for part in parts)
    assert not any(text in tables for text in not_said)


@pytest.mark.usefixtures("undrawn")
def test_uncertainty_stands_beside_the_numbers(build_run: BuildRun) -> None:
    evaluation = copy.deepcopy(EVALUATION_OF)
    after = evaluation["after"]
    after["changes"] = {
        "preference_accuracy": {"value": 0.316, "low": 0.26, "high": 0.37, "n": 400},
        "log_odds_chosen": {"value": 1.84, "low": -0.1, "high": 3.9, "n": 400},
        "logps/chosen": {"value": 0.91, "low": None, "high": None},
    }
    better = {"changes": {"preference_accuracy": {"low": 0.2, "high": 0.4}}}
    english, chinese = ({"n": 200, "preference_accuracy": {"value": x}} for x in (0.95, 0.91))
    after["groups"] = {"language": {"en": english | better, "zh": chinese | {"changes": {}}}}
    english = {"n": 200, "preference_accuracy": {"value": 0.65}}
    evaluation["before"]["groups"] = {"language": {"en": english}}
    folder = build_run(metrics=[*training_lines(), TOTALS], evaluation=evaluation)
    page = page_of(folder)
    assert "before in 61.5 % (change +26.0 to +37.0 points)" in page.text
    assert "+31.6 pp, 95 % interval +26.0 to +37.0 pp" in page.text
    assert "Prefers the chosen answer , by language" in page.text
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
    turns = [(False, True)] * right + [(True, False)] * wrong + [(True, True)] * same
    samples = [{"correct_before": before, "correct_after": after} for before, after in turns]
    found = intervals(read_run(build_run(metrics=[], samples=samples)))["correct_answers"]
    gains = np.array([a - b for b, a in np.array(turns, dtype=int)])
    draws = np.random.default_rng(0).choice(gains, (4000, len(gains))).mean(axis=1)
    assert found == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.012)


@pytest.mark.usefixtures("undrawn")
def test_what_was_counted_and_what_was_not(build_run: BuildRun) -> None:
    metrics = [*training_lines(), TOTALS | {"total_flos": 5.5e11}]
    page = page_of(build_run(name="plain", metrics=metrics))
    assert (
        "Cost Training time 4 min 20 s Operations about 550 GFLOP Tokens per second 5,000"
        in page.text
    )
    work = {"flops": 1.234e15, "pairs": 3200, "passes_per_pair": 2.0, "peak_bytes": 2**31}
    folder = build_run(metrics=metrics, work=work)
    text = page_of(folder).text
    assert "Operations 1.2 PFLOP Pairs 3,200 pairs Forward passes per pair 2" in text
    assert "Peak memory 2 GiB" in text
    (folder / "work.json").write_text("{broken", encoding="utf-8")
    assert "Forward passes" not in page_of(folder).text


@pytest.mark.usefixtures("undrawn")
def test_the_data_account(build_run: BuildRun) -> None:
    recipe = recipe_of(model="/home/someone/models/base/", dataset="C:\\data\\pairs.jsonl")
    recipe["_run"]["data"]["train_dataset"]["kept"] = 3199
    found = {"check": "a", "title": "Exact duplicates", "verdict": "look", "count": 3, "of": 90}
    fine = {"check": "b", "title": "Leakage", "verdict": "ok", "count": 0, "of": 90}
    findings = [found | {"says": "3x.", "do": "Drop them."}, fine | {"says": "None."}]
    folder = build_run(recipe=recipe, metrics=training_lines(), audit={"findings": findings})
    text = page_of(folder).text
    assert "do not add up" in text
    assert "What the audit found Exact duplicates (3 of 90): 3x. Drop them." in text
    assert "Leakage" not in text
    head = text.split("Training curves")[0]
    assert "Model base Data pairs.jsonl" in head  # a path is shown by its last part
    assert "someone" not in head
    settings = {"zeta": 1, "alpha": None, "flag": True, "nested": {"a": 1}}
    text = page_of(build_run(name="ordered", recipe=settings)).text
    assert 'zeta 1 alpha – flag true nested {"a": 1}' in text


@pytest.mark.usefixtures("undrawn")
def test_the_diagnosis_stands_in_the_verdict_and_in_words(build_run: BuildRun) -> None:
    rising = [line | {"loss": 1 + line["step"] / 50} for line in training_lines()]
    text = page_of(build_run(metrics=rising)).text
    assert text.count("The curves point to this: learning rate too high.") == 2
    assert "Learning rate too high The loss rose: the loss 1.51 → 4.51 (steps 1 to 200" in text
    assert "→ Try a learning_rate of a third to a tenth (it was 0.0003)" in text
    healthy = page_of(build_run(name="healthy", metrics=training_lines())).text
    assert "point to this" not in healthy
    assert "Diagnosis No sign of trouble by 6 rules; 2 could not be judged. Curves alone" in healthy
    assert "What was looked at" in healthy


def test_what_is_no_run_folder(full_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="is a folder"):
        write_report(full_run, tmp_path)


def test_the_page_of_a_long_run_stays_small(build_run: BuildRun) -> None:
    path = write_report(build_run(metrics=[*training_lines(5000), *held_out_lines(5000, 50)]))
    assert path.stat().st_size < 500_000


# The verdict in words


def told(metrics: list[dict[str, Any]], evaluation: Any = None) -> tuple[str, tuple[str, ...]]:
    """The run in a sentence, and what qualifies it, without what the diagnosis adds."""
    page = run_page(Run(Path("everyday"), recipe_of(), metrics, evaluation=evaluation))
    said = [one.replace("\u00a0", " ") for one in (page.verdict, *page.remarks)]
    return said[0], tuple(one for one in said[1:] if not one.startswith("The curves point to this"))


def sides(before: Any, after: Any) -> dict[str, Any]:
    return {name: one for name, one in {"before": before, "after": after}.items() if one}


BROKEN = [
    one | ({"loss": math.nan} if one["step"] in {7, 10} else {}) for one in training_lines(20)
]
GOES_ON = "The run has not come to its end: its last logged step is "
EVALUATED_TWICE = [
    {"step": 10, "eval_rewards/accuracies": 0.5},
    {"step": 90, "eval_rewards/accuracies": 0.75},
    TOTALS,
]


def share(value: float, pairs: int) -> dict[str, float]:
    return {"preference_accuracy": value, "pairs": pairs}


@pytest.mark.parametrize(
    ("metrics", "evaluation", "sentence", "remarks"),
    [
        (
            [*training_lines(), TOTALS],
            EVALUATION_OF,
            "It ranks held-out pairs better than the one it started from; what it writes was not "
            "looked at: it prefers the chosen answer in 93.1 % of 400 held-out prompts, before in",
            (),
        ),
        (
            [TOTALS],
            sides(share(0.9, 1000), share(0.6, 1000)),
            "This model is worse than the one it started from: it ranks worse: it prefers",
            (),
        ),
        (
            [TOTALS],
            sides(share(0.55, 40), share(0.65, 40)),
            "No clear difference from the one it started from: chance may explain its ranking",
            (),
        ),
        ([TOTALS], sides(None, share(0.5, 9)), "and before was not measured", ()),
        (
            [*training_lines(), TOTALS],
            None,
            "Nothing was measured that could show a gain over the one it started from: no held-out",
            (
                "On its training pairs the model preferred the chosen answer in 94.",
                "Training pairs",
            ),
        ),
        (
            EVALUATED_TWICE,
            None,
            "At step 90 the model preferred the chosen answer in 75.0 % of 400 held-out pairs "
            "(at step 10: 50.0 %).",
            ("No held-out evaluation was made before training",),
        ),
        (
            training_lines(200)[:30],
            sides(EVALUATION_OF["before"], None),
            "The model preferred the chosen answer in 61.5 % of the held-out pairs before "
            "training; there is no evaluation after training yet.",
            ("On its training pairs the model preferred", f"{GOES_ON}30 of 200."),
        ),
        (
            [*training_lines(20), TOTALS | {"step": 20}, {"step": 21, "loss": 1.0}],
            None,
            "",
            ("No held-out", f"{GOES_ON}21 of 200"),
        ),
        (
            [],
            None,
            "No training step has been logged yet",
            ("No held-out", "The run has not logged a training step yet."),
        ),
        (
            [{"step": 5, "loss": 2.5, "rewards/accuracies": 0.5}],
            None,
            "the loss was 2.5 at the one step that was logged",
            ("No held-out", f"{GOES_ON}5 of 200"),
        ),
        (
            [*BROKEN, {"step": 20, "eval_hh_loss": math.inf}, TOTALS],
            None,
            "",
            (
                "On its training pairs",
                "Training pairs alone",
                "loss was NaN or infinite at 2 logged steps, first at step 7",
                "loss on hh was NaN or infinite",
            ),
        ),
        *(
            ([*training_lines(20), TOTALS], junk, "Nothing was measured", ("On its", "Training"))
            for junk in (None, 3, "x", [], {"after": 3}, {"before": [1]}, {"after": {}})
        ),
    ],
)
def test_the_run_in_a_sentence(
    metrics: list[dict[str, Any]], evaluation: Any, sentence: str, remarks: tuple[str, ...]
) -> None:
    found, qualified = told(metrics, evaluation)
    assert sentence in found
    assert len(qualified) == len(remarks)
    assert all(one.startswith(start) for one, start in zip(qualified, remarks, strict=True))


def test_numbers_as_a_reader_likes_them() -> None:
    for value, shown in {
        **{0.021312: "0.0213", -1.23456: "−1.23", 12345.6: "12,346", 8e-6: "8e-6", None: "–"},
        **{math.nan: "NaN", -math.inf: "−∞", 2e300: "2e300", -8e-6: "−8e-6", 999.7: "1,000"},
    }.items():
        assert as_number(value) == shown
    for (first, last), shown_two in {
        **{(2.079, 0.9674): ("2.08", "0.97"), (-1.5, 1e-5): ("−1.50", "0.00")},
        **{(1.00001, 1.00002): ("1", "1"), (0.0, 0.0): ("0", "0")},
        **{(1.3, 1294.2): ("1", "1,294")},
    }.items():
        assert as_pair(first, last) == shown_two
    assert (as_percent(0.931), as_percent(1.7)) == ("93.1 %", "1.7")
    assert as_change(0.615, 0.931, share=True) == "+31.6 pp"
    assert as_change(2.0, 1.5, share=False) == "−0.5"
    assert (as_count(1, "pair"), as_count(1200, "reply")) == ("1 pair", "1,200 replies")
    assert (joined(["a"]), joined(["a", "b", "c"]), joined([])) == ("a", "a, b and c", "")
