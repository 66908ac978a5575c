"""`orpo evaluate preference`: held-out pairs scored by real models; and the evidence of a run."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from orpo.commands.main import main
from orpo.evaluate.preference.pairs import recall_scores
from orpo.jobs import Evidence
from orpo.runs.files import read_recipe, write_yaml
from tests.evaluate.conftest import Run
from tests.jobs.small_run import train
from tests.train.small import byte_tokenizer, text_rows, tiny_llama, write_rows

Copy = Callable[[Path], Path]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twenty rows; the prompts of two are the same, one has no rejected answer."""
    rows: list[dict[str, Any]] = [dict(row) for row in text_rows(20)]
    rows[5]["prompt"] = rows[4]["prompt"].upper()
    rows[9]["rejected"] = None
    return write_rows(tmp_path / "held.jsonl", rows)


@pytest.fixture
def run(evaluate: Run) -> Run:
    return partial(evaluate, "preference", "--output-dir", "eval")


def test_a_run_needs_nothing_else(tmp_path: Path, finished_run: Path, run: Run) -> None:
    """Its recipe names what was held out and the base model; the figures are those of the run."""
    found, said = run(finished_run)
    then = json.loads((finished_run / "evaluation.json").read_text())
    change = then["after"]["changes"]["log_odds_chosen"]
    expected = then["after"]["log_odds_chosen"] - then["before"]["log_odds_chosen"]
    assert change["low"] <= change["value"] == pytest.approx(expected, abs=1e-5)
    assert then["after"]["account"]["pairs"] == then["after"]["pairs"]
    for moment in ("before", "after"):
        now = found["results"][moment]["intervals"]
        for name in ("preference_accuracy", "log_odds_chosen", "logps/chosen", "logps/rejected"):
            assert now[name]["value"] == pytest.approx(then[moment][name], abs=2e-5)
        assert now.keys() == then[moment]["intervals"].keys()
    assert found["results"]["after"]["changes"].keys() == then["after"]["changes"].keys()
    change = then["after"]["changes"]["log_odds_chosen"]
    expected = then["after"]["log_odds_chosen"] - then["before"]["log_odds_chosen"]
    assert change["value"] == pytest.approx(expected, abs=1e-5)
    assert change["low"] <= change["value"] <= change["high"]
    told = then["verdict"]["says"].replace("the one it started from", "base")
    assert found["results"]["after"]["verdict"] == told  # what the run has seen counts here, too
    assert then["after"]["account"]["pairs"] == then["after"]["pairs"]
    assert found["settings"]["dataset"].startswith("20 % of ")
    assert json.loads((tmp_path / "eval" / "evaluation.json").read_text()) == found
    names = {path.name for path in (tmp_path / "eval").iterdir()}
    assert names == {"evaluation.json", "figures", "report.html", "scores.jsonl"}
    after = found["results"]["after"]
    for words in (after["verdict"], after["calibration"]["words"], "Log odds"):
        assert words in said
    assert "page: eval/report.html" in said


