"""Formats of other tools, scored answers, and the columns that every format may have."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.build import Values, as_row, read, refusal, spoken

from orpo.data.columns import recognise
from orpo.data.fields import PAIR_RULES
from orpo.data.reading import PairReader
from orpo.data.types import Dropped, PreferencePair, TextPair

USER, YES, NO = (
    {"role": "user", "content": "Is it?"},
    {"role": "assistant", "content": "Yes."},
    {"role": "assistant", "content": "No."},
)
SHAREGPT = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Is it?"}]
GPT_YES, GPT_NO = {"from": "gpt", "value": "Yes."}, {"from": "gpt", "value": "No."}


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"conversations": [USER], "chosen": YES, "rejected": NO}, "sharegpt"),
        ({"conversations": SHAREGPT[1:], "chosen": GPT_YES, "rejected": GPT_NO}, "sharegpt"),
        ({"conversations": SHAREGPT[1:], "chosen": "Yes.", "rejected": [GPT_NO]}, "sharegpt"),
        ({"messages": [USER, YES], "rejected_response": "No."}, "messages"),
        ({"messages": [USER, YES], "rejected_messages": [USER, NO]}, "messages"),
        ({"chosen_messages": [USER, YES], "rejected_messages": [USER, NO]}, "two_messages"),
        ({"prompt": "Is it?", "messages": [], "chosen": [YES], "rejected": [NO]}, "prompt"),
        ({"question": "Is it?", "chosen": [YES], "rejected": [NO]}, "prompt"),
    ],
)
def test_every_spelling_gives_the_same_pair(values: Values, name: str) -> None:
    assert recognise(as_row(values)) == name
    assert spoken(read(values)) == ([USER], YES, NO)


def test_sharegpt_turns_become_messages() -> None:
    pair = read({"conversations": SHAREGPT, "chosen": GPT_YES, "rejected": GPT_NO})
    assert pair.prompt == [{"role": "system", "content": "Be brief."}, USER]


@pytest.mark.parametrize("speaker", ["function_call", "Function_Call", " FUNCTION_CALL"])
def test_a_function_call_of_sharegpt_is_a_tool_call(speaker: str) -> None:
    call = {"from": speaker, "value": '{"name": "add", "arguments": {"a": 1}}'}
    seen = {"from": "observation", "value": "2"}
    turns = [SHAREGPT[1], call, seen]
    prompt = read({"conversations": turns, "chosen": GPT_YES, "rejected": GPT_NO}).prompt
    assert prompt is not None
    assert prompt[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert prompt[2] == {"role": "tool", "content": "2"}


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"conversations": [{"from": "alien", "value": "?"}]}, "conversations"),
        ({"conversations": [{"from": "human", "value": None}]}, "conversations"),
        ({"conversations": [GPT_YES]}, "conversations"),
        ({"conversations": []}, "conversations"),
        ({"conversations": SHAREGPT, "chosen": {"from": "human", "value": "x"}}, "chosen"),
    ],
)
def test_broken_sharegpt_turns_are_refused(values: Values, field: str) -> None:
    row = {"chosen": GPT_YES, "rejected": GPT_NO, **values}
    assert f"field '{field}'" in refusal(row)


def test_columns_of_two_formats_name_both() -> None:
    message = refusal({"prompt": "p", "instruction": "i", "chosen": "c", "rejected": "r"})
    assert "prompt or alpaca" in message
    assert "data_format=prompt" in message


class TestRowsWithoutRejected:
    @pytest.mark.parametrize(
        "values",
        [
            {"prompt": [USER], "chosen": [YES], "rejected": None},
            {"prompt": [USER], "chosen": [YES]},
            {"conversations": [USER], "chosen": YES},
            {"conversations": [USER, YES]},
            {"messages": [USER, YES]},
            {"messages": [USER, YES], "rejected_response": None},
            {"chosen_messages": [USER, YES]},
            {"chosen": [USER, YES], "rejected": None},
        ],
    )
    def test_they_keep_their_answer(self, values: Values) -> None:
        pair = read(values)
        assert spoken(pair) == ([USER], YES, None)
        assert not pair.has_rejected

    def test_texts(self) -> None:
        assert read({"prompt": "p", "completion": "c"}).text == TextPair("p", "c", None)
        hh = read({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": None})
        assert hh.text == TextPair("\n\nHuman: a\n\nAssistant:", " b", None)
        alpaca = read({"instruction": "i", "input": "", "output": "o"})
        assert alpaca.text is not None
        assert (alpaca.text.chosen, alpaca.text.rejected) == ("o", None)

    def test_a_text_alone_has_no_prompt(self) -> None:
        assert "no prompt" in refusal({"chosen": "Q: a A: b", "rejected": None})


class TestAnswers:
    SCORED: tuple[Values, ...] = (
        {"answers": ["Yes.", "No.", "So?"], "scores": [5, 1, 3]},
        {"responses": ["Yes.", "No.", "So?"], "ranks": [1, 3, 2]},
        {
            "completions": [
                {"response": "Yes.", "overall_score": "8.5"},
                {"response": "No.", "overall_score": 2},
                {"response": "So?", "overall_score": 4},
            ]
        },
        {"candidates": [{"text": t, "rank": r} for t, r in (("So?", 2), ("Yes.", 1), ("No.", 3))]},
    )

    @pytest.mark.parametrize("answers", SCORED)
    def test_the_best_stands_against_the_worst(self, answers: Values) -> None:
        pair = read({"prompt": "Is it?", **answers})
        assert pair.text == TextPair("Is it?", "Yes.", "No.")
        assert pair.scores is not None
        assert pair.scores[0] > pair.scores[1]

    def test_messages_as_answers(self) -> None:
        pair = read({"messages": [USER], "answers": [NO, YES], "scores": [1, 2]})
        assert spoken(pair) == ([USER], YES, NO)

    @pytest.mark.parametrize(("rule", "other"), [("best_worst", "No."), ("best_second", "So?")])
    def test_the_rule_decides(self, rule: str, other: str) -> None:
        pair = read({"prompt": "Is it?", **self.SCORED[0]}, rule)
        assert pair.text == TextPair("Is it?", "Yes.", other)

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.sampled_from(PAIR_RULES))
    def test_the_chosen_one_is_strictly_better(self, scores: list[int], rule: str) -> None:
        answers = [f"answer {i}" for i in range(len(scores))]
        found = PairReader(pair_rule=rule)(
            as_row({"prompt": "p", "answers": answers, "scores": scores})
        )
        if len(set(scores)) == 1:
            assert isinstance(found, Dropped)
            assert found.reason == ("single_answer" if len(scores) == 1 else "tied_scores")
            return
        assert isinstance(found, PreferencePair)
        assert found.text is not None
        assert found.text.rejected is not None
        best, other = (answers.index(t) for t in (found.text.chosen, found.text.rejected))
        assert scores[best] == max(scores) > scores[other]
        assert found.scores == (scores[best], scores[other])

    def test_a_draw_depends_on_the_answers_alone(self) -> None:
        values = {"prompt": "p", "answers": list("abcdef"), "scores": [9, 1, 2, 3, 4, 5]}
        first = read(values, "best_random").text
        assert read({**values, "id": 5}, "best_random").text == first
        others = {
            str(read({**values, "answers": [*"abcde", t]}, "best_random").text) for t in "xyzuvw"
        }
        assert len(others) > 1

    @pytest.mark.parametrize(
        "answers",
        [
            {"answers": ["a", "b"], "scores": [1]},
            {"answers": ["a", "b"], "scores": [1, math.nan]},
            {"answers": ["a", "b"], "scores": [1, "high"]},
            {"answers": ["a", "b"]},
            {"answers": ["a", 7], "scores": [1, 2]},
        ],
    )
    def test_unusable_scores_are_refused(self, answers: Values) -> None:
        assert "answers'" in refusal({"prompt": "p", **answers}).replace("scores'", "answers'")


class TestExtraColumns:
    def test_a_system_column_opens_the_conversation(self) -> None:
        pair = read({"prompt": [USER], "chosen": [YES], "rejected": [NO], "system": "Be brief."})
        assert pair.prompt == [{"role": "system", "content": "Be brief."}, USER]
        same = read({"prompt": list(pair.prompt), "chosen": [YES], "rejected": [NO], "system": ""})
        assert same.prompt == pair.prompt

    def test_texts_with_a_system_column_have_both_forms(self) -> None:
        pair = read(
            {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No.", "system": "Be brief."}
        )
        assert pair.text == TextPair("Be brief.\n\nIs it?", "Yes.", "No.")
        assert spoken(pair) == ([{"role": "system", "content": "Be brief."}, USER], YES, NO)

    def test_two_system_messages_are_one_too_many(self) -> None:
        prompt = [{"role": "system", "content": "Be long."}, USER]
        row = {"prompt": prompt, "chosen": [YES], "rejected": [NO], "system": "Be brief."}
        assert "field 'system'" in refusal(row)

    @pytest.mark.parametrize("tools", [[{"name": "add"}], '[{"name": "add"}]', {"name": "add"}])
    def test_tools(self, tools: Any) -> None:
        row = {"prompt": [USER], "chosen": [YES], "rejected": [NO], "tools": tools}
        assert read(row).tools == [{"name": "add"}]

    @pytest.mark.parametrize("tools", ["[", 7, [7], "[1]"])
    def test_broken_tools_are_refused(self, tools: Any) -> None:
        row = {"prompt": [USER], "chosen": [YES], "rejected": [NO], "tools": tools}
        assert "field 'tools'" in refusal(row)

    @pytest.mark.parametrize(
        ("weight", "read_as"), [(2, 2.0), ("0.5", 0.5), (None, 1.0), ("", 1.0)]
    )
    def test_weights(self, weight: Any, read_as: float) -> None:
        row = {"prompt": "p", "chosen": "c", "rejected": "r", "weight": weight}
        assert read(row).weight == read_as

    @pytest.mark.parametrize("weight", [0, 1e-50, "1e-39", -0.0])
    def test_weights_that_a_float32_cannot_tell_from_0(self, weight: Any) -> None:
        assert read({"prompt": "p", "chosen": "c", "rejected": "r", "weight": weight}).weight == 0

    @pytest.mark.parametrize(
        "weight", [-1, -1e-50, 1e39, "1e300", math.nan, math.inf, "heavy", True, [1]]
    )
    def test_weights_that_cannot_be_meant(self, weight: Any) -> None:
        row = {"prompt": "p", "chosen": "c", "rejected": "r", "weight": weight}
        assert "field 'weight'" in refusal(row)

    def test_tools_make_messages_of_texts(self) -> None:
        row = {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No.", "tools": [{"name": "f"}]}
        assert spoken(read(row)) == ([USER], YES, NO)
        assert read(row).tools == [{"name": "f"}]
        assert spoken(read({**row, "rejected": None})) == ([USER], YES, None)
        assert spoken(read({**row, "tools": []})) == (None, None, None)
        with_system = read({**row, "system": "Hm."})
        assert with_system.prompt == [{"role": "system", "content": "Hm."}, USER]

    def test_scores_of_both_answers(self) -> None:
        row = {"prompt": "p", "chosen": "c", "rejected": "r"}
        assert read({**row, "score_chosen": 9, "score_rejected": 4.5}).scores == (9.0, 4.5)
        assert read({**row, "score_chosen": 9}).scores is None


def called(call: Any) -> Any:
    """The tool calls of a prompt, as they were read."""
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    seen = {"role": "tool", "content": "2"}
    prompt = read({"prompt": [USER, turn, seen], "chosen": [YES], "rejected": [NO]}).prompt
    assert prompt is not None
    return prompt[1]["tool_calls"][0]


class TestToolCalls:
    @pytest.mark.parametrize(
        ("spelled", "read_as"),
        [
            ('{"x": 0}', {"x": 0}),
            ("{}", {}),
            ('{"x": null}', {"x": None}),
            ({"x": 0}, {"x": 0}),
            ({"x": 0, "y": None}, {"x": 0}),
            ("[1]", "[1]"),
            ("7", "7"),
            ("{x", "{x"),
            ("", ""),
            ('{"x": "\\ud800"}', '{"x": "\\ud800"}'),
            ('{"x": ' + "[" * 5000 + "]" * 5000 + "}",) * 2,
        ],
    )
    def test_arguments_are_an_object_if_they_spell_one(self, spelled: Any, read_as: Any) -> None:
        function = {"name": "f", "arguments": spelled}
        expected = {"name": "f", "arguments": read_as}
        assert called({"id": "c", "function": function}) == {"id": "c", "function": expected}
        assert called(function) == expected

    def test_answers_too(self) -> None:
        call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 0}'}}
        chosen = {"role": "assistant", "content": None, "tool_calls": [call]}
        pair = read({"prompt": "p", "chosen": [chosen], "rejected": "no"})
        assert pair.chosen is not None
        assert pair.chosen["tool_calls"][0]["function"]["arguments"] == {"x": 0}
        assert pair.chosen["content"] is None

    def test_members_that_parquet_filled_in_are_gone(self) -> None:
        function = {"name": "f", "arguments": {"x": 1, "y": None, "z": [{"a": None, "b": 2}]}}
        expected = {"name": "f", "arguments": {"x": 1, "z": [{"b": 2}]}}
        assert called({"id": None, "function": function}) == {"function": expected}

    def test_messages_without_calls_have_none(self) -> None:
        yes = {**YES, "tool_calls": None}
        pair = read({"prompt": [{**USER, "tool_calls": None}], "chosen": [yes], "rejected": [NO]})
        assert spoken(pair) == ([USER], YES, NO)

    def test_tools_lose_null_members_and_keep_null_values_of_lists(self) -> None:
        parameters = {"x": {"type": "string", "enum": ["a", None]}, "y": None}
        tool = {"name": "f", "strict": None, "parameters": parameters}
        row = {"prompt": [USER], "chosen": [YES], "rejected": [NO], "tools": [tool]}
        kept = {"x": {"type": "string", "enum": ["a", None]}}
        assert read(row).tools == [{"name": "f", "parameters": kept}]

    def test_nulls_that_somebody_wrote_stay(self) -> None:
        row = {"prompt": [USER], "chosen": [YES], "rejected": [NO]}
        spelled = '[{"name": "f", "default": null}]'
        assert read({**row, "tools": spelled}).tools == [{"name": "f", "default": None}]

    def test_deep_calls_of_scored_answers_are_read(self) -> None:
        nest: Any = "end"
        for _ in range(900):
            nest = {"a": nest}
        deep = {"role": "assistant", "content": "x", "tool_calls": [nest]}
        assert read({"prompt": "p", "answers": [[deep], "b"], "scores": [1, 2]}).chosen is not None


class TestPromptsThatTheAssistantEnds:
    @pytest.mark.parametrize(
        "values",
        [
            {"prompt": [USER, YES], "chosen": [YES], "rejected": [NO]},
            {"prompt": [USER, YES], "chosen": "Yes.", "rejected": None},
            {"prompt": [USER, YES], "answers": ["a", "b"], "scores": [1, 2]},
            {"chosen": [USER, YES, YES], "rejected": [USER, YES, NO]},
        ],
    )
    def test_they_are_refused(self, values: Values) -> None:
        message = refusal(values)
        assert "the turn before the answer is the assistant's own" in message
        assert f"field '{'prompt' if 'prompt' in values else 'chosen'}'" in message
