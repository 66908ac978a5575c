"""`orpo train` and what can be done with its run folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer

from orpo.quantities import as_percent
from tests.cli.conftest import Orpo
from tests.train.small import write_rows

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
    result = orpo.does("train", *where, *options, "--json")
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
    assert f"| {as_percent(result['evaluation']['after']['preference_accuracy'])}" in card
    assert "| NLL in the loss (prompt and chosen answer) |" in card
    assert "step 3/3: loss" in orpo.err
    assert [one["name"] for one in result["diagnosis"]["look"]] == ["model_cannot_write"]
    assert f"diagnosis: {result['diagnosis']['summary']}" in orpo.err
    before = load_file(tiny / "model.safetensors")
    after = load_file(run / "model.safetensors")
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_samples_are_as_the_data_give_them(orpo: Orpo, tiny: Path, tmp_path: Path) -> None:
    """Turns with their roles, a text as it stands, token ids with the marks of the template."""
    talk = [{"role": role, "content": f"{role} says <i>"} for role in ("system", "user")]
    talk += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}]
    ids = {"prompt_ids": [1, 5, 6], "chosen_ids": [7, 2], "rejected_ids": [8, 2]}
    told = {"chosen": "good", "rejected": "bad"}
    for name, prompt, row in (
        ("talk", talk, {"prompt": talk, **told}),
        ("text", "as it stands ", {"prompt": "as it stands ", **told}),
        ("ids", None, ids),
    ):
        rows, run = tmp_path / f"{name}.jsonl", tmp_path / name
        write_rows(rows, [row] * 4)
        options = ("--max_steps", 1, "--samples", 1, "--sample-tokens", 4, *SHORT)
        orpo.does("train", "--model", tiny, "--dataset", rows, "--output_dir", run, *options)
        (sample,) = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
        decoded = AutoTokenizer.from_pretrained(tiny).decode(ids["prompt_ids"])
        assert sample["prompt"] == (prompt or decoded)
        assert name == "ids" or sample["chosen"] == "good"


def test_the_recipe_of_a_run_makes_the_same_run_again(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    recipe = tmp_path / "recipe.yaml"  # flags win over it, and numbers are numbers
    text = f"model: {tiny}\ndataset: {pairs}\nlearning_rate: 1e-5\nmax_steps: 9\nsamples: 0\n"
    recipe.write_text(text, encoding="utf-8")
    common = ("--max-steps", 3, "--seed", 7, *SHORT)
    orpo.does("train", recipe, *common, "--output_dir", first)
    orpo.does("train", first / "recipe.yaml", "--output_dir", second)
    assert losses(first) == losses(second)
    ours, theirs = (yaml.safe_load((f / "recipe.yaml").read_text()) for f in (first, second))
    assert (ours["learning_rate"], ours["max_steps"]) == (1e-5, 3)
    assert ours["_run"].pop("id") != theirs["_run"].pop("id")
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing <= {"output_dir", "logging_dir", "run_name"}


def test_the_recipe_of_a_run_is_run_again_from_anywhere(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    shutil.copytree(tiny, place / "base")
    pairs.rename(place / "pairs.jsonl")
    (elsewhere / "base").mkdir(parents=True)  # is not what the run meant
    monkeypatch.chdir(place)
    told = ("--model", "base", "--dataset", "pairs.jsonl", "--max_steps", 2, *SHORT)
    orpo.does("train", *told, "--samples", 0, "--save_steps", 1, "--output_dir", "runs/a")
    orpo.does("train", "runs/a/recipe.yaml", "--max_steps", 1)
    assert "it is trained again, in runs/a-2" in orpo.err
    assert (len(losses(place / "runs/a")), len(losses(place / "runs/a-2"))) == (2, 1)
    monkeypatch.chdir(elsewhere)
    recipe = Path("../place/runs/a/recipe.yaml")
    before = recipe.read_bytes()
    assert orpo.does("train", recipe, "--resume", "--json")["was_finished"] is True
    assert "changed" not in orpo.err
    assert recipe.read_bytes() == before
    (place / "runs" / "a").rename(tmp_path / "moved")
    orpo.does("train", "../moved/recipe.yaml", "--overwrite", "--max_steps", 1)
    assert len(losses(tmp_path / "moved")) == 1
    place.rename(tmp_path / "as a whole")
    orpo.does("train", "../as a whole/runs/a-2/recipe.yaml", "--dry_run")
    (tmp_path / "as a whole/runs/a-2/manifest.json").unlink()
    said = orpo.refuses_at_once("train", "../as a whole/runs/a-2/recipe.yaml")
    assert "runs/a-2: the run of this recipe is not finished. Add --resume" in said
    (tmp_path / "as a whole/runs/a-2/config.json").unlink()
    said = orpo.refuses_at_once("chat", "../as a whole/runs/a-2")
    assert said.endswith("runs/a-2/checkpoint-1 would do.")


def test_rows_are_dropped_by_name_if_asked(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    rows[1]["chosen"] = 5
    del rows[2]["rejected"]
    rows[3]["rejected"] = [{"role": "assistant", "content": "  "}]
    rows[4]["rejected"] = rows[4]["chosen"]
    write_rows(pairs, rows)
    arguments = ("train", "--model", tiny, "--dataset", pairs, "--max_steps", 1, "--samples", 0)
    said = orpo.refuses(*arguments, "--output_dir", tmp_path / "a")
    assert f"{pairs}:2, field 'chosen'" in said
    assert not (tmp_path / "a").exists()
    kept = ("--on_bad_row", "drop", "--output_dir", tmp_path / "b", "--json")
    account = orpo.does(*arguments, *kept)["data"]["train_dataset"]
    assert account["dropped"] == {"malformed": 1, "empty_rejected": 1, "identical_answers": 1}
    assert account["rows_in"] == account["kept"] + 3 == 24
    assert account["nll_only"] == 1


def test_a_folder_with_a_run_is_kept_unless_told(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("train", "--model", tiny, "--dataset", pairs, "--samples", 0, *SHORT)
    arguments += ("--output_dir", run)
    orpo.does(*arguments, "--max_steps", 2, "--save_steps", 1)
    assert "--overwrite" in orpo.refuses(*arguments, "--max_steps", 2)
    orpo.does(*arguments, "--max_steps", 3, "--resume")
    assert [line["step"] for line in metrics(run) if "loss" in line] == [1, 2, 3]
    orpo.does(*arguments, "--max_steps", 1, "--overwrite")
    assert len(losses(run)) == 1
    said = orpo.refuses(*arguments, "--output_dir", tmp_path / "none", "--resume")
    assert "no checkpoint" in said


def test_a_merge_answers_as_its_adapter(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path
) -> None:
    run, merged = tmp_path / "run", tmp_path / "merged"
    lora = ("--lora_r", 4, "--learning_rate", 0.05, "--max_steps", 3, "--samples", 0, *SHORT)
    orpo.does("train", "--model", tiny, "--dataset", pairs, "--output_dir", run, *lora)
    assert orpo.does("merge", run, merged, "--json") == {"model": str(merged)}
    asked = ("Say 3", "--max_new_tokens", 12, "--json")
    assert orpo.does("generate", run, *asked) == orpo.does("generate", merged, *asked)
    assert "not empty" in orpo.refuses("merge", run, merged)
