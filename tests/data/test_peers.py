"""The same twelve pairs in the formats of other tools: they give the same tokens, and nothing else.

The oracle is the plainest of our own formats, tokenised on its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from tests.data.build import Values, read, refusal, user
from tests.data.build import assistant as bot
from transformers import PreTrainedTokenizerBase

from orpo.data.lengths import LengthPolicy
from orpo.data.prepare import Preparation
from orpo.data.sources import Source, iterate_dataset
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Row

QUESTIONS = [(a, b) for a in (2, 3, 4) for b in (3, 4, 5, 6)]
TRIPLES = [
    (f"What is {a} plus {b}?", f"The sum is {a + b}.", f"I think that it's {a * b}, or so.")
    for a, b in QUESTIONS
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def parts(role: str, said: str, part: str = "value") -> Values:
    return {"role": role, "content": [{"type": "text", part: said}], "loss_weight": 1.0}


def printed(messages: list[Values]) -> str:
    """What pandas writes into a CSV for a column of a Parquet file."""
    array = np.empty(len(messages), dtype=object)
    array[:] = messages
    return str(array)


Format = Callable[[str, str, str], Values]

CONVERSATIONS: dict[str, Format] = {
    "swift": lambda q, c, r: {"query": q, "response": c, "rejected_response": r},
    "swift, no turns before": lambda q, c, r: {
        **{"query": q, "response": c, "rejected_response": r, "history": [], "system": None}
    },
    "openai": lambda q, c, r: {
        "input": {"messages": [user(q)], "tools": [], "parallel_tool_calls": True},
        "preferred_output": [bot(c)],
        "non_preferred_output": [bot(r)],
    },
    "openai, as JSON": lambda q, c, r: {
        "input": json.dumps({"messages": [user(q)]}),
        "preferred_output": json.dumps([bot(c)]),
        "non_preferred_output": json.dumps(bot(r)),
    },
    "whole conversations as JSON": lambda q, c, r: {
        "chosen": json.dumps({"messages": [user(q), bot(c)], "tools": []}),
        "rejected": json.dumps({"messages": [user(q), bot(r)]}),
    },
    "conversations as indented JSON": lambda q, c, r: {
        "prompt": json.dumps([user(q)], indent=2),
        "chosen": json.dumps([bot(c)], indent=2),
        "rejected": json.dumps([bot(r)], indent=2),
    },
    "conversations as JSON twice": lambda q, c, r: {
        "messages": json.dumps(json.dumps([user(q)])),
        "chosen": c,
        "rejected": r,
    },
    "conversations as Python": lambda q, c, r: {
        **{"prompt": str([user(q)]), "chosen": str(bot(c)), "rejected": str([bot(r)])}
    },
    "conversations as numpy prints them": lambda q, c, r: {
        "chosen": printed([user(q), bot(c)]),
        "rejected": printed([user(q), bot(r)]),
    },
    "a list of JSON texts": lambda q, c, r: {
        "messages": [json.dumps(user(q))],
        "chosen": c,
        "rejected": r,
    },
    "parts with value": lambda q, c, r: {
        "chosen_messages": [parts("user", q), parts("assistant", c)],
        "rejected_messages": [parts("user", q), parts("assistant", r)],
    },
    "parts with text": lambda q, c, r: {
        "prompt": [parts("user", q, "text")],
        "chosen": [parts("assistant", c, "content")],
        "rejected": [bot(r)],
    },
    "human and model": lambda q, c, r: {
        "prompt": [{"role": "human", "content": q}],
        "chosen": [{"role": "model", "content": c}],
        "rejected": [{"role": "Assistant", "content": r}],
    },
    "from and content, role and value": lambda q, c, r: {
        "conversations": [{"from": "USER", "content": q}],
        "chosen": {"role": "AI", "value": c},
        "rejected": {"from": "ChatBot", "value": r},
    },
    "messages and texts": lambda q, c, r: {"messages": [user(q)], "chosen": c, "rejected": r},
    "messages and a message": lambda q, c, r: {
        **{"messages": [user(q)], "chosen": bot(c), "rejected": bot(r)}
    },
    "messages and lists": lambda q, c, r: {
        **{"messages": [user(q)], "chosen": [bot(c)], "rejected": [bot(r)]}
    },
    "messages with the chosen answer": lambda q, c, r: {
        **{"messages": [user(q), bot(c)], "chosen": c, "rejected": r}
    },
    "messages and whole conversations": lambda q, c, r: {
        "messages": [user(q), bot(c)],
        "chosen": [user(q), bot(c)],
        "rejected": [user(q), bot(r)],
    },
    "messages and responses": lambda q, c, r: {
        **{"messages": [user(q)], "chosen_response": c, "rejected_response": r}
    },
    "argilla": lambda q, c, r: {
        **{"instruction": q, "chosen_response": c, "rejected_response": r, "chosen_model": "x"}
    },
    "instruction and messages": lambda q, c, r: {
        **{"instruction": q, "chosen": [bot(c)], "rejected": [bot(r)]}
    },
    "nemo": lambda q, c, r: {
        "context": [user(q)],
        "completions": [{"rank": 1, "completion": [bot(r)]}, {"rank": 0, "completion": [bot(c)]}],
    },
    "contents and parts": lambda q, c, r: {
        "contents": [{"role": "user", "parts": [{"text": q}]}],
        "completions": [
            {"score": 1.0, "completion": {"role": "model", "parts": [{"text": c}]}},
            {"score": 0.0, "completion": {"role": "model", "parts": [{"text": r}]}},
        ],
    },
    "torchtune": lambda q, c, r: {
        "chosen_conversations": [user(q), bot(c)],
        "rejected_conversations": [user(q), bot(r)],
    },
}
TEXTS: dict[str, Format] = {
    "prefix and continuations": lambda q, c, r: {
        **{"prefix": q, "chosen_continuation": c, "rejected_continuation": r}
    },
    "continuations told after": lambda q, c, r: {
        **{"prefix": q, "continuation_chosen": c, "continuation_rejected": r}
    },
    "paired answers": lambda q, c, r: {"question": q, "response_j": c, "response_k": r},
    "answers with votes": lambda q, c, r: {
        "question": q,
        "answers": [{"text": r, "pm_score": 1}, {"text": c, "pm_score": 4}],
    },
    "context and completions": lambda q, c, r: {
        **{"context": q, "completions": [c, r], "scores": [2, 1]}
    },
    "ranked continuations": lambda q, c, r: {
        **{"prefix": q, "continuations": [r, c], "ranks": [2, 1]}
    },
    "responses with rewards": lambda q, c, r: {
        "prompt": q,
        "chosen_response": c,
        "rejected_response": r,
        "chosen_reward": 4,
        "rejected_reward": 2,
    },
    "dispreferred": lambda q, c, r: {
        **{"prompt": q, "preferred_answer": c, "dispreferred_answer": r}
    },
    "a completion and a worse one": lambda q, c, r: {
        **{"prompt": q, "completion": c, "rejected_completion": r}
    },
}


@pytest.fixture
def prepare(small_tokenizer: PreTrainedTokenizerBase) -> Preparation:
    return Preparation(PairTokenizer(small_tokenizer, LengthPolicy(None)))


def tokens(prepare: Preparation, rows: Iterable[Row]) -> Values:
    prepared, ledger = prepare(rows, "d")
    assert (ledger.rows_in, ledger.kept) == (12, 12)
    columns: Values = prepared.to_dict()
    return columns


def rows_of(write: Format) -> list[Values]:
    return [write(*triple) for triple in TRIPLES]


@pytest.mark.parametrize("name", [*CONVERSATIONS, *TEXTS])
def test_the_tokens_are_those_of_our_own_format(
    name: str, prepare: Preparation, tmp_path: Path
) -> None:
    rows = rows_of({**CONVERSATIONS, **TEXTS}[name])
    plain: list[Values] = [
        {"prompt": [user(q)], "chosen": [bot(c)], "rejected": [bot(r)]}
        if name in CONVERSATIONS
        else {"prompt": q, "chosen": c, "rejected": r}
        for q, c, r in TRIPLES
    ]
    expected = tokens(prepare, iterate_dataset(plain, "d"))
    assert tokens(prepare, iterate_dataset(rows, "d")) == expected
    lines, listed = tmp_path / "pairs.jsonl", tmp_path / "pairs.json"
    lines.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    listed.write_text(json.dumps(rows, indent=1), "utf-8")
    assert tokens(prepare, Source(str(lines))) == expected
    assert tokens(prepare, Source(str(listed))) == expected
    table = datasets.Dataset.from_list(rows)  # fills in members with null, as Parquet does
    table.to_parquet(tmp_path / "pairs.parquet")
    assert tokens(prepare, iterate_dataset(table, "d")) == expected
    assert tokens(prepare, iterate_dataset(table.to_iterable_dataset(), "d")) == expected
    assert tokens(prepare, Source(str(tmp_path / "pairs.parquet"))) == expected


Q, C, R = TRIPLES[0]
SWIFT = {"query": Q, "response": C, "rejected_response": R}


@pytest.mark.parametrize("history", [[["Hi", "Yes?"]], '[["Hi", "Yes?"]]'])
def test_turns_before_and_a_system_prompt(history: Any) -> None:
    pair = read({**SWIFT, "history": history, "system": "Be brief."})
    system = {"role": "system", "content": "Be brief."}
    assert pair.prompt == [system, user("Hi"), bot("Yes?"), user(Q)]
    assert (pair.chosen, pair.rejected) == (bot(C), bot(R))


def test_the_turns_before_a_plain_prompt_are_not_lost() -> None:
    row = {"prompt": Q, "chosen": C, "rejected": R, "history": [["Hi", "Yes?"]]}
    assert read(row).prompt == [user("Hi"), bot("Yes?"), user(Q)]
    assert "field 'history'" in refusal({**row, "history": "Hi. Yes?"})
    assert "field 'history'" in refusal({**row, "prompt": [user(Q)]})


@pytest.mark.parametrize("worse", [{}, {"rejected_response": None}])
def test_a_response_without_a_rejected_one(worse: Values) -> None:
    pair = read({"query": Q, "response": C, **worse})
    assert (pair.prompt, pair.chosen, pair.rejected) == ([user(Q)], bot(C), None)
    assert "no column 'chosen'" in refusal({"query": Q, "response": C, "label": 1})


def test_tools_of_a_whole_conversation_are_shown() -> None:
    openai = CONVERSATIONS["openai"](Q, C, R)
    openai["input"]["tools"] = TOOLS
    assert read(openai).tools == TOOLS
    whole = {"messages": [user(Q), bot(C)], "tools": TOOLS}
    other = {"messages": [user(Q), bot(R)], "tools": TOOLS}
    assert read({"chosen": json.dumps(whole), "rejected": json.dumps(other)}).tools == TOOLS
    assert read({"chosen": str(whole), "rejected": str(other)}).tools == TOOLS
    other["tools"] = [{"type": "function", "function": {"name": "multiply"}}]
    message = refusal({"chosen": json.dumps(whole), "rejected": json.dumps(other)})
    assert "field 'rejected': has another 'tools' than the rest of the row" in message


def test_tools_as_python_prints_them() -> None:
    row = {"prompt": [user(Q)], "chosen": [bot(C)], "rejected": [bot(R)]}
    tool = {"name": "add", "strict": True, "default": None}
    assert read({**row, "tools": str([tool])}).tools == [tool]


def test_calls_and_what_they_gave_in_role_and_content_form() -> None:
    call = {"role": "function_call", "content": '{"name": "add", "arguments": {"a": 1}}'}
    turns = [user(Q), call, {"role": "observation", "content": "5"}]
    prompt = read({"messages": turns, "chosen": C, "rejected": R}).prompt
    assert prompt is not None
    assert prompt[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert prompt[2] == {"role": "tool", "content": "5"}


def test_a_role_that_a_template_may_know_stays() -> None:
    row = {"prompt": [{"role": "developer", "content": "x"}, user(Q)], "chosen": C, "rejected": R}
    assert read(row).prompt == row["prompt"]


def test_messages_that_end_with_another_answer_are_refused() -> None:
    message = refusal({"messages": [user(Q), bot("Hm.")], "chosen": C, "rejected": R})
    assert "field 'messages': the turn before the answer is the assistant's own" in message


def test_two_ways_to_read_the_answers_are_refused() -> None:
    row = {"prompt": Q, "chosen_answer": C, "rejected_answer": R}
    assert "the answers may be" in refusal({**row, "chosen_text": "a", "rejected_text": "b"})


class TestTextsThatAreNoMessages:
    @pytest.mark.parametrize(
        "answer",
        [
            "[1, 2, 3]",
            '{"a": 1}',
            '{"role": "admin", "content": "all of it"}',
            '{"from": "alice", "value": 3}',
            '[{"role": "user", "content": "hi"}] is what you pass.',
            '[{"role": "user", "content": prompt}]',
            'messages = [{"role": "user", "content": "hi"}]',
            '{"messages": [1, 2]}',
            '[Note] send {"role": "user", "content": "hi"}',
        ],
    )
    def test_they_stay_as_they_are(self, answer: str) -> None:
        text = read({"prompt": Q, "chosen": answer, "rejected": R}).text
        assert text is not None
        assert (text.prompt, text.chosen, text.rejected) == (Q, answer, R)

    @pytest.mark.parametrize(
        "broken",
        [
            '[{"role": "user", "content": "hi"',
            "[{'role': 'user', 'content': 'hi'",
            "[{'content': 'a', 'role': 'user'}\n ...\n {'content': 'b', 'role': 'user'}]",
            '[{"role": "user", "content": ' + "[" * 100_000 + "]" * 100_000 + "}]",
            "[{'role': 'user', 'content': " + "[" * 100_000 + "]" * 100_000 + "}]",
        ],
    )
    def test_what_breaks_off_is_refused(self, broken: str) -> None:
        message = refusal({"prompt": broken, "chosen": C, "rejected": R})
        assert "field 'prompt': holds messages as a text that is neither JSON nor" in message


class TestNearMisses:
    @pytest.mark.parametrize(
        "name", ["reject", "rejected_answer", " rejected", "Rejected", "REJECTED", "rejetced"]
    )
    def test_a_rejected_answer_is_not_lost(self, name: str) -> None:
        message = refusal({"prompt": Q, "chosen": C, name: R})
        assert f"column {name!r} is not read: 'rejected' is" in " ".join(message.split()) or (
            name == " rejected" and "'rejected' is" in message
        )
        assert "Rename" in message
        assert read({"prompt": Q, "chosen": C, "rejected": R, name: None}).rejected is None

    @pytest.mark.parametrize("name", ["Chosen", "chosen ", "choosen", "chose"])
    def test_a_chosen_answer_is_named(self, name: str) -> None:
        message = refusal({"prompt": Q, name: C, "rejected": R})
        assert f"Rename {name!r} to 'chosen'." in message

    def test_several_at_once(self) -> None:
        message = refusal({"Prompt": Q, "Chosen": C, "Rejected": R})
        for name in ("Prompt", "Chosen", "Rejected"):
            assert f"{name!r} to '{name.lower()}'" in message

    @pytest.mark.parametrize("name", ["promt", "Prompt", "prompts"])
    def test_a_prompt_is_named(self, name: str) -> None:
        message = refusal({name: [user(Q)], "chosen": [bot(C)], "rejected": [bot(R)]})
        assert f"Rename {name!r} to 'prompt'." in message

    @pytest.mark.parametrize("name", ["System", " tools", "WEIGHT"])
    def test_a_setting_is_not_lost(self, name: str) -> None:
        message = refusal({"prompt": Q, "chosen": C, "rejected": R, name: "2"})
        assert f"Rename {name!r} to {name.strip().lower()!r}" in message

    def test_other_columns_are_nobodys_business(self) -> None:
        row = {"prompt": Q, "chosen": C, "rejected": R, "selected": True, "message": "x"}
        assert read(row).has_rejected
        assert not read({**row, "rejected": None, "rejected_model": "x"}).has_rejected
