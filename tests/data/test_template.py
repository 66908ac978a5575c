"""What a template makes of a pair: one prompt, two answers, and the same prompt when generating."""

import copy
from typing import Any

import pytest
from tests.conftest import make_tokenizer
from tests.data.build import Values, as_row, asked, assistant, user
from tests.templates import KINDS
from transformers import PreTrainedTokenizerBase as Tokenizer

from orpo.audit.run import AuditPlan, audit_rows
from orpo.data.asked import CHANGES, advice, told_of_changes
from orpo.data.lengths import LengthPolicy
from orpo.data.rendering import PLAIN_TEMPLATE, RenderingError
from orpo.data.template import Template
from orpo.data.tokenize import PairTokenizer
from orpo.data.types import Dropped, Ledger, PreferencePair, Row, TextPair

ASKED = asked([user("Hi")], assistant("Yes"), assistant("No"))


def tokenizer_with(template: str) -> Tokenizer:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def template_of(text: str, **kwargs: Any) -> Template:
    return Template(tokenizer_with(text), kwargs)


TURNS = "{% for m in messages %}{{ '[' ~ m.role ~ ']' ~ m.content ~ '</s>' }}{% endfor %}"
OPENING = "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
THINKING = TURNS.replace("m.content", "('<think></think>' if m.role == 'assistant') ~ m.content")
PROMPT, SAID = "[user]Hi</s>[assistant]", ("Yes</s>", "No</s>")
BLANK = TURNS + "{{ ' \\n' if not add_generation_prompt }}" + OPENING
HUMAN = "\n\nHuman: Hi\n\nAssistant:"

# Name -> (template, the prompt of training, the answers, the prompt that generation continues).
TEMPLATES: dict[str, tuple[str, str, tuple[str, str], str]] = {
    "opened turn, end token": (TURNS + OPENING, PROMPT, SAID, PROMPT),
    "turns that cannot be opened": (TURNS, PROMPT, SAID, PROMPT),
    "white space after the end token": (BLANK, PROMPT, SAID, PROMPT),
    "white space before the answer": (
        TURNS.replace("m.content", "' ' ~ m.content") + OPENING,
        *("[user] Hi</s>[assistant]", (" Yes</s>", " No</s>"), "[user] Hi</s>[assistant]"),
    ),
    "empty thoughts, opened alike": (
        THINKING + OPENING.replace("]'", "]<think></think>'"),
        *(f"{PROMPT}<think></think>", SAID, f"{PROMPT}<think></think>"),
    ),
    "empty thoughts in the conversation only": (
        THINKING + OPENING,
        *(f"{PROMPT}<think></think>", SAID, PROMPT),
    ),
    "thoughts that generation opens": (
        TURNS + OPENING.replace("]'", "]<think>'"),
        *(PROMPT, SAID, f"{PROMPT}<think>"),
    ),
    "no end token": (
        TURNS.replace("</s>", "\\n") + OPENING,
        *("[user]Hi\n[assistant]", ("Yes", "No"), "[user]Hi\n[assistant]"),
    ),
    "a text before everything": (
        "{{ bos_token ~ 'Today is Monday.\\n' }}" + TURNS + OPENING,
        *(f"<s>Today is Monday.\n{PROMPT}", SAID, f"<s>Today is Monday.\n{PROMPT}"),
    ),
    "our plain transcript": (PLAIN_TEMPLATE, HUMAN, (" Yes", " No"), HUMAN),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_answer_is_what_the_model_has_to_say(name: str) -> None:
    text, prompt, answers, generated = TEMPLATES[name]
    template = template_of(text)
    assert template.render(ASKED) == TextPair(prompt, *answers)
    assert template.render_prompt([user("Hi")]) == generated


def test_what_reaches_and_leaves_the_template() -> None:
    """White space of an answer is its own, variables reach the template, calls are answers."""
    spaced = asked([user("Hi")], assistant("\n Yes \n"), assistant("No "))
    expected = TextPair(PROMPT, "\n Yes \n</s>", "No </s>")
    assert template_of(BLANK).render(spaced) == expected
    expected = TextPair(HUMAN, " \n Yes \n", " No ")
    assert template_of(PLAIN_TEMPLATE).render(spaced) == expected
    moody = template_of("{{ 'mode=' ~ mode ~ ' ' }}" + TURNS + OPENING, mode="calm")
    assert moody.render(ASKED).prompt == moody.render_prompt([user("Hi")]) == f"mode=calm {PROMPT}"
    calling = template_of(TURNS.replace("m.content", "(m.content or m.tool_calls | tojson)"))
    call = assistant(None, tool_calls=[{"name": "天气"}])
    found = calling.render(asked([user("Hi")], call, assistant("No")))
    assert found.chosen == '[{"name": "天气"}]</s>'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ raise_exception('Only calm users.') }}", "Only calm users."),
        *[
            (text, "refuses this conversation")
            for text in ("{% for %}", "{{ messages[7].content.x }}", "{{ 1 / 0 }}", "{{ [] + 1 }}")
        ],
        (TURNS.replace("m.content", "(m.content if m.role != 'user')"), "'user'"),
        (
            "{{ 'long ' if messages[-1].content | length > 2 }}" + TURNS + OPENING,
            "no beginning|differently",
        ),
    ],
)
def test_what_a_template_cannot_do_is_a_rendering_error(text: str, said: str) -> None:
    with pytest.raises(RenderingError, match=said):
        template_of(text).render(ASKED)


