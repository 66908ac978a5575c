"""The same pairs in the formats of other tools: they give the same pairs, and nothing else."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from tests.data.build import Values, read, refusal, said, user
from tests.data.build import assistant as bot

from orpo.data.reading import PairReader
from orpo.data.sources import iterate_dataset, open_source
from orpo.data.types import PreferencePair, TextPair

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def parts(role: str, said: str, part: str = "value") -> Values:
    return {"role": role, "content": [{"type": "text", part: said}], "loss_weight": 1.0}


def printed(messages: list[Values]) -> str:
    """What pandas writes into a CSV for a column of a Parquet file."""
    array = np.empty(len(messages), dtype=object)
    array[:] = messages
    return str(array)


def conversations(q: str, c: str, r: str) -> dict[str, Values]:
    """Rows of a question, an answer and a worse one that are read as messages."""
    whole, worse = [user(q), bot(c)], [user(q), bot(r)]
    swift = {"query": q, "response": c, "rejected_response": r}
    ranked = [{"rank": 1, "completion": [bot(r)]}, {"rank": 0, "completion": [bot(c)]}]
    scored = [
        {"score": score, "completion": {"role": "model", "parts": [{"text": text}]}}
        for score, text in ((1.0, c), (0.0, r))
    ]
    with_answers = {"chosen": c, "rejected": r}
    messages = {"chosen": [bot(c)], "rejected": [bot(r)]}
    named = {"chosen_response": c, "rejected_response": r}
    openai = {"preferred_output": [bot(c)], "non_preferred_output": [bot(r)]}
    call = {"messages": [user(q)], "tools": [], "parallel_tool_calls": True}
    return {
        "swift": swift,
        "swift, no turns before": {**swift, "history": [], "system": None},
        "openai": {"input": call, **openai},
        "openai, as JSON": {
            "input": json.dumps({"messages": [user(q)]}),
            **{name: json.dumps(said) for name, said in openai.items()},
        },
        "whole conversations as JSON": {
            "chosen": json.dumps({"messages": whole, "tools": []}),
            "rejected": json.dumps({"messages": worse}),
        },
        "conversations as indented JSON": {
            name: json.dumps(said, indent=2)
            for name, said in {"prompt": [user(q)], **messages}.items()
        },
        "conversations as JSON twice": {
            "messages": json.dumps(json.dumps([user(q)])), **with_answers
        },
        "as Python": {"prompt": str([user(q)]), "chosen": str(bot(c)), "rejected": str([bot(r)])},
        "as numpy prints them": {"chosen": printed(whole), "rejected": printed(worse)},
        "a list of JSON texts": {"messages": [json.dumps(user(q))], **with_answers},
        "parts with value": {
            "chosen_messages": [parts("user", q), parts("assistant", c)],
            "rejected_messages": [parts("user", q), parts("assistant", r)],
        },
        "parts with text": {
            "prompt": [parts("user", q, "text")], "chosen": [parts("assistant", c, "content")],
            "rejected": [bot(r)],
        },
        "human and model": {
            "prompt": [{"role": "human", "content": q}],
            "chosen": [{"role": "model", "content": c}],
            "rejected": [{"role": "Assistant", "content": r}],
        },
        "from and content, role and value": {
            "conversations": [{"from": "USER", "content": q}],
            "chosen": {"role": "AI", "value": c}, "rejected": {"from": "ChatBot", "value": r},
        },
        "messages and texts": {"messages": [user(q)], **with_answers},
        "messages and a message": {"messages": [user(q)], "chosen": bot(c), "rejected": bot(r)},
        "messages and lists": {"messages": [user(q)], **messages},
        "messages with the chosen answer": {"messages": whole, **with_answers},
        "messages and whole ones": {"messages": whole, "chosen": whole, "rejected": worse},
        "messages and responses": {"messages": [user(q)], **named},
        "argilla": {"instruction": q, **named, "chosen_model": "x"},
        "instruction and messages": {"instruction": q, **messages},
        "nemo": {"context": [user(q)], "completions": ranked},
        "contents and parts": {
            "contents": [{"role": "user", "parts": [{"text": q}]}], "completions": scored
        },
        "torchtune": {"chosen_conversations": whole, "rejected_conversations": worse},
    }  # fmt: skip


def texts(q: str, c: str, r: str) -> dict[str, Values]:
    """The same of rows that are read as text."""
    votes = [{"text": r, "pm_score": 1}, {"text": c, "pm_score": 4}]
    told = {"prompt": q, "chosen_response": c, "rejected_response": r}
    return {
        "prefix": {"prefix": q, "chosen_continuation": c, "rejected_continuation": r},
        "told after": {"prefix": q, "continuation_chosen": c, "continuation_rejected": r},
        "paired answers": {"question": q, "response_j": c, "response_k": r},
        "answers with votes": {"question": q, "answers": votes},
        "context and completions": {"context": q, "completions": [c, r], "scores": [2, 1]},
        "ranked continuations": {"prefix": q, "continuations": [r, c], "ranks": [2, 1]},
        "responses with rewards": {**told, "chosen_reward": 4, "rejected_reward": 2},
        "dispreferred": {"prompt": q, "preferred_answer": c, "dispreferred_answer": r},
        "a worse completion": {"prompt": q, "completion": c, "rejected_completion": r},
    }


TRIPLES = [("What is 2 plus 3?", "The sum is 5.", "It's 6, or so."), ("And 3?", "8.", "Six, I'd")]
Q, C, R = TRIPLES[0]


@pytest.mark.parametrize("name", [*conversations(Q, C, R), *texts(Q, C, R)])
def test_the_pairs_are_those_of_our_own_format(name: str, tmp_path: Path) -> None:
    rows = [{**conversations(*triple), **texts(*triple)}[name] for triple in TRIPLES]
    lines, listed = tmp_path / "pairs.jsonl", tmp_path / "pairs.json"
    lines.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    listed.write_text(json.dumps(rows, indent=1), "utf-8")
    table = datasets.Dataset.from_list(rows)  # fills in members with null, as Parquet does
    table.to_parquet(tmp_path / "pairs.parquet")
    in_memory = (rows, table, table.to_iterable_dataset())
    files = (lines, listed, tmp_path / "pairs.parquet")
    for source in (
        *(iterate_dataset(dataset, "d") for dataset in in_memory),
        *(open_source(str(path)) for path in files),
    ):
        for found, (q, c, r) in zip(map(PairReader(), source), TRIPLES, strict=True):
            assert isinstance(found, PreferencePair)
            if name in texts(q, c, r):
                assert (found.text, found.prompt) == (TextPair(q, c, r), None)
            else:
                spoken = (found.prompt, found.chosen, found.rejected)
                assert [[{"role": m["role"], "content": m["content"]} for m in part] for part in (
                    spoken[0] or [], [spoken[1] or {}], [spoken[2] or {}]
                )] == [[user(q)], [bot(c)], [bot(r)]]  # fmt: skip


SWIFT = {"query": Q, "response": C, "rejected_response": R}
PLAIN: Values = {"prompt": Q, "chosen": C, "rejected": R}


def test_turns_before_and_a_system_prompt() -> None:
    system = {"role": "system", "content": "Be brief."}
    turns = [user("Hi"), bot("Yes?"), user(Q)]
    for history in ([["Hi", "Yes?"]], '[["Hi", "Yes?"]]'):
        row = {**SWIFT, "history": history, "system": "Be brief."}
        assert said(row) == ([system, *turns], bot(C), bot(R))
    before = {**PLAIN, "history": [["Hi", "Yes?"]]}
    assert read(before).prompt == turns
    assert "field 'history'" in refusal({**before, "history": "Hi. Yes?"})
    assert "field 'history'" in refusal({**before, "prompt": [user(Q)]})
    for worse in ({}, {"rejected_response": None}):
        assert said({"query": Q, "response": C, **worse}) == ([user(Q)], bot(C), None)


def test_tools_of_a_whole_conversation_are_shown() -> None:
    openai = conversations(Q, C, R)["openai"]
    openai["input"]["tools"] = TOOLS
    assert read(openai).tools == TOOLS
    whole = {"messages": [user(Q), bot(C)], "tools": TOOLS}
    other = {"messages": [user(Q), bot(R)], "tools": TOOLS}
    assert read({"chosen": json.dumps(whole), "rejected": json.dumps(other)}).tools == TOOLS
    assert read({"chosen": str(whole), "rejected": str(other)}).tools == TOOLS
    other["tools"] = [{"type": "function", "function": {"name": "multiply"}}]
    message = refusal({"chosen": json.dumps(whole), "rejected": json.dumps(other)})
    assert "field 'rejected': has another 'tools' than the rest of the row" in message


def test_a_role_that_a_template_may_know_stays() -> None:
    row = {**PLAIN, "prompt": [{"role": "developer", "content": "x"}, user(Q)]}
    assert read(row).prompt == row["prompt"]


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
def test_texts_that_are_no_messages_stay_as_they_are(answer: str) -> None:
    assert said({**PLAIN, "chosen": answer}) == TextPair(Q, answer, R)


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
def test_messages_that_break_off_are_refused(broken: Any) -> None:
    message = refusal({**PLAIN, "prompt": broken})
    assert "field 'prompt': holds messages as a text that is neither JSON nor" in message
