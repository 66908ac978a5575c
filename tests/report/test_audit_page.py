import hashlib
import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from orpo.audit.findings import Audit, Histogram
from orpo.data.types import Ledger
from orpo.errors import ConfigError
from orpo.report.audit import Chart, audit_page
from orpo.report.audit_figures import quantile
from orpo.report.page import Figure, render
from orpo.report.write import write_audit_page
from tests.report.audits import audit_of, finding, planted
from tests.report.pages import HOSTILE, Page

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
PARTS = ("lengths", "length_bias", "truncation", "languages", "turns", "budget", "rows", "findings")
WORDS = (
    "helpful-pairs/train.jsonl",
    "Not ready to train on: prompt leakage and length bias say stop.",
    "5 further checks are worth a look and 4 checks found nothing to worry about.",
    "2 ✕ stop 5 ! look 4 ✓ ok",
    "Rows 10,240 = 10,112 kept + 128 dropped Format prompt Rendering chat template",
    "Tokenizer Qwen/Qwen2.5-0.5B-Instruct Length limit 1,024",
    "Evaluation data helpful-pairs/test.jsonl",
    "Prompt leakage 2.0 % 203 of 10,112",
    "says how well the model remembers, not how well it answers.",
    "→ orpo data fix helpful-pairs/train.jsonl --without helpful-pairs/test.jsonl",
    "train.jsonl:640 test.jsonl:3 如果明天下雨，我们还去爬山吗？",
    "longer chosen 0.8126 auc 0.77",
    "Special tokens in texts < 0.1 % 2 of 10,112",
    "<|im_end|> means that a turn is over.",
    "Empty answers none of 10,112",
    "The median length in tokens is about 64 in prompts",
    "The longer answer is chosen in 80.6 % of 10,021 pairs, and in 96.0 % of the 324 in which it "
    "is at least 5 times as long. Length alone tells the chosen answer with an AUC of 0.77",
    "At a max_length of 1,024, 6.9 % of the pairs are cut and 0.4 % dropped. From 2,048 on, less "
    "than 1 % of the pairs lose anything.",
    "Most frequent: exact duplicates, 304 of 10,112.",
    "English makes up 82.8 % of the 4,000 rows that were looked at, Chinese 13.8 %.",
    "71.3 % of the prompts are a single turn; the longest has 9 turns.",
    "One epoch takes about 36 min 35 s. Computing what both answers share only once saves 20.0 %",
    "Peak memory estimated 5.5 GiB",
    "10,240 rows = 10,112 kept + 128 dropped. 12 of those kept have no rejected answer",
    "prompt_too_long train.jsonl:17: prompt 1,655, chosen 14, rejected 164",
    "Cut to length: chosen in 689, rejected in 402.",
    "形容词 rows have no held-out counterpart",
)


def made(audit: dict[str, Any]) -> Audit:
    """An audit of some parts; what is not given is empty."""
    return Audit.from_dict({**Audit("data set", (), Ledger()).as_dict(), **audit})


def page_of(audit: dict[str, Any]) -> Page:
    return Page(render(audit_page(made(audit))))


def drawn(audit: dict[str, Any]) -> dict[str, Figure]:
    return {one.title: one for one in audit_page(made(audit)).figures}


def charted(audit: dict[str, Any]) -> dict[str, Chart]:
    return {one.title: one for one in audit_page(made(audit)).more["charts"]}


def texts(figure: Figure) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(figure.inline).iter(f"{SVG}text")]


@pytest.mark.usefixtures("undrawn")
def test_everything_is_there() -> None:
    page = page_of(audit_of())
    assert page.misnested == []
    assert page.open == []
    for text in WORDS:
        assert text in page.text, text
    assert "do not add up" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_stop_comes_first_then_look_then_ok() -> None:
    page = page_of(audit_of())
    shown = [v.split()[1] for t, n, v in page.attributes if t == "article" and n == "class"]
    assert shown == ["stop"] * 2 + ["look"] * 5 + ["ok"] * 4
    places = [page.text.index(title) for title in ("Prompt leakage", "Length bias", "Near dup")]
    assert places == sorted(places)


def test_the_page_of_a_saved_audit_is_the_same() -> None:
    plain = audit_of()
    audit = Audit.from_dict(plain)
    assert audit.verdict == "stop"
    again = Audit.from_dict(json.loads(json.dumps(audit.as_dict())))
    assert render(audit_page(audit)) == render(audit_page(again)) == page_of(plain).source


