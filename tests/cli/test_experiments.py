"""`orpo compare`, `orpo tune` and `orpo bench`: runs of tiny models, and what is refused."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import forked
from tests.cli.conftest import Orpo
from tests.documents import workplace

METHODS = ("orpo", "sft", "sft+dpo")
STEPS, TRIALS = 4, 4
FAMILY = "ORPO_TESTS_FAMILY"  # a variable that runs inherit
SECRET = "hf_" + "x" * 30
Compared = tuple[Path, dict[str, Any], str]
Shared = tuple[Path, list[dict[str, Any]], str]


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


def words(tiny: Path, data: Path, folder: Path | str, **more: Any) -> list[str]:
    given = {"model": tiny, "dataset": data, "output_dir": folder, "learning_rate": 1e-3}
    given |= {"max_length": 128, "per_device_train_batch_size": 2, **more}
    return ["--use_cpu", *(str(w) for n, v in given.items() for w in (f"--{n}", v))]


# Compare


def arguments(tiny: Path, data: Path, folder: Path) -> list[str]:
    how = {"held_out": 0.5, "max_steps": STEPS, "seeds": 1, "samples": 4, "sample_tokens": 4}
    return ["--no_sensitivity", "--json", *words(tiny, data, folder, **how, at_once=2)]


@pytest.fixture(scope="module")
def compared(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """A comparison of tiny runs that was killed once: its folder, its JSON, and what it said."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    command = [forked.python(), "-m", "orpo", "compare", *arguments(tiny, data, folder)]
    family, pipes = {**os.environ, FAMILY: str(folder)}, {"stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=family, **pipes) as first:
        for line in first.stderr or ():  # until something is finished
            if " of " in line and " s: " in line:
                break
        first.send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("cost.json")}
    assert before, "nothing was finished before the kill"
    assert not (folder / "report.html").exists()
    runs = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(FAMILY) == str(folder):
                runs.append(process)
    _, left = psutil.wait_procs(runs, timeout=60)
    for process in left:
        process.kill()
    assert not left, "a run outlived its comparison"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    return folder, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_every_method_at_both_budgets(compared: Compared) -> None:
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
    assert result["evidence"] is False
    assert result["lacking"][:2] == ["1 seed (3 are the least)", "4 steps (30 are the least)"]
    assert {claim["verdict"] for claim in result["claims"]} == {"undecided"}
    assert result["verdict"].startswith("This is no evidence, and nothing is decided: 1 seed")
    shown = said.index(result["verdict"][:60])
    assert shown < said.index("The paper's claims, of which nothing is decided")


@pytest.mark.slow
def test_the_table_says_what_the_runs_left(compared: Compared) -> None:
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
    compared: Compared,
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
def test_another_recipe_is_one_line(compared: Compared, orpo: Orpo, tiny: Path, data: Path) -> None:
    folder, _, _ = compared
    words = [*arguments(tiny, data, folder), "--orpo_alpha", "0.7"]
    assert orpo("compare", *words) == 2
    (line,) = orpo.err.strip().splitlines()
    assert "orpo_alpha None, now it is 0.7" in line
    assert "--overwrite" in line


# Tune

TUNED: dict[str, Any] = {"held_out": 0.4, "steps": STEPS, "trials": TRIALS}
CHECKER = """
from orpo.evaluate import Grade

def grade(row, answer):
    return Grade(len(answer) % 2 == 0, "by length")
"""


