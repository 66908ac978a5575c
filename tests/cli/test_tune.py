"""`orpo tune`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Orpo
from tests.documents import workplace

STEPS, TRIALS = 4, 4
SECRET = "hf_" + "x" * 30


def words(tiny: Path, data: Path, folder: Path | str, **more: Any) -> list[str]:
    given = {
        "model": tiny,
        "dataset": data,
        "held_out": 0.4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "max_length": 128,
        "steps": STEPS,
        "trials": TRIALS,
        "output_dir": folder,
        **more,
    }
    return ["--use_cpu", *(str(w) for n, v in given.items() for w in (f"--{n}", v))]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Say {n}"}],
            "chosen": [{"role": "assistant", "content": f"{n}, of course {n}."}],
            "rejected": [{"role": "assistant", "content": "no " * (n % 5 + 1)}],
        }
        for n in range(48)
    ]
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def evaluation(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text("utf-8"))
    return found


CHECKER = """
from orpo.evaluate import Grade

def grade(row, answer):
    return Grade(len(answer) % 2 == 0, "by length")
"""


@pytest.fixture(scope="module")
def shared(
    tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]], str]:
    """Two processes share a study at the same time: their place, results, and what they said."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "my_checks.py").write_text(CHECKER, encoding="utf-8")
    more = {"storage": f"sqlite:///{folder / 'study.db'}", "checker": "my_checks:grade"}
    more |= {"samples": 2, "sample_tokens": 4, "hub_token": SECRET}
    one, two = (
        " ".join(["orpo tune --json", *words(tiny, data, name, **more)]) for name in ("one", "two")
    )
    with workplace(folder) as place:
        done = place.run(f"{one} > one.json & first=$!\n{two} > two.json\nwait $first")
    assert done.returncode == 0, done.stderr
    names = ("one.json", "two.json")
    return folder, [json.loads((folder / one).read_text("utf-8")) for one in names], done.stderr


@pytest.mark.slow
def test_two_processes_share_a_study(shared: tuple[Path, list[dict[str, Any]], str]) -> None:
    """Each trial is taken by one of them, and both choose from what both have found."""
    _, results, said = shared
    assert results[0]["settings"] == results[1]["settings"]
    # Who ends first may leave the other's last trial running.
    longer = max(results, key=lambda result: len(result["trials"]))
    numbers = sorted(trial["number"] for trial in longer["trials"])
    assert numbers == list(range(len(numbers)))
    assert TRIALS <= len(numbers) <= TRIALS + 1
    assert sum(trial["start"] for trial in longer["trials"]) == 1
    told = re.findall(r"^trial (\d+),", said, re.MULTILINE)
    assert sorted(map(int, told)) == numbers
    drawn = {(trial["learning_rate"], trial["orpo_alpha"]) for trial in longer["trials"]}
    assert len(drawn) == len(numbers)
    assert "study.db" not in results[0]["command"]  # an address may hold a password


@pytest.mark.slow
def test_no_token_is_written_anywhere(shared: tuple[Path, Any, str]) -> None:
    files = [path for path in shared[0].rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path.name for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_every_trial_is_accounted_for_and_the_best_one_is_recommended(
    shared: tuple[Path, list[dict[str, Any]], str],
) -> None:
    _, results, _ = shared
    result = max(results, key=lambda one: len(one["trials"]))
    trials = {one["number"]: one for one in result["trials"]}
    assert sum(result["account"].values()) == len(trials)
    assert trials[0]["start"] is True
    assert (trials[0]["learning_rate"], trials[0]["orpo_alpha"]) == (1e-3, 0.1)
    whole = [one for one in trials.values() if one["state"] == "complete"]
    best = max(whole, key=lambda one: one["score"])
    assert result["recommended"]["trial"] == best["number"]
    assert best["number"] in result["recommended"]["near"]
    counts = result["held_out"]
    assert counts["train"] + counts["choosing"] + counts["test"] == 48
    if result["comparison"] is not None:
        measures = result["comparison"]["measures"]
        assert measures["correct_answers"]["change"]["n"] == 2
        assert measures["score"]["change"]["n"] == counts["test"]


@pytest.mark.slow
def test_the_recipe_runs_as_printed(
    shared: tuple[Path, Any, str], orpo: Orpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared[0])
    tuned = Path("one")
    recipe = tuned / "recipe.yaml"
    text = recipe.read_text("utf-8")
    assert text.startswith(f"# orpo train {recipe}\n")
    values = yaml.safe_load(text)
    recommended = evaluation(tuned)["recommended"]["values"]
    assert {name: values[name] for name in recommended} == recommended
    assert orpo("train", recipe, "--max_steps", 1, "--samples", 0, "--logging_steps", 1) == 0
    resolved = yaml.safe_load((tuned / "run" / "recipe.yaml").read_text("utf-8"))
    assert resolved["learning_rate"] == recommended["learning_rate"]
    assert resolved["orpo_alpha"] == recommended["orpo_alpha"]


@pytest.mark.slow
def test_the_page_is_drawn_again_from_the_folder(shared: tuple[Path, Any, str], orpo: Orpo) -> None:
    tuned = shared[0] / "one"
    before = (tuned / "report.html").read_bytes()
    assert (tuned / "figures" / "trials.png").stat().st_size > 10_000
    (tuned / "report.html").unlink()
    assert orpo("report", tuned) == 0
    assert (tuned / "report.html").read_bytes() == before


@pytest.mark.slow
def test_other_settings_are_refused_in_one_line(
    shared: tuple[Path, Any, str], tiny: Path, data: Path, orpo: Orpo
) -> None:
    storage = f"sqlite:///{shared[0] / 'study.db'}"
    given = words(tiny, data, shared[0] / "three", storage=storage, orpo_alpha=0.7)
    assert orpo("tune", *given) == 2
    last = orpo.err.strip().splitlines()[-1]
    assert "start.orpo_alpha 0.1, now it is 0.7" in last
    assert "--study NAME" in last


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--minutes", "0"), "--minutes: must be positive"),
        (("--trials", "0"), "--trials: must be at least 1"),
        (("--steps", "0"), "--steps: must be at least 1"),
        (("--learning_rates", "1e-3", "1e-5"), "--learning_rates: 0.001 1e-05 is no range"),
        (("--alphas", "0", "1"), "--alphas: 0 1 is no range"),
        (("--alphas", "1"), "--alphas"),
        (("--objective", "sft"), "--objective"),
        (("--orpo_alpha", "0"), "Both must be positive"),
        (("--resume",), "--resume"),
        (("--checker", "nowhere:grade"), "--checker nowhere:grade"),
        (("--storage", "sqlite:////no/such/folder/s.db"), "--storage sqlite:////no/such/folder"),
        (("--storage", "mysql://me:secret@host/db"), "--storage mysql://***@host/db"),
        (("--dataset", "none.jsonl", "--model", "m"), "none.jsonl"),
        (("none.yaml",), "none.yaml"),
        (("--study", ""), "--study"),
    ],
)
def test_mistakes_give_exit_code_2(
    orpo: Orpo, given: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert orpo("tune", *given, "--output_dir", tmp_path / "out") == 2
    assert orpo.out == ""
    last = orpo.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert "secret" not in orpo.err
    assert "Traceback" not in orpo.err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(orpo: Orpo, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    assert orpo("tune", "--output_dir", tmp_path) == 2
    assert "holds something that is no tuning" in orpo.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_optuna_it_says_what_to_install(
    orpo: Orpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert orpo("tune", "--output_dir", tmp_path / "out") == 2
    assert "pip install 'orpo[tune]'" in orpo.err
