"""Templates that never end, or ask for everything, end in one line, and soon."""

import copy
import resource
import signal
import threading
from typing import Any

import pytest
from tests.data.build import asked, assistant, user
from transformers import PreTrainedTokenizerBase as Tokenizer

from orpo.data import rendering
from orpo.data.lengths import LengthPolicy
from orpo.data.tokenize import PairTokenizer, answer_endings
from orpo.errors import ModelError
from orpo.evaluate.generation import encode_prompt

HI = user("Hi")
PAIR = asked([HI], assistant("a"), assistant("b"))
_MANY = "range(99999)"
_LOOPS = f"{{% for a in {_MANY} %}}{{% for b in {_MANY} %}}BODY{{% endfor %}}{{% endfor %}}"
ENDLESS = {
    "loops": _LOOPS.replace("BODY", ""),
    "loops that write": _LOOPS.replace("BODY", "x"),
    "a power, folded while it is compiled": "{{ 9 ** (9 ** 9) }}",
    "a power of what is asked": "{{ (messages | length + 8) ** (9 ** 9) }}",
    "lorem ipsum": "{{ lipsum(n=10 ** 7) }}",
}
HUGE = {
    "a string": "{{ 'a' * 10 ** 10 }}",
    "a string of what is asked": "{{ messages[0].content * 10 ** 10 }}",
    "centred": "{{ 'a' | center(10 ** 10) }}",
    "adjusted": "{{ 'a'.ljust(10 ** 10) }}",
    "formatted": "{{ '{:>9999999999}'.format('a') }}",
    "printed": "{{ '%9999999999d' % 1 }}",
    "doubled": "{% set n = namespace(s='aaaaaaaaaa') %}{% for i in range(60) %}"
    "{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "a list": "{{ ([1] * 10 ** 10) | length }}",
    "replaced": "{{ ('a' * 10 ** 6) | replace('a', 'b' * 10 ** 6) }}",
    "joined": f"{{{{ {_MANY} | join('a' * 10 ** 6) }}}}",
    "a long text that fits": "{{ 'a' * 10 ** 8 }}",
}
DEEP = {
    "a macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a loop": "{% for m in [[1]] recursive %}{{ loop([m]) }}{% endfor %}",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
}
SAID = {
    **dict.fromkeys(ENDLESS, r"takes more than|too much memory|characters"),
    **dict.fromkeys(HUGE, r"too much memory|writes 1\d\d,\d{3},\d{3} characters"),
    **dict.fromkeys(DEEP, "calls itself without end"),
}


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", SAID)
def test_what_never_ends_asks_for_everything_or_calls_itself(
    name: str, small_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in ENDLESS:  # little processor time is enough to be tried
        monkeypatch.setattr(rendering, "SECONDS", 0.2)
    bomb = with_template(small_tokenizer, {**ENDLESS, **HUGE, **DEEP}[name])
    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(ModelError, match=SAID[name]) as caught:
        PairTokenizer(bomb, LengthPolicy())(PAIR)
    assert "\n" not in str(caught.value)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    after = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)
    assert after == before


@pytest.mark.parametrize(
    "ask", [lambda bomb: encode_prompt(bomb, [HI]), answer_endings], ids=["asking", "endings"]
)
def test_whoever_renders(ask: Any, small_tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match="too much memory"):
        ask(with_template(small_tokenizer, HUGE["a string"]))


@pytest.mark.parametrize(
    "template", ["{{ ''.__class__.__mro__ }}", "{% for %}", "{{ x.y.z }}", "{{ range(10 ** 9) }}"]
)
def test_other_faults_drop_the_row_by_name(template: str, small_tokenizer: Tokenizer) -> None:
    tokenizer = with_template(small_tokenizer, template)
    assert getattr(PairTokenizer(tokenizer, LengthPolicy())(PAIR), "reason", "") == "template_error"


def test_honest_conversations_are_rendered_long_ones_and_in_threads(
    small_tokenizer: Tokenizer,
) -> None:
    turns = [HI, assistant("word " * 20_000)] * 3 + [HI]
    assert len(encode_prompt(small_tokenizer, turns)) > 50_000
    found: list[list[int]] = []
    thread = threading.Thread(target=lambda: found.append(encode_prompt(small_tokenizer, [HI])))
    thread.start()
    thread.join()
    assert found == [encode_prompt(small_tokenizer, [HI])]
