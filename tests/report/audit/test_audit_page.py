import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orpo.audit.findings import Audit
from orpo.data.types import Ledger
from orpo.errors import ConfigError
from orpo.report import write_audit_page
from tests.report.audit.audits import audit_of, finding, planted
from tests.report.pages import HOSTILE, Page, PageOf

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


def test_everything_is_there(page_of: PageOf) -> None:
    page = page_of(audit_of())
    assert page.misnested == []
    assert page.open == []
    for text in WORDS:
        assert text in page.text, text
    assert "do not add up" not in page.text


def test_stop_comes_first_then_look_then_ok(page_of: PageOf) -> None:
    page = page_of(audit_of())
    shown = [v.split()[1] for t, n, v in page.attributes if t == "article" and n == "class"]
    assert shown == ["stop"] * 2 + ["look"] * 5 + ["ok"] * 4
    places = [page.text.index(title) for title in ("Prompt leakage", "Length bias", "Near dup")]
    assert places == sorted(places)


def test_the_page_is_the_same_whichever_way_the_audit_went(page_of: PageOf) -> None:
    plain = audit_of()
    made = Audit.from_dict(plain)
    assert made.verdict == "stop"
    pages = [
        page_of(plain).source,
        page_of(made.as_dict()).source,
        page_of(json.loads(json.dumps(made.as_dict()))).source,
    ]
    assert len(set(pages)) == 1
    assert made.as_dict()["findings"][0].keys() == plain["findings"][0].keys()


def test_nothing_outside_the_page_is_needed(page_of: PageOf) -> None:
    page = page_of(audit_of())
    assert page.live == []
    assert "script" not in page.tags
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page.source))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in page.source
    assert "default-src 'none'" in page.source


def test_the_page_can_be_read_without_seeing_it(page_of: PageOf) -> None:
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


def test_nothing_from_outside_is_live(page_of: PageOf) -> None:
    harmless = " ".join("harmless" for _ in HOSTILE.split())
    tame, wild = (page_of(planted(audit_of(), text)) for text in (harmless, HOSTILE))
    assert wild.live == []
    assert wild.misnested == []
    assert wild.tags == tame.tags
    kinds = [[one[:2] for one in page.attributes] for page in (tame, wild)]
    assert kinds[0] == kinds[1]
    assert wild.text.count("alert(1)") > 60
    assert "{{ 7*7 }}{% x %}" in wild.text


@pytest.mark.parametrize("name", ["dataset", "model", "eval_dataset"])
@pytest.mark.parametrize("text", ["javascript:alert(1)", "http://canary.invalid/x", "//canary"])
def test_an_address_stays_text(page_of: PageOf, name: str, text: str) -> None:
    page = page_of(audit_of() | {name: text})
    assert page.live == []
    assert text in page.text
    assert [v for _, n, v in page.attributes if n != "aria-label" and text in v] == []


@pytest.mark.parametrize("part", PARTS)
def test_what_is_not_known_leaves_no_gap(page_of: PageOf, part: str) -> None:
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


def test_without_a_model(page_of: PageOf) -> None:
    audit = audit_of() | {"model": "", "unit": "characters", "max_length": None}
    page = page_of(audit | {"truncation": [], "budget": {}})
    assert "none: lengths are in characters" in page.text
    assert "The median length in characters is" in page.text
    assert "What a limit would cut" not in page.text
    assert "Tokens and time" not in page.text
    assert_no_empty_boxes(page)


def test_the_smallest_audit(page_of: PageOf) -> None:
    page = page_of(Audit("pairs.jsonl", (), Ledger()).as_dict())
    assert "pairs.jsonl No check was made." in page.text
    assert [tag for tag in page.tags if tag == "section"] == []
    assert_no_empty_boxes(page)


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
def test_the_verdict_in_words(page_of: PageOf, verdicts: list[str], said: str) -> None:
    found = [finding(f"c{i}", f"Check {i}", verdict, 3) for i, verdict in enumerate(verdicts)]
    page = page_of(audit_of() | {"findings": found})
    assert said in page.text


@pytest.mark.parametrize(
    "broken",
    [
        {"findings": None, "rows": 3, "lengths": [1], "turns": "x", "notes": "no list"},
        {"findings": [None, {}, {"verdict": 7, "count": "many", "examples": [3, {}]}]},
        {"lengths": {"prompt": {"edges": [0, 1], "counts": [1, 2, 3]}}},
        {"lengths": {"chosen": {"edges": [0, math.nan, 2], "counts": [1, 2]}}},
        {"lengths": {"chosen": {"edges": [0, 2, 1], "counts": [1, 2]}}},
        {"lengths": {"chosen": {"edges": [0, 1, 2], "counts": [0, 0]}}},
        {"length_bias": [{"low": 1, "high": 1, "pairs": 3, "longer_chosen": None}]},
        {"length_bias": [{"low": None}, {"low": 1, "longer_chosen": 7}, 3]},
        {"truncation": [{"max_length": 0}, {"cut": 3}, "x"], "max_length": "long"},
        {"languages": {"English": 0, "Chinese": -1, "": None}, "turns": {"many": math.inf}},
        {"budget": {"seconds_per_epoch": math.inf, "peak_bytes": None, "pairs": math.nan}},
        {"rows": {"rows_in": 3, "dropped": {"x": "y"}, "dropped_examples": {"x": [None]}}},
    ],
)
def test_an_audit_that_was_edited_by_hand(page_of: PageOf, broken: dict[str, Any]) -> None:
    page = page_of(audit_of() | broken)
    assert page.misnested == []
    assert_no_empty_boxes(page)


def test_rows_that_do_not_add_up_are_noticed(page_of: PageOf) -> None:
    audit = audit_of()
    audit["rows"]["kept"] -= 1
    assert "do not add up" in page_of(audit).text


def test_commands_are_set_apart(page_of: PageOf) -> None:
    found = finding("c", "Check", "look", 3) | {
        "says": "At `max_length=9` a lone ` stays, and so does 3 -- 4.",
        "do": "Remove them: orpo data fix --near 2 does it; or raise --max_length 2048.",
    }
    page = page_of(audit_of() | {"findings": [found]})
    codes = re.findall(r"<code>(.*?)</code>", page.source)
    told = [" ".join(re.sub(r"<[^>]+>", "", code).split()) for code in codes]
    assert told == ["max_length=9", "orpo data fix --near 2", "--max_length 2048"]
    assert "a lone ` stays, and so does 3 -- 4." in page.text


def test_many_languages_are_put_together(page_of: PageOf) -> None:
    page = page_of(audit_of() | {"languages": {f"language {i}": 100 - i for i in range(30)}})
    assert "language 8 3.6 % 92" in page.text
    assert "language 9 " not in page.text
    assert "21 others 68.0 % 1,680" in page.text or re.search(r"21 others 6\d\.\d %", page.text)


def test_control_characters_are_shown(page_of: PageOf, tmp_path: Path) -> None:
    audit = audit_of() | {"notes": ["\x00\x1b[31mred \ud800"]}
    assert "␀␛[31mred \ufffd" in page_of(audit).text


def test_the_page_goes_into_a_file_and_not_into_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.html"
    assert write_audit_page(audit_of(), path) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(ConfigError, match="is a folder"):
        write_audit_page(audit_of(), tmp_path)
