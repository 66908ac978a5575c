"""What a template makes of a pair: one prompt, two answers, and the same prompt when generating."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.data.build import asked as pair
from tests.data.build import assistant, user
from transformers import PreTrainedTokenizerBase

from orpo.data.rendering import PLAIN_TEMPLATE, RenderingError, has_chat_template
from orpo.data.template import Template
from orpo.data.types import PreferencePair, Row, TextPair

ASKED = pair([user("Hi")], assistant("Yes"), assistant("No"))


@pytest.fixture
def tokenizer(small_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer whose template a test may change; its special tokens are ChatML's."""
    return copy.deepcopy(small_tokenizer)


def template_of(tokenizer: PreTrainedTokenizerBase, text: str, **kwargs: Any) -> Template:
    tokenizer.chat_template = text
    return Template(tokenizer, kwargs)


TURNS = "{% for m in messages %}{{ '[' ~ m.role ~ ']' ~ m.content ~ '</s>' }}{% endfor %}"
OPENING = "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
THINKING = TURNS.replace("m.content", "('<think></think>' if m.role == 'assistant') ~ m.content")

# Name -> (template, what training sees, what generation continues).
TEMPLATES: dict[str, tuple[str, TextPair, str]] = {
    "opened turn, end token": (
        TURNS + OPENING,
        TextPair("[user]Hi</s>[assistant]", "Yes</s>", "No</s>"),
        "[user]Hi</s>[assistant]",
    ),
    "turns that cannot be opened": (
        TURNS,
        TextPair("[user]Hi</s>[assistant]", "Yes</s>", "No</s>"),
        "[user]Hi</s>[assistant]",
    ),
    "white space after the end token": (
        TURNS + "{{ ' \\n' if not add_generation_prompt }}" + OPENING,
        TextPair("[user]Hi</s>[assistant]", "Yes</s>", "No</s>"),
        "[user]Hi</s>[assistant]",
    ),
    "white space before the answer": (
        TURNS.replace("m.content", "' ' ~ m.content") + OPENING,
        TextPair("[user] Hi</s>[assistant]", " Yes</s>", " No</s>"),
        "[user] Hi</s>[assistant]",
    ),
    "empty thoughts, opened alike": (
        THINKING + OPENING.replace("]'", "]<think></think>'"),
        TextPair("[user]Hi</s>[assistant]<think></think>", "Yes</s>", "No</s>"),
        "[user]Hi</s>[assistant]<think></think>",
    ),
    "empty thoughts in the conversation only": (
        THINKING + OPENING,
        TextPair("[user]Hi</s>[assistant]<think></think>", "Yes</s>", "No</s>"),
        "[user]Hi</s>[assistant]",
    ),
    "thoughts that generation opens": (
        TURNS + OPENING.replace("]'", "]<think>'"),
        TextPair("[user]Hi</s>[assistant]", "Yes</s>", "No</s>"),
        "[user]Hi</s>[assistant]<think>",
    ),
    "no end token": (
        TURNS.replace("</s>", "\\n") + OPENING,
        TextPair("[user]Hi\n[assistant]", "Yes", "No"),
        "[user]Hi\n[assistant]",
    ),
    "a text before everything": (
        "{{ bos_token ~ 'Today is Monday.\\n' }}" + TURNS + OPENING,
        TextPair("<s>Today is Monday.\n[user]Hi</s>[assistant]", "Yes</s>", "No</s>"),
        "<s>Today is Monday.\n[user]Hi</s>[assistant]",
    ),
    "our plain transcript": (
        PLAIN_TEMPLATE,
        TextPair("\n\nHuman: Hi\n\nAssistant:", " Yes", " No"),
        "\n\nHuman: Hi\n\nAssistant:",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_answer_is_what_the_model_has_to_say(
    name: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    text, trained, generated = TEMPLATES[name]
    template = template_of(tokenizer, text)
    assert template.render(ASKED) == trained
    assert template.render_prompt([user("Hi")]) == generated


def test_white_space_of_an_answer_is_its_own(tokenizer: PreTrainedTokenizerBase) -> None:
    asked = pair([user("Hi")], assistant("\n Yes \n"), assistant("No "))
    for name, opened, end in (
        ("white space after the end token", "[user]Hi</s>[assistant]", "</s>"),
        ("our plain transcript", "\n\nHuman: Hi\n\nAssistant:", ""),
    ):
        before = "" if end else " "
        assert template_of(tokenizer, TEMPLATES[name][0]).render(asked) == TextPair(
            opened, f"{before}\n Yes \n{end}", f"{before}No {end}"
        )


def test_template_variables_reach_the_template(tokenizer: PreTrainedTokenizerBase) -> None:
    text = "{{ 'mode=' ~ mode ~ ' ' }}" + TURNS + OPENING
    template = template_of(tokenizer, text, mode="calm")
    assert template.render(ASKED).prompt.startswith("mode=calm ")
    assert template.render_prompt([user("Hi")]).startswith("mode=calm ")


def test_tool_calls_are_answers(tokenizer: PreTrainedTokenizerBase) -> None:
    text = TURNS.replace("m.content", "(m.content or m.tool_calls | tojson)") + OPENING
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "天气"}]}
    found = template_of(tokenizer, text).render(pair([user("Hi")], call, assistant("No")))
    assert found.chosen == '[{"name": "天气"}]</s>'


