"""The set of ruined and good runs: no ruined one is called better or healthy, each good one is."""

from pathlib import Path

import pytest
from scripts.ruined_runs import GOOD, RUINED, claims, run_case


@pytest.mark.parametrize("name", RUINED)
def test_a_ruined_run_is_not_called_better(name: str, tmp_path: Path) -> None:
    result, said = run_case(RUINED[name], tmp_path)
    assert not result.verdict.good, result.verdict.says
    assert claims(result.output_dir, said) == []


@pytest.mark.parametrize("name", GOOD)
def test_a_good_run_is_called_better(name: str, tmp_path: Path) -> None:
    result, said = run_case(GOOD[name], tmp_path)
    assert result.verdict.word == "better", result.verdict.says
    assert any("README.md" in one for one in claims(result.output_dir, said))
