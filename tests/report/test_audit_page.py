"""The page of a data audit: every part of it, and none of what is not known."""

import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from orpo.audit.findings import Audit, Histogram
from orpo.data.types import Ledger
from orpo.errors import ConfigError
from orpo.report.audit import audit_page, quantile
from orpo.report.page import Figure, render
from orpo.report.write import write_audit_page
from tests.report.pages import Page, assert_complete, assert_inert, audit_of, finding, planted

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
    "Special tokens in texts under 0.1 % 2 of 10,112",
    "<|im_end|> means that a turn is over.",
    "Empty answers none of 10,112",
    "The median length in tokens is about 64 in prompts",
    "The longer answer is chosen in 80.6 % of 10,021 pairs, and in 96.0 % of the 324 in which it "
    "is at least 5 times as long.",
    "1.5 to 2 2,390 88.0 %",
    "At a max_length of 1,024, 6.9 % of the pairs are cut and 0.4 % dropped. From 2,048 on, less "
    "than 1 % of the pairs lose anything.",
    "1,024 702 41 92.7 %",
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


def page_of(audit: dict[str, Any]) -> Page:
    return Page(render(audit_page(made(audit))))


def made(audit: dict[str, Any]) -> Audit:
    """An audit of some parts; what is not given is empty."""
    return Audit.from_dict({**Audit("data set", (), Ledger()).as_dict(), **audit})


def drawn(audit: dict[str, Any]) -> dict[str, Figure]:
    return {one.title: one for one in audit_page(made(audit)).figures}


def texts(figure: Figure) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(figure.inline).iter(f"{SVG}text")]


def assert_no_empty_boxes(page: Page) -> None:
    """Every container has something in it, and no number is one that was not known."""
    assert page.misnested == []
    for tag in ("figure", "table", "tbody", "ul", "ol", "dl", "section", "article", "details"):
        assert not re.search(rf"<{tag}[^>]*>\s*</{tag}>", page.source), tag
    assert not re.search(r"\b(None|nan|inf)\b", page.text)


def test_everything_is_there_and_the_worst_first() -> None:
    page = page_of(audit_of())
    assert_complete(page)
    for text in WORDS:
        assert text in page.text, text
    assert "do not add up" not in page.text
    shown = [v.split()[1] for t, n, v in page.attributes if t == "article" and n == "class"]
    assert shown == ["stop"] * 2 + ["look"] * 5 + ["ok"] * 4
    places = [page.text.index(title) for title in ("Prompt leakage", "Length bias", "Near dup")]
    assert places == sorted(places)
    labels = [v.split(".")[0] for v in page.values("aria-label") if v != "Checks by verdict"]
    assert labels == ["Lengths", "Length bias", "What a limit would cut"]
    assert page.tags.count("svg") == page.text.count("The numbers") == 3


def test_a_saved_audit_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    audit = Audit.from_dict(audit_of())
    assert audit.verdict == "stop"
    again = Audit.from_dict(json.loads(json.dumps(audit.as_dict())))
    assert render(audit_page(audit)) == render(audit_page(again))
    code = (
        "import sys; from pathlib import Path; from orpo.audit.findings import Audit\n"
        "from orpo.report.write import write_audit_page; from tests.report.pages import audit_of\n"
        "write_audit_page(Audit.from_dict(audit_of()), Path(sys.argv[1]))"
    )
    paths = (tmp_path / "deep" / "audit.html", tmp_path / "other.html")
    assert write_audit_page(audit, paths[0]) == paths[0]
    run = [sys.executable, "-c", code, str(paths[1])]
    subprocess.run(run, check=True, cwd=Path(__file__).parents[2])
    one, other = (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert one == other
    with pytest.raises(ConfigError, match="is a folder"):
        write_audit_page(audit, tmp_path)


def test_nothing_from_outside_is_live() -> None:
    assert_inert(lambda text: page_of(planted(audit_of(), text)), 60)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("text", ["javascript:alert(1)", "http://canary.invalid/x", "//canary"])
def test_an_address_stays_text(text: str) -> None:
    for name in ("dataset", "model", "eval_dataset"):
        page = page_of(audit_of() | {name: text})
        assert page.live == []
        assert text in page.text
        assert [v for _, n, v in page.attributes if n != "aria-label" and text in v] == []


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("part", PARTS)
def test_what_is_not_known_leaves_no_gap(part: str) -> None:
    full = audit_of()
    for names in ({*full} - {part}, {*full} - {*PARTS} | {part}):
        assert_no_empty_boxes(page_of({name: full[name] for name in full if name in names}))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("parts", "said", "not_said"),
    [
        (
            {"model": "", "unit": "characters", "max_length": None, "truncation": [], "budget": {}},
            ("none: lengths are in characters", "The median length in characters is"),
            ("What a limit would cut", "Tokens and time"),
        ),
        (Audit("pairs.jsonl", (), Ledger()).as_dict(), ("pairs.jsonl No check was made.",), ()),
        ({"lengths": {"chosen": {"edges": [0, 1, 2], "counts": [0, 0]}}}, (), ()),
        ({"length_bias": [{"low": 1, "high": None, "pairs": 0, "longer_chosen": None}]}, (), ()),
        ({"languages": {"English": 0, "": 3}, "turns": {"many": 0}}, (), ()),
        ({"budget": {"seconds_per_epoch": math.inf, "pairs": math.nan}}, (), ()),
        ({"rows": {"rows_in": 3, "dropped": {"x": 3}, "dropped_examples": {}}}, (), ()),
        (
            {"rows": {"rows_in": 3, "kept": 1, "dropped": {"x": 1}}},
            ("do not add up",),
            (),
        ),
        ({"notes": ["\x00\x1b[31mred \ud800"]}, ("␀␛[31mred \ufffd",), ()),
        (
            {"languages": {f"language {i}": 100 - i for i in range(30)}},
            ("language 8 3.6 % 92", "21 others 66.3 % 1,701"),
            ("language 9 ",),
        ),
    ],
)
def test_an_audit_of_little(
    parts: dict[str, Any], said: tuple[str, ...], not_said: tuple[str, ...]
) -> None:
    page = page_of(audit_of() | parts)
    assert_no_empty_boxes(page)
    assert all(text in page.text for text in said)
    assert not any(text in page.text for text in not_said)


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
    assert said in page_of(audit_of() | {"findings": found}).text


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


