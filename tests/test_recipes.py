"""Every recipe is dry-run as its header says, and what header and document state is what came out.

The Hub's cache that this needs has the published configurations and columns; see `hub_cache`.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts import recipe_table

from tests.documents import ROOT, Workplace
from tests.hub_cache import make_hub_cache

RECIPES = recipe_table.recipes()
NAMES = [path.relative_to(ROOT / "recipes").as_posix() for path in RECIPES]
DOCUMENT = ROOT / "docs" / "recipes.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """A checkout of the repository, as far as recipes need it, and a filled cache of the Hub."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("recipes", "src"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(make_hub_cache(tmp_path_factory.mktemp("hub"))))
        patch.delenv("HF_DATASETS_CACHE", raising=False)
        # New processes: the Hub's library reads HF_HOME once, and a warm server has it already.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield Workplace(folder, {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"})


@pytest.fixture(scope="module")
def dry_runs(place: Workplace) -> dict[Path, dict[str, Any]]:
    """What the command in each header printed; one process runs all of them."""
    script = f"""
import json, sys
sys.path.insert(0, {str(ROOT)!r})
from scripts import recipe_table
found = [recipe_table.dry_run(recipe) for recipe in recipe_table.recipes()]
with open("found.json", "w") as file:
    json.dump(found, file)
"""
    done = place.run(f"python <<'END'\n{script}END")
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (place.folder / "runs").exists()
    found = json.loads((place.folder / "found.json").read_text())
    return dict(zip(RECIPES, found, strict=True))


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_the_header_says_what_the_dry_run_says(
    recipe: Path, dry_runs: dict[Path, dict[str, Any]]
) -> None:
    result, text = dry_runs[recipe], recipe.read_text(encoding="utf-8")
    assert recipe_table.stamped(recipe, result) == text, "run scripts/recipe_table.py --write"
    assert result["fits"], result["verdict"]
    for part in ("Source", "Expect", "Hardware", "Dry run", "Memory", "Time", "Cost", "Train"):
        assert len(re.findall(rf"^# {part}: ", text, re.M)) == 1, part


@pytest.mark.parametrize("recipe", RECIPES, ids=NAMES)
def test_the_command_that_trains_names_files_that_are_there(recipe: Path) -> None:
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert settings["output_dir"] == f"runs/{recipe.stem}"
    found = re.search(r"^# Train: (.*?[^\\])$", recipe.read_text("utf-8"), re.M | re.S)
    assert found is not None
    words = shlex.split(found[1].replace("\\\n#", " "))
    assert words[-1] == recipe.relative_to(ROOT).as_posix()
    several = "--accelerate_config" in recipe_table.dry_run_command(recipe)
    assert words[:2] == (["accelerate", "launch"] if several else ["orpo", "train"])
    assert all((ROOT / word).is_file() for word in words if word.endswith(".yaml"))


def test_the_document_has_the_table(dry_runs: dict[Path, dict[str, Any]]) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert recipe_table.with_table(text, dry_runs) == text, "run scripts/recipe_table.py --write"


def test_the_papers_settings(dry_runs: dict[Path, dict[str, Any]]) -> None:
    names = ("orpo_alpha", "learning_rate", "lr_scheduler_type", "num_train_epochs", "orpo_beta")
    for name, *expected in (
        ("phi-2", 0.25, 8e-6, "cosine", 10, 1.0),
        ("llama-2-7b", 0.2, 8e-6, "cosine", 10, 1.0),
        ("mistral-orpo-alpha", 0.1, 8e-6, "cosine", 10, 1.0),
        ("mistral-orpo-beta", 0.1, 5e-6, "inverse_sqrt", 5, 1.0),
    ):
        result = dry_runs[ROOT / "recipes" / "paper" / f"{name}.yaml"]
        assert [result["settings"][one] for one in names] == expected, name
        assert result["plan"]["pairs_per_step"] == 32


def test_published_shapes_have_the_published_sizes(dry_runs: dict[Path, dict[str, Any]]) -> None:
    """Weights by the models' cards: what the estimate rests on is what will be loaded."""
    counts = {
        result["settings"]["model"]: result["model"]["weights"] for result in dry_runs.values()
    }
    assert counts["mistralai/Mistral-7B-v0.1"] == 7_241_732_096
    assert counts["meta-llama/Meta-Llama-3-8B"] == 8_030_261_248
    assert counts["meta-llama/Llama-2-7b-hf"] == 6_738_415_616
    assert counts["HuggingFaceTB/SmolLM2-135M"] == 134_515_008
    assert counts["microsoft/phi-2"] == 2_779_683_840
