"""`orpo COMMAND`: finds the command, runs it, and turns errors into one line and an exit code.

Exit codes: 0 done, 2 the user's input was wrong, 128 + N stopped by signal N after a checkpoint,
1 anything else. Nothing heavy is imported before a command is chosen.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any, NoReturn, Protocol

from orpo import __version__
from orpo.errors import ConfigError, OrpoError, RunStopped, UserError, did_you_mean
from orpo.runs.processes import LOST, launched, lost_a_rank, rank
from orpo.terminal import guarded, json_line

__all__ = ["main", "print_json", "run"]

COMMANDS = {
    "demo": "the whole story on an embedded model and data: no network, no settings",
    "train": "align a model on preference pairs",
    "data": "check, show and clean preference data: audit, show, fix",
    "evaluate": "is it better: preference, win-rate, alpaca, mt-bench, harness",
    "compare": "ORPO beside SFT and SFT+DPO, from the same start and at equal budget",
    "tune": "learning rate and lambda by short runs on held-out pairs",
    "generate": "answer prompts from a file",
    "chat": "talk to a model",
    "merge": "merge a LoRA adapter into its base model",
    "push": "put a run's model on the Hub, with a card of its real numbers",
    "serve": "hand a model over to an OpenAI-compatible server",
    "export": "write a model as GGUF, with llama.cpp's own converter",
    "report": "draw the report of a run folder",
    "convert-config": "a recipe from the settings of TRL, LLaMA-Factory, Axolotl or ms-swift",
    "bench": "speed and memory beside TRL's trainer, on the same rows",
    "doctor": "what is installed and would be chosen; or what of a run folder is sound",
}

_EXAMPLES = """\
examples:
  orpo demo
  orpo train --model Qwen/Qwen2.5-0.5B --dataset pairs.jsonl --output_dir run
  orpo train recipe.yaml --learning_rate 1e-5
  orpo chat run

`orpo COMMAND --help` shows a command's options and examples."""


_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}


class Command(Protocol):
    """What a module of a command provides; where there are actions, `ACTIONS` and examples."""

    EXAMPLES: str
    Options: type
    """A dataclass of `orpo.options`: the flags and their help are made of it."""

    def run(self, options: Any) -> Mapping[str, Any] | int | None:
        """Do it and say so; the result is what `--json` prints, or else the exit code."""


def _suggestion(name: str, known: set[str], value: str) -> str:
    """What may be meant by an option; names of settings are spelled as options."""
    from orpo.migrate.hints import suggestion  # noqa: PLC0415 - transformers comes with it

    settings = "learning_rate" in known
    if not settings:
        return did_you_mean(name, known, shown="--{}")
    found = suggestion(name, {flag.replace("-", "_") for flag in known}, value or None)
    return re.sub(r"'(\w+)'(?=.*\?$)", r"--\1", found)


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise ConfigError(message, where=self.prog, fix=f"See `{self.prog} --help`.")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """As in argparse; an option that there is not is named with what may be meant."""
        given: argparse.Namespace
        given, unknown = self.parse_known_args(args, namespace)
        self.refuse(unknown)
        return given

    def refuse(self, unknown: Sequence[str]) -> None:
        """Refuse what is left of a command line; the first option of it is spoken of.

        Raises:
            ConfigError: There is something left.
        """
        if not unknown:
            return
        flag, _, value = next((w for w in unknown if w.startswith("--")), "").partition("=")
        following = dict(pairwise(unknown)).get(flag, "")
        known = {flag[2:] for flag in self._option_string_actions if flag.startswith("--")}
        found = flag and _suggestion(flag[2:], known, value or following)
        if not found:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        raise ConfigError(f"there is no option {flag}", where=self.prog, fix=found)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    with guarded():
        try:
            return _dispatch(arguments)
        except (OrpoError, KeyboardInterrupt, BrokenPipeError) as error:
            return _explain(error)
        except Exception as error:
            if lost_a_rank(error):
                return _say_that_a_rank_is_lost(error)
            if str(error).startswith("DataLoader worker"):
                return _explain(_lost_a_worker(error))
            if isinstance(error, OSError) and (error.filename or error.errno in _OF_THE_DISK):
                return _explain_file(error)
            traceback.print_exc()
            return 1


