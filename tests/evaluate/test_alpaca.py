"""The official files: read where they are, missed by name where they are not, refused if broken."""

import json
from pathlib import Path

import pytest

from orpo.errors import DataError
from orpo.evaluate.alpaca import complaint, read_benchmark, read_outputs, write_outputs
from orpo.evaluate.annotations import read_annotations
from orpo.evaluate.questions import Answered
from tests.evaluate.small_alpaca import instructions, write_set
from tests.evaluate.small_alpaca import write_outputs as write_small

BASELINE = "alpaca_eval_gpt4_baseline.json"


def test_a_folder_with_everything(tmp_path: Path) -> None:
    found = read_benchmark(str(write_set(tmp_path / "set", 20)))
    assert found.baseline.name == "gpt4_1106_preview"
    assert found.baseline.instructions == tuple(instructions(20))
    assert sorted(found.control.difficulty) == list(range(20))
    assert len(found.control.gamed["preference"]) == 40
    assert not found.missing
    tables = {f"{name}.csv" for name in ("instruction_difficulty", "df_gamed", "leaderboard")}
    assert set(found.sources) == {BASELINE, *tables}
    values = [entry.lc_win_rate for entry in found.leaderboard]
    assert values == sorted(values, reverse=True)
    assert found.place_of(None) is None  # not length-controlled
    for own, near in ((50.0, 10), (99.0, 5), (0.0, 5)):
        place = found.place_of(own)
        assert (len(place.neighbours), place.published) == (near, 24)
        assert place.rank == 1 + sum(value > own for value in values)


def test_without_the_hub_everything_is_missing_and_nothing_breaks() -> None:
    found = read_benchmark()  # tests are offline
    assert found.baseline is None
    assert {BASELINE, "df_gamed.csv"} <= set(found.missing)
    assert "\n" not in complaint(found.missing)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (BASELINE, "[", "broken JSON"),
        (BASELINE, "[]", "holds no instruction"),
        (BASELINE, '{"a": 1}', "is no list of objects"),
        (BASELINE, '[{"instruction": "a"}]', "no text in 'output'"),
        ("instruction_difficulty.csv", ",a\nx,1\n", "not a number"),
        ("df_gamed.csv", "preference,index\n0.5,1\n", "no column 'std_delta_len'"),
        ("leaderboard.csv", "a,b\n1,2\n", "is no leaderboard"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (write_set(tmp_path, 5) / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_benchmark(str(tmp_path))
    assert name in str(caught.value)


def test_outputs_are_written_as_the_official_ones(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "orpo_outputs" / "alpacaeval_mistral_orpo_beta.json"
    official = json.loads(path.read_text())
    baseline = read_benchmark(str(write_set(tmp_path, 8))).baseline
    answered = [
        Answered(one, (f"answer {one.id} 猫",), "m", (False,)) for one in baseline.questions
    ]
    write_outputs(answered, "mine", tmp_path / "model_outputs.json")
    rows = json.loads((tmp_path / "model_outputs.json").read_text(encoding="utf-8"))
    assert set(rows[0]) == set(official[0])
    assert {type(value) for value in rows[0].values()} == {str}
    assert [row["instruction"] for row in rows] == instructions(8)
    found, others = read_outputs(tmp_path / "model_outputs.json", baseline.instructions)
    assert (found, others) == ({n: f"answer {n} 猫" for n in range(8)}, {})

    found, others = read_outputs(path, [row["instruction"] for row in official[::-1]])
    assert (len(found), others) == (805, {})
    lengths = (shared_data / "alpaca_eval" / "mistral_orpo_beta_lengths.csv").read_text()
    expected = [int(line.split(",")[2]) for line in lengths.split()[1:]]
    assert [len(found[n]) for n in range(804, -1, -1)] == expected  # characters, as officially


def test_missing_and_foreign_outputs_are_counted(tmp_path: Path) -> None:
    path = write_small(tmp_path / "outputs.json", 10)
    found, others = read_outputs(path, ["something else", *instructions(6)])
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert others == {"outputs to other instructions": 4}
    with pytest.raises(DataError, match="none of its 10 instructions"):
        read_outputs(path, ["something else"])


def test_a_table_of_several_models(tmp_path: Path) -> None:
    path = tmp_path / "annotations.csv"
    path.write_text(
        "model,index,preference,len_output_1,len_output_2\n"
        "one,0,1.5,10,20\none,7,,10,30\ntwo,0,2,10,40\n"
    )
    found = read_annotations(path, "one", None).pairs
    read = [(one.index, one.preference, one.lengths[1]) for one in found]
    assert read == [(0, 0.5, 20), (7, None, 30)]
    assert found[0].model == ""
    with pytest.raises(DataError, match=r"holds no model 'three'\. Name one of its 2: one, two"):
        read_annotations(path, "three", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,len_output_1,len_output_2\n0,1,2\n", "no column 'preference'"),
        ("index,preference,len_output_1\n0,1,2\n", "nor a number 'len_output_2'"),
        ("0,3,1,2\n", "3 is not between 1 and 2"),
        ("0,good,1,2\n", "preference is no number"),
        ("x,1,2,3\n", "an index is no number"),
        (",1,2,3\n1,1,2,3\n", "no index, where other"),
        ("-1,1,2,3\n", "none of its indexes is"),
        ("", "holds no annotation"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "annotations.csv"
    names = "index,preference,len_output_1,len_output_2\n"
    path.write_text(text if text.startswith("index") else names + text)
    with pytest.raises(DataError, match=message) as caught:
        read_annotations(path, "one", None)
    assert "annotations.csv" in str(caught.value)
