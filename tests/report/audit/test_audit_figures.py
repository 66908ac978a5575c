import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from orpo.report.audit.figures import Chart, Picture, charts, pictures
from orpo.report.audit.reading import account, findings, spreads
from tests.report.audit.audits import audit_of, finding

SVG = "{http://www.w3.org/2000/svg}"


def drawn(audit: dict[str, Any]) -> dict[str, Picture]:
    found = findings(audit.get("findings"))
    return {one.title: one for one in pictures(audit, found, account(audit.get("rows")))}


def charted(audit: dict[str, Any]) -> dict[str, Chart]:
    return {one.title: one for one in charts(audit, findings(audit.get("findings")))}


def texts(picture: Picture) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(picture.svg).iter(f"{SVG}text")]


def test_every_picture_is_drawn_in_the_colours_of_the_page() -> None:
    found = drawn(audit_of())
    assert list(found) == ["Lengths", "Length bias", "What a limit would cut"]
    for picture in found.values():
        assert re.findall(r"#[0-9a-fA-F]{6}\b", picture.svg) == []
        assert "width=" not in picture.svg.split(">", 1)[0]
        assert f"var(--{picture.legend[0].colour})" in picture.svg


def test_ids_are_the_pictures_own() -> None:
    ids = [one for p in drawn(audit_of()).values() for one in re.findall(r' id="([^"]+)"', p.svg)]
    assert ids
    assert len(ids) == len(set(ids))


def test_the_axes_say_what_they_are() -> None:
    found = drawn(audit_of())
    assert {"tokens", "50", "100", "500"} <= set(texts(found["Lengths"]))
    bias = texts(found["Length bias"])
    assert {"1", "1.1", "5", "∞", "50 %", "100 %", "pairs"} <= set(bias)
    assert {"256", "1,024", "4,096", "max_length, tokens"} <= set(
        texts(found["What a limit would cut"])
    )


def test_no_name_from_the_data_is_written_into_a_picture() -> None:
    audit = audit_of() | {"unit": "$\\frac{parsecs}$", "model": "parsecs"}
    audit["lengths"]["parsecs"] = audit["lengths"]["chosen"]
    for picture in drawn(audit).values():
        assert "parsecs" not in picture.svg
        assert "parsecs" not in picture.seen
    assert "characters" in texts(drawn(audit)["Lengths"])


def test_the_same_audit_draws_the_same_bytes_in_another_process() -> None:
    code = (
        "from hashlib import sha256; from tests.report.audit.audits import audit_of;"
        "from orpo.report.audit.page import render_audit;"
        "print(sha256(render_audit(audit_of()).encode()).hexdigest())"
    )
    shown = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
            env={
                "PYTHONHASHSEED": seed,
                "PATH": "",
                "HOME": "/nonexistent",
                "MPLCONFIGDIR": "/tmp",
            },
        ).stdout
        for seed in ("1", "2")
    }
    assert len(shown) == 1


def test_quantiles_are_those_of_the_ranges() -> None:
    (spread,) = spreads({"chosen": {"edges": [0, 10, 20, 40], "counts": [10, 10, 20]}})
    assert spread.total == 40
    assert [spread.quantile(share) for share in (0.25, 0.5, 0.75, 1)] == [10, 20, 30, 40]
    assert spread.quantile(0.125) == pytest.approx(5)


@pytest.mark.parametrize(
    "edges",
    [[0, 8], [0, 10, 20, 30], [0, 8, 12, 16, 24, 32], [1, 10, 100, 1000, 1e4], [0, 1, 1e6]],
)
def test_ranges_of_every_shape(edges: list[float]) -> None:
    counts = [0, *range(3, len(edges) + 1)] if len(edges) > 2 else [7]
    audit = {"lengths": {"chosen": {"edges": edges, "counts": counts}}}
    picture = drawn(audit)["Lengths"]
    assert "nan" not in picture.svg
    assert len([text for text in texts(picture) if text != "characters"]) >= 2


def test_one_giant_does_not_hide_the_others() -> None:
    counts = [500, 400, 100, *[0] * 96, 1]
    audit = {"lengths": {"chosen": {"edges": [100 * i for i in range(101)], "counts": counts}}}
    ticks = [int(text.replace(",", "")) for text in texts(drawn(audit)["Lengths"])[:-1]]
    assert max(ticks) <= 300


def test_equal_lengths_and_shorter_winners() -> None:
    audit = audit_of()
    audit["lengths"]["rejected"] = audit["lengths"]["chosen"]
    assert "about equally long" in drawn(audit)["Lengths"].seen
    audit["lengths"]["chosen"] = audit["lengths"]["prompt"]
    assert "A typical rejected answer is 3.3 times as long" in drawn(audit)["Lengths"].seen


def test_ranges_without_pairs_leave_a_gap() -> None:
    audit = audit_of()
    audit["length_bias"][2] |= {"pairs": 0, "longer_chosen": None}
    picture = drawn(audit)["Length bias"]
    assert picture.table.rows[2] == ("1.25 to 1.5", "0", "–")
    assert "1.25" in texts(picture)


def test_limits_that_always_cut_and_limits_that_never_do() -> None:
    audit = audit_of() | {"truncation": [{"max_length": 256, "cut": 5056, "dropped": 0}]}
    seen = drawn(audit)["What a limit would cut"].seen
    assert seen == "Even at 256, 50.0\u00a0% of the pairs are cut and 0.0\u00a0% dropped."
    audit = audit_of() | {"truncation": [{"max_length": 1024, "cut": 0, "dropped": 0}]}
    seen = drawn(audit)["What a limit would cut"].seen
    assert seen == "At a max_length of 1,024, no pair is cut or dropped."


def test_kinds_of_repetition() -> None:
    bars = charted(audit_of())["Repetition"].bars
    assert [bar.label for bar in bars] == [
        "Prompt leakage",
        "Identical answers",
        "Exact duplicates",
        "Near duplicates",
    ]
    assert bars[2].width == "100.00"
    none = [finding("exact_duplicates", "Exact duplicates", "ok", 0)]
    chart = charted({"findings": none})["Repetition"]
    assert chart.seen == "None was found."
    assert chart.bars[0].width == "0.00"
    some = [*none, finding("near_duplicates", "Near duplicates", "look", 3)]
    seen = charted({"findings": some})["Repetition"].seen
    assert seen == "Most frequent: near duplicates, 3 of 10,112. Not found: exact duplicates."


def test_turns_are_in_their_order_and_languages_by_size() -> None:
    audit = {"turns": {"10": 1, "2": 5, "3": 1}, "languages": {"a": 1, "b": 5}}
    found = charted(audit)
    assert [bar.label for bar in found["Turns of the prompt"].bars] == ["2", "3", "10"]
    assert [bar.label for bar in found["Languages"].bars] == ["b", "a"]
    seen = found["Turns of the prompt"].seen
    assert seen == "No prompt is a single turn; the longest has 10 turns."
    assert "sample" not in found["Languages"].reading  # every row is counted
    one = charted({"languages": {"Chinese": 7}})["Languages"].seen
    assert one == "All 7 rows that were looked at are Chinese."
