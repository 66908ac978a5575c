"""Dry-runs every recipe as its header says, and prints the table of docs/recipes.md.

    python scripts/recipe_table.py            # the table
    python scripts/recipe_table.py --write    # and write headers and table anew

Models and data come from the Hub or its cache, of which configurations and rows are enough. Without
either, `python -m tests.hub_cache FOLDER` makes a cache that will do, for HF_HOME: the numbers
depend on what the headers say of the data, not on the rows.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from orpo.commands.main import main

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "recipes.md"
_BEGIN, _END = "<!-- the table of scripts/recipe_table.py -->\n", "\n<!-- its end -->"
_COMMAND = re.compile(r"^# Dry run: (.*?[^\\])$", re.M | re.S)
_HEAD = "| recipe | trains | devices | memory of each | time | cost |\n|---|---|---|---:|---:|---:|"


def recipes() -> list[Path]:
    """Every recipe, the small ones first."""
    folder = ROOT / "recipes"
    found = [path for path in folder.rglob("*.yaml") if path.parent.name != "accelerate"]
    return sorted(found, key=lambda path: (path.parent != folder, path.name))


def dry_run_command(recipe: Path) -> list[str]:
    """The command of a recipe's header, without `orpo`."""
    found = _COMMAND.search(recipe.read_text(encoding="utf-8"))
    assert found is not None, f"{recipe}: no dry run in the header"
    return shlex.split(found[1].replace("\\\n#", " "))[1:]


def stamped(recipe: Path, result: dict[str, Any]) -> str:
    """A recipe with what its dry run said in its header."""
    text = recipe.read_text(encoding="utf-8")
    said = {"Memory": memory(result), "Time": f"{hours(result)} on {devices(result)}"}
    price = result["device"]["price_per_hour"]
    said["Cost"] = f"{cost(result)} at {price:g} a device and hour, an assumed price"
    for name, words in said.items():
        text = re.sub(rf"^# {name}: .*$", f"# {name}: {words}", text, count=1, flags=re.M)
    return text


def memory(result: dict[str, Any]) -> str:
    """What a device holds, of what it has."""
    of = result["memory"]
    return f"{of['parts']['total'] / 2**30:.1f} of {of['available'] / 2**30:.0f} GiB"


def devices(result: dict[str, Any]) -> str:
    """How many of what."""
    of = result["device"]
    return f"{of['ranks']} x {of['name']}"


def hours(result: dict[str, Any]) -> str:
    """How long."""
    found = result["plan"]["hours"]
    return f"{found:.1f} hours" if found >= 1 else f"{60 * found:.1f} minutes"


def cost(result: dict[str, Any]) -> str:
    """How much."""
    return f"{result['plan']['cost']:,.2f}"


def table(results: dict[Path, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [_HEAD]
    for recipe, result in results.items():
        name = recipe.relative_to(ROOT / "recipes").as_posix()
        cells = [f"`recipes/{name}`", _trained(result), devices(result), memory(result)]
        lines.append("| " + " | ".join([*cells, hours(result), cost(result)]) + " |")
    return "\n".join(lines)


def _trained(result: dict[str, Any]) -> str:
    settings = result["settings"]
    if settings["quantize"] != "none":
        return "QLoRA"
    return "all weights" if settings["lora_r"] is None else "LoRA"


def with_table(text: str, results: dict[Path, dict[str, Any]]) -> str:
    """The document with its table drawn anew."""
    head, _, rest = text.partition(_BEGIN)
    return head + _BEGIN + table(results) + _END + rest.partition(_END)[2]


def dry_run(recipe: Path) -> dict[str, Any]:
    """What the command of a recipe's header prints."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main([*dry_run_command(recipe), "--json"])
    if code:
        sys.exit(f"{recipe}: exit code {code}")
    found: dict[str, Any] = json.loads(said.getvalue())
    return found


if __name__ == "__main__":
    everything = {recipe: dry_run(recipe) for recipe in recipes()}
    if "--write" in sys.argv:
        for path, outcome in everything.items():
            path.write_text(stamped(path, outcome), encoding="utf-8")
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(with_table(document, everything), encoding="utf-8")
    print(table(everything))