def _explain(error: BaseException) -> int:
    """One line on stderr, and the exit code."""
    if isinstance(error, BrokenPipeError):  # the reader of stdout has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    if isinstance(error, RunStopped):
        if rank() == 0:
            print(error, file=sys.stderr)
        return 128 + error.signal_number
    speaker = f"rank {rank()}: " if rank() else ""
    print(f"{speaker}error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1


def _explain_file(error: OSError) -> int:
    """A file that cannot be read or written is no fault of the program."""
    reason = error.strerror or str(error)
    where = f"{error.filename}: " if error.filename else ""
    print(f"error: {' '.join(f'{where}{reason}'.split())}", file=sys.stderr)
    return 1 if error.errno in _OF_THE_DISK else 2


def _say_that_a_rank_is_lost(error: Exception) -> int:
    """The launcher knows which rank ended, and why; `orpo train --nproc` says it."""
    if launched():
        return LOST
    first = next(iter(str(error).splitlines()), "")
    print(f"error: rank {rank()} lost another rank, see above or below ({first})", file=sys.stderr)
    return 1


def _lost_a_worker(error: Exception) -> OrpoError:
    """A loader's process was killed, as the system does when memory runs out."""
    words = str(error).strip(" .")
    return OrpoError(
        f"a process that reads the data has ended: {words}. Go on from the last checkpoint with "
        "the same command and --resume, or with fewer dataloader_num_workers."
    )


def run() -> NoReturn:
    """The entry point of the `orpo` script."""
    sys.exit(main())


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in {"-h", "--help"}:
        print(_overview())
        return 0
    if name == "--version":
        print(f"orpo {__version__}")
        return 0
    if name not in COMMANDS:
        raise ConfigError(
            f"there is no command {name!r}",
            where="orpo",
            fix=f"Commands: {', '.join(COMMANDS)}.",
        )
    _quiet()
    command: Any = import_module(f"orpo.commands.{name.replace('-', '_')}")
    words, what, rest = name, COMMANDS[name], arguments[1:]
    if hasattr(command, "ACTIONS"):
        parser = _parser(f"orpo {name}", what, command.EXAMPLES)
        action, rest = _action(parser, command.ACTIONS, rest)
        if action is None:
            print(parser.format_help())
            return 0
        words, what = f"{name} {action}", command.ACTIONS[action]
        command = import_module(f"orpo.commands.{words.replace(' ', '_').replace('-', '_')}")
    return _run(command, _parser(f"orpo {words}", what, command.EXAMPLES), rest)


def _parser(prog: str, what: str, examples: str) -> Parser:
    parser = Parser(
        prog=prog,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def _action(
    parser: Parser, actions: Mapping[str, str], words: list[str]
) -> tuple[str | None, list[str]]:
    """Which action is asked for, and all other words; None to show what there is."""
    group = parser.add_subparsers(dest="action", metavar="ACTION", title="actions")
    for name, text in actions.items():
        group.add_parser(name, help=text)
    at = next((i for i, word in enumerate(words) if not word.startswith("-")), len(words))
    parser.parse_args(words[: at + 1])  # shows the help, or refuses what there is not
    return (words[at], words[:at] + words[at + 1 :]) if at < len(words) else (None, [])


def _run(command: Any, parser: Parser, arguments: list[str]) -> int:
    from orpo.commands.flags import add_options, options_from  # noqa: PLC0415 - not for --version

    add_options(parser, command.Options)
    own, passed_on = _parted(arguments, command)
    given = parser.parse_args(own)
    given.passed_on = passed_on
    result = command.run(options_from(given, command.Options))
    if isinstance(result, int):  # of the processes that it has started
        return result
    if given.json and result is not None:
        print_json(result)
    return 0


def _parted(arguments: list[str], command: Any) -> tuple[list[str], list[str]]:
    """A command's own arguments, and what stands after `--` for the program that it starts."""
    if not getattr(command, "PASSES_ON", False) or "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def print_json(result: Any) -> None:
    """One object on stdout; what would steer a terminal is spelled out."""
    print(json_line(result))


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()]
    return (
        "usage: orpo COMMAND [options]\n\n"
        "Odds Ratio Preference Optimization: align a language model on preference pairs,\n"
        "in one stage and without a reference model.\n\ncommands:\n"
        + "\n".join(lines)
        + "\n\noptions:\n  -h, --help    this text\n  --version     the version\n\n"
        + _EXAMPLES
    )


def _quiet() -> None:
    """Libraries keep their progress bars and advice to themselves; orpo says what matters."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # misses a kernel nobody asked for
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "0")  # see orpo.data.tokenize
