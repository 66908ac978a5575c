"""Held-out pairs scored by real models, as a job, and as the evidence of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orpo.errors import ConfigError, DataError, ModelError, UserError
from orpo.jobs.evidence import Evidence
from orpo.jobs.preference_job import PreferenceJob, run_preference
from orpo.jobs.scores import recall_scores
from orpo.report.evaluation.preference import build_page
from orpo.runs import read_recipe, write_yaml
from tests.jobs.small_run import train
from tests.train.small import byte_tokenizer, text_rows, tiny_llama

Copy = Callable[[Path], Path]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twenty rows; the prompts of two are the same, one has no rejected answer."""
    rows: list[dict[str, Any]] = [dict(row) for row in text_rows(20)]
    rows[5]["prompt"] = rows[4]["prompt"].upper()
    rows[9].pop("rejected")
    rows[9]["rejected"] = None
    path = tmp_path / "held.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def evaluate(tmp_path: Path, model: Path, **how: Any) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    job = PreferenceJob(str(model), **{"output_dir": tmp_path / "eval", **how})
    return run_preference(job, say=said.append), said


def test_a_run_needs_nothing_else(tmp_path: Path, finished_run: Path) -> None:
    """Its recipe names what was held out and the base model; the figures are those of the run."""
    found, _ = evaluate(tmp_path, finished_run)
    then = json.loads((finished_run / "evaluation.json").read_text())
    for moment in ("before", "after"):
        now = found["results"][moment]["intervals"]
        for name in ("preference_accuracy", "log_odds_chosen", "logps/chosen", "logps/rejected"):
            assert now[name]["value"] == pytest.approx(then[moment][name], abs=2e-5)
        assert now.keys() == then[moment]["intervals"].keys()
    assert found["results"]["after"]["changes"].keys() == then["after"]["changes"].keys()
    assert found["settings"]["dataset"].startswith("20 % of ")
    assert json.loads((tmp_path / "eval" / "evaluation.json").read_text()) == found
    assert (tmp_path / "eval" / "report.html").is_file()
    assert {p.name for p in (tmp_path / "eval").iterdir()} == {
        "evaluation.json", "figures", "report.html", "scores.jsonl",
    }  # fmt: skip


