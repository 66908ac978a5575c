"""Every format becomes the same kind of pair; what is in no format is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.build import Values, as_row, assistant, read, refusal, spoken, user

from orpo.data.columns import recognise
from orpo.data.formats import to_pair
from orpo.data.types import Dropped, TextPair
from orpo.errors import DataError


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "prompt"),
        ({"prompt": "p", "chosen": [assistant("c")], "rejected": [assistant("r")]}, "prompt"),
        ({"instruction": "i", "input": "", "chosen": "c", "rejected": "r"}, "alpaca"),
        ({"instruction": "i", "chosen": "c", "rejected": "r"}, "alpaca"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nAssistant: c"}, "hh"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": None}, "hh"),
        ({"chosen": [user("a"), assistant("b")], "rejected": [user("a")]}, "implicit"),
        ({"chosen": "Q: a A: b", "rejected": "Q: a A: c"}, "implicit"),
    ],
)
def test_columns_say_the_format(columns: Values, name: str) -> None:
    assert recognise(as_row(columns)) == name
    assert recognise(as_row({**columns, "score_chosen": 9.5, "id": 1})) == name


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        ({}, ["'chosen'", "'rejected'", "no columns"]),
        ({"prompt": "p", "rejected": "r"}, ["'chosen'", "'prompt'"]),
        ({"text": "p", "label": 1}, ["'chosen'", "'rejected'", "'text'", "'label'"]),
        ({"Chosen": "c", "rejected ": "r"}, ["'chosen'", "'Chosen'", "'rejected '"]),
    ],
)
def test_missing_columns_are_named_beside_those_found(columns: Values, missing: list[str]) -> None:
    message = refusal(columns)
    assert all(name in message for name in missing)


class TestPrompt:
    def test_three_strings_stay_text(self) -> None:
        pair = read({"prompt": "p ", "chosen": " c", "rejected": "r\n"})
        assert pair.text == TextPair("p ", " c", "r\n")
        assert spoken(pair) == (None, None, None)

    @pytest.mark.parametrize("prompt", ["Why?", [user("Why?")]])
    @pytest.mark.parametrize("chosen", ["So.", [assistant("So.")]])
    @pytest.mark.parametrize("rejected", ["No.", [assistant("No.")]])
    def test_messages_on_any_side_make_a_conversation(
        self, prompt: Any, chosen: Any, rejected: Any
    ) -> None:
        pair = read({"prompt": prompt, "chosen": chosen, "rejected": rejected})
        if all(isinstance(x, str) for x in (prompt, chosen, rejected)):
            assert pair.text == TextPair("Why?", "So.", "No.")
        else:
            assert spoken(pair) == ([user("Why?")], assistant("So."), assistant("No."))

    def test_ultrafeedback_repeats_the_prompt_in_both_conversations(self) -> None:
        pair = read(
            {
                "prompt": "Why?",
                "prompt_id": "f0e3",
                "chosen": [user("Why?"), assistant("So.")],
                "rejected": [user("Why?"), assistant("No.")],
                "messages": [user("Why?"), assistant("So.")],
                "score_chosen": 8.0,
            }
        )
        assert spoken(pair) == ([user("Why?")], assistant("So."), assistant("No."))

    def test_ultrafeedback_with_system_message_and_several_turns(self) -> None:
        shared = [{"role": "system", "content": "Be brief."}, user("Why?"), assistant("Why what?")]
        shared += [user("Life.")]
        values = {
            "prompt": "Why?",
            "chosen": [*shared, assistant("42")],
            "rejected": [*shared, assistant("41")],
        }
        assert spoken(read(values)) == (shared, assistant("42"), assistant("41"))

    def test_a_prompt_list_that_both_conversations_repeat(self) -> None:
        prompt = [user("a"), assistant("b"), user("c")]
        values = {
            "prompt": prompt,
            "chosen": [*prompt, assistant("d")],
            "rejected": [*prompt, assistant("e")],
        }
        assert spoken(read(values)) == (prompt, assistant("d"), assistant("e"))

    def test_a_system_message_is_never_lost(self) -> None:
        values = {
            "prompt": [{"role": "system", "content": "Be kind."}, user("a")],
            "chosen": [user("a"), assistant("d")],
            "rejected": [user("a"), assistant("e")],
        }
        assert "one assistant message" in refusal(values)

    def test_extra_keys_of_messages_stay(self) -> None:
        chosen = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
        pair = read({"prompt": "a", "chosen": [chosen], "rejected": "no"})
        assert pair.chosen == chosen


class TestImplicit:
    def test_the_prompt_is_what_both_conversations_share(self) -> None:
        shared = [user("a"), assistant("b"), user("c")]
        pair = read({"chosen": [*shared, assistant("d")], "rejected": [*shared, assistant("e")]})
        assert spoken(pair) == (shared, assistant("d"), assistant("e"))

    def test_identical_answers_stay_answers(self) -> None:
        both = [user("a"), assistant("b")]
        assert spoken(read({"chosen": both, "rejected": both})) == (both[:1], both[1], both[1])

    def test_conversations_that_part_too_early_are_refused(self) -> None:
        chosen = [user("a"), assistant("b"), user("c"), assistant("d")]
        rejected = [user("a"), assistant("x"), user("c"), assistant("e")]
        assert "found 3 (assistant, user, assistant)" in refusal(
            {"chosen": chosen, "rejected": rejected}
        )

    def test_different_tool_calls_are_different_turns(self) -> None:
        calls = [{"role": "assistant", "content": None, "tool_calls": [{"id": i}]} for i in (1, 2)]
        values = {
            "chosen": [user("a"), calls[0], assistant("d")],
            "rejected": [user("a"), calls[1], assistant("e")],
        }
        assert "found 2 (assistant, assistant)" in refusal(values)

    @pytest.mark.parametrize(
        ("chosen", "rejected"),
        [
            ([user("a"), assistant("b")], [user("x"), assistant("b")]),
            ([assistant("b")], [assistant("c")]),
            ("hello", "world"),
            ("same", "same"),
        ],
    )
    def test_nothing_in_common_is_refused(self, chosen: Any, rejected: Any) -> None:
        assert "no prompt" in refusal({"chosen": chosen, "rejected": rejected})

    @pytest.mark.parametrize(
        ("chosen", "rejected", "expected"),
        [
            ("Q: a A: yes", "Q: a A: yellow", ("Q: a A:", " yes", " yellow")),
            ("Q: a A: yes", "Q: a A: yes, sir", ("Q: a A:", " yes", " yes, sir")),
            ("Q: a A:\n\nx", "Q: a A:\n\ny", ("Q: a A:", "\n\nx", "\n\ny")),
            ("Q: a A: x", "Q: a A:", ("Q: a", " A: x", " A:")),
            ("one two", "one two", ("one", " two", " two")),
            ("one two ", "one two x", ("one two", " ", " x")),
        ],
    )
    def test_texts_part_between_words(
        self, chosen: str, rejected: str, expected: tuple[str, str, str]
    ) -> None:
        assert read({"chosen": chosen, "rejected": rejected}).text == TextPair(*expected)

    @given(st.text(), st.text(), st.text())
    def test_texts_are_cut_and_never_changed(self, shared: str, chosen: str, rejected: str) -> None:
        values = {"chosen": shared + chosen, "rejected": shared + rejected}
        try:
            text = read({**values, "rejected": shared + rejected}).text
        except DataError:
            return
        if text is not None:
            assert text.prompt + text.chosen == values["chosen"]
            assert text.prompt + text.rejected == values["rejected"]
            assert text.prompt

    def test_long_runs_of_spaces_take_no_time(self) -> None:
        long = "a" + " " * 1_000_000 + "b "
        assert read({"chosen": long + "c", "rejected": long + "d"}).text == TextPair(
            long[:-1], " c", " d"
        )


turns = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\n:"), min_size=1).map(str.strip),
    min_size=1,
    max_size=7,
).filter(lambda said: len(said) % 2 == 1 and all(said))


def transcript(said: list[str]) -> str:
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[i % 2]}: {text}" for i, text in enumerate(said))


class TestTranscripts:
    @given(turns, st.text(min_size=1), st.text(min_size=1))
    def test_text_and_messages_of_one_transcript(
        self, said: list[str], chosen: str, rejected: str
    ) -> None:
        chosen, rejected = (x.replace("\n\n", "\n") for x in (chosen, rejected))
        opened = transcript(said) + "\n\nAssistant:"
        pair = read({"chosen": f"{opened} {chosen}", "rejected": f"{opened} {rejected}"})
        assert pair.text == TextPair(opened, f" {chosen}", f" {rejected}")
        roles = ("user", "assistant")
        expected = [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]
        assert pair.prompt == expected
        assert pair.chosen == assistant(chosen.strip())
        assert pair.rejected == assistant(rejected.strip())

    def test_real_rows_are_cut_and_never_changed(self, hh_rows: list[Values]) -> None:
        for row in hh_rows:
            pair = read(row)
            assert pair.text is not None
            assert pair.prompt is not None
            assert pair.text.prompt + pair.text.chosen == row["chosen"]
            assert pair.text.prompt + pair.text.rejected == row["rejected"]
            assert pair.text.prompt.endswith("\n\nAssistant:")
            assert [m["role"] for m in pair.prompt][-1] == "user"
            for message in pair.prompt:
                assert message["content"] in row["chosen"]

    def test_an_answer_may_quote_a_turn(self) -> None:
        opened = "\n\nHuman: a\n\nAssistant:"
        pair = read({"chosen": opened + " b", "rejected": opened + " c\n\nHuman: d"})
        assert pair.text == TextPair(opened, " b", " c\n\nHuman: d")

    def test_transcripts_with_different_prompts_are_refused(self) -> None:
        values = {
            "chosen": "\n\nHuman: How are you?\n\nAssistant: Fine.",
            "rejected": "\n\nHuman: Who?\n\nAssistant: Me.",
        }
        assert "do not begin with the same prompt" in refusal(values)

    def test_a_row_that_is_no_transcript_is_refused(self) -> None:
        values = {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "just text"}
        message = refusal(values)
        assert "field 'rejected'" in message
        assert "not a transcript" in message

    @pytest.mark.parametrize("opened", ["Note.\n\nHuman: a\n\nAssistant:", "\n\nAssistant:"])
    def test_an_irregular_transcript_stays_text(self, opened: str) -> None:
        pair = read({"chosen": opened + " b", "rejected": opened + " c"})
        assert pair.text == TextPair(opened, " b", " c")
        assert pair.prompt is None


class TestAlpaca:
    def test_instruction_and_input_in_both_forms(self) -> None:
        pair = read({"instruction": "Add.", "input": "1 and 2", "chosen": "3", "rejected": "4"})
        assert pair.text == TextPair(
            "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:\n", "3", "4"
        )
        assert spoken(pair) == ([user("Add.\n\n1 and 2")], assistant("3"), assistant("4"))

    @pytest.mark.parametrize("extra", [{}, {"input": ""}, {"input": None}, {"input": " \n"}])
    def test_without_input(self, extra: Values) -> None:
        pair = read({"instruction": "Go.", **extra, "chosen": "3", "rejected": "4"})
        assert pair.text == TextPair("### Instruction:\nGo.\n\n### Response:\n", "3", "4")
        assert pair.prompt == [user("Go.")]

    HISTORY = (["What is 2+2?", "4"], ("And 3?", "5"))

    def test_history_is_the_turns_before(self) -> None:
        row = {"instruction": "Go.", "input": "x", "chosen": "3", "rejected": "4"}
        pair = read({**row, "history": list(self.HISTORY)})
        before = [user("What is 2+2?"), assistant("4"), user("And 3?"), assistant("5")]
        assert spoken(pair) == ([*before, user("Go.\n\nx")], assistant("3"), assistant("4"))
        plain = "".join(
            f"### Instruction:\n{asked}\n\n### Response:\n{said}\n\n"
            for asked, said in self.HISTORY
        )
        last = "### Instruction:\nGo.\n\n### Input:\nx\n\n### Response:\n"
        assert pair.text == TextPair(plain + last, "3", "4")

    def test_history_of_scored_answers(self) -> None:
        row = {"instruction": "Go.", "answers": ["a", "b"], "scores": [1, 2]}
        pair = read({**row, "history": [["Hm?", "Yes."]]})
        assert pair.prompt == [user("Hm?"), assistant("Yes."), user("Go.")]

    @pytest.mark.parametrize("history", [None, [], ""])
    def test_no_history(self, history: Any) -> None:
        pair = read({"instruction": "Go.", "chosen": "3", "rejected": "4", "history": history})
        assert pair.prompt == [user("Go.")]

    @pytest.mark.parametrize(
        "history",
        [
            *("a", 7, {"a": "b"}, ["a", "b"], [["a"]], [["a", "b", "c"]], [["a", None]]),
            *([["a", "b"], None], [[]], [["a", "\ud800"]], [user("a"), assistant("b")]),
        ],
    )
    def test_another_history_is_refused(self, history: Any) -> None:
        row = {"instruction": "Go.", "chosen": "3", "rejected": "4"}
        assert "field 'history'" in refusal({**row, "history": history})

    def test_real_rows(self, alpaca_rows: list[Values]) -> None:
        for row in alpaca_rows:
            pair = read(row)
            assert pair.text is not None
            assert (pair.text.chosen, pair.text.rejected) == (row["chosen"], row["rejected"])
            assert pair.prompt is not None
            assert row["instruction"] in pair.prompt[0]["content"]
            assert row["input"] in pair.prompt[0]["content"]


GOOD: dict[str, Values] = {
    "prompt": {"prompt": "p", "chosen": "c", "rejected": "r"},
    "messages": {"prompt": [user("p")], "chosen": [assistant("c")], "rejected": [assistant("r")]},
    "implicit": {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
    "alpaca": {"instruction": "p", "input": "i", "chosen": "c", "rejected": "r"},
    "hh": {
        "chosen": "\n\nHuman: p\n\nAssistant: c",
        "rejected": "\n\nHuman: p\n\nAssistant: r",
    },
}
NO_TEXT: list[Any] = [
    1,
    2.5,
    float("nan"),
    True,
    b"bytes",
    [],
    {},
    ["text"],
    [[user("nested")]],
    [{"role": "user"}],
    [{"content": "no role"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": [{"type": "image", "url": "a.png"}]}],
    [{"role": 1, "content": "number"}],
    [user("fine"), None],
    {"role": "user"},
    "\ud800",
    "half a pair \udc00 inside",
    [user("\udfff")],
]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", NO_TEXT, ids=lambda value: ascii(value)[:40])
def test_values_that_are_no_text_are_refused_by_field(name: str, value: Any) -> None:
    read(GOOD[name])
    for field in GOOD[name]:
        row = as_row({**GOOD[name], field: value})
        with pytest.raises(DataError) as caught:
            to_pair(row, recognise(as_row(GOOD[name])))
        message = str(caught.value)
        assert "\n" not in message
        assert f"pairs.jsonl:7, field '{field}'" in message
        message.encode()


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("gone", ["missing", "null"])
def test_missing_and_null_fields_are_named(name: str, gone: str) -> None:
    for field in set(GOOD[name]) - {"input", "rejected"}:
        values = {**GOOD[name], field: None}
        if gone == "missing":
            del values[field]
        row = as_row(values)
        with pytest.raises(DataError) as caught:
            to_pair(row, recognise(as_row(GOOD[name])))
        assert str(caught.value).startswith(f"pairs.jsonl:7: field '{field}' is {gone}. ")


@pytest.mark.parametrize("answer", [[user("c")], [assistant("a"), assistant("b")]])
def test_an_answer_is_one_assistant_message(answer: list[Values]) -> None:
    message = refusal({"prompt": [user("p")], "chosen": answer, "rejected": [assistant("r")]})
    assert "field 'chosen'" in message
    assert "one assistant message" in message


def test_deep_nesting_is_refused_rather_than_followed() -> None:
    nest: Any = "end"
    for _ in range(900):
        nest = [nest]
    deep = {"role": "assistant", "content": None, "tool_calls": [nest]}
    assert "nested too deeply" in refusal({"prompt": "p", "chosen": [deep], "rejected": "r"})


def test_a_huge_wrong_value_gives_a_short_message() -> None:
    values = {"prompt": "p", "chosen": [["x" * 10_000] * 1000], "rejected": "r"}
    assert len(refusal(values)) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool", ""])},
        optional={"content": st.none() | st.text(), "tool_calls": json_values, "name": json_values},
    ),
    max_size=4,
)


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "prompt",
                "chosen",
                "rejected",
                "instruction",
                "input",
                "messages",
                "conversations",
                "rejected_response",
                "chosen_messages",
                "rejected_messages",
                "system",
                "tools",
                "weight",
                "output",
                "history",
                "query",
                "context",
                "label",
                "answers",
                "completion",
                "score_chosen",
                "score_rejected",
            ]
        ),
        json_values | messages | st.just("\n\nHuman: a\n\nAssistant: b"),
        max_size=8,
    )
)
def test_any_row_is_a_pair_or_a_named_mistake(values: Values) -> None:
    said, pair, row = "", None, as_row(values)
    try:
        pair = to_pair(row, recognise(as_row(values)))
    except DataError as error:
        said = str(error)
    if isinstance(pair, Dropped):
        assert pair.reason in {"single_answer", "tied_scores"}
        return
    if pair is None:
        assert "\n" not in said
        assert "pairs.jsonl:7" in said
    else:
        assert (pair.text is not None) or (pair.prompt and pair.chosen)
        json.dumps([pair.prompt, pair.chosen, pair.rejected])
