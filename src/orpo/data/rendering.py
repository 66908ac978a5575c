"""One call of the tokenizer's chat template, which is somebody else's program.

It may loop for ever, call itself for ever or ask for 10 GB: a signal of the processor's clock (in
the main thread) and a limit of the address space (where there are such) end that. Setting both
costs a fifth of a rendering, so `together` sets them once for a batch of pairs.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from orpo.data.types import Message, Messages
from orpo.errors import ModelError

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '\\n\\nHuman: ' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}{{ '\\n\\nAssistant: ' + message['content'] }}"
    "{% else %}{{ '\\n\\nSystem: ' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
)
"""For messages with a tokenizer that has no chat template: the transcript style of HH-RLHF."""

THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold what was thought before the answer; the first is what most
templates read, and gpt-oss reads the last."""

SECONDS = 5.0
"""Processor time of one conversation; one of a thousand turns takes some hundredths of a second."""

Tools: TypeAlias = Sequence[Any] | None

_SHOWN = 300  # characters of what a template complains of
_LONGEST = 1_000_000  # characters that a template may write of its own
_TIMES = 20  # that it may say what it was given
_ROOM = 512 * 2**20  # bytes beyond what the process has
_AGAIN = 0.5  # seconds until the signal comes again, where something swallowed the first
_FRESH = 16  # conversations until the room is reckoned anew: they leave something behind


class RenderingError(ValueError):
    """A conversation that the template refuses or spoils; `reason` is what a row is dropped as."""

    def __init__(self, said: str, reason: str = "template_error") -> None:
        super().__init__(said)
        self.reason = reason


class _TooMuch(BaseException):  # a template engine tries things and goes on after an `Exception`
    """What runs within `bounded` took too long."""


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer brings a chat template of its own (or was given one)."""
    return bool(getattr(tokenizer, "chat_template", None))


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    tools: Tools,
    variables: Mapping[str, Any],
    *,
    opening: bool,
) -> str:
    """The text of a conversation."""
    given = []  # with the thoughts under every name that a template may read
    for message in messages:
        thought = thoughts_of(message)
        given.append({**(dict.fromkeys(THOUGHTS, thought) if thought else {}), **message})
    try:
        with bounded(tokenizer):
            text = tokenizer.apply_chat_template(
                given,
                chat_template=None if has_chat_template(tokenizer) else PLAIN_TEMPLATE,
                tools=None if tools is None else list(tools),
                tokenize=False,
                add_generation_prompt=opening,
                **variables,
            )
    except (ModelError, ImportError):
        raise
    except Exception as error:  # whatever somebody else's program brings about
        said = " ".join(str(error).split())[:_SHOWN]
        raise RenderingError(f"the chat template refuses this conversation: {said}") from error
    if len(text) > _LONGEST and len(text) > _LONGEST + _TIMES * len(str((given, tools))):
        raise _unusable(tokenizer, f"writes {len(text):,} characters for one conversation")
    return str(text)


@contextmanager
def bounded(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Limit what is done within for one conversation; once, however often it is entered."""
    try:
        if _limits.within:
            yield
            return
        with together(), _limits.one():
            yield
    except _TooMuch:
        raise _unusable(tokenizer, f"takes more than {SECONDS:g} s for one conversation") from None
    except MemoryError:
        raise _unusable(tokenizer, "asks for too much memory for one conversation") from None
    except RecursionError:
        raise _unusable(tokenizer, "calls itself without end") from None


@contextmanager
def together() -> Iterator[None]:
    """Set up once what `bounded` needs for each of many conversations."""
    if _limits.ready:
        yield
        return
    clock = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    handler = signal.signal(signal.SIGVTALRM, _stop) if clock else None
    memory = None
    if resource is not None:
        memory = resource.getrlimit(resource.RLIMIT_AS)
    _limits.ready, _limits.clock, _limits.memory, _limits.passed = True, clock, memory, 0
    try:
        yield
    finally:
        _limits.ready = False
        if clock:
            signal.signal(signal.SIGVTALRM, handler)
        if memory is not None:
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_AS, memory)


class _Limits(threading.local):
    """What is limited in this thread."""

    ready = False  # whether `together` is entered
    within = False  # whether a conversation is being rendered
    clock = False  # whether the clock can stop it
    memory: tuple[int, int] | None = None  # the limit as it was; None where there is none to set
    passed = 0  # conversations since `together` was entered

    @contextmanager
    def one(self) -> Iterator[None]:
        """Limit what is done within for one conversation."""
        self.within = True
        if self.memory is not None and self.passed % _FRESH == 0:
            _limit_memory(self.memory)
        self.passed += 1
        if self.clock:
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, _AGAIN)
        try:
            yield
        finally:
            if self.clock:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            self.within = False


_limits = _Limits()


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _TooMuch


def _limit_memory(before: tuple[int, int]) -> None:
    """Leave `_ROOM` beyond what the process has mapped, where that is less than it may have."""
    mapped = 0  # where the system does not say
    with (
        suppress(OSError, ValueError, IndexError),
        open("/proc/self/statm", "rb", buffering=0) as file,  # noqa: PTH123 - often
    ):
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    bounds = [bound for bound in before if bound >= 0]  # below 0 it is none
    fits = bool(mapped) and not any(mapped + _ROOM > bound for bound in bounds)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (mapped + _ROOM, before[1]) if fits else before)


def _unusable(tokenizer: PreTrainedTokenizerBase, what: str) -> ModelError:
    what = f"the chat template {what}"
    fix = "Give another one with --chat_template FILE."
    return ModelError(what, where=str(tokenizer.name_or_path or "tokenizer"), fix=fix)


def thoughts_of(message: Message) -> str:
    """What a message says was thought, in a field of its own; empty if there is none."""
    found = next((message[name] for name in THOUGHTS if message.get(name)), "")
    return found if isinstance(found, str) else ""