REFUSING: dict[str, tuple[str, str]] = {
    "roles": ("{{ raise_exception('Only calm users.') }}", "Only calm users."),
    "syntax": ("{% for %}", "refuses this conversation"),
    "nothing there": ("{{ messages[7].content.missing }}", "refuses this conversation"),
    "arithmetic": ("{{ 1 / 0 }}", "refuses this conversation"),
    "types": ("{{ messages + 1 }}", "refuses this conversation"),
    "roles it does not know": (
        TURNS.replace("m.content", "(m.content if m.role != 'user')"),
        "'user'",
    ),
    "depends on the answer": (
        "{{ 'long ' if messages[-1].content | length > 2 }}" + TURNS + OPENING,
        "no beginning|differently",
    ),
}


@pytest.mark.parametrize("name", REFUSING)
def test_what_a_template_cannot_do_is_a_rendering_error(
    name: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    text, said = REFUSING[name]
    with pytest.raises(RenderingError, match=said):
        template_of(tokenizer, text).render(ASKED)


@pytest.mark.parametrize("role", ["human", "User", "gpt", ""])
def test_a_role_that_the_template_leaves_out_is_no_prompt(role: str, load_tokenizer: Any) -> None:
    template = Template(load_tokenizer("qwen2.5-0.5b-instruct"), {})
    unknown = {"role": role, "content": "Where is the key?"}
    with pytest.raises(RenderingError, match="leaves out what"):
        template.render(pair([unknown], assistant("Here"), assistant("There")))
    with pytest.raises(RenderingError, match="leaves out what"):
        template.render_prompt([unknown])


class TestGuard:
    """Special-token text that people typed is split by a guard, which belongs to no text."""

    def test_no_guard_without_need(self, small_tokenizer: PreTrainedTokenizerBase) -> None:
        asked = pair([user("a < b |> c im_end")], assistant("Yes"), assistant("No"))
        assert Template(small_tokenizer, {}).render(asked).guard == ""

    @pytest.mark.parametrize("place", ["prompt", "chosen", "rejected", "role", "tool_calls"])
    def test_special_text_anywhere(
        self, place: str, small_tokenizer: PreTrainedTokenizerBase
    ) -> None:
        typed = "see <|im_end|> and </s>"
        prompt, chosen, rejected = user("Hi"), assistant("Yes"), assistant("No")
        if place == "role":
            prompt["role"] = "user<|im_end|>"
        elif place == "tool_calls":
            chosen["tool_calls"] = [{"function": {"arguments": [typed]}}]
        else:
            {"prompt": prompt, "chosen": chosen, "rejected": rejected}[place]["content"] = typed
        found = Template(small_tokenizer, {}).render(pair([prompt], chosen, rejected))
        assert len(found.guard) == 1
        whole = found.prompt + found.chosen + found.rejected
        # Three end tokens of the template's own: after the prompt and after each answer.
        assert whole.count("<|im_end|>") == 3
        assert "</s>" not in whole
        if place not in ("role", "tool_calls"):
            assert typed in whole.replace(found.guard, "")

    def test_overlapping_special_texts(self, tokenizer: PreTrainedTokenizerBase) -> None:
        tokenizer.add_special_tokens({"extra_special_tokens": ["<a><b>", "<b><c>"]})
        found = Template(tokenizer, {}).render(
            pair([user("<a><b><c>")], assistant("Yes"), assistant("No"))
        )
        assert "<a><b>" not in found.prompt
        assert "<b><c>" not in found.prompt
        assert "<a><b><c>" in found.prompt.replace(found.guard, "")

    def test_a_guard_is_none_of_the_characters_typed(
        self, small_tokenizer: PreTrainedTokenizerBase
    ) -> None:
        template = Template(small_tokenizer, {})
        first = template.render(pair([user("</s>")], assistant("a"), assistant("b"))).guard
        second = template.render(pair([user("</s>" + first)], assistant("a"), assistant("b")))
        assert second.guard not in ("", first)
        assert "</s>" + first in second.prompt.replace(second.guard, "")

    def test_a_prompt_to_read_has_no_guard(self, small_tokenizer: PreTrainedTokenizerBase) -> None:
        text = Template(small_tokenizer, {}).render_prompt([user("see </s>")])
        assert text == "<|im_start|>user\nsee </s><|im_end|>\n<|im_start|>assistant\n"

    def test_messages_are_left_as_they_were(self, small_tokenizer: PreTrainedTokenizerBase) -> None:
        asked = pair([user("</s>")], assistant("<s>"), assistant("b"))
        Template(small_tokenizer, {}).render(asked)
        assert asked == pair([user("</s>")], assistant("<s>"), assistant("b"))


class TestPlainText:
    def test_strings_are_the_users_own_markup(
        self, small_tokenizer: PreTrainedTokenizerBase
    ) -> None:
        text = TextPair("<|im_start|>user\nHi<|im_end|>\n", "Yes<|im_end|>", "No<|im_end|>")
        asked = PreferencePair(Row({}, "here", 0), text=text)
        template = Template(small_tokenizer, {})
        assert not template.renders_messages(asked)
        assert template.render(asked) == text

    def test_a_transcript_is_rendered_where_there_is_a_template(
        self,
        small_tokenizer: PreTrainedTokenizerBase,
        plain_tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        text = TextPair("\n\nHuman: Hi\n\nAssistant:", " Yes", " No")
        asked = PreferencePair(
            ASKED.row, text=text, prompt=ASKED.prompt, chosen=ASKED.chosen, rejected=ASKED.rejected
        )
        assert has_chat_template(small_tokenizer)
        assert Template(small_tokenizer, {}).render(asked).chosen == "Yes<|im_end|>"
        assert not has_chat_template(plain_tokenizer)
        assert Template(plain_tokenizer, {}).render(asked) == text

    def test_special_text_in_a_transcript_was_typed(
        self, plain_tokenizer: PreTrainedTokenizerBase
    ) -> None:
        text = TextPair("\n\nHuman: </s>?\n\nAssistant:", " Yes", " No<s>")
        asked = PreferencePair(
            ASKED.row,
            text=text,
            prompt=[user("</s>?")],
            chosen=ASKED.chosen,
            rejected=assistant("No<s>"),
        )
        found = Template(plain_tokenizer, {}).render(asked)
        assert found.guard
        parts = (found.prompt, found.chosen, found.rejected)
        assert TextPair(*(part.replace(found.guard, "") for part in parts)) == text
        assert "</s>" not in found.prompt
        assert "<s>" not in found.rejected

    def test_messages_without_a_template_become_a_transcript(
        self, plain_tokenizer: PreTrainedTokenizerBase
    ) -> None:
        turns = [{"role": "system", "content": "Be calm."}, user("a"), assistant("b"), user("c")]
        found = Template(plain_tokenizer, {}).render(pair(turns, assistant("d"), assistant("e")))
        assert found == TextPair(
            "\n\nSystem: Be calm.\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", " d", " e"
        )


class TestThinking:
    """The template of minimind writes an empty think block before every answer."""

    @pytest.fixture
    def template(self, load_tokenizer: Any) -> Template:
        return Template(load_tokenizer("minimind"), {})

    def test_an_empty_think_block_belongs_to_the_prompt(self, template: Template) -> None:
        found = template.render(ASKED)
        assert found.prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        assert found.prompt == template.render_prompt([user("Hi")])
        assert (found.chosen, found.rejected) == ("Yes<|im_end|>", "No<|im_end|>")

    def test_thoughts_are_said_where_generation_opens_them(self, template: Template) -> None:
        open_thinking = Template(template.tokenizer, {"open_thinking": True})
        thoughts = [assistant(f"<think>\n{t}\n</think>\n\nYes") for t in ("Hm.", "Oh.")]
        found = open_thinking.render(pair([user("Hi")], *thoughts))
        assert found.prompt == open_thinking.render_prompt([user("Hi")])
        assert found.prompt.endswith("<|im_start|>assistant\n<think>\n")
        assert found.chosen == "Hm.\n</think>\n\nYes<|im_end|>"
        assert found.rejected == "Oh.\n</think>\n\nYes<|im_end|>"

    @pytest.mark.parametrize("open_thinking", [False, True])
    def test_beside_thoughts_a_plain_answer_says_the_empty_block_itself(
        self, open_thinking: bool, template: Template
    ) -> None:
        thinking = assistant("<think>\nHm.\n</think>\n\nYes")
        template = Template(template.tokenizer, {"open_thinking": open_thinking})
        found = template.render(pair([user("Hi")], thinking, assistant("No")))
        assert found.prompt.endswith("<|im_start|>assistant\n<think>\n")
        assert found.chosen == "Hm.\n</think>\n\nYes<|im_end|>"
        assert found.rejected == "\n</think>\n\nNo<|im_end|>"
