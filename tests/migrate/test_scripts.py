"""Scripts are read, never run: Python by its syntax tree, shell by its words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orpo.errors import ConfigError
from orpo.migrate import Conversion, convert

Converted = Callable[..., Conversion]
SCRIPT = """\
from pathlib import Path
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
Path("was_run").touch()
"""


def said(conversion: Conversion, name: str) -> str:
    return next(o.said for o in conversion.outcomes if o.key.name == name)


def test_a_script_is_not_run(converted: Converted, tmp_path: Path) -> None:
    converted("a.py", SCRIPT + "ORPOConfig(output_dir='o')\n")
    assert not (tmp_path / "was_run").exists()


def test_names_and_sums_are_worked_out_and_the_rest_is_asked_for(converted: Converted) -> None:
    conversion = converted(
        "a.py",
        SCRIPT
        + "rate = 4e-6\nsize = 4\nfor seed in range(3): pass\n"
        + "ORPOConfig(output_dir='o', learning_rate=2 * rate, seed=seed, beta=argv[1],\n"
        + "    gradient_accumulation_steps=32 // size, **more)\n",
    )
    assert conversion.values["learning_rate"] == 8e-6
    assert conversion.values["gradient_accumulation_steps"] == 8
    assert sorted(conversion.blanks) == ["orpo_alpha", "seed"]
    assert "argv[1]" in said(conversion, "beta")
    assert "look up" in said(conversion, "**more")


def test_what_code_does_to_the_rows_is_said_by_line(converted: Converted) -> None:
    conversion = converted(
        "a.py",
        SCRIPT
        + "data = load_dataset('json', data_files='pairs.jsonl', split='train')\n"
        + "data = data.map(change)\n"
        + "ORPOTrainer('m', args=ORPOConfig(output_dir='o'), train_dataset=data,\n"
        + "    callbacks=[Mine()])\n",
    )
    assert conversion.values["dataset"] == "pairs.jsonl"
    assert conversion.values["model"] == "m"
    lost = {o.key.name: o.key.where for o in conversion.of_kind("not supported")}
    assert lost == {"dataset.map": "a.py:5", "ORPOTrainer.callbacks": "a.py:7"}


@pytest.mark.parametrize(
    ("loaded", "spec"),
    [
        ("load_dataset('a/b', split='train')", "a/b"),
        ("load_dataset('a/b')['test']", "a/b:test"),
        ("load_dataset(path='csv', data_files='f.csv')", "f.csv"),
        ("load_dataset('a/b', 'part')", "FILL_IN"),
        ("made_here()", "FILL_IN"),
    ],
)
def test_data_sets_are_named_as_orpo_names_them(
    loaded: str, spec: str, converted: Converted
) -> None:
    text = f"ORPOTrainer('m', args=ORPOConfig(output_dir='o'), train_dataset={loaded})\n"
    assert converted("a.py", SCRIPT + text).values["dataset"] == spec


def test_a_script_that_parses_flags_needs_the_command_as_well(
    converted: Converted, tmp_path: Path
) -> None:
    script = SCRIPT + "parser = HfArgumentParser(ORPOConfig)\nORPOTrainer(args=parser.parse())\n"
    with pytest.raises(ConfigError, match="from the command line"):
        converted("a.py", script)
    (tmp_path / "a.sh").write_text("python a.py --output_dir o --learning_rate 3e-6\n")
    assert convert(["a.py", "a.sh"]).values["learning_rate"] == 3e-6


def test_the_configuration_of_accelerate_goes_with_it(converted: Converted, tmp_path: Path) -> None:
    (tmp_path / "accelerate.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nmixed_precision: fp16\n"
        "num_processes: 8\n"
    )
    (tmp_path / "a.py").write_text(SCRIPT + "ORPOConfig(output_dir='o')\n")
    conversion = convert(["a.py", "accelerate.yaml"])
    assert conversion.values["fp16"] is True
    assert "bf16" not in conversion.values
    assert "accelerate launch" in said(conversion, "accelerate.distributed_type")


SWIFT = "swift rlhf --rlhf_type orpo --model m --dataset d"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f"{SWIFT} --beta 0.3", 0.3),
        (f"B=0.3\n{SWIFT} --beta $B", 0.3),
        (f"{SWIFT} \\\n  --beta=${{B:-0.3}}", 0.3),
        (f"{SWIFT} --beta '0.3'  # why", 0.3),
        (f"{SWIFT} --beta $(expr 8 / 4)", 2),
        (f"{SWIFT} --beta $((8 - 2 - 3))", 3),
        (f"{SWIFT} --beta $((8 / 0))", "FILL_IN"),
        (f"{SWIFT} --beta $(cat beta)", "FILL_IN"),
        (f"{SWIFT} --beta $B", "FILL_IN"),
    ],
)
def test_the_words_of_a_shell_are_put_in(text: str, value: object, converted: Converted) -> None:
    assert converted("a.sh", f"set -e\ncd folder\n{text}\n").values["orpo_alpha"] == value


def test_accelerate_and_torchrun_keep_what_is_theirs(converted: Converted) -> None:
    text = "torchrun --nproc_per_node 4 orpo.py --output_dir o --learning_rate 1e-5\n"
    conversion = converted("a.sh", text)
    assert conversion.launch == ("--nproc 4",)
    assert conversion.values["learning_rate"] == 1e-5


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "stage: [", "a.yaml:1: cannot be read"),
        ("a.yaml", "- a", "holds no settings"),
        ("a.yaml", "stage: &x [*x]", "cannot be read (grows without bound"),
        ("a.yaml", "a: " + "[" * 5000, "cannot be read"),
        ("a.yaml", "colour: red", "--from"),
        ("a.yaml", "stage: dpo\nbase_model: m\n", "could be of LLaMA-Factory or Axolotl"),
        ("a.yaml", "compute_environment: x\ndistributed_type: y\n", "accelerate alone"),
        ("a.toml", "a = 1", "unknown kind of file"),
        ("a.py", "def f(:", "a.py:1: is no Python"),
        ("a.py", "print(1)", "neither ORPOConfig nor ORPOTrainer"),
        ("a.sh", "echo hello", "runs no"),
        ("a.sh", 'swift rlhf --model "m', "a.sh:1: a quotation mark"),
        ("a.sh", f"{SWIFT}\n{SWIFT}", "trains 2 times (lines 1, 2)"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    name: str, text: str, expected: str, converted: Converted
) -> None:
    with pytest.raises(ConfigError) as refused:
        converted(name, text)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)
