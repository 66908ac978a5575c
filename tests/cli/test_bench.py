"""`orpo bench`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.cli.conftest import Orpo

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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "./none"), "./none"),
        (("--dataset", "none.jsonl"), "none.jsonl"),
        (("--rows", "long"), "--rows"),
        (("--batch_size", "two"), "--batch_size"),
        (("--against", "axolotl"), "axolotl"),
        (("--precision", "int4"), "--precision"),
        (("--rows", "dataset", "--model", "m"), "--dataset"),
    ],
)
def test_mistakes_give_exit_code_2(orpo: Orpo, arguments: tuple[str, ...], said: str) -> None:
    assert orpo("bench", *arguments) == 2
    assert orpo.out == ""
    assert said in orpo.err.splitlines()[-1]
    assert orpo.err.splitlines()[-1].startswith("error: ")
