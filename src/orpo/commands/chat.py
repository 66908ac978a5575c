"""`orpo chat`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orpo.commands.chat_lines import HISTORY, Lines
from orpo.commands.chat_screen import screen_for
from orpo.commands.console import say
from orpo.commands.generate import add_sampling, add_template_kwargs, sampling, template_kwargs
from orpo.errors import ConfigError, UserError
from orpo.jobs.chat_job import ITS_BASE, Chat, ChatJob, open_chat
from orpo.runs import short_name

EXAMPLES = """\
examples:
  orpo chat run
  orpo chat run --beside                    with the model that the run started from
  orpo chat run --beside other --temperature 0.7
  orpo chat run --system "Answer in one sentence."
  echo "Which number is larger, 318 or 381?" | orpo chat run
in the chat, /help lists what can be done; Ctrl-C ends an answer"""

_HELP = """\
/system TEXT  another system prompt; without TEXT none
/undo         take the last question back
/retry        ask the last question again
/reset        forget the conversation
/save FILE    write it as JSON, a line for each model
/exit         leave
//...         say something that begins with /"""


def configure(parser: argparse.ArgumentParser) -> None:
    """The models and how they speak."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder, adapter folder or Hub id")
    add(
        "--beside",
        metavar="BASE",
        nargs="?",
        const=ITS_BASE,
        help="hear this model too; alone, the one that the run started from",
    )
    add("--system", help="system prompt")
    add("--dtype", default="auto", help="dtype of the weights")
    add(
        "--no_history",
        "--no-history",
        action="store_true",
        help=f"do not keep what is typed in {HISTORY}",
    )
    add_sampling(parser)
    add_template_kwargs(parser)


def execute(given: argparse.Namespace) -> dict[str, Any]:
    """Talk until the input ends."""
    job = ChatJob(
        given.model,
        given.beside,
        given.system,
        sampling(given),
        given.dtype,
        given.trust_remote_code,
        template_kwargs(given),
    )
    chat = open_chat(job)
    typed = sys.stdin.isatty()
    if typed:
        names = " beside ".join(short_name(side.speaker.name) for side in chat.sides)
        say(f"{names}: /help lists what can be done, /exit leaves")
    screen = screen_for(chat, silent=given.json)
    with Lines(keep=not given.no_history) as lines:
        for line in lines:
            try:
                if not _heed(chat, line, screen, typed=typed):
                    break
            except UserError as error:
                if not typed:  # nobody is there to do something about it
                    raise
                say(f"error: {error}")
            except KeyboardInterrupt:
                if not typed:
                    raise
                say("interrupted: the question is taken back")
    told = list(chat.told())
    beside = {"model": told[-1]["model"], "beside": told[0]} if len(told) > 1 else {}
    return {**beside, "messages": told[-1]["messages"]}


def _heed(chat: Chat, line: str, screen: Callable[[Chat, str], None], *, typed: bool) -> bool:
    """Do what a line says; False where it says to leave."""
    word, _, rest = line.partition(" ")
    if word in {"/exit", "/quit"}:
        return False
    if word in _COMMANDS:
        _COMMANDS[word](chat, rest.strip(), screen)
    elif line.startswith("/") and typed and not line.startswith("//"):
        raise ConfigError(f"there is no {word}", where="chat", fix="/help lists what there is.")
    else:
        screen(chat, line[1:] if line.startswith("//") else line)
    return True


def _system(chat: Chat, rest: str, _: object) -> None:
    chat.system = rest or None
    say("the system prompt is another one from here on" if rest else "no system prompt")


def _undo(chat: Chat, _rest: str, _: object) -> None:
    say(f"taken back: {chat.undo()}")


def _retry(chat: Chat, _rest: str, screen: Callable[[Chat, str], None]) -> None:
    if chat.greedy:
        say("greedy answers stay the same; --temperature draws others")
    screen(chat, chat.undo())


def _reset(chat: Chat, _rest: str, _: object) -> None:
    chat.reset()


def _save(chat: Chat, rest: str, _: object) -> None:
    if not rest:
        raise ConfigError("needs the name of a file", where="/save", fix="/save FILE")
    chat.save(Path(rest).expanduser())
    say(f"saved: {rest}")


def _help(_chat: Chat, _rest: str, _: object) -> None:
    say(_HELP)


_COMMANDS: dict[str, Callable[[Chat, str, Callable[[Chat, str], None]], None]] = {
    "/system": _system,
    "/undo": _undo,
    "/retry": _retry,
    "/reset": _reset,
    "/save": _save,
    "/help": _help,
}
