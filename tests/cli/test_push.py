"""`orpo push` against a Hub that is really there: what it sends, what it shows, what it refuses."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import yaml
from huggingface_hub import ModelCard

from orpo.quantities import as_percent
from tests.cli.conftest import Orpo
from tests.hub_server import READER, TOKEN, Hub, hub
from tests.jobs.small_run import flip

# huggingface_hub sends large files in a way that its HTTP library is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def run(finished_run: Path) -> Path:
    return finished_run


@pytest.fixture
def adapter(adapter_run: Path) -> Path:
    return adapter_run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub() as held:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", held.url)
        address = held.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        yield held


def copy_of(run: Path, folder: Path) -> Path:
    shutil.copytree(run.parent, folder, dirs_exist_ok=True)
    return folder / run.name


def test_everything_arrives_byte_by_byte(orpo: Orpo, server: Hub, run: Path) -> None:
    assert orpo("push", run, "me/mine", "--private", "--license", "mit", "--json") == 0, orpo.err
    told = json.loads(orpo.out)
    there = server.repositories["me/mine"]["main"]
    assert "me/mine" in server.private
    assert server.messages == ["run, pushed with orpo"]
    assert told["url"].startswith(server.url)
    assert {one["name"]: one["size"] for one in told["files"]} == {
        name: len(content) for name, content in there.items() if name != ".gitattributes"
    }
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert there[name] == (run / name).read_bytes(), name
    assert there["README.md"].decode() == told["card"]
    assert there["figures/loss.png"].startswith(b"\x89PNG")
    left_here = {"metrics.jsonl", "samples.jsonl", "scores.jsonl", "audit.json", "report.html"}
    assert not left_here & there.keys()
    for name, content in there.items():
        assert str(run.parent).encode() not in content, f"{name} names a path"
    assert TOKEN not in orpo.out + orpo.err


def test_the_card_has_the_numbers_and_the_hub_can_read_its_header(orpo: Orpo, run: Path) -> None:
    assert orpo("push", run, "me/mine", "--dry_run", "--base_model", "org/base", "--json") == 0
    card: Any = ModelCard(json.loads(orpo.out)["card"])
    header = card.data.to_dict()
    assert header["tags"] == ["orpo", "preference-optimization", "pairs"]
    assert (header["library_name"], header["pipeline_tag"]) == ("transformers", "text-generation")
    assert (header["base_model"], header["base_model_relation"]) == ("org/base", "finetune")
    assert "license" not in header
    evaluation = json.loads((run / "evaluation.json").read_text())
    after = evaluation["after"]
    (result,) = card.data.eval_results
    assert result.metric_value == round(after["preference_accuracy"], 4)
    assert (result.dataset_type, result.dataset_name) == (
        "preference-pairs",
        "pairs.jsonl, held out",
    )
    share = after["intervals"]["preference_accuracy"]
    assert f"({as_percent(share['low'])} to {as_percent(share['high'])})" in card.text
    assert evaluation["verdict"]["says"] in card.text
    account = yaml.safe_load((run / "recipe.yaml").read_text())["_run"]["data"]["train_dataset"]
    assert f"{account['rows_in']} rows, {account['kept']} kept" in card.text
    assert "`orpo data audit`, quick part" in card.text
    assert "Not known" in card.text.split("## Licence")[1]


def test_a_dry_run_shows_all_of_it_and_asks_nobody(orpo: Orpo, server: Hub, run: Path) -> None:
    assert orpo("push", run, "me/mine", "--dry_run", "--revision", "v1") == 0, orpo.err
    assert server.asked == []
    assert orpo.out.startswith("---\nlibrary_name: transformers")
    size = (run / "model.safetensors").stat().st_size
    words = ("repository me/mine, branch v1", f"{size:,} bytes", "recipe.yaml", "nothing was sent")
    assert all(word in orpo.err for word in words), orpo.err


def test_an_adapter_names_its_base_or_goes_merged(
    orpo: Orpo, server: Hub, adapter: Path, tmp_path: Path
) -> None:
    mine = copy_of(adapter, tmp_path)
    assert orpo("push", mine, "me/mine") == 2
    assert "--base_model ID" in orpo.err
    assert server.asked == []
    server.add("org/base", **{"README.md": b"---\nlicense: apache-2.0\n---\n# Base\n"})
    assert orpo("push", mine, "me/adapter", "--base_model", "org/base") == 0, orpo.err
    there = server.repositories["me/adapter"]["main"]
    assert json.loads(there["adapter_config.json"])["base_model_name_or_path"] == "org/base"
    assert there["adapter_model.safetensors"] == (mine / "adapter_model.safetensors").read_bytes()
    header = ModelCard(there["README.md"].decode()).data.to_dict()
    assert (header["library_name"], header["base_model_relation"]) == ("peft", "adapter")
    assert header["license"] == "apache-2.0", "as the base model's card says"
    assert orpo("push", mine, "me/whole", "--merge", "--revision", "v1") == 0, orpo.err
    assert "merging the adapter" in orpo.err
    whole = server.repositories["me/whole"]["v1"]
    assert whole["model.safetensors"] == (mine / "merged" / "model.safetensors").read_bytes()
    assert "adapter_config.json" not in whole
    assert ModelCard(whole["README.md"].decode()).data.to_dict()["library_name"] == "transformers"
    assert orpo("push", mine, "me/whole", "--merge", "--dry_run") == 0
    assert "after merging" not in orpo.err, "the merged model is there by now"


def test_another_model_is_replaced_only_when_asked(orpo: Orpo, server: Hub, run: Path) -> None:
    old = {"model-00001-of-00002.safetensors": b"old", "notes.txt": b"kept", "recipe.yaml": b"a: 1"}
    server.add("me/taken", **old)
    assert orpo("push", run, "me/taken") == 2
    assert "holds something else already" in orpo.err
    assert server.repositories["me/taken"]["main"] == old
    assert orpo("push", run, "me/taken", "--overwrite") == 0, orpo.err
    there = server.repositories["me/taken"]["main"]
    assert "model-00001-of-00002.safetensors" not in there
    assert there["notes.txt"] == b"kept"
    assert orpo("push", run, "me/taken", "--message", "again") == 0, "the same run"
    assert server.messages[-1] == "again"
    assert orpo("push", run, "me/taken", "--private") == 2
    assert "is there already, and public" in orpo.err


def test_what_the_hub_refuses_is_one_line(
    orpo: Orpo, server: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unknown = "hf_" + "x" * 34
    for token, words in (
        (READER, "this token may not write here"),
        (unknown, "the Hub does not know this token"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        assert orpo("push", run, "me/mine") == 2
        last = orpo.err.strip().splitlines()[-1]
        assert last.startswith("error: me/mine: ")
        assert words in last
        assert token not in orpo.err + orpo.out
    server.asked.clear()
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert orpo("push", run, "me/mine") == 2
    assert "there is no Hub token" in orpo.err
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert orpo("push", run, "me/mine") == 2
    assert "HF_HUB_OFFLINE: is set" in orpo.err
    assert server.asked == []


def test_what_is_not_sound_is_not_pushed(
    orpo: Orpo, server: Hub, run: Path, tmp_path: Path
) -> None:
    mine = copy_of(run, tmp_path)
    for change, words in (
        (lambda: flip(mine / "model.safetensors"), "is not what was committed"),
        ((mine / "manifest.json").unlink, "holds no finished model"),
        ((mine / "recipe.yaml").unlink, "is not a run folder"),
    ):
        change()
        assert orpo("push", mine, "me/mine") == 2
        assert words in orpo.err
    assert server.asked == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "me/mine"), "no such folder"),
        (("{run}", "mine"), "is no name of a repository"),
        (("{run}", "me/../x"), "is no name of a repository"),
        (("{run}", "me/mine", "--license", "My licence"), "is no licence id"),
        (("{run}", "me/mine", "--base_model", "/home/me/base"), "is no Hub id"),
        (("{run}", "me/mine", "--merge"), "there is no adapter to merge"),
        (("{run}/checkpoint-4", "me/mine"), "is a checkpoint"),
        (("{run}", "me/mine", "--message", " "), "--message: is empty"),
    ],
)
def test_wrong_input_is_one_line(
    orpo: Orpo, run: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert orpo("push", *(one.format(run=run) for one in arguments), "--dry_run") == 2
    assert words in orpo.err
    assert len(orpo.err.strip().splitlines()) == 1