def test_a_role_that_the_template_leaves_out_is_no_prompt(load_tokenizer: Any) -> None:
    template = Template(load_tokenizer("qwen2.5-0.5b-instruct"), {})
    for role in ("human", "User", "gpt", ""):
        unknown = {"role": role, "content": "Where is the key?"}
        with pytest.raises(RenderingError, match="leaves out what"):
            template.render(asked([unknown], assistant("Here"), assistant("There")))
        with pytest.raises(RenderingError, match="leaves out what"):
            template.render_prompt([unknown])


class TestGuard:
    """Special-token text that people typed is split by a guard, which belongs to no text."""

    @pytest.mark.parametrize("place", ["prompt", "chosen", "rejected", "role", "tool_calls"])
    def test_special_text_anywhere(self, place: str, small_tokenizer: Tokenizer) -> None:
        typed = "see <|im_end|> and </s>"
        prompt, chosen, rejected = user("Hi"), assistant("Yes"), assistant("No")
        if place == "role":
            prompt["role"] = "user<|im_end|>"
        elif place == "tool_calls":
            chosen["tool_calls"] = [{"function": {"arguments": [typed]}}]
        else:
            {"prompt": prompt, "chosen": chosen, "rejected": rejected}[place]["content"] = typed
        pair = asked([prompt], chosen, rejected)
        before = copy.deepcopy(pair)
        found = Template(small_tokenizer, {}).render(pair)
        assert pair == before
        assert len(found.guard) == 1
        whole = f"{found.prompt}{found.chosen}{found.rejected}"
        # Three end tokens of the template's own: after the prompt and after each answer.
        assert whole.count("<|im_end|>") == 3
        assert "</s>" not in whole
        assert place in ("role", "tool_calls") or typed in (
            f"{found.prompt}{found.chosen}{found.rejected}".replace(found.guard, "")
        )

    def test_which_guard(self) -> None:
        tokenizer = make_tokenizer()
        tokenizer.add_special_tokens({"extra_special_tokens": ["<a><b>", "<b><c>", "</s>"]})
        template = Template(tokenizer, {})

        def rendered(typed: str) -> TextPair:
            return template.render(asked([user(typed)], assistant("Yes"), assistant("No")))

        assert rendered("a < b |> c im_end").guard == ""  # without need
        overlapping = rendered("<a><b><c>")
        assert "<a><b>" not in overlapping.prompt
        assert "<b><c>" not in overlapping.prompt
        assert "<a><b><c>" in overlapping.prompt.replace(overlapping.guard, "")
        first = rendered("</s>").guard
        second = rendered("</s>" + first)  # it is none of the characters typed
        assert second.guard not in ("", first)
        assert "</s>" + first in second.prompt.replace(second.guard, "")
        with pytest.raises(RenderingError, match="beside every guard character"):
            rendered("</s>\ue0f0\ue0f1\ue0f2\ue0f3")
        read = template.render_prompt([user("see </s>")])  # a prompt to read has none
        assert read == "<|im_start|>user\nsee </s><|im_end|>\n<|im_start|>assistant\n"


