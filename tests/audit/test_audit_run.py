"""The whole pass: the account of rows, hostile rows, what comes out, and its quick part."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from tests.audit.faults import audited, distinct_rows, found, made, pair
from transformers import PreTrainedTokenizerBase

from orpo.audit.findings import Audit, Finding
from orpo.audit.run import AuditPlan, audit_rows, headlines, quick_audit
from orpo.data.lengths import LengthPolicy
from orpo.data.prepare import Preparation
from orpo.data.sources import Mixture
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, Ledger
from orpo.errors import DataError

Values = list[dict[str, Any]]


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


HOSTILE: Values = [
    pair("half \ud800", "a", "b"),
    pair("q", "half \udfff", "b"),
    {"prompt": None, "chosen": "a", "rejected": "b"},
    {"prompt": "q", "chosen": None, "rejected": None},
    {"prompt": 3, "chosen": 4.5, "rejected": True},
    {"prompt": [], "chosen": [], "rejected": []},
    {"prompt": nested(900), "chosen": "a", "rejected": "b"},
    {"prompt": [[{"role": "user"}]], "chosen": [None], "rejected": [{}]},
    {"prompt": [{"role": "user", "content": {"text": "q"}}], "chosen": "a", "rejected": "b"},
    {"prompt": [{"role": None, "content": "q"}], "chosen": "a", "rejected": "b"},
    {"prompt": b"bytes", "chosen": b"a", "rejected": b"b"},
    {"prompt": "q", "chosen": float("nan"), "rejected": "b"},
    {},
    {"unrelated": 1},
    pair("q", "a", "b", weight=float("nan")),
    pair("q", "a", "b", weight="heavy"),
    pair("q", "a", "b", score_chosen=float("inf"), score_rejected="x"),
    pair("q", "a", "b", source=["list"], category={"a": 1}),
]


@pytest.mark.parametrize("tokenised", [False, True])
def test_hostile_rows_are_counted_and_never_raise(
    small_tokenizer: PreTrainedTokenizerBase, *, tokenised: bool
) -> None:
    huge = pair("long " * 40_000, "word " * 20_000, "x" * 100_000)
    blank = pair("\n" * 300_000 + "aHuman: a", "<|" * 1000 + " " * 100_000 + "a", "### " * 9999)
    rows = [*distinct_rows(30), *HOSTILE, huge, blank, pair("", "", "")]
    tokenize = PairTokenizer(small_tokenizer, LengthPolicy(None)) if tokenised else None
    audit = audited(rows, tokenize=tokenize, eval_values=[*HOSTILE, *distinct_rows(30, seed=4)])
    account = audit.rows
    assert account.rows_in == len(rows)
    assert account.kept + sum(account.dropped.values()) == len(rows)
    assert found(audit, "unreadable_rows").count >= 12
    assert any(note.startswith("held: ") for note in audit.notes)
    assert len(json.dumps(audit.as_dict(), allow_nan=False)) < 60_000


def test_the_account_is_that_of_the_training(small_tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [*distinct_rows(60), *HOSTILE, pair("q", "same", "same"), pair("q", " ", "b")]
    rows += [pair("why " * 200, "a", "b"), pair("why", "because " * 200, "b " * 3)]
    lengths = LengthPolicy(300)
    ledger = Ledger("data")
    preparation = Preparation(PairTokenizer(small_tokenizer, lengths), on_bad_row="drop")
    for _ in preparation.stream(made(rows), ledger):
        pass
    tokenize = PairTokenizer(small_tokenizer, LengthPolicy(None))
    audit = audited(rows, tokenize=tokenize, lengths=lengths)
    theirs, ours = ledger.as_dict(), audit.rows.as_dict()
    for name in ("rows_in", "kept", "nll_only", "dropped", "cut", "format"):
        assert ours[name] == theirs[name], name
    assert ours["dropped"]["prompt_too_long"] == 1
    assert found(audit, "truncation").figures["cut"] >= 1


def test_without_a_tokenizer_the_account_goes_by_the_texts() -> None:
    rows = distinct_rows(9)
    rows[0]["chosen"][0]["content"] = rows[1]["rejected"][0]["content"] = " "
    rows[2]["rejected"] = rows[2]["chosen"]
    account = audited([*rows, {"prompt": "q", "chosen": 1, "rejected": 2}]).rows
    assert account.dropped == {
        "empty_chosen": 1,
        "empty_rejected": 1,
        "identical_answers": 1,
        "malformed": 1,
    }
    assert (account.rows_in, account.kept) == (10, 6)


@pytest.mark.parametrize("values", [[], [pair("", " ", "")], [pair("?", "!", ".")]])
def test_nothing_to_look_at(values: Values) -> None:
    audit = audited(values, eval_values=values)
    assert found(audit, "near_duplicates").count == found(audit, "near_leakage").count == 0
    assert audit.length_bias
    assert audit.verdict in ("look", "stop")
    json.dumps(audit.as_dict(), allow_nan=False)


def test_what_comes_out_survives_json_and_is_in_tokens_where_there_is_a_tokenizer(
    small_tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = distinct_rows(40)
    tokenize = PairTokenizer(small_tokenizer, LengthPolicy(None))
    plain = audited(rows)
    counted = audited(
        rows, tokenize=tokenize, model="m", lengths=LengthPolicy(512), eval_values=rows[:3]
    )
    for audit in (plain, counted):
        saved = json.loads(json.dumps(audit.as_dict(), allow_nan=False))
        assert Audit.from_dict(saved).as_dict() == audit.as_dict()
        assert saved["verdict"] == audit.verdict
        for histogram in audit.lengths.values():
            assert sum(histogram.counts) == 40
            assert list(histogram.edges) == sorted(set(histogram.edges))
    assert (plain.unit, plain.max_length, plain.truncation) == ("characters", None, ())
    assert plain.budget == {}
    assert any("--model" in note for note in plain.notes)
    assert "truncation" not in {f.check for f in plain.findings}
    assert (counted.unit, counted.max_length, counted.model) == ("tokens", 512, "m")
    assert counted.budget["pairs"] == 40
    assert not any("--model" in note for note in counted.notes)
    with pytest.raises(DataError, match="'rows' is no account"):
        Audit.from_dict({**plain.as_dict(), "rows": {"dropped": 3}})


def test_what_the_template_does_to_rows(
    small_tokenizer: PreTrainedTokenizerBase, bos_tokenizer: PreTrainedTokenizerBase
) -> None:
    def template_of(tokenizer: PreTrainedTokenizerBase, before: str, rows: Values) -> Finding:
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = before + str(tokenizer.chat_template)
        return found(audited(rows, tokenize=PairTokenizer(changed, LengthPolicy(None))), "template")

    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    rows = distinct_rows(20)
    for row in rows[:4]:
        row["prompt"].insert(0, {"role": "system", "content": "Be brief."})
    finding = template_of(small_tokenizer, refusing, rows)
    assert (finding.count, finding.verdict) == (4, "stop")
    assert finding.figures == {"refused by the template": 4}
    assert "no system" in finding.examples[0].text
    assert template_of(bos_tokenizer, "", distinct_rows(9)).count == 0
    twice = template_of(bos_tokenizer, "<s><s>", distinct_rows(9))
    assert twice.figures == {"two beginning-of-sequence tokens": 9}


def test_the_quick_part_leaves_out_what_takes_long() -> None:
    rows = distinct_rows(600)
    audit = quick_audit("train", made([*rows, *rows[:60]]), eval_rows=made(rows[:30]))
    checks = {f.check for f in audit.findings}
    assert checks.isdisjoint({"near_duplicates", "near_leakage"})
    assert found(audit, "exact_duplicates").count == 60
    assert found(audit, "leakage").verdict == "stop"
    lines = headlines(audit)
    assert len(lines) == 2
    assert lines[0].startswith("stop: 30 evaluation rows (100.0 %)")
    assert lines[1].startswith("look: 60 rows (9.1 %) repeat earlier ones")
    assert all("\n" not in line for line in lines)
    assert headlines(quick_audit("train", made(rows))) == []


def test_the_quick_part_believes_the_account_of_the_rows() -> None:
    rows = made(distinct_rows(600))
    ledger = Ledger("train_dataset", rows_in=700, kept=540)
    ledger.dropped.update({"prompt_too_long": 60, "malformed": 100})
    ledger.examples["malformed"] = [Dropped("malformed", "data:3", "no list")]
    ledger.cut.update({"chosen": 40, "rejected": 30})
    audit = quick_audit("train", rows, account=ledger)
    finding, unreadable = found(audit, "truncation"), found(audit, "unreadable_rows")
    assert (finding.count, finding.of, finding.verdict) == (100, 600, "look")
    assert audit.rows.kept == 540
    assert any("60 are dropped as too long" in line for line in headlines(audit))
    assert (unreadable.count, found(audit, "lost_rows").count) == (100, 160)
    assert unreadable.examples[0].where == "data:3"
    assert unreadable.do == "Correct them: they are left out."  # on_bad_row is "drop" already
    fine = quick_audit("train", rows, account=Ledger("t", rows_in=600, kept=600))
    assert found(fine, "truncation").verdict == "ok"


def test_token_ids_are_not_texts() -> None:
    rows = made([{"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}] * 3)
    quick = quick_audit("train", rows)
    assert quick.findings == ()
    assert quick.verdict == "ok"
    assert "not checked" in quick.notes[0]
    with pytest.raises(DataError, match="token ids"):
        audit_rows(AuditPlan("data"), rows)


def test_rows_that_a_mixture_leaves_out_are_not_lost() -> None:
    rows = made(distinct_rows(700))
    mixed = [replace(row, left_out="not_in_mix") if row.index % 7 == 0 else row for row in rows]
    audit = audit_rows(AuditPlan("data", near=False), mixed)
    finding = found(audit, "lost_rows")
    assert (finding.count, finding.of, finding.verdict) == (0, 600, "ok")
    assert audit.rows.rows_in == 700


def test_data_sets_that_are_mixed_have_formats_of_their_own() -> None:
    plain = [{"prompt": f"Ask {n}", "chosen": f"yes {n}", "rejected": "no"} for n in range(9)]
    alpaca = [{"instruction": f"Do {n}", "chosen": f"done {n}", "rejected": "no"} for n in range(9)]
    rows = list(Mixture([made(plain), made(alpaca)]))
    audit = audit_rows(AuditPlan("mix", near=False), rows)
    assert audit.rows.kept == 18
    assert audit.rows.format == "prompt + alpaca"
    assert quick_audit("mix", rows).rows.dropped == {}


def test_the_quick_part_reads_the_texts_of_the_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orpo.audit.run.CONTENT_ROWS", 300)
    rows = distinct_rows(600)
    for row in rows[300:]:
        row["chosen"][0]["content"] = "I cannot help with that.</s>"
    audit = quick_audit("train", made([*rows, *rows[:60]]), eval_rows=made(rows[500:530]))
    for name in ("refusals", "template", "length_bias", "openings", "turns"):
        assert found(audit, name).of <= 300, name
    assert found(audit, "refusals").count == found(audit, "template").count == 0
    assert found(audit, "exact_duplicates").count == 60
    assert found(audit, "leakage").count == 30
    assert found(audit, "identical_answers").of == 660
    assert audit.rows.kept == 660
    (note,) = audit.notes
    assert "the first 300 of 660 rows" in note
    assert headlines(audit)[-1] == note
