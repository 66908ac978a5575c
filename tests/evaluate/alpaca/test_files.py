"""The official files: read where they are, missed by name where they are not, refused if broken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orpo.errors import DataError
from orpo.evaluate import win_rate
from orpo.evaluate.alpaca.files import complaint, read_benchmark
from orpo.evaluate.alpaca.rows import (
    questions_of,
    read_annotations,
    read_outputs,
    write_outputs,
)
from orpo.evaluate.answers import Answered
from tests.evaluate.alpaca.small import instructions, write_set
from tests.evaluate.alpaca.small import write_outputs as write_small


def test_a_folder_with_everything(tmp_path: Path) -> None:
    found = read_benchmark(write_set(tmp_path / "set", 20))
    assert found.baseline is not None
    assert found.baseline.name == "gpt4_1106_preview"
    assert found.baseline.instructions == tuple(instructions(20))
    assert found.difficulty is not None
    assert sorted(found.difficulty) == list(range(20))
    assert found.gamed is not None
    assert len(found.gamed["preference"]) == 40
    assert found.control
    assert len(found.leaderboard) == 24
    assert not found.missing
    assert set(found.sources) == {
        "alpaca_eval_gpt4_baseline.json",
        "instruction_difficulty.csv",
        "df_gamed.csv",
        "leaderboard.csv",
    }


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    folder = write_set(tmp_path, 20, leave_out=("df_gamed.csv", "leaderboard.csv"))
    found = read_benchmark(folder)
    assert not found.control
    assert found.leaderboard == ()
    line = complaint(found.missing)
    assert "\n" not in line
    assert "df_gamed.csv for length control" in line
    assert "leaderboard.csv for the published neighbours" in line


def test_without_the_hub_everything_is_missing_and_nothing_breaks() -> None:
    found = read_benchmark()  # tests are offline
    assert found.baseline is None
    assert {"alpaca_eval_gpt4_baseline.json", "df_gamed.csv"} <= set(found.missing)
    assert "\n" not in complaint(found.missing)


@pytest.mark.parametrize("data", ["/nowhere/at/all", "./nothing", "nothing"])
def test_no_such_folder(data: str) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_benchmark(data)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("alpaca_eval_gpt4_baseline.json", "[", "is no JSON"),
        ("alpaca_eval_gpt4_baseline.json", "[]", "holds no instruction"),
        ("alpaca_eval_gpt4_baseline.json", '{"a": 1}', "is no list of objects"),
        ("alpaca_eval_gpt4_baseline.json", '[{"instruction": "a"}]', "no text in 'output'"),
        ("instruction_difficulty.csv", ",a\nx,1\n", "not a number"),
        ("df_gamed.csv", "preference,index\n0.5,1\n", "no column 'std_delta_len'"),
        ("leaderboard.csv", "a,b\n1,2\n", "is no leaderboard"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (write_set(tmp_path, 5) / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_benchmark(tmp_path)
    assert name in str(caught.value)


def test_neighbours_stand_on_both_sides(tmp_path: Path) -> None:
    found = read_benchmark(write_set(tmp_path, 5))
    values = [entry.lc_win_rate for entry in found.leaderboard]
    assert values == sorted(values, reverse=True)
    rate = win_rate([2.0, 1.0])
    assert found.place_of(rate) is None  # not length-controlled
    for own, near in ((50.0, 10), (99.0, 5), (0.0, 5)):
        place = found.place_of(replace(rate, lc_win_rate=own))
        assert place is not None
        assert len(place.neighbours) == near
        assert place.rank == 1 + sum(value > own for value in values)
        assert place.published == 24


def test_outputs_are_written_as_the_official_ones(tmp_path: Path, shared_data: Path) -> None:
    official = json.loads(
        (shared_data / "orpo_outputs" / "alpacaeval_mistral_orpo_beta.json").read_text()
    )
    baseline = read_benchmark(write_set(tmp_path, 8)).baseline
    assert baseline is not None
    answered = [
        Answered(question, (f"answer {question.id} 猫",), "m", (False,))
        for question in questions_of(baseline)
    ]
    write_outputs(answered, "mine", tmp_path / "model_outputs.json")
    rows = json.loads((tmp_path / "model_outputs.json").read_text(encoding="utf-8"))
    assert set(rows[0]) == set(official[0])
    assert {type(value) for value in rows[0].values()} == {str}
    assert [row["instruction"] for row in rows] == instructions(8)
    assert {row["generator"] for row in rows} == {"mine"}
    found, others = read_outputs(tmp_path / "model_outputs.json", baseline.instructions)
    assert found == [f"answer {n} 猫" for n in range(8)]
    assert others == {}


def test_published_outputs_are_read(shared_data: Path) -> None:
    path = shared_data / "orpo_outputs" / "alpacaeval_mistral_orpo_beta.json"
    every = [row["instruction"] for row in json.loads(path.read_text())]
    found, others = read_outputs(path, every[::-1])
    assert None not in found
    assert others == {}
    lengths = (shared_data / "alpaca_eval" / "mistral_orpo_beta_lengths.csv").read_text()
    expected = [int(line.split(",")[2]) for line in lengths.split()[1:]]
    assert [len(text or "") for text in found[::-1]] == expected  # characters, as officially


def test_missing_and_foreign_outputs_are_counted(tmp_path: Path) -> None:
    path = write_small(tmp_path / "outputs.json", 10)
    found, others = read_outputs(path, ["something else", *instructions(6)])
    assert found[0] is None
    assert None not in found[1:]
    assert others == {"outputs to other instructions": 4}
    with pytest.raises(DataError, match="none of its 10 instructions"):
        read_outputs(path, ["something else"])


def official_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "instruction": text,
            "output_1": "b" * (5 + n),
            "generator_1": "gpt4_1106_preview",
            "output_2": "m" * (3 + n),
            "generator_2": "mine",
            "annotator": "weighted_alpaca_eval_gpt4_turbo",
            "preference": 1 + n / (count - 1),
        }
        for n, text in enumerate(instructions(count))
    ]


def test_official_annotations_find_their_instruction_by_its_text(tmp_path: Path) -> None:
    baseline = read_benchmark(write_set(tmp_path / "set", 12)).baseline
    rows = official_rows(12)[::-1]
    rows[0]["preference"] = None
    rows.append({**rows[3], "instruction": "not one of them"})
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows))
    found = read_annotations(path, "whatever", baseline)
    assert found.index == tuple(range(12))
    assert found.left_out == {"rows of other instructions": 1}
    assert found.preference[:2] == (1.0, pytest.approx(1 + 1 / 11))
    assert found.preference[11] is None
    assert found.len_output_1[4] == 9
    assert found.annotator == "weighted_alpaca_eval_gpt4_turbo"
    assert not found.by_position
    counted = read_annotations(path, "whatever", None)
    assert counted.by_position
    assert counted.index == tuple(range(13))
    assert not counted.placed  # 13 are not the 805 whose order is known


def test_a_table_of_several_models(tmp_path: Path) -> None:
    path = tmp_path / "annotations.csv"
    path.write_text(
        "model,index,preference,len_output_1,len_output_2\n"
        "one,0,1.5,10,20\none,7,,10,30\ntwo,0,2,10,40\n"
    )
    found = read_annotations(path, "one", None)
    assert found.index == (0, 7)
    assert found.preference == (1.5, None)
    assert found.len_output_2 == (20, 30)
    assert found.outputs_2 == ()
    with pytest.raises(DataError, match=r"holds no model 'three'\. Name one of its 2: one, two"):
        read_annotations(path, "three", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,len_output_1,len_output_2\n0,1,2\n", "no column 'preference'"),
        ("index,preference,len_output_1,len_output_2\n0,3,1,2\n", "3 is not between 1 and 2"),
        ("index,preference,len_output_1,len_output_2\n0,good,1,2\n", "preference is no number"),
        ("index,preference,len_output_1\n0,1,2\n", "nor a number 'len_output_2'"),
        ("index,preference,len_output_1,len_output_2\nx,1,2,3\n", "an index is no number"),
        ("index,preference,len_output_1,len_output_2\n", "holds no annotation"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "annotations.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_annotations(path, "one", None)
    assert "annotations.csv" in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        read_annotations(tmp_path / "none.json", "one", None)