# Pictures


def test_the_axes_say_what_they_are_and_no_name_from_the_data() -> None:
    found = drawn(audit_of())
    assert {"tokens", "50", "100", "500"} <= set(texts(found["Lengths"]))
    assert {"1", "1.1", "5", "∞", "50 %", "100 %", "pairs"} <= set(texts(found["Length bias"]))
    limits = set(texts(found["What a limit would cut"]))
    assert {"256", "1,024", "4,096", "max_length, tokens"} <= limits
    audit = audit_of() | {"unit": "$\\frac{parsecs}$", "model": "parsecs"}
    audit["lengths"]["parsecs"] = audit["lengths"]["chosen"]
    for picture in drawn(audit).values():
        assert "parsecs" not in picture.inline
        assert "parsecs" not in picture.seen
    assert "characters" in texts(drawn(audit)["Lengths"])


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
    picture = drawn({"lengths": {"chosen": {"edges": edges, "counts": counts}}})["Lengths"]
    assert "nan" not in picture.inline
    assert len([text for text in texts(picture) if text != "characters"]) >= 2


def test_one_giant_does_not_hide_the_others() -> None:
    counts = [500, 400, 100, *[0] * 96, 1]
    audit = {"lengths": {"chosen": {"edges": [100 * i for i in range(101)], "counts": counts}}}
    numbers = [text.replace(",", "") for text in texts(drawn(audit)["Lengths"])]
    assert max(int(text) for text in numbers if text.isdecimal()) <= 300


@pytest.mark.usefixtures("undrawn")
def test_what_is_seen_of_lengths_and_limits() -> None:
    audit = audit_of()
    audit["lengths"]["rejected"] = audit["lengths"]["chosen"]
    assert "about equally long" in drawn(audit)["Lengths"].seen
    audit["lengths"]["chosen"] = audit["lengths"]["prompt"]
    assert "A typical rejected answer is 3.3 times as long" in drawn(audit)["Lengths"].seen
    audit["length_bias"][2] |= {"pairs": 0, "longer_chosen": None}
    picture = drawn(audit)["Length bias"]
    assert picture.numbers is not None
    assert tuple(picture.numbers.rows[2]) == ("1.25 to 1.5", "0", "–")
    for limit, said in (
        (
            {"max_length": 256, "cut": 5056, "dropped": 0},
            "Even at 256, 50.0\u00a0% of the pairs are cut and 0.0\u00a0% dropped.",
        ),
        (
            {"max_length": 1024, "cut": 0, "dropped": 0},
            "At a max_length of 1,024, no pair is cut or dropped.",
        ),
    ):
        audit = audit_of() | {"truncation": [limit]}
        assert drawn(audit)["What a limit would cut"].seen == said


@pytest.mark.usefixtures("undrawn")
def test_what_is_seen_of_repeats_languages_and_turns() -> None:
    none = finding("exact_duplicates", "Exact duplicates", "ok", 0)
    some = finding("near_duplicates", "Near duplicates", "look", 3)
    turns, languages = {"10": 1, "2": 5, "3": 1}, {"a": 1, "b": 5}
    page = page_of({"findings": [none], "turns": turns, "languages": languages})
    assert "width:0.00%" in page.source
    for text in (
        "Kind Share Count Exact duplicates 0.0 % 0 None was found.",
        "Language Share Count b 83.3 % 5 a 16.7 % 1",
        "Turns Share Count 2 71.4 % 5 3 14.3 % 1 10 14.3 % 1",
        "No prompt is a single turn; the longest has 10 turns.",
    ):
        assert text in page.text
    page = page_of({"findings": [none, some], "languages": {"Chinese": 7}})
    assert "Most frequent: near duplicates, 3 of 10,112. Not found: exact duplicates." in page.text
    assert "All 7 rows that were looked at are Chinese." in page.text
    assert "width:100.00%" in page.source
