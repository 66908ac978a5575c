"""`orpo convert-config`, and `orpo train` with what it wrote."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Orpo

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing`:FutureWarning")


@pytest.fixture
def given(here: Path, tiny: Path, pairs: Path) -> str:
    """Settings of LLaMA-Factory, with data that its registry names."""
    registry = {"pairs": {"file_name": pairs.name, "ranking": True}}
    Path("dataset_info.json").write_text(json.dumps(registry))
    Path("lf.yaml").write_text(
        f"model_name_or_path: {tiny}\nstage: dpo\npref_loss: orpo\npref_beta: 0.2\n"
        "finetuning_type: lora\ndataset: pairs\ndataset_dir: .\ntemplate: llama3\n"
        "cutoff_len: 200\noutput_dir: run\nlearning_rate: 1e-3\nmax_steps: 2\n"
        "per_device_train_batch_size: 2\nsave_strategy: 'no'\nuse_cpu: true\n"
    )
    return "lf.yaml"


def test_the_recipe_trains(given: str, orpo: Orpo) -> None:
    orpo.does("convert-config", given, "--output", "recipe.yaml")
    assert "15 keys = 10 converted + 4 not needed + 1 not supported" in orpo.err
    assert "template (lf.yaml:8)" in orpo.err
    assert "next: orpo train recipe.yaml" in orpo.err
    assert orpo.out == ""
    recipe = Path("recipe.yaml").read_text(encoding="utf-8")
    assert "orpo_alpha: 0.2" in recipe
    assert "# pref_beta, lf.yaml:4" in recipe
    assert orpo.does("train", "recipe.yaml", "--json")["steps"] == 2
    assert Path("run/adapter_model.safetensors").is_file()


def test_json_is_the_account_and_nothing_else(given: str, orpo: Orpo) -> None:
    found = orpo.does("convert-config", given, "--json")
    parts = ("converted", "not_needed", "not_supported")
    assert found["keys"] == sum(len(found[part]) for part in parts) == 15
    assert found["from"] == "llama-factory"
    assert found["settings"]["nll_scope"] == "completion"
    assert found["recipe"] is None
    orpo.does("convert-config", given)  # without JSON and output the recipe is printed
    assert orpo.out.startswith("# Converted from lf.yaml: settings of LLaMA-Factory")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.yaml"], "none.yaml: no such file"),
        (["lf.yaml", "--from", "unsloth"], "unsloth"),
        (["lf.yaml", "--output", "lf.yaml"], "is there already"),
        (["bad.yaml"], "learning_rate, bad.yaml:11: must be at least 0"),
        (["odd.yaml"], "output_dir, odd.yaml:10: must be text, is a list ([1])"),
        ([], "FILE"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], said: str, given: str, orpo: Orpo
) -> None:
    text = Path(given).read_text(encoding="utf-8")
    Path("bad.yaml").write_text(text.replace("1e-3", "-1"), encoding="utf-8")
    Path("odd.yaml").write_text(text.replace("output_dir: run", "output_dir: [1]"))
    assert said in orpo.refuses_at_once("convert-config", *arguments)


def test_settings_for_another_machine_are_not_refused_here(given: str, orpo: Orpo) -> None:
    with Path(given).open("a", encoding="utf-8") as file:
        file.write("tf32: true\nfp16: true\noptim: adamw_8bit\n")
    assert orpo.does("convert-config", given, "--json")["settings"]["tf32"] is True
