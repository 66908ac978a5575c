"""Every format becomes the same kind of pair; what is in no format is refused by name."""

import json
from shlex import quote
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.build import Values, as_row, assistant, read, refusal, said, spoken, text_of, user

from orpo.data.columns import UndecidedError, recognise
from orpo.data.reading import PairReader
from orpo.data.types import PreferencePair, TextPair
from orpo.errors import DataError

ASK, YES, NO = user("Is it?"), assistant("Yes."), assistant("No.")
BRIEF = {"role": "system", "content": "Be brief."}
PAIR = ([ASK], YES, NO)
ALONE = ([ASK], YES, None)
TEXTS = {"chosen": "It is so", "rejected": "It is not"}
GPT = [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": "Yes."}]
NAY = {"from": "gpt", "value": "No."}
HH = "\n\nHuman: a\n\nAssistant:"
TURNS = [BRIEF, ASK, assistant("What?"), user("This.")]

# Format -> rows of it, with the messages or the text that each gives.
PAIRS: dict[str, list[tuple[Values, Any]]] = {
    "prompt": [
        ({"prompt": "p ", "chosen": " c", "rejected": "r\n"}, TextPair("p ", " c", "r\n")),
        ({"prompt": "Is it?", "chosen": "Yes.", "rejected": [NO]}, PAIR),
        ({"prompt": "Is it?", "chosen": [YES], "rejected": "No."}, PAIR),
        ({"prompt": "Is it?", "chosen": [YES], "rejected": [NO]}, PAIR),
        ({"prompt": [ASK], "chosen": "Yes.", "rejected": "No."}, PAIR),
        ({"prompt": [ASK], "chosen": [YES], "rejected": [NO]}, PAIR),
        ({"prompt": "Is it?", "messages": [], "chosen": [YES], "rejected": [NO]}, PAIR),
        ({"question": "Is it?", "chosen": [YES], "rejected": [NO]}, PAIR),
        # UltraFeedback repeats the prompt in both conversations, with turns and a system message
        ({"prompt": "Is it?", "chosen": [ASK, YES], "rejected": [ASK, NO], "messages": [ASK, YES]},
         PAIR),
        ({"prompt": "Is it?", "chosen": [*TURNS, YES], "rejected": [*TURNS, NO]},
         (TURNS, YES, NO)),
        ({"prompt": TURNS, "chosen": [*TURNS, YES], "rejected": [*TURNS, NO]}, (TURNS, YES, NO)),
        ({"prompt": [ASK], "chosen": [YES], "rejected": None}, ALONE),
        ({"prompt": [ASK], "chosen": [YES]}, ALONE),
        ({"prompt": "p", "completion": "c"}, TextPair("p", "c", None)),
        *[({name: "Is it?", **TEXTS}, TextPair("Is it?", "It is so", "It is not"))
          for name in ("prompt", "question", "query", "input")],
        *[({name: "Is it?", "chosen": "c"}, TextPair("Is it?", "c", None))
          for name in ("query", "input")],
        ({"prompt": "p", "input": "x", "query": "y", **TEXTS},
         TextPair("p", "It is so", "It is not")),
    ],
    "implicit": [
        ({"chosen": [*TURNS, YES], "rejected": [*TURNS, NO]}, (TURNS, YES, NO)),
        ({"chosen": [ASK, YES], "rejected": [ASK, YES]}, ([ASK], YES, YES)),
        ({"chosen": [ASK, YES], "rejected": None}, ALONE),
        # texts part between words; white space belongs to the answer
        ({"chosen": "Q: a A: yes", "rejected": "Q: a A: yellow"},
         TextPair("Q: a A:", " yes", " yellow")),
        ({"chosen": "Q: a A: yes", "rejected": "Q: a A: yes, sir"},
         TextPair("Q: a A:", " yes", " yes, sir")),
        ({"chosen": "Q: a A:\n\nx", "rejected": "Q: a A:\n\ny"},
         TextPair("Q: a A:", "\n\nx", "\n\ny")),
        ({"chosen": "Q: a A: x", "rejected": "Q: a A:"}, TextPair("Q: a", " A: x", " A:")),
        ({"chosen": "one two", "rejected": "one two"}, TextPair("one", " two", " two")),
        ({"chosen": "one two ", "rejected": "one two x"}, TextPair("one two", " ", " x")),
        ({"chosen": "a" + " " * 10**6 + "b c", "rejected": "a" + " " * 10**6 + "b d"},
         TextPair("a" + " " * 10**6 + "b", " c", " d")),  # in no time
        # what is said about a row, or is no text, is no prompt
        *[({**TEXTS, name: "words"}, TextPair("It is", " so", " not"))
          for name in (
              "id", "prompt_id", "source", "category", "subset", "topic", "split", "lang", "meta",
              "language", "model", "chosen_model", "model_name", "score", "scores_by", "annotator",
              "metadata", "url", "date",
          )],
        *[({**TEXTS, "context": value}, TextPair("It is", " so", " not"))
          for value in (None, "", " ", 7, "0.5", ["a"], {"a": "b"}, True)],
        *[({name: "x", "chosen": [ASK, YES], "rejected": [ASK, NO]}, PAIR)
          for name in ("query", "input")],
    ],
    "hh": [
        ({"chosen": f"{HH} b", "rejected": f"{HH} c"},
         ([user("a")], assistant("b"), assistant("c"))),
        ({"chosen": f"{HH} b", "rejected": None}, ([user("a")], assistant("b"), None)),
        # an answer may quote a turn; an irregular transcript stays text
        ({"chosen": f"{HH} b", "rejected": f"{HH} c\n\nHuman: d"},
         ([user("a")], assistant("b"), assistant("c\n\nHuman: d"))),
        *[({"chosen": f"{opened} b", "rejected": f"{opened} c"}, TextPair(opened, " b", " c"))
          for opened in (f"Note.{HH}", "\n\nAssistant:")],
        *[({name: "x", "chosen": f"{HH} b", "rejected": f"{HH} c"},
           ([user("a")], assistant("b"), assistant("c"))) for name in ("query", "input")],
    ],
    "alpaca": [
        ({"instruction": "Add.", "input": "1 and 2", "chosen": "3", "rejected": "4"},
         ([user("Add.\n\n1 and 2")], assistant("3"), assistant("4"))),
        *[({"instruction": "Go.", **extra, "chosen": "3", "rejected": "4"},
           ([user("Go.")], assistant("3"), assistant("4")))
          for extra in ({}, {"input": ""}, {"input": None}, {"input": " \n"}, {"query": "x"},
                        {"history": None}, {"history": []}, {"history": ""})],
        ({"instruction": "Go.", "input": "", "output": "o"}, ([user("Go.")], assistant("o"), None)),
    ],
    "sharegpt": [
        ({"conversations": [ASK], "chosen": YES, "rejected": NO}, PAIR),
        ({"conversations": GPT[:1], "chosen": GPT[1], "rejected": NAY}, PAIR),
        ({"conversations": GPT[:1], "chosen": "Yes.", "rejected": [NAY]}, PAIR),
        ({"conversations": [{"from": "system", "value": "Be brief."}, GPT[0]],
          "chosen": GPT[1], "rejected": NAY}, ([BRIEF, ASK], YES, NO)),
        ({"conversations": [ASK], "chosen": YES}, ALONE),
        ({"conversations": GPT}, ALONE),
    ],
    "messages": [
        ({"messages": [ASK, YES], "rejected_response": "No."}, PAIR),
        ({"messages": [ASK, YES], "rejected_messages": [ASK, NO]}, PAIR),
        ({"messages": [ASK, YES]}, ALONE),
        ({"messages": [ASK, YES], "completions": []}, ALONE),
        ({"messages": [ASK, YES], "rejected_response": None}, ALONE),
    ],
    "two_messages": [
        ({"chosen_messages": [ASK, YES], "rejected_messages": [ASK, NO]}, PAIR),
        ({"chosen_messages": [ASK, YES]}, ALONE),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_rows_of_a_format(name: str) -> None:
    for values, expected in PAIRS[name]:
        for row in (values, {**values, "score_chosen": 9.5, "id": 1}):
            reader = PairReader()
            pair = reader(as_row(row))
            assert isinstance(pair, PreferencePair)
            found = pair.text if isinstance(expected, TextPair) else spoken(pair)
            assert (reader.format, found) == (name, expected), values
            assert pair.prompt is None or not isinstance(expected, TextPair)
            assert pair.has_rejected is (
                (expected.rejected if isinstance(expected, TextPair) else expected[2]) is not None
            )


HISTORY = (["What is 2+2?", "4"], ("And 3?", "5"))


def test_alpaca_and_transcripts_have_a_text_too() -> None:
    row = {"instruction": "Go.", "input": "x", "chosen": "3", "rejected": "4"}
    last = "### Instruction:\nGo.\n\n### Input:\nx\n\n### Response:\n"
    assert text_of(row) == TextPair(last, "3", "4")
    plain = "### Instruction:\nGo.\n\n### Response:\n"
    assert text_of({"instruction": "Go.", "output": "o"}) == TextPair(plain, "o", None)
    pair = read({**row, "history": list(HISTORY)})
    before = [user("What is 2+2?"), assistant("4"), user("And 3?"), assistant("5")]
    assert spoken(pair) == ([*before, user("Go.\n\nx")], assistant("3"), assistant("4"))
    earlier = "".join(f"### Instruction:\n{q}\n\n### Response:\n{a}\n\n" for q, a in HISTORY)
    assert pair.text == TextPair(earlier + last, "3", "4")
    assert text_of({"chosen": f"{HH} b", "rejected": None}) == TextPair(HH, " b", None)
    assert text_of({"chosen": f"{HH} b", "rejected": f"{HH} c\n\nHuman: d"}) == TextPair(
        HH, " b", " c\n\nHuman: d"
    )
    scored = {"instruction": "Go.", "answers": ["a", "b"], "scores": [1, 2], "history": HISTORY[:1]}
    assert read(scored).prompt == [*before[:2], user("Go.")]


GOOD: dict[str, Values] = {
    "prompt": {"prompt": "p", "chosen": "c", "rejected": "r"},
    "messages": {"prompt": [user("p")], "chosen": [assistant("c")], "rejected": [assistant("r")]},
    "implicit": {"chosen": [user("p"), assistant("c")], "rejected": [user("p"), assistant("r")]},
    "alpaca": {"instruction": "p", "input": "i", "chosen": "c", "rejected": "r"},
    "hh": {"chosen": "\n\nHuman: p\n\nAssistant: c", "rejected": "\n\nHuman: p\n\nAssistant: r"},
}
NO_TEXT: list[Any] = [
    1, 2.5, float("nan"), True, b"bytes", [], {}, ["text"], [[user("nested")]], [{"role": "user"}],
    [{"content": "no role"}], [user(None)], [user([{"type": "image", "url": "a.png"}])],
    [{"role": 1, "content": "number"}], [user("fine"), None], {"role": "user"}, "\ud800",
    "half a pair \udc00 inside", [user("\udfff")], [["x" * 10_000] * 1000],
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_values_that_are_no_text_are_refused_by_field(name: str) -> None:
    form = recognise(as_row(GOOD[name]))
    for field in GOOD[name]:
        for value in NO_TEXT:
            message = refusal({**GOOD[name], field: value}, PairReader(form))
            assert f"pairs.jsonl:7, field '{field}'" in message, value
            assert len(message) < 400
        rest = {key: value for key, value in GOOD[name].items() if key != field}
        for gone, values in (("missing", rest), ("null", {**rest, field: None})):
            if field not in {"input", "rejected"}:
                message = refusal(values, PairReader(form))
                assert message.startswith(f"pairs.jsonl:7: field '{field}' is {gone}")


NO_PROMPT = "no prompt"
TAIL = "the turn before the answer is the assistant's own"
OWN = "one assistant message"
UNPAIRED = {"prompt": "p", "completion": "c", "label": True}
BOTH = {"prompt": "p", "instruction": "i", "chosen": "c", "rejected": "r"}
CALLS = [assistant(None, tool_calls=[{"id": i}]) for i in (1, 2)]

REFUSED: list[tuple[Values, tuple[str, ...]]] = [
    # columns
    ({}, ("no column 'chosen' and no column 'rejected'; found no columns",)),
    ({"prompt": "p", "rejected": "r"}, ("no column 'chosen'; found 'prompt', 'rejected'",)),
    ({"text": "p", "label": 1}, ("'chosen'", "'rejected'", "'text'", "'label'")),
    (BOTH, ("prompt or alpaca", "--data_format=prompt")),
    ({"query": "q", "response": "c", "label": 1}, ("no column 'chosen'",)),
    ({"prompt": "p", "chosen_answer": "c", "rejected_answer": "r", "chosen_text": "a",
      "rejected_text": "b"}, ("the answers may be",)),
    # prompts and answers
    ({"prompt": [BRIEF, ASK], "chosen": [ASK, YES], "rejected": [ASK, NO]}, (OWN,)),
    ({"prompt": [ASK], "chosen": [ASK], "rejected": [NO]}, (OWN, "field 'chosen'")),
    ({"prompt": [ASK], "chosen": [YES, NO], "rejected": [NO]}, (OWN, "field 'chosen'")),
    ({"chosen": [*TURNS, YES], "rejected": [*TURNS[:2], NO, TURNS[3], NO]},
     ("found 3 (assistant, user, assistant)",)),
    ({"chosen": [ASK, CALLS[0], YES], "rejected": [ASK, CALLS[1], NO]},
     ("found 2 (assistant, assistant)",)),
    ({"chosen": [ASK, YES], "rejected": [user("x"), YES]}, (NO_PROMPT,)),
    ({"chosen": [YES], "rejected": [NO]}, (NO_PROMPT,)),
    ({"chosen": "hello", "rejected": "world"}, (NO_PROMPT,)),
    ({"chosen": "same", "rejected": "same"}, (NO_PROMPT,)),
    ({"chosen": "Q: a A: b", "rejected": None}, (NO_PROMPT,)),
    ({"prompt": [ASK, YES], "chosen": [YES], "rejected": [NO]}, (TAIL, "field 'prompt'")),
    ({"prompt": [ASK, YES], "chosen": "Yes.", "rejected": None}, (TAIL, "field 'prompt'")),
    ({"prompt": [ASK, YES], "answers": ["a", "b"], "scores": [1, 2]}, (TAIL, "field 'prompt'")),
    ({"chosen": [ASK, YES, YES], "rejected": [ASK, YES, NO]}, (TAIL, "field 'chosen'")),
    ({"messages": [ASK, assistant("Hm.")], "chosen": "c", "rejected": "r"},
     (f"field 'messages': {TAIL}",)),
    # transcripts, ShareGPT, Alpaca
    ({"chosen": "\n\nHuman: How?\n\nAssistant: So.", "rejected": "\n\nHuman: Who?\n\nAssistant: M"},
     ("do not begin with the same prompt",)),
    ({"chosen": f"{HH} b", "rejected": "just text"}, ("field 'rejected'", "not a transcript")),
    *[({"chosen": GPT[1], "rejected": NAY, "conversations": turns}, ("field 'conversations'",))
      for turns in ([{"from": "alien", "value": "?"}], [{"from": "human", "value": None}],
                    GPT[1:], [])],
    ({"conversations": GPT[:1], "chosen": {"from": "human", "value": "x"}, "rejected": NAY},
     ("field 'chosen'",)),
    *[({"instruction": "Go.", "chosen": "3", "rejected": "4", "history": history},
       ("field 'history'",))
      for history in ("a", 7, {"a": "b"}, ["a", "b"], [["a"]], [["a", "b", "c"]], [["a", None]],
                      [["a", "b"], None], [[]], [["a", "\ud800"]], [user("a"), assistant("b")])],
    # nests
    ({"prompt": "p", "chosen": [assistant(None, tool_calls=[json.loads("[" * 900 + "]" * 900)])],
      "rejected": "r"}, ("nested too deeply",)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_is_no_pair_is_refused_by_name(number: int) -> None:
    values, told = REFUSED[number]
    message = refusal(values)
    assert all(part in message for part in told), message


@pytest.mark.parametrize("on_bad_row", ["error", "drop"])
def test_columns_that_leave_it_open_stop_everybody(on_bad_row: str) -> None:
    """That is no row's fault: it is refused even where bad rows are dropped."""
    for name in ("context", "user", "text", "Prompt", "post", "instructions"):
        for value in ("Is it?", [ASK]):
            message = refusal({**TEXTS, name: value}, PairReader(on_bad_row=on_bad_row))
            assert f"field '{name}'" in message
            assert "Name the prompt's column 'prompt', or say data_format=implicit." in message
    assert "'context', 'input', 'query'" in refusal(
        {**TEXTS, "input": "a", "query": "b", "context": "c"}, PairReader(on_bad_row=on_bad_row)
    )
    assert "prompt or alpaca" in refusal(BOTH, PairReader(on_bad_row=on_bad_row))
    for label in (True, False, 1, 0, 1.0, "True", "false", "0"):
        message = refusal({**UNPAIRED, "label": label}, PairReader(on_bad_row=on_bad_row))
        assert "unpaired feedback (column 'label') is not preference pairs" in message
        assert "Pair a wanted with an unwanted completion of the same prompt." in message
    spoken_to = {"messages": [ASK, YES], "label": False}
    assert "unpaired feedback" in refusal(spoken_to, PairReader(on_bad_row=on_bad_row))
    with pytest.raises(UndecidedError):
        recognise(as_row(BOTH))


def test_who_says_the_format_gets_it() -> None:
    for name in ("context", "input"):
        pair = PairReader("implicit")(as_row({**TEXTS, name: "Is it?"}))
        assert isinstance(pair, PreferencePair)
        assert pair.text == TextPair("It is", " so", " not")
    assert isinstance(PairReader("alpaca", "drop")(as_row(BOTH)), PreferencePair)


@pytest.mark.parametrize(
    "values",
    [
        {**UNPAIRED, "label": None},
        {**UNPAIRED, "label": "sports"},
        {**GOOD["prompt"], "label": True},
        {"prompt": "p", "completion": "c", "rejected": "r", "label": 1, "chosen": "c"},
        {"prompt": "p", "answers": ["a", "b"], "scores": [1, 2], "label": True},
    ],
)
def test_other_labels_are_no_feedback(values: Values) -> None:
    assert read(values).text is not None


class TestNearMisses:
    ROW = MappingProxyType({"prompt": "p", "chosen": "c", "rejected": "r"})

    def test_an_answer_or_a_setting_is_not_lost(self) -> None:
        for meant, names in {
            "rejected": ("reject", "rejected_answer", " rejected", "Rejected", "rejetced"),
            "chosen": ("Chosen", "chosen ", "choosen", "chose"),
        }.items():
            for name in names:
                values = {**{k: v for k, v in self.ROW.items() if k != meant}, name: "x"}
                assert f"--columns {quote(f'{meant}={name}')}" in refusal(values)
        row = {"chosen": [YES], "rejected": [NO]}
        for name in ("promt", "Prompt", "prompts"):
            assert f"--columns prompt={name} if" in refusal({name: [ASK], **row})
        for name in ("System", " tools", "WEIGHT"):
            told = f"--columns {quote(f'{name.strip().lower()}={name}')}, or leave it out"
            assert told in refusal({**self.ROW, name: "2"})
        message = refusal({name.capitalize(): value for name, value in self.ROW.items()})
        assert "--columns prompt=Prompt,chosen=Chosen,rejected=Rejected if" in message

    @pytest.mark.parametrize(
        ("names", "told"),
        [
            (("question", "response_a", "response_b"), "chosen=response_a,rejected=response_b"),
            (("ask", "win", "lose"), "prompt=ask,chosen=win,rejected=lose"),
            (("one", "two", "three"), "prompt=one,chosen=two,rejected=three"),
            (("prompt", "y_w", "y_l"), "chosen=y_w,rejected=y_l"),
            (("user question", "good", "bad"), "'prompt=user question,chosen=good,rejected=bad'"),
            (
                ("a,b", "good", "bad"),
                """'{"prompt": "a,b", "chosen": "good", "rejected": "bad"}'""",
            ),
        ],
    )
    def test_other_names_are_asked_for_as_they_may_be_meant(
        self, names: tuple[str, ...], told: str
    ) -> None:
        assert f"Add --columns {told} if that is what they are." in refusal(
            dict.fromkeys(names, "x")
        )

    def test_a_row_in_place_of_a_header_is_no_list_of_names(self) -> None:
        told = refusal(dict.fromkeys((letter * 70 for letter in "abc"), "x"))
        assert "write names above: prompt,chosen,rejected" in told
        assert "--columns" not in told

    def test_what_holds_nothing_or_means_something_else_is_nobodys_business(self) -> None:
        alone = {"prompt": "p", "chosen": "c"}
        assert not read({**alone, "reject": None}).has_rejected
        assert read({**self.ROW, "selected": True, "message": "x"}).has_rejected
        assert not read({**alone, "rejected": None, "rejected_model": "x"}).has_rejected


@given(st.text(), st.text(), st.text())
def test_texts_are_cut_and_never_changed(shared: str, chosen: str, rejected: str) -> None:
    values = {"chosen": shared + chosen, "rejected": shared + rejected}
    try:
        text = read(values).text
    except DataError:
        return
    if text is not None:
        assert text.prompt + text.chosen == values["chosen"]
        assert text.prompt + (text.rejected or "") == values["rejected"]
        assert text.prompt


turns = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\n:"), min_size=1).map(str.strip),
    min_size=1,
    max_size=7,
).filter(lambda said: len(said) % 2 == 1 and all(said))


@given(turns, st.text(min_size=1), st.text(min_size=1))
def test_text_and_messages_of_one_transcript(
    questions: list[str], chosen: str, rejected: str
) -> None:
    chosen, rejected = (x.replace("\n\n", "\n") for x in (chosen, rejected))
    speakers = [("Human", user), ("Assistant", assistant)] * 4
    opened = "".join(f"\n\n{s[0]}: {q}" for s, q in zip(speakers, questions, strict=False))
    opened += "\n\nAssistant:"
    pair = read({"chosen": f"{opened} {chosen}", "rejected": f"{opened} {rejected}"})
    assert pair.text == TextPair(opened, f" {chosen}", f" {rejected}")
    assert pair.prompt == [s[1](q) for s, q in zip(speakers, questions, strict=False)]
    assert spoken(pair)[1:] == (assistant(chosen.strip()), assistant(rejected.strip()))


def test_messages_keep_what_else_they_hold() -> None:
    chosen = assistant(None, tool_calls=[{"function": {"name": "f"}}])
    assert said({"prompt": "a", "chosen": [chosen], "rejected": "no"})[1] == chosen
