"""Lists of scored answers, and the columns that every format may have."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.build import Values, as_row, assistant, read, refusal, said, spoken, text_of, user

from orpo.data.columns import recognise
from orpo.data.fields import PAIR_RULES
from orpo.data.reading import PairReader
from orpo.data.types import Dropped, PreferencePair, TextPair

ASK, YES, NO = user("Is it?"), assistant("Yes."), assistant("No.")
TALK: Values = {"prompt": [ASK], "chosen": [YES], "rejected": [NO]}
TEXTS: Values = {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No."}
SYSTEM = {"role": "system", "content": "Be brief."}


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

    @pytest.mark.parametrize("name", ["prompt", "query", "input"])
    @pytest.mark.parametrize("answers", SCORED)
    def test_the_best_stands_against_the_worst(self, answers: Values, name: str) -> None:
        pair = read({name: "Is it?", **answers})
        assert pair.text == TextPair("Is it?", "Yes.", "No.")
        assert pair.scores is not None
        assert pair.scores[0] > pair.scores[1]

    def test_messages_as_answers(self) -> None:
        answers = {"messages": [ASK], "answers": [NO, YES], "scores": [1, 2]}
        assert said(answers) == ([ASK], YES, NO)
        nest: Any = "end"
        for _ in range(900):
            nest = {"a": nest}
        deep = assistant("x", tool_calls=[nest])
        assert read({"prompt": "p", "answers": [[deep], "b"], "scores": [1, 2]}).chosen is not None

    @given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.sampled_from(PAIR_RULES))
    def test_the_chosen_one_is_strictly_better(self, scores: list[int], rule: str) -> None:
        answers = [f"answer {i}" for i in range(len(scores))]
        row = as_row({"prompt": "p", "answers": answers, "scores": scores})
        found = PairReader(pair_rule=rule)(row)
        if len(set(scores)) == 1:
            assert isinstance(found, Dropped)
            assert found.reason == ("single_answer" if len(scores) == 1 else "tied_scores")
            return
        assert isinstance(found, PreferencePair)
        assert found.text is not None
        best, other = (answers.index(t or "") for t in (found.text.chosen, found.text.rejected))
        assert scores[best] == max(scores) > scores[other]
        assert found.scores == (scores[best], scores[other])
        worse = sorted(score for score in scores if score < max(scores))
        known = {"best_worst": worse[0], "best_second": worse[-1]}
        assert scores[other] == known.get(rule, scores[other])

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

    def test_an_empty_list_is_one_unless_there_is_another_format(self) -> None:
        read_on = PairReader()
        found = read_on(as_row({"prompt": "p", "answers": [], "scores": []}))
        assert isinstance(found, Dropped)
        assert found.reason == "single_answer"
        pair = read_on(as_row({"prompt": "p", "answers": ["a", "b"], "scores": [1, 2]}))
        assert isinstance(pair, PreferencePair)
        assert recognise(as_row({"prompt": "p", "responses": []})) == "answers"
        told = refusal({"prompt": "p", "answers": "a"}, PairReader("answers"))
        assert "field 'answers': expected a list of answers" in told


def test_a_system_column_opens_the_conversation() -> None:
    assert read({**TALK, "system": "Be brief."}).prompt == [SYSTEM, ASK]
    held = {**TALK, "prompt": [SYSTEM, ASK]}
    assert read({**held, "system": ""}).prompt == read(held).prompt == [SYSTEM, ASK]
    assert read({**held, "system": " Be brief.\n"}).prompt == [SYSTEM, ASK]
    assert "field 'system'" in refusal({**held, "system": "Be long."})
    both = {**TEXTS, "system": "Be brief."}
    assert text_of(both) == TextPair("Be brief.\n\nIs it?", "Yes.", "No.")
    assert said(both) == ([SYSTEM, ASK], YES, NO)


@pytest.mark.parametrize(
    ("tools", "read_as"),
    [
        *[(tools, [{"name": "add"}])
          for tools in ([{"name": "add"}], '[{"name": "add"}]', {"name": "add"})],
        (str([{"name": "add", "strict": True, "default": None}]),
         [{"name": "add", "strict": True, "default": None}]),
        # members that Parquet filled in go, values of lists and what somebody wrote stay
        ([{"name": "f", "strict": None, "parameters": {"x": {"enum": ["a", None]}, "y": None}}],
         [{"name": "f", "parameters": {"x": {"enum": ["a", None]}}}]),
        ('[{"name": "f", "default": null}]', [{"name": "f", "default": None}]),
        *[(nothing, None) for nothing in ([], "", "null", "None", None)],
    ],
)  # fmt: skip
def test_tools(tools: Any, read_as: Any) -> None:
    assert read({**TALK, "tools": tools}).tools == read_as
    # only a chat template shows tools, and it shows them with messages
    pair = read({**TEXTS, "tools": tools})
    assert spoken(pair) == (([ASK], YES, NO) if read_as else (None, None, None))
    alone = read({**TEXTS, "rejected": None, "tools": tools})
    assert spoken(alone) == (([ASK], YES, None) if read_as else (None, None, None))


@pytest.mark.parametrize("tools", ["[", 7, [7], "[1]", [{"name": "\ud800"}]])
def test_broken_tools_are_refused(tools: Any) -> None:
    assert "field 'tools'" in refusal({**TALK, "tools": tools})


@pytest.mark.parametrize(
    ("weight", "read_as"),
    [
        *[(2, 2.0), ("0.5", 0.5), (None, 1.0), ("", 1.0)],
        *[(weight, 0.0) for weight in (0, 1e-50, "1e-39", -0.0)],  # a float32 cannot tell from 0
        *[(w, None) for w in (-1, -1e-50, 1e39, "1e300", math.nan, math.inf, "heavy", True, [1])],
    ],
)
def test_weights(weight: Any, read_as: float | None) -> None:
    row = {**TEXTS, "weight": weight}
    if read_as is None:
        assert "field 'weight'" in refusal(row)
    else:
        assert read(row).weight == read_as


def test_scores_of_both_answers() -> None:
    assert read({**TEXTS, "score_chosen": 9, "score_rejected": 4.5}).scores == (9.0, 4.5)
    assert read({**TEXTS, "score_chosen": 9}).scores is None


def called(call: Any) -> Any:
    """The tool calls of a prompt, as they were read."""
    turns = [ASK, assistant("", tool_calls=[call]), {"role": "tool", "content": "2"}]
    return (read({**TALK, "prompt": turns}).prompt or [])[1]["tool_calls"][0]


@pytest.mark.parametrize(
    ("spelled", "read_as"),
    [
        ('{"x": 0}', {"x": 0}),
        ("{}", {}),
        ('{"x": null}', {"x": None}),
        ({"x": 0}, {"x": 0}),
        ({"x": 1, "y": None, "z": [{"a": None, "b": 2}]}, {"x": 1, "z": [{"b": 2}]}),
        *[(text, text) for text in ("[1]", "7", "{x", "", '{"x": "\\ud800"}')],
        ('{"x": ' + "[" * 5000 + "]" * 5000 + "}",) * 2,
    ],
)
def test_arguments_are_an_object_if_they_spell_one(spelled: Any, read_as: Any) -> None:
    function = {"name": "f", "arguments": spelled}
    expected = {"name": "f", "arguments": read_as}
    assert called({"id": "c", "function": function}) == {"id": "c", "function": expected}
    assert called({"id": None, "function": function}) == {"function": expected}
    assert called(function) == expected
    chosen = assistant(None, tool_calls=[{"function": function}])
    answer = read({**TALK, "chosen": [chosen]}).chosen
    assert answer == assistant(None, tool_calls=[{"function": expected}])


def test_messages_without_calls_have_none() -> None:
    ask, yes = {**ASK, "tool_calls": None}, {**YES, "tool_calls": None}
    assert said({**TALK, "prompt": [ask], "chosen": [yes]}) == ([ASK], YES, NO)


@pytest.mark.parametrize("speaker", ["function_call", "Function_Call", " FUNCTION_CALL"])
def test_a_function_call_is_a_tool_call(speaker: str) -> None:
    spelled = '{"name": "add", "arguments": {"a": 1}}'
    call, seen = {"from": speaker, "value": spelled}, {"from": "observation", "value": "2"}
    sharegpt = {"conversations": [ASK, call, seen], "chosen": YES, "rejected": NO}
    turns = [ASK, {"role": speaker, "content": spelled}, {"role": "observation", "content": "2"}]
    for values in (sharegpt, {"messages": turns, "chosen": "Yes.", "rejected": "No."}):
        prompt = read(values).prompt or []
        assert prompt[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
        assert prompt[2] == {"role": "tool", "content": "2"}


def test_calls_that_are_spelled_as_text() -> None:
    """In JSON or as Python prints them; what spells no call stays what was said."""
    call = {"name": "f", "arguments": {"a": -1, "b": None, "c": True}}
    for spelled in ('[{"name": "f", "arguments": {"a": -1, "b": null, "c": true}}]', str(call)):
        chosen = assistant("Look:", tool_calls=spelled)
        answer = read({**TALK, "chosen": [chosen]}).chosen or {}
        assert answer["tool_calls"] == [{"name": "f", "arguments": {"a": -1, "c": True}}]
    assert read({**TALK, "chosen": [assistant("Yes.", tool_calls=" ")]}).chosen == YES
    said = [ASK, {"role": "function_call", "content": "call me"}, {"role": "tool", "content": "2"}]
    assert (read({**TALK, "prompt": said}).prompt or [])[1] == assistant("call me")