def test_plain_text(small_tokenizer: Tokenizer, plain_tokenizer: Tokenizer) -> None:
    chat, plain = Template(small_tokenizer, {}), Template(plain_tokenizer, {})
    markup = TextPair("<|im_start|>user\nHi<|im_end|>\n", "Yes<|im_end|>", "No<|im_end|>")
    meant = PreferencePair(as_row({}), text=markup)  # strings are the user's own markup
    assert not chat.renders_messages(meant)
    assert chat.render(meant) == markup
    for typed, worse in (
        ("Hi", " No"),
        ("</s>?", " No<s>"),
    ):  # a transcript is rendered where there is a template
        text = TextPair(f"\n\nHuman: {typed}\n\nAssistant:", " Yes", worse)
        pair = PreferencePair(ASKED.row, text, [user(typed)], ASKED.chosen, ASKED.rejected)
        assert chat.render(pair).chosen == "Yes<|im_end|>"
        found = plain.render(pair)
        assert bool(found.guard) is (typed != "Hi")
        assert "</s>" not in found.prompt
        parts = (found.prompt, found.chosen, found.rejected or "")
        assert TextPair(*(part.replace(found.guard, "") for part in parts)) == text
    turns = [{"role": "system", "content": "Be calm."}, user("a"), assistant("b"), user("c")]
    assert plain.render(asked(turns, assistant("d"), assistant("e"))) == TextPair(
        "\n\nSystem: Be calm.\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " d", " e"
    )


def test_thoughts_with_a_template_that_writes_empty_ones(load_tokenizer: Any) -> None:
    """The template of minimind writes an empty think block before every answer."""
    template = Template(load_tokenizer("minimind"), {})
    found = template.render(ASKED)  # the block belongs to the prompt
    assert found.prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert found.prompt == template.render_prompt([user("Hi")])
    assert (found.chosen, found.rejected) == ("Yes<|im_end|>", "No<|im_end|>")
    thoughts = [assistant(f"<think>\n{t}\n</think>\n\nYes") for t in ("Hm.", "Oh.")]
    opened = template.told({"open_thinking": True})
    found = opened.render(asked([user("Hi")], *thoughts))  # said where generation opens them
    assert found.prompt == opened.render_prompt([user("Hi")])
    assert found.prompt.endswith("<|im_start|>assistant\n<think>\n")
    assert found.chosen == "Hm.\n</think>\n\nYes<|im_end|>"
    assert found.rejected == "Oh.\n</think>\n\nYes<|im_end|>"
    for one in (template, opened):  # beside thoughts a plain answer says the empty block itself
        found = one.render(asked([user("Hi")], thoughts[0], assistant("No")))
        assert found.prompt.endswith("<|im_start|>assistant\n<think>\n")
        assert found.chosen == "Hm.\n</think>\n\nYes<|im_end|>"
        assert found.rejected == "\n</think>\n\nNo<|im_end|>"


CHATML = KINDS["chatml"]
THOUGHT = "<think>\nadd them\n</think>\n\n5 apples"
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
SWITCHED = CHATML.replace("m.content", "(m.content if keep_thinking else m.content.split('>')[-1])")
LOWER = CHATML.replace("m.content", "(m.content | lower if m.role != 'user' else m.content)")