@pytest.fixture(scope="module")
def shared(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Two processes share a study at the same time: their place, results, and what they said."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "my_checks.py").write_text(CHECKER, encoding="utf-8")
    more = {"storage": f"sqlite:///{folder / 'study.db'}", "checker": "my_checks:grade"}
    more |= {"samples": 2, "sample_tokens": 4, "hub_token": SECRET} | TUNED
    one, two = (
        " ".join(["orpo tune --json", *words(tiny, data, name, **more)]) for name in ("one", "two")
    )
    with workplace(folder) as place:
        done = place.run(f"{one} > one.json & first=$!\n{two} > two.json\nwait $first")
    assert done.returncode == 0, done.stderr
    names = ("one.json", "two.json")
    return folder, [json.loads((folder / one).read_text("utf-8")) for one in names], done.stderr


@pytest.mark.slow
def test_two_processes_share_a_study(shared: Shared) -> None:
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
def test_no_token_is_written_anywhere(shared: Shared) -> None:
    files = [path for path in shared[0].rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path.name for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_every_trial_is_accounted_for_and_the_best_one_is_recommended(
    shared: Shared,
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
    assert result["comparison"] is None
    assert f"{STEPS} steps (30 are the least)" in result["lacking"]
    assert (result["evidence"], result["recommended"]["verdict"]) == (False, "no evidence")
    assert result["verdict"].startswith("No evidence: ")
    assert result["recommended"]["values"] == {"learning_rate": 1e-3, "orpo_alpha": 0.1}


@pytest.mark.slow
def test_the_recipe_runs_as_printed(
    shared: Shared, orpo: Orpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared[0])
    tuned = Path("one")
    recipe = tuned / "recipe.yaml"
    text = recipe.read_text("utf-8")
    assert text.startswith(f"# orpo train {recipe}\n")
    values = yaml.safe_load(text)
    recommended = json.loads((tuned / "evaluation.json").read_text("utf-8"))["recommended"][
        "values"
    ]
    assert {name: values[name] for name in recommended} == recommended
    assert orpo("train", recipe, "--max_steps", 1, "--samples", 0, "--logging_steps", 1) == 0
    resolved = yaml.safe_load((tuned / "run" / "recipe.yaml").read_text("utf-8"))
    assert resolved["learning_rate"] == recommended["learning_rate"]
    assert resolved["orpo_alpha"] == recommended["orpo_alpha"]


@pytest.mark.slow
def test_the_page_is_drawn_again_from_the_folder(shared: Shared, orpo: Orpo) -> None:
    tuned = shared[0] / "one"
    before = (tuned / "report.html").read_bytes()
    assert (tuned / "figures" / "trials.png").stat().st_size > 10_000
    (tuned / "report.html").unlink()
    assert orpo("report", tuned) == 0
    assert (tuned / "report.html").read_bytes() == before


@pytest.mark.slow
def test_other_settings_are_refused_in_one_line(
    shared: Shared, tiny: Path, data: Path, orpo: Orpo
) -> None:
    storage = f"sqlite:///{shared[0] / 'study.db'}"
    given = words(tiny, data, shared[0] / "three", storage=storage, orpo_alpha=0.7, **TUNED)
    assert orpo("tune", *given) == 2
    last = orpo.err.strip().splitlines()[-1]
    assert "start.orpo_alpha 0.1, now it is 0.7" in last
    assert "--study NAME" in last


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


# Bench

SHORT = ("--precision", "fp32", "--steps", 2, "--max_length", 256, "--batch-size", 2)
HAS_TRL = importlib.util.find_spec("trl") is not None


@pytest.mark.usefixtures("forked_python")
@pytest.mark.parametrize(
    "peers",
    [
        pytest.param(("trl",), marks=pytest.mark.skipif(not HAS_TRL, reason="no TRL")),
        pytest.param(("orpo-padded",), marks=pytest.mark.skipif(HAS_TRL, reason="TRL says more")),
    ],
)
def test_a_table_for_people_and_one_line_for_machines(
    orpo: Orpo, tiny: Path, pairs: Path, peers: tuple[str, ...]
) -> None:
    options = ("--against", ",".join(peers), "--gradient_checkpointing", "trl-default", *SHORT)
    assert orpo("bench", "--model", tiny, "--dataset", pairs, *options) == 0, orpo.err
    (line,) = orpo.out.splitlines()
    result = json.loads(line)
    assert (result["evidence"], result["lacking"][0]) == (
        False,
        "2 counted steps (3 are the least)",
    )
    assert "No result: 2 counted steps (3 are the least)" in orpo.err
    (cell,) = result["cells"]
    assert (cell["batch_size"], cell["pairs"]) == (2, 4)
    modes = {name: side["gradient_checkpointing"] for name, side in cell["sides"].items()}
    assert modes == {"orpo": False} | {peer: peer.startswith("trl") for peer in peers}
    for side in cell["sides"].values():
        assert len(side["step_seconds"]) == len(side["losses"]) == 3
        assert side["peak_bytes"] >= side["idle_bytes"] > 0
    for peer in peers:
        found = cell["against"][peer]
        assert found["same_tokens"] is True
        assert found["first_loss_relative_difference"] < 1e-4
        speed = found["speed_ratio"]
        assert speed["min"] <= speed["median"] <= speed["max"]
        assert f"orpo against {peer}: " in orpo.err
    assert "pairs/s" in orpo.err


@pytest.mark.usefixtures("forked_python")
def test_a_side_that_refuses_its_model_is_one_line(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "broken")
    options = ("--against", "orpo-padded", "--json", *SHORT)
    code = orpo("bench", "--model", tmp_path / "broken", "--dataset", pairs, *options)
    assert code == 2
    assert orpo.out == ""
    assert "Traceback" not in orpo.err
    (line,) = [line for line in orpo.err.splitlines() if line.startswith("error:")]
    assert line.startswith("error: orpo: ")
    assert "model.embed_tokens.weight" in line


# What is refused

WRONG = {
    "compare": [
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
    "tune": [
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
    "bench": [
        (("--model", "./none"), "./none"),
        (("--dataset", "none.jsonl"), "none.jsonl"),
        (("--batch_size", "two"), "--batch_size"),
        (("--batch_size", "0"), "--batch_size"),
        (("--steps", "0"), "--steps"),
        (("--warmup", "-1"), "--warmup"),
        (("--max_length", "8"), "--max_length"),
        (("--gradient_checkpointing", "maybe"), "--gradient_checkpointing"),
        (("--precision", "int4"), "--precision"),
        (("--rows", "long"), "--rows"),
        (("--against", "axolotl"), "axolotl"),
        (("--against", "trl,trl"), "--against"),
        (("--rows", "dataset", "--model", "m"), "--dataset"),
    ],
}


@pytest.mark.parametrize(
    ("command", "given", "said"), [(name, *one) for name, own in WRONG.items() for one in own]
)
def test_mistakes_give_exit_code_2(
    orpo: Orpo, command: str, given: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    folder = () if command == "bench" else ("--output_dir", tmp_path / "out")
    assert orpo(command, *given, *folder) == 2
    assert orpo.out == ""
    last = orpo.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert "secret" not in orpo.err
    assert "Traceback" not in orpo.err
    assert command == "compare" or not (tmp_path / "out").exists()