def test_nothing_outside_the_page_is_needed() -> None:
    page = page_of(audit_of())
    assert page.live == []
    assert "script" not in page.tags
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page.source))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in page.source
    assert "default-src 'none'" in page.source


def test_the_page_can_be_read_without_seeing_it() -> None:
    page = page_of(audit_of())
    labels = [v for _, n, v in page.attributes if n == "aria-label" and v != "Checks by verdict"]
    assert [label.split(".")[0] for label in labels] == [
        "Lengths",
        "Length bias",
        "What a limit would cut",
    ]
    assert Counter(page.tags)["svg"] == 3
    assert page.text.count("The numbers") == 3
    assert "1.5 to 2 2,390 88.0 %" in page.text
    assert "1,024 702 41 92.7 %" in page.text
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value for _, name, value in page.attributes if name == "aria-labelledby"} <= set(ids)


def test_nothing_from_outside_is_live() -> None:
    harmless = " ".join("harmless" for _ in HOSTILE.split())
    tame, wild = (page_of(planted(audit_of(), text)) for text in (harmless, HOSTILE))
    assert wild.live == []
    assert wild.misnested == []
    assert wild.tags == tame.tags
    kinds = [[one[:2] for one in page.attributes] for page in (tame, wild)]
    assert kinds[0] == kinds[1]
    assert wild.text.count("alert(1)") > 60
    assert "{{ 7*7 }}{% x %}" in wild.text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", ["dataset", "model", "eval_dataset"])
@pytest.mark.parametrize("text", ["javascript:alert(1)", "http://canary.invalid/x", "//canary"])
def test_an_address_stays_text(name: str, text: str) -> None:
    page = page_of(audit_of() | {name: text})
    assert page.live == []
    assert text in page.text
    assert [v for _, n, v in page.attributes if n != "aria-label" and text in v] == []


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("part", PARTS)
def test_what_is_not_known_leaves_no_gap(part: str) -> None:
    full = audit_of()
    for names in ({*full} - {part}, {*full} - {*PARTS} | {part}):
        page = page_of({name: full[name] for name in full if name in names})
        assert page.misnested == []
        assert_no_empty_boxes(page)


def assert_no_empty_boxes(page: Page) -> None:
    """Every container has something in it, and no number is one that was not known."""
    for tag in ("figure", "table", "tbody", "ul", "ol", "dl", "section", "article", "details"):
        assert not re.search(rf"<{tag}[^>]*>\s*</{tag}>", page.source), tag
    assert not re.search(r"\b(None|nan|inf)\b", page.text)


@pytest.mark.usefixtures("undrawn")
def test_without_a_model() -> None:
    audit = audit_of() | {"model": "", "unit": "characters", "max_length": None}
    page = page_of(audit | {"truncation": [], "budget": {}})
    assert "none: lengths are in characters" in page.text
    assert "The median length in characters is" in page.text
    assert "What a limit would cut" not in page.text
    assert "Tokens and time" not in page.text
    assert_no_empty_boxes(page)


@pytest.mark.usefixtures("undrawn")
def test_the_smallest_audit() -> None:
    page = page_of(Audit("pairs.jsonl", (), Ledger()).as_dict())
    assert "pairs.jsonl No check was made." in page.text
    assert [tag for tag in page.tags if tag == "section"] == []
    assert_no_empty_boxes(page)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["ok"], "Nothing stands out: 1 check found nothing to worry about."),
        (["ok", "ok"], "Nothing stands out: 2 checks found nothing to worry about."),
        (["ok", "look"], "Nothing speaks against training; check 1 is worth a look."),
        (["look", "look"], "check 0 and check 1 are worth a look."),
        (["stop"], "Not ready to train on: check 0 says stop."),
        (["stop"] * 5, "check 0, check 1, check 2 and 2 more say stop."),
    ],
)
def test_the_verdict_in_words(verdicts: list[str], said: str) -> None:
    found = [finding(f"c{i}", f"Check {i}", verdict, 3) for i, verdict in enumerate(verdicts)]
    page = page_of(audit_of() | {"findings": found})
    assert said in page.text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "odd",
    [
        {"lengths": {"chosen": {"edges": [0, 1, 2], "counts": [0, 0]}}},
        {"length_bias": [{"low": 1, "high": None, "pairs": 0, "longer_chosen": None}]},
        {"languages": {"English": 0, "": 3}, "turns": {"many": 0}},
        {"budget": {"seconds_per_epoch": math.inf, "pairs": math.nan}},
        {"rows": {"rows_in": 3, "dropped": {"x": 3}, "dropped_examples": {}}},
    ],
)
def test_an_audit_of_next_to_nothing(odd: dict[str, Any]) -> None:
    page = page_of(audit_of() | odd)
    assert page.misnested == []
    assert_no_empty_boxes(page)


