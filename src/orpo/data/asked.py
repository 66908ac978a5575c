"""What a trained model is asked after: the very prompt text that its training pairs had.

Many templates open the assistant's turn with one text and write another before an answer. A run
counts after which its pairs stand, decides once how its model is asked, and leaves that with the
tokenizer: in tokenizer_config.json for our commands, and as defaults of the template's variables,
wherever they make its opening that text, for everybody else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from orpo.data.rendering import RenderingError, has_chat_template
from orpo.data.template import ANSWERED, OPENED, SHARED, Template, common_beginning
from orpo.data.types import Message, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KEY = "orpo"
_LINE = re.compile(r"\{#- orpo: what this model was trained with #\}.*?\{#- orpo: end #\}", re.S)
_RESERVED = {"messages", "tools", "documents", "add_generation_prompt"}
_USER = {"role": "user", "content": "a"}
_PROBES: tuple[Messages, ...] = (
    [_USER],
    [{"role": "system", "content": "s"}, _USER],
    [_USER, {"role": "assistant", "content": "b"}, _USER],
)
_SHOWN = 80

CHANGES = {
    "reasoning_dropped": "the reasoning in a field of its own is left out",
    "thoughts_dropped": "the <think> block in the text is left out",
    "text_changed": "the text is cut or rewritten",
    "tool_calls_dropped": "tool calls are left out",
}
"""Name of a change -> what it is."""

_A, _B = "qzx", "qzy"  # words that no template writes
_CALL = {"type": "function", "function": {"name": _A, "arguments": {"x": _B}}}
_CHANGED: dict[str, Message] = {
    "reasoning_dropped": {"role": "assistant", "content": _B, "reasoning_content": _A},
    "thoughts_dropped": {"role": "assistant", "content": f"<think>\n{_A}\n</think>\n\n{_B}"},
    "tool_calls_dropped": {"role": "assistant", "content": "", "tool_calls": [_CALL]},
}


@dataclass(frozen=True)
class Asking:
    """How a model is asked."""

    prompt: str = ""  # of `template.ANSWERED`, `OPENED`, `SHARED`; empty if no training decided it
    given: Mapping[str, Any] = field(default_factory=dict)
    """The template's variables as the user of the run gave them."""
    decided: Mapping[str, Any] = field(default_factory=dict)
    """Those that the run's data decided."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Asking:
        """What is written in a tokenizer; nothing if what is there is not ours."""
        plain = getattr(tokenizer, "init_kwargs", {}).get(_KEY)
        if not isinstance(plain, Mapping) or plain.get("prompt") not in {ANSWERED, OPENED, SHARED}:
            return cls()
        parts = (plain.get(name) for name in ("given", "decided"))
        variables = (part if isinstance(part, Mapping) else {} for part in parts)
        return cls(plain["prompt"], *({str(k): v for k, v in part.items()} for part in variables))

    @property
    def variables(self) -> dict[str, Any]:
        """Everything that the template is told."""
        return {**self.decided, **self.given}


@dataclass(frozen=True)
class Decision:
    """How the model of a run is asked, and how that came about."""

    asked: Asking
    trained_after: str  # what most pairs' answers stand after, from the question on
    opens_with: str  # what the template itself opens the turn with, told what was decided
    pairs: int  # how many have that prompt
    others: int  # how many have another one
    agrees: bool  # whether the template, with the variables decided, opens with that text
    hint: Mapping[str, Any] = field(default_factory=dict)
    """Variables with which it would, though its prompts change; empty if none do."""

    def notes(self) -> Iterator[str]:
        """What a user should know, a line each; nothing where there is but one text."""
        after = repr(self.trained_after)
        if not self.agrees:
            hint = f"; --chat_template_kwargs '{json.dumps(dict(self.hint))}' makes them one"
            yield (
                f"answers are trained after {after}, but the template opens with "
                f"{self.opens_with!r}: orpo's commands ask after the former, other programs will "
                f"not{hint if self.hint else ''}"
            )
        elif self.asked.decided:
            told = ", ".join(f"{name}={_literal(v)}" for name, v in self.asked.decided.items())
            yield (
                f"answers are trained and asked after {after}: "
                f"{told} becomes the default of the saved template"
            )
        if self.others:
            yield (
                f"{self.pairs:,} pairs are trained after {after}, as the model is asked later, "
                f"{self.others:,} after another opening: some answers think and some do not"
            )

    def as_dict(self) -> dict[str, Any]:
        """For the recipe."""
        return asdict(self)


def template_of(
    tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any] | None = None
) -> Template:
    """The tokenizer's template as its model is asked; `variables` win over what it remembers."""
    known, given = Asking.of(tokenizer), dict(variables or {})
    template = Template(tokenizer, {**known.variables, **given}, known.prompt)
    names = template.thinking_variables
    other = {k for k, v in given.items() if k in names and known.variables.get(k, ...) != v}
    return template.asking("") if other else template


