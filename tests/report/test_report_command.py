import json
from pathlib import Path

import pytest

from orpo.commands.main import main


def test_the_command_writes_page_and_pictures_and_tells_where(
    full_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    assert main(["report", str(full_run), "--figures", str(pictures), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"report": str(full_run / "report.html"), "figures": str(pictures)}
    assert (pictures / "logps.png").is_file()


def test_a_folder_of_neither_kind_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evaluation.json").write_text('{"kind": "poll"}', encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert "'poll'" in said
    assert "mt-bench" in said