def test_rows_in_are_rows_accounted_for_and_names_from_data_are_inert(
    tmp_path: Path, finished_run: Path, pairs: Path, run: Run
) -> None:
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    for i, row in enumerate(rows):
        row["source"] = ["\x1b[2Jclear", "[red]markup[/red]<script>"][i % 2]
    for row in rows[::4]:  # whatever the model prefers, some of the pairs are the wrong way round
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    write_rows(pairs, rows)
    found, said = run(finished_run, "--dataset", pairs, "--no_baseline", "--max-length", 64)
    account = found["account"]
    assert (account["rows_in"], account["kept"], account["dropped"]) == (20, 20, {})
    assert (account["pairs"], account["without_rejected"], account["prompts"]) == (19, 1, 18)
    assert "before" not in found["results"]
    assert "changes" not in found["results"]["after"]
    assert (found["settings"]["baseline"], found["settings"]["max_length"]) == (None, 64)
    share = found["results"]["after"]["intervals"]["preference_accuracy"]
    assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1
    lines = (tmp_path / "eval" / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [i for i in range(20) if i != 9]
    assert "20 rows = 20 kept" in said
    assert "19 held-out pairs, 18 prompts" in said
    assert found["worst"]
    for pair in found["worst"]:
        assert pair["log_odds"] < 0
        assert pair["rejected"].strip() == rows[pair["row"]]["rejected"].strip()
        assert pair["where"] == f"held.jsonl:{pair['row'] + 1}"
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "19 pairs scored; 1 without rejected" in page
    for text in (said, page):
        assert "\x1b[2J" not in text
        assert "[red]markup[/red]" in text
    assert "<script>" not in page


def test_the_same_again_scores_nothing_again(
    tmp_path: Path, finished_run: Path, pairs: Path, run: Run
) -> None:
    first, said = run(finished_run, "--dataset", pairs)
    assert said.count("scoring 20 pairs") == 2
    again, said = run(finished_run, "--dataset", pairs)
    assert again == first
    assert "scoring" not in said
    assert said.count("already scored") == 2
    _, refused = run(finished_run, "--dataset", pairs, "--no_baseline", code=2)
    assert "holds an evaluation with baseline" in refused
    assert "--overwrite" in refused
    alone, _ = run(finished_run, "--dataset", pairs, "--no_baseline", "--overwrite")
    assert "before" not in alone["results"]


def test_a_broken_evaluation_goes_on(
    tmp_path: Path, copied: Copy, finished_run: Path, run: Run
) -> None:
    """The second model is not there at first: what the first one scored is kept."""
    trained, base = copied(finished_run), tmp_path / "base"
    run(trained, "--baseline", base, code=2)
    assert main(["report", str(tmp_path / "eval")]) == 2  # not finished
    shutil.copytree(finished_run.parent / "base", base)
    found, said = run(trained, "--baseline", base)
    assert said.count("scoring") == 1
    assert found["finished"]


def test_other_weights_and_data_under_the_same_name_are_seen(
    tmp_path: Path, finished_run: Path, pairs: Path, run: Run
) -> None:
    model = Path(shutil.copytree(finished_run.parent / "base", tmp_path / "model"))
    run(model, "--dataset", pairs)
    other = tiny_llama()
    with torch.no_grad():
        other.lm_head.weight *= 1.01
    other.save_pretrained(model)
    assert "with other weights" in run(model, "--dataset", pairs, code=2)[1]
    # One pair alone: no interval has an end, and JSON knows no infinity.
    pairs.write_text(pairs.read_text().splitlines()[0] + "\n")
    found, _ = run(model, "--dataset", pairs, "--baseline", model, "--overwrite")
    after = found["results"]["after"]
    assert after["intervals"]["logps/margin"]["low"] is None
    assert after["changes"]["preference_accuracy"]["verdict"] == "cannot be told"
    assert "not known" in (tmp_path / "eval" / "report.html").read_text()
    pairs.write_text(json.dumps(text_rows(3)[2]) + "\n")
    again = ("--dataset", pairs, "--baseline", model)
    assert "with other data" in run(model, *again, code=2)[1]


def test_an_adapter_is_compared_with_its_base(adapter_run: Path, pairs: Path, run: Run) -> None:
    found, _ = run(adapter_run, "--dataset", pairs)
    assert found["models"]["before"]["name"] == str(adapter_run.parent / "base")
    assert found["models"]["before"]["weights"] != found["models"]["after"]["weights"]


def test_a_base_that_is_gone_or_speaks_otherwise_is_told(
    tmp_path: Path, copied: Copy, finished_run: Path, pairs: Path, run: Run
) -> None:
    other = tmp_path / "other"
    tiny_llama().save_pretrained(other)
    byte_tokenizer(pad_token="<pad>").save_pretrained(other)
    found, _ = run(finished_run, "--dataset", pairs, "--baseline", other)
    assert "different tokenizers" in found["notes"][0]
    assert found["results"]["after"]["compared"] == 19
    trained = copied(finished_run)
    write_yaml(trained / "recipe.yaml", {**read_recipe(trained), "model": str(tmp_path / "gone")})
    found, said = run(trained, "--dataset", pairs, "--overwrite")
    assert "before" not in found["results"]
    assert "nothing to compare with" in said
    assert any("nothing to compare with" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("text", "arguments", "says"),
    [
        ("", ("BASE", "--dataset", "d.jsonl"), "d.jsonl: the data set is empty"),
        ('{"prompt": "a", "chosen": "b"}\n', ("BASE", "--dataset", "d.jsonl"), "no row has a rej"),
        ('{"a": 1}\n', ("BASE", "--dataset", "d.jsonl"), "no column"),
        ("", ("BASE", "--dataset", "gone.jsonl"), "gone.jsonl: no such file"),
        ("", ("BASE",), "--dataset: is needed"),
        ("", ("BASE", "--dataset", "d.jsonl", "--batch_size", "x"), "--batch_size"),
        ("", ("BASE", "--dataset", "d.jsonl", "--baseline", "a", "--no_baseline"), "--no_baseline"),
        ("", ("BASE", "--dataset", "PAIRS", "--output_dir", "RUN"), "is the folder of a run"),
        ("", ("bare", "--dataset", "PAIRS"), "tokenizer"),
        ("", ("no-such-model", "--dataset", "PAIRS"), "no-such-model: is no folder here"),
    ],
)
def test_one_line_for_what_is_wrong(
    finished_run: Path, pairs: Path, run: Run, text: str, arguments: tuple[str, ...], says: str
) -> None:
    tiny_llama().save_pretrained("bare")
    Path("d.jsonl").write_text(text)
    named = {"PAIRS": pairs, "RUN": finished_run, "BASE": finished_run.parent / "base"}
    result, said = run(*(named.get(one, one) for one in arguments), code=2)
    assert result is None
    assert said.count("error: ") == 1
    assert says in said


def test_a_resumed_run_compares_with_what_was_scored_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that scores "after" is not the one that scored "before"."""
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
    train(tmp_path, resume="newest")
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert evaluation["after"]["compared"] == evaluation["after"]["pairs"]
    lines = [json.loads(line) for line in (tmp_path / "run/scores.jsonl").read_text().splitlines()]
    assert all({"before", "after"} <= line.keys() for line in lines)


def test_damaged_scores_are_no_scores(tmp_path: Path) -> None:
    import datasets

    ids = {"prompt_ids": [[1]], "chosen_ids": [[1]], "rejected_ids": [[2]]}
    data = datasets.Dataset.from_dict({**ids, "row": [0], "weight": [1.0]})
    assert recall_scores(tmp_path, "before", {}, data) is None
    line = {"row": 0, "prompt": "p", "before": {"chosen": -1.0, "rejected": -2.0}}
    path = tmp_path / "scores.jsonl"
    path.write_text(json.dumps(line) + "\n")
    assert len(recall_scores(tmp_path, "before", {}, data)) == 1
    assert recall_scores(tmp_path, "after", {}, data) is None
    for bad in ({**line, "row": 5}, {**line, "before": {"chosen": -1.0}}, {**line, "before": 3}):
        path.write_text(json.dumps(bad) + "\n")
        assert recall_scores(tmp_path, "before", {}, data) is None
    path.write_text("{broken\n{}\n")
    assert recall_scores(tmp_path, "before", {}, data) is None
