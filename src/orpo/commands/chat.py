"""`orpo chat`: lines are edited where a terminal can, answers shown as they are made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from orpo.commands.console import Screen, console, say
from orpo.errors import ConfigError, UserError
from orpo.evaluate.settings import Sampling
from orpo.options import argument, asked, group, option
from orpo.runs.files import ensure_reachable, short_name
from orpo.setting_types import as_mapping
from orpo.terminal import spelled_out

if TYPE_CHECKING:
    from orpo.evaluate.conversation import Chat, Side

try:
    import readline
except ImportError:  # not on Windows
    readline = None  # type: ignore[assignment]

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

HISTORY = "~/.local/state/orpo/chat_history"
_MOST = 1000
_PROMPT = "you> "
_FRAME = 7  # characters of a line that are lines and margins of the two columns
_ABOVE_AND_BELOW = 5  # lines that are not the answers'


@dataclass(frozen=True)
class Options:
    """The models and how they speak."""

    model: str = argument("MODEL", help="model folder, adapter folder or Hub id")
    beside: str | None = option(
        None,
        metavar="BASE",
        bare="",
        help="hear this model too; alone, the one that the run started from",
    )
    system: str | None = option(None, help="system prompt")
    dtype: str = option("auto", help="dtype of the weights")
    no_history: bool = option(False, help=f"do not keep what is typed in {HISTORY}")
    trust_remote_code: bool = option(False, help="allow a model's own code to run")
    chat_template_kwargs: str | None = option(
        None,
        metavar="JSON",
        help="variables for the chat template; default those of the training",
    )
    sampling: Sampling = group(Sampling, "how answers are drawn")
    json: bool = asked("json")


def run(options: Options) -> dict[str, Any]:
    """Talk until the input ends."""
    variables = as_mapping(options.chat_template_kwargs, "chat_template_kwargs")
    for name in (options.model, options.beside):
        if name:
            ensure_reachable(name)  # said before torch is loaded
    from orpo.evaluate.conversation import Chat, sides  # noqa: PLC0415 - loads torch

    how = {"dtype": options.dtype, "trust_remote_code": options.trust_remote_code}
    heard = sides(options.model, options.beside, variables, **how)
    chat = Chat(heard, options.sampling, options.system)
    typed = sys.stdin.isatty()
    if typed:
        names = " beside ".join(short_name(side.name) for side in chat.sides)
        say(f"{names}: /help lists what can be done, /exit leaves")
    columns = len(heard) > 1 and sys.stdout.isatty()
    screen = _unseen if options.json else _in_columns if columns else _streamed
    with closing(_lines(keep=not options.no_history)) as lines:
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
    rest = rest.strip()
    match word:
        case "/exit" | "/quit":
            return False
        case "/help":
            say(_HELP)
        case "/reset":
            for side in chat.sides:
                side.turns.clear()
        case "/undo":
            say(f"taken back: {chat.undo()}")
        case "/system":
            chat.system = rest or None
            say("the system prompt is another one from here on" if rest else "no system prompt")
        case "/retry":
            if chat.sampling.temperature == 0:
                say("greedy answers stay the same; --temperature draws others")
            screen(chat, chat.undo())
        case "/save":
            if not rest:
                raise ConfigError("needs the name of a file", where="/save", fix="/save FILE")
            chat.save(Path(rest).expanduser())
            say(f"saved: {rest}")
        case _ if line.startswith("/") and typed and not line.startswith("//"):
            raise ConfigError(f"there is no {word}", where="chat", fix="/help lists what there is.")
        case _:
            screen(chat, line[1:] if line.startswith("//") else line)
    return True


def _lines(*, keep: bool) -> Generator[str, None, None]:
    """The lines of stdin that hold something, without white space around them, until it ends.

    In a terminal, arrows edit them and recall earlier ones, also those of earlier chats, if they
    are kept in a file that only the user can read. What is piped in is never kept.
    """
    typed, said = sys.stdin.isatty(), list[str]()
    edited = typed and sys.stdout.isatty() and readline is not None
    state = os.environ.get("XDG_STATE_HOME")
    history = Path(state, "orpo", Path(HISTORY).name) if state else Path(HISTORY).expanduser()
    if edited:
        readline.clear_history()
        readline.set_auto_history(False)
        readline.set_history_length(_MOST)
        with suppress(OSError):
            readline.read_history_file(history if keep else os.devnull)
    read: Callable[[], str] = sys.stdin.readline
    if typed:  # where stdout goes elsewhere, the prompt is shown on stderr
        read = partial(input if edited else console.input, _PROMPT)
    try:
        while line := read() + "\n" * typed:
            line = line.strip()
            if edited and line and said[-1:] != [line]:
                readline.add_history(line)
                said.append(line)
            if line:
                yield line
    except (EOFError, KeyboardInterrupt):
        return
    finally:
        if keep and said:
            with suppress(OSError):  # a disk that cannot is no reason to fail
                history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(history, os.O_WRONLY | os.O_CREAT, 0o600))
                history.chmod(0o600)
                readline.append_history_file(len(said), history)


def _unseen(chat: Chat, text: str) -> None:
    chat.ask(text, lambda _side: lambda _piece: None)


def _streamed(chat: Chat, text: str) -> None:
    """The answer; of two, each under its name and followed by an empty line."""

    def begin(side: Side) -> Callable[[str], None]:
        if len(chat.sides) > 1:
            before = "" if side is chat.sides[0] else "\n\n"
            print(f"{before}[{short_name(side.name)}]")
        return partial(print, end="", flush=True)

    chat.ask(text, begin)
    print("\n" * (len(chat.sides) - 1), flush=True)


def _in_columns(chat: Chat, text: str) -> None:
    """Two columns that grow as the models answer in turn; meanwhile the last lines that fit."""
    said = {side.name: Text() for side in chat.sides}
    console = Screen(highlight=False, emoji=False)
    width, room = (console.width - _FRAME) // 2, max(1, console.height - _ABOVE_AND_BELOW)

    def drawn(*, whole: bool = False) -> Table:
        table = Table(expand=True)
        for name in said:
            table.add_column(Text(spelled_out(short_name(name))), ratio=1, overflow="fold")
        ends = (one.wrap(console, width, overflow="fold")[-room:] for one in said.values())
        table.add_row(*(said.values() if whole else (Text("\n").join(lines) for lines in ends)))
        return table

    with Live(
        drawn(),
        console=console,
        auto_refresh=False,
        redirect_stdout=False,  # rich would take escapes in it for colours
        redirect_stderr=False,
    ) as live:

        def begin(side: Side) -> Callable[[str], None]:
            def hear(piece: str) -> None:
                said[side.name].append(spelled_out(piece))
                live.update(drawn(), refresh=True)

            return hear

        try:
            chat.ask(text, begin)
        finally:
            live.update(drawn(whole=True))