def decide(
    template: Template, pairs: Mapping[str, int], given: Mapping[str, Any]
) -> Decision | None:
    """How a model is asked whose pairs were rendered with a template."""
    if not pairs or not has_chat_template(template.tokenizer):
        return None
    plain = template.asking("")
    name = max(pairs, key=lambda one: (pairs[one], one))
    prompt, extra = _meant(name)
    if prompt == ANSWERED and not _agree(plain, ANSWERED, plain):
        answered = [_opening(plain, ANSWERED, probe) for probe in _PROBES]
        for choice in template.choices:
            told = template.told(choice)
            if answered == [told.try_to_open(probe) for probe in _PROBES] and answered == [
                _opening(told, ANSWERED, probe) for probe in _PROBES
            ]:
                extra = choice
                break
    # What the pairs themselves show goes before what the user said of the template.
    own = {one: value for one, value in given.items() if one not in extra}
    earlier = {one: value for one, value in template.kwargs.items() if one not in given}
    ours = template.told(extra)
    agrees = _agree(ours, prompt, ours)
    told_so = ((choice, template.told(choice)) for choice in template.choices if not agrees)
    hint = next((choice for choice, one in told_so if _agree(one, prompt, one)), {})
    texts = {}
    for one in pairs:
        kind, variables = _meant(one)
        texts[one] = _opening(template.told(variables), kind, _PROBES[0])
    others = sum(count for one, count in pairs.items() if texts[one] != texts[name])
    return Decision(
        Asking(prompt, own, {**earlier, **extra}),
        *_ends(ours, prompt),
        pairs=sum(pairs.values()) - others,
        others=others,
        agrees=agrees,
        hint=hint,
    )


def keep_asked(tokenizer: PreTrainedTokenizerBase, asked: Asking) -> None:
    """Write a decision into a tokenizer: its settings, and the defaults of its template."""
    tokenizer.init_kwargs[_KEY] = asdict(asked)
    tokenizer.chat_template = _each(tokenizer.chat_template, lambda text: _LINE.sub("", text))
    names = {k: v for k, v in asked.variables.items() if k.isidentifier() and k not in _RESERVED}
    if not names:
        return
    before, expected = tokenizer.chat_template, _texts(Template(tokenizer, asked.variables))
    defaults = "".join(
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}"
        for name, value in names.items()
    )
    line = f"{{#- orpo: what this model was trained with #}}{defaults}{{#- orpo: end #}}"
    tokenizer.chat_template = _each(before, lambda text: line + text)
    if _texts(Template(tokenizer, {})) != expected:
        tokenizer.chat_template = before


def forget_asked(tokenizer: PreTrainedTokenizerBase) -> None:
    """Take a decision out of a tokenizer that gets another template."""
    tokenizer.init_kwargs.pop(_KEY, None)


def asked_otherwise(tokenizer: PreTrainedTokenizerBase) -> str:
    """A line where other programs open the turn otherwise than the model was trained; or empty."""
    prompt = Asking.of(tokenizer).prompt
    if not prompt or not has_chat_template(tokenizer):
        return ""
    template = template_of(tokenizer)
    if _agree(Template(tokenizer, {}), prompt, template):
        return ""
    after, opened = _ends(template, prompt)
    return f"trained after {after!r}, but the chat template opens with {opened!r}"


def _meant(name: str) -> tuple[str, dict[str, Any]]:
    """A prompt's name as `TextPair.after` has it: its kind, and the variables that open it so."""
    prompt, _, spelled = name.partition(" ")
    return prompt, json.loads(spelled) if spelled else {}


def _texts(template: Template) -> list[tuple[str | None, str | None]]:
    return [(template.try_to_open(p), _opening(template, ANSWERED, p)) for p in _PROBES]


def _agree(asking: Template, prompt: str, trained: Template) -> bool:
    """Whether one template opens by itself with the prompt text that the other trains."""
    return all(asking.try_to_open(p) == _opening(trained, prompt, p) for p in _PROBES)


def _opening(template: Template, prompt: str, probe: Messages) -> str | None:
    """The text that we ask with; None if the template does not accept the probe."""
    try:
        return template.asking(prompt).render_prompt(probe)
    except RenderingError:
        return None


def _ends(template: Template, prompt: str) -> tuple[str, str]:
    """What stands between a question and its answer, in training and by the template itself."""
    trained = _opening(template, prompt, _PROBES[0]) or ""
    opened = template.try_to_open(_PROBES[0]) or ""
    start = len(common_beginning(template.closed(_PROBES[0]), trained, opened))
    return trained[start:][:_SHOWN], opened[start:][:_SHOWN]


def _literal(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _each(template: Any, change: Callable[[str], str]) -> Any:
    """A template with its text changed, or several by name with all of theirs."""
    if isinstance(template, Mapping):
        return {name: change(text) for name, text in template.items()}
    return change(template)


def advice(template: Template, change: str) -> str:
    """What keeps what a template drops, tried out on it; empty if nothing does."""
    if change not in _CHANGED:
        return ""
    for choice in template.variants:
        if _keeps(template.told(choice), change):
            return f"--chat_template_kwargs '{json.dumps(choice)}' keeps it"
    if change == "reasoning_dropped" and _keeps(template, "thoughts_dropped"):
        return "written into the answer as <think>...</think> it is kept"
    if change == "thoughts_dropped" and _keeps(template, "reasoning_dropped"):
        return "in a field reasoning_content of the answer it is kept"
    return "no variable of the template keeps it; --chat_template FILE takes another one"


def told_of_changes(template: Template, changed: Mapping[str, int], kept: int) -> Iterator[str]:
    """A line for each kind of change, with the number of pairs and what would keep it."""
    for change, count in sorted(changed.items()):
        what = advice(template, change)
        yield (
            f"the chat template changes answers of {count:,} of {kept:,} pairs: "
            f"{CHANGES.get(change, change)}{f'; {what}' if what else ''}"
        )


def _keeps(template: Template, change: str) -> bool:
    """Whether an answer that is changed so elsewhere comes through whole."""
    try:
        text = template.closed([_USER, _CHANGED[change]])
    except RenderingError:
        return False
    return all(word in text for word in (_A, _B))
