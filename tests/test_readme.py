"""The two READMEs say the same, and every command in them runs as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(sh|python|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str) -> list[tuple[str, str]]:
    return FENCE.findall((ROOT / name).read_text(encoding="utf-8"))


def bare(block: tuple[str, str]) -> tuple[str, str]:
    """Without comments, which are translated."""
    kind, text = block
    lines = (re.sub(r"\s*#.*", "", line) for line in text.splitlines())
    return kind, "\n".join(line for line in lines if line)


def test_both_languages_show_the_same_code() -> None:
    assert list(map(bare, blocks("README.md"))) == list(map(bare, blocks("README.zh-CN.md")))
    assert blocks("README.md")


def test_a_result_stands_in_the_first_ten_lines() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        head = "\n".join((ROOT / name).read_text(encoding="utf-8").splitlines()[:10])
        assert len(re.findall(r"\d+\.\d %", head)) >= 4, name


def test_links_point_to_files_that_exist() -> None:
    for name in ("README.md", "README.zh-CN.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text(encoding="utf-8")):
            if "://" not in target:
                assert (ROOT / target).exists(), f"{name}: {target}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_runs_as_printed(tmp_path: Path) -> None:
    """In order, in one folder: later commands use what earlier ones made."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }
    for number, (kind, text) in enumerate(blocks("README.md")):
        if kind == "yaml":
            (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
            continue
        if kind == "sh" and all(line.startswith("make ") for line in text.split("\n") if line):
            continue  # `make test` runs this test; `make demo` is `orpo demo` in a new environment
        command = (
            ["bash", "-euo", "pipefail", "-c", text]
            if kind == "sh"
            else [sys.executable, "-c", text]
        )
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"block {number}:\n{text}\n{done.stdout}\n{done.stderr}"
    assert (tmp_path / "orpo-demo" / "report.html").is_file()
