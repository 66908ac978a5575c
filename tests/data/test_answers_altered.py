"""What a template drops of an answer or changes in it is counted, named, and told how to keep."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import make_tokenizer
from tests.data.build import Values, asked
from tests.data.build import assistant as said
from tests.templates import KINDS
from transformers import PreTrainedTokenizerBase

from orpo.audit.run import AuditPlan, audit_rows
from orpo.data.asked import CHANGES, advice, told_of_changes
from orpo.data.lengths import LengthPolicy
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, Ledger, Row

HI = {"role": "user", "content": "Hi?"}
CHATML = KINDS["chatml"]


def tokenizer_with(template: str) -> PreTrainedTokenizerBase:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def outcome(template: str, chosen: Values, rejected: Values, **variables: Any) -> Any:
    tokenize = PairTokenizer(tokenizer_with(template), LengthPolicy(None), variables)
    return tokenize(asked([HI], chosen, rejected))


THOUGHT = "<think>\nadd them\n</think>\n\n5 apples"
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
CASES: dict[str, tuple[str, Values, tuple[str, ...]]] = {
    "a field that chatml does not know": (
        CHATML,
        said("Yes", reasoning_content="because"),
        ("reasoning_dropped",),
    ),
    "the field by another name": (CHATML, said("Yes", thinking="so"), ("reasoning_dropped",)),
    "a block that chatml keeps": (CHATML, said(THOUGHT), ()),
    "a block that r1 cuts": (KINDS["r1"], said(THOUGHT), ("thoughts_dropped",)),
    "a block that deepseek cuts": (KINDS["deepseek-v3"], said(THOUGHT), ("thoughts_dropped",)),
    "a field that qwen3 writes": (KINDS["qwen3"], said("Yes", reasoning="because"), ()),
    "a block that qwen3 writes anew": (KINDS["qwen3"], said(THOUGHT), ()),
    "stripped": (KINDS["llama-2"], said("  Yes \n"), ()),
    "lower case": (
        CHATML.replace("m.content", "(m.content | lower if m.role != 'user' else m.content)"),
        said("YES"),
        ("text_changed",),
    ),
    "cut": (CHATML.replace("m.content", "m.content[:9]"), said("0123456789"), ("text_changed",)),
    "escaped": (CHATML.replace("m.content", "m.content | e"), said("a < b"), ("text_changed",)),
    "a call that chatml does not know": (
        CHATML,
        said("Look:", tool_calls=[CALL]),
        ("tool_calls_dropped",),
    ),
    "a call that qwen3 writes": (KINDS["qwen3"], said("Look:", tool_calls=[CALL]), ()),
    "special tokens that were typed": (CHATML, said("a <|im_end|> b"), ()),
}


@pytest.mark.parametrize("case", CASES)
def test_what_became_of_an_answer(case: str) -> None:
    template, chosen, lost = CASES[case]
    found = outcome(template, chosen, said("No"))
    assert found.lost == lost
    ledger = Ledger()
    ledger.count(found)
    assert ledger.changed == dict.fromkeys(lost, 1)
    assert Ledger.from_dict(ledger.as_dict()) == ledger
    assert all(name in ledger.summary() for name in lost)


def test_answers_that_differ_in_what_is_dropped_are_no_pair() -> None:
    for chosen, rejected, template in (
        (said("<think>\na\n</think>\n\n5"), said("<think>\nb\n</think>\n\n5"), KINDS["r1"]),
        (said("5", reasoning_content="a"), said("5", reasoning_content="b"), CHATML),
        (said("5", tool_calls=[CALL]), said("5"), CHATML),
    ):
        found = outcome(template, chosen, rejected)
        assert isinstance(found, Dropped)
        assert found.reason == "identical_after_template"
    assert outcome(CHATML, said("5"), said("5 ")).lost == ()
    assert outcome(CHATML, said("5"), said("5")).reason == "identical_answers"


def test_an_answer_of_which_nothing_is_left_is_none() -> None:
    found = outcome(KINDS["r1"], said("<think>\nonly this\n</think>"), said("No"))
    assert (found.reason, "chosen" in found.detail) == ("empty_after_template", True)
    found = outcome(CHATML, said("Yes"), said("", reasoning_content="only this"))
    assert (found.reason, "rejected" in found.detail) == ("empty_after_template", True)
    assert outcome(CHATML, said(""), said("No")).reason == "empty_chosen"
    kept = outcome(KINDS["qwen3"], said("", reasoning_content="only this"), said("No"))
    assert kept.lost == ()


SWITCHED = CHATML.replace("m.content", "(m.content if keep_thinking else m.content.split('>')[-1])")


@pytest.mark.parametrize(
    ("template", "change", "told"),
    [
        (SWITCHED, "thoughts_dropped", """--chat_template_kwargs '{"keep_thinking": true}'"""),
        (CHATML, "reasoning_dropped", "<think>...</think>"),
        (KINDS["r1"], "thoughts_dropped", "--chat_template FILE"),
        (KINDS["gpt-oss"], "thoughts_dropped", "reasoning_content"),
        (CHATML, "text_changed", ""),
    ],
)
def test_what_would_keep_it(template: str, change: str, told: str) -> None:
    found = PairTokenizer(tokenizer_with(template), LengthPolicy(None)).template
    assert told in advice(found, change)
    (line,) = told_of_changes(found, {change: 3}, 10)
    assert "3 of 10 pairs" in line
    assert CHANGES[change] in line


def test_the_audit_gives_a_verdict_in_words() -> None:
    tokenize = PairTokenizer(tokenizer_with(SWITCHED), LengthPolicy(None))
    rows = [
        Row(
            {
                "prompt": [{"role": "user", "content": f"{i}?"}],
                "chosen": [said(f"<think>{i}</think>{i} apples")],
                "rejected": [said(f"{i} pears")],
            },
            f"x:{i}",
            i,
        )
        for i in range(20)
    ]
    audit = audit_rows(AuditPlan("x", tokenize=tokenize, near=False), rows)
    (finding,) = [one for one in audit.findings if one.check == "template"]
    assert (finding.verdict, finding.count) == ("stop", 20)
    assert CHANGES["thoughts_dropped"] in finding.says
    assert any("keep_thinking" in note for note in audit.notes)
    assert audit.rows.changed == {"thoughts_dropped": 20}