def test_rows_in_are_rows_accounted_for(tmp_path: Path, finished_run: Path, pairs: Path) -> None:
    found, said = evaluate(tmp_path, finished_run, dataset=str(pairs), no_baseline=True)
    account = found["account"]
    assert (account["rows_in"], account["kept"], account["dropped"]) == (20, 20, {})
    assert (account["pairs"], account["without_rejected"], account["prompts"]) == (19, 1, 18)
    assert "before" not in found["results"]
    assert "changes" not in found["results"]["after"]
    assert found["settings"]["baseline"] is None
    lines = (tmp_path / "eval" / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [i for i in range(20) if i != 9]
    assert any("20 rows = 20 kept" in line for line in said)
    for pair in found["worst"]:
        assert pair["log_odds"] < 0
        assert pair["rejected"].strip() == text_rows(20)[pair["row"]]["rejected"].strip()


def test_the_same_command_again_scores_nothing_again(
    tmp_path: Path, finished_run: Path, pairs: Path
) -> None:
    first, _ = evaluate(tmp_path, finished_run, dataset=str(pairs))
    again, said = evaluate(tmp_path, finished_run, dataset=str(pairs))
    assert again == first
    assert not any(line.startswith("scoring") for line in said)
    assert sum("already scored" in line for line in said) == 2
    with pytest.raises(ConfigError, match="another evaluation"):
        evaluate(tmp_path, finished_run, dataset=str(pairs), no_baseline=True)
    alone, _ = evaluate(
        tmp_path, finished_run, dataset=str(pairs), no_baseline=True, overwrite=True
    )
    assert "before" not in alone["results"]


def test_a_broken_evaluation_goes_on(tmp_path: Path, copied: Copy, finished_run: Path) -> None:
    """The second model is not there at first: what the first one scored is kept."""
    run = copied(finished_run)
    base = tmp_path / "base"
    with pytest.raises(ModelError):
        evaluate(tmp_path, run, baseline=str(base))
    with pytest.raises(DataError, match="not finished"):
        build_page(json.loads((tmp_path / "eval/evaluation.json").read_text()), tmp_path)
    shutil.copytree(finished_run.parent / "base", base)
    found, said = evaluate(tmp_path, run, baseline=str(base))
    assert sum(line.startswith("scoring") for line in said) == 1
    assert found["finished"]


def test_other_weights_under_the_same_name_are_seen(
    tmp_path: Path, finished_run: Path, pairs: Path
) -> None:
    model = Path(shutil.copytree(finished_run.parent / "base", tmp_path / "model"))
    evaluate(tmp_path, model, dataset=str(pairs))
    other = tiny_llama()
    with torch.no_grad():
        other.lm_head.weight *= 1.01
    other.save_pretrained(model)
    with pytest.raises(ConfigError, match="other weights"):
        evaluate(tmp_path, model, dataset=str(pairs))
    pairs.write_text(pairs.read_text().splitlines()[0] + "\n")
    shutil.rmtree(tmp_path / "eval")
    evaluate(tmp_path, model, dataset=str(pairs))
    pairs.write_text(json.dumps(text_rows(3)[2]) + "\n")
    with pytest.raises(ConfigError, match="other data"):
        evaluate(tmp_path, model, dataset=str(pairs))


def test_an_adapter_is_compared_with_its_base(
    tmp_path: Path, adapter_run: Path, pairs: Path
) -> None:
    found, _ = evaluate(tmp_path, adapter_run, dataset=str(pairs))
    assert found["models"]["before"]["name"] == str(adapter_run.parent / "base")
    assert found["models"]["before"]["weights"] != found["models"]["after"]["weights"]


def test_a_base_that_is_gone_is_told_and_left_out(
    tmp_path: Path, copied: Copy, finished_run: Path, pairs: Path
) -> None:
    run = copied(finished_run)
    write_yaml(run / "recipe.yaml", {**read_recipe(run), "model": str(tmp_path / "gone")})
    found, said = evaluate(tmp_path, run, dataset=str(pairs))
    assert "before" not in found["results"]
    assert any("nothing to compare with" in line for line in said)
    assert any("nothing to compare with" in note for note in found["notes"])


def test_another_tokenizer_is_told(tmp_path: Path, finished_run: Path, pairs: Path) -> None:
    other = tmp_path / "other"
    tiny_llama().save_pretrained(other)
    byte_tokenizer(pad_token="<pad>").save_pretrained(other)
    found, _ = evaluate(tmp_path, finished_run, dataset=str(pairs), baseline=str(other))
    assert "different tokenizers" in found["notes"][0]
    assert found["results"]["after"]["compared"] == 19


def test_one_pair_alone(tmp_path: Path, finished_run: Path, pairs: Path) -> None:
    pairs.write_text(pairs.read_text().splitlines()[0] + "\n")
    found, _ = evaluate(tmp_path, finished_run, dataset=str(pairs))
    after = found["results"]["after"]
    assert after["intervals"]["logps/margin"]["low"] is None
    assert after["changes"]["preference_accuracy"]["verdict"] == "cannot be told"
    json.dumps(found, allow_nan=False)
    assert "not known" in (tmp_path / "eval" / "report.html").read_text()


@pytest.mark.parametrize(("text", "says"), [
    (None, "no such file"),
    ("", "empty"),
    ('{"prompt": "a", "chosen": "b"}\n', "no row has a rejected answer"),
    ('{"a": 1}\n', "no column"),
])  # fmt: skip
def test_data_that_are_none(
    tmp_path: Path, finished_run: Path, text: str | None, says: str
) -> None:
    path = tmp_path / "d.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=says) as error:
        evaluate(tmp_path, finished_run, dataset=str(path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "eval").exists()


def test_what_cannot_be_meant(tmp_path: Path, finished_run: Path, pairs: Path) -> None:
    base = finished_run.parent / "base"
    with pytest.raises(ConfigError, match="--dataset"):
        evaluate(tmp_path, base)
    with pytest.raises(ConfigError, match="no_baseline"):
        evaluate(tmp_path, base, dataset=str(pairs), no_baseline=True, baseline="x")
    with pytest.raises(ConfigError, match="folder of a run"):
        evaluate(tmp_path, base, dataset=str(pairs), output_dir=finished_run)
    bare = tmp_path / "bare"
    tiny_llama().save_pretrained(bare)
    with pytest.raises(UserError, match="tokenizer"):
        evaluate(tmp_path, bare, dataset=str(pairs))


def test_the_page(tmp_path: Path, finished_run: Path, pairs: Path) -> None:
    found, _ = evaluate(tmp_path, finished_run, dataset=str(pairs))
    found["worst"][0:0] = [{"row": 1, "prompt": "<script>alert(1)</script>", "log_odds": -1.0}]
    page = build_page(found, tmp_path)
    assert page.verdict == found["results"]["after"]["verdict"]
    assert [figure.name for figure in page.figures] == ["accuracy", "reliability", "log-odds"]
    assert page.tables[0].columns == ("", "Before", "After", "Change", "Verdict")
    assert page.passages[0].parts == (("Prompt", "<script>alert(1)</script>"),)
    assert "19 pairs scored; 1 without rejected" in dict(page.facts)["Rows"]


def test_a_run_tells_how_sure_it_is(finished_run: Path) -> None:
    evaluation = json.loads((finished_run / "evaluation.json").read_text())
    before, after = evaluation["before"], evaluation["after"]
    assert after["preference_accuracy"] == after["intervals"]["preference_accuracy"]["value"]
    change = after["changes"]["log_odds_chosen"]
    expected = after["log_odds_chosen"] - before["log_odds_chosen"]
    assert change["value"] == pytest.approx(expected, abs=1e-5)
    assert change["low"] <= change["value"] <= change["high"]
    assert after["verdict"].startswith("Prefers the chosen answer in ")
    assert after["account"]["pairs"] == after["pairs"]


def test_a_resumed_run_compares_with_what_was_scored_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that scores "after" is not the one that scored "before"."""
    from tests.jobs import small_run

    collect = Evidence.collect

    def stop_after_training(self: Evidence, moment: str, say: Any) -> None:
        if moment == "after":
            raise KeyboardInterrupt
        collect(self, moment, say)

    with monkeypatch.context() as patched:
        patched.setattr(Evidence, "collect", stop_after_training)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path)
    assert "after" not in json.loads((tmp_path / "run/evaluation.json").read_text())
    small_run.train(tmp_path, resume="newest")
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert evaluation["after"]["compared"] == evaluation["after"]["pairs"]
    lines = [json.loads(line) for line in (tmp_path / "run/scores.jsonl").read_text().splitlines()]
    assert all({"before", "after"} <= line.keys() for line in lines)


def test_damaged_scores_are_no_scores(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_dict(
        {
            "prompt_ids": [[1]],
            "chosen_ids": [[1]],
            "rejected_ids": [[2]],
            "row": [0],
            "weight": [1.0],
        }
    )
    assert recall_scores(tmp_path, "before", {}, data) is None
    line = {"row": 0, "prompt": "p", "before": {"chosen": -1.0, "rejected": -2.0}}
    path = tmp_path / "scores.jsonl"
    path.write_text(json.dumps(line) + "\n")
    found = recall_scores(tmp_path, "before", {}, data)
    assert found is not None
    assert len(found) == 1
    assert recall_scores(tmp_path, "after", {}, data) is None
    for bad in ({**line, "row": 5}, {**line, "before": {"chosen": -1.0}}, {**line, "before": 3}):
        path.write_text(json.dumps(bad) + "\n")
        assert recall_scores(tmp_path, "before", {}, data) is None
    path.write_text("{broken\n{}\n")
    assert recall_scores(tmp_path, "before", {}, data) is None
