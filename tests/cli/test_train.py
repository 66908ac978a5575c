"""`orpo train` and what can be done with its run folder."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests import forked
from tests.cli.conftest import Orpo

SHORT = ("--per_device_train_batch_size", "4", "--logging_steps", "1", "--max_length", "128")


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder) if "loss" in line]


def test_a_run_leaves_everything_behind(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ("--held_out", 0.3, "--max_steps", 3, "--samples", 2, "--sample-tokens", 8, *SHORT)
    where = ("--model", tiny, "--dataset", pairs, "--output_dir", run)
    assert orpo("train", *where, *options, "--json") == 0, orpo.err
    result = json.loads(orpo.out)  # one object and nothing else
    assert result["steps"] == 3
    accounts = result["data"]
    assert accounts["train_dataset"]["rows_in"] + accounts["eval_dataset"]["rows_in"] == 24
    assert set(result["evaluation"]) == {"before", "after"}
    expected = {"recipe.yaml", "metrics.jsonl", "model.safetensors", "tokenizer.json", "README.md"}
    expected |= {"trainer_state.json", "report.html", "evaluation.json", "samples.jsonl"}
    assert expected <= {path.name for path in run.iterdir()}
    assert [line["step"] for line in metrics(run) if "loss" in line] == [1, 2, 3]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 2
    assert all({"prompt", "before", "after"} <= set(sample) for sample in samples)
    card = (run / "README.md").read_text(encoding="utf-8")
    assert f"{result['evaluation']['after']['preference_accuracy']:.4g}" in card
    assert "step 3/3: loss" in orpo.err
    before = load_file(tiny / "model.safetensors")
    after = load_file(run / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_recipe_of_a_run_makes_the_same_run_again(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    recipe = tmp_path / "recipe.yaml"  # flags win over it, and numbers are numbers
    text = f"model: {tiny}\ndataset: {pairs}\nlearning_rate: 1e-5\nmax_steps: 9\nsamples: 0\n"
    recipe.write_text(text, encoding="utf-8")
    common = ("--max-steps", 3, "--seed", 7, *SHORT)
    assert orpo("train", recipe, *common, "--output_dir", first) == 0, orpo.err
    assert orpo("train", first / "recipe.yaml", "--output_dir", second) == 0, orpo.err
    assert losses(first) == losses(second)
    ours, theirs = (yaml.safe_load((f / "recipe.yaml").read_text()) for f in (first, second))
    assert (ours["learning_rate"], ours["max_steps"]) == (1e-5, 3)
    assert ours["_run"].pop("id") != theirs["_run"].pop("id")
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing <= {"output_dir", "logging_dir", "run_name"}


def test_rows_are_dropped_by_name_if_asked(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    rows[1]["chosen"] = 5
    del rows[2]["rejected"]
    rows[3]["rejected"] = [{"role": "assistant", "content": "  "}]
    rows[4]["rejected"] = rows[4]["chosen"]
    pairs.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ("train", "--model", tiny, "--dataset", pairs, "--max_steps", 1, "--samples", 0)
    assert orpo(*arguments, "--output_dir", tmp_path / "a") == 2
    assert f"{pairs}:2, field 'chosen'" in orpo.err
    assert not (tmp_path / "a").exists()
    code = orpo(*arguments, "--on_bad_row", "drop", "--output_dir", tmp_path / "b", "--json")
    assert code == 0, orpo.err
    account = json.loads(orpo.out)["data"]["train_dataset"]
    assert account["dropped"] == {"malformed": 1, "empty_rejected": 1, "identical_answers": 1}
    assert account["rows_in"] == account["kept"] + 3 == 24
    assert account["nll_only"] == 1


def test_a_folder_with_a_run_is_kept_unless_told(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("train", "--model", tiny, "--dataset", pairs, "--samples", 0, *SHORT)
    arguments += ("--output_dir", run)
    assert orpo(*arguments, "--max_steps", 2, "--save_steps", 1) == 0
    assert orpo(*arguments, "--max_steps", 2) == 2
    assert "--overwrite" in orpo.err
    assert orpo(*arguments, "--max_steps", 3, "--resume") == 0, orpo.err
    assert [line["step"] for line in metrics(run) if "loss" in line] == [1, 2, 3]
    assert orpo(*arguments, "--max_steps", 1, "--overwrite") == 0
    assert len(losses(run)) == 1
    assert orpo(*arguments, "--output_dir", tmp_path / "none", "--resume") == 2
    assert "no checkpoint" in orpo.err


def test_a_merge_answers_as_its_adapter(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    run, merged = tmp_path / "run", tmp_path / "merged"
    lora = ("--lora_r", 4, "--learning_rate", 0.05, "--max_steps", 3, "--samples", 0, *SHORT)
    where = ("--model", tiny, "--dataset", pairs, "--output_dir", run)
    assert orpo("train", *where, *lora) == 0, orpo.err
    assert orpo("merge", run, merged, "--json") == 0, orpo.err
    assert json.loads(orpo.out) == {"model": str(merged)}
    answers = []
    for model in (run, merged):
        assert orpo("generate", model, "Say 3", "--max_new_tokens", 12, "--json") == 0
        answers.append(json.loads(orpo.out))
    assert answers[0] == answers[1]
    assert orpo("merge", run, merged) == 2
    assert "not empty" in orpo.err


@pytest.mark.slow
def test_sigterm_commits_a_checkpoint_and_exits_143(
    tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [forked.python(), "-m", "orpo", "train", "--model", tiny, "--dataset", pairs]
    command += ["--max_steps", "100000", "--samples", "0", "--output_dir", run, *SHORT]
    with subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert any("step 3/" in line for line in process.stderr)  # it is training
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
    assert process.returncode == 143
    assert "SIGTERM" in said
    assert "Traceback" not in said
    (checkpoint,) = run.glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    more = [*command, "--resume", "--max_steps", str(step + 2)]
    done = subprocess.run(list(map(str, more)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = [line["step"] for line in metrics(run) if "loss" in line]
    assert steps == list(range(1, step + 3))