@pytest.mark.usefixtures("undrawn")
def test_rows_that_do_not_add_up_are_noticed() -> None:
    audit = audit_of()
    audit["rows"]["kept"] -= 1
    assert "do not add up" in page_of(audit).text


@pytest.mark.usefixtures("undrawn")
def test_commands_are_set_apart() -> None:
    found = finding("c", "Check", "look", 3) | {
        "says": "At `max_length=9` a lone ` stays, and so does 3 -- 4.",
        "do": "Remove them: orpo data fix --near 2 does it; or raise --max_length 2048.",
    }
    page = page_of(audit_of() | {"findings": [found]})
    codes = re.findall(r"<code>(.*?)</code>", page.source)
    told = [" ".join(re.sub(r"<[^>]+>", "", code).split()) for code in codes]
    assert told == ["max_length=9", "orpo data fix --near 2", "--max_length 2048"]
    assert "a lone ` stays, and so does 3 -- 4." in page.text


@pytest.mark.usefixtures("undrawn")
def test_many_languages_are_put_together() -> None:
    page = page_of(audit_of() | {"languages": {f"language {i}": 100 - i for i in range(30)}})
    assert "language 8 3.6 % 92" in page.text
    assert "language 9 " not in page.text
    assert "21 others 68.0 % 1,680" in page.text or re.search(r"21 others 6\d\.\d %", page.text)


@pytest.mark.usefixtures("undrawn")
def test_control_characters_are_shown() -> None:
    audit = audit_of() | {"notes": ["\x00\x1b[31mred \ud800"]}
    assert "␀␛[31mred \ufffd" in page_of(audit).text


def test_the_page_goes_into_a_file_and_not_into_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.html"
    assert write_audit_page(made(audit_of()), path) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(ConfigError, match="is a folder"):
        write_audit_page(made(audit_of()), tmp_path)


# Pictures


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
        assert "parsecs" not in picture.inline
        assert "parsecs" not in picture.seen
    assert "characters" in texts(drawn(audit)["Lengths"])


def test_the_same_audit_draws_the_same_bytes_in_another_process() -> None:
    code = (
        "from hashlib import sha256; from tests.report.test_audit_page import page_of, audit_of;"
        "print(sha256(page_of(audit_of()).source.encode()).hexdigest())"
    )
    run = [sys.executable, "-c", code]
    told = subprocess.run(run, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert told.strip() == hashlib.sha256(page_of(audit_of()).source.encode()).hexdigest()


def test_quantiles_are_those_of_the_ranges() -> None:
    spread = Histogram((0, 10, 20, 40), (10, 10, 20))
    assert [quantile(spread, share) for share in (0.25, 0.5, 0.75, 1)] == [10, 20, 30, 40]
    assert quantile(spread, 0.125) == pytest.approx(5)


@pytest.mark.parametrize(
    "edges",
    [[0, 8], [0, 10, 20, 30], [0, 8, 12, 16, 24, 32], [1, 10, 100, 1000, 1e4], [0, 1, 1e6]],
)
def test_ranges_of_every_shape(edges: list[float]) -> None:
    counts = [0, *range(3, len(edges) + 1)] if len(edges) > 2 else [7]
    audit = {"lengths": {"chosen": {"edges": edges, "counts": counts}}}
    picture = drawn(audit)["Lengths"]
    assert "nan" not in picture.inline
    assert len([text for text in texts(picture) if text != "characters"]) >= 2


def test_one_giant_does_not_hide_the_others() -> None:
    counts = [500, 400, 100, *[0] * 96, 1]
    audit = {"lengths": {"chosen": {"edges": [100 * i for i in range(101)], "counts": counts}}}
    numbers = [text.replace(",", "") for text in texts(drawn(audit)["Lengths"])]
    ticks = [int(text) for text in numbers if text.isdecimal()]
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
    assert picture.numbers.rows[2] == ("1.25 to 1.5", "0", "–")
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
