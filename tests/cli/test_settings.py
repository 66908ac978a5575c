"""Recipes and flags: what is written there is meant, or refused by file, line and name."""

import argparse
import ast
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser

import orpo as package
from orpo import ConfigError, ORPOConfig
from orpo.commands.flags import add_options, ask
from orpo.commands.main import COMMANDS, Parser, main
from orpo.errors import EXTRAS
from orpo.settings import FIRST
from orpo.train.job import TrainJob
from tests.cli.conftest import Orpo

FIELDS = sorted({f.name for f in fields(ORPOConfig) if f.init} | {f.name for f in fields(TrainJob)})
ODD = ("[[x]]", "{a: b}", "2026-12-01", ".nan", "!!set {a}", "!!binary aGVsbG8=", "[1, {a: b}]")
MAPPINGS = {
    *("lr_scheduler_kwargs", "model_init_kwargs", "chat_template_kwargs", "fsdp_config"),
    *("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs", "liger_kernel_config"),
}
"""Settings that take an object with whatever names."""


def read(path: Path, text: str) -> Any:
    path.write_text(text, encoding="utf-8")
    asked = ask(str(path), {})
    return asked.job, asked.config()


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("value", ODD)
def test_no_setting_takes_a_value_of_another_kind(tmp_path: Path, value: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    taken, said = set(), {}
    for name in FIELDS:
        needed = {"model": "m", "dataset": "d", "held_out": 0.5}
        base = "".join(f"{n}: {x}\n" for n, x in needed.items() if n != name)
        try:
            read(recipe, f"{base}{name}: {value}\n")
            taken.add(name)
        except ConfigError as error:
            said[name] = str(error)
    assert taken <= (MAPPINGS if value in {"{a: b}", "!!set {a}"} else set())
    for name, line in said.items():
        number = 3 if name in {"model", "dataset", "held_out"} else 4
        assert line.startswith(f"{recipe}:{number}, {name}"), line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("learning_rate: [1, 2]", "learning_rate: must be a finite number, is a list ([1, 2])"),
        ("output_dir: [x]", "output_dir: must be text, is a list (['x']). Give one name."),
        ("output_dir: {a: b}", "output_dir: must be text, is an object"),
        ("run_name: 2026-12-01", "run_name: must be text"),
        ("run_name: 5", "run_name: must be text, is 5. Put it in quotes."),
        ("bf16: maybe", "bf16: must be true or false"),
        ("max_steps: 1.5", "max_steps: must be a whole number"),
        ("max_steps: true", "max_steps: must be a finite number, is True"),
        ("max_steps:", "max_steps: is empty"),
        ("optim: {a: b}", "optim: must be text"),
        ("optim: best", "optim: 'best' is none of adamw_torch"),
        ("logging_steps: 1.5", "logging_steps: --logging_steps must be an integer"),
        ("lr_scheduler_kwargs: [1]", "lr_scheduler_kwargs: must be an object"),
        ("accelerator_config: {bogus: 1}", "accelerator_config: "),
        ("deepspeed: {}\ndeepspeed: {}", "'deepspeed' stands here twice"),
        ("lora_r: x", "lora_r: must be a finite number"),
        ("dataset: 3", "dataset: must be"),
        ("dataset: [a, 3]", "dataset[1]: must be text"),
        ("model: {a: b}", "model: must be text"),
        ("mix: [1, x]", "mix[1]: must be a finite number"),
        ("held_out: 1.5", "held_out: must be at least 0"),
        ("5: x", "unknown setting 5"),
        ("cutoff_len: 512", "unknown setting 'cutoff_len'. Did you mean 'max_length'?"),
        ("dataset_num_proc: 4", "Leave it out: rows are tokenised on all cores."),
    ],
)
def test_a_value_that_is_not_meant_is_named_with_file_and_line(
    tmp_path: Path, line: str, said: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    names = {"model", "dataset"} - {line.partition(":")[0]}
    head = "".join(f"{name}: x\n" for name in sorted(names)) + "# a comment\n" * (2 - len(names))
    with pytest.raises(ConfigError) as caught:
        read(recipe, f"{head}{line}\n")
    place = f"{recipe}:{3 + line.count(chr(10))}"
    assert str(caught.value).startswith(place)
    assert said in str(caught.value)


def test_what_yaml_makes_of_a_value_is_understood(tmp_path: Path) -> None:
    text = "model: m\ndataset: d\nlearning_rate: 1e-5\nmax_steps: '7'\nsave_strategy: no\n"
    job, config = read(tmp_path / "recipe.yaml", f"{text}mix:\nresume: true\n")
    assert (job.dataset, job.mix, job.resume) == (["d"], None, "newest")
    assert (config.learning_rate, config.max_steps) == (1e-5, 7)
    assert config.save_strategy == "no"


MEANT = {
    "--warmup_steps": ("--warmup_ratio 0.1",),
    "--eval_strategy": ("--evaluation_strategy=steps",),
    "--dataset": ("--data x", "--train_dataset x", "--train_file x"),
    "--model": ("--base_model x", "--model_name_or_path x"),
    "--lora_r": ("--lora", "--lora_rank 8"),
    "--learning_rate": ("--lr 1e-5", "--learning-rat 1e-5"),
    "--num_train_epochs": ("--epochs 3",),
    "--per_device_train_batch_size": ("--batch_size 3", "--per_gpu_train_batch_size 3"),
    "--max_length": ("--cutoff_len 3", "--sequence_len 3"),
    "--orpo_alpha": ("--pref_beta 0.1",),
    "--held_out": ("--val_size 0.1",),
    "--use_cpu": ("--no_cuda",),
    "Leave it out: lora_r decides": ("--finetuning_type lora",),
    "Leave it out: rows are tokenised": ("--dataset_num_proc 3",),
    "Leave it out": ("--max_completion_length 3", "--rpo_alpha 1"),
    "--chat_template FILE": ("--template qwen",),
}


@pytest.mark.parametrize("said", MEANT)
def test_a_flag_of_another_trainer_is_answered_with_what_is_meant(orpo: Orpo, said: str) -> None:
    for flags in MEANT[said]:
        line = orpo.refuses_at_once("train", "--model", "m", "--dataset", "d", *flags.split())
        flag = re.split("[= ]", flags)[0]
        assert line.startswith(f"error: orpo train: there is no option {flag}. ")
        assert said in line


MISTAKES = {
    "chat m --temprature 1": "Did you mean --temperature?",
    "data audit d --modle m": "Did you mean --model?",
    "train --hub_tokn secret": "Did you mean --hub_token?",
    "evaluate preference m --batchsize 3": "Did you mean --batch_size?",
    "merge a b --zzz": "there is no option --zzz. See",
    "trian": "Did you mean `orpo train`?",
    "eval": "Did you mean `orpo evaluate`?",
    "audit d": "Did you mean `orpo data audit`?",
    "convert config": "Did you mean `orpo convert-config`?",
    "recipe.yaml": "Did you mean `orpo train recipe.yaml`?",
    "evaluate preferance m": "Did you mean preference?",
    "train --model m --dataset d --objective opro": "Did you mean orpo?",
    "train --lr_scheduler_type cosin": "Did you mean cosine?",
    "train --model m --dataset d --columns promt=q": "Did you mean prompt=q?",
    "train --model m --dataset d --columns question=prompt": "Did you mean prompt=question?",
    "train --model m --dataset d --columns prompt": "names one column",
    "train --model m --dataset d --columns prompt=a,b": "Where a name has a comma, write JSON",
    "train --help xyzzy": "no option has the word 'xyzzy'. `orpo train --help all` shows",
    "data audit d --columns {prompt:q}": "Write OURS=THEIRS",
    "train --model m --dataset d --lora_target_modules q_prj": "without lora_r",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_what_is_nearly_right_is_answered_with_what_is_meant(orpo: Orpo, words: str) -> None:
    line = orpo.refuses_at_once(*words.split())
    assert MISTAKES[words] in line
    assert "secret" not in line


JUDGED = "evaluate win-rate m --baseline b --prompts p --judge g --judge_url http://h"
PACKAGES = {
    "wandb": ("train --model m --dataset d --report_to wandb", "pip install wandb"),
    "trackio": ("tune --model m --dataset d --report_to trackio", "install trackio"),
    "bitsandbytes": ("train --model m --dataset d --quantize 4bit", "'orpo[qlora]'"),
    "lomo_optim": ("compare --model m --dataset d --optim adalomo", "install lomo-optim"),
    "openai": ("evaluate mt-bench m --judge gpt", "pip install 'orpo[evaluate]'"),
    "sklearn": (JUDGED, "pip install 'orpo[evaluate]'"),
    "optuna": ("tune --model m --dataset d", "pip install 'orpo[tune]'"),
    "lm_eval": ("evaluate harness {tiny} --tasks ifeval", "pip install 'orpo[harness]'"),
}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_found_before_any_work(
    orpo: Orpo, package: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, install = PACKAGES[package]
    monkeypatch.setattr("orpo.errors.find_spec", lambda name: None if name == package else name)
    line = orpo.refuses_at_once(*words.format(tiny=tiny).split())
    assert f"needs the package {package}, which is not installed. pip install" in line
    assert install in line


def test_an_extra_brings_the_package_that_a_message_asks_it_for() -> None:
    told = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    for name, extra in EXTRAS.items():
        brought = " ".join(told["optional-dependencies"][extra]).replace("-", "_")
        assert {"sklearn": "scikit_learn"}.get(name, name) in brought


def options() -> dict[str, set[str]]:
    """The options of every command, by its words."""
    found = {}
    for name in COMMANDS:
        command: Any = import_module(f"orpo.commands.{name.replace('-', '_')}")
        for action in getattr(command, "ACTIONS", {"": ""}):
            module = f"{command.__name__}_{action.replace('-', '_')}".removesuffix("_")
            parser = Parser(prog=name, allow_abbrev=False)
            add_options(parser, import_module(module).Options)
            flags = {o[2:].replace("-", "_") for a in parser._actions for o in a.option_strings}
            found[f"{name} {action}".strip()] = flags | {"json", "help"}
    return found


@pytest.mark.parametrize("words", options())
def test_help_is_a_page_and_all_of_it_is_to_be_had(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {}
    for more in ([], ["all"], ["help"]):
        with pytest.raises(SystemExit) as stopped:
            main([*words.split(), "--help", *more])
        assert stopped.value.code == 0
        said["".join(more)] = capsys.readouterr().out
    page = said[""].partition("\nexamples:")[0]
    assert said[""].count("\n") <= 60
    assert max(map(len, page.splitlines())) <= 80
    assert all(f"--{name}" in said["all"] for name in options()[words] if len(name) > 1)
    assert "--learning_rate" not in said["help"]
    if words in {"train", "compare", "tune"}:
        shown = [name for group in list(FIRST.values())[:2] for name in group]
        assert all(f"  --{name} " in page or f"  --{name}\n" in page for name in shown)


def said_in(tree: ast.Module) -> list[str]:
    """The texts of a file, without its docstrings, which may speak of other programs."""
    nodes = [*ast.walk(tree)]
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [n for n in nodes if isinstance(n, ast.Constant) and id(n) not in docs]
    return [node.value for node in texts if isinstance(node.value, str)]


OF_OTHERS = {"config_file"}  # accelerate launch
OF_OTHERS |= {"enable_lora", "lora_modules", "max_lora_rank", "served_model_name"}  # vLLM
OF_OTHERS |= {"outfile"}  # llama.cpp
_COMMAND = r"orpo ([a-z][\w-]*)(?: ([a-z][\w-]*))?((?:\\\n|[^`\n])*)"


def unheard_of(text: str, known: Mapping[str, set[str]], *, code: bool) -> set[str]:
    """Options and commands that a text names and that there are not."""
    every = set().union(*known.values(), {"version"}, OF_OTHERS)
    named = re.findall(r"(?<![\w-])--(?!no$)([a-z][\w-]*)(?![\w:-])", text) if code else []
    found = {f"--{name}" for name in named if name.replace("-", "_") not in every}
    before = "(?:`|^ {2,})" if code else "(?:`|^)"
    for command, action, rest in re.findall(before + _COMMAND, text, re.MULTILINE):
        words = f"{command} {action}" if command in {"data", "evaluate"} and action else command
        if words not in known and words not in {"data", "evaluate"}:
            found.add(f"orpo {words}")
            continue
        flags = re.findall(r"(?<![\w-])--([a-z]\w*)", re.split(r" (?:-- |[|#&]| )", rest)[0])
        found |= {f"orpo {words} --{f}" for f in flags if f not in known.get(words, every)}
    return found


def test_every_option_and_command_that_is_spoken_of_exists() -> None:
    known, home = options(), Path(str(package.__file__)).parent
    assert unheard_of("Add --lora_rank", known, code=True) == {"--lora_rank"}
    for planted in ("`orpo trian`", "`orpo train --lora`", "  orpo data adit x", "`orpo chat --r`"):
        assert unheard_of(planted, known, code=planted[0] == " ")
    texts = {
        path: path.read_text("utf-8")
        for kind in ("jinja", "toml")
        for path in home.rglob(f"*.{kind}")
    }
    for path in home.rglob("*.py"):
        texts[path] = "\n".join(said_in(ast.parse(path.read_text("utf-8"))))
    code = set(texts)
    pages = [
        *Path("docs").rglob("*.md"),
        *Path("recipes").rglob("*.yaml"),
        *Path().glob("README*.md"),
    ]
    texts |= {path: path.read_text("utf-8") for path in pages}
    wrong = {str(path): unheard_of(text, known, code=path in code) for path, text in texts.items()}
    assert {path: names for path, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    "flags",
    [
        ("--optim", "galore_adamw"),
        ("--report_to", "wandb"),
        ("--lr_scheduler_type", "warmup_stable_decay"),
        ("--fsdp", "full_shard"),
        ("--max_steps", "0"),
        ("--load_best_model_at_end", "true"),
        ("--eval_strategy", "steps"),
    ],
)
def test_what_cannot_begin_says_so_and_leaves_nothing(
    orpo: Orpo, tiny: Path, pairs: Path, tmp_path: Path, flags: tuple[str, str]
) -> None:
    """All that cannot begin, from Python: test_foreseen."""
    run = tmp_path / "run"
    common = ("--model", tiny, "--dataset", pairs, "--output_dir", run, "--use_cpu")
    for dry in ((), ("--dry_run",)):
        said = orpo.refuses_at_once("train", *common, *flags, *dry)
        assert flags[0].removeprefix("--") in said
    assert not run.exists()


def told(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """How each option of a parser is read; help and defaults left out."""
    found = {}
    for action in parser._actions:
        choices = None if action.choices is None else [*map(str, action.choices)]
        kind = None if choices else getattr(action.type, "__name__", action.type)
        kind = "switch" if kind in {"string_to_bool", "_switch"} else kind
        for flag in action.option_strings:
            found[flag] = (action.dest, kind, action.nargs, action.const, choices)
    return found


def test_flags_are_those_that_transformers_makes() -> None:
    """As `HfArgumentParser` makes them of the class, which is not loaded for ours."""
    ours = Parser()
    add_options(ours, import_module("orpo.commands.train").Options)
    theirs = HfArgumentParser([TrainJob, ORPOConfig], add_help=False)
    found, expected = told(ours), told(theirs)
    assert {"--resume", "--learning-rate", "--no_disable_dropout"} <= expected.keys()
    differing = {how[0] for flag, how in expected.items() if found.get(flag) != how}
    objects = {"parallelism_config", "liger_kernel_config", "debug"}  # no flag can spell them
    assert differing == {*objects, "log_level", "log_level_replica", "resume"}
    assert found["--resume"] == ("resume", "str", "?", "newest", None)  # it may stand alone
