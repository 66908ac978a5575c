"""`orpo compare`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import forked
from tests.cli.conftest import Orpo

METHODS = ("orpo", "sft", "sft+dpo")
STEPS = 4
FAMILY = "ORPO_TESTS_FAMILY"  # a variable that runs inherit


def arguments(tiny: Path, data: Path, folder: Path) -> list[str]:
    given = {
        "--model": tiny,
        "--dataset": data,
        "--held_out": 0.5,
        "--max_steps": STEPS,
        "--seeds": 1,
        "--samples": 4,
        "--sample_tokens": 4,
        "--per_device_train_batch_size": 2,
        "--learning_rate": 1e-3,
        "--max_length": 128,
        "--at_once": 2,
        "--output_dir": folder,
    }
    return ["--use_cpu", "--no_sensitivity", "--json", *(str(w) for p in given.items() for w in p)]


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


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [forked.python(), "-m", "orpo", "compare", *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def compared(
    tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], str]:
    """A comparison of tiny runs that was killed once: its folder, its JSON, and what it said."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    words = arguments(tiny, data, folder)
    first = subprocess.Popen(
        [forked.python(), "-m", "orpo", "compare", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, FAMILY: str(folder)},
        text=True,
    )
    assert first.stderr is not None
    for line in first.stderr:  # until something is finished
        if " of " in line and " s: " in line:
            break
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stderr.close()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("cost.json")}
    assert before, "nothing was finished before the kill"
    assert not (folder / "report.html").exists()
    _wait_for_the_end_of(str(folder))
    done = run(words)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    return folder, json.loads(done.stdout), done.stderr


def _wait_for_the_end_of(family: str) -> None:
    """The runs of a killed comparison end by themselves."""
    runs = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(FAMILY) == family:
                runs.append(process)
    _, left = psutil.wait_procs(runs, timeout=60)
    for process in left:
        process.kill()
    assert not left, "a run outlived its comparison"


@pytest.mark.slow
def test_every_method_at_both_budgets(compared: tuple[Path, dict[str, Any], str]) -> None:
    folder, result, said = compared
    table = {(row["method"], row["budget"]): row for row in result["table"]}
    assert table.keys() == {
        ("base", ""),
        *((method, budget) for method in METHODS for budget in ("steps", "flops")),
    }
    steps = {key: row["cost"]["steps"] for key, row in table.items() if row["cost"]}
    assert all(steps[method, "steps"] == STEPS for method in METHODS)
    flops = {method: table[method, "flops"]["cost"]["flops"] for method in METHODS}
    assert flops["sft"] == pytest.approx(flops["orpo"], rel=0.2)
    assert steps["sft", "flops"] > STEPS
    assert len({row["pairs"] for row in result["table"]}) == 1
    for name in ("report.html", "evaluation.json", "figures/outcomes.png"):
        assert (folder / name).stat().st_size > 0
    for run_folder in ("orpo-steps-seed42", "sft+dpo-steps-seed42/dpo"):
        assert (folder / run_folder / "recipe.yaml").is_file()
        assert (folder / run_folder / "report.html").is_file()
    assert "equal optimizer steps" in said
    assert "the paper's claims" in said


@pytest.mark.slow
def test_the_table_says_what_the_runs_left(compared: tuple[Path, dict[str, Any], str]) -> None:
    """Counted again from the outcomes and the work files, without this project's own code."""
    folder, result, _ = compared
    table = {(row["method"], row["budget"]): row for row in result["table"]}
    for method, name in (("orpo", "orpo-steps-seed42"), ("sft", "sft-steps-seed42")):
        lines = (folder / name / "outcomes.jsonl").read_text(encoding="utf-8").splitlines()
        outcomes = [json.loads(line) for line in lines]
        right = sum(one["chosen_logps"] > one["rejected_logps"] for one in outcomes)
        row = table[method, "steps"]
        assert row["preference_accuracy"]["value"] == pytest.approx(right / len(outcomes))
        mean = sum(one["rejected_logps"] for one in outcomes) / len(outcomes)
        assert row["rejected_logps"]["value"] == pytest.approx(mean)
        assert sum(one["answer"] is not None for one in outcomes) == 4
    two = [
        json.loads((folder / "sft+dpo-steps-seed42" / stage / "work.json").read_text("utf-8"))
        for stage in ("sft", "dpo")
    ]
    cost = table["sft+dpo", "steps"]["cost"]
    assert cost["flops"] == pytest.approx(sum(work["flops"] for work in two))
    assert cost["forwards"] == sum(w["sequences_trained"] + w["sequences_scored"] for w in two)
    # Two of the policy and two of the reference for each pair that DPO trains on.
    dpo = cost["stages"][1]
    assert dpo["forwards"] == 4 * dpo["pairs"]
    assert table["orpo", "steps"]["cost"]["forwards"] == 2 * STEPS * 2
    assert table["orpo", "flops"]["cost"] == table["orpo", "steps"]["cost"]


@pytest.mark.slow
def test_the_last_point_of_a_curve_is_the_trained_model(
    compared: tuple[Path, dict[str, Any], str],
) -> None:
    _, result, _ = compared
    for curve in result["curves"]:
        steps = [point["step"] for point in curve["points"]]
        assert steps == sorted(set(steps))
        assert all(point["chosen"] < 0 and point["rejected"] < 0 for point in curve["points"])
    two = [c for c in result["curves"] if (c["method"], c["budget"]) == ("sft+dpo", "steps")]
    sft, dpo = (curve["points"] for curve in two)
    # DPO starts where SFT ended.
    assert dpo[0]["step"] == sft[-1]["step"] == STEPS // 2
    assert dpo[0]["chosen"] == pytest.approx(sft[-1]["chosen"], rel=1e-4)


@pytest.mark.slow
def test_another_recipe_is_one_line(
    compared: tuple[Path, dict[str, Any], str], orpo: Orpo, tiny: Path, data: Path
) -> None:
    folder, _, _ = compared
    words = [*arguments(tiny, data, folder), "--orpo_alpha", "0.7"]
    assert orpo("compare", *words) == 2
    (line,) = orpo.err.strip().splitlines()
    assert "orpo_alpha None, now it is 0.7" in line
    assert "--overwrite" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "orpo,ppo"), "--methods: 'ppo' is none of"),
        (("--methods", "orpo,orpo"), "--methods: needs different values"),
        (("--budget", "dollars"), "--budget"),
        (("--seeds", "0"), "--seeds"),
        (("--seeds", "two"), "--seeds"),
        (("--dataset", "none.jsonl", "--model", "m"), "held-out pairs are needed"),
        (("--dataset", "none.jsonl", "--model", "m", "--held_out", "0.1"), "none.jsonl"),
        (("--model", "m"), "--dataset"),
        (("--checker", "nowhere:grade"), "--checker nowhere:grade"),
        (("--objective", "sft"), "--methods"),
        (("--resume",), "--resume"),
        (("--max_steps", "1"), "--max_steps"),
        (("--learning_rate", "-1"), "learning_rate"),
        (("--dpo-learning-rate", "0"), "--dpo_learning_rate"),
    ],
)
def test_mistakes_give_exit_code_2(
    orpo: Orpo, words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    assert orpo("compare", *words, "--output_dir", tmp_path / "out") == 2
    assert orpo.out == ""
    last = orpo.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert "Traceback" not in orpo.err
