"""Benchmarks through lm-evaluation-harness: its figures are those of an independent count."""

from __future__ import annotations

import ast
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orpo.commands.evaluate_harness import Options, run
from orpo.errors import ConfigError, DataError
from orpo.evaluate import encode_prompt, load_answerer
from orpo.evaluate.harness import Document, TaskResult, compared
from orpo.evaluate.results import HarnessScore
from orpo.evaluate.settings import HarnessPlan
from orpo.report.write import read_page
from tests.servers import BASE

pytest.importorskip("lm_eval")
pytestmark = [
    # The harness's own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

_YAML = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
target_delimiter: ""
metric_list: [{{metric: {metric}, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""
_QUESTIONS = 16
_CHOICE = 'doc_to_choice: "{{choices}}"\ndoc_to_target: gold\n'
_FREE = """\
doc_to_target: "{{wanted}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 40, do_sample: false}
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `datasets` keeps of the tasks' files goes away with the tests."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    rows = []
    for n in range(_QUESTIONS):
        numbers = [11 + n, 90 - n * 7 % 60]
        rows.append(
            {
                "question": f"Which number is larger, {numbers[0]} or {numbers[1]}?",
                "choices": [f"The larger number is {one}." for one in numbers],
                "gold": numbers.index(max(numbers)),
                "wanted": f"I am happy to help: the larger number is {max(numbers)}.",
            }
        )
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, kind, metric, rest in [
        ("local_choice", "multiple_choice", "acc", _CHOICE),
        ("local_free", "generate_until", "exact_match", _FREE),
    ]:
        text = _YAML.format(name=name, data=data, kind=kind, metric=metric) + rest
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model with its last layer's output taken away."""
    folder = tmp_path_factory.mktemp("worse")
    shutil.copytree(BASE, folder, dirs_exist_ok=True)
    model: Any = load_answerer(str(BASE)).model.cpu()
    with torch.no_grad():
        model.model.layers[-1].mlp.down_proj.weight.zero_()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def found(tasks: Path, worse: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("eval")
    plan = HarnessPlan(
        ("local_choice", "local_free"), include_path=str(tasks), apply_chat_template=True
    )
    options = Options(str(BASE), baseline=str(worse), output_dir=folder, plan=plan)
    return options, run(options)


def _counted(folder: Path, tasks: Path) -> dict[str, float]:
    """The shares by this model itself, one question at a time."""
    answerer = load_answerer(str(folder))
    model: Any = answerer.model
    rows = [json.loads(line) for line in (tasks / "rows.jsonl").read_text().splitlines()]
    right = {"local_choice": 0, "local_free": 0}
    for row in rows:
        prompt = encode_prompt(answerer.tokenizer, [{"role": "user", "content": row["question"]}])
        sums = []
        for choice in row["choices"]:
            answer = answerer.tokenizer.encode(choice, add_special_tokens=False)
            with torch.no_grad():
                logits = model(torch.tensor([prompt + answer])).logits[0].float()
            logps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
            sums.append(sum(logps[i, token].item() for i, token in enumerate(answer)))
        right["local_choice"] += sums.index(max(sums)) == row["gold"]
        output = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=40)
        text = answerer.tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)
        right["local_free"] += text.split("\n")[0].strip() == row["wanted"]
    return {name: count / len(rows) for name, count in right.items()}


def test_the_shares_are_those_of_an_independent_count(found: Any, tasks: Path, worse: Path) -> None:
    _, result = found
    for moment, folder in (("after", BASE), ("before", worse)):
        counted = _counted(folder, tasks)
        assert counted["local_choice"] not in {0.0, 1.0}
        for row in result["results"][moment]:
            # One question may fall otherwise in bf16 batches.
            assert row["value"] == pytest.approx(counted[row["task"]], abs=1.01 / _QUESTIONS)
            share = row["value"]
            assert row["stderr"] == pytest.approx(math.sqrt(share * (1 - share) / (_QUESTIONS - 1)))
            assert row["high"] - row["value"] == pytest.approx(1.96 * row["stderr"], rel=1e-4)
            assert (row["n"], row["of"], row["shots"]) == (_QUESTIONS, _QUESTIONS, 0)


def test_changes_are_taken_question_by_question(found: Any) -> None:
    options, result = found
    lines = [json.loads(t) for t in (options.output_dir / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * 2 * _QUESTIONS
    for change in result["results"]["changes"]:
        sums = {
            moment: sum(
                line["metrics"][change["metric"]]
                for line in lines
                if line["task"] == change["task"] and line["moment"] == moment
            )
            for moment in ("before", "after")
        }
        assert change["value"] == pytest.approx((sums["after"] - sums["before"]) / _QUESTIONS)
        assert change["low"] <= change["value"] <= change["high"]
    verdicts = {change["task"]: change["verdict"] for change in result["results"]["changes"]}
    assert verdicts["local_free"] in {"better", "no difference seen"}


def test_the_folder_holds_the_result_and_the_page(found: Any) -> None:
    options, result = found
    kept = json.loads((options.output_dir / "evaluation.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(result))
    assert kept["kind"] == "harness"
    asked = {"questions": _QUESTIONS, "asked": _QUESTIONS, "left_out": {"limit": 0}}
    assert kept["account"]["local_free"] == asked
    assert kept["versions"]["lm_eval"]
    page = read_page(options.output_dir)
    assert page.verdict.startswith("Of 2 scores, against the baseline:")
    html = (options.output_dir / "report.html").read_text(encoding="utf-8")
    assert "local_choice: acc" in html
    assert not re.search(r"(src|href)=.https?:", html)


def test_the_same_command_goes_on_and_another_is_refused(
    found: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    options, result = found
    assert run(options)["results"] == result["results"]
    assert capfd.readouterr().err.count("finished already") == 4
    with pytest.raises(ConfigError, match="holds an evaluation with baseline"):
        run(replace(options, baseline=None))


def changed(tasks: Path, folder: Path, old: str, new: str) -> Path:
    """The tasks with something else in the YAML of one of them."""
    shutil.copytree(tasks, folder)
    text = (folder / "local_free.yaml").read_text().replace(old, new)
    (folder / "local_free.yaml").write_text(text)
    return folder


def test_limits_of_questions_and_of_tokens_are_kept(tasks: Path, tmp_path: Path) -> None:
    """A task's own limit of tokens, whatever the model's own settings say."""
    folder = changed(tasks, tmp_path / "tasks", "max_gen_toks: 40", "max_gen_toks: 3")
    names = ("local_choice", "local_free")
    plan = HarnessPlan(names, include_path=str(folder), apply_chat_template=True, limit=4)
    result = run(Options(str(BASE), plan=plan, output_dir=tmp_path / "out"))
    assert result["account"]["local_choice"]["left_out"] == {"limit": _QUESTIONS - 4}
    assert {(row["n"], row["of"]) for row in result["results"]["after"]} == {(4, _QUESTIONS)}
    told = "Not all questions were asked of: local_choice, local_free."
    assert told in read_page(tmp_path / "out").remarks
    assert result["results"]["changes"] == []
    tokenizer = load_answerer(str(BASE)).tokenizer
    lines = map(json.loads, (tmp_path / "out" / "answers.jsonl").read_text().splitlines())
    for line in (line for line in lines if line["task"] == "local_free"):
        (answer,) = ast.literal_eval(line["answer"])
        assert 0 < len(tokenizer.encode(answer, add_special_tokens=False)) <= 3


def test_metrics_that_are_no_means_have_no_interval() -> None:
    def part(value: float) -> TaskResult:
        score = HarnessScore("t", "ppl", "none", 9 * value, None, None, None, 5, 5, 0, False)
        documents = [
            Document("t", d, "none", "", "", "", metrics={"ppl": value + d}) for d in range(5)
        ]
        return TaskResult((score,), tuple(documents))

    (row,) = compared(part(1), part(2)).changes
    assert (row.value, row.low, row.high, row.verdict) == (9, None, None, "undecided")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tasks": ()}, "names no task"),
        ({"tasks": ("a", "")}, "names no task"),
        ({"num_fewshot": -1}, "--num_fewshot"),
        ({"limit": 0}, "--limit"),
        ({"limit": 2.5}, "--limit 2.5"),
        ({"include_path": "/nowhere"}, "no such folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        HarnessPlan(**{"tasks": ("a",), **given})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rows.jsonl", "none.jsonl", "cannot be loaded"),
        ("doc_to_target", "doc_to_nothing", "cannot be loaded"),
        ("{{question}}", "{{question", "cannot be"),
    ],
)
def test_a_task_that_is_wrong_is_told_in_one_line(
    tasks: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    folder = changed(tasks, tmp_path / "tasks", old, new)
    plan = HarnessPlan(("local_free",), include_path=str(folder))
    with pytest.raises(DataError, match=f"task 'local_free': {words}") as caught:
        run(Options(str(BASE), plan=plan, output_dir=tmp_path / "o"))
    assert "\n" not in str(caught.value)


def test_unknown_tasks_have_near_ones(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Known:
        """As the harness's own, which reads thousands of tasks."""

        def __init__(self, include_path: str, *, include_defaults: bool = True) -> None:
            self.all_tasks = ["local_free", *(["ifeval", "arc_easy"] if include_defaults else [])]
            self.task_index = dict.fromkeys(self.all_tasks)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", Known)
    for name, near in (("ifevl", "ifeval"), ("local_fre", "local_free"), ("qqqq", "lm-eval ls")):
        plan = HarnessPlan((name,), include_path=str(tasks))
        with pytest.raises(ConfigError, match=f"no task '{name}'.*{near}"):
            run(Options(str(BASE), plan=plan, output_dir=tmp_path / "o"))
    assert not (tmp_path / "o").exists()