# What a template drops of an answer or changes in it.
CASES: list[tuple[str, Values, tuple[str, ...]]] = [
    (CHATML, assistant("Yes", reasoning_content="because"), ("reasoning_dropped",)),
    (CHATML, assistant("Yes", thinking="so"), ("reasoning_dropped",)),
    (CHATML, assistant(THOUGHT), ()),
    (KINDS["r1"], assistant(THOUGHT), ("thoughts_dropped",)),
    (KINDS["deepseek-v3"], assistant(THOUGHT), ("thoughts_dropped",)),
    (KINDS["qwen3"], assistant("Yes", reasoning="because"), ()),
    (KINDS["qwen3"], assistant(THOUGHT), ()),
    (KINDS["llama-2"], assistant("  Yes \n"), ()),
    (LOWER, assistant("YES"), ("text_changed",)),
    (CHATML.replace("m.content", "m.content[:9]"), assistant("0123456789"), ("text_changed",)),
    (CHATML.replace("m.content", "m.content | e"), assistant("a < b"), ("text_changed",)),
    (CHATML, assistant("Look:", tool_calls=[CALL]), ("tool_calls_dropped",)),
    (KINDS["qwen3"], assistant("Look:", tool_calls=[CALL]), ()),
    (CHATML, assistant("a <|im_end|> b"), ()),
]


def outcome(template: str, chosen: Values, rejected: Values) -> Any:
    tokenize = PairTokenizer(tokenizer_with(template), LengthPolicy(None))
    return tokenize(asked([user("Hi?")], chosen, rejected))


@pytest.mark.parametrize("number", range(len(CASES)))
def test_what_became_of_an_answer(number: int) -> None:
    template, chosen, lost = CASES[number]
    found = outcome(template, chosen, assistant("No"))
    assert found.lost == lost
    ledger = Ledger()
    ledger.count(found)
    assert ledger.changed == dict.fromkeys(lost, 1)
    assert Ledger.from_dict(ledger.as_dict()) == ledger
    assert all(name in ledger.summary() for name in lost)


BLOCKS = [assistant(f"<think>\n{word}\n</think>\n\n5") for word in "ab"]
ONLY = assistant("<think>\nonly this\n</think>")


@pytest.mark.parametrize(
    ("template", "chosen", "rejected", "reason"),
    [
        (KINDS["r1"], *BLOCKS, "identical_after_template"),
        (
            CHATML,
            *(assistant("5", reasoning_content=one) for one in "ab"),
            "identical_after_template",
        ),
        (CHATML, assistant("5", tool_calls=[CALL]), assistant("5"), "identical_after_template"),
        (CHATML, assistant("5"), assistant("5"), "identical_answers"),
        (CHATML, assistant("5"), assistant("5 "), ""),
        (KINDS["r1"], ONLY, assistant("No"), "empty_after_template: chosen"),
        (CHATML, assistant("Yes"), assistant("", thinking="x"), "empty_after_template: rejected"),
        (CHATML, assistant(""), assistant("No"), "empty_chosen"),
        (KINDS["qwen3"], assistant("", reasoning_content="only this"), assistant("No"), ""),
    ],
)
def test_an_answer_of_which_nothing_is_left_is_none(
    template: str, chosen: Values, rejected: Values, reason: str
) -> None:
    found = outcome(template, chosen, rejected)
    if not reason:
        assert found.lost == ()
        return
    assert isinstance(found, Dropped)
    reason, _, side = reason.partition(": ")
    assert found.reason == reason
    assert side in found.detail


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
    rows = []
    for i in range(20):
        answers = {"chosen": f"<think>{i}</think>{i} apples", "rejected": f"{i} pears"}
        said = {side: [assistant(text)] for side, text in answers.items()}
        rows.append(Row({"prompt": [user(f"{i}?")], **said}, f"x:{i}", i))
    audit = audit_rows(AuditPlan("x", tokenize=tokenize, near=False), rows)
    (finding,) = [one for one in audit.findings if one.check == "template"]
    assert (finding.verdict, finding.count) == ("stop", 20)
    assert CHANGES["thoughts_dropped"] in finding.says
    assert any("keep_thinking" in note for note in audit.notes)
    assert audit.rows.changed == {"thoughts_dropped": 20}
