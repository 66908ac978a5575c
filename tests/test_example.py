"""The flat example is the whole method: it reaches the numbers of ORPOTrainer, line by line."""

import ast
import gzip
import importlib.util
import json
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from orpo import ORPOTrainer
from tests.documents import ROOT
from tests.train.one_step import quiet_trainer

SOURCE = ROOT / "examples" / "orpo_in_100_lines.py"
ROWS = 30
"""Eight pairs a step: the last step of an epoch has six, and twenty steps are five epochs."""

SETTINGS: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "every setting": {
        "alpha": 1.0,
        "beta": 0.3,
        "scope": "completion",
        "seed": 7,
        "max_length": 60,
    },
}
_FILES = ("model", "data", "unseen")
NAMES = {
    "lr": "learning_rate",
    "steps": "max_steps",
    "batch": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "alpha": "orpo_alpha",
    "beta": "orpo_beta",
    "scope": "nll_scope",
    "warmup": "warmup_steps",
}
BUGS = {
    "a mean of means": (
        ("nll.sum() / tokens", "nll.mean() / 2"),
        (".sum() / pairs", ".mean() / 2"),
    ),
    "the NLL of other tokens": (("texts_w if scope", "answers_w if scope"),),
    "sums instead of means": (("answer.mean()", "answer.sum() / 8"),),
    "an answer without its last token": (("[: len(text) - 1]", "[: len(text) - 2]"),),
    "probabilities instead of odds": (("logp - torch.log(-torch.expm1(logp))", "logp"),),
    "one order for all epochs": (("s.seed + epoch", "s.seed"),),
    "gradients that are not clipped": (("model.parameters(), 1.0", "model.parameters(), 1e9"),),
}
"""What is wrong -> texts of the example with what stands there instead."""


def load(source: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass asks for it
    exec(compile(source, str(SOURCE), "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load(SOURCE.read_text(encoding="utf-8"), "example")


@pytest.fixture(scope="module")
def rows(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of the embedded pairs."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with gzip.open(example.Settings().data, "rt", encoding="utf-8") as file:
        path.write_text("".join(islice(file, ROWS)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def curves(
    example: ModuleType, rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[float]]:
    """What ORPOTrainer logs, by settings."""
    return {
        name: trainer_losses(example, rows, tmp_path_factory.mktemp("run"), settings)
        for name, settings in SETTINGS.items()
    }


def trainer_losses(
    example: ModuleType, rows: Path, folder: Path, settings: dict[str, Any]
) -> list[float]:
    given = vars(example.Settings(**{"accumulation": 2, **settings}))
    ours = {name: value for name, value in given.items() if name not in _FILES}
    trainer = quiet_trainer(
        ORPOTrainer,
        str(folder),
        model=model_of(example),
        tokenizer=AutoTokenizer.from_pretrained(example.Settings().model),
        train_dataset=[json.loads(line) for line in rows.read_text("utf-8").splitlines()],
        max_grad_norm=1.0,
        train_sampling_strategy="random",
        logging_steps=1,
        data_cache="off",
        disable_tqdm=True,
        **{NAMES.get(name, name): value for name, value in ours.items()},
    )
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def model_of(example: ModuleType) -> Any:
    return AutoModelForCausalLM.from_pretrained(example.Settings().model, dtype=torch.float32)


def example_losses(
    example: ModuleType, rows: Path, settings: dict[str, Any], steps: int = 20
) -> list[float]:
    """The example's losses; all of them are planned for, though not all may be asked for."""
    given = example.Settings(**{"accumulation": 2, **settings})
    tokenizer = AutoTokenizer.from_pretrained(example.Settings().model)
    pairs = example.read_pairs(str(rows), tokenizer, given.max_length)
    return list(islice(example.train(model_of(example), pairs, given), steps))


@pytest.mark.parametrize("name", SETTINGS)
def test_it_reaches_the_same_losses_as_the_trainer(
    example: ModuleType, rows: Path, curves: dict[str, list[float]], name: str
) -> None:
    losses = example_losses(example, rows, SETTINGS[name])
    assert len(losses) == 20
    assert losses == pytest.approx(curves[name], rel=0, abs=1e-5)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_seen(rows: Path, curves: dict[str, list[float]], bug: str) -> None:
    source = SOURCE.read_text(encoding="utf-8")
    for right, wrong in BUGS[bug]:
        assert right in source
        source = source.replace(right, wrong)
    losses = example_losses(load(source, "example_with_bug"), rows, {}, steps=6)
    assert losses != pytest.approx(curves["as in the paper"][:6], rel=0, abs=1e-5)


def test_main_prints_a_loss_that_falls(
    example: ModuleType,
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--steps", "10", "--accumulation", "1", "--data", str(rows), "--unseen", str(rows)]
    monkeypatch.setattr(sys, "argv", [str(SOURCE), *flags])
    example.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines] == [["step", n, "loss"] for n in ("0", "5", "10")]
    losses, ratios = ([float(line[at]) for line in lines] for at in (3, -1))
    assert losses == sorted(losses, reverse=True) != sorted(losses)
    assert ratios == sorted(ratios) != sorted(ratios, reverse=True)


def test_it_is_a_hundred_lines_of_code_and_imports_nothing_of_orpo() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    tree = ast.parse(text)
    said: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            said |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), start=1)
    code = [line for number, line in lines if line.strip() and number not in said]
    assert len(code) <= 100
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = [getattr(n, "module", None) or n.names[0].name for n in imports]
    assert "torch" in names
    assert not [name for name in names if name.startswith("orpo")]
